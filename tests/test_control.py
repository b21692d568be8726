"""The Control Suite: against dm_control itself, the limit, repeats, seeds, going on after a save, what is refused."""

import json
import sys

import numpy as np
import pytest
from walks import assert_same, walk, walk_from_start

from sharedq.environments import Control
from sharedq.errors import SharedqError, Unphysical

pytest.importorskip("dm_control")

ORDER = {
    "cartpole-swingup": {"position": 3, "velocity": 2},
    "humanoid-run": {
        "joint_angles": 21,
        "head_height": 1,
        "extremities": 12,
        "torso_vertical": 3,
        "com_velocity": 3,
        "velocity": 27,
    },
}


def actions_of(environment, steps, count=1, seed=0):
    shape = (steps, count, *environment.spec.actions.one.shape)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def suite_task(task, seed):
    """The task as dm_control plays it, with the seed of the first episode of the first world."""
    environment = Control(task).build()  # also chooses how to draw before dm_control is imported
    from dm_control import suite

    reference = suite.load(*task.split("-"))
    reference.task.random.seed(int(np.random.SeedSequence(seed, spawn_key=(0, 0)).generate_state(1)[0]))
    return environment, reference


def laid_out(task, observation):
    """The observation as the order above says, whatever order the dictionary has."""
    assert set(observation) == set(ORDER[task])
    parts = [np.reshape(observation[name], size) for name, size in ORDER[task].items()]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("task", ORDER)
def test_it_is_dm_controls_task_with_its_parts_in_their_order(task):
    environment, reference = suite_task(task, seed=5)
    worlds = environment.open(2, 5)
    np.testing.assert_array_equal(worlds.reset()[0], laid_out(task, reference.reset().observation))
    for actions in actions_of(environment, 60, 2):
        outcome, now = worlds.step(actions), reference.step(actions[0])
        np.testing.assert_array_equal(outcome.obs[0], laid_out(task, now.observation))
        assert outcome.reward[0] == np.float32(now.reward)


def test_what_it_declares_is_what_it_gives():
    environment = Control("humanoid-run").build()
    assert environment.spec.name == "control/humanoid-run" and environment.spec.actions.one.shape == (21,)
    worlds = environment.open(3, 0)
    obs, outcome = worlds.reset(), worlds.step(actions_of(environment, 1, 3)[0])
    assert environment.spec.observation.shape == (67,)
    for array in (obs, outcome.obs, outcome.final_obs):
        assert (
            array.shape == (3, *environment.spec.observation.shape)
            and array.dtype == environment.spec.observation.dtype
        )
    assert [array.dtype for array in outcome[1:4]] == [np.float32, bool, bool]


def test_actions_between_one_and_one_reach_the_actuators_in_their_units():
    environment = Control("quadruped-walk").build()  # whose lifts go from -1 to 1.1
    worlds = environment.open(1, 0)
    worlds.reset()
    for place, expected in ((-1, environment.spec.actions.low), (1, environment.spec.actions.high)):
        worlds.step(np.full((1, 12), place, np.float32))
        np.testing.assert_array_equal(worlds._worlds[0]._environment.physics.data.ctrl, expected)
    assert environment.spec.actions.high.max() == 1.1


# The limit and repeated actions


def test_the_suites_thousandth_step_truncates_and_final_obs_is_the_true_successor():
    environment, reference = suite_task("cartpole-swingup", seed=0)
    actions = actions_of(environment, 1001)
    reference.reset()
    *_, last = (reference.step(action[0]) for action in actions[:1000])
    outcome = walk_from_start(environment.open(1, 0), actions)
    assert last.last() and last.discount == 1
    assert np.flatnonzero(outcome.truncated).tolist() == [999] and not outcome.terminated.any()
    np.testing.assert_array_equal(outcome.final_obs[999, 0], laid_out("cartpole-swingup", last.observation))
    assert (outcome.obs[999] != outcome.final_obs[999]).any()
    np.testing.assert_array_equal(outcome.obs[:999], outcome.final_obs[:999])


def test_a_limit_counts_control_steps_and_cuts_a_repeat_short():
    def ends(repeat, limit):
        environment = Control("cheetah-run", repeat, limit).build()
        return np.flatnonzero(walk_from_start(environment.open(1, 0), actions_of(environment, 12)).truncated).tolist()

    assert ends(1, 5) == [4, 9]
    assert ends(2, 8) == [3, 7, 11]
    assert ends(3, 8) == [2, 5, 8, 11]  # the third action is repeated twice


def test_a_repeated_action_earns_the_sum_of_its_rewards():
    actions = actions_of(Control("cartpole-swingup").build(), 20)
    repeated = walk_from_start(Control("cartpole-swingup", action_repeat=3).build().open(1, 0), actions)
    single = walk_from_start(Control("cartpole-swingup").build().open(1, 0), np.repeat(actions, 3, axis=0))
    np.testing.assert_array_equal(repeated.obs, single.obs[2::3])
    np.testing.assert_allclose(repeated.reward[:, 0], single.reward.reshape(20, 3).sum(1), rtol=1e-6)
    assert repeated.reward.any()


# Seeds and going on


def test_equal_runs_are_equal_and_worlds_seeds_and_episodes_differ():
    environment = Control("cartpole-swingup", time_limit=5).build()
    runs = []
    for seed in (0, 0, 1):
        worlds = environment.open(2, seed)
        runs.append((worlds.reset(), walk(worlds, np.zeros((10, 2, 1), np.float32))))
    assert_same(runs[0][1], runs[1][1])
    starts = [*runs[0][0], *runs[2][0], *runs[0][1].obs[4], *runs[0][1].obs[9]]
    assert len({start.tobytes() for start in starts}) == 8


# The last one draws its target into the model.
@pytest.mark.parametrize("task", ["cartpole-swingup", "cheetah-run", "humanoid-run", "reacher-easy"])
def test_it_goes_on_to_the_bit_after_a_save(task):
    environment = Control(task, action_repeat=2, time_limit=60).build()
    actions = actions_of(environment, 110, 2)
    worlds = environment.open(2, 3)
    worlds.reset()
    for action in actions[:45]:
        worlds.step(action)
    saved = json.loads(json.dumps(worlds.save()))
    expected = walk(worlds, actions[45:])
    assert expected.truncated.sum() == 4  # over ends too

    for other in (environment.open(2, 3), worlds):  # a fresh one, and one that went on
        other.load(saved)
        assert_same(walk(other, actions[45:]), expected)


# A simulator that breaks down


def test_a_simulator_that_breaks_down_is_told():
    worlds = Control("cartpole-swingup").build().open(1, 0)
    worlds.reset()
    worlds._worlds[0]._environment.physics.data.qpos[0] = np.nan
    with pytest.raises(Unphysical, match="the state of the simulator is not a finite number"):
        worlds.step(np.zeros((1, 1), np.float32))


def test_an_action_that_is_no_number_is_told_as_such():
    worlds = Control("cartpole-swingup").build().open(1, 0)
    worlds.reset()
    with pytest.raises(Unphysical, match="an action is not a finite number"):
        worlds.step(np.full((1, 1), np.nan, np.float32))


# Pictures


def test_a_picture_is_drawn_without_a_screen():
    worlds = Control("cheetah-run").build().open(1, 0, render=True)
    worlds.reset()
    try:
        picture = worlds.picture()
    except SharedqError as error:
        pytest.skip(str(error))
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8 and picture.std() > 0


def test_a_machine_that_cannot_draw_is_told_what_it_lacks(monkeypatch):
    worlds = Control("cartpole-swingup").build().open(1, 0, render=True)
    monkeypatch.setattr(worlds._worlds[0]._environment.physics, "render", lambda *_, **__: 1 / 0)
    with pytest.raises(SharedqError, match=r"cannot be drawn \(division by zero\): install EGL or OSMesa"):
        worlds.picture()


# What is refused


@pytest.mark.parametrize("task", ["HumanoidRun", "humanoid_run", "humanoid-run", "Humanoid Run"])
def test_a_task_has_many_spellings(task):
    assert Control(task).build().spec.name == "control/humanoid-run"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "humanoid-runn"}, "unknown task of the Control Suite 'humanoid-runn': did you mean humanoid-run"),
        ({"action_repeat": 0}, "action_repeat must be at least 1"),
        ({"time_limit": 0}, "time_limit must be at least 1"),
    ],
)
def test_bad_settings_are_told_in_one_line(settings, message):
    with pytest.raises(SharedqError, match=message) as caught:
        Control(**settings).build()
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(SharedqError, match=r"Control Suite needs the package 'dm_control': .*sharedq\[control\]"):
        Control().build()
