"""Deep Q-learning finds the Q-values that are known, on every source of targets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharedq
from sharedq.algorithms import DQN
from sharedq.environments import CartPole, Custom, Discrete, Environment, EnvironmentSpec, ProbeEnvironment
from sharedq.environments.probes import PROBES
from sharedq.experiment import Experiment
from sharedq.networks import Dense, Table
from sharedq.replay import Transitions
from sharedq.targets import IteratedNetworks, LookaheadReplicate, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.training import Fused
from sharedq.training.learning import example_batch

GAMMA = 0.8
NAMES = ("one_reward", "observation", "discounting", "action", "observation_and_action", "corridor", "time_limit")
WORLDS = [PROBES[name].environment for name in NAMES]
SIZES = [len(PROBES[name].observations) for name in NAMES]
ACTIONS = max(world.spec.actions.n for world in WORLDS)


def museum() -> Environment:
    """All probes in one environment, so that one run learns them all: an episode is an episode of one of them.

    The observations of the probes lie one behind the other; an action too many is a world's last one.
    """

    def place(number, obs):
        before, after = sum(SIZES[:number]), sum(SIZES[number + 1 :])
        return jnp.pad(obs, (before, after))

    def reset(key):
        room_key, *keys = jax.random.split(key, 1 + len(WORLDS))
        states, obs = zip(*(world.reset(key) for world, key in zip(WORLDS, keys)))
        room = jax.random.randint(room_key, (), 0, len(WORLDS))
        return (room, states), jnp.stack([place(i, one) for i, one in enumerate(obs)])[room]

    def step(key, state, action):
        room, states = state
        moved, outcomes = zip(
            *(world.step(key, own, jnp.minimum(action, world.spec.actions.n - 1)) for world, own in zip(WORLDS, states))
        )
        outcomes = [one._replace(obs=place(i, one.obs), final_obs=place(i, one.obs)) for i, one in enumerate(outcomes)]
        return (room, moved), jax.tree.map(lambda *leaves: jnp.stack(leaves)[room], *outcomes)

    observation = jax.ShapeDtypeStruct((sum(SIZES),), jnp.float32)
    return Environment(EnvironmentSpec("museum", observation, Discrete(ACTIONS)), reset, step)


def known(name: str) -> np.ndarray:
    values = PROBES[name].q_values(GAMMA)
    return values[:, np.minimum(np.arange(ACTIONS), values.shape[1] - 1)]


MUSEUM = Experiment(
    environment=Custom(f"{__name__}:museum"),
    algorithm=DQN(GAMMA, learning_rate=0.01, adam_epsilon=1e-2, epsilon_start=1.0, epsilon_end=1.0),
    replay=Transitions(capacity=2_000, batch_size=64),
    training=Fused(steps=12_000, environments=4, warm_up=1_000, update_period=4, log_period=12_000),
)


def learned(experiment: Experiment):
    """An experiment's parts, and the state of its first agent when it is trained."""
    built = experiment.build()
    program = built.program()
    program.prepare()
    run, step = program.begin(), 0
    for stop in program.log_steps:
        run, _ = program.advance(run, step, stop)
        step = stop
    return built, jax.tree.map(lambda x: x[0], program.to_host(run).agent)


@pytest.mark.parametrize(
    ("target", "network"),
    [
        (OnlineNetwork(), Dense((64,))),
        pytest.param(TargetNetwork(period=40), Dense((64,)), marks=pytest.mark.slow),
        (SharedHeads(heads=1, period=40), Dense((64,))),
        (TargetNetwork(period=40), Table()),
        (SharedHeads(heads=1, period=40), Table()),
        (SharedHeads(heads=3, period=40), Table()),
        (IteratedNetworks(networks=2, period=40, copy_period=8), Table()),
        (LookaheadReplicate(period=40, replicate_steps=20, learning_rate=0.02, adam_epsilon=1e-8), Table()),
    ],
    ids=lambda part: type(part).__name__ + str(getattr(part, "heads", "")),
)
def test_every_source_learns_the_known_values(target, network):
    _, agent = learned(dataclasses.replace(MUSEUM, target=target, network=network))
    inputs = jnp.eye(sum(SIZES))
    source = target.build(network.build(ACTIONS))
    values = source.values(agent.params, agent.source, inputs, inputs).predicted  # of every head that learns
    for name, rows in zip(NAMES, np.split(np.asarray(values), np.cumsum(SIZES)[:-1], axis=1)):
        np.testing.assert_allclose(rows, np.broadcast_to(known(name), rows.shape), atol=0.08, err_msg=name)


def test_a_trained_agent_is_saved_and_loaded_with_its_values(tmp_path):
    probe = PROBES["corridor"]
    experiment = sharedq.recipe("corridor").replace(**{"training.steps": 10_000})
    sharedq.train(experiment, tmp_path / "run")
    agent = sharedq.load(tmp_path / "run")
    found = np.stack([agent.values(obs) for obs in probe.observations])
    np.testing.assert_allclose(found, probe.q_values(experiment.algorithm.gamma), atol=0.02)
    assert [agent.act(obs) for obs in probe.observations] == [1, 1, 1, 1]
    played = agent.evaluate(episodes=3)
    assert played.returns.tolist() == [1, 1, 1]
    assert played.lengths.tolist() == [4, 4, 4]


def test_double_q_learning_is_less_biased_than_the_maximum():
    """Ten arms of mean -0.1 and noise 1: the largest estimate is above 0, though every arm is worth less."""

    def value_of_the_arms(backup):
        experiment = Experiment(
            environment=ProbeEnvironment("maximisation_bias"),
            algorithm=DQN(1.0, 0.1, 1e-8, backup=backup, epsilon_start=1.0, epsilon_end=1.0),
            target=TargetNetwork(period=100),
            network=Table(),
            replay=Transitions(capacity=200, batch_size=32),
            training=Fused(steps=4_000, environments=4, warm_up=200, update_period=2, log_period=4_000),
        )
        _, agent = learned(experiment)
        return agent.params["heads"]["kernel"][0, 0, 1:].mean()  # of the actions that lead to the arms

    maximum, double = value_of_the_arms("maximum"), value_of_the_arms("double")
    assert maximum > 0.2
    assert double < maximum - 0.15


def test_running_statistics_travel_with_a_network_that_normalises_its_batch():
    for target in (SharedHeads(heads=2, period=20), TargetNetwork(period=50)):
        experiment = Experiment(
            environment=CartPole(),
            algorithm=DQN(learning_rate=1e-3),
            target=target,
            network=Dense((8,), norm="batch"),
            replay=Transitions(capacity=500, batch_size=16),
            training=Fused(steps=480, environments=4, warm_up=100, update_period=4, log_period=480),
        )
        built, agent = learned(experiment)
        running = agent.source["batch_stats"]["BatchNorm_0"]
        assert (running["mean"] != 0).any()
        assert (running["var"] != 1).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(agent))
        obs = jnp.ones((3, 4))
        alone = built.algorithm.values(agent, jax.random.key(0), obs[:1])
        np.testing.assert_allclose(built.algorithm.values(agent, jax.random.key(0), obs)[0], alone[0], rtol=1e-5)


# One update


def one_update(algorithm: DQN, values, penalty=None):
    """Metrics of one update on a table of one state with two actions; the target network holds the same values."""
    source = TargetNetwork(period=10).build(Table().build(2))
    learner = algorithm.on(source, penalty)
    batch = example_batch(PROBES["one_reward"].environment.spec, 2)
    ones = jnp.ones((2, 1))
    transition = batch.transition._replace(
        obs=ones, next_obs=ones, action=jnp.array([0, 1]), reward=jnp.array([1.0, 0])
    )
    batch = batch._replace(transition=transition._replace(discount=jnp.array([0.5, 0.0])))
    state = learner.init(jax.random.key(0), batch)
    table = {"trunk": {}, "heads": {"kernel": jnp.array(values)[None, None]}}
    state = state._replace(params=table, source={**state.source, "target_params": table})
    return learner.update(state, batch, jax.random.key(0), jnp.int32(1))


def test_an_update_by_hand():
    """Q = (2, 4): targets 1 + 0.5 * 4 = 3 and 0; errors -1 and 4."""
    _, errors, metrics = one_update(DQN(), [2.0, 4.0])
    assert float(metrics["loss"]) == 8.5  # (1 + 16) / 2
    assert errors.tolist() == [[-1, 4]]
    assert (float(metrics["td_error"]), float(metrics["q_value"])) == (2.5, 3)
    _, _, metrics = one_update(DQN(loss="huber"), [2.0, 4.0])
    assert float(metrics["loss"]) == 2  # (0.5 + 3.5) / 2


def test_a_penalty_is_added_to_the_price_of_every_transition():
    def conservative(values, action):
        chosen = jnp.take_along_axis(values, action[..., None], -1)[..., 0]
        return 0.1 * (jax.nn.logsumexp(values, axis=-1) - chosen)

    _, _, metrics = one_update(DQN(), [2.0, 4.0], conservative)
    gap = np.logaddexp(2, 4) - 3
    np.testing.assert_allclose(metrics["loss"], 8.5 + 0.1 * gap, rtol=1e-6)


def test_mellowmax_bootstraps_below_the_maximum():
    _, errors, _ = one_update(DQN(backup="mellowmax", mellowmax_omega=1.0), [2.0, 4.0])
    np.testing.assert_allclose(errors[0, 0], 2 - (1 + 0.5 * np.log((np.exp(2) + np.exp(4)) / 2)), rtol=1e-5)


def test_a_clipped_gradient_moves_adam_as_its_direction_does():
    small, _, _ = one_update(DQN(max_gradient_norm=1e-3), [2.0, 4.0])
    mu = small.optimiser[1][0].mu["heads"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(mu), 0.1 * 1e-3, rtol=1e-5)  # one step of Adam's average of gradients
