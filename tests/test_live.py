"""An agent on a live stream: it learns, it is saved and goes on to the bit, and it says what it was not told."""

import re
from dataclasses import replace

import numpy as np
import pytest

from sharedq.algorithms import DQN, StreamQ, StreamQRC
from sharedq.errors import SharedqError
from sharedq.live import LiveAgent
from sharedq.networks import Table
from sharedq.runs import checkpoints
from sharedq.targets import SharedHeads

PLAIN = StreamQ(gamma=0.0, normalise="none", scale_rewards=False, epsilon_end=1.0)


def live_on(agent: LiveAgent, steps: int, start: int = 0) -> list[int]:
    """Two rooms in turn: in room 0 action 0 is worth 1, in room 1 action 1; an episode is five steps, then cut."""
    actions = []
    rooms = np.eye(2, dtype=np.float32)
    action = agent.begin(rooms[0]) if start == 0 else None
    for time in range(start, start + steps):
        reward = float((time % 2) == action) if action is not None else 0.0
        cut = time % 5 == 4
        action = agent.observe(rooms[(time + 1) % 2], reward, truncated=cut, final_obs=rooms[1] if cut else None)
        actions.append(action)
    return actions


@pytest.mark.parametrize(
    "algorithm",
    [
        PLAIN,
        replace(PLAIN, optimiser="adaptive", learning_rate=0.1),
        replace(PLAIN, optimiser="intentional"),
        StreamQRC(gamma=0.0, learning_rate=0.2, normalise="none", scale_rewards=False, epsilon_end=1.0),
    ],
    ids=["obgd", "adaptive", "intentional", "qrc"],
)
def test_it_learns_from_a_stream_and_goes_on_from_where_it_was_saved(tmp_path, algorithm):
    agent = LiveAgent((2,), 2, algorithm=algorithm, network=Table(), seed=3)
    held = agent.bytes
    live_on(agent, 400)
    assert agent.bytes == held
    np.testing.assert_allclose([agent.values(room) for room in np.eye(2)], np.eye(2), atol=0.1)
    agent.save(tmp_path)
    ends = []
    for _ in range(2):
        agent.restore(tmp_path)
        assert agent.steps == 400
        ends.append((live_on(agent, 20, start=400), *agent.values([1, 0])))
    assert ends[0] == ends[1]


def test_a_folder_that_is_no_path_is_told():
    agent = LiveAgent((2,), 2, algorithm=PLAIN, network=Table())
    for ask, says in ((agent.save, "save to"), (agent.restore, "restore from")):
        with pytest.raises(SharedqError, match=f"^the folder to {says} must be a path, not 3$"):
            ask(3)


def test_what_is_no_number_is_refused_and_changes_nothing():
    agent = LiveAgent((2,), 2, algorithm=PLAIN, network=Table())
    live_on(agent, 3)
    before = agent.values([1, 0])
    for obs, reward, final_obs, says in (
        ([0, np.nan], 0, None, r"^observation\[1\] is nan: it must be a number between -1e\+18 and 1e\+18$"),
        ([0, 1], None, None, "^reward is None: "),
        ([0, 1], 0, np.array([1e50, 0]), r"^final_obs\[0\] is 1e\+50: "),
        ([0, 1], [1.0], None, r"^reward must be one number, not of shape \(1,\)$"),
    ):
        with pytest.raises(SharedqError, match=says):
            agent.observe(obs, reward, terminated=True, final_obs=final_obs)
    assert agent.steps == 3 and (agent.values([1, 0]) == before).all()


def test_a_stream_that_begins_again_credits_nothing_to_what_was_before(tmp_path):
    agent = LiveAgent(
        (2,),
        2,
        algorithm=replace(PLAIN, gamma=1.0, trace_decay=1.0, epsilon_start=0.0, epsilon_end=0.0),
        network=Table(),
    )
    agent.save(tmp_path / "new")
    agent.begin([1, 0])  # all values are 0, so the action is 0
    agent.observe([0, 1], 0.0)
    agent.save(tmp_path / "begun")
    for pause, credited in ((False, True), (True, False)):
        agent.restore(tmp_path / "begun")
        if pause:
            agent.begin([0, 1])
        agent.observe([0, 1], 1.0, terminated=True)
        assert (agent.values([1, 0])[0] > 0) == credited
    agent.restore(tmp_path / "new")
    with pytest.raises(SharedqError, match="call begin"):
        agent.observe([0, 1], 0.0)


def test_it_saves_over_nothing_but_what_a_live_agent_saved(tmp_path):
    agent = LiveAgent((2,), 2, algorithm=PLAIN, network=Table())
    first = agent.save(tmp_path / "own")
    (tmp_path / "own" / "notes.txt").write_text("trace_mask")
    (tmp_path / "own" / ".unfinished").mkdir()  # as a save that was killed leaves it
    agent.begin([0, 1])
    agent.observe([1, 0], 0.0)
    assert agent.save(tmp_path / "own").name == "000000000001" and not first.exists()
    for number, taken in enumerate(
        ("000000000001/thesis.txt", ".removed/thesis.txt", "1/live.safetensors", "config.json", "000000000007")
    ):
        file = tmp_path / str(number) / taken
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    checkpoints.save(tmp_path / "run", 3, {"live": {"x": np.zeros(1)}}, "digest", {})
    agent.save(tmp_path / "mixed").joinpath("thesis.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for folder in ("0", "1", "2", "3", "4", "4/000000000007", "4/000000000007/below", "run", "mixed"):
        with pytest.raises(SharedqError, match="neither a new folder nor one where a live agent was saved"):
            agent.save(tmp_path / folder)
    with pytest.raises(SharedqError, match="another experiment"):
        agent.restore(tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_it_says_what_it_was_not_told(tmp_path):
    agent = LiveAgent((2,), 2, algorithm=PLAIN, network=Table())
    with pytest.raises(SharedqError, match="call begin"):
        agent.observe([0, 1], 0.0)
    with pytest.raises(SharedqError, match="holds no saved agent"):
        agent.restore(tmp_path)
    with pytest.raises(SharedqError, match=r"observation must be numbers of shape \(2,\), not of shape \(3,\)"):
        agent.begin([0, 1, 2])
    agent.begin([0, 1])
    with pytest.raises(SharedqError, match="needs final_obs"):
        agent.observe([0, 1], 0.0, truncated=True)
    for shape, actions, settings, says in (
        (2, 2, {"algorithm": DQN()}, "without replay"),
        (2, 0, {}, "actions must be at least 1, not 0"),
        (2, "two", {}, "actions takes a whole number, not 'two'"),
        ((2, 0), 2, {}, r"a shape has sizes of 1 or more, not \(2, 0\)"),
        (None, 2, {}, "shape takes a whole number, not 'none'"),
        (2, 2, {"seed": -1}, "seed cannot be negative"),
        (2, 2, {"target": "shared_head"}, "unknown target 'shared_head': did you mean shared_heads"),
        (2, 2, {"target": SharedHeads}, "target must be one of online_network, .*, not <class"),
        (2, 2, {"network": 32}, "network must be one of table, .*, not 32"),
    ):
        with pytest.raises(SharedqError, match=says):
            LiveAgent(shape, actions, **{"network": Table(), **settings})


def test_parts_are_settings_or_names_and_one_number_is_a_shape():
    named, built = (LiveAgent(s, 2, network="table", target=t) for s, t in ((2, "shared_heads"), ([2], SharedHeads())))
    assert named.begin([0, 1]) == built.begin([0, 1]) and named.bytes == built.bytes


def test_what_was_saved_for_another_world_is_refused(tmp_path):
    LiveAgent(2, 3, network=Table()).save(tmp_path)
    for shape, actions in (((2,), 2), ((3,), 3)):
        says = f"for observations of shape (2,) and 3 actions, this agent has {shape} and {actions}"
        with pytest.raises(SharedqError, match=re.escape(says)):
            LiveAgent(shape, actions, network=Table()).restore(tmp_path)
