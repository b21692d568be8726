"""The fused loop: it repeats to the bit, seeds do not depend on their neighbours, it tells what happened."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.algorithms import DQN, dqn
from sharedq.environments import CartPole, ProbeEnvironment
from sharedq.experiment import Experiment
from sharedq.exploration import epsilon_greedy, linear_schedule
from sharedq.networks import Dense, Table
from sharedq.replay import Transitions
from sharedq.targets import SharedHeads, TargetNetwork
from sharedq.training import Fused
from sharedq.training.seeds import Layout

SMALL = Experiment(
    environment=CartPole(time_limit=30),
    algorithm=DQN(learning_rate=1e-3, epsilon_end=0.1, epsilon_steps=300),
    target=SharedHeads(heads=2, period=10),
    network=Dense((8,)),
    replay=Transitions(capacity=1200, batch_size=8),
    training=Fused(steps=1000, environments=3, warm_up=90, update_period=4, log_period=120),
)


def run_of(program, stop_at: int | None = None):
    """The run on the host after training, and what every stretch of it told."""
    run, told, step = program.begin(), [], 0
    for stop in program.log_steps:
        if stop_at is not None and stop > stop_at:
            break
        run, heard = program.advance(run, step, stop)
        told.append(heard)
        step = stop
    return program.to_host(run), told


def compiled(experiment: Experiment):
    program = experiment.build().program()
    program.prepare()
    return program


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def seed_of(tree, place: int):
    return jax.tree.map(lambda x: x[place], tree)


TRACES = []


@pytest.fixture(scope="module")
def program():
    """Three seeds; whenever Python walks through the environment or the update, it leaves a trace."""
    built = SMALL.replace(seeds=3).build()

    def step(key, state, action):
        TRACES.append("environment")
        return built.environment.step(key, state, action)

    def update(*arguments):
        TRACES.append("update")
        return built.algorithm.update(*arguments)

    environment, algorithm = built.environment._replace(step=step), built.algorithm._replace(update=update)
    program = SMALL.training.build(environment, algorithm, built.replay, [0, 1, 2])
    program.prepare()
    return program


@pytest.fixture(scope="module")
def three(program):
    return run_of(program)


@pytest.fixture(scope="module")
def single():
    return compiled(SMALL.replace(seed=1))


# Repetition, compiling and seeds


def test_equal_runs_are_equal_to_the_bit_and_nothing_is_traced_again(program, three):
    assert set(TRACES) == {"environment", "update"}
    assert len({b - a for a, b in zip([0, *program.log_steps], program.log_steps)}) > 1  # chunks of several lengths
    TRACES.clear()
    again, told = run_of(program)
    assert TRACES == []
    same(again, three[0])
    same([heard.metrics for heard in told], [heard.metrics for heard in three[1]])


def test_a_seed_does_not_depend_on_how_many_run_beside_it(single, three):
    """Three seeds on two devices: one device holds two of them, the other one and a seat that stays empty."""
    assert jax.device_count() == 2
    alone, told = run_of(single)
    same(seed_of(alone, 0), seed_of(three[0], 1))
    for heard, beside in zip(told, three[1], strict=True):
        same(heard.episodes[0], beside.episodes[1])


def test_seeds_differ(three):
    kernels = three[0].agent.params["trunk"]["Dense_0"]["kernel"]
    obs = three[0].replay.storage["ring"].obs
    for other in (1, 2):
        assert (kernels[0] != kernels[other]).all()
        assert (obs[0, :3] != obs[other, :3]).all()


def test_an_array_without_entries_is_spread_like_any_other():
    """MinAtar's Asterix has one in its state."""
    layout = Layout(3)

    def grow(shared, own):
        return jax.tree.map(lambda x: x + shared, own), ()

    one = {"some": jax.ShapeDtypeStruct((2,), np.float32), "none": jax.ShapeDtypeStruct((0,), np.float32)}
    compiled = layout.spread(grow).lower(1, layout.shapes(one)).compile()
    own = layout.place({"some": np.zeros((3, 2), np.float32), "none": np.zeros((3, 0), np.float32)})
    for _ in range(2):
        own, _ = compiled(1, own)
    assert (layout.fetch(own)["some"] == 2).all()


def test_five_seeds_fit_on_two_devices(three):
    five, told = run_of(compiled(SMALL.replace(seeds=5)))
    same(jax.tree.map(lambda x: x[:3], five), three[0])
    assert all(leaf.shape[0] == 5 for leaf in jax.tree.leaves(five))
    assert [len(heard.episodes) for heard in told] == [5] * len(told)
    assert told[-1].metrics["loss"].shape == (5,)


def test_chunks_do_not_change_what_is_learned(three):
    """Another log period is another cut of the same run."""
    whole, told = run_of(compiled(SMALL.replace(seed=1, **{"training.log_period": 1000})))
    same(seed_of(whole, 0), seed_of(three[0], 1))
    assert len(told) < len(three[1])


# What happens when


def test_nothing_is_learned_while_warming_up(single):
    begun = single.to_host(single.begin())
    warm, told = run_of(single, stop_at=96)  # 90 steps, in whole cycles of 12
    assert single.log_steps[0] == 96
    same(warm.agent, begun.agent)
    assert told[0].metrics == {}
    later, told = run_of(single, stop_at=120)
    assert sorted(told[1].metrics) == single.metric_names == ["loss", "q_value", "td_error"]
    assert later.agent.optimiser[0].count.tolist() == [6]  # one update for every 4 steps
    assert (later.agent.params["heads"]["kernel"] != begun.agent.params["heads"]["kernel"]).any()


def test_the_run_covers_the_steps_asked_for_in_whole_cycles():
    training = SMALL.training
    stops = SMALL.build().program().log_steps
    assert training.cycle == 12
    assert stops[-1] == 1008
    assert all(stop % 12 == 0 for stop in stops)
    assert stops == sorted(set(stops))
    assert [120 * i for i in range(1, 9)] == [stop for stop in stops if stop % 120 == 0]


def test_several_updates_at_once_are_made_at_one_step():
    training = Fused(environments=6, update_period=4, gradient_steps=3)
    assert (training.cycle, training.steps_per_cycle, training.updates_per_cycle) == (12, 2, 9)
    np.testing.assert_array_equal(training.step_of(np.arange(1, 10)), [4, 4, 4, 8, 8, 8, 12, 12, 12])
    halved, twice = Fused(environments=4, update_period=2), Fused(environments=4, update_period=4, gradient_steps=2)
    assert (halved.cycle, halved.updates_per_cycle) == (
        twice.cycle,
        twice.updates_per_cycle,
    )  # one and the same program


def test_the_public_codes_clock_shifts_first_at_step_24_000():
    """Warm-up of 20,000 steps, an update every 4 steps, a shift every 2,000 updates counted from the first step."""
    experiment = Experiment(
        environment=ProbeEnvironment("corridor"),
        target=SharedHeads(heads=1, period=2000),
        network=Dense((2,)),
        replay=Transitions(capacity=100, batch_size=1),
        training=Fused(steps=24_000, environments=1, warm_up=20_000, update_period=4, log_period=24_000),
    )
    program = compiled(experiment)
    run = program.begin()
    head_0 = program.to_host(run).agent.source["target_params"]["kernel"]
    run, _ = program.advance(run, 0, 20_000)
    run, _ = program.advance(run, 20_000, 23_996)
    before = program.to_host(run).agent
    same(before.source["target_params"]["kernel"], head_0)
    assert before.optimiser[0].count.tolist() == [999]
    after = program.to_host(program.advance(run, 23_996, 24_000)[0]).agent
    assert (after.source["target_params"]["kernel"] != head_0).any()
    same(after.source["target_params"], after.params["heads"])  # K = 1: right after the shift both heads are equal


# Episodes


def replayed(ring, environments: int, written: int):
    """Episodes and continuity, walked through by hand: the steps that a ring holds which has never been full."""
    steps = jax.tree.map(lambda x: x[: written * environments].reshape(written, environments, *x.shape[1:]), ring)
    returned, length, ended = [0.0] * environments, [0] * environments, []
    for time in range(written):
        for e in range(environments):
            returned[e] += float(steps.reward[time, e])
            length[e] += 1
            if steps.terminated[time, e] or steps.truncated[time, e]:
                ended.append(((time + 1) * environments, returned[e], length[e]))
                returned[e], length[e] = 0.0, 0
            elif time + 1 < written:
                np.testing.assert_array_equal(steps.next_obs[time, e], steps.obs[time + 1, e])
    return steps, ended, returned, length


@pytest.mark.parametrize("place", [0, 2])
def test_the_episodes_told_are_those_that_happened(three, place):
    run, told = three
    ring = seed_of(run.replay.storage["ring"], place)
    steps, ended, returned, length = replayed(ring, 3, 1008 // 3)
    parts = [heard.episodes[place] for heard in told]
    seen = [np.concatenate([getattr(part, name) for part in parts]) for name in ("steps", "returns", "lengths")]
    assert list(zip(*(column.tolist() for column in seen))) == ended
    assert run.episode.returned[place].tolist() == returned
    assert run.episode.length[place].tolist() == length
    assert steps.terminated.any()
    assert max(seen[2]) <= 30


def test_a_time_limit_is_stored_as_such_and_the_next_episode_begins_anew():
    """Under a limit of 5 steps no pole falls: every episode is truncated, and its true successor kept."""
    program = compiled(SMALL.replace(**{"environment.time_limit": 5}))
    run, _ = run_of(program, stop_at=120)
    steps, ended, _, _ = replayed(seed_of(run.replay.storage["ring"], 0), 3, 120 // 3)
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.truncated, np.arange(40)[:, None] % 5 == np.full(3, 4))
    assert {(returned, length) for _, returned, length in ended} == {(5.0, 5)}
    for time in range(4, 35, 5):
        assert (np.abs(steps.obs[time + 1]) <= 0.05).all()  # a fresh start
        assert (steps.next_obs[time] != steps.obs[time + 1]).all()  # and not the successor
        for e in range(3):
            state = jnp.array(steps.obs[time, e]), jnp.int32(0)
            _, outcome = CartPole().build().step(None, state, steps.action[time, e])
            np.testing.assert_allclose(steps.next_obs[time, e], outcome.obs, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_no_number_is_told_with_its_step():
    broken = SMALL.build()

    def update(state, batch, key, step):
        state, errors, metrics = broken.algorithm.update(state, batch, key, step)
        return state, errors, metrics | {"loss": jnp.where(step >= 27, jnp.nan, metrics["loss"])}

    program = SMALL.training.build(broken.environment, broken.algorithm._replace(update=update), broken.replay, [0])
    program.prepare()
    run, _ = program.advance(program.begin(), 0, 96)
    run, told = program.advance(run, 96, 120)
    assert told.bad_step.tolist() == [27 * 4]
    assert told.params_finite.tolist() == [True]


# Exploration


def test_the_share_of_random_actions_falls_in_a_line_and_stays():
    shares = [float(linear_schedule(1.0, 0.1, 300, jnp.int32(step))) for step in (0, 100, 150, 300, 10_000)]
    np.testing.assert_allclose(shares, [1.0, 0.7, 0.55, 0.1, 0.1], rtol=1e-6)
    assert float(linear_schedule(1.0, 0.1, 0, jnp.int32(1))) == pytest.approx(0.1)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_strays_as_often_as_it_says(epsilon):
    count, actions = 10_000, 4
    values = jnp.tile(jnp.array([0.0, 3.0, 1.0, 2.0]), (count, 1))
    drawn = np.bincount(epsilon_greedy(jax.random.key(0), lambda: values, epsilon), minlength=actions)
    expected = count * np.array([epsilon / 4, 1 - epsilon + epsilon / 4, epsilon / 4, epsilon / 4])
    np.testing.assert_array_less(np.abs(drawn - expected), 4 * np.sqrt(expected) + 1)


@pytest.mark.parametrize(("epsilon", "times"), [(1.0, 0), (0.0, 1)])
def test_values_are_computed_only_where_an_action_depends_on_them(epsilon, times):
    computed = []

    def values():
        jax.debug.callback(lambda: computed.append(True))
        return jnp.zeros((3, 4))

    jax.block_until_ready(jax.jit(lambda key: epsilon_greedy(key, values, epsilon))(jax.random.key(0)))
    jax.effects_barrier()
    assert len(computed) == times


def test_actions_follow_the_schedule_of_environment_steps_and_evaluation_does_not():
    source, key, obs = TargetNetwork().build(Table().build(2)), jax.random.key(0), jnp.ones((4000, 1))
    algorithm = DQN(epsilon_start=1.0, epsilon_end=0.0, epsilon_steps=100).on(source)
    params, source_state = source.init(key, obs)
    params["heads"]["kernel"] = jnp.array([[[0.0, 1.0]]])
    state = dqn.State(params, source_state, ())
    share = {step: float((algorithm.act(state, key, obs, step) == 0).mean()) for step in (0, 50, 100, None)}
    assert share[0] == pytest.approx(0.5, abs=0.03)
    assert share[50] == pytest.approx(0.25, abs=0.03)
    assert share[100] == share[None] == 0
