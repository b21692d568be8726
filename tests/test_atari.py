"""Atari: frames, rewards, ends and lives against Gymnasium's and the emulator's, seeds, and going on after a save."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from walks import assert_same, walk, walk_from_start

from sharedq.algorithms.stream_inputs import absorb, none_yet
from sharedq.environments import Atari, Discrete
from sharedq.errors import SharedqError
from sharedq.recipes import recipe
from sharedq.transitions import Step

gymnasium = pytest.importorskip("gymnasium")
ale_py = pytest.importorskip("ale_py")
pytest.importorskip("cv2")


def opened(count=1, seed=0, **settings):
    return Atari(**settings).build().open(count, seed)


def actions_of(steps, count=1, seed=0, choices=4):
    return np.random.default_rng(seed).integers(choices, size=(steps, count))


class Reference:
    """Gymnasium's wrapper around ale-py's environment, and a stack written out."""

    def __init__(self, game, side, stack):
        self.black = [np.zeros((side, side), np.uint8)] * (stack - 1)
        gymnasium.register_envs(ale_py)
        raw = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0, disable_env_checker=True)
        self.environment = gymnasium.wrappers.AtariPreprocessing(
            raw, noop_max=0, frame_skip=4, screen_size=side, terminal_on_life_loss=False, grayscale_obs=True
        )

    def begin(self):
        frame, _ = self.environment.reset()
        self.frames = [*self.black, frame]
        return np.stack(self.frames, axis=-1)

    def step(self, action):
        frame, reward, terminated, _, _ = self.environment.step(action)
        self.frames = [*self.frames[1:], frame]
        return np.stack(self.frames, axis=-1), reward, terminated


@pytest.mark.parametrize(
    ("game", "steps", "side", "stack"),
    [("Breakout", 600, 84, 4), ("SpaceInvaders", 250, 84, 4), ("Breakout", 600, 16, 2), ("SpaceInvaders", 250, 16, 2)],
)
def test_frames_rewards_and_ends_are_those_of_gymnasium(game, steps, side, stack):
    """Gymnasium resizes with OpenCV's INTER_AREA, and so does the code of the scaled-down agent."""
    reference, worlds = Reference(game, side, stack), opened(game=game, sticky=0.0, side=side, stack=stack)
    np.testing.assert_array_equal(worlds.reset()[0], reference.begin())
    rewards, ends = 0, 0
    for action in actions_of(steps):
        outcome = worlds.step(action)
        obs, reward, terminated = reference.step(action[0])
        np.testing.assert_array_equal(outcome.final_obs[0], obs)
        assert (outcome.reward[0], outcome.terminated[0], outcome.truncated[0]) == (reward, terminated, False)
        np.testing.assert_array_equal(outcome.obs[0], reference.begin() if terminated else obs)
        rewards, ends = rewards + reward, ends + terminated
    assert rewards > 0
    assert ends > 0 or game != "Breakout"


def test_what_it_declares_is_what_it_gives():
    environment = Atari(stack=2).build()
    assert environment.spec.name == "atari/Breakout" and environment.spec.actions == Discrete(4)
    worlds = environment.open(3, 0)
    obs = worlds.reset()
    outcome = worlds.step(np.zeros(3, np.int32))
    for array in (obs, outcome.obs, outcome.final_obs):
        assert (
            array.shape == (3, *environment.spec.observation.shape)
            and array.dtype == environment.spec.observation.dtype
        )
    assert [array.dtype for array in outcome[1:4]] == [np.float32, bool, bool]


def test_rewards_are_raw():
    outcome = walk_from_start(opened(game="SpaceInvaders"), actions_of(150, choices=6))
    assert outcome.reward.max() > 1


def test_the_stack_is_black_after_a_reset_and_fills_from_its_end():
    worlds = opened(time_limit=3)
    assert [frame.any() for frame in np.moveaxis(worlds.reset()[0], -1, 0)] == [False, False, False, True]
    outcome = walk(worlds, actions_of(4))
    assert not outcome.obs[2, 0, ..., :3].any() and outcome.obs[2, 0, ..., 3].any()  # after the end
    np.testing.assert_array_equal(outcome.obs[3, 0, ..., 2], outcome.obs[2, 0, ..., 3])


def test_a_stack_that_repeats_its_first_frame_has_no_outliers_when_normalised():
    """A black frame that is no frame of the game would lie about a million deviations off."""
    largest = {}
    for begins in ("black", "repeated"):
        worlds = opened(stack_begins=begins, time_limit=5)
        obs, inputs, seen = worlds.reset(), None, []
        for action in actions_of(12):
            inputs = none_yet(obs, "newest") if inputs is None else inputs
            out = worlds.step(action)
            step = Step(*map(jnp.asarray, (obs, action, out.reward, out.terminated, out.truncated, out.final_obs)))
            inputs, pair = absorb(inputs, step, out.obs, 0.99, "newest", scale_rewards=False)
            seen += [pair.now, pair.then]
            obs = out.obs
        largest[begins] = np.abs(seen).max()
    assert largest["black"] > 1e5
    assert largest["repeated"] < np.sqrt(float(inputs.moments.count))  # no number of n lies further off


def test_the_horizon_truncates_and_keeps_the_true_last_frame():
    actions = actions_of(12)
    cut, whole = (walk_from_start(opened(time_limit=limit, sticky=0.0), actions) for limit in (5, 27_000))
    assert np.flatnonzero(cut.truncated).tolist() == [4, 9] and not cut.terminated.any()
    assert not whole.truncated.any()
    np.testing.assert_array_equal(cut.final_obs[:5], whole.final_obs[:5])
    assert (cut.obs[4] != cut.final_obs[4]).any()


def test_equal_runs_are_equal_and_worlds_and_seeds_differ():
    actions = np.repeat(actions_of(60), 3, axis=1)  # the same in each world
    one, again, other = (walk_from_start(opened(3, seed), actions) for seed in (0, 0, 1))
    assert_same(one, again)
    runs = [*np.moveaxis(one.obs, 1, 0), *np.moveaxis(other.obs, 1, 0)]
    assert len({run.tobytes() for run in runs}) == 6


def test_an_action_that_always_sticks_is_never_taken():
    always = walk_from_start(opened(sticky=1.0), actions_of(40))
    nothing = walk_from_start(opened(sticky=0.0), np.zeros((40, 1), int))
    assert_same(always, nothing)


def test_actions_stick_as_often_as_asked():
    """Two actions by turns, a frame each: the chosen one is done if none sticks, or the one of two frames ago."""
    worlds = opened(frame_skip=1)
    worlds.reset()
    game = worlds._worlds[0]
    held = []
    for time in range(4000):
        game.step(2 + time % 2)
        held.append(game._repeated == game._actions[2 + time % 2])
    assert abs(np.mean(held) - 0.75 / (1 - 0.25**2)) < 0.03  # over 4 deviations


def test_a_lost_life_is_told_as_the_emulator_counts_it_and_ends_nothing():
    worlds, actions = opened(life_loss=True), actions_of(400)
    worlds.reset()
    emulator = worlds._worlds[0]._emulator
    lives, outcomes = [emulator.lives()], []
    for action in actions:
        outcomes.append(worlds.step(action))
        lives.append(emulator.lives())
    outcome = type(outcomes[0])(*map(np.stack, zip(*outcomes, strict=True)))
    assert lives[0] == 5 and outcome.terminated.any()  # over an end too, after which there are five again
    np.testing.assert_array_equal(outcome.life_lost[:, 0], np.diff(lives) == -1)
    np.testing.assert_array_equal(outcome.obs[outcome.life_lost], outcome.final_obs[outcome.life_lost])
    games = np.split(outcome.life_lost[:, 0], np.flatnonzero(outcome.terminated) + 1)
    assert {int(game.sum()) for game in games[:-1]} == {4}  # the fifth is the end

    untold = walk_from_start(opened(), actions)
    assert not untold.life_lost.any()
    assert_same(untold, outcome._replace(life_lost=untold.life_lost))


@pytest.mark.parametrize(("fire", "lost", "over"), [("never", 0, False), ("start", 1, False), ("life", 4, True)])
def test_who_does_nothing_loses_the_balls_that_fire_brings(fire, lost, over):
    worlds = opened(fire=fire, life_loss=True, sticky=0.0)
    first, outcome = worlds.reset(), walk(worlds, np.zeros((250, 1), int))
    assert not first[..., :-1].any() and first[..., -1].any()  # one frame, as at any start
    assert outcome.terminated.any() == over
    whole = int(outcome.terminated.argmax()) if over else None
    assert outcome.life_lost[:whole].sum() == lost


def test_a_game_without_fire_is_begun_without():
    pressed, not_pressed = (opened(game="Freeway", fire=fire).reset() for fire in ("life", "never"))
    np.testing.assert_array_equal(pressed, not_pressed)


def test_games_begin_with_up_to_so_many_frames_of_nothing():
    worlds = opened(noops=4)
    emulator, begun = worlds._worlds[0]._emulator, []
    for _ in range(25):
        worlds.reset()
        begun.append(emulator.getEpisodeFrameNumber())
    assert set(begun) == {1, 2, 3, 4}


STREAMED = {"stack_begins": "repeated", "noops": 30, "fire": "life", "life_loss": True}


@pytest.mark.parametrize(("steps", "settings"), [(0, {}), (1, {}), (37, {}), (2, STREAMED)])
def test_it_goes_on_to_the_bit_after_a_save(steps, settings):
    environment = Atari(sticky=0.5, **settings).build()
    before, after = actions_of(steps, 2), actions_of(400, 2, seed=1)
    worlds = environment.open(2, 0)
    worlds.reset()
    for action in before:
        worlds.step(action)
    saved = json.loads(json.dumps(worlds.save()))
    expected = walk(worlds, after)
    assert expected.terminated.any()  # over an end too
    assert expected.life_lost.any() == bool(settings)

    for other in (environment.open(2, 7), worlds):  # a fresh one, and one that went on
        other.load(saved)
        assert_same(walk(other, after), expected)


def test_an_end_right_after_a_load_shows_what_it_would_have():
    actions = actions_of(600)
    end = int(np.flatnonzero(walk_from_start(opened(), actions).terminated)[0])
    worlds = opened()
    worlds.reset()
    for action in actions[:end]:
        worlds.step(action)
    saved = worlds.save()
    expected = worlds.step(actions[end])
    other = opened(seed=3)
    other.load(saved)
    assert expected.terminated[0]
    assert_same(other.step(actions[end]), expected)


def test_a_picture_is_the_screen_in_colour():
    worlds = opened()
    worlds.reset()
    picture = worlds.picture()
    assert picture.shape == (210, 160, 3) and picture.dtype == np.uint8 and picture.any()


@pytest.mark.parametrize("game", ["MsPacman", "ms_pacman", "ms-pacman", "Ms Pacman", "mspacman"])
def test_a_game_has_many_spellings(game):
    assert Atari(game).build().spec.name == "atari/MsPacman"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "Breakot"}, "unknown Atari game 'Breakot': did you mean Breakout"),
        ({"game": "Warlords"}, "unknown Atari game"),
        ({"sticky": 1.5}, "sticky must be a probability"),
        ({"stack": 0}, "stack must be at least 1"),
        ({"frame_skip": 0}, "frame_skip must be at least 1"),
        ({"time_limit": 0}, "time_limit must be at least 1"),
        ({"noops": -1}, "noops cannot be negative"),
    ],
)
def test_bad_settings_are_told_in_one_line(settings, message):
    with pytest.raises(SharedqError, match=message) as caught:
        Atari(**settings).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("module", "package"), [("ale_py", "ale-py"), ("cv2", "opencv-python-headless")])
def test_a_missing_package_is_told_with_its_extra(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SharedqError, match=rf"Atari needs the package '{package}': .*sharedq\[atari\]"):
        Atari().build()


def test_stream_atari_is_the_public_treatment():
    stream = recipe("stream-atari")
    world = stream.environment
    assert (world.sticky, world.noops, world.fire, world.life_loss) == (0.0, 30, "start", True)
    assert world.stack_begins == "repeated"
    dqn = {"algorithm": "dqn", "training": "interactive", "replay": "frame_stacks"}
    with pytest.raises(SharedqError, match=r"atari/\w+ does not say .*--environment\.stack_begins black"):
        stream.replace(**dqn).build()
    assert stream.replace(**dqn, **{"environment.stack_begins": "black"}).build().environment.spec.stacks == "black"
    algorithm = stream.algorithm
    assert (algorithm.gamma, algorithm.trace_decay, algorithm.kappa, algorithm.learning_rate) == (0.99, 0.8, 2.0, None)
    assert (algorithm.epsilon_start, algorithm.epsilon_end, algorithm.epsilon_steps) == (1.0, 0.01, 500_000)
    assert (algorithm.normalise, algorithm.scale_rewards, stream.training.steps) == ("newest", True, 10_000_000)
    cost = stream.build().cost(compiled=False)
    assert cost.parameters["trunk"] + cost.parameters["heads"] == 144_804  # for four actions


def test_stream_atari_learns_over_a_lost_life():
    small = {"network": "dense", "network.hidden": (4,)}
    program = recipe("stream-atari").replace(steps=80, **small, **{"training.log_period": 80}).build().program()
    program.prepare()
    start = program.begin()
    before = program.to_host(start).agent.params
    run, told = program.advance(start, 0, 80)
    agent, lives = program.to_host(run).agent, program._worlds[0]._worlds[0]._emulator.lives()
    program.close()
    assert lives < 5 and not told.episodes[0].lengths.size  # a life was lost, and no episode ended
    assert run.length.tolist() == [[80]]
    assert agent.inputs.moments.count.tolist() == [81]  # each frame once
    assert told.params_finite.all() and (agent.params["heads"]["kernel"] != before["heads"]["kernel"]).any()
