"""Samplers in whole runs: on every source, side by side, stopped and resumed; and the experiments that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.answers import same_after_a_stop
from test_frame_stacks import ENVIRONMENTS, ROWS, STEP, TRUNCATED, at, played

from sharedq.command_line import main
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.recipes import recipe
from sharedq.replay import FrameStacks, Replay, Transitions, uniform_replay
from sharedq.samplers import SAMPLERS, Prioritized, check
from sharedq.targets import SOURCES
from sharedq.training import seeds
from sharedq.training.learning import example_step

pytestmark = pytest.mark.usefixtures("hasty")

KEY = jax.random.key(23)
CAPACITY = ROWS * ENVIRONMENTS


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# A storage does not know who draws


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("kind", [Transitions, FrameStacks])
def test_a_storage_gives_the_same_batch_whoever_draws_it(kind, n_step):
    """At the same index, and also weighed the same while all priorities are equal. Some final frames are lost."""
    room = {"truncations": 2} if kind is FrameStacks else {}
    storage = kind(CAPACITY, CAPACITY, n_step, **room).build(STEP, 0.5, ENVIRONMENTS)
    own, plain = Replay(storage, Prioritized().build(storage.spec)), uniform_replay(storage)
    written, rng = 2 * ROWS + 3, np.random.default_rng(5)
    steps = played(rng.choice(3, (written, ENVIRONMENTS), p=[0.6, 0.1, 0.3]).astype(np.int8))
    mine, theirs = own.init(), plain.init()
    add, add_plain, update = jax.jit(own.add), jax.jit(plain.add), jax.jit(own.update)
    for time in range(written):
        mine, theirs = (f(x, jnp.int32(time), at(steps, time)) for f, x in ((add, mine), (add_plain, theirs)))
    same(mine.storage, theirs.storage)

    @jax.jit
    def drawn(key):
        index = own.sampler.draw(mine.sampler, written, 1, key)[0]
        there = plain.sampler._replace(draw=lambda *_: (index, jnp.ones(CAPACITY), {}))
        batch, other = own.sample(mine, written, None, 1, key)[1], plain._replace(sampler=there)
        return index, batch, other.sample(theirs, written, None, 1, key)[1]

    seen = set()
    for draw in range(4):
        index, batch, other = drawn(jax.random.fold_in(KEY, draw))
        same(batch, other)
        seen |= set(zip(index.time.tolist(), index.environment.tolist()))
    assert len(seen) > CAPACITY / 2
    whole = np.asarray(batch.weights) > 0
    assert whole.all() == (kind is Transitions)

    # What is not whole has taught nothing, and so it is not credited.
    after = update(mine, jnp.int32(written), batch, jnp.full((1, CAPACITY), 9.0), jnp.int32(1))
    places = index.environment * ROWS + index.time % ROWS
    np.testing.assert_array_equal(after.sampler.td[places], np.where(whole, 9, 1))


def test_looking_at_learning_from_outside_draws_uniformly_by_every_sampler():
    storage = Transitions(CAPACITY, CAPACITY).build(STEP, 0.5, ENVIRONMENTS)
    steps, batches = played(np.full((ROWS, ENVIRONMENTS), TRUNCATED, np.int8)), []
    for settings in (SAMPLERS["uniform"](), Prioritized(), SAMPLERS["ensemble"]()):
        replay = Replay(storage, settings.build(storage.spec))
        data = replay.init()
        for time in range(3):
            data = replay.add(data, time, at(steps, time))
        batches.append(replay.sample_uniformly(data, 3, KEY))
    for one in batches[1:]:
        same(one, batches[0])


# Runs

SHORT = {
    "training.steps": 12_000,
    "training.warm_up": 100,
    "training.log_period": 4_000,
    "replay.capacity": 150,  # a ring that wraps many times
    "target.period": 50,
}
OWN = {
    "shared_heads": {"heads": 3},
    "iterated_networks": {"networks": 2, "copy_period": 5},
    "lookahead_replicate": {"replicate_steps": 20, "learning_rate": 0.02, "adam_epsilon": 1e-8},
    "averaged": {"snapshots": 3},
    "maxmin": {"networks": 2},
    "redq": {"networks": 3, "tau": 1.0},
}
LONGER = (  # maxmin, because each of its two networks learns at every second update; the others settle more slowly
    "maxmin",
    "minto",
    "functional_regularisation",
    "iterated_networks",
)
REFRESHED = ("reaper", "reaper_plus", "annealed", "ensemble")


def short(sampler: str, source: str, **options) -> Experiment:
    """A run of the corridor, whose values are known."""
    options = {f"target.{name}": x for name, x in OWN.get(source, {}).items()} | options
    if sampler in REFRESHED:
        options["sampler.refresh_period"] = 7
    given = SHORT | options
    if source in LONGER:
        given |= {"training.steps": 24_000, "training.log_period": 8_000}
    if source == "online_network":
        del given["target.period"]
    return recipe("corridor").replace(target=source, sampler=sampler, **given)


def prepared(experiment: Experiment):
    program = experiment.build().program()
    program.prepare()
    return program


def run_of(program):
    """The run on the host after training, and what every stretch of it told."""
    run, told = program.begin(), []
    for start, stop in zip([0, *program.log_steps], program.log_steps, strict=False):
        run, heard = program.advance(run, start, stop)
        told.append(heard)
    return program.to_host(run), told


PRODUCT = [
    (sampler, source, algorithm)
    for sampler in SAMPLERS
    for source in SOURCES  # but those that prune, because a table has no weights to prune
    if source not in ("eau_de", "poly_prune")
    for algorithm in ("dqn", "cql")
    if sampler != "ensemble" or source in ("shared_heads", "iterated_networks", "maxmin", "redq")
]
IN_EVERY_TEST_RUN = [  # of shared heads there are tests below
    ("prioritized", "online_network", "dqn"),
    ("reaper", "target_network", "cql"),
    ("ensemble", "iterated_networks", "dqn"),
    ("surprise", "lookahead_replicate", "dqn"),
]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("sampler", "source", "algorithm"),
    [pytest.param(*one, marks=() if one in IN_EVERY_TEST_RUN else pytest.mark.slow) for one in PRODUCT],
)
def test_every_sampler_learns_the_known_values_on_every_source(sampler, source, algorithm):
    """The world is certain, so its values do not depend on how often a transition is drawn. CQL has other values."""
    experiment = short(sampler, source, **({"algorithm": "cql"} if algorithm == "cql" else {}))
    built = experiment.build()
    run, (_, *told) = run_of(prepared(experiment))  # the first row of the log is that of the warm-up
    assert len(told) == 3
    for heard in told:
        named = {"loss", "td_error", *built.replay.metric_names, *built.replay.number_names}
        assert named <= heard.metrics.keys()
        assert all(np.isfinite(heard.metrics[name]).all() for name in named)
        assert heard.bad_step == -1
    agent = jax.tree.map(lambda x: x[0], run.agent)
    inputs = jnp.eye(4)
    source = experiment.target.build(experiment.network.build(2))
    values = np.asarray(source.values(agent.params, agent.source, inputs, inputs).predicted)
    if algorithm == "dqn":
        known = PROBES["corridor"].q_values(experiment.algorithm.gamma)
        np.testing.assert_allclose(values, np.broadcast_to(known, values.shape), atol=0.03)
    else:
        assert np.isfinite(values).all()
        assert np.abs(values).max() > 0
    for name, edges in built.replay.histograms.items():
        counts = told[-1].histograms[name]
        assert counts.shape == (1, len(edges) - 1)
        assert counts.sum() == 150
    if sampler not in ("uniform", "surprise"):
        assert (told[0].metrics["sampler/weight"] < 1).all()
        assert (told[0].metrics["sampler/effective_size"] < 1).all()


NOISY = {  # rewards are noisy and the policy follows the values: what differs once changes all that comes after
    "environment.name": "maximisation_bias",
    "algorithm.epsilon_end": 0.1,
    "training.steps": 1_200,
    "training.log_period": 200,
    "training.checkpoint_period": 400,
    "seeds": 2,
}


def test_a_run_repeats_to_the_bit_and_nothing_is_traced_again():
    experiment, traces = short("annealed", "shared_heads", **NOISY), []
    built = experiment.build()
    sampler = built.replay.sampler

    def draw(*arguments):
        traces.append("draw")
        return sampler.draw(*arguments)

    def updated(*arguments):
        traces.append("updated")
        return sampler.updated(*arguments)

    replay = built.replay._replace(sampler=sampler._replace(draw=draw, updated=updated))
    program = experiment.training.build(built.environment, built.algorithm, replay, experiment.all_seeds)
    program.prepare()
    assert set(traces) == {"draw", "updated"}
    traces.clear()
    (first, told), (again, heard) = run_of(program), run_of(program)
    assert traces == []
    same(first, again)
    same([one.metrics for one in told], [one.metrics for one in heard])
    assert (first.replay.sampler.td[0] != first.replay.sampler.td[1]).any()  # seeds differ


@pytest.mark.parametrize("sampler", ["annealed", pytest.param("reaper", marks=pytest.mark.slow)])
def test_seeds_side_by_side_learn_what_they_learn_one_after_another(sampler, monkeypatch):
    experiment = short(sampler, "shared_heads", **NOISY | {"training.steps": 400, "seeds": 3})
    apart = prepared(experiment)
    alone, told = run_of(apart)
    monkeypatch.setattr(seeds, "side_by_side", lambda: True)
    beside = prepared(experiment)
    together, heard = run_of(beside)
    assert (apart.layout.batched, beside.layout.batched) == (False, True)
    for one, other in ((alone.agent.params, together.agent.params), (alone.replay.sampler, together.replay.sampler)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), one, other)
    assert told[-1].metrics.keys() == heard[-1].metrics.keys()


@pytest.mark.parametrize("sampler", ["annealed", "surprise"])
def test_stopped_and_resumed_the_end_is_that_of_an_unbroken_run(sampler, tmp_path):
    """The third row of the log is written after the stop, and not at a multiple of the period of refreshing."""
    experiment = short(sampler, "shared_heads", **NOISY)
    whole = same_after_a_stop(experiment, tmp_path, 600)
    assert len(whole["metrics.csv"]) == 2 * 6
    assert ("histograms.csv" in whole) == (sampler == "annealed")


# The check of samplers that are not ours


def checked(sampler, built) -> None:
    spec = built.replay.storage.spec
    check("sampler 'mine'", sampler, spec, example_step(built.spec, spec.environments))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_our_own_samplers_return_what_they_say(sampler):
    built = short(sampler, "shared_heads").build()
    checked(built.replay.sampler, built)


def test_a_sampler_that_breaks_its_contract_is_told_what():
    built = short("prioritized", "shared_heads").build()
    good = built.replay.sampler
    for broken, told in (
        (good._replace(metrics=()), "draws with the metrics"),
        (good._replace(updated=lambda state, *_: state._replace(largest=jnp.zeros(2))), "from `updated`"),
        (good._replace(draw=lambda *_: (*good.draw(*_)[:1], jnp.ones(3), {})), "must draw times, environments"),
    ):
        with pytest.raises(SharedqError, match=f"sampler 'mine' .*{told}"):
            checked(broken, built)


# Experiments that are refused

STREAM, DATA = "stream-minatar", "minatar-cql"
MISTAKES = {
    "corridor --sampler nothing": ["sampler 'nothing'", "prioritized"],
    "corridor --sampler prioritized --sampler.alpha -0.1": ["sampler.alpha must lie in 0 .. 2, not -0.1"],
    "corridor --sampler prioritized --sampler.alpha 2.1": ["sampler.alpha must lie in 0 .. 2, not 2.1"],
    "corridor --sampler prioritized --sampler.alpha nan": ["--sampler.alpha takes a finite number"],
    "corridor --sampler reaper --sampler.omega 11": ["sampler.omega must lie in 0 .. 10, not 11"],
    "corridor --sampler reaper_plus --sampler.omega_end -1": ["sampler.omega_end must lie in 0 .. 10, not -1"],
    "corridor --sampler annealed --sampler.alpha_start 3": ["sampler.alpha_start must lie in 0 .. 2, not 3"],
    "corridor --sampler prioritized --sampler.beta_end 1.5": ["sampler.beta_end must lie in 0 .. 1, not 1.5"],
    "corridor --sampler prioritized --sampler.td_offset 0": ["sampler.td_offset must be above 0, not 0"],
    "corridor --sampler prioritized --sampler.td_offset inf": ["--sampler.td_offset takes a finite number"],
    "corridor --sampler prioritized --sampler.uniform_share 1.1": ["sampler.uniform_share must lie in 0 .. 1"],
    "corridor --sampler reaper --sampler.refresh_period 0": ["sampler.refresh_period must be at least 1, not 0"],
    "corridor --sampler reaper --sampler.anneal_steps 0": ["sampler.anneal_steps must be at least 1, not 0"],
    "corridor --sampler reaper --sampler.truncation begin": ["unknown value for sampler.truncation 'begin'"],
    "corridor --sampler surprise --sampler.pace 0": ["sampler.pace must be above 0 and at most 1, not 0"],
    "corridor --sampler surprise --sampler.strength -1": ["sampler.strength cannot be negative"],
    "corridor --sampler prioritized --sampler.omega 1": ["omega"],
    "corridor --sampler reaper --replay.capacity 100000000000": ["replay.capacity can be 2,147,483,647 at most"],
    f"{STREAM} --sampler prioritized": [
        "sampler 'prioritized'",
        "replay 'none' stores nothing",
        "add --sampler uniform",
    ],
    f"{STREAM} --sampler surprise": ["sampler 'surprise'", "replay 'none' stores nothing", "add --sampler uniform"],
    "corridor --sampler prioritized --replay.batch_size 201 --replay.capacity 500": [
        "replay.batch_size 201 is larger than the 200 transitions that have a priority at the first update"
    ],
    "corridor --sampler reaper --replay.batch_size 197 --replay.n_step 3 --replay.capacity 500": [
        "replay.batch_size 197 is larger than the 196 transitions that have a priority at the first update"
    ],
    "corridor --sampler ensemble": ["target 'target_network' there is one", "--target shared_heads --target.heads 3"],
    "corridor --sampler ensemble --target online_network": ["target 'online_network' there is one"],
    "corridor --sampler ensemble --target shared_heads --target.heads 1": ["target 'shared_heads' there is one"],
    "corridor --sampler annealed --sampler.reliability estimates": ["target 'target_network' there is one"],
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_line_and_nothing_is_written(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *command.split(), "--out", "run"]) == 2
    answer = capsys.readouterr()
    assert answer.err.startswith("sharedq: ")
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    for words in MISTAKES[command]:
        assert words in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_not_drawn_from_by_a_sampler():
    experiment = recipe(DATA).replace(sampler="prioritized")
    spec = recipe("minatar-breakout").build().spec
    with pytest.raises(SharedqError, match=r"sampler 'prioritized' draws from what a .*: add --sampler uniform$"):
        experiment.build(spec)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("corridor", {"target": "shared_heads", "target.heads": 3, "sampler": "ensemble"}),
        ("corridor", {"target": "iterated_networks", "target.networks": 2, "sampler": "ensemble"}),
        ("corridor", {"target": "shared_heads", "target.heads": 2, "sampler": "annealed"}),
        ("sac-pendulum", {"sampler": "ensemble"}),
        ("sac-pendulum", {"sampler": "annealed", "sampler.reliability": "estimates"}),
        ("sac-pendulum", {"sampler": "surprise"}),
        ("corridor", {"sampler": "prioritized", "replay.batch_size": 200, "replay.capacity": 500}),
        ("corridor", {"sampler": "prioritized", "replay.batch_size": 196, "replay.n_step": 3, "replay.capacity": 500}),
    ],
)
def test_what_fits_is_accepted(name, options):
    experiment = recipe(name).replace(**options)
    if name == "sac-pendulum":
        experiment = experiment.replace(**{"training.warm_up": 300})  # its batches are large
        assert experiment.algorithm.critics == 2
    assert experiment.build().replay.sampler.metrics
    assert Experiment.from_dict(experiment.to_dict()) == experiment
