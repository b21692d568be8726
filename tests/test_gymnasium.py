"""Environments of Gymnasium: observations, time limits, seeds, going on after a save, and what is refused."""

import json
import random
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from walks import assert_same, walk

from sharedq.environments import Continuous, Discrete, Gymnasium
from sharedq.environments.keywords import keywords_of
from sharedq.environments.spec import JSON_FORM, from_json, to_json
from sharedq.errors import EnvironmentFailed, SharedqError, Unphysical
from sharedq.experiment import Experiment
from sharedq.json_files import parse_json
from sharedq.networks import Convolutional, Dense, Impala
from sharedq.recipes import recipe
from sharedq.trainer import _remarks

UNIT = spaces.Box(0.0, 1.0, (2,), np.float32)


class Made(gymnasium.Env):
    """An environment of a test: spaces as asked, observations from a function of the time, an end at a time."""

    def __init__(self, observation_space=UNIT, action_space=None, show=None, ends=3, limit=99, mode=None):
        self.observation_space, self.action_space = observation_space, action_space or spaces.Discrete(2)
        self._show = show or (lambda time: np.full(2, time / 100, np.float32))
        self._ends, self._limit, self.render_mode = ends, limit, mode
        self.taken, self.seeds = [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self._time = 0
        return self._show(0), {}

    def step(self, action):
        self._time += 1
        self.taken.append(action)
        return self._show(self._time), 0.5, self._time >= self._ends, self._time >= self._limit, {}

    def render(self):
        return np.full((4, 5, 3), 7, np.uint8)


@pytest.fixture
def bring(monkeypatch):
    """The settings of an environment that a user's function makes, and the list of what was made."""

    def bring(time_limit=None, frame_stacks=False, channels=None, **options):
        made = []

        def make():
            made.append(Made(**options))
            return made[-1]

        monkeypatch.setattr(sys.modules[__name__], "make", make, raising=False)
        return Gymnasium(f"{__name__}:make", time_limit, frame_stacks, channels), made

    return bring


def lander_actions(steps, count):
    return np.random.default_rng(0).integers(4, size=(steps, count))


# Episodes


class TestLunarLander:
    @pytest.fixture(autouse=True)
    def needs_box2d(self):
        pytest.importorskip("Box2D")

    def test_it_is_gymnasiums_with_each_episode_from_its_own_seed(self):
        environment = Gymnasium().build()
        assert environment.spec.name == "gymnasium/LunarLander-v3" and environment.spec.actions == Discrete(4)
        assert environment.spec.observation.shape == (8,) and environment.spec.observation.dtype == np.float32
        worlds, reference = environment.open(2, 5), gymnasium.make("LunarLander-v3")
        episode = 0

        def begin(world):
            seed = np.random.SeedSequence(5, spawn_key=(world, episode)).generate_state(1)[0]
            return reference.reset(seed=int(seed))[0]

        np.testing.assert_array_equal(worlds.reset()[0], begin(0))
        for taken in lander_actions(300, 2):
            outcome = worlds.step(taken)
            obs, reward, terminated, _, _ = reference.step(taken[0])
            np.testing.assert_array_equal(outcome.final_obs[0], obs)
            assert outcome.reward[0] == np.float32(reward) and outcome.terminated[0] == terminated
            if terminated:
                episode += 1
                obs = begin(0)
            np.testing.assert_array_equal(outcome.obs[0], obs)
        assert episode >= 2

    def test_equal_runs_are_equal_and_worlds_seeds_and_episodes_differ(self):
        runs = []
        for seed in (0, 0, 1):
            worlds = Gymnasium(time_limit=20).build().open(2, seed)
            runs.append((worlds.reset(), walk(worlds, np.zeros((40, 2), int))))
        assert_same(runs[0][1], runs[1][1])
        first, second = runs[0][1].obs[19], runs[0][1].obs[39]  # of the next episodes
        starts = [*runs[0][0], *runs[2][0], *first, *second]
        assert len({start.tobytes() for start in starts}) == 8

    @pytest.mark.parametrize("steps", [0, 30, 230])
    def test_it_goes_on_to_the_bit_after_a_save(self, steps):
        environment = Gymnasium().build()
        drawn = lander_actions(steps + 150, 2)
        worlds = environment.open(2, 3)
        worlds.reset()
        for taken in drawn[:steps]:
            worlds.step(taken)
        saved = json.loads(json.dumps(worlds.save()))
        expected = walk(worlds, drawn[steps:])
        assert expected.terminated.any()  # over an end too

        for other in (environment.open(2, 3), worlds):  # a fresh one, and one that went on
            other.load(saved)
            assert_same(walk(other, drawn[steps:]), expected)

    def test_it_can_be_seen(self):
        worlds = Gymnasium().build().open(1, 0, render=True)
        worlds.reset()
        picture = worlds.picture()
        assert picture.shape == (400, 600, 3) and picture.dtype == np.uint8 and picture.any()
        worlds.close()

    def test_a_missing_package_is_told_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "Box2D", None)
        for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(SharedqError, match=r"'LunarLander-v3' needs the package 'box2d': .*sharedq\[gymnasium\]"):
            Gymnasium().build()


def ends(settings, steps):
    worlds = settings.build().open(1, 0)
    worlds.reset()
    outcome = walk(worlds, np.zeros((steps, 1), int))
    return np.flatnonzero(outcome.terminated).tolist(), np.flatnonzero(outcome.truncated).tolist(), outcome


def test_a_time_limit_truncates_and_final_obs_is_the_true_successor(bring):
    terminated, truncated, outcome = ends(bring(time_limit=4, ends=99)[0], 9)
    assert (terminated, truncated) == ([], [3, 7])
    np.testing.assert_allclose(outcome.final_obs[:, 0, 0] * 100, [1, 2, 3, 4, 1, 2, 3, 4, 1])
    np.testing.assert_allclose(outcome.obs[:, 0, 0] * 100, [1, 2, 3, 0, 1, 2, 3, 0, 1])
    assert (outcome.reward == 0.5).all() and outcome.reward.dtype == np.float32


def test_the_environments_own_limit_truncates_too(bring):
    assert ends(bring(ends=99, limit=2)[0], 4)[:2] == ([], [1, 3])


def test_an_end_on_the_last_step_is_a_termination(bring):
    assert ends(bring(time_limit=3, ends=3)[0], 6)[:2] == ([2, 5], [])


def test_a_registered_limit_holds_unless_another_is_set():
    sleeping = np.full((600, 1, 1), 0.0, np.float32)  # a pendulum never ends
    for limit, expected in ((None, [199, 399, 599]), (250, [249, 499])):
        worlds = Gymnasium("Pendulum-v1", limit).build().open(1, 0)
        worlds.reset()
        assert np.flatnonzero(walk(worlds, sleeping).truncated).tolist() == expected


def test_every_episode_of_every_world_has_a_seed_of_its_own(bring):
    settings, made = bring(ends=2)
    worlds = settings.build().open(3, 0)
    worlds.reset()
    walk(worlds, np.zeros((6, 3), int))
    seeds = [seed for environment in made[1:] for seed in environment.seeds]  # the first one only showed its spaces
    assert len(seeds) == len(set(seeds)) == 12


# Observations and actions


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        (np.float64, np.float32),
        (np.float32, np.float32),
        (np.int64, np.float32),
        (np.uint8, np.uint8),
        (np.bool_, np.bool_),
    ],
)
def test_boxes_of_any_type_are_kept_or_made_float32(bring, declared, kept):
    array = np.array([[0, 1, 1]], declared)
    environment = bring(observation_space=spaces.Box(0, 1, (1, 3), declared), show=lambda time: array)[0].build()
    assert environment.spec.observation.shape == (1, 3) and environment.spec.observation.dtype == kept
    obs = environment.open(1, 0).reset()
    assert obs.dtype == kept
    np.testing.assert_array_equal(obs, [[[0, 1, 1]]])


def test_what_was_given_stays_though_the_environment_writes_into_its_array(bring):
    shared = np.zeros(2, np.float32)

    def show(time):
        shared[:] = time
        return shared

    worlds = bring(show=show)[0].build().open(1, 0)
    first = worlds.reset()
    outcome = worlds.step(np.array([0]))
    assert (first == 0).all() and (outcome.obs == 1).all()


FRAMES = np.random.default_rng(0).integers(1, 256, (9, 2, 3), np.uint8)


def stack(time, begins=0):
    """The three newest frames of an episode, and before its first: zeros, or the first itself."""
    return np.stack([FRAMES[at] if at >= 0 else FRAMES[0] * begins for at in range(time - 2, time + 1)], axis=-1)


def of_bytes(show):
    return {"observation_space": spaces.Box(0, 255, (2, 3, 3), np.uint8), "show": show, "ends": 4}


def on_frame_stacks(settings):
    return recipe("lunar-lander").replace(environment=settings, replay="frame_stacks")


def test_stacks_that_begin_black_are_for_frame_stacks(bring):
    experiment = on_frame_stacks(bring(frame_stacks=True, **of_bytes(stack))[0])
    environment = experiment.build().environment
    worlds = environment.open(2, 0)
    np.testing.assert_array_equal(worlds.reset()[0], stack(0))
    outcome = walk(worlds, np.zeros((9, 2), int))  # over two ends
    np.testing.assert_array_equal(outcome.final_obs[-2, 1], stack(4))
    assert environment.spec.stacks == "black"


@pytest.mark.parametrize(
    ("show", "bad"),  # and which step it is seen at; 0: the first observation
    [
        (lambda time: stack(time, begins=1), 0),  # as Gymnasium's FrameStackObservation does by default
        (lambda time: stack(time + 2), 0),  # colours
        (lambda time: stack(time + 2) * (time > 1), 2),  # colours that begin black
        (lambda time: stack(min(time, 2))[..., :: 1 if time < 2 else -1], 2),  # the newest first
    ],
)
def test_other_bytes_are_not_for_frame_stacks(bring, show, bad):
    with pytest.raises(
        SharedqError, match=r"test_gymnasium:make does not say .* use --replay transitions, or "
    ) as caught:
        on_frame_stacks(bring(**of_bytes(show))[0]).build()
    assert "--environment.frame_stacks true" in str(caught.value) and "\n" not in str(caught.value)

    worlds = on_frame_stacks(bring(frame_stacks=True, **of_bytes(show))[0]).build().environment.open(1, 0)
    seen = [worlds.reset, *[lambda: worlds.step(np.zeros(1, int))] * 2]
    for look in seen[:bad]:
        look()
    with pytest.raises(
        SharedqError, match=r"not stacks of frames .*frame_stacks false and --replay transitions"
    ) as caught:
        seen[bad]()
    assert "\n" not in str(caught.value)


def test_what_cannot_be_stacks_of_frames_is_refused(bring):
    with pytest.raises(SharedqError, match=r"uint8 \[\.\.\., time\], and those of .* are float32\[2\]: set"):
        bring(frame_stacks=True)[0].build()


def test_discrete_observations_become_a_single_one(bring):
    settings, _ = bring(observation_space=spaces.Discrete(3, start=5), show=lambda time: 5 + time)
    environment = settings.build()
    assert environment.spec.observation.shape == (3,) and environment.spec.observation.dtype == np.float32
    worlds = environment.open(1, 0)
    np.testing.assert_array_equal(worlds.reset(), [[1, 0, 0]])
    np.testing.assert_array_equal(worlds.step(np.array([0])).final_obs, [[0, 1, 0]])


def test_discrete_actions_begin_where_the_environments_do(bring):
    settings, made = bring(action_space=spaces.Discrete(3, start=-1), ends=9)
    environment = settings.build()
    assert environment.spec.actions == Discrete(3, first=-1)
    assert [environment.spec.actions.in_units(action) for action in range(3)] == [
        -1,
        0,
        1,
    ]  # for an agent that is loaded
    worlds = environment.open(1, 0)
    worlds.reset()
    walk(worlds, np.array([[0], [1], [2]], np.int32))
    assert made[-1].taken == [-1, 0, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_of_actions_are_handed_on_in_their_units_and_saved(bring, dtype):
    space = spaces.Box(np.array([-0.1, 2], dtype), np.array([0.1, 6], dtype), dtype=dtype)
    settings, made = bring(action_space=space, ends=9)
    environment = settings.build()
    assert isinstance(environment.spec.actions, Continuous)
    worlds = environment.open(1, 0)
    worlds.reset()
    for action in ([[1, -0.5]], [[-1, 1]]):
        worlds.step(np.array(action, np.float32))
    worlds.load(json.loads(json.dumps(worlds.save())))
    taken = made[-1].taken
    np.testing.assert_array_equal(taken, np.array([[0.1, 3], [-0.1, 6]] * 2, dtype))
    assert all(space.contains(one) for one in taken)  # in its type, and not beyond a bound by a rounding


def test_continuous_actions_are_taken_again_to_the_bit():
    environment = Gymnasium("Pendulum-v1").build()
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 2, 1)).astype(np.float32)
    worlds = environment.open(2, 0)
    worlds.reset()
    walk(worlds, actions[:60])
    saved = json.loads(json.dumps(worlds.save()))
    expected = walk(worlds, actions[60:])
    worlds.load(saved)
    assert_same(walk(worlds, actions[60:]), expected)


def test_an_environment_that_draws_elsewhere_is_not_resumed(bring):
    worlds = bring(show=lambda time: np.full(2, random.random(), np.float32), ends=9)[0].build().open(2, 0)
    worlds.reset()
    for steps in range(2):
        saved = json.loads(json.dumps(worlds.save()))
        with pytest.raises(SharedqError, match=r"make' did not reach the same state .*own np_random alone") as caught:
            worlds.load(saved)
        assert "\n" not in str(caught.value)
        worlds.reset()
        walk(worlds, np.zeros((steps + 1, 2), int))


def test_an_episode_that_ends_while_it_is_played_again_is_not_resumed(bring):
    settings, made = bring(show=lambda time: np.zeros(2, np.float32), ends=9)
    worlds = settings.build().open(1, 0)
    worlds.reset()
    walk(worlds, np.zeros((4, 1), int))
    saved = worlds.save()
    worlds.load(saved)
    made[-1]._ends = 3  # as if by chance, and looking the same
    with pytest.raises(SharedqError, match="did not reach the same state"):
        worlds.load(saved)


def test_what_is_no_number_is_told(bring, monkeypatch):
    settings, _ = bring(show=lambda time: np.array([0, np.inf if time == 2 else 0], np.float32))
    worlds = settings.build().open(2, 0)
    worlds.reset()
    worlds.step(np.zeros(2, int))
    with pytest.raises(Unphysical, match="an observation is not a finite number"):
        worlds.step(np.zeros(2, int))
    step = Made.step
    monkeypatch.setattr(Made, "step", lambda *given: (step(*given)[0], np.nan, False, False, {}))
    worlds.reset()
    with pytest.raises(Unphysical, match="a reward is not a finite number"):
        worlds.step(np.zeros(2, int))


def test_an_episode_that_begins_with_what_is_no_number_is_told(bring):
    def show(time):  # at the second reset and at no step
        begun[0] += time == 0
        return np.full(2, np.nan if time == 0 and begun[0] > 1 else 0, np.float32)

    begun = [0]
    worlds = bring(show=show, ends=1)[0].build().open(1, 0)
    worlds.reset()
    with pytest.raises(Unphysical, match="an observation is not a finite number"):
        worlds.step(np.zeros(1, int))
    with pytest.raises(Unphysical, match="an observation is not a finite number"):
        worlds.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"show": lambda time: np.zeros(2 + time, np.float32)}, r"gave .* float32\[3\] and declared float32\[2\]"),
        ({"show": lambda time: np.zeros(2, np.int64 if time else np.float32)}, r"int64\[2\] and declared float32\[2\]"),
        ({"show": lambda time: {} if time else np.zeros(2, np.float32)}, r"object\[\] and declared float32\[2\]"),
        ({"observation_space": spaces.Discrete(1), "show": int}, "observation of 1 .* a whole number from 0 to 0"),
        ({"observation_space": spaces.Discrete(9), "show": lambda time: time / 2 if time else 0}, r"float64\[\]"),
    ],
)
def test_an_observation_that_is_not_as_declared_is_told(bring, options, message):
    worlds = bring(**options)[0].build().open(1, 0)
    worlds.reset()
    with pytest.raises(SharedqError, match=message) as caught:
        worlds.step(np.array([0]))
    assert f"{__name__}:make" in str(caught.value) and "\n" not in str(caught.value)
    assert f"({__file__}:{Made.step.__code__.co_firstlineno})" in str(caught.value)


def test_a_users_environment_can_be_seen_if_it_has_pictures(bring):
    worlds = bring(mode="rgb_array")[0].build().open(1, 0, render=True)
    worlds.reset()
    assert worlds.picture().shape == (4, 5, 3)
    with pytest.raises(SharedqError, match="has no pictures: its render_mode is None"):
        bring()[0].build().open(1, 0, render=True)


class Drawn(Made):
    """An environment that draws pictures if it is asked to, as is usual with Gymnasium."""

    def __init__(self, size=1, render_mode=None):
        super().__init__(mode=render_mode)


def draws(**kwargs):
    return Drawn(**kwargs)


@pytest.mark.parametrize("made_by", [Drawn, draws])
@pytest.mark.parametrize("kwargs", ["size=2", "size=2,render_mode=human"])
def test_a_users_class_or_function_is_asked_for_pictures_where_it_takes_a_render_mode(made_by, kwargs):
    settings = Gymnasium(f"{__name__}:{made_by.__name__}", kwargs=kwargs)
    assert settings._make(render=True).render_mode == "rgb_array"
    assert settings._make().render_mode == ("human" if "human" in kwargs else None)


# Vectors of actions, images and remarks


@pytest.mark.parametrize(
    ("space", "second", "last"),
    [
        (spaces.MultiDiscrete([3, 2], dtype=np.int32, start=[1, -1]), [1, 0], [3, 0]),
        (spaces.MultiBinary(3), [0, 0, 1], [1, 1, 1]),
    ],
)
def test_small_vectors_of_actions_are_enumerated(bring, space, second, last):
    settings, made = bring(action_space=space, ends=99)
    environment = settings.build()
    count = environment.spec.actions.n
    worlds = environment.open(1, 0)
    worlds.reset()
    walk(worlds, np.arange(count)[:, None])
    taken = list(made[-1].taken)
    assert all(space.contains(one) for one in taken) and len({one.tobytes() for one in taken}) == count
    assert taken[1].tolist() == second and taken[-1].tolist() == last
    assert f"are enumerated: {count} of them" in environment.remarks[0]
    worlds.load(json.loads(json.dumps(worlds.save())))

    spec = from_json(parse_json(json.dumps(to_json(environment.spec)), JSON_FORM, "", ""))  # of a loaded agent
    assert spec == environment.spec
    np.testing.assert_array_equal(spec.actions.in_units(np.arange(count)), taken)  # of several observations at once
    assert space.contains(spec.actions.in_units(1))


def test_stacks_of_frames_with_time_on_the_first_axis_can_be_turned(bring):
    turned = of_bytes(lambda time: np.moveaxis(stack(time), -1, 0))
    turned["observation_space"] = spaces.Box(0, 255, (3, 2, 3), np.uint8)
    settings, _ = bring(frame_stacks=True, channels="first", **turned)
    experiment = on_frame_stacks(settings)
    worlds = experiment.build().environment.open(1, 0)
    np.testing.assert_array_equal(worlds.reset()[0], stack(0))
    np.testing.assert_array_equal(worlds.step(np.zeros(1, int)).obs[0], stack(1))


@pytest.mark.parametrize("network", [Convolutional(), Impala((4,), (8,)), Dense()])
def test_every_network_reads_grey_images_without_an_axis_of_channels(bring, network):
    settings, _ = bring(
        observation_space=spaces.Box(0, 255, (9, 9), np.uint8), show=lambda time: np.full((9, 9), time, np.uint8)
    )
    built = recipe("lunar-lander").replace(environment=settings, network=network).build()
    assert built.spec.observation.shape == (9, 9)
    assert built.agent_shapes()


def test_training_begins_with_what_parts_and_environment_remark(bring):
    space = spaces.Dict(picture=spaces.Box(0, 255, (40, 40), np.uint8))
    settings, _ = bring(observation_space=space, action_space=spaces.MultiBinary(2))
    built = recipe("lunar-lander").replace(environment=settings, steps=100).build()
    remarks = list(_remarks(built))
    assert [any(words in one for one in remarks) for words in ("warm-up", "flattened", "enumerated")] == [True] * 3


# Names, classes, specifications and keyword arguments


class Sized(Made):
    def __init__(self, size=2, shift=0.0):
        super().__init__(spaces.Box(0, 1, (size,), np.float32), show=lambda time: np.full(size, shift, np.float32))
        self.arguments = size, shift


def sized(size):
    return Sized(size)


class Brightened(gymnasium.ObservationWrapper):
    def observation(self, observation):
        return np.append(observation, 1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Sized, r"write environment=Gymnasium\(Sized\), with from sharedq.environments import Gymnasium"),
        (sized, r"write environment=Gymnasium\(sized\)"),
        (gymnasium.spec("CartPole-v1"), r"write environment=Gymnasium\(spec\)"),
        (gymnasium.make("CartPole-v1").unwrapped, r"write environment=Gymnasium\(CartPoleEnv\)"),
        ("CartPole-v1", r"--environment.id CartPole-v1 \(from Python environment=Gymnasium\('CartPole-v1'\)\)"),
        (Gymnasium, "must be one of"),  # not an object of it
    ],
)
def test_what_makes_an_environment_is_refused_in_the_place_of_settings(given, says):
    for make in (recipe("lunar-lander").replace, Experiment):
        with pytest.raises(SharedqError, match=says):
            make(environment=given)


def test_gymnasium_is_no_recipe():
    with pytest.raises(
        SharedqError, match=r"start from lunar-lander .* or sac-pendulum .* --environment.id my_module:"
    ):
        recipe("gymnasium")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (Sized, Gymnasium(f"{__name__}:Sized")),
        (sized, Gymnasium(f"{__name__}:sized")),
        (gymnasium.spec("CartPole-v1"), Gymnasium("CartPole-v1")),
        (gymnasium.make("CartPole-v1").spec, Gymnasium("CartPole-v1")),
        (
            gymnasium.make("Pendulum-v1", max_episode_steps=7, g=2, render_mode="rgb_array").spec,
            Gymnasium("Pendulum-v1", 7, kwargs={"g": 2}),
        ),
        (EnvSpec("Mine-v0", Sized, max_episode_steps=9), Gymnasium(f"{__name__}:Sized", 9)),
        (EnvSpec("Mine-v0", "a.b:C", kwargs={"size": 3}), Gymnasium("a.b:C", kwargs="size=3")),
    ],
)
def test_what_makes_an_environment_is_given_as_it_is(given, named):
    assert Gymnasium(given) == named
    experiment = recipe("lunar-lander").replace(**{"environment.id": given})
    assert experiment.environment == named and hash(experiment.environment) == hash(named)
    plain = json.loads(json.dumps(experiment.to_dict()))
    assert Experiment.from_dict(plain, trust=True) == experiment
    assert recipe("lunar-lander").replace(environment=Gymnasium(given)) == experiment


def test_what_is_given_besides_a_specification_counts():
    spec = gymnasium.make("Pendulum-v1", g=2).spec
    assert Gymnasium(spec, 50, kwargs={"g": 3}) == Gymnasium("Pendulum-v1", 50, kwargs="g=3")


def local():
    class Inside(Made): ...

    return Inside


class OfAScript(Made):
    __module__ = "__main__"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (local(), "environment.id is local.<locals>.Inside, which is not found .* top of a module"),
        (lambda: Made(), r"environment.id is <lambda>, which is not found in the module"),
        (OfAScript, "OfAScript of the script or notebook that runs now, .*from my_module import OfAScript"),
        (Made(), "environment.id must be a text, a class or a function, not <"),
        (partial(sized, 3), "environment.id must be a text, a class or a function, not functools.partial"),
        (5, "environment.id must be a text, a class or a function, not 5"),
        (
            Brightened(gymnasium.make("CartPole-v1")).spec,
            "environment.id is the EnvSpec of 'CartPole-v1' with wrappers: write a function",
        ),
    ],
)
def test_what_another_process_could_not_find_is_refused(given, message):
    with pytest.raises(SharedqError, match=message) as caught:
        recipe("lunar-lander").replace(**{"environment.id": given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        ("none", {}),
        ("size=3,shift=0.5", {"size": 3, "shift": 0.5}),
        ("on=True,off=false,nothing=None", {"on": True, "off": False, "nothing": None}),
        ('map=4x4,sizes=[1,2],deep={"a": [1]}', {"map": "4x4", "sizes": [1, 2], "deep": {"a": [1]}}),
        ("words=one, two,more=3", {"words": "one, two", "more": 3}),
        ("at=a=b,number=NaN", {"at": "a=b", "number": "NaN"}),
        ('{"words": "x,y=3"}', {"words": "x,y=3"}),
    ],
)
def test_keyword_arguments_are_read(text, value):
    typed = recipe("lunar-lander").parse({"environment.kwargs": text}).environment
    assert keywords_of(typed.kwargs) == value
    assert typed == Gymnasium(kwargs=value) == Gymnasium(kwargs=typed.kwargs)
    assert hash(typed) == hash(Gymnasium(kwargs=value))


def test_keyword_arguments_are_one_text_whatever_their_order():
    first, second = ({"b": (1, 2), "a": "x"}, {"a": "x", "b": [1, 2]})
    assert Gymnasium(kwargs=first) == Gymnasium(kwargs=second) != Gymnasium(kwargs={"a": "x"})
    assert Gymnasium(kwargs=first).kwargs == '{"a": "x", "b": [1, 2]}'


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("size", "--environment.kwargs takes name=value,name=value, not 'size'"),
        ("size=1,size=2", "--environment.kwargs has 'size' twice"),
        ("{size", "--environment.kwargs begins like a JSON object and is none"),
        ("2x=1", "--environment.kwargs has the name '2x': write names of Python"),
    ],
)
def test_keyword_arguments_that_cannot_be_read_are_told(given, message):
    with pytest.raises(SharedqError, match=message):
        recipe("lunar-lander").parse({"environment.kwargs": given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "environment.kwargs must be names and values, .*not 5"),
        ({"f": len}, "environment.kwargs f is builtin_function_or_method .* no settings file can hold"),
        ({"x": float("inf")}, "environment.kwargs x is float inf, which no settings file"),
        ({"x": {3: 1}}, "environment.kwargs x is dict {3: 1}, which no settings file"),
        ({3: 1}, "environment.kwargs has the name 3"),
    ],
)
def test_keyword_arguments_that_no_file_can_hold_are_told(given, message):
    with pytest.raises(SharedqError, match=message):
        Gymnasium(kwargs=given)


def test_keyword_arguments_reach_the_environment():
    for maker in (Sized, sized):
        assert Gymnasium(maker, kwargs={"size": 5}).build().spec.observation.shape == (5,)
    assert isinstance(Gymnasium("MountainCar-v0", kwargs={"goal_velocity": 1}).build().spec.actions, Discrete)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Gymnasium("CartPole-v1", kwargs="colour=3"),
            "'CartPole-v1' cannot be created: TypeError: .* unexpected keyword argument 'colour'",
        ),
        (
            Gymnasium(Sized, kwargs="colour=3"),
            rf":Sized' raised TypeError: .* unexpected keyword argument 'colour' \({__file__}:\d+\)",
        ),
        (
            Gymnasium(sized, kwargs="colour=3"),
            rf":sized' raised TypeError: .*'colour' \({__file__}:{sized.__code__.co_firstlineno}\)",
        ),
    ],
)
def test_an_unknown_keyword_argument_is_told(settings, message):
    with pytest.raises(SharedqError, match=message) as caught:
        settings.build()
    assert "\n" not in str(caught.value)


# Errors in a user's environment

ZEROS = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((ZEROS, 0.0, False, {}), "returned 4 values from step, and not the five obs, reward, terminated, truncated"),
        (ZEROS, "returned one ndarray from step"),
        (None, "returned one NoneType from step"),
        ((ZEROS, "much", False, False, {}), "returned the reward 'much' from step, which is no number"),
        ((ZEROS, None, False, False, {}), "returned the reward None from step, which is no number"),
        ((ZEROS, ZEROS, False, False, {}), r"returned the reward array\(\[0., 0.\], .* from step, which is no number"),
        ((ZEROS, 0.0, ZEROS, False, {}), "raised ValueError: The truth value"),
    ],
)
def test_what_step_should_not_return_is_told_with_the_users_line(bring, monkeypatch, returned, message):
    def step(self, action):
        return returned

    monkeypatch.setattr(Made, "step", step)
    for limit in (None, 9):  # Gymnasium's own TimeLimit unpacks what step returns
        worlds = bring(limit)[0].build().open(1, 0)
        worlds.reset()
        own = message if limit is None or len(returned if returned is not None else ()) == 5 else "raised .*Error"
        with pytest.raises(EnvironmentFailed, match=rf"environment '.*:make' of seed 0 {own}") as caught:
            worlds.step(np.zeros(1, int))
        assert str(caught.value).endswith(f"({__file__}:{step.__code__.co_firstlineno})")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("returned", [ZEROS, None, (ZEROS, {}, {})])
def test_a_reset_that_returns_no_pair_is_told_with_the_users_line(bring, monkeypatch, returned):
    def reset(self, seed=None, options=None):
        return returned

    monkeypatch.setattr(Made, "reset", reset)
    with pytest.raises(EnvironmentFailed, match="from reset, and not the two obs and info") as caught:
        bring()[0].build().open(1, 0).reset()
    assert f"({__file__}:{reset.__code__.co_firstlineno})" in str(caught.value)


@pytest.mark.parametrize("reward", [1, True, np.float64(1), np.int32(1), np.ones(1), np.ones((1, 1), np.float32)])
def test_rewards_of_every_kind_of_number_are_taken(bring, monkeypatch, reward):
    monkeypatch.setattr(Made, "step", lambda self, action: (ZEROS, reward, False, False, {}))
    worlds = bring()[0].build().open(1, 0)
    worlds.reset()
    assert worlds.step(np.zeros(1, int)).reward.tolist() == [1.0]


class Unmade(Made):
    def __init__(self):
        json.loads("no json")  # raised in the standard library, called by the user


def test_an_error_while_a_registered_environment_is_made_is_told_with_the_users_line(monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "Unmade-v0", EnvSpec("Unmade-v0", Unmade))
    line = Unmade.__init__.__code__.co_firstlineno + 1
    with pytest.raises(SharedqError, match=rf"cannot be created: JSONDecodeError: .* \({__file__}:{line}\)"):
        Gymnasium("Unmade-v0").build()


class Breaking(gymnasium.ActionWrapper):
    def action(self, action):
        return json.loads("no json")  # raised in the standard library, called by the user


def breaking():
    return gymnasium.wrappers.TimeLimit(Breaking(gymnasium.make("CartPole-v1")), 5)


def test_an_error_in_a_users_wrapper_is_told_with_its_line():
    worlds = Gymnasium(breaking).build().open(1, 0)
    worlds.reset()
    line = Breaking.action.__code__.co_firstlineno + 1
    with pytest.raises(EnvironmentFailed, match=rf"raised JSONDecodeError: .* \({__file__}:{line}\)"):
        worlds.step(np.zeros(1, int))


# What is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPol-v1", "unknown Gymnasium environment 'CartPol-v1': did you mean CartPole-v1"),
        ("CartPole-v9", "unknown Gymnasium environment 'CartPole-v9': did you mean CartPole-v1"),
        ("no_such_module:Some-v0", "'no_such_module:Some-v0' cannot be created: ModuleNotFoundError"),
        ("no_such_module:make", "environment factory 'no_such_module:make': no module"),
        ("math:pi", "environment factory 'math:pi' is not a function"),
        ("builtins:list", "returned list, not a gymnasium.Env"),
        ("MiniGrid-Empty-5x5-v0", "unknown .* package of its own registers it, write package:MiniGrid-Empty-5x5-v0"),
    ],
)
def test_a_name_that_cannot_be_built_is_told_in_one_line(name, message):
    with pytest.raises(SharedqError, match=message) as caught:
        Gymnasium(name).build()
    assert "\n" not in str(caught.value)


def test_a_limit_of_no_steps_is_refused():
    with pytest.raises(SharedqError, match="time_limit must be none or at least 1"):
        Gymnasium(time_limit=0)


def test_a_factory_must_make_a_new_environment_each_time(monkeypatch):
    only = Made()
    monkeypatch.setattr(sys.modules[__name__], "make", lambda: only, raising=False)
    environment = Gymnasium(f"{__name__}:make").build()
    with pytest.raises(SharedqError, match="returned one environment twice"):
        environment.open(2, 0)


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(SharedqError, match=r"'CartPole-v1' needs the package 'gymnasium': .*sharedq\[gymnasium\]"):
        Gymnasium("CartPole-v1").build()
