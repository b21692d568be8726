"""The readers of Atari data sets give back what was recorded, from files written by the published layouts."""

import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedq.datasets.episode import End
from sharedq.datasets.readers.dqn_replay import DQNReplay
from sharedq.datasets.readers.rlu import RLUnplugged
from sharedq.datasets.readers.tfrecord import crc32c
from sharedq.datasets.writing import StoreWriter
from sharedq.environments.spec import Discrete
from sharedq.errors import SharedqError

HEIGHT, WIDTH = 3, 2


class Memory:
    """The ring of Dopamine's circular_replay_buffer.py, and the files that it saves."""

    def __init__(self, capacity, stack=4):
        self.capacity, self.stack, self.added = capacity, stack, 0
        # numpy.empty there: rows that were never written hold anything
        self.observation = np.full((capacity, HEIGHT, WIDTH), 171, np.uint8)
        self.action = np.full(capacity, 99, np.int32)
        self.reward = np.full(capacity, np.nan, np.float32)
        self.terminal = np.full(capacity, 77, np.uint8)
        self.log = []  # what every row ever written was: (episode, step), or None for a row of zeros

    def add(self, observation, action, reward, terminal, mark):
        if self.added == 0 or self.terminal[self.added % self.capacity - 1] == 1:
            self.pad()
        self._add(observation, action, reward, terminal, mark)

    def pad(self):
        for _ in range(self.stack - 1):
            self._add(0, 0, 0, 0, None)

    def _add(self, observation, action, reward, terminal, mark):
        row = self.added % self.capacity
        self.observation[row], self.action[row], self.reward[row], self.terminal[row] = (
            observation,
            action,
            reward,
            terminal,
        )
        self.added += 1
        self.log.append(mark)

    def save(self, folder, number):
        folder.mkdir(parents=True, exist_ok=True)
        around = [(self.added - 1 + i) % self.capacity for i in range(self.stack + 1)]
        for name, array in (
            ("$store$_observation", self.observation),
            ("$store$_action", self.action),
            ("$store$_reward", self.reward),
            ("$store$_terminal", self.terminal),
            ("add_count", np.array(self.added)),
            ("invalid_range", np.array(around)),
        ):
            with gzip.open(folder / f"{name}_ckpt.{number}.gz", "wb") as file:
                np.save(file, array, allow_pickle=False)


def frame(episode, step):
    return np.full((HEIGHT, WIDTH), 1 + (37 * episode + step) % 255, np.uint8)


def play(memory, lengths, cut=()):
    """Adds episodes of these lengths. Those in `cut` have no terminal; rows of zeros follow them all the same."""
    for episode, length in enumerate(lengths):
        for step in range(length):
            ends = step == length - 1 and episode not in cut
            memory.add(frame(episode, step), (episode + step) % 3, (step % 3) - 1.0, ends, (episode, step))
        if episode in cut:
            memory.pad()


def expected(memory, lengths, cut=()):
    """The episodes in the memory, as (episode, first step, steps, end), from the log of all that was written."""
    in_it = memory.log[-min(memory.added, memory.capacity) :]
    cursor = memory.added % memory.capacity
    behind = memory.capacity - cursor if cursor and memory.added > memory.capacity else 0
    if behind < memory.stack:
        in_it = in_it[behind:]
    marks = [mark for mark in in_it if mark is not None]
    for episode in dict.fromkeys(mark[0] for mark in marks):
        steps = [mark[1] for mark in marks if mark[0] == episode]
        terminal = steps[-1] == lengths[episode] - 1 and episode not in cut
        whole = len(steps) if terminal else len(steps) - 1
        if whole:
            yield episode, steps[0], whole, End.TERMINATED if terminal else End.TRUNCATED


def check(found, memory, lengths, cut=()):
    wanted = list(expected(memory, lengths, cut))
    assert len(found) == len(wanted)
    for one, (number, first, steps, end) in zip(found, wanted, strict=True):
        episode = one.episode
        frames = [frame(number, step) for step in range(first, first + steps)]
        frames.append(frames[-1] if end is End.TERMINATED else frame(number, first + steps))
        np.testing.assert_array_equal(episode.obs, frames)
        np.testing.assert_array_equal(episode.action, [(number + s) % 3 for s in range(first, first + steps)])
        np.testing.assert_array_equal(episode.reward, [(s % 3) - 1 for s in range(first, first + steps)])
        assert episode.end is end


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(8, 40), st.data())
def test_a_ring_gives_back_the_episodes_in_it(tmp_path_factory, lengths, capacity, data):
    cut = data.draw(st.sets(st.integers(0, len(lengths) - 1), max_size=2))
    memory = Memory(capacity)
    play(memory, lengths, cut)
    folder = tmp_path_factory.mktemp("ring")
    memory.save(folder, 0)
    check(list(DQNReplay(str(folder)).episodes()), memory, lengths, cut)


def test_a_run_of_several_checkpoints(tmp_path):
    folder = tmp_path / "Pong" / "1" / "replay_logs"
    memories = {}
    for number, lengths in {0: [5, 4], 2: [20, 7, 6, 9, 3], 10: [3, 3, 3, 8]}.items():
        memories[number] = (memory := Memory(30)), lengths
        play(memory, lengths)
        memory.save(folder, number)
    for path in (folder, folder.parent):
        reader = DQNReplay(str(path))
        assert DQNReplay.recognises(str(path))
        found = list(reader.episodes())
        for number, (memory, lengths) in memories.items():
            check([one for one in found if one.episode.group == number], memory, lengths)
        assert [one.where for one in list(reader.episodes(3))] == [one.where for one in found[3:]]
        assert list(dict.fromkeys(one.episode.group for one in found)) == [0, 2, 10]
    assert found[0].where == f"{folder}, checkpoint 0, episode 0"
    description = reader.describe()
    assert description.spec.name == "atari/Pong" and description.spec.stacks == "black"
    assert description.spec.observation.shape == (HEIGHT, WIDTH, 4) and description.stored[0] == (HEIGHT, WIDTH)
    assert description.spec.actions == Discrete(3) and "3 actions, because 2 is the largest" in description.notes[0]
    assert description.rewards == "clipped to -1 .. 1"
    assert DQNReplay(str(folder), environment="atari/Breakout", actions=18).describe().spec.actions == Discrete(18)
    assert reader.count() == 15 + 30 + 29
    assert not DQNReplay.recognises(str(tmp_path)) and not DQNReplay.recognises(str(tmp_path / "nothing"))


def test_the_last_row_of_a_published_file_is_its_oldest(tmp_path):
    """The memory was saved one row before it was full, so that row is of the lap before, or was never written."""
    memory = Memory(20)
    play(memory, [6, 13])
    assert memory.added == 25
    memory = Memory(12)
    play(memory, [8, 9])  # 3 + 8 rows, so that one is missing; then 3 + 9, so that the row 11 is of the lap before
    first = Memory(12)
    play(first, [8])
    assert first.added % 12 == memory.added % 12 == 11
    first.save(tmp_path, 0)
    memory.save(tmp_path, 1)
    check(list(DQNReplay(str(tmp_path)).episodes())[:1], first, [8])
    check(list(DQNReplay(str(tmp_path)).episodes())[1:], memory, [8, 9])


def test_black_frames_in_a_game_are_no_pads(tmp_path):
    """Two of them within an episode, and any with another action or a reward, are steps."""
    memory = Memory(40)
    black = np.zeros((HEIGHT, WIDTH), np.uint8)
    for step in range(9):
        dark = step in (0, 3, 4, 6, 7)
        memory.add(black if dark else frame(0, step), 1 if step in (0, 7) else 0, 0, step == 8, (0, step))
    memory.save(tmp_path, 0)
    (found,) = DQNReplay(str(tmp_path)).episodes()
    assert len(found.episode.reward) == 9 and not found.episode.obs[0].any()


def test_a_header_that_python_2_wrote(tmp_path):
    memory = Memory(16)
    play(memory, [6])
    memory.save(tmp_path, 0)
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({memory.capacity}L,), }}".encode()
    header = header.ljust(128 - 10 - 1) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + memory.action.tobytes()
    (tmp_path / "$store$_action_ckpt.0.gz").write_bytes(gzip.compress(content))
    check(list(DQNReplay(str(tmp_path)).episodes()), memory, [6])


def test_frames_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    """What is asked of the file at once does not grow with it."""
    memory = Memory(5000)
    play(memory, [9] * 300)
    memory.save(tmp_path, 0)
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda self, size=-1: asked.append((self.name, size)) or read(self, size)
    )
    assert len(list(DQNReplay(str(tmp_path)).episodes())) == 300
    of_frames = [size for name, size in asked if "observation" in name]
    assert min(of_frames) > 0 and max(of_frames) <= 2**20


# RL Unplugged


def bitwise_crc32c(data):
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_the_checksum_is_the_published_one():
    """The examples of RFC 3720, B.4, and lengths around those at which the computation changes."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    data = np.random.default_rng(0).bytes(3000)
    for length in (0, 1, 3, 4, 5, 511, 512, 513, 1024, 1025, 2048, 2999):
        assert crc32c(data[:length]) == bitwise_crc32c(data[:length])


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values, packed=True):
    if isinstance(values[0], bytes):
        return message(1, b"".join(message(1, value) for value in values))
    if isinstance(values[0], float):
        if packed:
            return message(2, message(1, struct.pack(f"<{len(values)}f", *values)))
        return message(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", value) for value in values))
    if packed:
        return message(3, message(1, b"".join(varint(value % 2**64) for value in values)))
    return message(3, b"".join(varint(1 << 3) + varint(value % 2**64) for value in values))


def tf_example(features, packed=True):
    entries = (message(1, name.encode()) + message(2, feature(values, packed)) for name, values in features.items())
    return message(1, b"".join(message(1, entry) for entry in entries))


def record(data):
    def masked(part):
        crc = bitwise_crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def png(pixels, declared=None):
    """A grey PNG of eight bits, by the specification of the format. Its header may declare another width and height."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    width, height = declared or pixels.shape[::-1]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def picture(episode, step):
    return (np.arange(84 * 84).reshape(84, 84) * (episode + 1) + step).astype(np.uint8)


def recorded(episode, rows, terminal, group=7):
    """The features of an episode: the discount of a row came with its observation."""
    rewards = [float(10 * step) for step in range(rows - 1)] + [0.0]
    return {
        "checkpoint_idx": [group],
        "episode_idx": [episode],
        "episode_return": [sum(rewards)],
        "clipped_episode_return": [3.0],
        "observations": [png(picture(episode, step)) for step in range(rows)],
        "actions": [(episode + step) % 5 for step in range(rows)],
        "unclipped_rewards": rewards,
        "clipped_rewards": [min(reward, 1.0) for reward in rewards],
        "discounts": [1.0] * (rows - 1) + [0.0 if terminal else 1.0],
    }


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_the_ordered_episodes(tmp_path, pack, packed):
    folder = tmp_path / "Asterix"
    folder.mkdir()
    shapes = [(0, 4, True), (1, 3, False), (2, 1, True), (3, 2, True)]  # the third has no step
    for checkpoint in (0, 1):
        content = b"".join(record(tf_example(recorded(*shape, checkpoint), packed)) for shape in shapes)
        (folder / f"run_3-{checkpoint:05d}-of-00050").write_bytes(pack(content))
    reader = RLUnplugged(str(folder))
    assert RLUnplugged.recognises(str(folder)) and not RLUnplugged.recognises(str(tmp_path))
    found = list(reader.episodes())
    kept = [(number, rows, terminal, group) for group in (0, 1) for number, rows, terminal in shapes if rows > 1]
    assert len(found) == len(kept)
    for one, (number, rows, terminal, group) in zip(found, kept, strict=True):
        episode = one.episode
        np.testing.assert_array_equal(episode.obs, [picture(number, step) for step in range(rows)])
        np.testing.assert_array_equal(episode.action, [(number + step) % 5 for step in range(rows - 1)])
        np.testing.assert_array_equal(episode.reward, [10 * step for step in range(rows - 1)])
        assert episode.end is (End.TERMINATED if terminal else End.TRUNCATED) and episode.group == group
        assert one.where == f"{folder}/run_3-{group:05d}-of-00050, episode {number}"
    assert [one.where for one in reader.episodes(2)] == [one.where for one in found[2:]]
    description = reader.describe()
    assert description.spec.name == "atari/Asterix" and description.spec.observation.shape == (84, 84, 4)
    assert description.rewards == "raw" and description.spec.actions == Discrete(4)
    assert RLUnplugged(str(folder / "run_3-00001-of-00050"), actions=9).describe().spec.actions == Discrete(9)
    with StoreWriter(tmp_path / "out", description) as writer:
        for one in found:
            writer.add(one.episode, one.where)
        store = writer.finish()
    np.testing.assert_array_equal(store.episode(1).obs, found[1].episode.obs)
    assert store.manifest.groups == 2


def test_one_run_of_several_is_chosen(tmp_path):
    for run in (1, 2):
        content = record(tf_example(recorded(run, 3, True)))
        (tmp_path / f"run_{run}-00000-of-00050").write_bytes(content)
    with pytest.raises(SharedqError, match="holds the runs 1, 2: choose one with run"):
        RLUnplugged(str(tmp_path)).describe()
    (found,) = RLUnplugged(str(tmp_path), run=2, environment="atari/Pong").episodes()
    np.testing.assert_array_equal(found.episode.obs[0], picture(2, 0))
    with pytest.raises(SharedqError, match="holds no file run_3-CCCCC"):
        RLUnplugged(str(tmp_path), run=3).describe()


def test_pngs_of_pillow_read_as_well(tmp_path):
    from PIL import Image

    content = recorded(0, 3, True)
    for step in range(3):
        Image.fromarray(picture(0, step)).save(file := io.BytesIO(), "png")
        content["observations"][step] = file.getvalue()
    (tmp_path / "run_1-00000-of-00050").write_bytes(record(tf_example(content)))
    (found,) = RLUnplugged(str(tmp_path)).episodes()
    np.testing.assert_array_equal(found.episode.obs, [picture(0, step) for step in range(3)])
