"""Damaged data never pass for good ones: each damage is refused in one line that names the place, and nothing is kept.

To add a format, give it a line in `FORMATS`: what writes a good copy of it, and what reads one. To add a damage, give
it a line in the table of its format: what is done to the copy, and what the error must say, with ... where anything may
stand.
"""

import contextlib
import gzip
import io
import json
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_readers_atari import Memory, message, play, png, record, recorded, tf_example

from sharedq.datasets.episode import End, Episode
from sharedq.datasets.readers import READERS
from sharedq.datasets.store import Store
from sharedq.datasets.writing import StoreWriter
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


FORMATS = {
    "dqn_replay": (write_dqn_replay, lambda path, out: read_with("dqn_replay", path, out)),
    "rlu": (write_rlu, lambda path, out: read_with("rlu", path, out)),
    "npz": (write_npz, lambda path, out: read_with("numpy", path, out)),
    "npy": (write_npy, lambda path, out: read_with("numpy", path, out)),
    "store": (write_store, read_store),
}

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


PIXELS = np.zeros((84, 84), np.uint8)
GOOD = record(tf_example(recorded(0, 3, True)))
LAST = np.array([0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1])
NOT_CLIPPED, NOT_NUMBER = "is not within -1 .. 1", "rewards is not a finite number"
FRAMES, ACTION, REWARD, TERMINAL = (f"$store$_{name}" for name in ("observation", "action", "reward", "terminal"))
FRAMES_0 = f"{FRAMES}_ckpt.0.gz"
ARRAYS = arrays()
STEP_5 = "data.npz, episode 1, step 1"  # what a person would say of row 5

DAMAGES = {
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
            f"{SHARD}, episode 1 has 4 unclipped_rewards, and should have 3",
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
        ("a misspelt name", with_arrays(terminals=LAST), "unknown array 'terminals.npy': did you mean terminated"),
        ("no rewards", with_arrays(rewards=None), "data.npz lacks the array rewards.npy"),
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
            "actions.npy ...which reach from 1.5 to 1.5: say them",
        ),
        ("an action that is no number", with_arrays(actions=np.full((12, 2), np.nan)), "step 0: one of the actions"),
        (
            "an end flag of 2",
            with_arrays(terminated=LAST * 2),
            "terminated.npy, row 3: terminated is 2, and not true or false",
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
        ("no actions", remove("actions.npy"), "lacks the array actions.npy"),
        ("an array of another name", put("reward.npy", npy(np.zeros(3))), "unknown array 'reward.npy'"),
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
    write, read = FORMATS[kind]
    (tmp_path / "source").mkdir()
    store = read(write(tmp_path / "source"), tmp_path / "out")
    assert store.manifest.episodes and Store(tmp_path / "out").damaged() is None


@pytest.mark.parametrize(("kind", "name", "damage", "says"), ALL, ids=[f"{kind}: {name}" for kind, name, *_ in ALL])
def test_a_damaged_copy_is_refused(kind, name, damage, says, tmp_path):
    write, read = FORMATS[kind]
    (tmp_path / "source").mkdir()
    path = write(tmp_path / "source")
    damage(path)
    before = contents(tmp_path / "source")
    with pytest.raises(SharedqError, match=pattern(says)) as refused:
        read(path, tmp_path / "out")
    told = str(refused.value)
    assert "\n" not in told and str(path) in told, "it names the file, in one line"
    assert not (tmp_path / "out").exists(), "nothing is kept"
    assert contents(tmp_path / "source") == before, "the source is as it was"


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
    write, read = FORMATS[kind]
    (tmp_path / "source").mkdir()
    path, random = write(tmp_path / "source"), np.random.default_rng(0)
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
            read(path, tmp_path / f"out{number}")
        file.write_bytes(content)


def test_there_are_a_hundred_of_them():
    assert len(ALL) >= 100 and len({(kind, name) for kind, name, *_ in ALL}) == len(ALL)


def pattern(says: str) -> str:
    """What an error must say, with ... where anything may stand."""
    return ".*".join(map(re.escape, says.split("...")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
