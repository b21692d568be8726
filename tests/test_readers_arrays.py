"""Plain arrays: what each arrangement of them means, and what they say of spaces that nobody declared."""

import dataclasses
import zipfile
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedq import convert, settings
from sharedq.datasets.episode import End
from sharedq.datasets.readers import READERS
from sharedq.datasets.readers.arrays import Arrays
from sharedq.datasets.spaces import DISCRETE, find_actions, find_observations, in_our_form
from sharedq.environments.spec import Continuous, Discrete
from sharedq.errors import SharedqError
from sharedq.settings import options_of

LENGTHS = (4, 1, 3)
STEPS = sum(LENGTHS)
EDGES = np.cumsum([0, *LENGTHS])
ENDS = EDGES[1:] - 1
EVERY = np.arange(2 * (STEPS + len(LENGTHS)), dtype=np.float32).reshape(-1, 2)  # of each episode one more than steps
EACH = [EVERY[first + number : last + number + 1] for number, (first, last) in enumerate(pairwise(EDGES))]
BEFORE = np.concatenate([one[:-1] for one in EACH])
AFTER = np.concatenate([one[1:] for one in EACH])


def flags(*rows):
    found = np.zeros(STEPS, bool)
    found[list(rows)] = True
    return found


def read(folder, packed=np.savez, **arrays):
    options = {name: arrays.pop(name) for name in ("ends", "bounds", "channels") if name in arrays}
    packed(folder / "data.npz", **({"actions": np.arange(STEPS) % 3, "rewards": np.arange(STEPS)} | arrays))
    return [found.episode for found in Arrays(str(folder / "data.npz"), **options).episodes()]


@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("form", ["every", "with successors"])
def test_successors_that_are_there_are_used(form, packed, tmp_path):
    observations = {"observations": EVERY} if form == "every" else {"observations": BEFORE, "next_observations": AFTER}
    found = read(tmp_path, packed, **observations, terminated=flags(ENDS[0]), truncated=flags(ENDS[1]))
    assert [one.end for one in found] == [End.TERMINATED, End.TRUNCATED, End.TRUNCATED]
    for one, obs, (first, last) in zip(found, EACH, pairwise(EDGES), strict=True):
        np.testing.assert_array_equal(one.obs, obs)
        np.testing.assert_array_equal(one.reward, np.arange(first, last))
        np.testing.assert_array_equal(one.action, np.arange(first, last) % 3)
        assert (one.obs.dtype, one.action.dtype, one.reward.dtype) == (np.float32, np.int32, np.float32)


def test_a_step_without_a_successor_is_kept_only_where_none_is_needed(tmp_path):
    found = read(tmp_path, observations=BEFORE, terminated=flags(ENDS[0]), truncated=flags(ENDS[1]))
    assert [(len(one.reward), one.end) for one in found] == [(4, End.TERMINATED), (2, End.TRUNCATED)]
    np.testing.assert_array_equal(found[0].obs, [*BEFORE[:4], BEFORE[3]])
    np.testing.assert_array_equal(found[1].obs, BEFORE[5:])


@pytest.mark.parametrize(
    ("ends", "kept"),
    [
        ("unknown", [(3, End.UNKNOWN), (2, End.TRUNCATED)]),
        ("terminated", [(4, End.TERMINATED), (1, End.TERMINATED), (2, End.TRUNCATED)]),
        ("truncated", [(3, End.TRUNCATED), (2, End.TRUNCATED)]),
    ],
)
def test_dones_do_not_say_how_an_episode_ended(ends, kept, tmp_path):
    found = read(tmp_path, observations=BEFORE, dones=flags(*ENDS[:2]), ends=ends)
    assert [(len(one.reward), one.end) for one in found] == kept
    for one in found:  # only where no value follows an observation may stand for the one after it
        assert one.end == End.TERMINATED or (one.obs[1:] != one.obs[:-1]).any(axis=1).all()
    (note,) = [note for note in Arrays(str(tmp_path / "data.npz"), ends=ends).describe().notes if "left out" in note]
    assert note.startswith("1 step" if ends == "terminated" else "3 steps")


@pytest.mark.parametrize("told", [{"episode_starts": EDGES[:-1]}, {"episode_ids": np.repeat([7, 2, 5], LENGTHS)}])
def test_episodes_that_are_numbered(told, tmp_path):
    unknown = [End.UNKNOWN] * 3
    assert [one.end for one in read(tmp_path, observations=EVERY, **told)] == unknown
    assert [one.end for one in read(tmp_path, observations=EVERY, **told, ends="terminated")] == [End.TERMINATED] * 3
    assert [one.end for one in read(tmp_path, observations=EVERY, **told, dones=flags(ENDS[0]))] == unknown
    found = read(tmp_path, observations=EVERY, **told, terminated=flags(ENDS[1]))
    assert [one.end for one in found] == [End.TRUNCATED, End.TERMINATED, End.TRUNCATED]
    found = read(tmp_path, observations=EVERY, **told, truncated=flags(ENDS[1]))
    assert [one.end for one in found] == [End.UNKNOWN, End.TRUNCATED, End.UNKNOWN]


def test_a_folder_is_read_as_an_archive_is(tmp_path):
    arrays = {"observations": EVERY, "actions": np.arange(STEPS), "rewards": np.ones(STEPS), "truncated": flags(*ENDS)}
    (tmp_path / "folder").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    (tmp_path / "folder" / "README.txt").write_text("whatever lies there besides")
    np.savez(tmp_path / "data.npz", **arrays)
    folder, archive = Arrays(str(tmp_path / "folder")), Arrays(str(tmp_path / "data.npz"))
    for one, other in zip(folder.episodes(), archive.episodes(), strict=True):
        for a, b in zip(one.episode, other.episode, strict=True):
            np.testing.assert_array_equal(a, b)
    assert [one.where for one in folder.episodes(1)] == [f"{tmp_path / 'folder'}, episode {n}" for n in (1, 2)]
    assert folder.count() == archive.count() == STEPS
    assert folder.describe().spec == archive.describe().spec
    assert Arrays.recognises(folder.path) and Arrays.recognises(archive.path)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as other:
        other.writestr("notes.txt", "text")
    with pytest.raises(SharedqError, match=r"unknown array 'notes\.txt'"):
        Arrays(str(tmp_path / "other.npz")).describe()
    (tmp_path / "empty").mkdir()
    for path in ("nothing", "empty", "folder/README.txt", "folder/rewards.npy"):
        assert not Arrays.recognises(str(tmp_path / path))


def test_a_misspelt_array_is_told_where_the_ending_shows_the_format(tmp_path):
    np.savez(tmp_path / "typo.npz", obs=EVERY, actions=np.arange(STEPS))
    with pytest.raises(SharedqError, match="unknown array 'obs': did you mean observations") as error:
        convert(tmp_path / "typo.npz", tmp_path / "out")
    assert ".npy" not in str(error.value)


def test_actions_that_may_be_discrete_are_noted(tmp_path):
    with pytest.raises(SharedqError, match="as in --bounds -2 2; all actions are whole numbers: add --actions N if"):
        find_actions("the log", [np.array([0.0, 2.0])], None, None)
    for parts, noted in (
        (([0.0, 1.0], [1.0]), True),
        (([0.0, 1.0], [0.5]), False),
        (([0.0, -1.0],), False),
        (([[0.0], [1.0]],), True),
        (([[0.0, 1.0]],), False),
    ):
        assert (DISCRETE in find_actions("the log", map(np.array, parts), None, None).notes) == noted
    assert DISCRETE not in find_actions("the log", [np.array([0.0, 1.0])], None, (0, 1)).notes


def test_images_and_bits_stay_what_they_are(tmp_path):
    for dtype, kept in ((np.uint8, np.uint8), (bool, bool), (np.int64, np.float32), (np.float64, np.float32)):
        obs = np.ones((STEPS, 3, 2, 1), dtype)
        (found,) = read(tmp_path, observations=obs, terminated=flags(STEPS - 1))
        assert found.obs.dtype == kept and found.obs.shape == (STEPS + 1, 3, 2, 1)


def test_continuous_actions_are_given_in_the_units_of_the_source(tmp_path):
    action = np.linspace([-2, 0], [2, 10], STEPS)
    (found,) = read(
        tmp_path, observations=BEFORE, actions=action, terminated=flags(STEPS - 1), bounds=(-2.0, 2.0, 0.0, 10.0)
    )
    np.testing.assert_allclose(found.action, np.linspace([-1, -1], [1, 1], STEPS), atol=1e-6)
    assert found.action.dtype == np.float32


@given(st.floats(-50, 49), st.floats(1, 100), st.integers(1, 3))
def test_our_form_is_the_inverse_of_the_units_of_undeclared_actions(low, width, size):
    space = find_actions("the log", [np.zeros((1, size))], None, (low, low + width)).actions
    own = np.linspace(-1, 1, 7)[:, None].repeat(size, 1)
    np.testing.assert_allclose(in_our_form(space, space.in_units(own), "the log"), own, atol=1e-4)


def test_spaces_that_nobody_declared():
    space, notes = find_actions("the log", [np.array([0, 4, 1]), np.array([2])], None, None)
    assert space == Discrete(5) and "5 actions, because 4 is the largest" in notes[0]
    assert find_actions("the log", [np.array([[0], [2]])], 6, None) == (Discrete(6), ())
    assert find_actions("the log", [np.array([0.0, 2.0])], 6, None) == (Discrete(6), ()), "whole floats, said to be so"
    assert find_actions("the log", [np.array([-1])], None, None).actions == Discrete(1), "its episode names the -1"
    for one in (np.array([[0.5, -1.0]]), np.array([[np.nan, np.nan]])):
        space, notes = find_actions("the log", [one], None, None)
        assert isinstance(space, Continuous) and space.low.tolist() == [-1, -1] and "taken to be -1 and 1" in notes[0]
    each = find_actions("the log", [np.zeros((1, 2))], None, (-2.0, 2.0, 0.0, 10.0)).actions
    assert (each.low.tolist(), each.high.tolist()) == ([-2, 0], [2, 10])


@pytest.mark.parametrize(
    ("found", "count", "bounds", "says"),
    [
        (np.zeros((3, 2), int), None, None, "number them as one discrete action"),
        (np.full(3, 1000), None, None, "the discrete action 1,000, and they go from 0 to 999"),
        (np.zeros((3, 0)), None, None, "holds no actions"),
        (np.zeros((3, 2, 2)), None, None, "flatten each"),
        (np.array(["1"]), None, None, "which are not numbers"),
        (np.zeros(3, int), None, (0.0, 1.0), "leave --bounds out"),
        (np.zeros(3, int), 0, None, "actions must be at least 1"),
        (np.full((3, 1), 1.01), None, None, "reach from 1.01 to 1.01: say them, as in --bounds -2 2"),
        (np.zeros((3, 2)), 3, None, "number them as one discrete action"),
        (np.zeros((3, 2)), None, (0.0, 1.0, 2.0), "and not 3 numbers"),
        (np.zeros((3, 1)), None, (1.0, 1.0), "each low one below its high one"),
        (np.zeros((3, 1)), None, (0.0, np.inf), "finite"),
    ],
)
def test_spaces_that_cannot_be(found, count, bounds, says):
    with pytest.raises(SharedqError, match=says):
        find_actions("the log", [found], count, bounds)


def test_images_with_their_colours_first_are_asked_about(tmp_path):
    images = np.arange(STEPS * 3 * 8 * 9, dtype=np.uint8).reshape(STEPS, 3, 8, 9)
    arrays = {"observations": images, "terminated": flags(STEPS - 1)}
    with pytest.raises(SharedqError, match="say --channels first"):
        read(tmp_path, **arrays)
    (found,) = read(tmp_path, **arrays, channels="first")
    np.testing.assert_array_equal(found.obs[:-1], np.moveaxis(images, 1, -1))
    form, _ = find_observations("the log", (), np.int64, None)
    assert (form.shape, form.dtype) == ((1,), np.float32)


def test_an_option_means_the_same_in_all_formats():
    """A name has one type and one help; a default may differ."""
    told: dict[str, set] = {}
    for kind in READERS.values():
        types, about = settings.hints(kind), settings.comments(kind)
        for field in dataclasses.fields(kind):
            if field.name != "path":
                told.setdefault(field.name, set()).add((str(types[field.name]), about[field.name]))
    assert {name for name, ways in told.items() if len(ways) > 1} == set()


@pytest.mark.parametrize("name", READERS)
def test_every_setting_of_a_reader_is_told(name):
    assert all(option.about for option in options_of(READERS[name]("data")).values())
