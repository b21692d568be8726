"""Damaged data never pass for good ones: each damage is refused in one line that names the place, and nothing is kept.

To add a format, give it a line in `FORMATS`: what writes a good copy of it, and its reader. To add a damage, give
it a line in the table of its format: what is done to the copy, and what the error must say, with ... where anything may
stand.
"""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from unittest import mock

import h5py
import jax
import numpy as np
import pyarrow
import pytest
from test_readers_atari import Memory, message, play, png, record, recorded, tf_example
from test_readers_hdf5 import FIXTURES, at, flat, written

from sharedq.command_line import main
from sharedq.datasets import manifest as manifests
from sharedq.datasets import reading
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.readers import READERS
from sharedq.datasets.store import BLOCK, FILES, HEADER, Store
from sharedq.datasets.writing import StoreWriter
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.errors import SharedqError

# What writes a good copy into a new folder, and returns its path.


def write_dqn_replay(folder):
    for number in (0, 1):
        memory = Memory(60)
        play(memory, [7, 9, 12, 20, 11])
        memory.save(folder, number)
    return folder


SHARD = "run_1-00002-of-00050"


def write_rlu(folder):
    (folder / SHARD).write_bytes(b"".join(record(tf_example(recorded(number, 3, True))) for number in range(3)))
    return folder


def arrays():
    """Three episodes, of 4, 3 and 5 steps."""
    random = np.random.default_rng(0)
    flags = np.zeros((2, 12), bool)
    flags[0, [3, 11]] = flags[1, 6] = True
    return {
        "observations": random.normal(size=(12, 2)).astype(np.float32),
        "actions": np.arange(12) % 3,
        "rewards": np.ones(12, np.float32),
        "terminated": flags[0],
        "truncated": flags[1],
    }


def write_npz(folder, compressed=False, **changes):
    found = {name: array for name, array in (arrays() | changes).items() if array is not None}
    (np.savez_compressed if compressed else np.savez)(folder / "data.npz", **found)
    return folder / "data.npz"


def write_npy(folder):
    for name, array in arrays().items():
        np.save(folder / f"{name}.npy", array)
    return folder


def write_store(folder):
    read_with("numpy", write_npz(folder), folder / "store")
    return folder / "store"


NAME = "mine/plain-v0"


@functools.cache
def minari_files(form):
    """What Minari wrote, by the paths of the files."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, MINARI_DATASETS_PATH=folder):
        written(Path(folder), NAME, data_format=form)
        return contents(Path(folder))


def write_minari(folder, form):
    for name, content in minari_files(form).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / NAME


def write_d4rl(folder):
    return Path(flat(folder / "flat.hdf5", terminals=at(12, 5), timeouts=at(12, 11)))


def write_d3rlpy(folder):
    return Path(shutil.copy(FIXTURES / "d3rlpy" / "continuous.h5", folder / "some.h5"))


# What reads a copy, and would keep it as the store `out` if it were good.


def read_with(reader, path, out, **options):
    made = READERS[reader](str(path), **options)
    with StoreWriter(out, made.describe()) as writer:
        for found in made.episodes(writer.episodes_written):
            writer.add(found.episode, found.where)
        return writer.finish()


def read_store(path, out):
    store = Store(path)
    store.check()
    with StoreWriter(out, store.description) as writer:
        for number, episode in enumerate(store):
            writer.add(episode, f"{path}, episode {number}")
        return writer.finish()


FORMATS = {  # what writes a good copy, and the name of its reader
    "dqn_replay": (write_dqn_replay, "dqn_replay"),
    "rlu": (write_rlu, "rlu"),
    "npz": (write_npz, "numpy"),
    "npy": (write_npy, "numpy"),
    "minari hdf5": (lambda folder: write_minari(folder, "hdf5"), "minari"),
    "minari arrow": (lambda folder: write_minari(folder, "arrow"), "minari"),
    "d4rl": (write_d4rl, "d4rl"),
    "d3rlpy": (write_d3rlpy, "d3rlpy"),
    "store": (write_store, None),
}


def read(kind, path, out):
    reader = FORMATS[kind][1]
    return read_with(reader, path, out) if reader else read_store(path, out)


# Damages. Each takes the path of the copy.


def flip(name, place=0.5):
    """Changes one byte; `place` is a part of the file's length, or a byte."""

    def damage(path):
        file = path / name if name else path
        content = bytearray(file.read_bytes())
        content[int(place * len(content)) if isinstance(place, float) else place] ^= 0x40
        file.write_bytes(content)

    return damage


def cut(name, part=0.6):
    def damage(path):
        file = path / name if name else path
        content = file.read_bytes()
        file.write_bytes(content[: int(part * len(content))])

    return damage


def lengthen(name, tail=b"more"):
    def damage(path):
        file = path / name if name else path
        file.write_bytes(file.read_bytes() + tail)

    return damage


def remove(name):
    return lambda path: (path / name).unlink()


def link(name):
    def damage(path):
        (path / name).rename(path.parent / "elsewhere")
        (path / name).symlink_to(path.parent / "elsewhere")

    return damage


def put(name, content):
    return lambda path: (path / name if name else path).write_bytes(content)


def npy(array, **options):
    np.save(file := io.BytesIO(), array, **options)
    return file.getvalue()


def declared(shape, descr="<f4", tail=b""):
    """A file .npy that declares this shape."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + tail


def with_arrays(**changes):
    """Writes the file .npz anew, with other arrays; None leaves one out."""
    return lambda path: write_npz(path.parent, **changes)


def one(name, row, value):
    """The arrays with one number changed."""

    def damage(path):
        array = arrays()[name]
        array[row] = value
        with_arrays(**{name: array})(path)

    return damage


def member(name, content=b"", compression=zipfile.ZIP_STORED):
    """Adds a member to the archive."""

    def damage(path):
        with zipfile.ZipFile(path, "a", compression) as archive:
            archive.writestr(name, content)

    return damage


def swapped(name, content):
    """Writes the archive anew, with other content of one array."""

    def damage(path):
        write_npz(path.parent, **{name: None})
        member(f"{name}.npy", content, zipfile.ZIP_DEFLATED)(path)

    return damage


def both(*damages):
    def damage(path):
        for each in damages:
            each(path)

    return damage


def compressed(name, array, number=0):
    """Another array in a file of the DQN Replay Dataset."""
    return put(f"{name}_ckpt.{number}.gz", gzip.compress(array if isinstance(array, bytes) else npy(array)))


def unpacked(name, change):
    """Changes what a file holds, with a checksum that fits."""

    def damage(path):
        (path / name).write_bytes(gzip.compress(change(gzip.decompress((path / name).read_bytes()))))

    return damage


def changed(name, row, value):
    """The second checkpoint of the DQN Replay Dataset with one number changed."""

    def damage(path):
        file = path / f"$store$_{name}_ckpt.1.gz"
        array = np.load(io.BytesIO(gzip.decompress(file.read_bytes())))
        array[row] = value
        file.write_bytes(gzip.compress(npy(array)))

    return damage


def shard(**changes):
    """The TFRecord file with other features in its second record; None leaves one out."""

    def damage(path):
        features = {name: value for name, value in (recorded(1, 3, True) | changes).items() if value is not None}
        parts = [recorded(0, 3, True), features]
        (path / SHARD).write_bytes(b"".join(record(tf_example(part)) for part in parts))

    return damage


def records(*parts):
    return put(SHARD, b"".join(parts))


def edited(change, reseal=False):
    """The manifest of a store with a change, with the old checksum or with a new one."""

    def damage(path):
        file = path / "manifest.json"
        content = json.loads(file.read_text())
        change(content)
        if reseal:
            from sharedq.json_files import seal

            content["sha256"] = seal(content)
        file.write_text(json.dumps(content))

    return damage


def setting(name, value):
    return lambda content: content.update({name: value})


def h5(name, *changes):
    """Changes an HDF5 file, which lies under this name, with functions that take the open file."""

    def damage(path):
        with h5py.File(path / name if name else path, "a") as file:
            for change in changes:
                change(file)

    return damage


def item(name, value):
    """Puts another thing at a place of an HDF5 file: an array or a link; None leaves nothing there."""

    def change(file):
        file.pop(name)
        if value is not None:
            file[name] = value(file) if callable(value) else value

    return change


def number(name, place, value):
    """Changes one number of an array of an HDF5 file."""

    def change(file):
        array = file[name][:].astype(float)
        array[place] = value
        item(name, array)(file)

    return change


def raw(file):
    """An array whose numbers lie in another file."""
    made = file.create_dataset("elsewhere", (12, 3), np.float32, external=[("other.bin", 0, 144)])
    del file["elsewhere"]
    return made


def virtual(file):
    """An array that is put together from another file."""
    layout = h5py.VirtualLayout((12, 3), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "observations", (12, 3))
    made = file.create_virtual_dataset("elsewhere", layout)
    del file["elsewhere"]
    return made


def arrow(**columns):
    """Other columns in the table of episode 1 of Minari: what takes the old one as an array; None leaves one out."""

    def damage(path):
        (place,) = (path / "data" / "1").glob("*.arrow")
        table = pyarrow.ipc.open_file(pyarrow.BufferReader(place.read_bytes())).read_all()
        for name, change in columns.items():
            old = table.column(name).combine_chunks()
            table = table.drop_columns([name])
            if change is not None:
                table = table.append_column(name, change(old))
        with pyarrow.ipc.new_file(str(place), table.schema) as file:
            file.write_table(table)

    return damage


def vectors(place, value):
    """What changes one number of a column of vectors."""

    def change(old):
        array = np.array(old.to_pylist())
        array[place] = value
        kind = old.type.value_type
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(array.ravel(), kind), array.shape[1])

    return change


def scalars(place, value):
    def change(old):
        values = old.to_pylist()
        values[place] = value
        return pyarrow.array(values)

    return change


def metadata(**changes):
    """The metadata of Minari, edited."""

    def damage(path):
        file = path / "data" / "metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


OUT, SOFT = h5py.ExternalLink("other.h5", "array"), h5py.SoftLink("/elsewhere/array")
MAIN, META = "data/main_data.hdf5", "data/metadata.json"
PIXELS = np.zeros((84, 84), np.uint8)
GOOD = record(tf_example(recorded(0, 3, True)))
LAST = np.array([0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1])
NOT_CLIPPED, NOT_NUMBER = "is not within -1 .. 1", "rewards is not a finite number"
FRAMES, ACTION, REWARD, TERMINAL = (f"$store$_{name}" for name in ("observation", "action", "reward", "terminal"))
FRAMES_0 = f"{FRAMES}_ckpt.0.gz"
ARRAYS = arrays()
STEP_5 = "data.npz, episode 1, step 1"  # what a person would say of row 5

METADATA_DAMAGES = [  # of Minari, in each of its formats
    ("no metadata", remove(META), "there is no data set"),
    ("cut metadata", cut(META), "metadata.json"),
    ("metadata of another kind", put(META, b"[1, 2]"), "metadata.json"),
    ("another number of episodes", metadata(total_episodes=4), "there are 4 episodes, and there are 3"),
    ("another number of steps", metadata(total_steps=13), "there are 13 steps, and there are 12"),
    ("a number that is a text", metadata(total_steps="12"), "metadata.json"),
    ("another format", metadata(data_format="zarr"), "metadata.json names the format 'zarr'"),
    ("a space of no kind", metadata(action_space='{"type": "Graph"}'), "metadata.json is no space of a known form"),
    ("no space", metadata(observation_space=None), "metadata.json"),
    (
        "a space of too many actions",
        metadata(action_space='{"type": "MultiDiscrete", "dtype": "int64", "nvec": [99, 99], "start": [0, 0]}'),
        "mine/plain-v0 has actions of MultiDiscrete with 9,801 combinations, and up to 1,000 are enumerated: such data",
    ),
    (
        "a space with no size",
        metadata(observation_space='{"type": "Text", "max_length": 3, "min_length": 0, "charset": "ab"}'),
        "mine/plain-v0 has observations of Text, which have no fixed size as an array: such data",
    ),
]

DAMAGES = {
    "minari hdf5": [
        ("a cut file", cut(MAIN), "main_data.hdf5 is damaged"),
        ("an empty file", put(MAIN, b""), "main_data.hdf5 is damaged"),
        ("a byte of the magic", flip(MAIN, 0), "main_data.hdf5 is damaged"),
        ("no file", remove(MAIN), "there is no file ...main_data.hdf5"),
        ("a link for the file", link(MAIN), "main_data.hdf5 is a symbolic link"),
        ("a link to another file", h5(MAIN, item("episode_1/observations", OUT)), "is a link to array in other.h5"),
        ("a link of an episode", h5(MAIN, item("episode_1", OUT)), "'episode_1' of ...is a link to array in other.h5"),
        (
            "a link to elsewhere",
            h5(MAIN, item("episode_1/rewards", SOFT)),
            "'rewards' of ...to /elsewhere/array",
        ),
        ("no actions", h5(MAIN, item("episode_1/actions", None)), "episode 1 has no 'actions'"),
        ("no rewards", h5(MAIN, item("episode_1/rewards", None)), "episode 1 has no 'rewards'"),
        ("no episode", h5(MAIN, item("episode_1", None)), "says that there are 3 episodes, and there are 2"),
        (
            "an observation that is no number",
            h5(MAIN, number("episode_1/observations", (2, 1), np.nan)),
            "episode 1, step 2: one of the observations",
        ),
        ("an infinite reward", h5(MAIN, number("episode_1/rewards", 3, np.inf)), "episode 1, step 3: one of the rew"),
        ("an end in the middle", h5(MAIN, number("episode_1/terminations", 1, 1)), "episode 1, step 1: terminations"),
        ("an end of 2", h5(MAIN, number("episode_1/truncations", 3, 2)), "episode 1, step 3: truncations is 2"),
        (
            "an action out of range",
            h5(MAIN, number("episode_1/actions", (1, 0), 3)),
            "episode 1, step 1: the action",
        ),
        (
            "fewer end flags",
            h5(MAIN, item("episode_1/truncations", np.zeros(3, bool))),
            "episode 1 has 3 truncations, and should have 4",
        ),
        (
            "whole observations",
            h5(MAIN, item("episode_1/observations", np.zeros((5, 3), int))),
            "episode 1, step 0: it gave an observation of int64[3]",
        ),
        (
            "actions of another size",
            h5(MAIN, item("episode_1/actions", np.zeros((4, 3)))),
            "episode 1 has actions of float64[3]",
        ),
        ("rewards that are texts", h5(MAIN, item("episode_1/rewards", [b"1"] * 4)), "'rewards' of ...not numbers"),
        *METADATA_DAMAGES,
    ],
    "minari arrow": [
        ("a cut table", lambda path: cut(next(path.glob("data/1/*.arrow")))(path), "episode 1 is damaged"),
        ("an empty table", lambda path: put(next(path.glob("data/1/*.arrow")), b"")(path), "episode 1 is damaged"),
        ("no episode", lambda path: shutil.rmtree(path / "data/1"), "there are 3 episodes, and there are 2"),
        ("an episode of another name", lambda path: (path / "data/1").rename(path / "data/7"), "data/1 has 0 files"),
        ("two tables", put("data/1/more.arrow", b""), "data/1 has 2 files *.arrow, and should have one"),
        ("a link for an episode", link("data/1"), "data/1 is a symbolic link"),
        ("no actions", arrow(actions=None), "episode 1 is damaged ('actions')"),
        ("an observation that is no number", arrow(observations=vectors((2, 1), np.nan)), "episode 1, step 2: one of"),
        ("an infinite reward", arrow(rewards=scalars(3, np.inf)), "episode 1, step 3: one of the rewards"),
        ("a missing reward", arrow(rewards=scalars(1, None)), "episode 1 is damaged (1 of its values are missing)"),
        ("rewards that are texts", arrow(rewards=lambda old: pyarrow.array(["a"] * 5)), "episode 1 has rewards of obj"),
        ("an end in the middle", arrow(terminations=scalars(1, True)), "episode 1, step 1: terminations is true"),
        ("an end that is a text", arrow(truncations=lambda old: pyarrow.array(["a"] * 5)), "episode 1, step 0: trunc"),
        ("an action out of range", arrow(actions=vectors((1, 0), 3)), "episode 1, step 1: the action"),
        ("actions in another form", arrow(actions=lambda old: pyarrow.array([1.0] * 5)), "episode 1"),
        *METADATA_DAMAGES,
    ],
    "d4rl": [
        ("a cut file", cut(""), "flat.hdf5 is damaged"),
        (
            "a link to another file",
            h5("", item("observations", OUT)),
            "'observations' of ...to array in other.h5",
        ),
        ("a link to elsewhere", h5("", item("rewards", SOFT)), "'rewards' of ...is a link to /elsewhere/array"),
        ("numbers in another file", h5("", item("observations", raw)), "takes its numbers from other files"),
        ("parts of another file", h5("", item("observations", virtual)), "takes its numbers from other files"),
        ("no actions", h5("", item("actions", None)), "flat.hdf5 has no 'actions'"),
        ("no terminals", h5("", item("terminals", None)), "flat.hdf5 has no 'terminals'"),
        (
            "an observation that is no number",
            h5("", number("observations", (7, 1), np.nan)),
            "flat.hdf5, episode 1 (rows 6 to 10), step 1: one of the observations",
        ),
        ("an infinite reward", h5("", number("rewards", 3, np.inf)), "episode 0 (rows 0 to 5), step 3: one of the rew"),
        ("an action that is no number", h5("", number("actions", (8, 0), np.nan)), "rows 6 to 10), step 2: one of"),
        ("an action out of range", h5("", number("actions", (8, 0), 1.5)), "from -0.9...to 1.5: say them"),
        ("an end of 2", h5("", number("terminals", 3, 2)), "flat.hdf5, row 3: terminals is 2.0, and not true or false"),
        ("fewer rewards", h5("", item("rewards", np.zeros(11))), "flat.hdf5 has 11 rewards, and should have 12"),
        ("more end flags", h5("", item("timeouts", np.zeros(13, bool))), "has 13 timeouts, and should have 12"),
        ("texts", h5("", item("observations", [b"a"] * 12)), "'observations' of ...and not numbers"),
        ("one number", h5("", item("rewards", 3.0)), "'rewards' of ...is one number, and not an array"),
        ("a folder", h5("", item("rewards", lambda file: file.create_group("more"))), "'rewards' of ...but a group"),
    ],
    "d3rlpy": [
        ("a cut file", cut(""), "some.h5 is damaged"),
        ("a link to another file", h5("", item("actions_1", OUT)), "'actions_1' of ...is a link to array in other.h5"),
        ("a link to elsewhere", h5("", item("rewards_1", SOFT)), "'rewards_1' of ...is a link to /elsewhere/array"),
        ("no rewards", h5("", item("rewards_1", None)), "has no 'rewards_1'"),
        ("no observations", h5("", item("observations_0", None)), "has no 'observations_0'"),
        ("no end", h5("", item("terminated_1", None)), "has no 'terminated_1'"),
        (
            "an observation that is no number",
            h5("", number("observations_1", (2, 1), np.nan)),
            "some.h5, episode 1, step 2: one of the observations",
        ),
        (
            "an action that is no number",
            h5("", number("actions_0", (1, 0), np.nan)),
            "episode 0, step 1: one of the",
        ),
        ("an action out of range", h5("", number("actions_0", (1, 0), 2)), "to 2: say them"),
        ("actions of another size", h5("", item("actions_1", np.zeros((4, 3)))), "episode 1 has actions of float64[3]"),
        ("an end of 2", h5("", item("terminated_1", 2)), "some.h5, episode 1, step 0: terminated is 2"),
        ("fewer rewards", h5("", item("rewards_1", np.zeros(3))), "episode 1 has 3 rewards, and should have 4"),
        ("more observations", h5("", item("observations_1", np.zeros((5, 3)))), "episode 1 has 5 observations"),
        ("texts", h5("", item("observations_1", [b"a"] * 4)), "'observations_1' of ...and not numbers"),
        ("another number of episodes", h5("", item("num_episodes", 3)), "has no 'actions_2'"),
        ("a number below 0", h5("", item("num_episodes", -1)), "some.h5 holds no episodes"),
    ],
    "dqn_replay": [
        ("a byte of the frames", flip(FRAMES_0), FRAMES_0),
        ("a byte of the actions", flip(f"{ACTION}_ckpt.1.gz"), f"{ACTION}_ckpt.1.gz"),
        ("a byte of the rewards", flip(f"{REWARD}_ckpt.1.gz"), f"{REWARD}_ckpt.1.gz"),
        ("a byte of the terminals", flip(f"{TERMINAL}_ckpt.1.gz"), f"{TERMINAL}_ckpt.1.gz"),
        ("a byte of the checksum", flip(FRAMES_0, -6), FRAMES_0),
        ("a byte of add_count", flip("add_count_ckpt.0.gz"), "add_count_ckpt.0.gz"),
        ("a byte of invalid_range", flip("invalid_range_ckpt.0.gz"), "invalid_range_ckpt.0.gz"),
        ("cut frames", cut(FRAMES_0), f"{FRAMES_0} ends too early"),
        ("cut actions", cut(f"{ACTION}_ckpt.0.gz", 0.9), f"{ACTION}_ckpt.0.gz ends too early"),
        ("an empty file", put(f"{REWARD}_ckpt.0.gz", b""), f"{REWARD}_ckpt.0.gz"),
        ("no gzip", put(f"{REWARD}_ckpt.0.gz", npy(np.zeros(60, np.float32))), f"{REWARD}_ckpt.0.gz is damaged"),
        ("no numpy", compressed(REWARD, b"rewards"), f"{REWARD}_ckpt.0.gz is damaged"),
        ("no terminals", remove(f"{TERMINAL}_ckpt.1.gz"), f"cannot read ...{TERMINAL}_ckpt.1.gz"),
        ("no add_count", remove("add_count_ckpt.0.gz"), "add_count_ckpt.0.gz"),
        ("no frames", both(remove(FRAMES_0), remove(f"{FRAMES}_ckpt.1.gz")), "holds no file"),
        ("fewer actions", compressed(ACTION, np.zeros(59, np.int32)), f"{ACTION}_ckpt.0.gz ...does not belong to 60"),
        ("more rewards", compressed(REWARD, np.zeros(61, np.float32)), f"{REWARD}_ckpt.0.gz ...does not belong to 60"),
        ("actions that are floats", compressed(ACTION, np.zeros(60)), f"{ACTION}_ckpt.0.gz holds float64"),
        ("rewards that are whole", compressed(REWARD, np.zeros(60, int)), f"{REWARD}_ckpt.0.gz holds int64"),
        ("coloured frames", compressed(FRAMES, np.zeros((60, 3, 2, 3), np.uint8)), f"{FRAMES_0} holds uint8"),
        ("float frames", compressed(FRAMES, np.zeros((60, 3, 2), np.float32)), f"{FRAMES_0} holds float32"),
        (
            "other frames",
            compressed(FRAMES, np.ones((60, 4, 2), np.uint8), 1),
            "checkpoint 1, episode 0 has observations",
        ),
        ("pickled rewards", compressed(REWARD, npy(np.array([{}]), allow_pickle=True)), "Python objects"),
        ("a bomb", compressed(ACTION, declared((2**40,), "<i4", bytes(10**6))), f"{ACTION}_ckpt.0.gz ...too large"),
        ("a bomb of frames", compressed(FRAMES, declared((60, 2**40, 2), "|u1")), f"{FRAMES_0} holds uint8"),
        ("more frames than declared", unpacked(FRAMES_0, lambda content: content + b"\1"), f"{FRAMES_0}...is longer"),
        ("fewer frames than declared", unpacked(FRAMES_0, lambda content: content[:-1]), f"{FRAMES_0} ends too early"),
        (
            "a reward that is no number",
            changed("reward", 20, np.nan),
            f"checkpoint 1, episode 0, step 6... {NOT_CLIPPED}",
        ),
        (
            "a reward that is not clipped",
            changed("reward", 20, 7),
            f"checkpoint 1, episode 0, step 6... {NOT_CLIPPED}",
        ),
        ("an action below 0", changed("action", 20, -1), "checkpoint 1, episode 0, step 6: the action -1 lies"),
        ("a terminal of 2", changed("terminal", 20, 2), f"{TERMINAL}_ckpt.1.gz, row 20: a terminal is 2, and not"),
        ("a terminal in the middle", changed("terminal", 20, 1), "checkpoint 1, episode 0, step 6: a terminal of"),
        ("another cursor", compressed("add_count", np.array(30)), "add_count_ckpt.0.gz ...not of one checkpoint"),
        ("an add_count of two", compressed("add_count", np.array([1, 2])), "add_count_ckpt.0.gz should hold one"),
        ("an add_count below 0", compressed("add_count", np.array(-2)), "add_count_ckpt.0.gz should hold one"),
    ],
    "rlu": [
        ("a byte of a length", flip(SHARD, 3), f"{SHARD}"),
        ("a byte of the checksum of a length", flip(SHARD, len(GOOD) + 9), f"{SHARD}, record 1 ...of its length"),
        ("a byte of the data", flip(SHARD, len(GOOD) + 99), f"{SHARD}, record 1 ...of its data"),
        ("a byte of the checksum of the data", flip(SHARD, -1), f"{SHARD}, record 2 ...of its data"),
        ("a cut record", cut(SHARD), f"{SHARD}, record 1 ends too early"),
        ("a cut head", put(SHARD, GOOD + GOOD[:9]), f"{SHARD}, record 1 ends too early"),
        ("more behind", lengthen(SHARD, b"more behind it"), f"{SHARD}, record 3 ...of its length"),
        ("cut gzip", put(SHARD, gzip.compress(GOOD * 2)[:-900]), f"{SHARD}, record 0 ends too early"),
        ("a byte of gzip", both(put(SHARD, gzip.compress(GOOD * 2)), flip(SHARD)), SHARD),
        ("an empty file", put(SHARD, b""), "holds no episode"),
        ("no record", put(SHARD, b"no record, but a text"), f"{SHARD}, record 0 is damaged"),
        ("no file", remove(SHARD), "holds no file run_R"),
        ("no example", records(GOOD, record(b"\x07\x07")), f"{SHARD}, episode 1 is no tf.train.Example"),
        ("a cut example", records(GOOD, record(tf_example(recorded(1, 3, True))[:-5])), f"{SHARD}, episode 1 is no tf"),
        ("an endless number", records(GOOD, record(b"\xff" * 30)), f"{SHARD}, episode 1 is no tf.train.Example"),
        ("a name that is no text", records(GOOD, record(message(1, message(1, message(1, b"\xff"))))), "episode 1"),
        ("no observations", shard(observations=None), f"{SHARD}, episode 1 has no observations"),
        ("no actions", shard(actions=None), f"{SHARD}, episode 1 has no actions"),
        ("no rewards", shard(unclipped_rewards=None), f"{SHARD}, episode 1 has no unclipped_rewards"),
        ("no discounts", shard(discounts=None), f"{SHARD}, episode 1 has no discounts"),
        ("no checkpoint", shard(checkpoint_idx=None), f"{SHARD}, episode 1 has no checkpoint_idx"),
        ("two checkpoints", shard(checkpoint_idx=[1, 2]), f"{SHARD}, episode 1 has the checkpoint_idx"),
        ("actions that are floats", shard(actions=[0.0, 1.0, 2.0]), f"{SHARD}, episode 1 has another kind of actions"),
        ("fewer actions", shard(actions=[0, 1]), f"{SHARD}, episode 1 has 2 actions, and should have 3"),
        (
            "more rewards",
            shard(unclipped_rewards=[0.0] * 4),
            f"{SHARD}, episode 1 has 4 unclipped_rewards",
        ),
        ("an end in the middle", shard(discounts=[1.0, 0.0, 0.0]), f"{SHARD}, episode 1, step 0: ...end flag in the"),
        ("a discount that is no number", shard(discounts=[1.0, 1.0, np.nan]), f"{SHARD}, episode 1, step 2: the disc"),
        ("a reward of the last row", shard(unclipped_rewards=[0.0, 0.0, 1.0]), f"{SHARD}, episode 1, step 2: the row"),
        ("a reward that is no number", shard(unclipped_rewards=[np.nan, 0.0, 0.0]), f"{SHARD}, episode 1, step 0"),
        ("an action below 0", shard(actions=[0, -1, 0]), f"{SHARD}, episode 1, step 1: the action -1"),
        ("no PNG", shard(observations=[png(PIXELS), b"no PNG", png(PIXELS)]), f"{SHARD}, episode 1, step 1: the obs"),
        ("a cut PNG", shard(observations=[png(PIXELS), png(PIXELS), png(PIXELS)[:60]]), "episode 1, step 2: the obs"),
        ("a small PNG", shard(observations=[png(PIXELS[:80])] * 3), "episode 1, step 0: ...84 x 80"),
        (
            "a PNG that is a bomb",
            shard(observations=[png(PIXELS, (20_000, 20_000))] * 3),
            "episode 1, step 0",
        ),
    ],
    "npz": [
        ("a byte of the observations", flip("", 200), "data.npz, observations.npy is damaged"),
        ("a byte of the directory", flip("", -80), "data.npz"),
        ("a cut file", cut(""), "data.npz is damaged"),
        ("an empty file", put("", b""), "data.npz is damaged"),
        ("no archive", put("", npy(np.zeros(3))), "data.npz is damaged"),
        ("a byte of a compressed one", both(lambda path: write_npz(path.parent, True), flip("", 100)), "data.npz"),
        ("a pickled array", swapped("rewards", npy(np.array([{}] * 12), allow_pickle=True)), "rewards.npy ...objects"),
        ("a header of code", swapped("rewards", declared("__import__('os')")), "rewards.npy is damaged"),
        ("a header out of order", swapped("rewards", declared("((((")), "rewards.npy is damaged"),
        ("a bomb", swapped("rewards", declared((2**40,), tail=bytes(10**6))), "rewards.npy declares"),
        ("a bomb of observations", swapped("observations", declared((12, 2**40))), "observations.npy declares"),
        ("a shape below 0", swapped("rewards", declared((-12,))), "rewards.npy is damaged"),
        ("a name above the folder", member("../../rewards.npy", npy(np.zeros(3))), "data.npz: unknown array"),
        ("an absolute name", member("/tmp/rewards.npy", npy(np.zeros(3))), "data.npz: unknown array"),
        ("a name of two lines", member("re\nwards.npy", npy(np.zeros(3))), "data.npz: unknown array"),
        ("a misspelt name", with_arrays(terminals=LAST), "unknown array 'terminals': did you mean terminated"),
        ("no rewards", with_arrays(rewards=None), "data.npz lacks the array 'rewards'"),
        ("no ends", with_arrays(terminated=None, truncated=None), "data.npz does not say where an episode ends"),
        ("ends of both kinds", with_arrays(dones=LAST), "data.npz has dones and"),
        ("fewer actions", with_arrays(actions=np.zeros(11, int)), "data.npz has 11 actions, and should have 12"),
        ("fewer end flags", with_arrays(truncated=LAST[1:]), "data.npz has 11 truncated, and should have 12"),
        ("more observations", with_arrays(observations=np.zeros((14, 2), np.float32)), "observations.npy has 14 rows"),
        ("rewards in a table", with_arrays(rewards=np.zeros((12, 2))), "rewards.npy holds float64"),
        ("rewards that are texts", with_arrays(rewards=np.array(["1"] * 12)), "rewards.npy holds <U1"),
        ("actions that are texts", with_arrays(actions=np.array(["1"] * 12)), "actions.npy has actions of <U1"),
        ("observations that are complex", with_arrays(observations=np.zeros((12, 2), complex)), "observations.npy has"),
        ("observations by columns", with_arrays(observations=np.asfortranarray(ARRAYS["observations"])), "by column"),
        ("a reward that is no number", one("rewards", 5, np.nan), f"{STEP_5}: one of the {NOT_NUMBER}"),
        ("an infinite reward", one("rewards", 5, np.inf), f"{STEP_5}: one of the {NOT_NUMBER}"),
        ("a reward too large for float32", with_arrays(rewards=np.full(12, 1e300)), f"step 0: one of the {NOT_NUMBER}"),
        ("an observation that is no number", one("observations", (5, 1), np.nan), f"{STEP_5}: one of the observations"),
        ("an action below 0", one("actions", 5, -1), f"{STEP_5}: the action -1 lies outside 0 .. 2"),
        ("an action too large", one("actions", 5, 2**40), "actions.npy has the discrete action 1,099,511,627,776"),
        (
            "an action out of bounds",
            with_arrays(actions=np.full((12, 2), 1.5)),
            "actions.npy ...from 1.5 to 1.5: say",
        ),
        ("an action that is no number", with_arrays(actions=np.full((12, 2), np.nan)), "step 0: one of the actions"),
        (
            "an end flag of 2",
            with_arrays(terminated=LAST * 2),
            "terminated.npy, row 3: terminated is 2, and",
        ),
        ("an end in the middle", with_arrays(episode_starts=np.array([0, 4])), "episode 1, step 2: an end flag stands"),
        ("starts that fall", with_arrays(episode_starts=np.array([0, 7, 4])), "episode_starts.npy should hold"),
        ("starts beyond", with_arrays(episode_starts=np.array([0, 12])), "episode_starts.npy should hold"),
        ("a start missing", with_arrays(episode_starts=np.array([1, 4])), "episode_starts.npy should hold"),
        ("episodes that come again", with_arrays(episode_ids=np.arange(12) % 4), "episode_ids.npy, row 4"),
        ("starts and numbers", with_arrays(episode_ids=LAST, episode_starts=LAST), "episode_starts and episode_ids"),
        (
            "an end flag that is missing",
            with_arrays(
                terminated=LAST * 0, next_observations=np.roll(ARRAYS["observations"], -1, 0) + (LAST > 0)[:, None]
            ),
            "data.npz, episode 0, step 3: the row of next_observations is not",
        ),
        ("successors of another form", with_arrays(next_observations=np.zeros((12, 3))), "they should be alike"),
    ],
    "npy": [
        ("cut observations", cut("observations.npy", 0.9), "observations.npy declares"),
        ("cut header", cut("observations.npy", 0.1), "observations.npy is damaged"),
        ("more behind", lengthen("rewards.npy"), "rewards.npy declares"),
        ("a byte of the magic", flip("actions.npy", 0), "actions.npy is damaged"),
        ("a byte of the header", flip("actions.npy", 20), "actions.npy"),
        ("a byte of the shape", flip("actions.npy", 61), "actions.npy"),
        ("no actions", remove("actions.npy"), "lacks the array 'actions'"),
        (
            "an array of another name",
            put("reward.npy", npy(np.zeros(3))),
            "unknown array 'reward': did you mean rewards",
        ),
        ("pickled actions", put("actions.npy", npy(np.array([{}] * 12), allow_pickle=True)), "actions.npy ...objects"),
        ("a pickle", put("actions.npy", b"\x80\x04N."), "actions.npy is damaged"),
        ("a bomb", put("actions.npy", declared((2**50,), "<i8")), "actions.npy declares"),
        ("a folder", both(remove("actions.npy"), lambda path: (path / "actions.npy").mkdir()), "actions.npy"),
    ],
    "store": [
        *[
            (f"a byte of {name} {where}", flip(name, place), f"{name} ")
            for name in ("observations.npy", "actions.npy", "rewards.npy", "episodes.npy")
            for where, place in (("in its header", 70), ("at its beginning", 256), ("at its end", -1))
        ],
        *[(f"cut {name}", cut(name), f"{name} has") for name in ("observations.npy", "rewards.npy", "episodes.npy")],
        *[(f"more behind {name}", lengthen(name), f"{name} has") for name in ("actions.npy", "episodes.npy")],
        *[(f"no {name}", remove(name), f"lacks {name}") for name in ("observations.npy", "actions.npy")],
        *[(f"a link for {name}", link(name), f"{name} is a symbolic link") for name in ("rewards.npy", "episodes.npy")],
        ("no manifest", remove("manifest.json"), "manifest.json"),
        ("a cut manifest", cut("manifest.json"), "manifest.json was edited or damaged"),
        ("an empty manifest", put("manifest.json", b"{}"), "manifest.json was edited or damaged"),
        ("a byte of the manifest", flip("manifest.json"), "manifest.json was edited or damaged"),
        ("another number of steps", edited(setting("steps", 10)), "manifest.json was edited or damaged"),
        ("other rewards", edited(setting("rewards", "raw")), "manifest.json was edited or damaged"),
        ("no checksum", edited(lambda content: content.pop("sha256")), "manifest.json was edited or damaged"),
        ("a format to come", edited(setting("format", 2), True), "manifest.json is of format 2"),
        ("other files", edited(lambda content: content["files"].pop("rewards.npy"), True), "manifest.json was edited"),
        ("an edited description", edited(setting("sticky_actions", 0.5), True), "manifest.json was edited"),
        ("a space of nothing", edited(lambda content: content["spec"]["actions"].pop("n"), True), "manifest.json was"),
    ],
}

# Episodes that a reader could give by mistake, of the arrays above.
EPISODE = Episode(ARRAYS["observations"][:4], np.zeros(3, np.int32), np.zeros(3, np.float32), End.TRUNCATED)
MISTAKES = [
    ("no steps", {"reward": EPISODE.reward[:0]}, "has no steps"),
    ("fewer observations", {"obs": EPISODE.obs[:3]}, "has 3 observations and 3 rewards"),
    ("more actions", {"action": np.zeros(4, np.int32)}, "has 4 actions and 3 rewards"),
    ("observations of another dtype", {"obs": EPISODE.obs.astype(float)}, "has observations of float64"),
    ("observations of another shape", {"obs": EPISODE.obs[:, :1]}, "has observations of float32"),
    ("actions of another dtype", {"action": np.zeros(3, np.int64)}, "has actions of int64"),
    ("actions in a table", {"action": np.zeros((3, 1), np.int32)}, "has actions of int32"),
    ("rewards of another dtype", {"reward": np.zeros(3)}, "has rewards of float64"),
    ("an action too large", {"action": np.array([0, 3, 0], np.int32)}, "step 1: the action 3 lies outside 0 .. 2"),
    ("an unknown way to end", {"end": 7}, "ends in an unknown way"),
]

ALL = [(kind, *case) for kind, cases in DAMAGES.items() for case in cases]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_good_copy_is_read(kind, tmp_path):
    (tmp_path / "source").mkdir()
    store = read(kind, FORMATS[kind][0](tmp_path / "source"), tmp_path / "out")
    assert store.manifest.episodes and Store(tmp_path / "out").damaged() is None


@pytest.mark.parametrize(("kind", "name", "damage", "says"), ALL, ids=[f"{kind}: {name}" for kind, name, *_ in ALL])
def test_a_damaged_copy_is_refused(kind, name, damage, says, tmp_path):
    (tmp_path / "source").mkdir()
    path = FORMATS[kind][0](tmp_path / "source")
    damage(path)
    before = contents(tmp_path / "source")
    with pytest.raises(SharedqError, match=pattern(says)) as refused:
        read(kind, path, tmp_path / "out")
    told = str(refused.value)
    assert "\n" not in told and str(path) in told, "it names the file, in one line"
    assert not (tmp_path / "out").exists(), "nothing is kept"
    assert contents(tmp_path / "source") == before, "the source is as it was"


@pytest.mark.parametrize("kind", FORMATS)
def test_the_command_ends_with_one_line_and_leaves_nothing(kind, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    path, reader = FORMATS[kind][0](tmp_path / "source"), FORMATS[kind][1]
    DAMAGES[kind][0][1](path)
    before = sorted(tmp_path.rglob("*"))
    converted = ["convert", f"{reader}:{path}", str(tmp_path / "out")]
    code = main(["data", *(converted if reader else ["convert", str(path), "minari:mine/out-v0"])])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and re.fullmatch(r"sharedq: [^\n]+\n", err)
    kept = tmp_path / ".out.unfinished"
    assert kept.exists() == (f"{kept} keeps the" in err), "what was written before the damage stays, and it is told"
    assert sorted(path for path in tmp_path.rglob("*") if kept not in (path, *path.parents)) == before


MENDED = [  # a damage behind the first episodes, the file that it is in, and one of a file before
    ("dqn_replay", f"{FRAMES}_ckpt.1.gz", FRAMES_0),
    ("rlu", "run_1-00003-of-00050", SHARD),
    ("minari arrow", "data/2/*.arrow", "data/0/*.arrow"),
]


@pytest.mark.parametrize(("kind", "bad", "before"), MENDED, ids=[kind for kind, *_ in MENDED])
def test_a_conversion_goes_on_once_a_bad_file_is_replaced(kind, bad, before, tmp_path):
    from sharedq.datasets.converting import convert

    (tmp_path / "source").mkdir()
    path = FORMATS[kind][0](tmp_path / "source")
    if kind == "rlu":
        parts = [recorded(number, 3, True, 3) for number in range(2)]
        (path / bad).write_bytes(b"".join(record(tf_example(part)) for part in parts))
    (bad,), (before,) = path.glob(bad), path.glob(before)
    made = functools.partial(
        READERS[FORMATS[kind][1]], str(path), **({} if kind == "minari arrow" else {"actions": 18})
    )
    whole = convert(made(), tmp_path / "whole")
    good = bad.read_bytes()
    bad.write_bytes(good[:-9])

    def again():
        return convert(made(), tmp_path / "out")

    with pytest.raises(SharedqError, match="unfinished keeps the"):
        again()
    bad.write_bytes(good)
    old = before.stat()
    os.utime(before, ns=(0, 0))
    with pytest.raises(SharedqError, match=f"{re.escape(before.name)} was changed since"):
        again()
    os.utime(before, ns=(0, old.st_mtime_ns))
    assert again().manifest.content == whole.manifest.content


# Stores that another program made, with checksums that fit.


def made_elsewhere(path, change=lambda told: told, **arrays):
    """Puts other arrays into a store, and seals its manifest anew as its maker would have."""
    for name, array in arrays.items():
        file = path / f"{name}.npy"
        file.write_bytes(file.read_bytes()[:HEADER] + np.ascontiguousarray(array).tobytes())
    told, files = manifests.read(path), {}
    for name in FILES:
        content = (path / name).read_bytes()
        blocks = [hashlib.sha256(content[at : at + BLOCK]).hexdigest() for at in range(0, len(content), BLOCK)]
        files[name] = {"bytes": len(content), "blocks": blocks}
    told = change(dataclasses.replace(told, files=files))
    dataclasses.replace(told, content=manifests.content_of(told.description, told.files)).write(path)


def with_number(name, place, number):
    """A store with one number changed: its episodes have 4, 2 and 5 steps."""

    def damage(path):
        array = np.array(getattr(Store(path), name))
        array[place] = number
        made_elsewhere(path, **{name: array})

    return damage


def vectors_of(place, number):
    """A store of continuous actions with one number changed."""

    def damage(path):
        shutil.rmtree(path)
        source = write_npz(path.parent, actions=np.full((12, 2), 0.5, np.float32))
        read_with("numpy", source, path)
        with_number("actions", place, number)(path)

    return damage


def with_an_unknown_end(path):
    """A store that hides in its manifest that the end of an episode is not known."""
    episodes = np.array(Store(path).episodes)
    episodes["end"][1] = End.UNKNOWN
    made_elsewhere(path, episodes=episodes)


def declaring(**changes):
    return lambda path: made_elsewhere(path, lambda told: dataclasses.replace(told, **changes))


def describing(**changes):
    return lambda path: made_elsewhere(
        path, lambda told: dataclasses.replace(told, description=dataclasses.replace(told.description, **changes))
    )


def blocks_of_rewards(blocks):
    def change(told):
        return dataclasses.replace(told, files=told.files | {"rewards.npy": told.files["rewards.npy"] | blocks})

    return lambda path: made_elsewhere(path, change)


def longer(path):
    """A store of which a file has a row more, and so has its manifest."""
    with (path / "observations.npy").open("ab") as file:
        file.write(bytes(8))
    made_elsewhere(path)


STACKS = EnvironmentSpec("unknown", jax.ShapeDtypeStruct((2, 2), np.float32), Discrete(3), "black")
ELSEWHERE = [
    ("a reward that is no number", with_number("rewards", 5, np.nan), "rewards.npy, episode 1, step 1: ... is nan"),
    ("an infinite reward", with_number("rewards", 10, -np.inf), "rewards.npy, episode 2, step 4: ... is -inf"),
    ("an action too large", with_number("actions", 4, 3), "actions.npy, episode 1, step 0: ... 3, outside 0 .. 2"),
    ("an action below 0", with_number("actions", 0, -1), "actions.npy, episode 0, step 0: ... -1, outside 0 .. 2"),
    ("an action out of bounds", vectors_of((7, 1), -1.5), "actions.npy, episode 2, step 1: ... -1.5, outside the"),
    ("an action that is no number", vectors_of((3, 0), np.nan), "actions.npy, episode 0, step 3: ... nan, outside"),
    ("an observation that is none", with_number("observations", (4, 1), np.nan), "observations.npy, episode 0, step 4"),
    ("an infinite observation", with_number("observations", (5, 0), np.inf), "observations.npy, episode 1, step 0: "),
    ("an unknown end", with_an_unknown_end, "manifest.json counts other ends than episodes.npy has"),
    ("other blocks", declaring(block=2**20), "manifest.json has blocks of 1,048,576 bytes"),
    ("no blocks", blocks_of_rewards({"blocks": []}), "rewards.npy has 300 bytes and 0 checksums, and"),
    ("more blocks", blocks_of_rewards({"blocks": ["", ""]}), "rewards.npy has 300 bytes and 2 checksums, and"),
    ("a row too many", longer, "observations.npy has ... bytes and 1 checksums, and its steps and episodes make"),
    ("stacks of what is none", describing(stack=2), "are no stacks of 2 frames"),
    ("other stacks", describing(spec=STACKS, stack=3), "are no stacks of 3 frames"),
]


@pytest.mark.parametrize(("name", "damage", "says"), ELSEWHERE, ids=[name for name, *_ in ELSEWHERE])
def test_a_store_that_was_made_elsewhere_is_not_trusted_for_its_checksums(name, damage, says, tmp_path, capsys):
    path = write_store(tmp_path)
    damage(path)
    with pytest.raises(SharedqError, match=pattern(says)):
        Store(path).check()
    assert main(["data", "validate", str(path)]) == 2
    assert re.search(pattern(says), capsys.readouterr().err)


def test_a_wrong_number_is_found_in_any_block(tmp_path, monkeypatch):
    """Blocks begin in the middle of a row."""
    for module in ("store", "writing"):
        monkeypatch.setattr(f"sharedq.datasets.{module}.BLOCK", HEADER + 12)
    monkeypatch.setitem(globals(), "BLOCK", HEADER + 12)
    path = write_store(tmp_path)
    observations = np.array(Store(path).observations)
    assert Store(path).damaged() is None and len(observations) == 14
    begins = np.cumsum([0, 5, 3, 6])
    for row in range(14):
        changed = observations.copy()
        changed[row, 1] = np.nan
        made_elsewhere(path, observations=changed)
        episode = int(np.searchsorted(begins, row, side="right")) - 1
        assert f"episode {episode}, step {row - begins[episode]}: " in Store(path).damaged()


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "store"])
def test_an_episode_larger_than_the_bound_is_refused_before_it_is_read(kind, tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    path = FORMATS[kind][0](tmp_path / "source")
    monkeypatch.setattr(reading, "LARGEST", 20)
    with pytest.raises(SharedqError, match=r"declares .* which are .* bytes, and an episode may have 20: cut it"):
        read(kind, path, tmp_path / "out")


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Box", "shape": [2**13, 2**13], "low": 0, "high": 1, "dtype": "uint8"},
        {"type": "MultiBinary", "n": [2**13, 2**13]},
        {"type": "Text", "max_length": 2**25, "min_length": 0, "charset": "a"},
    ],
    ids=lambda space: space["type"],
)
def test_a_space_larger_than_the_bound_is_refused_before_it_is_made(space, tmp_path):
    (tmp_path / "source").mkdir()
    path = write_minari(tmp_path / "source", "hdf5")
    metadata(observation_space=json.dumps(space))(path)
    with pytest.raises(SharedqError, match="is larger than 16,777,216 numbers"):
        read("minari hdf5", path, tmp_path / "out")


PLACES = [("dqn_replay", FRAMES_0), ("dqn_replay", "add_count_ckpt.1.gz"), ("rlu", SHARD), ("npy", "rewards.npy")]


@pytest.mark.parametrize(("kind", "name"), PLACES)
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_what_is_no_plain_file_in_a_folder_is_refused_and_never_waited_for(kind, name, what, tmp_path):
    (tmp_path / "source").mkdir()
    path = FORMATS[kind][0](tmp_path / "source")
    if what == "link":
        link(name)(path)
    else:
        (path / name).unlink()
        os.mkfifo(path / name)
    says = f"{name} is a symbolic link" if what == "link" else f"{name} is no plain file"
    with pytest.raises(SharedqError, match=re.escape(says)):
        read(kind, path, tmp_path / "out")


@pytest.mark.parametrize("reader", ["numpy", "rlu", "d4rl", "d3rlpy"])
def test_a_pipe_in_place_of_a_file_is_refused(reader, tmp_path):
    pipe = tmp_path / (SHARD if reader == "rlu" else "pipe")
    os.mkfifo(pipe)
    assert not any(kind.recognises(str(pipe)) for name, kind in READERS.items() if name != "rlu")
    with pytest.raises(SharedqError, match=r"no file .*pipe|no plain file"):
        read_with(reader, pipe, tmp_path / "out")


def test_a_link_to_the_frames_folder_of_a_run_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    write_dqn_replay(tmp_path / "elsewhere")
    (tmp_path / "run" / "replay_logs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SharedqError, match="replay_logs is a symbolic link"):
        read("dqn_replay", tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize(("name", "change", "says"), MISTAKES, ids=[name for name, *_ in MISTAKES])
def test_an_episode_that_breaks_a_rule_is_refused(name, change, says, tmp_path):
    (tmp_path / "source").mkdir()
    description = READERS["numpy"](str(write_npz(tmp_path / "source"))).describe()
    with StoreWriter(tmp_path / "out", description) as writer:
        with pytest.raises(SharedqError, match=pattern(f"the log, episode 3...{says}")) as refused:
            writer.add(EPISODE._replace(**change), "the log, episode 3")
        assert "\n" not in str(refused.value) and not writer.episodes_written
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_no_change_of_bytes_ends_in_another_error(kind, tmp_path):
    """Some bytes of a format mean nothing, and plain arrays have no checksum: such a copy may be read."""
    (tmp_path / "source").mkdir()
    path, random = FORMATS[kind][0](tmp_path / "source"), np.random.default_rng(0)
    files = [
        file for file in sorted((tmp_path / "source").rglob("*")) if path in (file, *file.parents) and file.is_file()
    ]
    for number in range(40):
        file = files[random.integers(len(files))]
        content = file.read_bytes()
        at = random.integers(min(len(content), random.choice([200, len(content)])))  # often in a header
        tail = content[at + random.integers(2) :]
        file.write_bytes(content[:at] + random.bytes(random.integers(3)) + tail)
        with contextlib.suppress(SharedqError):
            read(kind, path, tmp_path / f"out{number}")
        file.write_bytes(content)


def test_there_are_a_hundred_of_them():
    assert len(ALL) >= 100 and len({(kind, name) for kind, name, *_ in ALL}) == len(ALL)


def pattern(says: str) -> str:
    """What an error must say, with ... where anything may stand."""
    return ".*".join(map(re.escape, says.split("...")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
