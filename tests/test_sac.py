"""Soft actor-critic: known optima on every source, identities between sources, counts, and what a step may touch."""

import dataclasses
import functools
import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.algorithms import SAC, Algorithm
from sharedq.analysis.cost import parameters_of
from sharedq.analysis.tables import cost_table
from sharedq.environments import Continuous, Control, Discrete, Environment, EnvironmentSpec, Outcome
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.networks import Dense, SimbaV2, Table
from sharedq.networks.unit_kernels import NAME
from sharedq.recipes import recipe
from sharedq.replay import Transitions
from sharedq.runs import checkpoints
from sharedq.targets import IteratedNetworks, LookaheadReplicate, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.targets.source import join, one_down, part
from sharedq.training import Interactive
from sharedq.transitions import Batch, Step, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(5)
GAMMA, SIZE, UPDATES, ROUNDS, BEST = 0.8, 64, 300, 8, 0.4


def world(actions) -> Environment:
    """Two states in a row. In the first nothing matters, in the second the reward is 1 - 9 (action - BEST)^2."""

    def reset(key):
        return jnp.int32(0), jax.nn.one_hot(0, 2)

    def step(key, state, action):
        reward = jnp.where(state == 1, 1 - 9 * (action[0] - BEST) ** 2, 0.0)
        obs = jax.nn.one_hot(1, 2)
        return jnp.int32(1), Outcome(obs, reward, state == 1, jnp.bool_(False), obs)

    return Environment(EnvironmentSpec("two in a row", jax.ShapeDtypeStruct((2,), jnp.float32), actions), reset, step)


WORLD = world(Continuous(-np.ones(1, np.float32), np.ones(1, np.float32)))
DENSE = Dense((64,))
ALGORITHM = SAC(
    gamma=GAMMA,
    learning_rate=5e-3,
    final_learning_rate=1e-4,
    learning_rate_updates=UPDATES * ROUNDS,
    initial_temperature=0.1,
    target_entropy=-3.0,
    actor_depth=0,
)


def batch_of(key, size=SIZE) -> Batch:
    """What uniformly random actions lead to."""
    state_key, action_key = jax.random.split(key)
    second = jax.random.bernoulli(state_key, 0.5, (size,))
    action = jax.random.uniform(action_key, (size, 1), minval=-1.0, maxval=1.0)
    reward = jnp.where(second, 1 - 9 * (action[:, 0] - BEST) ** 2, 0.0)
    obs, next_obs = jax.nn.one_hot(second.astype(int), 2), jnp.tile(jax.nn.one_hot(1, 2), (size, 1))
    transition = Transition(obs, action, reward, jnp.where(second, 0.0, GAMMA), next_obs)
    return Batch(transition, jnp.ones(size), jnp.zeros(size, jnp.int32))


def widened(tree):
    wide = jnp.zeros(()).dtype
    return jax.tree.map(lambda x: x.astype(wide) if x.dtype == jnp.float32 else x, tree)


class Trained(NamedTuple):
    learner: Algorithm
    several: Any  # (state, numbers of updates) -> state, losses; in float64
    early: Any  # the state after UPDATES updates
    losses: jax.Array  # of those updates


FIRST = jnp.arange(1, UPDATES + 1)


@functools.cache
def trained(target, network=DENSE) -> Trained:
    with jax.enable_x64(True):
        learner = ALGORITHM.build(WORLD.spec, target, network)

        def update(state, number):
            batch = widened(batch_of(jax.random.fold_in(KEY, number)))
            state, _, metrics = learner.update(state, batch, jax.random.fold_in(KEY, -number), number)
            return state, metrics["loss"]

        several = jax.jit(lambda state, numbers: jax.lax.scan(update, state, numbers))
        early, losses = several(widened(jax.jit(learner.init)(KEY, batch_of(KEY))), FIRST)
        return Trained(learner, several, early, losses)


def close(one, other, tolerance=1e-8):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


SOURCES = [
    OnlineNetwork(),
    TargetNetwork(period=20),
    SharedHeads(heads=2, period=20, loss_discount=0.25),
    IteratedNetworks(networks=2, period=20, copy_period=5),
    LookaheadReplicate(period=10, replicate_steps=10, learning_rate=0.003, adam_epsilon=1e-8),
]


@pytest.mark.parametrize("target", SOURCES, ids=lambda target: target.label)
def test_every_source_finds_the_best_action_and_what_it_is_worth(target):
    learner, several, state, _ = trained(target)
    with jax.enable_x64(True):
        for number in range(1, ROUNDS):
            state, _ = several(state, number * UPDATES + FIRST)
        obs = jnp.eye(2)
        best = learner.act(state, KEY, obs, None)
        values = learner.values(state, KEY, obs)
    assert float(best[1, 0]) == pytest.approx(BEST, abs=0.08)
    np.testing.assert_allclose(values, [GAMMA, 1], atol=0.15)


# Sources that are the same source


def test_a_target_network_copied_at_every_update_is_no_target_network():
    copied, free = trained(TargetNetwork(period=1)), trained(OnlineNetwork())
    close(copied.early.params, free.early.params)
    close(copied.losses, free.losses)


def test_one_iterated_network_is_a_target_network():
    chain, classic = trained(IteratedNetworks(1, period=20)), trained(TargetNetwork(20))
    close(jax.tree.map(lambda w: w[0], chain.early.params["critic"]), classic.early.params["critic"])
    close(chain.early.params["actor"], classic.early.params["actor"])
    close(chain.losses, classic.losses)


def test_one_shared_head_without_a_trunk_is_a_target_network():
    heads, classic = (
        trained(target, Table()) for target in (SharedHeads(1, period=20, initial_heads="copies"), TargetNetwork(20))
    )
    close(heads.early.params, classic.early.params)
    close(heads.losses, classic.losses)


def test_the_loss_of_many_heads_is_the_weighted_sum_of_the_losses_of_pairs():
    batch, key = batch_of(KEY), jax.random.fold_in(KEY, 1)
    algorithm = SAC(values="categorical", atoms=5, value_bound=2.0, actor_depth=0, actor_width=4)
    chain, pair = (
        algorithm.build(WORLD.spec, SharedHeads(heads, period=100, loss_discount=0.25), Dense((4,))) for heads in (3, 1)
    )

    def gradient(learner, state):
        (loss, _), slope = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(state.params, state, batch, key)
        assert not any(leaf.any() for leaf in jax.tree.leaves(slope["actor"])), "the policy has a loss of its own"
        return loss, slope["critic"]

    state = chain.init(KEY, batch)
    critic, heads = state.params["critic"], join(state.source["target_params"], state.params["critic"]["heads"])
    loss, slope = gradient(chain, state)
    pairs = []
    for k in range(3):
        one = {"trunk": critic["trunk"], "heads": part(heads, k + 1, k + 2)}
        below = {**state.source, "target_params": part(heads, k, k + 1)}
        alone, down = gradient(pair, state._replace(params={**state.params, "critic": one}, source=below))
        pairs.append(jax.tree.map(partial(jnp.multiply, 0.25**k), (alone, down)))
    np.testing.assert_allclose(loss, sum(alone for alone, _ in pairs), rtol=1e-5)
    trunks = jax.tree.map(lambda *x: sum(x), *(down["trunk"] for _, down in pairs))
    of_heads = jax.tree.map(lambda *x: jnp.concatenate(x), *(down["heads"] for _, down in pairs))
    close(slope, {"trunk": trunks, "heads": of_heads}, 1e-5)


def test_a_shift_leaves_adams_moments_alone():
    algorithm = SAC(actor_depth=0, actor_width=4, critics=1)
    start, update = ready(algorithm, SharedHeads(heads=2, period=3), Dense((4,)))
    unmoved, shifted = (update(start, number)[0] for number in (2, 3))
    jax.tree.map(np.testing.assert_array_equal, unmoved.optimisers, shifted.optimisers)
    before = join(unmoved.source["target_params"], unmoved.params["critic"]["heads"])
    after = join(shifted.source["target_params"], shifted.params["critic"]["heads"])
    jax.tree.map(np.testing.assert_array_equal, after, one_down(before))
    assert (before["kernel"][1] != before["kernel"][2]).any()


# What an agent holds


HELD = {  # of one critic and of two, as the modules of the public code hold them; observations and actions of the task
    ("humanoid-run", 67, 21): {
        TargetNetwork(): (9_298_933, 18_418_879),
        OnlineNetwork(): (4_738_960, 9_298_933),
        SharedHeads(heads=1): (4_790_773, 9_402_559),
        SharedHeads(heads=9): (5_205_277, 10_231_567),
    },
    ("dog-run", 223, 38): {
        TargetNetwork(): (9_500_439, 18_797_537),
        OnlineNetwork(): (4_851_890, 9_500_439),
        SharedHeads(heads=1): (4_903_703, 9_604_065),
        SharedHeads(heads=9): (5_318_207, 10_433_073),
    },
}


@pytest.mark.parametrize("task", HELD, ids=lambda task: task[0])
def test_the_recipes_agents_hold_as_many_parameters_as_the_modules_of_the_public_code(task):
    name, *sizes = task
    built = recipe(f"sac-simba-{name}").build()
    assert [built.environment.spec.observation.shape[0], built.environment.spec.actions.one.size] == sizes
    for target, held in HELD[task].items():
        for critics, expected in enumerate(held, start=1):
            experiment = built.experiment.replace(target=target, **{"algorithm.critics": critics})
            algorithm = experiment.algorithm.build(built.spec, experiment.target, experiment.network)
            other = dataclasses.replace(built, experiment=experiment, algorithm=algorithm)
            assert parameters_of(other.agent_shapes())["held"] == expected
            if (name, target.label, critics) == ("humanoid-run", "shared heads K=1", 1):
                costs = {"K=1": other.cost(compiled=False)}
                assert re.search(f"parameters, held +{expected:,}\n", cost_table(costs, "text"))


# What an update does


FREE, TABLE = OnlineNetwork(), Table()


def ready(algorithm, target=FREE, network=TABLE, batch=None):
    """A first state, and the compiled update on one batch."""
    learner, batch = algorithm.build(WORLD.spec, target, network), batch_of(KEY) if batch is None else batch
    update = jax.jit(lambda state, number: learner.update(state, batch, KEY, number))
    return jax.jit(learner.init)(KEY, batch), update


def test_an_update_by_hand():
    """Both critics say 0, so the target is 0.5 + GAMMA (0 - alpha log pi), of which the entropy tells log pi."""
    batch = batch_of(KEY, 1)
    sample = batch.transition._replace(reward=jnp.array([0.5]), discount=jnp.array([GAMMA]))
    algorithm = SAC(initial_temperature=0.3, actor_depth=0)
    start, update = ready(algorithm, TargetNetwork(), batch=batch._replace(transition=sample))
    state, errors, told = update(start, 1)
    target = 0.5 + GAMMA * told["temperature"] * told["entropy"]
    np.testing.assert_allclose(told["loss"], 2 * target**2, rtol=1e-5)
    np.testing.assert_allclose(errors, [[-target], [-target]], rtol=1e-5)  # of each critic
    assert float(told["q_value"]) == 0
    assert jnp.exp(state.params["temperature"]) == told["temperature"] != 0.3  # it moved before the critics did


def test_a_distribution_of_returns_begins_even():
    algorithm = SAC(values="categorical", atoms=11, actor_depth=0)
    start, update = ready(algorithm)
    _, _, told = update(start, 1)
    np.testing.assert_allclose(told["loss"], 2 * np.log(11), rtol=1e-5)


def test_actor_and_temperature_move_at_their_period_only():
    algorithm = SAC(actor_period=3, actor_depth=0)
    start, update = ready(algorithm)
    for number, moves in ((1, False), (2, False), (3, True)):
        after, _, _ = update(start, number)
        for name in ("actor", "temperature", "critic"):
            pairs = zip(jax.tree.leaves(start.params[name]), jax.tree.leaves(after.params[name]))
            assert any((a != b).any() for a, b in pairs) == (moves or name == "critic")


def named(tree, name):
    return [w for path, w in jax.tree_util.tree_leaves_with_path(tree) if getattr(path[-1], "key", "") == name]


def test_unit_kernels_are_back_on_the_sphere_after_every_update_and_a_held_head_never_is():
    algorithm = SAC(critics=1, values="categorical", atoms=7, learning_rate=0.1, actor_width=8, actor_depth=0)
    target, network = SharedHeads(heads=1, period=1, tau=0.3), SimbaV2(width=8, blocks=0)
    start, update = ready(algorithm, target, network)
    state = start
    for number in range(1, 6):
        state, _, _ = update(state, number)
        assert len(named(state.params, NAME)) == 3 + 5
        for kernel in named(state.params, NAME):
            np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=-2), 1, rtol=1e-5)
    (held,) = named(state.source["target_params"], NAME)
    assert (jnp.linalg.norm(held, axis=-2) < 0.99).any()  # an average of unit columns
    free = [named(tree.params, "gain") + named(tree.params, "bias") for tree in (start, state)]
    assert all((before != after).any() for before, after in zip(*free, strict=True))


def test_crossq_is_an_online_network_with_batch_renormalisation():
    """Statistics of critics and actor move with each update, and values of one observation need no others."""
    algorithm = SAC(actor_width=8, actor_depth=1)
    network = Dense((8,), norm="batch_renorm")
    state, update = ready(algorithm, network=network)
    for number in (1, 2):
        state, _, _ = update(state, number)
    values = jax.jit(algorithm.build(WORLD.spec, FREE, network).values)
    of_critics, of_actor = state.source["batch_stats"], state.actor_batch_stats
    assert of_critics["BatchRenorm_0"]["batches"].tolist() == [2, 2]  # once for now and then together
    assert jax.tree.leaves(of_actor)[0] == 2
    obs = jnp.array([[0.3, 0.1], [2.0, -1.0]])
    together, apart = values(state, KEY, obs), values(state, KEY, obs + jnp.array([[0.0], [1.0]]))
    np.testing.assert_allclose(together[0], apart[0], rtol=1e-5)
    assert together[1] != apart[1]


def test_learning_rates_fall_in_a_line():
    """Adam's first step is the rate in every parameter, however small the gradient."""
    algorithm = SAC(
        learning_rate=0.1, final_learning_rate=0.02, learning_rate_updates=100, adam_epsilon=1e-30, actor_depth=0
    )
    start, update = ready(algorithm)
    for number, rate in ((0, 0.1), (50, 0.06), (100, 0.02), (1000, 0.02)):
        gap = update(start, number)[0].params["temperature"] - start.params["temperature"]
        assert abs(gap) == pytest.approx(rate, rel=1e-4)


# Acting


def test_actions_are_random_at_first():
    learner = SAC(random_steps=100).build(WORLD.spec, OnlineNetwork(), Dense((8,)))
    state = jax.jit(learner.init)(KEY, batch_of(KEY))
    state.params["actor"]["log_std"]["bias"] -= 20  # a policy that is sure of its action
    obs = jnp.zeros((4_000, 2))
    act = jax.jit(learner.act)
    early, late = (act(state, KEY, obs, jnp.int32(step)) for step in (99, 100))
    np.testing.assert_allclose(np.quantile(early, [0, 0.25, 0.5, 0.75, 1]), [-1, -0.5, 0, 0.5, 1], atol=0.05)
    sure = learner.act(state, KEY, obs, None)
    assert np.std(late) < 0.01 and np.std(sure) == 0
    np.testing.assert_allclose(late, sure, atol=0.05)


# Normalisers


def test_normalisers_learn_from_steps_and_are_used_in_acting_and_in_updates():
    """With tables of zeros as critics and no next step the loss is twice the mean square of the scaled rewards."""
    algorithm = SAC(normalise_observations=True, scale_rewards=True, value_bound=2.0, actor_depth=0)
    learner, batch = algorithm.build(WORLD.spec, FREE, TABLE), batch_of(KEY)
    batch = batch._replace(transition=batch.transition._replace(discount=jnp.zeros(SIZE)))
    obs = 5 + 2 * jax.random.normal(KEY, (50, 3, 2))

    @jax.jit
    def run(key):
        def observe(state, obs):
            no = jnp.zeros(3, bool)
            step = Step(obs, jnp.zeros((3, 1)), jnp.array([1.0, 2.0, 3.0]), no, no, obs)
            return learner.observe(state, key, step, obs, jnp.int32(1))

        state, _ = jax.lax.scan(observe, learner.init(key, batch), obs)
        _, _, told = learner.update(state, batch, key, jnp.int32(1))
        return state, told["loss"], learner.act(state, key, obs[0], None)

    state, loss, action = run(KEY)
    np.testing.assert_allclose(state.observations.mean, obs.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(state.observations.variance, obs.var((0, 1)), rtol=1e-4)
    running = np.cumsum(0.99 ** np.arange(50))  # of the first environment, whose rewards are 1
    np.testing.assert_allclose(state.returns.running, running[-1:], rtol=1e-5)
    scale = max(running.std(), running[-1] / 2)
    np.testing.assert_allclose(loss, 2 * np.square(batch.transition.reward / scale).mean(), rtol=1e-3)
    by_hand = (obs[0] - obs.mean((0, 1))) / obs.std((0, 1))
    actor = state.params["actor"]["mean"]
    np.testing.assert_allclose(action, jnp.tanh(by_hand @ actor["kernel"] + actor["bias"]), rtol=1e-3)


# Mistakes


def box(low, high, shape=(2,)) -> Continuous:
    return Continuous(*(np.full(shape, bound, np.float32) for bound in (low, high)))


HUGE = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (Discrete(3), "those of 'two in a row' are discrete"),
        (box(0, 1, (2, 3)), r"one vector, and those of 'two in a row' are \[2, 3\]"),
        (box(0, 1, ()), "one vector"),
        (box(0, 1, (0,)), "one vector"),
        (box(0, np.inf), r"dimension 0 of those of 'two in a row' lies in 0 \.\. inf: give its action space finite"),
        (box(-HUGE, HUGE), "dimension 0"),  # is_bounded() of Gymnasium takes it, and a range of it overflows
        (box(-1e10, 1e10), "dimension 0"),  # of the Control Suite
        (box(0, np.nan), "dimension 0"),
        (Continuous(np.array([0.0, 1.0]), np.ones(2)), "dimension 1"),
    ],
)
def test_actions_that_are_no_bounded_vector_are_refused(actions, message):
    with pytest.raises(SharedqError, match=message):
        SAC().build(world(actions).spec, OnlineNetwork(), Dense())


def test_settings_that_sac_cannot_use_are_told():
    for wrong in ({"gamma": 2.0}, {"critics": 0}, {"atoms": 1}, {"adam_beta": 1.0}, {"final_learning_rate": 0.0}):
        with pytest.raises(SharedqError, match=next(iter(wrong))):
            SAC(**wrong)


# In the loop


def test_a_host_run_goes_on_from_its_checkpoint_to_the_bit_with_its_normalisers_and_its_worlds(tmp_path):
    """Two steps a cycle, so that one is observed with the next action and one where the cycle ends."""
    algorithm = dataclasses.replace(recipe("sac-simba-dmc").algorithm, actor_width=8, random_steps=20)
    experiment = Experiment(
        Control("cartpole-swingup", action_repeat=2, time_limit=22),
        algorithm,
        SharedHeads(period=1, tau=0.1),
        SimbaV2(width=8, blocks=1),
        Transitions(50, 16),
        Interactive(steps=80, environments=2, warm_up=16, update_period=4, gradient_steps=2, log_period=40),
    )
    program = experiment.build().program()
    program.prepare()
    run = program.begin()
    for start, stop in ((0, 16), (16, 40)):
        run, told = program.advance(run, start, stop)
    host = program.to_host(run)
    assert host.agent.observations.count[0] > 40 and host.agent.returns.largest[0] > 0
    assert host.agent.optimisers["critic"].count[0] == 2 * (40 - 16) / 4
    assert np.isfinite(told.metrics["entropy"]).all()
    path = checkpoints.save(tmp_path, 40, {"run": host}, "digest", {"worlds": program.save_worlds()})
    unbroken, told = program.advance(run, 40, 80)
    unbroken = program.to_host(unbroken)
    program.load_worlds(checkpoints.read_meta(path)["worlds"], 40)
    again = program.to_devices(checkpoints.load(path, "run", program.shapes()))
    again, told_again = program.advance(again, 40, 80)
    jax.tree.map(np.testing.assert_array_equal, (unbroken, told), (program.to_host(again), told_again))
    assert told.episodes[0].lengths.tolist() == [11, 11] * 2  # of both worlds, some of them begun before the cut
    program.close()
