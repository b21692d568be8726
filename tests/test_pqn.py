"""PQN: its returns, how long its targets are held, what it learns, whole runs, and the experiments that are refused."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attacks.answers import same_after_a_stop
from hypothesis import given
from hypothesis import strategies as st
from test_interactive import on_the_host, run_of, same

from sharedq.algorithms import DQN, PQN
from sharedq.bellman.returns import lambda_returns
from sharedq.command_line import main
from sharedq.environments import ProbeEnvironment
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.networks import Dense, Table
from sharedq.recipes import recipe
from sharedq.replay import Rollout
from sharedq.replay.rollout import shuffled
from sharedq.targets import REDQ, IteratedNetworks, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.training import Fused, Interactive, seeds
from sharedq.training.learning import example_batch
from sharedq.transitions import Step

pytestmark = pytest.mark.usefixtures("hasty")

KEY = jax.random.key(11)
T, N, MINIBATCHES, EPOCHS, GAMMA = 6, 4, 3, 2, 0.9
UPDATES = MINIBATCHES * EPOCHS
FREE = OnlineNetwork()


# The returns


def slow_returns(reward, terminated, truncated, next_value, gamma, trace_decay):
    """The returns of one environment, as sums over the number of steps before the bootstrap, without a recursion."""
    steps, returns = len(reward), []
    for start in range(steps):
        total, weight = 0.0, 1.0
        for last in range(start, steps):  # the return that bootstraps after step `last`
            summed = sum(gamma ** (t - start) * reward[t] for t in range(start, last + 1))
            bootstrap = 0 if terminated[last] else gamma ** (last + 1 - start) * next_value[last]
            over = terminated[last] or truncated[last] or last == steps - 1
            total += weight * (1 if over else 1 - trace_decay) * (summed + bootstrap)
            weight *= trace_decay
            if over:
                break
        returns.append(total)
    return returns


def slow_rollout(reward, terminated, truncated, next_value, *decays):
    """The returns [T, N] of several environments."""
    columns = zip(*(np.asarray(x).T for x in (reward, terminated, truncated, next_value)))
    return np.stack([slow_returns(*column, *decays) for column in columns], axis=1)


numbers = st.floats(-10, 10, width=32)
shares = st.sampled_from([0.0, 0.3, 0.65, 1.0])
ends = st.sampled_from([(False, False)] * 3 + [(True, False), (False, True), (True, True)])
one_step = st.tuples(numbers, ends, numbers, numbers)
rows = st.one_of(*(st.lists(one_step, min_size=size, max_size=size) for size in (1, 6)))
compiled_returns = jax.jit(lambda_returns)


@given(rows, shares, shares)
def test_returns_equal_the_sum_over_all_numbers_of_steps(steps, gamma, trace_decay):
    """For two heads with other values, and with ends anywhere."""
    reward, both, *values = zip(*steps)
    reward = np.array(reward, np.float32)[:, None]
    terminated, truncated = (np.array([one[i] for one in both])[:, None] for i in (0, 1))
    values = np.array(values, np.float32)[..., None]  # [H, T, 1]
    found = compiled_returns(reward, terminated, truncated, values, gamma, trace_decay)
    assert found.shape == values.shape
    for head, value in zip(found, values):
        wanted = slow_rollout(reward, terminated, truncated, value, gamma, trace_decay)
        np.testing.assert_allclose(head, wanted, rtol=1e-4, atol=1e-3)


def test_the_recursion_starts_with_the_value_of_the_last_next_state():
    """As the formula has it. Scripts that start one step off would give other numbers at every step but the last."""
    none = jnp.zeros((3, 1), bool)
    found = lambda_returns(jnp.array([[1.0], [2.0], [3.0]]), none, none, jnp.array([[10.0], [20.0], [40.0]]), 0.5, 0.5)
    last = 3 + 0.5 * 40
    second = 2 + 0.5 * (0.5 * 20 + 0.5 * last)
    first = 1 + 0.5 * (0.5 * 10 + 0.5 * second)
    np.testing.assert_allclose(found[:, 0], [first, second, last])


# What is drawn from a rollout


@pytest.mark.parametrize("size", [1, 2, 3, 4, 96, 4096, 5000])
def test_a_shuffle_holds_each_number_once(size):
    orders = jax.vmap(lambda key: shuffled(key, size))(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_array_equal(jnp.sort(orders, axis=1), np.tile(np.arange(size), (3, 1)))
    assert size < 96 or len(np.unique(orders, axis=0)) == 3


def test_every_order_is_as_likely():
    orders = jax.jit(jax.vmap(lambda key: shuffled(key, 3)))(jax.random.split(jax.random.key(0), 24_000))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert abs(counts - 4_000).max() < 5 * 4_000**0.5  # five standard deviations


def small(target=FREE, held="rollout", trace_decay=0.65, **options) -> Experiment:
    """PQN on a probe: rollouts of six steps of four environments, in three minibatches, twice."""
    experiment = Experiment(
        environment=ProbeEnvironment("corridor"),
        algorithm=PQN(
            gamma=GAMMA, trace_decay=trace_decay, targets=held, learning_rate=0.02, epsilon_end=1.0, epsilon_steps=1
        ),
        target=target,
        network=Table(),
        replay=Rollout(batch_size=T * N // MINIBATCHES),
        training=Fused(
            steps=8_000, environments=N, warm_up=0, update_period=T * N, gradient_steps=UPDATES, log_period=4_000
        ),
    )
    return experiment.replace(**options)


def steps_of_a_rollout() -> Step:
    """Steps [T, N] of the corridor that never happened, with ends of both kinds in the middle and at its end."""
    rng = np.random.default_rng(3)
    obs, next_obs = (jnp.asarray(np.eye(4, dtype=np.float32)[rng.integers(0, 4, (T, N))]) for _ in range(2))
    action, reward = rng.integers(0, 2, (T, N)).astype(np.int32), rng.normal(size=(T, N)).astype(np.float32)
    end = np.zeros((T, N), int)
    end[2, 0], end[3, 1], end[T - 1, 2], end[0, 3] = 1, 2, 1, 2
    return Step(obs, *map(jnp.asarray, (action, reward, end == 1, end == 2)), next_obs)


def agents(built, count: int):
    """Agents with other weights, each of which learns at one update."""
    state = jax.jit(built.algorithm.init)(KEY, example_batch(built.spec, 1))
    rng = np.random.default_rng(4)
    moved = [jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype("f"), state.params) for _ in range(count)]
    return moved, state


def filled(built, first: int):
    """The data of a replay when each environment has made `first` steps and then those of a rollout."""
    data, steps, add = built.replay.init(), steps_of_a_rollout(), jax.jit(built.replay.add)
    for time in range(T):
        data = add(data, first + time, jax.tree.map(lambda x, t=time: x[t], steps))
    return data


HELD = {"rollout": UPDATES, "epoch": MINIBATCHES, "minibatch": 1}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("target", [SharedHeads(heads=2), TargetNetwork()], ids=lambda target: target.label)
def test_targets_are_made_anew_when_it_is_said_and_each_epoch_takes_each_transition_once(held, target):
    """At each update the agent has other weights. The targets are the returns by the weights that were last asked."""
    built, steps, rollout = small(target, held).build(), steps_of_a_rollout(), 4
    written, data = (rollout + 1) * T, filled(built, rollout * T)
    params, state = agents(built, UPDATES)
    order, sample = [], jax.jit(built.replay.sample)
    for number in range(UPDATES):
        agent, count = state._replace(params=params[number]), rollout * UPDATES + number + 1
        data, batch, metrics = sample(data, written, agent, count, jax.random.fold_in(KEY, number))
        assert metrics == {}
        asked = state._replace(params=params[number - number % HELD[held]])
        value = built.algorithm.source.values(asked.params, asked.source, steps.next_obs.reshape(T * N, 4))
        time, environment = batch.ids.time - rollout * T, batch.ids.environment
        for head, bootstrap in zip(batch.targets.T, value.bootstrap, strict=True):
            values = bootstrap.max(axis=-1).reshape(T, N)
            ends = steps.terminated, steps.truncated
            wanted = slow_rollout(steps.reward, *ends, values, GAMMA, 0.65)[time, environment]
            np.testing.assert_allclose(head, wanted, rtol=1e-4, atol=1e-5)
        same(batch.transition.obs, steps.obs[time, environment])
        same(batch.transition.action, steps.action[time, environment])
        order += zip(time.tolist(), environment.tolist())
    epochs = [order[: T * N], order[T * N :]]
    assert all(set(epoch) == {(t, n) for t in range(T) for n in range(N)} for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_redq_draws_another_pair_of_networks_for_each_rollout():
    built = small(REDQ(networks=4)).build()
    _, state = agents(built, 0)
    keys = iter(jax.random.split(KEY, 100))
    held = jax.tree.map(lambda w: w + jax.random.normal(next(keys), w.shape), state.source["target_params"])
    state = state._replace(source={**state.source, "target_params": held})
    data, sample = filled(built, 0), jax.jit(built.replay.sample)
    made = [sample(data, T, state, jnp.int32(1), jax.random.key(n))[0].targets for n in range(8)]
    assert len({np.asarray(one).tobytes() for one in made}) > 1


def test_what_looks_from_outside_sees_the_targets_that_are_held():
    built = small(SharedHeads(heads=2)).build()
    params, state = agents(built, 1)
    data, _, _ = jax.jit(built.replay.sample)(filled(built, 0), T, state._replace(params=params[0]), 1, KEY)
    batch = built.replay.sample_uniformly(data, T, KEY)
    same(batch.targets.T, data.targets[:, batch.ids.time * N + batch.ids.environment])


@pytest.mark.parametrize("target", [OnlineNetwork(), SharedHeads(heads=2)], ids=lambda target: target.label)
def test_without_a_trace_it_is_one_step_q_learning_on_fresh_data(target):
    """The same gradient as that of deep Q-learning on the same minibatches, when targets are made for each of them."""
    own = small(target, "minibatch", trace_decay=0.0, **{"algorithm.loss": "squared"}).replace(network=Dense((5,)))
    other = own.replace(algorithm=DQN(gamma=GAMMA))
    slopes = []
    for experiment in (own, other):
        built = experiment.build()
        params, state = agents(built, 1)
        state = state._replace(params=params[0])
        _, batch, _ = jax.jit(built.replay.sample)(filled(built, 0), T, state, 2 * UPDATES + 1, KEY)
        assert (batch.targets is None) == (experiment is other)
        loss = partial(built.algorithm.loss, state=state, batch=batch, key=KEY)
        slopes.append(jax.jit(jax.value_and_grad(lambda params, loss=loss: loss(params)[0]))(state.params))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *slopes)


def test_a_step_goes_along_half_the_squared_error_from_given_targets(monkeypatch):
    monkeypatch.setattr("sharedq.algorithms.pqn.radam", lambda rate, *_: optax.sgd(rate))
    built = small(SharedHeads(heads=2), **{"algorithm.learning_rate": 1.0}).build()
    params, state = agents(built, 1)
    state = state._replace(params=params[0])
    _, batch, _ = jax.jit(built.replay.sample)(filled(built, 0), T, state, 1, KEY)
    after, errors, metrics = jax.jit(built.algorithm.update)(state, batch, KEY, jnp.int32(1))
    table = np.array(state.params["heads"]["kernel"], np.float64)  # [H, 4, A]
    cells, actions = batch.transition.obs.argmax(axis=1), batch.transition.action
    wanted, loss = table.copy(), 0.0
    for head in range(2):
        error = table[head, cells, actions] - batch.targets[:, head]
        np.testing.assert_allclose(errors[head], error, rtol=1e-4, atol=1e-5)
        loss += 0.5 * np.mean(error**2)
        np.add.at(wanted[head], (cells, actions), -error / len(error))
    np.testing.assert_allclose(after.params["heads"]["kernel"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)


# What is learned


@pytest.mark.parametrize(
    ("probe", "trace_decay", "target"),
    [
        ("corridor", 0.0, OnlineNetwork()),
        ("corridor", 0.0, SharedHeads(heads=3, period=20)),
        ("corridor", 0.0, IteratedNetworks(networks=2, period=20, copy_period=5)),
        ("time_limit", 0.65, SharedHeads(heads=2, period=20)),  # truncated in the middle of rollouts
        ("discounting", 0.65, OnlineNetwork()),  # terminated there
    ],
    ids=lambda part: getattr(part, "label", str(part)),
)
def test_the_known_values_are_learned(probe, trace_decay, target):
    """With a trace only where there is one action, because the returns follow the policy that acts."""
    experiment = small(target, trace_decay=trace_decay, **{"environment.name": probe, "steps": 24_000})
    built = experiment.build()
    program = built.program()
    program.prepare()
    run, told = run_of(program)
    agent = jax.tree.map(lambda x: x[0], program.to_host(run).agent)
    value = built.algorithm.source.values(agent.params, agent.source, PROBES[probe].observations)
    for table in value.predicted:
        np.testing.assert_allclose(table, PROBES[probe].q_values(GAMMA), atol=0.05)
    assert told[-1].bad_step == -1


def test_the_learning_rate_falls_in_a_straight_line():
    optimiser = PQN(
        learning_rate=1.0, final_learning_rate=1e-20, learning_rate_updates=100, max_gradient_norm=None
    )._optimiser()
    params, sizes = jnp.zeros(1), []
    state, update = optimiser.init(params), jax.jit(optimiser.update)
    for _ in range(120):
        move, state = update(jnp.ones(1), state, params)
        sizes.append(-float(move[0]))
    np.testing.assert_allclose(np.diff(sizes[:5]), -0.01, atol=1e-6)  # at first RAdam steps along the mean gradient
    assert max(sizes[100:]) < 1e-6


# Whole runs

NOISY = {  # rewards are noisy and the policy follows the values: what differs once changes all that comes after
    "environment.name": "maximisation_bias",
    "algorithm.epsilon_end": 0.1,
    "training.steps": 1_152,
    "training.log_period": 192,
    "training.checkpoint_period": 384,
    "seeds": 2,
}


def test_stopped_and_resumed_the_end_is_that_of_an_unbroken_run(tmp_path):
    experiment = small(SharedHeads(heads=2, period=7), "epoch", **NOISY)
    whole = same_after_a_stop(experiment, tmp_path, 576)
    assert len(whole["metrics.csv"]) > 2 * 4


def test_seeds_side_by_side_learn_what_they_learn_one_after_another(monkeypatch):
    def prepared(experiment):
        program = experiment.build().program()
        program.prepare()
        return program

    experiment = small(SharedHeads(heads=2, period=7), "epoch", **NOISY | {"training.steps": 480, "seeds": 3})
    apart = prepared(experiment)
    alone, told = run_of(apart)
    alone, single = apart.to_host(alone), prepared(experiment.replace(seeds=1, seed=2))
    third = single.to_host(run_of(single)[0])
    monkeypatch.setattr(seeds, "side_by_side", lambda: True)
    beside = prepared(experiment)
    together, heard = run_of(beside)
    together = beside.to_host(together)
    assert (apart.layout.batched, beside.layout.batched) == (False, True)
    pairs = (
        (jax.tree.map(lambda x: x[2:], alone.agent.params), third.agent.params),
        (alone.agent.params, together.agent.params),
        (alone.replay.targets, together.replay.targets),
    )
    for one, other in pairs:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one, other)
    assert told[-1].metrics.keys() == heard[-1].metrics.keys()


def test_the_loop_over_worlds_on_the_host_equals_the_compiled_one():
    experiment = small(SharedHeads(heads=2, period=7), "epoch", **NOISY | {"training.steps": 480})
    built = experiment.build()
    settings = dataclasses.asdict(experiment.training)
    host = Interactive(**settings).build(on_the_host(built.environment), built.algorithm, built.replay, [0, 1])
    runs = []
    for program in (built.program(), host):
        program.prepare()
        run, _ = run_of(program)
        run = program.to_host(run)
        runs.append((run.agent, run.replay))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *runs)


def test_measures_look_at_it_and_one_that_needs_another_source_is_refused():
    measured = {"training.measures": ("target_churn", "rank"), "training.measure_period": 5}
    built = small(SharedHeads(heads=2), **NOISY | {"training.steps": 480, "seeds": 1} | measured).build()
    program = built.program()
    program.prepare()
    _, told = run_of(program)
    assert told[-1].metrics["measures/target_churn"] == 0  # a step moves no target that is held
    assert told[-1].metrics["measures/rank"] > 0
    with pytest.raises(SharedqError, match="measure 'gradient_alignment' needs an algorithm with on"):
        small(**{"training.measures": ("gradient_alignment",)}).build().program()


def test_an_update_costs_no_pass_over_next_observations():
    """RAdam has more operations than Adam, for each weight, and a large batch has more than weights have."""
    own = small(network=Dense((64,)), **{"replay.batch_size": T * N, "training.gradient_steps": 2})
    other = own.replace(algorithm=DQN(gamma=GAMMA))
    mine, theirs = (one.build().cost(compiled=False) for one in (own, other))
    forward = 2 * own.replay.batch_size * 64 * (4 + 2)  # operations of the products of one pass
    assert theirs.flops_per_update - mine.flops_per_update > 0.5 * forward


def test_every_recipe_of_it_is_one_rollout_per_cycle_and_its_schedules_end_with_the_run():
    for game in ("asterix", "breakout", "freeway", "seaquest", "space-invaders"):
        experiment = recipe(f"pqn-minatar-{game}")
        training, algorithm = experiment.training, experiment.algorithm
        assert (training.steps_per_cycle, training.updates_per_cycle) == (32, 64)
        assert training.updates - 64 <= algorithm.learning_rate_updates <= training.updates
        assert list(algorithm.remarks(experiment, None)) == []
    longer = experiment.replace(steps=10_000_000)
    assert "learning_rate_updates 156288" in next(iter(algorithm.remarks(longer, None)))


# Experiments that are refused

PQ = "pqn-minatar-breakout"
MISTAKES = {
    "minatar-breakout --algorithm pqn": [
        "'pqn' learns from fresh rollouts",
        "replay 'transitions'",
        "--replay rollout",
    ],
    "corridor --algorithm pqn --replay rollout --training.update_period 3": [
        "not a multiple of training.environments 2"
    ],
    f"{PQ} --training.environments 100": ["training.update_period 4096 is not a multiple of training.environments 100"],
    f"{PQ} --replay.batch_size 100": ["replay.batch_size 100 does not divide training.update_period 4096"],
    f"{PQ} --replay.batch_size 8192": ["replay.batch_size 8192 does not divide training.update_period 4096"],
    f"{PQ} --replay.batch_size 0": ["replay.batch_size must be at least 1, not 0"],
    f"{PQ} --training.gradient_steps 40": ["training.gradient_steps 40 is not a multiple of the 32 minibatches"],
    f"{PQ} --sampler prioritized": ["sampler 'prioritized' chooses among stored transitions", "--sampler uniform"],
    f"{PQ} --algorithm.trace_decay 1.5": ["algorithm.trace_decay must lie in 0 .. 1, not 1.5"],
    f"{PQ} --algorithm.targets update": ["unknown value for algorithm.targets 'update'"],
    f"{PQ} --algorithm.final_learning_rate 0": ["algorithm.final_learning_rate must be above 0 or none"],
    f"{PQ} --training streaming": ["training 'streaming'", "add --training"],
    "cartpole-iql --algorithm pqn --data nowhere": ["sharedq: "],
    "lunar-lander --algorithm pqn --replay rollout --training.learn_while_stepping true --training.warm_up 0 "
    "--training.update_period 64 --training.gradient_steps 2 --replay.batch_size 32": ["--training.warm_up 64"],
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
