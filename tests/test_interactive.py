"""The loop over worlds on the host: the same to the bit as the compiled loop, where the worlds are the same."""

import dataclasses
import json
from collections import Counter
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq import random_keys
from sharedq.algorithms import DQN, Algorithm
from sharedq.environments import CartPole, Discrete, EnvironmentSpec, HostEnvironment, autoreset
from sharedq.environments.sync_vector_env import HostTimeStep, SyncVectorEnv
from sharedq.errors import SharedqError, Unphysical
from sharedq.experiment import Experiment
from sharedq.networks import Dense
from sharedq.playing.episodes import play, play_on_host
from sharedq.replay import NoReplay, Transitions, uniform_replay
from sharedq.targets import SharedHeads
from sharedq.training import Fused, Interactive, Streaming
from sharedq.training.learning import step_like
from sharedq.transitions import Step

FUSED = Fused(steps=960, environments=3, warm_up=90, update_period=4, gradient_steps=2, log_period=120)
SMALL = Experiment(
    environment=CartPole(time_limit=30),
    algorithm=DQN(learning_rate=1e-3, epsilon_end=0.1, epsilon_steps=300),
    target=SharedHeads(heads=2, period=10),
    network=Dense((8,)),
    replay=Transitions(capacity=1200, batch_size=8),
    training=FUSED,
)


class Stepped:
    """An environment of the device, stepped from the host with the keys that the compiled loop would use."""

    opened = 0

    def __init__(self, environment, count: int, seed: int):
        self.count, self.key, self.time = count, random_keys.root(seed), 0
        self.first = jax.jit(jax.vmap(environment.reset))
        self.next = jax.jit(jax.vmap(autoreset(environment).step))
        Stepped.opened += 1

    def reset(self):
        keys = jax.random.split(random_keys.named(self.key, "first episodes"), self.count)
        self.state, obs = self.first(keys)
        return np.asarray(obs)

    def step(self, actions):
        keys = jax.random.split(random_keys.at(random_keys.named(self.key, "environment"), self.time), self.count)
        self.state, outcome = self.next(keys, self.state, jnp.asarray(actions))
        self.time += 1
        return jax.tree.map(np.asarray, outcome)

    def save(self):
        return [self.time, *(np.asarray(x).tolist() for x in jax.tree.leaves(self.state))]

    def load(self, saved):
        self.reset()
        self.time, *leaves = saved
        like, structure = jax.tree.flatten(self.state)
        self.state = structure.unflatten([jnp.asarray(x, old.dtype) for x, old in zip(leaves, like, strict=True)])

    def close(self):
        Stepped.opened -= 1


def on_the_host(inner) -> HostEnvironment:
    return HostEnvironment(inner.spec, partial(Stepped, inner))


def interactive(seeds: list[int], **changes):
    built = SMALL.build()
    training = Interactive(**dataclasses.asdict(dataclasses.replace(FUSED, **changes)))
    return training.build(on_the_host(built.environment), built.algorithm, built.replay, seeds)


def run_of(program, run=None, start: int = 0, end: int | None = None):
    run, told, step = program.begin() if run is None else run, [], start
    for stop in [s for s in program.log_steps if s > start and (end is None or s <= end)]:
        run, heard = program.advance(run, step, stop)
        told.append(heard)
        step = stop
    return run, told


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def three():
    program = interactive([0, 1, 2])
    program.prepare()
    run, told = run_of(program)
    return program.to_host(run), told


def test_it_equals_the_compiled_loop_to_the_bit(three):
    program = SMALL.replace(seeds=3).build().program()
    program.prepare()
    run, told = run_of(program)
    fused, host = program.to_host(run), three[0]
    same((fused.agent, fused.replay, fused.obs), (host.agent, host.replay, host.obs))
    same((fused.episode.returned, fused.episode.length), (host.returned, host.length))
    for one, other in zip(told, three[1], strict=True):
        same(one.episodes, other.episodes)
        same((one.bad_step, one.params_finite), (other.bad_step, other.params_finite))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one.metrics, other.metrics)


def observing(algorithm):
    """The same algorithm, which also moves its weights by all that it observes."""

    def observe(state, key, step, obs, count):
        moved = 1e-3 * (step.reward.mean() + step.next_obs.sum() - obs.sum() + jax.random.normal(key)) / count
        return state._replace(params=jax.tree.map(lambda w: w + moved, state.params)), {"count": count, "moved": moved}

    return algorithm._replace(observe=observe)


@pytest.mark.parametrize("streams", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_observing_equals_the_compiled_loop_and_takes_no_call_of_its_own(streams):
    """The first step of a cycle is chosen alone, every other in the call that observes the one before it."""
    built = SMALL.build()
    algorithm, host = observing(built.algorithm), on_the_host(built.environment)
    replay, stretches = built.replay, 2
    if streams:
        algorithm = algorithm._replace(update=None)
        replay = uniform_replay(NoReplay().build(step_like(host.spec), 0.9, 3))
        loops = [Streaming(steps=240, environments=3, log_period=120)] * 2
    else:
        loops = [dataclasses.replace(FUSED, steps=240), Interactive(**dataclasses.asdict(FUSED) | {"steps": 240})]
    parts = algorithm, replay, [0, 1, 2] if streams else [0]
    fused, program = (loop.build(world, *parts) for loop, world in zip(loops, (built.environment, host)))
    fused.prepare()
    program.prepare()
    calls = Counter()
    for name in ("_act", "_observe_and_act"):
        setattr(program, name, counted(calls, name, getattr(program, name)))
    (run, told), (on_host, host_told) = run_of(fused), run_of(program)
    run, on_host = fused.to_host(run), program.to_host(on_host)
    same((run.agent, run.replay, run.obs), (on_host.agent, on_host.replay, on_host.obs))
    for one, other in zip(told, host_told, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), one.metrics, other.metrics)
    alone = stretches if streams else 240 // FUSED.cycle
    assert calls == {"_act": alone, "_observe_and_act": 240 // 3 - alone}


def counted(calls: Counter, name: str, function):
    def call(*arguments):
        calls[name] += 1
        return function(*arguments)

    return call


class Whole(NamedTuple):
    """An agent of whole numbers, so that any order of doing things is exact, and each order gives others."""

    params: jax.Array
    observed: jax.Array


def _act(state, key, obs, step):
    draw = jax.random.randint(key, (len(obs),), 0, 3)
    return ((state.params + state.observed + obs[:, 0].astype(jnp.int32) + draw + step) % 3).astype(jnp.int32)


def _observe(state, key, step, obs, count):
    more = (step.obs[:, 0] + 2 * obs[:, 0] + 3 * step.reward).sum().astype(jnp.int32) + count
    return state._replace(observed=(5 * state.observed + more) % 9973), {}


def _update(state, batch, key, step):
    sample = batch.transition
    more = (sample.obs[:, 0] + 3 * sample.next_obs[:, 0] + 5 * sample.action).sum().astype(jnp.int32)
    metrics = {"loss": jnp.where(step == BROKEN, jnp.nan, 0.0)}
    return state._replace(params=(7 * state.params + more + state.observed + step) % 9973), batch.weights[None], metrics


WHOLE = Algorithm(
    init=lambda key, example: Whole(jnp.int32(1), jnp.int32(1)),
    act=_act,
    values=lambda *_: jnp.zeros((1, 3)),
    decide=lambda *_: (jnp.zeros(1, jnp.int32), jnp.zeros((1, 3))),
    observe=_observe,
    update=_update,
)
BROKEN = 21  # the update whose loss is not a number
TURNS = Interactive(
    steps=60, environments=2, warm_up=10, update_period=3, gradient_steps=2, log_period=24, learn_while_stepping=True
)


class Turning:
    """Goes round a ring of 101 places by its actions, for five steps at a time."""

    def __init__(self):
        self.place, self.time = 3, 0

    def begin(self):
        self.time = 0
        return np.full(1, self.place, np.float32)

    def step(self, action):
        self.time += 1
        self.place = (7 * self.place + int(action) + 1) % 101
        return HostTimeStep(np.full(1, self.place, np.float32), float(action), False, self.time == 5)

    def save(self):
        return [self.place, self.time]

    def load(self, saved):
        self.place, self.time = saved

    def close(self): ...


TURNING = HostEnvironment(
    EnvironmentSpec("turning", jax.ShapeDtypeStruct((1,), jnp.float32), Discrete(3)),
    lambda count, seed: SyncVectorEnv([Turning() for _ in range(count)]),
)
KEPT = uniform_replay(Transitions(capacity=40, batch_size=4).build(step_like(TURNING.spec), 0.9, TURNS.environments))


def written_out(training, seed: int):
    """The loop in the order of its words, for one seed, without any of its compiled programs."""
    key, worlds = random_keys.root(seed), TURNING.open(training.environments, seed)
    act_key, observe_key, replay_key, update_key = (
        random_keys.named(key, name) for name in ("act", "observe", "replay", "update")
    )
    act, observe, update, sample = map(jax.jit, (_act, _observe, _update, KEPT.sample))
    agent, data, obs = WHOLE.init(None, None), KEPT.init(), worlds.reset()

    for number in range(training.cycles(training.steps)):
        steps, begins = [], number * training.steps_per_cycle
        for time in range(begins, begins + training.steps_per_cycle):
            action = act(agent, random_keys.at(act_key, time), obs, time * training.environments)
            if time == begins and number >= training.cycles(training.warm_up):
                for count in range(
                    number * training.updates_per_cycle + 1, (number + 1) * training.updates_per_cycle + 1
                ):
                    data, batch, _ = sample(data, begins, agent, count, random_keys.at(replay_key, count))
                    agent, errors, _ = update(agent, batch, random_keys.at(update_key, count), count)
                    data = KEPT.update(data, begins, batch, errors, count)
            out = worlds.step(np.asarray(action))
            steps.append(Step(obs, action, out.reward, out.terminated, out.truncated, out.final_obs))
            obs = out.obs
            agent, _ = observe(agent, random_keys.at(observe_key, time), steps[-1], obs, time + 1)
        for time, step in enumerate(steps, begins):
            data = KEPT.add(data, time, step)
    return agent, data, obs


def test_learning_while_stepping_does_what_is_written_out_and_goes_on_from_every_stop_to_the_bit():
    program = TURNS.build(TURNING, WHOLE, KEPT, [3])
    program.prepare()
    run, calls = program.begin(), []
    noted(calls, program, "_act", "_observe_and_act", "_learn", "_store")
    noted(calls, program._worlds[0], "step")
    kept, told, step = [], [], 0
    for stop in program.log_steps:
        run, heard = program.advance(run, step, stop)
        told.append(int(heard.bad_step[0]))
        kept.append((stop, program.to_host(run), program.save_worlds()))
        step = stop
    end = kept[-1][1]
    agent, data, obs = written_out(TURNS, 3)
    same((agent, data, obs), jax.tree.map(lambda x: x[0], (end.agent, end.replay, end.obs)))
    assert program.log_steps == [12, 24, 48, 60]
    assert told == [-1, -1, 33, -1]  # where the broken update was due, two updates for three steps
    assert calls[-8:] == ["_act", "_learn", "step", *["_observe_and_act", "step"] * 2, "_store"]
    assert calls.count("_learn") == (60 - 12) // TURNS.cycle
    for stop, saved, worlds in kept[:-1]:
        program.load_worlds(json.loads(json.dumps(worlds)), stop)
        same(program.to_host(run_of(program, program.to_devices(saved), stop)[0]), end)


def noted(calls: list[str], owner, *names: str) -> None:
    """Notes when these methods are called."""
    for name in names:
        setattr(
            owner,
            name,
            partial(lambda name, method, *given: calls.append(name) or method(*given), name, getattr(owner, name)),
        )


def test_it_goes_on_where_it_was_saved_to_the_bit(three):
    program = interactive([0, 1, 2])
    program.prepare()
    run, _ = run_of(program, end=480)
    saved, worlds = program.to_host(run), json.loads(json.dumps(program.save_worlds()))
    run_of(program, run, 480)  # moves the worlds on
    program.load_worlds(worlds, 480)
    run, told = run_of(program, program.to_devices(saved), 480)
    same(program.to_host(run), three[0])
    same([heard.episodes for heard in told], [heard.episodes for heard in three[1][-len(told) :]])


def test_a_world_that_breaks_down_is_told_with_its_seed_and_step(monkeypatch):
    program = TURNS.build(TURNING, WHOLE, KEPT, [4, 5])
    run, _ = program.advance(program.begin(), 0, 6)

    def breaks(actions):
        raise Unphysical("a reward")

    monkeypatch.setattr(program._worlds[1], "step", breaks)
    with pytest.raises(Unphysical) as caught:
        program.advance(run, 6, 12)
    assert (caught.value.what, caught.value.seed, caught.value.step) == ("a reward", 5, 8)


@pytest.mark.parametrize(("moment", "step"), [("begin", 0), ("load", 6)])
def test_a_world_that_breaks_down_before_a_step_is_told_so_too(monkeypatch, moment, step):
    def breaks(world, *saved):
        opened.append(world)
        if len(opened) > TURNS.environments:  # in the second seed
            raise Unphysical("an observation")
        return np.zeros(1, np.float32)

    opened = []
    program = TURNS.build(TURNING, WHOLE, KEPT, [4, 5])
    monkeypatch.setattr(Turning, moment, breaks)
    with pytest.raises(Unphysical) as caught:
        program.begin() if moment == "begin" else program.load_worlds([[[3, 0]] * TURNS.environments] * 2, 6)
    assert (caught.value.what, caught.value.seed, caught.value.step) == ("an observation", 5, step)


def test_shapes_are_those_of_the_run(three):
    described = interactive([0, 1, 2]).shapes()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), described) == jax.tree.map(lambda x: (x.shape, x.dtype), three[0])


def test_worlds_are_closed():
    before = Stepped.opened
    program = interactive([0])
    program.begin()
    assert Stepped.opened == before + 1
    program.close()
    assert Stepped.opened == before


def test_rewards_are_bounded_for_learning_and_told_as_they_are():
    program = interactive([0], reward_bound=0.5, steps=240)
    program.prepare()
    run, told = run_of(program)
    host = program.to_host(run)
    assert host.replay.storage["ring"].reward.max() == 0.5
    returns = np.concatenate([heard.episodes[0].returns for heard in told])
    lengths = np.concatenate([heard.episodes[0].lengths for heard in told])
    assert (returns == lengths).all() and returns.size


class Lives:
    """Games that are cut after six steps and cost a life at the third and at the last; observations count steps."""

    def begin(self):
        self.time = 0
        return np.zeros(1, np.float32)

    def step(self, action):
        self.time += 1
        return HostTimeStep(np.full(1, self.time, np.float32), 1.0, False, self.time == 6, self.time in (3, 6))


def test_a_lost_life_is_an_end_for_what_learns_and_for_nothing_else():
    spec = EnvironmentSpec("lives", jax.ShapeDtypeStruct((1,), jnp.float32), Discrete(2))
    world = HostEnvironment(spec, lambda count, seed: SyncVectorEnv([Lives()] * count))
    algorithm = SMALL.algorithm.build(spec, SMALL.target, SMALL.network)
    replay = uniform_replay(Transitions(capacity=20, batch_size=1).build(step_like(world.spec), 0.9, 1))
    program = Interactive(steps=40, warm_up=20, update_period=1, log_period=20).build(world, algorithm, replay, [0, 1])
    run, told = program.advance(program.begin(), 0, 20)
    steps = program.to_host(run).replay.storage["ring"]
    times = np.arange(20)
    for seed in (0, 1):
        np.testing.assert_array_equal(steps.terminated[seed], times % 3 == 2)
        assert not steps.truncated[seed].any()
        np.testing.assert_array_equal(steps.obs[seed, :, 0], times % 6)
        np.testing.assert_array_equal(steps.next_obs[seed, :, 0], times % 6 + 1)
        assert told.episodes[seed].lengths.tolist() == told.episodes[seed].returns.tolist() == [6, 6, 6]
    assert run.length.tolist() == run.returned.tolist() == [[2], [2]]


def test_a_loop_refuses_environments_of_the_other_kind():
    built = SMALL.build()
    with pytest.raises(SharedqError, match="add --training fused"):
        Interactive().build(built.environment, built.algorithm, built.replay, [0])
    host = on_the_host(built.environment)
    with pytest.raises(SharedqError, match="add --training interactive"):
        Fused().build(host, built.algorithm, built.replay, [0])


def test_playing_on_the_host_equals_playing_on_the_device():
    built = SMALL.build()
    environment = built.environment
    host = on_the_host(environment)

    def act(key, obs):
        return jax.random.randint(key, (len(obs),), 0, 2)

    on_host = play_on_host(host, act, 3, 5, 25)
    same(on_host, jax.tree.map(np.asarray, play(environment, act, 3, 5, 25)))
    assert 0 < on_host[2].sum() < 5  # some ended by themselves, some were cut
