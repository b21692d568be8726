"""Readers of Minari, D4RL and d3rlpy: what the original tools wrote, what comes back, and what is refused and where."""

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import jax
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces.utils import flatten
from minari.data_collector import EpisodeBuffer

from sharedq import settings
from sharedq.collecting import collect
from sharedq.command_line import main
from sharedq.datasets import minari_export
from sharedq.datasets.d4rl_scores import reference_scores
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.readers import READERS
from sharedq.datasets.readers.d3rlpy import D3rlpy
from sharedq.datasets.readers.d4rl import D4RL
from sharedq.datasets.readers.minari import Minari
from sharedq.datasets.rules import check_episode
from sharedq.datasets.spaces import in_our_form
from sharedq.datasets.store import Store
from sharedq.datasets.writing import StoreWriter
from sharedq.environments import CartPole, Gymnasium
from sharedq.environments.spec import Continuous, Discrete, EnvironmentSpec
from sharedq.errors import SharedqError

FIXTURES = Path(__file__).parent / "fixtures"


def read(reader, start=0):
    """The episodes of a reader, which keep the rules."""
    description, found = reader.describe(), list(reader.episodes(start))
    for one in found:
        check_episode(one.episode, description, one.where)
    return [one.episode for one in found]


def same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.end, one.group) == (other.end, other.group)
        np.testing.assert_array_equal(one.obs, other.obs)
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_allclose(one.action, other.action, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_explains_itself_and_its_fields(name):
    kind = READERS[name]
    assert kind.__doc__
    assert kind.__dataclass_params__.frozen
    assert {field.name for field in dataclasses.fields(kind)} <= {
        n for n, text in settings.comments(kind).items() if text
    }


# D4RL


def flat(path, count=12, change=None, **more):
    """A file of D4RL of `count` rows, whose observations say their row; `change` takes the dictionary of arrays."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": np.arange(count)[:, None] + np.array([0, 0.25, 0.5], np.float32),
        "actions": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "rewards": np.arange(count, dtype=np.float32),
        "terminals": np.zeros(count, bool),
        **more,
    }
    if change:
        change(arrays)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file.create_dataset(name, data=array, compression="gzip" if np.ndim(array) else None)
    return str(path)


def at(count, *rows):
    return np.isin(np.arange(count), rows)


def rows_of(episodes):
    """The rows that the observations of each episode come from."""
    return [episode.obs[:, 0].astype(int).tolist() for episode in episodes]


def test_a_terminal_needs_no_successor_and_a_timeout_loses_its_row(tmp_path):
    path = flat(tmp_path / "a.hdf5", terminals=at(12, 3), timeouts=at(12, 3, 7, 8))
    reader = D4RL(path)
    episodes = read(reader)
    assert rows_of(episodes) == [[0, 1, 2, 3, 3], [4, 5, 6, 7], [9, 10, 11]]  # row 8 alone is no whole step
    assert [episode.end for episode in episodes] == [End.TERMINATED, End.TRUNCATED, End.TRUNCATED]
    assert [episode.reward.tolist() for episode in episodes] == [[0, 1, 2, 3], [4, 5, 6], [9, 10]]
    assert reader.count() == 4 + 3 + 2
    same(read(reader, 1), episodes[1:])
    assert any("is there twice" in note for note in reader.describe().notes)
    assert any(note.startswith("3 episodes lose their last step") for note in reader.describe().notes)


def test_next_observations_give_every_step_and_show_where_episodes_end(tmp_path):
    follows = np.arange(12)[:, None] + np.array([1, 1.25, 1.5])
    follows[[4, 9]] = 99  # another episode begins at rows 5 and 10, and one flag says so too
    path = flat(tmp_path / "a.hdf5", next_observations=follows, terminals=at(12, 9))
    episodes = read(D4RL(path))
    assert rows_of(episodes) == [[0, 1, 2, 3, 4, 99], [5, 6, 7, 8, 9, 99], [10, 11, 12]]
    assert [episode.end for episode in episodes] == [End.TRUNCATED, End.TERMINATED, End.TRUNCATED]


def test_jumps_are_found_at_the_edges_of_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("sharedq.datasets.hdf5.BLOCK", 1)  # one row at once
    test_next_observations_give_every_step_and_show_where_episodes_end(tmp_path)


def test_without_timeouts_and_successors_the_last_end_is_unknown(tmp_path):
    reader = D4RL(flat(tmp_path / "a.hdf5", terminals=at(12, 5)))
    assert [episode.end for episode in read(reader)] == [End.TERMINATED, End.UNKNOWN]
    assert any("cannot be told" in note for note in reader.describe().notes)


def test_actions_are_recognised_or_asked_for(tmp_path):
    numbers = np.arange(12) % 3
    spec = D4RL(flat(tmp_path / "a.hdf5", actions=numbers)).describe().spec
    assert spec.actions == Discrete(3)
    spec = D4RL(flat(tmp_path / "a.hdf5", actions=numbers), actions=6).describe().spec
    assert spec.actions == Discrete(6)
    wide = np.linspace(-2, 4, 24).reshape(12, 2)
    path = flat(tmp_path / "a.hdf5", actions=wide, timeouts=at(12, 11))
    with pytest.raises(SharedqError, match="reach from -2 to 4: say them, as in --bounds -2 2"):
        D4RL(path).describe()
    reader = D4RL(path, bounds=(-2.0, 4.0))
    (episode,) = read(reader)
    np.testing.assert_allclose(reader.describe().spec.actions.in_units(episode.action), wide[:-1], atol=1e-6)


def test_images_and_what_is_known_by_name(tmp_path):
    images = np.arange(12 * 3 * 4 * 5, dtype=np.uint8).reshape(12, 3, 4, 5)
    path = flat(tmp_path / "maze2d-umaze-v1.hdf5", observations=images, timeouts=at(12, 11))
    with pytest.raises(SharedqError, match="say --channels first"):
        D4RL(path).describe()
    reader = D4RL(path, channels="first")
    (episode,) = read(reader)
    np.testing.assert_array_equal(episode.obs, np.moveaxis(images, 1, -1))
    assert reader.describe().reference_scores == (23.85, 161.86)
    assert any("goal was reached" in note for note in reader.describe().notes)


def test_scores_go_by_the_family():
    assert reference_scores("Hopper-medium-replay-v2") == (-20.272305, 3234.3)
    assert reference_scores("antmaze-umaze-v0") == (0, 1)
    assert reference_scores("ant-medium-v2") == (-325.6, 3879.7)
    assert reference_scores("maze2d-large-dense-v1") is None
    assert reference_scores("unknown") is None


def nan_at(name, *place):
    def change(arrays):
        arrays[name] = arrays[name].astype(np.float32)
        arrays[name][place] = np.nan

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan_at("observations", 7, 1), r"a.hdf5, episode 1 \(rows 6 to 10\), step 1: one of the observations"),
        (nan_at("actions", 8, 0), r"a.hdf5, episode 1 \(rows 6 to 10\), step 2: one of the actions"),
        (nan_at("rewards", 3), r"a.hdf5, episode 0 \(rows 0 to 5\), step 3: one of the rewards"),
        (nan_at("terminals", 3), "a.hdf5, row 3: terminals is nan"),
        (lambda x: x.update(rewards=x["rewards"][:-1]), "a.hdf5 has 11 rewards, and should have 12"),
        (lambda x: x.update(actions=x["actions"] * 2), "say them, as in --bounds"),
        (lambda x: x.update(terminals=None), "a.hdf5 has no 'terminals'"),
        (lambda x: x.update(observations=np.array([b"abc"] * 12)), "'observations' of .* holds"),
        (lambda x: x.update(next_observations=x["observations"][:, :2]), "belong together"),
        (
            lambda x: x.update(actions=np.arange(12) - 1),
            "0 to 5.*, step 0: the action -1 lies outside 0 .. 10",
        ),
        (lambda x: x.update(actions=np.arange(12) * 100), "the discrete action 1,100, and they go from 0 to 999"),
        (lambda x: x.update(actions=np.zeros((12, 2), int)), "number them as one discrete action"),
    ],
)
def test_what_is_wrong_with_a_flat_file_is_named_with_its_place(tmp_path, change, message):
    path = flat(tmp_path / "a.hdf5", timeouts=at(12, 11), terminals=at(12, 5), change=change)
    with pytest.raises(SharedqError, match=message):
        read(D4RL(path))


def test_an_action_outside_what_the_user_said_is_named(tmp_path):
    path = flat(tmp_path / "a.hdf5", actions=np.arange(12) % 3, terminals=at(12, 0))
    with pytest.raises(SharedqError, match=r"episode 1 \(rows 1 to 10\), step 1: the action 2 lies outside 0 .. 1"):
        read(D4RL(path, actions=2))


# Files that lead elsewhere, and damaged ones


def external(file, name, other):
    file[name] = h5py.ExternalLink(other, name)


def soft(file, name, other):
    file[name] = h5py.SoftLink(f"/elsewhere/{name}")


def virtual(file, name, other):
    layout = h5py.VirtualLayout((12, 3), np.float32)
    layout[:] = h5py.VirtualSource(other, name, (12, 3))
    file.create_virtual_dataset(name, layout)


def raw(file, name, other):
    file.create_dataset(name, (12, 3), np.float32, external=[(other, 0, 144)])


def reference(file, name, other):
    file.create_dataset(name, (12,), h5py.ref_dtype)[:] = file["actions"].ref


def declared(file, name, other):
    file.create_dataset(name, (2**40, 3), np.float32, chunks=(2**10, 3))


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (external, r"'observations' of .*a.hdf5 is a link to observations in .*other.hdf5"),
        (soft, r"'observations' of .*a.hdf5 is a link to /elsewhere/observations"),
        (virtual, r"'observations' of .*a.hdf5 takes its numbers from other files"),
        (raw, r"'observations' of .*a.hdf5 takes its numbers from other files"),
        (reference, r"'observations' of .*a.hdf5 holds object"),
        (declared, r"'observations' of .*a.hdf5 is declared with 13,194,139,533,312 bytes"),
    ],
)
def test_nothing_that_leads_out_of_a_file_is_followed(tmp_path, link, message):
    other = flat(tmp_path / "other.hdf5")
    path = flat(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["observations"]
        link(file, "observations", other)
    with pytest.raises(SharedqError, match=message):
        D4RL(path).describe()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_ends_in_one_line(tmp_path, share):
    path = Path(flat(tmp_path / "a.hdf5"))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SharedqError, match=r"a.hdf5 is damaged") as error:
        D4RL(str(path)).describe()
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SharedqError, match="there is no file"):
        D4RL(str(tmp_path / "none.hdf5")).describe()


def test_each_format_is_recognised_as_itself(tmp_path, datasets):
    written(datasets, "mine/plain-v0")
    (tmp_path / "text.hdf5").write_text("no HDF5")
    paths = {
        "d4rl": flat(tmp_path / "a.hdf5"),
        "d3rlpy": str(FIXTURES / "d3rlpy" / "continuous.h5"),
        "minari": str(datasets / "mine" / "plain-v0"),
        None: str(tmp_path / "text.hdf5"),
    }
    names = ("minari", "d4rl", "d3rlpy")
    for right, path in paths.items():
        assert [name for name in names if READERS[name].recognises(path)] == ([right] if right else [])
    assert Minari.recognises("mine/plain-v0")
    assert not any(READERS[name].recognises(str(tmp_path / "none")) for name in names)


# Minari


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    folder = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


BOX = spaces.Box(-1, 1, (3,), np.float32)
TWO = spaces.Box(np.array([-2, 0]), np.array([2, 5]), dtype=np.float64)


def sampled(space, steps):
    """What a collector of Minari holds of `steps` samples of a space: a tree of arrays."""
    samples = [space.sample() for _ in range(steps)]

    def column(inside, path):
        if isinstance(inside, spaces.Dict):
            return {key: column(one, (*path, key)) for key, one in inside.spaces.items()}
        if isinstance(inside, spaces.Tuple):
            return tuple(column(one, (*path, i)) for i, one in enumerate(inside.spaces))
        found = samples
        for key in path:
            found = [one[key] for one in found]
        return np.array(found)

    return samples, column(space, ())


def written(datasets, name, observation=BOX, action=TWO, ends=((5, 1, 0), (4, 0, 1), (3, 0, 0)), change=None, **more):
    """Writes a data set with Minari; of each episode, `ends` says its steps and its two flags. Returns the samples."""
    observation.seed(0)
    action.seed(1)
    buffers, seen = [], []
    for steps, terminated, truncated in ends:
        obs, observations = sampled(observation, steps + 1)
        acted, actions = sampled(action, steps)
        last = np.arange(steps) == steps - 1
        arrays = {
            "observations": observations,
            "actions": actions,
            "rewards": np.arange(steps, dtype=np.float64),
            "terminations": last & bool(terminated),
            "truncations": last & bool(truncated),
        }
        if change and not buffers:
            change(arrays)
        buffers.append(EpisodeBuffer(**arrays))
        seen.append((obs, acted))
    with pytest.warns(UserWarning, match="None"):
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=observation, action_space=action, **{"data_format": "hdf5", **more}
        )
    return seen


@pytest.mark.parametrize("form", ["hdf5", "arrow", "parquet"])
def test_what_minari_wrote_comes_back(datasets, form):
    seen = written(datasets, "mine/plain-v0", data_format=form)
    reader = Minari("mine/plain-v0")
    description, episodes = reader.describe(), read(reader)
    assert [episode.end for episode in episodes] == [End.TERMINATED, End.TRUNCATED, End.UNKNOWN]
    assert (description.source, description.spec.name, reader.count()) == ("minari:mine/plain-v0", "unknown", 12)
    for (obs, acted), episode in zip(seen, episodes, strict=True):
        np.testing.assert_array_equal(episode.obs, obs)
        np.testing.assert_array_equal(episode.reward, np.arange(len(acted)))
        np.testing.assert_allclose(description.spec.actions.in_units(episode.action), acted, atol=1e-6)
    same(read(reader, 2), episodes[2:])
    same(read(Minari(str(datasets / "mine" / "plain-v0"))), episodes)


NESTED = spaces.Dict(
    place=spaces.Box(-1, 1, (2,), np.float64),
    parts=spaces.Tuple([spaces.Discrete(3, start=-1), spaces.Box(0, 255, (2, 2), np.uint8)]),
    keys=spaces.MultiBinary(3),
)


@pytest.mark.parametrize("form", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize(
    "action", [spaces.Discrete(4, start=-2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)], ids=repr
)
def test_dictionaries_tuples_and_numbers_are_read_as_those_of_an_environment(datasets, form, action):
    seen = written(datasets, "mine/nested-v0", NESTED, action, data_format=form)
    reader = Minari("mine/nested-v0")
    description = reader.describe()
    assert any("flattened into one vector" in note for note in description.notes)
    for (obs, acted), episode in zip(seen, read(reader), strict=True):
        np.testing.assert_array_equal(episode.obs, [flatten(NESTED, one).astype(np.float32) for one in obs])
        np.testing.assert_array_equal(description.spec.actions.in_units(episode.action), acted)


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
@pytest.mark.parametrize("shape", [(32, 40), (32, 40, 3)])
def test_images_that_minari_compressed_are_unpacked_and_that_is_said(datasets, form, shape):
    space = (
        spaces.Dict(eye=spaces.Box(0, 255, shape, np.uint8)) if len(shape) == 2 else spaces.Box(0, 255, shape, np.uint8)
    )

    def smooth(arrays):
        """Images of one colour each, which JPEG keeps."""
        images = np.zeros((6, *shape), np.uint8) + np.arange(6, dtype=np.uint8).reshape(-1, *[1] * len(shape)) * 40
        arrays["observations"] = {"eye": images} if len(shape) == 2 else images

    written(datasets, "mine/images-v0", space, ends=[(5, 1, 0)], data_format=form, change=smooth)
    (episode,) = read(Minari("mine/images-v0"))
    np.testing.assert_allclose(episode.obs.reshape(6, -1).mean(axis=1), np.arange(6) * 40, atol=2)
    assert any("JPEG" in note for note in Minari("mine/images-v0").describe().notes)
    written(datasets, "mine/images-v1", space, ends=[(5, 1, 0)], data_format=form, jpeg_encoding=False, change=smooth)
    (exact,) = read(Minari("mine/images-v1"))
    np.testing.assert_array_equal(exact.obs.reshape(6, -1)[:, 0], np.arange(6) * 40)
    assert not any("JPEG" in note for note in Minari("mine/images-v1").describe().notes)


def test_small_images_with_channels_first_are_asked_about(datasets):
    seen = written(datasets, "mine/small-v0", spaces.Box(0, 255, (2, 6, 5), np.uint8))
    with pytest.raises(SharedqError, match="say --channels first"):
        Minari("mine/small-v0").describe()
    episode = read(Minari("mine/small-v0", channels="first"))[0]
    np.testing.assert_array_equal(episode.obs, np.moveaxis(seen[0][0], 1, -1))


def test_what_minari_says_about_a_data_set_is_kept(datasets):
    written(datasets, "mine/said-v0", algorithm_name="a mixture")
    path = datasets / "mine" / "said-v0" / "data" / "metadata.json"
    said = json.loads(path.read_text())
    spec = EnvSpec("CartPole-v1").to_json()
    path.write_text(json.dumps(said | {"ref_min_score": 1.5, "ref_max_score": 20, "env_spec": spec}))
    description = Minari("mine/said-v0").describe()
    assert description.reference_scores == (1.5, 20)
    assert (description.behaviour, description.spec.name) == ("a mixture", Gymnasium("CartPole-v1").build().spec.name)


def put(name, step, number):
    def change(arrays):
        arrays[name][step] = number

    return change


def cut(name):
    def change(arrays):
        arrays[name] = arrays[name][:-1]

    return change


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("terminations", 2, True), "episode 0, step 2: terminations is true, and 2 more steps follow"),
        (put("truncations", 0, True), "episode 0, step 0: truncations is true, and 4 more steps follow"),
        (put("observations", 3, np.nan), "episode 0, step 3: one of the observations is not a finite number"),
        (put("rewards", 1, np.inf), "episode 0, step 1: one of the rewards is not a finite number"),
        (put("actions", 4, [0, 5.1]), r"episode 0, step 4: the action \[0.0, 5.1\] lies outside \[-2.0, 0.0\] .. "),
    ],
)
def test_a_broken_episode_of_minari_is_named_with_its_step(datasets, form, change, message):
    written(datasets, "mine/broken-v0", change=change, data_format=form)
    with pytest.raises(SharedqError, match=message):
        read(Minari("mine/broken-v0"))


@pytest.mark.parametrize("name", ["observations", "actions", "terminations"])
def test_arrays_of_different_lengths_are_named(datasets, name):
    written(datasets, "mine/broken-v0", change=cut(name))
    wanted = 6 if name == "observations" else 5
    with pytest.raises(SharedqError, match=f"episode 0 has {wanted - 1} {name}, and should have {wanted}"):
        read(Minari("mine/broken-v0"))


def edited(datasets, name, change):
    """The data set with its metadata changed."""
    path = datasets / name / "data" / "metadata.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_episodes": 4}, "says that there are 4 episodes, and there are 3"),
        ({"total_steps": 99}, "says that there are 99 steps, and there are 12"),
        ({"data_format": "zarr"}, "names the format 'zarr'"),
        ({"total_steps": "many"}, "'?total_steps'? must be a whole number"),
        ({"observation_space": None}, "observation_space must be a text"),
        ({"observation_space": '{"type": "Graph"}'}, "is no space of a known form"),
        ({"action_space": '{"type": "Box", "dtype": "float32"}'}, "'action_space' of .* is no space of a known form"),
        (
            {
                "action_space": json.dumps(
                    {"type": "Box", "dtype": "float32", "shape": [2], "low": [-np.inf] * 2, "high": [1, 1]}
                )
            },
            "has no finite bounds",
        ),
        (
            {"observation_space": '{"type": "Discrete", "n": 3, "start": 0}'},
            "episode 0, step 0: it gave an observation of",
        ),
    ],
)
def test_metadata_that_contradict_the_data_are_refused(datasets, change, message):
    written(datasets, "mine/edited-v0")
    edited(datasets, "mine/edited-v0", lambda plain: plain.update(change))
    with pytest.raises(SharedqError, match=message) as error:
        read(Minari("mine/edited-v0"))
    assert "\n" not in str(error.value)


def test_a_data_set_that_is_not_there_is_named_with_what_gets_it(datasets):
    with pytest.raises(SharedqError, match="minari download mine/none-v0"):
        Minari("mine/none-v0").describe()


def test_links_in_and_between_files_of_minari_are_refused(datasets, tmp_path):
    written(datasets, "mine/a-v0")
    written(datasets, "mine/b-v0", data_format="arrow")
    data = datasets / "mine" / "a-v0" / "data" / "main_data.hdf5"
    with h5py.File(data, "a") as file:
        del file["episode_1"]
        file["episode_1"] = h5py.ExternalLink("other.hdf5", "episode_1")
    with pytest.raises(SharedqError, match=r"'episode_1' of .* is a link to episode_1 in other.hdf5"):
        read(Minari("mine/a-v0"))
    data.rename(tmp_path / "elsewhere.hdf5")
    data.symlink_to(tmp_path / "elsewhere.hdf5")
    part = datasets / "mine" / "b-v0" / "data" / "1"
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    for name in "ab":
        with pytest.raises(SharedqError, match="is a symbolic link"):
            read(Minari(f"mine/{name}-v0"))


@pytest.mark.parametrize("form", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_truncated_file_of_minari_ends_in_one_line(datasets, form, share):
    written(datasets, "mine/cut-v0", data_format=form)
    (path,) = (datasets / "mine" / "cut-v0").glob("data/main_data.hdf5" if form == "hdf5" else f"data/1/*.{form}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SharedqError, match=r" is damaged \(.*: get it or make it again") as error:
        read(Minari("mine/cut-v0"))
    assert "\n" not in str(error.value)


# d3rlpy


def test_a_continuous_file_of_d3rlpy():
    reader = D3rlpy(str(FIXTURES / "d3rlpy" / "continuous.h5"))
    terminated, truncated = read(reader)
    assert (terminated.end, truncated.end) == (End.TERMINATED, End.TRUNCATED)
    np.testing.assert_array_equal(terminated.reward, range(5))
    np.testing.assert_array_equal(terminated.obs[5], terminated.obs[4])
    np.testing.assert_array_equal(truncated.reward, range(3))  # of 4 rows
    assert truncated.obs.shape == (4, 3)
    assert reader.count() == 5 + 3
    expected = np.random.default_rng(0)
    np.testing.assert_array_equal(terminated.obs[:5], expected.normal(size=(5, 3)).astype(np.float32))
    np.testing.assert_array_equal(terminated.action, expected.uniform(-1, 1, (5, 2)).astype(np.float32))
    same(read(reader, 1), [truncated])


def test_a_discrete_file_of_d3rlpy_with_images():
    reader = D3rlpy(str(FIXTURES / "d3rlpy" / "discrete.h5"))
    first, last = read(reader)  # the one between them has one row, and no whole step
    spec = reader.describe().spec
    assert (spec.actions, spec.observation.shape, spec.observation.dtype) == (Discrete(4), (4, 6, 1), np.uint8)
    assert (first.action.tolist(), last.action.tolist()) == ([0, 1, 2, 3], [0, 1, 2])
    images = np.random.default_rng(4).integers(0, 256, (3, 1, 4, 6), dtype=np.uint8)
    np.testing.assert_array_equal(last.obs[:3], np.moveaxis(images, 1, -1))
    same(read(reader, 1), [last])


def test_observations_of_several_arrays_become_one_vector():
    reader = D3rlpy(str(FIXTURES / "d3rlpy" / "tuples.h5"))
    first, _ = read(reader)
    expected = np.random.default_rng(5)
    parts = [expected.normal(size=(3, n)).astype(np.float32) for n in (3, 2)]
    np.testing.assert_array_equal(first.obs[:3], np.concatenate(parts, axis=1))
    assert any("2 arrays of an observation are flattened" in note for note in reader.describe().notes)


def remove(name):
    def change(file):
        del file[name]

    return change


def replace(name, value):
    def change(file):
        file.pop(name, None)
        file[name] = value

    return change


def linked(file):
    del file["actions_1"]
    file["actions_1"] = h5py.ExternalLink("other.h5", "actions_1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("total_size", 2), "is of d3rlpy's format 2.0: read it with the d3rlpy that wrote it"),
        (remove("rewards_1"), "has no 'rewards_1'"),
        (remove("observations_0"), "has no 'observations_0'"),
        (replace("rewards_1", np.zeros(3)), "episode 1 has 3 rewards, and should have 4"),
        (replace("observations_1", np.zeros((5, 3))), "episode 1 has 5 observations, and should have 4"),
        (replace("observations_1", np.zeros((4, 2), np.float32)), r"episode 1 has observations of float32\[2\]"),
        (replace("rewards_0", [0, np.nan, 0, 0, 0]), "episode 0, step 1: one of the rewards"),
        (replace("actions_1", np.full((4, 2), 3.0)), "say them, as in --bounds -2 2"),
        (replace("num_episodes", 10**9), "has no 'actions_2'"),
        (replace("num_episodes", 0), "holds no episodes"),
        (linked, "'actions_1' of .* is a link to actions_1 in other.h5"),
    ],
)
def test_a_broken_file_of_d3rlpy_is_named_with_its_place(tmp_path, change, message):
    path = shutil.copy(FIXTURES / "d3rlpy" / "continuous.h5", tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(SharedqError, match=message):
        read(D3rlpy(str(path)))


def test_the_first_format_of_d3rlpy_is_refused(tmp_path):
    path = flat(tmp_path / "v1.h5", episode_terminals=at(12, 11), discrete_action=False)
    assert D3rlpy.recognises(path)
    assert not D4RL.recognises(path)
    with pytest.raises(SharedqError, match="d3rlpy's first format"):
        D3rlpy(path).describe()


# To Minari and back


def stored(path, description, episodes):
    with StoreWriter(path, description) as writer:
        for episode in episodes:
            writer.add(episode, "here")
        return writer.finish()


def episodes_of(shape, dtype, action, ends=tuple(End)):
    rng = np.random.default_rng(0)
    return [
        Episode(
            (
                rng.uniform(0, 1 if np.dtype(dtype).kind == "f" else 255, (n + 4, *shape))
                if dtype != np.bool_
                else rng.random((n + 4, *shape)) < 0.5
            ).astype(dtype),
            action(rng, n + 3),
            rng.normal(size=n + 3).astype(np.float32),
            end,
        )
        for n, end in enumerate(ends)
    ]


def numbers(rng, steps):
    return rng.integers(0, 6, steps).astype(np.int32)


def vectors(rng, steps):
    return rng.uniform(-1, 1, (steps, 2)).astype(np.float32)


BOUNDED = Continuous(np.array([-2, 0], np.float32), np.array([2, 0.5], np.float32))


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("shape", "dtype", "actions", "action"),
    [
        ((3,), np.float32, BOUNDED, vectors),
        ((40, 36, 1), np.uint8, Discrete(6, 1), numbers),
        ((4, 4, 2), np.bool_, Discrete(6, 0, (2, 3), (0, 5)), numbers),
    ],
    ids=["vectors", "images", "bits"],
)
def test_a_store_comes_back_from_minari(datasets, tmp_path, form, shape, dtype, actions, action):
    spec = EnvironmentSpec(Gymnasium("CartPole-v1").build().spec.name, jax.ShapeDtypeStruct(shape, dtype), actions)
    description = Description("here", "collect", spec, behaviour="random", reference_scores=(1.0, 9.0))
    store = stored(tmp_path / "store", description, episodes_of(shape, dtype, action))
    minari_export.export(store, "mine/back-v0", author="A", form=form)
    assert minari.load_dataset("mine/back-v0").env_spec.id == "CartPole-v1", "as Gymnasium knows it"
    theirs = list(minari.load_dataset("mine/back-v0"))
    assert [len(one.rewards) for one in theirs] == [3, 4, 5]
    np.testing.assert_array_equal(theirs[1].observations, store.episode(1).obs)
    np.testing.assert_array_equal(theirs[1].actions, actions.in_units(store.episode(1).action))
    reader = Minari("mine/back-v0")
    found = reader.describe()
    assert (found.behaviour, found.reference_scores, found.spec.name) == ("random", (1.0, 9.0), spec.name)
    assert (found.spec.observation, str(found.spec.actions)) == (spec.observation, str(actions))
    again = stored(tmp_path / "again", found, read(reader))
    same(list(again), list(store))
    with pytest.raises(SharedqError, match="exists already"):
        minari_export.export(store, "mine/back-v0")
    same(read(reader), list(store))


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        (CartPole(), "CartPole-v1"),
        (CartPole(tell_time=True), None),
        (CartPole(time_limit=200), None),
        (Gymnasium("CartPole-v1"), "CartPole-v1"),
        (Gymnasium("CartPole-v1", time_limit=9), None),
        (Gymnasium("CartPole-v1", kwargs="sutton_barto_reward=true"), None),
    ],
    ids=str,
)
def test_minari_is_told_of_an_environment_that_it_can_make(datasets, tmp_path, environment, wanted):
    store = collect(tmp_path / "store", ["random"], 10, environment=environment)
    minari_export.export(store, "mine/made-v0")
    written = minari.load_dataset("mine/made-v0")
    assert (written.env_spec and written.env_spec.id) == wanted
    if wanted:
        assert written.recover_environment().spec.max_episode_steps == 500


def test_stacks_of_frames_are_written_whole(datasets, tmp_path):
    spec = EnvironmentSpec("a b", jax.ShapeDtypeStruct((5, 4, 3), np.uint8), Discrete(6), "black")
    episodes = episodes_of((5, 4), np.uint8, numbers, [End.TERMINATED])
    store = stored(tmp_path / "store", Description("here", "collect", spec, stack=3), episodes)
    minari_export.export(store, "stacks-v0")
    (episode,) = read(Minari("stacks-v0", channels="last"))
    np.testing.assert_array_equal(episode.obs[3], np.moveaxis(episodes[0].obs[1:4], 0, -1))
    np.testing.assert_array_equal(episode.obs[0, ..., 2], episodes[0].obs[0])
    assert not episode.obs[0, ..., :2].any()
    assert not episode.obs[1, ..., 0].any()


def test_an_id_that_minari_does_not_take_is_refused_and_a_failed_export_leaves_nothing(datasets, tmp_path, monkeypatch):
    spec = EnvironmentSpec("unknown", jax.ShapeDtypeStruct((3,), np.float32), BOUNDED)
    store = stored(tmp_path / "store", Description("here", "collect", spec), episodes_of((3,), np.float32, vectors))
    for wrong in ("mine/name", "../out-v0", "-v0"):
        with pytest.raises(SharedqError, match="is no id of Minari"):
            minari_export.export(store, wrong)
    monkeypatch.setattr(minari_export, "_stacked", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        minari_export.export(store, "mine/failed-v0")
    assert not (datasets / "mine" / "failed-v0").exists()


# The command


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
def test_the_command_converts_what_each_library_wrote_and_gives_it_to_minari(datasets, tmp_path, capsys, form):
    written(datasets, "mine/plain-v0", data_format=form)
    sources = {
        "minari": "mine/plain-v0",
        "d4rl": flat(tmp_path / "a.hdf5", timeouts=at(12, 3, 11)),
        "d3rlpy": str(FIXTURES / "d3rlpy" / "continuous.h5"),
    }
    for name, path in sources.items():
        reader, out = READERS[name](path), str(tmp_path / f"{name}-store")
        wanted = read(reader)
        assert main(["data", "convert", f"{name}:{path}", out]) == 0, capsys.readouterr().err
        store = Store(out)
        store.check()
        same(list(store), wanted)
        assert store.manifest.steps == reader.count()
        assert main(["data", "convert", out, f"minari:back/{name}-v0"]) == 0, capsys.readouterr().err
        theirs = list(minari.load_dataset(f"back/{name}-v0"))
        assert len(theirs) == len(wanted)
        for one, episode in zip(theirs, wanted, strict=True):
            np.testing.assert_array_equal(one.observations, episode.obs)
            np.testing.assert_array_equal(one.rewards, episode.reward)
            np.testing.assert_allclose(one.actions, store.description.spec.actions.in_units(episode.action), atol=1e-6)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")], "no lock is left"


# Actions in our form


@pytest.mark.parametrize(
    ("actions", "own"),
    [
        (Discrete(3, -1), np.array([-1, 1, 0])),
        (Discrete(6, 0, (2, 3), (0, 5)), np.array([[0, 5], [1, 7], [0, 6]])),
        (Continuous(np.array([-2.0, 1.0]), np.array([4.0, 1.0])), np.array([[-2, 1], [0.5, 1], [4, 1.0]])),
    ],
)
def test_our_form_is_the_inverse_of_the_units_of_an_environment(actions, own):
    ours = in_our_form(actions, own, "here")
    assert (ours.shape, ours.dtype) == ((len(own), *actions.one.shape), actions.one.dtype)
    np.testing.assert_allclose(actions.in_units(ours), own, atol=1e-6)
    own = own.copy()
    own[1] += 9
    with pytest.raises(SharedqError, match=r"here, step 1: the action .* lies outside"):
        in_our_form(actions, own, "here")


def test_actions_that_are_whole_only_by_name_are_refused():
    with pytest.raises(SharedqError, match=r"here has actions of float64\[\], and whole numbers \[\] were declared"):
        in_our_form(Discrete(3), np.array([0.5, 1]), "here")
