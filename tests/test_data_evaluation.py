"""What data say about an agent: closed forms of agreement and action gap, and values of policies that are known."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharedq as library
from sharedq import data_evaluation, random_keys
from sharedq.agent import Agent, Compiled, load_all
from sharedq.analysis import fitted_q as fitted
from sharedq.analysis.action_gap import action_gap
from sharedq.analysis.agreement import agreement
from sharedq.command_line import main
from sharedq.data_evaluation import OnData
from sharedq.datasets import DataSet
from sharedq.datasets import feed as feed_module
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.feed import begins_of
from sharedq.datasets.manifest import Description
from sharedq.datasets.store import Store
from sharedq.datasets.writing import StoreWriter
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError
from sharedq.networks import Table
from sharedq.recipes import recipe
from sharedq.runs.sealed import sealed
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

    found = fitted.fitted_q(decide, spec, Table(), feed, partial(begins_of, feed.store), updates=2_000, seed=0)
    assert found.value == pytest.approx(value, abs=0.02 * max(value, 1))
    assert found.earlier == pytest.approx(value, abs=0.04 * max(value, 1))


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
    found = OnData(agent, data / "corridor", updates=2_000).evaluate(agent)

    feed = DataSet(str(data / "corridor")).build(step_like(agent.built.spec), GAMMA, 1)
    drawn = [feed.batches([agent.seed], 2**40 + place, 1) for place in range(8)]
    states, taken = (np.stack(x) for x in zip(*((raw.obs.argmax(axis=-1), raw.action) for raw in drawn), strict=True))
    assert found.td_error == pytest.approx(0, abs=1e-6)
    assert found.agreement == pytest.approx(taken.mean(), rel=1e-5)  # the best action is always 1
    assert found.q_value == pytest.approx(q_values[states, taken].mean(), rel=1e-5)
    assert found.action_gap == pytest.approx(np.ptp(q_values[states], axis=-1).mean(), rel=1e-5)
    assert found.fitted_q == pytest.approx(GAMMA**3, abs=0.02) and found.settled
    assert not OnData(agent, data / "corridor", updates=100).evaluate(agent).settled
    lengths = feed.store.episodes["length"][feed.store.returns > 0]
    assert found.behaviour == pytest.approx((GAMMA ** (lengths - 1)).sum() / len(feed.store.episodes))


def test_rewards_are_those_that_were_learned_from_and_a_policy_is_evaluated_step_by_step(data, monkeypatch):
    seen = {}

    def fitted_q(decide, spec, network, feed, begins, updates, seed, reward_bound):
        seen["batch"] = feed.decode(jax.tree.map(lambda x: x[0, 0], feed.batches([seed], 1, 1)), reward_bound)
        return fitted.Fitted(0.0, 0.0)

    monkeypatch.setattr(data_evaluation, "fitted_q", fitted_q)
    experiment = recipe("minatar-cql").replace(
        environment=recipe("corridor").environment,
        network="table",
        data=str(data / "corridor"),
        reward_bound=0.5,
        **{"replay.n_step": 3, "replay.fraction": 0.1, "replay.reward_shift": -1.0},
    )
    agent = knowing(experiment, np.zeros((4, 2)))
    found = OnData(agent, data / "corridor", updates=10).evaluate(agent)
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
        OnData(agent, data / "time_limit")
    with pytest.raises(SharedqError, match="updates must be at least 1"):
        OnData(agent, data / "corridor", updates=0)


def written(out, rewards, end) -> Store:
    """Episodes of two steps in the corridor, each with one reward at both."""
    description = Description("tests", "tests", PROBES["corridor"].environment.spec)
    with StoreWriter(out, description) as writer:
        for number, reward in enumerate(rewards):
            obs, action = np.eye(4, dtype=np.float32)[[0, 1, 2]], np.zeros(2, np.int32)
            writer.add(Episode(obs, action, np.full(2, reward, np.float32), end), f"episode {number}")
        return writer.finish()


def trained_on(data, run, **options):
    """Two seeds that learned a little from the data."""
    own = {"replay.return_range": 50.0, "replay.reward_shift": -0.5} | options
    experiment = recipe("cartpole-iql").replace(
        environment=recipe("corridor").environment,
        network="table",
        data=str(data),
        steps=20,
        seeds=2,
        evaluation_period=None,
        **{"replay.batch_size": 16, **own},
    )
    return library.train(experiment, run, progress=None)


def test_rewards_are_scaled_by_the_data_that_were_learned_from(tmp_path, monkeypatch):
    """The other data have other returns, and the agent's values are in the units of its own."""
    named = (("learned", [0, 1, 4]), ("other", [1, 2]))
    learned, fewer = (written(tmp_path / name, rewards, End.TRUNCATED) for name, rewards in named)
    run = trained_on(learned.path, tmp_path / "run", **{"algorithm.gamma": 1.0})
    noted = json.loads((run.path / "data.json").read_text())
    assert noted["learns_from"] == "data" and noted["reward_shift"] == -0.5
    assert noted["reward_scale"] == pytest.approx(50 / 8)
    monkeypatch.setattr(data_evaluation, "fitted_q", lambda *arguments: fitted.Fitted(0.0, 0.0))
    agents = load_all(run.path)
    on = OnData(agents[0], fewer.path)
    paid = np.mean([noted["reward_scale"] * (one.reward - 0.5).sum() for one in fewer])
    assert [on.evaluate(agent).behaviour for agent in agents] == pytest.approx([paid] * 2, rel=1e-5)
    assert (
        len(on.remarks) == 1
        and "2 of 2 episodes were truncated: fitted Q counts what would have followed" in on.remarks[0]
    )

    plain = {name: value for name, value in noted.items() if name not in ("reward_scale", "sha256")}
    (run.path / "data.json").write_bytes(sealed(plain))  # as an older version wrote it
    on = OnData(load_all(run.path)[0], fewer.path)
    assert "does not say by how much it scaled" in on.remarks[0]
    paid *= np.ptp(learned.returns) / np.ptp(fewer.returns)
    assert on.evaluate(agents[0]).behaviour == pytest.approx(paid, rel=1e-5)


def test_all_agents_of_a_run_share_data_that_are_checked_once(data, tmp_path, monkeypatch, capsys):
    run, checks = trained_on(data / "corridor", tmp_path / "run"), []
    whole = Store.check
    monkeypatch.setattr(Store, "check", lambda store, *more: checks.append(store.path) or whole(store, *more))
    assert main(["evaluate", str(run.path), "--data", str(data / "corridor"), "--updates", "2"]) == 0
    assert checks == [data / "corridor"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seed ")]
    assert [line.partition(":")[0] for line in lines] == ["seed 0", "seed 1"]


@pytest.mark.parametrize(("earlier", "told"), [(9.4, " (not settled: it moved by 6% in the last tenth"), (9.6, ",")])
def test_a_fitted_q_that_still_moves_is_told(data, tmp_path, monkeypatch, capsys, earlier, told):
    monkeypatch.setattr(data_evaluation, "fitted_q", lambda *arguments: fitted.Fitted(10.0, earlier))
    run = trained_on(data / "corridor", tmp_path / "run")
    assert main(["evaluate", str(run.path), "--data", str(data / "corridor"), "--updates", "2"]) == 0
    assert f"fitted Q of the greedy policy 10{told}" in capsys.readouterr().out


def test_first_observations_come_in_pieces(data, monkeypatch):
    store = library.open_data(data / "corridor")
    (whole,) = begins_of(store)
    monkeypatch.setattr(feed_module, "PIECE", 7)
    pieces = list(begins_of(store))
    assert len(pieces) == -(-len(whole) // 7) and max(map(len, pieces)) <= 7
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_what_imitates_has_no_action_gap(data, tmp_path):
    run = trained_on(data / "corridor", tmp_path / "run", algorithm="bc")
    (agent,) = load_all(run.path)[:1]
    assert np.isnan(OnData(agent, data / "corridor", updates=1).evaluate(agent).action_gap)
    measured = load_all(run.path)[0].experiment.replace(measures=("action_gap",))
    with pytest.raises(SharedqError, match="'action_gap' looks at the values of actions, and algorithm 'bc' has none"):
        library.train(measured, tmp_path / "measured", progress=None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--episodes", "3", "--data", "data"], "--episodes has no effect beside --data"),
        (["--seed", "0", "--data", "data"], "--seed has no effect beside --data"),
        (["--max-steps", "3", "--data", "data"], "--max-steps has no effect beside --data"),
        (["--updates", "20000"], "--updates has an effect only beside --data"),
        (["--unknown_ends", "truncated"], "--unknown_ends has an effect only beside --data"),
    ],
)
def test_options_without_an_effect_are_refused(tmp_path, capsys, options, says):
    assert main(["evaluate", str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err


def test_who_evaluates_says_what_unknown_ends_are(tmp_path):
    agent = knowing(recipe("corridor"), np.zeros((4, 2)))
    store = written(tmp_path / "unknown", [0], End.UNKNOWN)
    with pytest.raises(SharedqError, match="add --unknown_ends terminated"):
        OnData(agent, store.path)
    assert not OnData(agent, store.path, unknown_ends="terminated").remarks
    assert len(OnData(agent, store.path, unknown_ends="truncated").remarks) == 1


class Told(list):
    """A progress display that keeps what is said."""

    say = list.append

    def update(self, *numbers) -> None: ...


@pytest.mark.parametrize("changed", [True, False])
def test_who_goes_on_from_changed_rewards_is_told(data, tmp_path, changed):
    options = {} if changed else {"replay.return_range": None, "replay.reward_shift": 0.0}
    run = trained_on(data / "corridor", tmp_path / "run", **options)
    experiment = load_all(run.path)[0].experiment
    online = experiment.replace(training="fused", replay="transitions", warm_up=8, capacity=100)
    for number, (one, other) in enumerate(((online, changed), (experiment, False))):
        told = Told()
        library.train(one, tmp_path / str(number), progress=told, start_from=run.path)
        found = [line for line in told if "are of other rewards" in line]
        assert len(found) == other
        assert all("changed by a shift of -0.5 and a factor of 50" in line for line in found)


def test_other_settings_of_the_environment_are_remarked_and_other_names_of_actions_refused(data, monkeypatch):
    experiment = recipe("minatar-cql").replace(
        environment=recipe("corridor").environment, network="table", data=str(data / "corridor")
    )
    store = experiment.replay._store
    assert not any("other settings" in one for one in experiment.replay.remarks(experiment, None))
    recorded = {**store.description.environment, "name": "time_limit", "gone": 3}
    named = replace(store.description, environment=recorded, action_meanings=("LEFT", "RIGHT"))
    monkeypatch.setattr(Store, "description", named)
    (remark,) = (one for one in experiment.replay.remarks(experiment, None) if "other settings" in one)
    assert remark.endswith("other settings: it had name time_limit and has corridor here")
    experiment.replay.check_meanings(lambda: None)
    experiment.replay.check_meanings(lambda: ("LEFT", "RIGHT"))
    with pytest.raises(SharedqError, match="are LEFT, RIGHT, and those of the environment RIGHT, LEFT: choose"):
        experiment.replay.check_meanings(lambda: ("RIGHT", "LEFT"))
    monkeypatch.setattr(type(experiment.environment), "action_meanings", lambda _: ("A", "B"), raising=False)
    with pytest.raises(SharedqError, match="those of the environment A, B"):
        experiment.build().program()
