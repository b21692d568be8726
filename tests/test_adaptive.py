"""AdaQN: which network becomes the target, who acts, learning rates of one's own, divergence, and whole runs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.answers import same_after_a_stop
from test_interactive import run_of, same

from sharedq import optimizers, testing
from sharedq.algorithms import DQN, SAC
from sharedq.algorithms.parts import critics_on
from sharedq.command_line import main
from sharedq.environments.spec import Continuous, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Table
from sharedq.recipes import recipe
from sharedq.targets import Adaptive, EauDe, PolyPrune, SharedHeads, TargetNetwork
from sharedq.targets.adaptive import SMALLEST_SUM, Sums, origin_of, smallest_sum
from sharedq.targets.source import optimiser_of, renewed
from sharedq.trainer import train
from sharedq.training import seeds
from sharedq.training.learning import example_batch
from sharedq.transitions import Batch, Transition

pytestmark = pytest.mark.usefixtures("hasty")

KEY, SIZE, CELLS, ACTIONS = jax.random.key(3), 6, 4, 2
ALGORITHM = DQN(gamma=0.9, learning_rate=0.01)


def batches(count: int) -> Batch:
    """Random transitions between cells, as a stream with leaves [count, SIZE, ...]."""
    keys, rows = jax.random.split(KEY, 5), (count, SIZE)
    now, then = (jax.nn.one_hot(jax.random.randint(key, rows, 0, CELLS), CELLS) for key in keys[:2])
    action, reward = jax.random.randint(keys[2], rows, 0, ACTIONS), jax.random.normal(keys[3], rows)
    transition = Transition(now, action, reward, jnp.full(rows, 0.9), then)
    return Batch(transition, jnp.ones(rows), jnp.zeros(rows, jnp.int32))


def first(stream: Batch) -> Batch:
    return jax.tree.map(lambda x: x[0], stream)


def trained(learner, state, stream: Batch):
    """The state and the metrics after each update of a stream."""

    def update(state, numbered):
        step, batch = numbered
        state, _, metrics = learner.update(state, batch, KEY, step)
        return state, (state, metrics)

    count = len(stream.weights)
    return jax.jit(lambda s: jax.lax.scan(update, s, (jnp.arange(1, count + 1), stream))[1])(state)


def begun(settings, network=None, algorithm: DQN = ALGORITHM):
    learner = algorithm.on(settings.build((network or Dense((5,))).build(ACTIONS)))
    return learner, learner.init(KEY, first(batches(1)))


def place(tree, number):
    return jax.tree.map(lambda x: x[number], tree)


# Who becomes the target


def test_equal_networks_with_equal_rates_are_a_target_network_to_the_bit():
    stream = batches(20)
    classic, start = begun(TargetNetwork(period=5), Table())
    learner, state = begun(Adaptive(networks=2, period=5, learning_rates=(0.01, 0.01)), Table())
    twice = jax.tree.map(lambda w: jnp.stack([w, w]), start.params)
    state = state._replace(params=twice, source={**state.source, "target_params": start.params})
    (wanted, _), (found, _) = trained(classic, start, stream), trained(learner, state, stream)
    for network in (0, 1):
        same(jax.tree.map(lambda w, n=network: w[:, n], found.params), wanted.params)
    same(found.source["target_params"], wanted.source["target_params"])
    assert (wanted.params["heads"]["kernel"][-1] != wanted.params["heads"]["kernel"][0]).any()


@pytest.mark.parametrize(
    ("varied", "losses", "betas"),
    [
        ({"losses": ("squared", "huber")}, ("squared", "huber"), (0.9, 0.9)),
        ({"adam_betas": (0.9, 0.5)}, ("squared", "squared"), (0.9, 0.5)),
    ],
    ids=["losses", "betas"],
)
def test_each_network_learns_as_it_would_alone_with_its_loss_and_its_optimiser(varied, losses, betas, monkeypatch):
    stream = batches(9)
    stream = stream._replace(transition=stream.transition._replace(reward=4 * stream.transition.reward))
    learner, state = begun(Adaptive(networks=2, period=10, **varied), Table())
    start = None
    for network, (loss, beta) in enumerate(zip(losses, betas, strict=True)):
        monkeypatch.setattr(optimizers, "BETA", beta)
        classic, alone = begun(TargetNetwork(period=10), Table(), dataclasses.replace(ALGORITHM, loss=loss))
        start = alone.params if start is None else start
        alone = alone._replace(params=start, source={**alone.source, "target_params": start})
        twice = jax.tree.map(lambda w: jnp.stack([w, w]), start)
        state = state._replace(params=twice, source={**state.source, "target_params": start})
        (wanted, _), (found, _) = trained(classic, alone, stream), trained(learner, state, stream)
        mine = jax.tree.map(lambda w, n=network: w[:, n], found.params)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), mine, wanted.params)
    both = found.params["heads"]["kernel"][-1]
    assert float(jnp.abs(both[0] - both[1]).max()) > 1e-3


def test_the_network_with_the_smallest_written_out_sum_of_squared_errors_is_copied():
    """The loss is not squared, and the batch has weights; the sums have neither."""
    algorithm = DQN(gamma=0.9, learning_rate=0.05, loss="huber")
    learner, state = begun(Adaptive(networks=3, period=4), algorithm=algorithm)
    stream = batches(12)
    stream = stream._replace(weights=jnp.linspace(0.1, 3, 12 * SIZE).reshape(12, SIZE))
    update, sums, chosen = jax.jit(learner.update), np.zeros(3), []
    errors = jax.jit(lambda state, batch: learner.loss(state.params, state, batch, KEY)[1].errors)
    for number in range(12):
        batch = place(stream, number)
        for network in range(3):
            sums[network] += np.mean(np.square(np.asarray(errors(state, batch))[network]))
        state, _, metrics = update(state, batch, KEY, jnp.int32(number + 1))
        if (number + 1) % 4 == 0:
            best = int(np.argmin(sums))
            assert int(state.source["sums"].chosen) == best
            same(state.source["target_params"], place(state.params, best))
            chosen.append(best)
            assert not state.source["sums"].losses.any()
            sums[:] = 0
        else:
            np.testing.assert_allclose(state.source["sums"].losses, sums, rtol=1e-5)
    assert int(np.argmax([metrics[f"chosen/{k}"] for k in (1, 2, 3)])) == chosen[-2]


@pytest.mark.parametrize(
    ("losses", "wanted"),
    [
        ([2.0, 1.0, 3.0], 1),
        ([1.0, 1.0, 3.0], 0),
        ([np.nan, 2.0, 1.0], 2),
        ([np.inf, np.nan, 5.0], 2),
        ([np.nan] * 3, 2),
    ],
)
def test_what_is_not_finite_never_wins_and_if_nothing_is_the_last_does(losses, wanted):
    assert int(smallest_sum(jnp.array(losses))) == wanted


def test_the_middle_of_three_learning_rates_is_chosen():
    """One is too small to learn, and one too large to come to rest."""
    learner, state = begun(Adaptive(networks=3, period=100, learning_rates=(1e-6, 3e-4, 10.0)), Dense((16,)))
    stream = jax.tree.map(lambda x: jnp.repeat(x[:1], 1_500, axis=0), batches(1))
    stream = stream._replace(transition=stream.transition._replace(discount=jnp.zeros((1_500, SIZE))))
    found, metrics = trained(learner, state, stream)
    assert (found.source["sums"].chosen[-300:] == 1).all()
    assert np.isfinite(metrics["loss"]).all()


# Learning rates of one's own


def test_a_step_of_each_network_is_that_of_its_own_rate():
    rates = (0.001, 0.01, 0.1)
    learner, state = begun(Adaptive(networks=3, learning_rates=rates))
    plain, _ = begun(Adaptive(networks=3))
    batch = first(batches(1))
    moved, unit = (jax.jit(one.update)(state, batch, KEY, jnp.int32(1))[0].params for one in (learner, plain))
    for network, rate in enumerate(rates):
        steps = [jax.tree.map(lambda a, b, n=network: a[n] - b[n], p, state.params) for p in (moved, unit)]
        jax.tree.map(lambda a, b, r=rate: np.testing.assert_allclose(a, b * r / 0.01, rtol=1e-3, atol=1e-7), *steps)


def test_each_network_has_an_optimiser_of_its_own():
    """The gradient of one is clipped by its own norm, whatever the others have."""
    algorithm = DQN(gamma=0.9, learning_rate=0.01, adam_epsilon=1.0, max_gradient_norm=0.1)
    learner, state = begun(Adaptive(networks=2), algorithm=algorithm)
    wild = jax.tree.map(lambda w: w.at[1].multiply(1e3), state.params)
    batch = first(batches(1))
    update = jax.jit(learner.update)
    calm, beside = (update(state._replace(params=p), batch, KEY, jnp.int32(1))[0] for p in (state.params, wild))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), place(calm.params, 0), place(beside.params, 0))


def test_a_part_of_an_algorithms_parameters_can_have_the_sources_optimiser():
    """As in ILQL, whose optimiser has the policy's parameters too: these get the steps that they always had."""
    source = Adaptive(networks=2, learning_rates=(0.01, 0.02)).build(Dense((5,)).build(ACTIONS))
    critic, state = source.init(KEY, jnp.ones((SIZE, CELLS)))
    plain, params = ALGORITHM._optimiser(), {"critic": critic, "policy": jnp.ones(3)}
    joint, alone = (optimiser_of(source, plain, 0.01, part) for part in ("critic", None))
    slope = jax.tree.map(lambda w: w + 1, params)
    moves, moments = joint.update(slope, joint.init(params), params)
    same(moves["policy"], plain.update(slope["policy"], plain.init(params["policy"]))[0])
    own, own_moments = alone.update(slope["critic"], alone.init(critic), critic)
    same(moves["critic"], own)
    swapped = {**state, "sums": state["sums"]._replace(origin=jnp.array([1, 1]))}
    after = renewed(source, joint, jnp.int32(2000), moments, swapped, params, "critic")
    same(after["source"], place(own_moments, jnp.array([1, 1])))
    same(after["others"], moments["others"])


# Who acts


def acting(behaviour: str, losses, chosen: int = 0):
    source = Adaptive(networks=3, behaviour_network=behaviour).build(Dense((5,)).build(ACTIONS))
    _, state = source.init(KEY, jnp.ones((SIZE, CELLS)))
    state = {**state, "sums": Sums(jnp.array(losses), jnp.int32(chosen), jnp.arange(3, dtype=jnp.int32))}
    values = jnp.arange(3.0)[:, None, None] * jnp.ones((3, SIZE, ACTIONS))  # network k says k
    return lambda key: source.select(state, key, values)[0, 0]


def test_networks_act_in_proportion_to_the_inverse_of_their_sums():
    draws = jax.vmap(acting("loss", [1.0, 0.5, jnp.inf]))(jax.random.split(KEY, 4_000))
    shares = np.bincount(np.asarray(draws, int), minlength=3) / 4_000
    wanted = np.array([1 / (1 + SMALLEST_SUM), 1 / (0.5 + SMALLEST_SUM), 0])
    np.testing.assert_allclose(shares, wanted / wanted.sum(), atol=0.04)
    assert shares[2] == 0


def test_what_acts_without_a_draw():
    assert acting("loss", [0.0, 0.0, 0.0], chosen=2)(None) == 2
    assert acting("loss", [jnp.inf, 1.0, jnp.nan], chosen=2)(None) == 1  # the chosen one has diverged since
    assert acting("mean", [1.0, 1.0, 1.0])(KEY) == 1
    assert acting("mean", [jnp.inf, 1.0, 1.0])(KEY) == 1.5
    assert acting("3", [1.0, 1.0, 1.0])(KEY) == 2


# Divergence and selection


def test_a_network_that_diverges_is_replaced_by_the_chosen_one_and_its_moments_too():
    learner, state = begun(Adaptive(networks=3, period=3))
    stream = batches(6)
    state = jax.jit(learner.update)(state, first(stream), KEY, jnp.int32(10))[0]
    broken = jax.tree.map(lambda w: w.at[1].set(jnp.nan), state.params)
    found, metrics = trained(learner, state._replace(params=broken), stream)
    assert np.isfinite(metrics["loss"]).all() and np.isfinite(metrics["td_error"]).all()
    np.testing.assert_array_equal(metrics["diverged_networks"][1:3], [1, 1])
    assert not metrics["diverged_networks"][3:].any()
    after = place(found, 2)
    best = int(after.source["sums"].chosen)
    assert best != 1
    for whole in (after.params, after.optimiser):
        same(place(whole, 1), place(whole, best))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(place(found.params, -1)))


def test_the_others_learn_as_if_nothing_had_diverged():
    learner, state = begun(Adaptive(networks=3, period=100))
    broken = jax.tree.map(lambda w: w.at[1].set(jnp.nan), state.params)
    (healthy, _), (found, _) = (trained(learner, state._replace(params=p), batches(5)) for p in (state.params, broken))
    for network in (0, 2):
        same(*(jax.tree.map(lambda w, n=network: w[-1, n], one.params) for one in (healthy, found)))


def test_a_run_in_which_all_networks_diverge_has_a_loss_that_says_it():
    learner, state = begun(Adaptive(networks=2, period=3))
    broken = jax.tree.map(lambda w: w * jnp.nan, state.params)
    _, _, metrics = jax.jit(learner.update)(state._replace(params=broken), first(batches(1)), KEY, jnp.int32(1))
    assert not np.isfinite(metrics["loss"])


def test_selections_replace_the_worst():
    losses = jnp.array([5.0, 1.0, 4.0, jnp.nan, 2.0])
    np.testing.assert_array_equal(origin_of("none", KEY, losses), range(5))
    np.testing.assert_array_equal(origin_of("truncation", KEY, losses), [0, 1, 2, 1, 4])
    origins = jax.vmap(lambda key: origin_of("elitism", key, losses))(jax.random.split(KEY, 2_000))
    assert (origins[:, 1] == 1).all()
    others = np.asarray(origins)[:, [0, 2, 3, 4]]
    order = [1, 4, 2, 0, 3]  # from the best to the worst; the best of three draws is at least at place n
    wanted = np.diff([0, *(1 - ((5 - n) / 5) ** 3 for n in range(1, 6))])
    np.testing.assert_allclose([(others == network).mean() for network in order], wanted, atol=0.03)


@pytest.mark.parametrize("selection", ["elitism", "truncation"])
def test_a_selection_copies_weights_and_moments(selection):
    learner, state = begun(Adaptive(networks=5, period=3, selection=selection))
    stream = batches(3)
    found, _ = trained(learner, state, stream)
    learned = jax.jit(learner.learn)(place(found, 1), place(stream, 2), KEY, jnp.int32(3))[0]
    after = place(found, 2)
    origin = np.asarray(after.source["sums"].origin)
    assert (origin != np.arange(5)).any()
    for whole, before in ((after.params, learned.params), (after.optimiser, learned.optimiser)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), whole, place(before, origin))


@pytest.mark.parametrize("selection", ["elitism", "truncation"])
def test_the_contract_is_kept_with_a_selection(selection):
    testing.check_source(Adaptive(networks=3, period=3, selection=selection))


# With other algorithms, and whole runs

PLANE = EnvironmentSpec(
    "plane", jax.ShapeDtypeStruct((3,), np.float32), Continuous(-np.ones(2, np.float32), np.ones(2, np.float32))
)
SMALL = {
    "network": Dense((6,)),
    "training.steps": 600,
    "training.warm_up": 100,
    "training.log_period": 100,
    "training.checkpoint_period": 200,
    "target.networks": 3,
    "target.period": 20,
    "algorithm.epsilon_end": 0.1,
}
OWN = {"adaptive": {"target.learning_rates": (1e-4, 1e-3, 1e-2)}, "eau_de": {"target.max_speed": 0.1}}


def small(source: str, **options):
    """A short run in a noisy world: what differs once changes all that comes after."""
    given = SMALL | OWN[source] | options
    return recipe("corridor").replace(target=source, **{"environment.name": "maximisation_bias"} | given)


@pytest.mark.parametrize("source", OWN)
def test_stopped_and_resumed_the_end_is_that_of_an_unbroken_run(source, tmp_path):
    experiment = small(source, seeds=2)
    same_after_a_stop(experiment, tmp_path, 300)


@pytest.mark.parametrize("source", OWN)
def test_seeds_side_by_side_learn_what_they_learn_one_after_another(source, monkeypatch):
    def ran(side_by_side: bool):
        monkeypatch.setattr(seeds, "side_by_side", lambda: side_by_side)
        program = small(source, seeds=3, **{"training.steps": 300}).build().program()
        program.prepare()
        assert program.layout.batched == side_by_side
        run, told = run_of(program)
        return program.to_host(run).agent, told[-1].metrics

    (apart, metrics), (beside, others) = ran(False), ran(True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), apart.params, beside.params)
    same(apart.source["sums"].chosen, beside.source["sums"].chosen)
    assert metrics.keys() == others.keys() >= {"target/chosen/1", "target/diverged_networks"}


@pytest.mark.parametrize(
    "target",
    [Adaptive(networks=2, period=2), EauDe(networks=2, period=2), PolyPrune(begin=1, end=3, prune_period=1)],
    ids=lambda one: type(one).__name__,
)
def test_it_serves_sac(target):
    algorithm = SAC(actor_width=4).build(PLANE, target, Dense((5,)))
    sample = jax.tree.map(lambda x: x + 0.3 if x.dtype == jnp.float32 else x, example_batch(PLANE, SIZE))
    state, update = algorithm.init(KEY, sample), jax.jit(algorithm.update)
    start = state
    for step in range(1, 5):
        state, _, metrics = update(state, sample, jax.random.fold_in(KEY, step), jnp.int32(step))
        assert np.isfinite(metrics["loss"])
    assert {"target/sparsity", "target/chosen/1"} & metrics.keys()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start.params["actor"], state.params["actor"])
    assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize("source", OWN)
def test_it_serves_cql(source, tmp_path):
    pace = {"target.schedule": "linear", "target.max_speed": 0.3} if source == "eau_de" else {}
    experiment = small(source, **{"training.steps": 300} | pace).replace(algorithm="cql")
    found = train(experiment, tmp_path / "run", progress=None).metrics()
    chosen = sum(found[f"target/chosen/{number}"][-1] for number in (1, 2, 3))
    assert np.isfinite(found["loss"][found["step"] > 100]).all() and chosen == pytest.approx(1)
    if source == "eau_de":
        assert 0 < found["target/sparsity"][-1] < 1


def test_sources_that_change_no_optimiser_leave_that_of_the_algorithm_as_it_is():
    built = critics_on(PLANE, SharedHeads(heads=2), Dense((5,)), 2)
    assert not built.meets_the_optimiser
    with pytest.raises(SharedqError, match="target 'adaptive' changes the optimiser"):
        critics_on(PLANE, Adaptive(networks=2), Dense((5,)), 2)


MISTAKES = {
    "corridor --target adaptive --target.networks 1": "target 'adaptive' compares networks: set --target.networks to 2",
    "corridor --target eau_de --target.networks 1": "target 'eau_de' compares networks: set --target.networks to 2",
    "corridor --target adaptive --target.networks 3 --target.learning_rates 1,2": "needs 3 values, one per network, "
    "not 2",
    "corridor --target adaptive --target.networks 2 --target.learning_rates 0,1": "must all be above 0",
    "corridor --target adaptive --target.networks 2 --target.adam_betas 0,1": "from 0 to below 1",
    "corridor --target adaptive --target.networks 2 --target.losses squared,cube": "and not 'cube'",
    "corridor --values categorical --target adaptive --target.networks 2 --target.losses squared,huber": "of scalar",
    "sac-pendulum --target adaptive --target.networks 2 --target.losses squared,huber": "add --algorithm dqn",
    "corridor --target adaptive --target.behaviour_network 9": "the number of a network from 1 to 5, not '9'",
    "corridor --target eau_de": "this network has no weights to prune",
    "corridor --target poly_prune": "this network has no weights to prune",
    "cartpole --target eau_de --target.max_sparsity 1.5": "target.max_sparsity must lie in 0 .. 1, not 1.5",
    "cartpole --target eau_de --target.max_speed -1": "target.max_speed must lie in 0 .. 1",
    "cartpole --target eau_de --target.max_noise -1": "target.max_noise cannot be negative",
    "cartpole --target poly_prune --target.final_sparsity 2": "target.final_sparsity must lie in 0 .. 1, not 2",
    "cartpole --target poly_prune --target.end 5": "target.end 5 must come after target.begin 500000",
    "cartpole --target poly_prune --target.source poly_prune": "target.source cannot be 'poly_prune'",
    "cartpole --target poly_prune --target.source eau_de:networks=2": "target.source cannot be 'eau_de'",
    "cartpole --target poly_prune --target.source adaptive": "target.source cannot be 'adaptive'",
    "cartpole --target poly_prune --target.source os:system": "target.source cannot be 'os:system'",
    "cartpole --target poly_prune --target.source shared_heads:head=9": "has no option 'head'",
    "cartpole --target eau_de --network.noisy true": "target 'eau_de' prunes a network without noise",
    "stream-minatar --target adaptive": "target 'adaptive' changes the optimiser",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_line_and_nothing_is_written(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *command.split(), "--out", "run"]) == 2
    answer = capsys.readouterr()
    assert answer.err.startswith("sharedq: ") and answer.err.count("\n") == 1
    assert MISTAKES[command] in answer.err
    assert list(tmp_path.iterdir()) == []
