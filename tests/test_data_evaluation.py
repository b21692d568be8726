"""What data say about an agent: closed forms of agreement and action gap, and values of policies that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharedq as library
from sharedq import data_evaluation, random_keys
from sharedq.agent import Agent, Compiled
from sharedq.analysis import fitted_q as fitted
from sharedq.analysis.action_gap import action_gap
from sharedq.analysis.agreement import agreement
from sharedq.data_evaluation import evaluate_on
from sharedq.datasets import DataSet
from sharedq.datasets.feed import begins_of
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError
from sharedq.networks import Table
from sharedq.recipes import recipe
from sharedq.training.learning import example_batch, step_like

GAMMA = 0.9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What a random agent sees of probes."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("corridor", "time_limit"):
        environment = recipe("corridor").replace(**{"environment.name": name})
        library.collect(folder / name, ["random"], 1_000, environment=environment)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Fitted-Q evaluation of a table needs neither small steps nor a slow copy."""
    monkeypatch.setattr(fitted, "LEARNING_RATE", 0.02)
    monkeypatch.setattr(fitted, "TAU", 0.05)


def test_agreement_is_the_share_of_the_same_actions_or_their_nearness():
    np.testing.assert_array_equal(agreement(jnp.array([0, 2, 1]), jnp.array([0, 1, 1])), [1, 0, 1])
    chosen, taken = jnp.array([[1.0, -1.0], [0.5, 0.0], [1.0, 1.0]]), jnp.array([[1.0, -1.0], [0.0, 0.0], [-1.0, -1.0]])
    np.testing.assert_allclose(agreement(chosen, taken), [1, 0.875, 0])


def test_the_action_gap_is_that_of_the_two_best_actions():
    np.testing.assert_allclose(action_gap(jnp.array([[3.0, -1.0, 2.5], [7.0, 7.0, 0.0]])), [0.5, 0])


@pytest.mark.parametrize(
    ("name", "actions", "value"),
    [
        ("corridor", [1, 1, 1, 1], GAMMA**3),  # the best policy, which the random agent did not follow
        ("corridor", [1, 1, 0, 1], 0.0),  # never gets beyond the third cell
        ("time_limit", [0], 1 / (1 - GAMMA)),  # the time limit ended the episodes, and the value goes on
    ],
)
def test_fitted_q_of_a_known_policy_is_its_value(data, quick, name, actions, value):
    spec, settings = PROBES[name].environment.spec, DataSet(str(data / name), batch_size=64)
    feed = settings.build(step_like(spec), GAMMA, 1)
    feed.open(spec)

    def decide(obs):
        return jnp.array(actions, jnp.int32)[obs.argmax(axis=-1)]

    found = fitted.fitted_q(decide, spec, Table(), feed, begins_of(feed.store), updates=2_000, seed=0)
    assert found == pytest.approx(value, abs=0.02 * max(value, 1))


def knowing(experiment, q_values) -> Agent:
    """An agent that knows the values of the corridor."""
    built = experiment.build()
    state = built.algorithm.init(random_keys.root(0), example_batch(built.spec, 1))
    known = jax.tree.map(lambda x: jnp.broadcast_to(q_values, x.shape), (state.params, state.source))
    return Agent(Compiled(built), state._replace(params=known[0], source=known[1]), step=0, seed=3)


def test_an_agent_that_knows_the_values_is_told_so(data, quick):
    q_values = PROBES["corridor"].q_values(GAMMA)
    agent = knowing(recipe("corridor"), q_values)
    np.testing.assert_allclose(agent.values(np.eye(4, dtype=np.float32)), q_values, rtol=1e-6)
    found = evaluate_on(agent, data / "corridor", updates=2_000)

    feed = DataSet(str(data / "corridor")).build(step_like(agent.built.spec), GAMMA, 1)
    drawn = [feed.batches([agent.seed], 2**40 + place, 1) for place in range(8)]
    states, taken = (np.stack(x) for x in zip(*((raw.obs.argmax(axis=-1), raw.action) for raw in drawn), strict=True))
    assert found.td_error == pytest.approx(0, abs=1e-6)
    assert found.agreement == pytest.approx(taken.mean(), rel=1e-5)  # the best action is always 1
    assert found.q_value == pytest.approx(q_values[states, taken].mean(), rel=1e-5)
    assert found.action_gap == pytest.approx(np.ptp(q_values[states], axis=-1).mean(), rel=1e-5)
    assert found.fitted_q == pytest.approx(GAMMA**3, abs=0.02)
    lengths = feed.store.episodes["length"][feed.store.returns > 0]
    assert found.behaviour == pytest.approx((GAMMA ** (lengths - 1)).sum() / len(feed.store.episodes))


def test_rewards_are_those_that_were_learned_from_and_a_policy_is_evaluated_step_by_step(data, monkeypatch):
    seen = {}

    def fitted_q(decide, spec, network, feed, begins, updates, seed, reward_bound):
        seen["batch"] = feed.decode(jax.tree.map(lambda x: x[0, 0], feed.batches([seed], 1, 1)), reward_bound)
        return 0.0

    monkeypatch.setattr(data_evaluation, "fitted_q", fitted_q)
    experiment = recipe("minatar-cql").replace(
        environment=recipe("corridor").environment,
        network="table",
        data=str(data / "corridor"),
        reward_bound=0.5,
        **{"replay.n_step": 3, "replay.fraction": 0.1, "replay.reward_shift": -1.0},
    )
    agent = knowing(experiment, np.zeros((4, 2)))
    found = evaluate_on(agent, data / "corridor", updates=10)
    rewards = np.asarray(seen["batch"].transition.reward)
    assert set(rewards) <= {-0.5, 0.0}  # -1 and 0, clipped, and never a sum of several
    assert set(np.asarray(seen["batch"].transition.discount)) <= {np.float32(0), np.float32(0.99)}
    store = library.open_data(data / "corridor")
    paid = [-0.5 * (0.99 ** np.arange(len(one.reward)))[one.reward == 0].sum() for one in store]
    assert found.behaviour == pytest.approx(np.mean(paid), rel=1e-5)  # of all the data, not of a tenth
    assert 0.5 <= found.td_error < 0.5 * (1 + 0.99 + 0.99**2) + 1e-6  # of its own loss, over three steps


def test_data_of_another_environment_or_no_updates_are_refused(data):
    agent = knowing(recipe("corridor"), np.zeros((4, 2)))
    with pytest.raises(SharedqError, match="was recorded in 'probe/time_limit'"):
        evaluate_on(agent, data / "time_limit")
    with pytest.raises(SharedqError, match="updates must be at least 1"):
        evaluate_on(agent, data / "corridor", updates=0)
