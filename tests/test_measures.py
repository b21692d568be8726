"""Measures: closed forms, what they say of each source, and that looking changes nothing."""

import csv
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring
from safetensors.numpy import load_file
from test_loss_and_decision import DISCRETE, KEY, ready

from sharedq import recipe, resume, train
from sharedq.algorithms import DQN, Algorithm
from sharedq.analysis import MEASURES, DeadUnits, GradientAlignment, Measure, Rank, Residuals, TargetChurn
from sharedq.analysis.dead_units import dead_in
from sharedq.analysis.gradient_alignment import cosine
from sharedq.analysis.measure import UpdateInfo
from sharedq.analysis.rank import srank
from sharedq.errors import Diverged, SharedqError
from sharedq.networks import XQC, Convolutional, Dense, FlashSAC, Impala, SimbaV2
from sharedq.networks import network as networks
from sharedq.networks.critics import ensemble
from sharedq.settings import Chosen, chosen
from sharedq.targets import REDQ, IteratedNetworks, Maxmin, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.training import loop, seeds

pytestmark = pytest.mark.usefixtures("hasty")

PERIOD = 4
ALL = ("gradient_alignment", "target_churn", "rank", "dead_units")


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


class Learned(NamedTuple):
    """An algorithm before update `count`, what each measure has kept until then, and the next update."""

    algorithm: Algorithm
    kept: list
    info: UpdateInfo


def learned(name, target, kinds, updates=0) -> tuple[list[Measure], Learned]:
    algorithm, state, batch = ready(name, target)
    measures = [kind.build(algorithm, target) for kind in kinds]
    kept = [one.init(state) for one in measures]
    other = jax.tree.map(lambda x: x[::-1], batch)

    @jax.jit
    def update(state, kept, count):
        state, info, _ = algorithm.learn(state, batch, jax.random.fold_in(KEY, count), count)
        kept = [one.follow(own, state, info.for_refresh, count) for one, own in zip(measures, kept, strict=True)]
        return algorithm.refresh(state, info.for_refresh, count), kept

    for count in range(1, updates + 1):
        state, kept = update(state, kept, jnp.int32(count))
    count = jnp.int32(updates + 1)
    after, _, _ = jax.jit(algorithm.learn)(state, batch, KEY, count)
    return measures, Learned(algorithm, kept, UpdateInfo(state, after, batch, other, KEY, count))


@pytest.mark.parametrize(
    ("spectrum", "rank"),
    [([5.0], 1), ([1.0] * 10, 10), ([90.0, 9.5, 0.5], 2), ([98.9, 0.6, 0.5], 2), ([99.5, 0.3, 0.2], 1)],
)
def test_the_rank_is_the_number_of_singular_values_that_make_up_99_percent(spectrum, rank):
    rows, columns = (np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 12)))[0] for seed in (1, 2))
    size = len(spectrum)
    assert srank((rows[:, :size] * spectrum) @ columns[:size]) == rank


def test_features_that_are_not_finite_have_no_rank():
    assert np.isnan(srank(np.array([[1.0, np.nan], [np.inf, 2.0]])))


def test_features_that_are_all_alike_have_rank_one():
    assert srank(np.ones((20, 8))) == srank(np.zeros((20, 8))) == 1


def test_a_unit_is_dead_if_it_is_zero_on_every_state():
    layer = jnp.array([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 3.0, 0.0]])
    assert dead_in(layer).tolist() == [True, False, False, False]
    assert dead_in(jnp.zeros((2, 4))).all()


@pytest.mark.parametrize(
    ("settings", "shape", "layers"),
    [
        (Dense((7, 5)), (3,), [(7,), (5,)]),
        (Dense((7,), norm="batch"), (3,), [(7,)]),
        (Convolutional(filters=(2,), sizes=(3,), strides=(1,), hidden=(5,)), (6, 6, 1), [(4, 4, 2), (5,)]),
        (Impala(filters=(2,), hidden=(5,)), (4, 4, 1), [(2, 2, 2)] * 4 + [(8,), (5,)]),
        (SimbaV2(width=4, blocks=2), (3,), [(16,), (16,)]),
        (XQC(width=4, depth=2), (3,), [(4,), (4,)]),
        (FlashSAC(width=4, blocks=1), (3,), [(16,), (4,)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_networks_show_the_activations_of_each_layer(settings, shape, layers):
    network, inputs = settings.build(2), jax.random.normal(KEY, (9, *shape))
    trunk, _, stats = networks.init(network, KEY, inputs, 1)
    found = network.activations(trunk, stats, inputs, True)
    assert sorted(np.prod(layer.shape[1:]) for layer in found) == sorted(np.prod(layer) for layer in layers)
    assert all(layer.shape[0] == 9 and (layer >= 0).all() for layer in found)
    zeroed = network.activations(jax.tree.map(jnp.zeros_like, trunk), stats, inputs, True)
    assert all(dead_in(layer).all() for layer in zeroed)


def test_each_critic_shows_its_own_layers():
    network, inputs = ensemble(Dense((7, 5)).build(2), 3), jax.random.normal(KEY, (9, 4))
    trunk, _, stats = networks.init(network, KEY, inputs, 1)
    found = network.activations(trunk, stats, inputs, True)
    assert [layer.shape for layer in found] == [(9, 7)] * 3 + [(9, 5)] * 3
    alone = Dense((7, 5)).build(2).activations(jax.tree.map(lambda w: w[1], trunk), stats, inputs, True)
    np.testing.assert_allclose(found[1], alone[0], rtol=1e-5)


@pytest.mark.parametrize("updates", [0, 2, PERIOD - 1, PERIOD])
@pytest.mark.parametrize("name", ["DQN", "SAC"])
def test_a_target_network_has_no_churn_and_agrees_with_itself(name, updates):
    kinds = (TargetChurn(), GradientAlignment())
    measures, now = learned(name, TargetNetwork(period=PERIOD), kinds, updates)
    numbers = [one.at_update(own, now.info) for one, own in zip(measures, now.kept, strict=True)]
    assert numbers[0] == {"target_churn": 0, "target_churn_other": 0}
    np.testing.assert_allclose(numbers[1]["gradient_alignment"], 1, rtol=1e-5)


@pytest.mark.parametrize("target", [OnlineNetwork(), SharedHeads(heads=2, period=PERIOD)], ids=lambda one: one.label)
@pytest.mark.parametrize("name", ["DQN", "SAC"])
def test_targets_that_share_weights_with_the_network_churn(name, target):
    (measure,), now = learned(name, target, [TargetChurn()], 2)
    numbers = measure.at_update((), now.info)
    assert min(numbers.values()) > 0


def test_the_churn_of_dqn_is_that_of_the_targets_written_out():
    (measure,), now = learned("DQN", SharedHeads(heads=2, period=PERIOD), [TargetChurn()], PERIOD)
    network, sample = Dense((8,)).build(2), now.info.other.transition

    def target(agent):
        frozen = now.info.before.source["target_params"]  # no gradient step moves the frozen head, only its trunk
        features, _ = network.trunk(agent.params["trunk"], {}, sample.next_obs, False)
        return sample.reward + 0.9 * network.heads(frozen, features)[0].max(axis=-1)

    wanted = jnp.abs(target(now.info.after) - target(now.info.before)).mean()
    np.testing.assert_allclose(measure.at_update((), now.info)["target_churn_other"], wanted, rtol=1e-4)


@pytest.mark.parametrize("name", ["DQN", "SAC"])
def test_one_shared_head_and_the_target_network_agree_at_the_first_update_after_a_shift(name):
    target = SharedHeads(heads=1, period=PERIOD)
    found = {}
    for updates in (PERIOD - 1, PERIOD):  # before the last update ahead of a shift, and right after the shift
        (measure,), now = learned(name, target, [GradientAlignment()], updates)
        found[updates] = float(measure.at_update(now.kept[0], now.info)["gradient_alignment"])
    assert found[PERIOD - 1] < 0.9999
    np.testing.assert_allclose(found[PERIOD], 1, rtol=1e-5)


def test_target_free_learning_has_the_alignment_of_the_target_free_gradient():
    (measure,), now = learned("DQN", OnlineNetwork(), [GradientAlignment(period=PERIOD)], 2)
    numbers = measure.at_update(now.kept[0], now.info)
    assert numbers["gradient_alignment"] == numbers["gradient_alignment_target_free"] < 0.9999


def test_the_copy_for_several_heads_is_the_first_head_before_the_shift():
    target = SharedHeads(heads=3, period=PERIOD)
    _, now = learned("DQN", target, [GradientAlignment()], PERIOD)
    after = now.info.before  # the state right after the shift: the frozen head is what the first one was
    np.testing.assert_array_equal(flat(now.kept[0]["target_params"]["heads"]), flat(after.source["target_params"]))
    np.testing.assert_array_equal(flat(now.kept[0]["target_params"]["trunk"]), flat(after.params["trunk"]))


@pytest.mark.parametrize(
    "target",
    [SharedHeads(heads=2, period=PERIOD), IteratedNetworks(2, PERIOD, 2), REDQ(3, 2, PERIOD)],
    ids=lambda target: target.label,
)
def test_the_alignment_of_dqn_is_the_cosine_of_gradients_written_out(target):
    (measure,), now = learned("DQN", target, [GradientAlignment()], PERIOD + 1)
    agent, sample, network = now.info.before, now.info.batch.transition, Dense((8,)).build(2)
    params, _ = now.algorithm.source.first(agent.params, {})
    copy = now.kept[0]["target_params"]

    def q(weights, obs):
        return network.heads(weights["heads"], network.trunk(weights["trunk"], {}, obs, False)[0])[0]

    def loss(weights, following):
        wanted = sample.reward + 0.9 * q(following, sample.next_obs).max(axis=-1)
        return jnp.mean((q(weights, sample.obs)[jnp.arange(6), sample.action] - wanted) ** 2)

    reference, target_free = (flat(jax.grad(loss)(params, following)) for following in (copy, params))
    whole = jax.grad(lambda own: now.algorithm.loss(own, agent, now.info.batch, KEY)[0])(agent.params)
    if isinstance(target, SharedHeads):
        own = flat({"heads": jax.tree.map(lambda w: w[:1], whole["heads"]), "trunk": whole["trunk"]})
    else:
        own = flat(jax.tree.map(lambda w: w[0], whole))

    def angle(one):
        return one @ reference / np.linalg.norm(one) / np.linalg.norm(reference)

    numbers = measure.at_update(now.kept[0], now.info)
    np.testing.assert_allclose(numbers["gradient_alignment"], angle(own), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(numbers["gradient_alignment_target_free"], angle(target_free), rtol=1e-4, atol=1e-6)


def test_the_alignment_of_maxmin_is_that_of_its_first_network_whichever_learns():
    (measure,), now = learned("DQN", Maxmin(2, PERIOD), [GradientAlignment()], PERIOD + 1)
    agent, sample, found, learns = now.info.before, now.info.batch.transition, [], set()
    at_update = jax.jit(measure.at_update)
    for key in jax.random.split(KEY, 8):
        found.append(float(at_update(now.kept[0], now.info._replace(key=key))["gradient_alignment"]))
        values = now.algorithm.source.values(agent.params, agent.source, sample.obs, sample.next_obs, key)
        learns.add(int(values.weights.argmax()))
    assert learns == {0, 1}
    np.testing.assert_allclose(found, found[0], rtol=1e-6)
    assert 0 < abs(found[0]) < 0.9999
    (measure,), now = learned("DQN", Maxmin(1, PERIOD), [GradientAlignment()], PERIOD + 1)
    assert float(measure.at_update(now.kept[0], now.info)["gradient_alignment"]) == pytest.approx(1, rel=1e-5)


def test_the_alignment_of_sac_is_the_cosine_of_the_critics_gradients():
    target = SharedHeads(heads=1, period=PERIOD)
    (measure,), now = learned("SAC", target, [GradientAlignment()], PERIOD + 1)
    agent, batch = now.info.before, now.info.batch
    with_target = now.algorithm.on(TargetNetwork(PERIOD).build(now.algorithm.source.network))

    def slope(algorithm, agent):
        return flat(jax.grad(lambda params: algorithm.loss(params, agent, batch, KEY)[0])(agent.params)["critic"])

    own = slope(now.algorithm, agent)
    reference = slope(with_target, agent._replace(source={**now.kept[0], "batch_stats": {}}))
    wanted = own @ reference / np.linalg.norm(own) / np.linalg.norm(reference)
    np.testing.assert_allclose(measure.at_update(now.kept[0], now.info)["gradient_alignment"], wanted, rtol=1e-4)


def test_the_cosine_leaves_out_the_parameters_of_normalisation():
    one = {"Dense_0": jnp.array([1.0, 0.0]), "LayerNorm_0": jnp.array([5.0])}
    other = {"Dense_0": jnp.array([1.0, 1.0]), "LayerNorm_0": jnp.array([-9.0])}
    np.testing.assert_allclose(cosine(one, other), 1 / np.sqrt(2), rtol=1e-6)


def residuals_of(algorithm, target, agent, batch) -> dict[str, float]:
    measure = Residuals().build(algorithm, target)
    found = measure.summarise(jax.device_get(jax.jit(measure.at_log)(agent, batch, KEY)))
    assert list(found) == list(measure.names) == ["lookahead_residual", "replicate_residual"]
    return found


@pytest.mark.parametrize("target", [TargetNetwork(PERIOD), OnlineNetwork()], ids=lambda target: target.label)
def test_the_residuals_of_dqn_are_the_mean_squares_of_both_constraints_written_out(target):
    algorithm, agent, batch = ready("DQN", target)
    params = agent.params
    if isinstance(target, TargetNetwork):  # the copy is another network than the one that learns
        agent = agent._replace(params=jax.tree.map(lambda w: 1.5 * w + 0.1, params))
    follows = agent.source["target_params"] or agent.params
    network, sample = Dense((8,)).build(2), batch.transition

    def q(weights, obs):
        features, _ = network.trunk(weights["trunk"], {}, obs, False)
        return np.asarray(network.heads(weights["heads"], features)[0], np.float64)

    lookahead, replicate, now = [], [], q(agent.params, sample.obs)
    for row, then in enumerate(q(follows, sample.next_obs)):
        wanted = float(sample.reward[row]) + 0.9 * max(then)
        lookahead.append((now[row][int(sample.action[row])] - wanted) ** 2)
        replicate += list((q(follows, sample.obs)[row] - now[row]) ** 2)
    found = residuals_of(algorithm, target, agent, batch)
    np.testing.assert_allclose(found["lookahead_residual"], np.mean(lookahead), rtol=1e-4)
    np.testing.assert_allclose(found["replicate_residual"], np.mean(replicate), rtol=1e-4)
    assert (found["replicate_residual"] > 0) == isinstance(target, TargetNetwork)


@pytest.mark.parametrize("name", ["DQN", "SAC", "SAC, categorical"])
def test_a_fresh_copy_meets_the_second_constraint_and_a_moved_network_does_not(name):
    algorithm, agent, batch = ready(name, TargetNetwork(PERIOD))
    fresh = residuals_of(algorithm, TargetNetwork(PERIOD), agent, batch)
    assert fresh["lookahead_residual"] > 0 and fresh["replicate_residual"] < 1e-10
    copy = jax.tree.map(lambda w: w + 0.1, agent.source["target_params"])
    moved = agent._replace(source={**agent.source, "target_params": copy})
    assert residuals_of(algorithm, TargetNetwork(PERIOD), moved, batch)["replicate_residual"] > 1e-4


def test_the_measures_of_the_page_are_those_there_are_with_their_columns_in_order():
    page = (Path(__file__).parents[1] / "docs" / "measures.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (`[^|]*`) \|", page, re.MULTILINE)
    told = {name: re.findall(r"`(\w+)`", columns) for name, columns in rows}
    algorithm, _, _ = ready("DQN", TargetNetwork())
    assert {name: list(MEASURES[name]().build(algorithm, TargetNetwork()).names) for name in MEASURES} == told


@pytest.mark.parametrize("name", ["DQN", "SAC", "Stream Q"])
def test_rank_and_dead_units_look_at_the_trunk(name):
    algorithm, state, batch = ready(name, OnlineNetwork())
    rank, dead = (kind.build(algorithm, OnlineNetwork()) for kind in (Rank(), DeadUnits()))
    features = np.asarray(rank.at_log(state, batch, KEY))
    critics = 2 if name == "SAC" else 1
    assert features.shape == (6, critics, 8)
    wanted = np.mean([srank(features[:, critic]) for critic in range(critics)])
    assert rank.summarise(features) == {"rank": wanted}
    zeroed = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
    assert dead.summarise(np.asarray(dead.at_log(zeroed, batch, KEY))) == {"dead_units": 1.0}
    assert dead.summarise(np.asarray(dead.at_log(state, batch, KEY)))["dead_units"] < 1.0


def rows(run) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def content(run, *names) -> list[bytes]:
    (agent,) = run.path.glob("checkpoints/[0-9]*/agent.safetensors")
    return [agent.read_bytes(), *(run.path.joinpath(name).read_bytes() for name in names)]


def weights(run) -> list[np.ndarray]:
    (agent,) = run.path.glob("checkpoints/[0-9]*/agent.safetensors")
    return [array for name, array in sorted(load_file(agent).items()) if name.startswith("params/")]


def measured_rows(run) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows(run)]


NAMES = {
    "gradient_alignment": ["gradient_alignment", "gradient_alignment_target_free"],
    "target_churn": ["target_churn", "target_churn_other"],
    "rank": ["rank"],
    "dead_units": ["dead_units"],
}


SMALL = {"steps": 1_200, "training.log_period": 400, "training.warm_up": 200, "training.checkpoint_period": 400}


def measured(experiment):
    """The experiment with all measures, and with an evaluation at each row of the log."""
    evaluation = {"evaluation_period": experiment.training.log_period, "evaluation_episodes": 2}
    options = {"measures": ALL, "measure_period": 7, **evaluation}
    return experiment.replace(**{f"training.{name}": value for name, value in options.items()})


CARTPOLE = recipe("cartpole").replace(
    target="shared_heads", seeds=2, **{**SMALL, "target.period": 20, "network.hidden": (8,), "replay.batch_size": 8}
)
STREAM = recipe("stream-minatar").replace(
    **{"steps": 800, "training.log_period": 400, "training.checkpoint_period": 400, "network.hidden": (8,)}
)


PENDULUM = recipe("sac-pendulum").replace(
    target="shared_heads",
    steps=150,
    **{
        "training.log_period": 50,
        "training.checkpoint_period": 50,
        "training.warm_up": 50,
        "algorithm.random_steps": 50,
        "replay.batch_size": 8,
        "network.hidden": (8,),
        "algorithm.actor_width": 8,
    },
)


@pytest.fixture(scope="module", params=[CARTPOLE, STREAM, PENDULUM], ids=["replay", "stream", "host"])
def whole(request, tmp_path_factory):
    """An experiment, and its run with all measures and with evaluation."""
    experiment = request.param
    return experiment, train(measured(experiment), tmp_path_factory.mktemp("whole") / "run")


def test_a_measured_run_learns_what_it_learns_unmeasured(whole, tmp_path):
    experiment, run = whole
    plain = train(experiment, tmp_path / "plain", progress=None)
    assert (plain.path / "episodes.csv").read_bytes() == (run.path / "episodes.csv").read_bytes()
    for one, other in zip(weights(plain), weights(run), strict=True):  # the compiler may round otherwise
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    columns = [name for name in rows(run)[0] if name.startswith("measures/")]
    assert columns == [f"measures/{name}" for one in ALL for name in NAMES[one]]
    assert all(row[column] for row in rows(run) for column in columns)


def test_a_measured_run_that_was_killed_equals_one_that_was_not(whole, tmp_path, monkeypatch):
    experiment, run = whole

    class Killed(BaseException): ...

    saved = loop._save

    def save_once(*arguments, **keywords):
        saved(*arguments, **keywords)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_save", save_once)
        with pytest.raises(Killed):
            train(measured(experiment), tmp_path / "killed", progress=None)
    again = resume(tmp_path / "killed", progress=None)
    names = ("episodes.csv", "evaluations.csv", "checkpoints/best/agent.safetensors")
    assert content(again, *names) == content(run, *names)
    assert measured_rows(again) == measured_rows(run)


def test_measures_and_evaluation_are_compiled_before_the_first_step():
    program = measured(CARTPOLE).build().program()
    program.prepare()
    run, compiled = program.begin(), []
    monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    for start, stop in pairwise([0, *program.log_steps]):
        run, told = program.advance(run, start, stop)
        program.evaluate(run, stop)
    monitoring.clear_event_listeners()
    assert "measures/rank" in told.metrics
    assert not [event for event in compiled if "compile" in event]


def test_seeds_are_measured_side_by_side_as_they_are_one_after_another(tmp_path, monkeypatch):
    few = recipe("corridor").replace(
        target="shared_heads",
        seeds=2,
        steps=600,
        **{"training.log_period": 200, "training.measures": ALL[:3], "training.measure_period": 7},
    )
    apart = train(few, tmp_path / "apart")
    monkeypatch.setattr(seeds, "side_by_side", lambda: True)
    beside = train(few, tmp_path / "beside")
    for one, other in zip(measured_rows(apart), measured_rows(beside), strict=True):
        for name in one:
            np.testing.assert_allclose(float(one[name]), float(other[name]), rtol=1e-3, err_msg=name)


def test_a_row_in_which_no_update_was_measured_has_empty_cells(tmp_path):
    rare = {"training.measures": f"{__name__}:LargestWeight", "training.measure_period": 250}
    experiment = recipe("corridor").replace(steps=1_200, **{"training.log_period": 400, **rare})
    seen = []
    run = train(experiment, tmp_path / "run", progress=None, mirror=lambda step, values: seen.append(values))
    assert [row["measures/largest"] != "" for row in rows(run)] == [False, True, True]
    assert ["measures/largest" in values for values in seen] == [False, False, True, True]


@dataclass(frozen=True)
class LargestWeight:
    """A measure of a user: the largest weight, times a factor."""

    factor: float = 1.0

    def build(self, algorithm, target):
        def at_update(kept, info):
            return {"largest": self.factor * jnp.stack([w.max() for w in jax.tree.leaves(info.before.params)]).max()}

        return Measure(("largest",), at_update)


@dataclass(frozen=True)
class Misnamed:
    def build(self, algorithm, target):
        return Measure(("one",), lambda kept, info: {"another": jnp.float32(0)})


@dataclass(frozen=True)
class Broken:
    def build(self, algorithm, target):
        return Measure(("one",), lambda kept, info: {"one": info.nothing})


@dataclass(frozen=True)
class MisnamedAtLog:
    """It finds its mistake only when a row of the log is summarised."""

    def build(self, algorithm, target):
        return Measure(("one",), at_log=lambda agent, batch, key: batch.weights, summarise=lambda _: {"another": 0.0})


@dataclass(frozen=True)
class BreaksAtLog:
    def build(self, algorithm, target):
        return Measure(("one",), at_log=lambda agent, batch, key: batch.weights, summarise=lambda _: {"one": 1 / 0})


@dataclass(frozen=True)
class BreaksFollowing:
    def build(self, algorithm, target):
        return Measure(("one",), lambda kept, info: {"one": kept}, init=lambda _: 0.0, follow=lambda *_: 1 / 0)


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("MisnamedAtLog", "must return a number for each of"),
        ("BreaksAtLog", "raised ZeroDivisionError.*test_measures.py"),
        ("BreaksFollowing", "raised ZeroDivisionError.*test_measures.py"),
    ],
)
def test_a_measure_that_breaks_later_is_told_in_one_line_too(measure, told, tmp_path):
    experiment = recipe("corridor").replace(steps=400, **{"training.measures": f"{__name__}:{measure}"})
    with pytest.raises(SharedqError, match=told):
        train(experiment, tmp_path / "run", progress=None)


def test_a_run_that_diverges_is_marked_with_its_rank_measured(tmp_path):
    hopeless = {"network": "dense", "algorithm.learning_rate": 1e30, "training.measures": "rank"}
    with pytest.raises(Diverged):
        train(recipe("corridor").replace(steps=2_000, **hopeless), tmp_path / "run", progress=None)
    assert (tmp_path / "run" / "diverged.json").exists()


def built(*measures, recipe_name="corridor", **options):
    experiment = recipe(recipe_name).replace(**{"training.measures": measures, **options})
    return experiment.build().program()


def test_a_measure_of_a_users_module_gets_its_settings(tmp_path):
    text = f"{__name__}:LargestWeight:factor=2"
    assert chosen(text) == Chosen(f"{__name__}:LargestWeight", {"factor": "2"})
    experiment = CARTPOLE.replace(**{"training.measures": text})
    assert experiment.imports() == [f"{__name__}:LargestWeight"]
    assert experiment.build().program().metric_names[-1] == "measures/largest"


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("rang", "rank"),
        ("rank:delta=1", "measure 'rank' has no option 'delta'"),
        ("rank:=1", "is not written as name:option=value"),
        ("dead_units", "finds no hidden layer|needs a network whose layers show"),
        ("gradient_alignment:period=0", "period must be at least 1"),
        (f"{__name__}:Misnamed", "must return one number for each"),
        (f"{__name__}:Broken", "measure .*:Broken' raised AttributeError.*test_measures.py"),
        ("test_measures:Nothing", "has no 'Nothing'"),
    ],
)
def test_a_measure_that_cannot_be_had_is_refused_in_one_line(measure, told):
    with pytest.raises(SharedqError, match=told) as refused:
        built(measure)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [TargetChurn, GradientAlignment, Rank, DeadUnits])
def test_an_algorithm_without_a_loss_is_told_what_fits(kind):
    algorithm = DQN().build(DISCRETE, OnlineNetwork(), Dense((8,)))._replace(loss=None)
    with pytest.raises(SharedqError, match="needs an algorithm with loss, as dqn, sac and stream_q have"):
        kind().build(algorithm, OnlineNetwork())


def test_measures_of_a_strangers_run_are_not_imported_without_trust():
    plain = CARTPOLE.replace(**{"training.measures": "os:abort"}).to_dict()
    with pytest.raises(SharedqError, match="would import and run os:abort"):
        type(CARTPOLE).from_dict(plain)


def test_an_update_that_may_be_measured_copies_no_weights():
    """XLA copies all of them in every update where it does not see that the measures read them before it."""

    def copies(measures: str) -> int:
        options = {"target": "shared_heads", "training.measures": measures, "seeds": 1, "steps": 20_000}
        program = recipe("cartpole").replace(**options).build().program()
        program.prepare()
        return len(re.findall(r"= f32\[120,84\]\S* copy\(", program._learn.as_text()))

    assert copies("target_churn") == copies("")
