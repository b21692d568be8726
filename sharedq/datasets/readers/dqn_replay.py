"""The DQN Replay Dataset: the replay memory of a DQN agent on an Atari game, saved each time that it was full.

A folder holds one run, Pong/1/replay_logs, and for each checkpoint N, which is the group of its episodes, the files

    $store$_observation_ckpt.N.gz    [capacity, 84, 84] uint8, one frame of each step
    $store$_action_ckpt.N.gz         [capacity] int32
    $store$_reward_ckpt.N.gz         [capacity] float32, clipped to -1 .. 1
    $store$_terminal_ckpt.N.gz       [capacity] uint8
    add_count_ckpt.N.gz              how many rows were ever written
    invalid_range_ckpt.N.gz          the rows around the place that is written next

each of them what numpy.save wrote, in gzip. What Dopamine's memory does (circular_replay_buffer.py, and
logged_replay_buffer.py of batch_rl) decides how they are read:

* It is a ring. The row that is written next, add_count mod capacity, is its oldest one, and behind it begins what is
  left of an older episode. The rows are read in the order in which they were written, so that no episode goes over
  this seam. Rows that were never written are not read. The memory is saved one row before it is full: the last row
  of a published file is then its oldest, or was never written. Fewer oldest rows than a stack has frames are left out:
  the agent could not use them either, and the file need not be read twice for them.
* Before an episode begins it writes rows of zeros, one fewer than a stack has frames. They are removed; a terminal
  that they do not follow is refused.
* At a terminal the frame that follows is not saved. No value follows either, and the last frame stands for it.
* A row without a terminal after which no row of its episode follows, at the end of the recording or before rows of
  zeros, has no successor: it is left out, and the episode is truncated at the row before, whose successor it holds.
"""

import gzip
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found
from sharedq.datasets.readers.streams import ArrayStream
from sharedq.datasets.reading import as_rewards, check_size, flags, readable, refuse_link
from sharedq.datasets.spaces import find_actions, in_our_form
from sharedq.environments.spec import Actions, EnvironmentSpec
from sharedq.errors import SharedqError

STACK = 4  # frames in an observation of the agent
PADS = STACK - 1  # rows of zeros before an episode
LONGEST = 108_000  # steps; an episode has 27,000 at most
SMALL = 2**27  # bytes of the actions, rewards or terminals at most: those of a million rows have 4,000,000
FRAME = 2**20  # bytes of a frame at most: those of the data set have 7,056
ROWS = 128  # frames that are read at once
FILES = (
    *(f"$store$_{name}" for name in ("observation", "action", "reward", "terminal")),
    "add_count",
    "invalid_range",
)
OBSERVATIONS = re.compile(r"\$store\$_observation_ckpt\.(\d+)\.gz")


class Ring(NamedTuple):
    """A checkpoint without its frames. Its rows are in the order in which they were written."""

    number: int
    spans: list[tuple[int, int]]  # where these rows are in the file, from .. to
    action: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray


@dataclass(frozen=True)
class DQNReplay:
    """The files of one run."""

    path: str  # the folder of a run, such as Pong/1 or Pong/1/replay_logs
    environment: str | None = None  # the environment's name; only the folders of Atari data tell it by themselves
    actions: int | None = None  # how many discrete actions there are; none counts up to the largest that is found

    @staticmethod
    def recognises(path: str) -> bool:
        try:
            return bool(_numbers(_folder(path)))
        except OSError:
            return False

    def describe(self) -> Description:
        numbers = self._numbers()
        largest = max(int(self._ring(number).action.max(initial=0)) for number in numbers)  # every file but the frames
        found = find_actions(str(_folder(self.path)), [np.array([largest])], self.actions, None)
        with ExitStack() as opened:
            height, width = self._frames(numbers[0], opened).shape[1:]
        return Description(
            source=self.path,
            reader="dqn_replay",
            spec=EnvironmentSpec(
                name=self.environment or self._game(),
                observation=jax.ShapeDtypeStruct((height, width, STACK), np.uint8),
                actions=found.actions,
                stacks="black",
            ),
            stack=STACK,
            rewards="clipped to -1 .. 1",
            action_repeat=4,
            sticky_actions=0.25,
            behaviour="DQN while it learned; a group is a checkpoint",
            notes=(
                *found.notes,
                "the first episode of a checkpoint may begin in the middle, where it was overwritten before: its first "
                "stacks are filled with black frames as if it began there",
                "an episode that the recording cuts is truncated, and loses the step whose successor is not known",
                "the agent was told a terminal, too, where its limit of 27,000 steps cut an episode",
            ),
        )

    def files(self) -> list[Path]:
        return [self._file(name, number) for number in self._numbers() for name in FILES]

    def count(self) -> int:
        """Rows, of which a few are no steps."""
        return sum(len(self._ring(number).action) for number in self._numbers())

    def episodes(self, start: int = 0) -> Iterator[Found]:
        actions = self.describe().spec.actions
        passed = 0
        for place, number in enumerate(self._numbers(), 1):
            where = f"{_folder(self.path)}, checkpoint {number}"
            ring = self._ring(number)
            for episode, (first, frames) in enumerate(self._parts(ring, where)):
                passed += 1
                if passed > start:
                    found = self._found(ring, first, frames, f"{where}, episode {episode}", actions)
                    yield found._replace(files=place * len(FILES))

    def _found(self, ring: Ring, first: int, frames: list[np.ndarray], where: str, actions: Actions) -> Found:
        ends = bool(ring.terminal[first + len(frames) - 1])
        rows = slice(first, first + len(frames) - (not ends))
        reward = as_rewards(ring.reward[rows], where)
        wrong = ~(np.abs(reward) <= 1)
        if wrong.any():
            step = int(np.argmax(wrong))
            raise SharedqError(
                f"{where}, step {step}: the reward {reward[step]} of {self._file('$store$_reward', ring.number).name} "
                "is not within -1 .. 1, to which this data set clips rewards: get it again"
            )
        obs = np.stack([*frames, frames[-1]] if ends else frames)
        end = End.TERMINATED if ends else End.TRUNCATED
        return Found(Episode(obs, in_our_form(actions, ring.action[rows], where), reward, end, ring.number), where)

    def _parts(self, ring: Ring, where: str) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Of each episode that has a whole step its first row and the frames of its rows."""
        may_be_pad = (ring.action == 0) & (ring.reward == 0) & (ring.terminal == 0)
        kept: list[np.ndarray] = []
        pads, zeros, first, episodes, ended = 0, 0, 0, 0, ""
        for row, frame in enumerate(self._in_order(ring)):
            zero = bool(may_be_pad[row]) and not frame.any()
            if zero and not kept and pads < PADS:
                pads, first = pads + 1, row + 1
                continue
            if ended and not kept and pads < PADS:
                raise SharedqError(
                    f"{where}, {ended}: a terminal of {self._file('$store$_terminal', ring.number).name} stands there, "
                    f"and the {PADS} rows of zeros that follow one do not: get it again"
                )
            kept.append(frame)
            check_size(len(kept) + 1, frame.shape, frame.dtype, f"{where}, row {row}")
            zeros = zeros + 1 if zero else 0
            cut = zeros == PADS and len(kept) > PADS  # another episode begins, and this one had no terminal
            if cut:
                del kept[-PADS:]
            if ring.terminal[row] or (cut and len(kept) > 1):
                yield first, kept
                episodes += 1
            if ring.terminal[row] or cut:
                ended = f"episode {episodes - 1}, step {len(kept) - 1}" if ring.terminal[row] else ""
                kept, first, zeros, pads = [], row + 1, 0, PADS if cut else 0
            if len(kept) > LONGEST:
                raise SharedqError(
                    f"{where}, row {row}: no episode ends within {LONGEST:,} steps, so the file "
                    f"{self._file('$store$_terminal', ring.number).name} is not of these data: get it again"
                )
        if len(kept) > 1:
            yield first, kept

    def _in_order(self, ring: Ring) -> Iterator[np.ndarray]:
        """The frames of a checkpoint, in the order in which they were written. The file is read once for each span."""
        for begin, end in ring.spans:
            with ExitStack() as opened:
                stream = self._frames(ring.number, opened)
                stream.skip(begin)
                for at in range(begin, end, ROWS):
                    yield from stream.read(min(ROWS, end - at))
                stream.finish()

    def _frames(self, number: int, opened: ExitStack) -> ArrayStream:
        stream = self._open("$store$_observation", number, opened)
        if len(stream.shape) != 3 or stream.dtype != np.uint8 or not 1 <= math.prod(stream.shape[1:]) <= FRAME:
            raise SharedqError(
                f"{stream.name} holds {stream.dtype}{list(stream.shape)}, and frames uint8 [rows, height, width] are "
                "expected: get it again"
            )
        return stream

    def _ring(self, number: int) -> Ring:
        action, reward, terminal = (self._small(f"$store$_{name}", number) for name in ("action", "reward", "terminal"))
        with ExitStack() as opened:
            capacity = self._frames(number, opened).shape[0]
        for name, array, kinds in (
            ("action", action, "iu"),
            ("reward", reward, "f"),
            ("terminal", terminal, "iub"),
        ):
            if array.shape != (capacity,) or array.dtype.kind not in kinds:
                raise SharedqError(
                    f"{self._file(f'$store$_{name}', number)} holds {array.dtype}{list(array.shape)}, which does not "
                    f"belong to {capacity:,} frames: get it again"
                )
        spans = self._spans(number, capacity)
        rows = np.concatenate([np.arange(*span) for span in spans]) if spans else np.zeros(0, int)
        written = np.isin(np.arange(capacity), rows)
        path = str(self._file("$store$_terminal", number))
        terminal = flags(np.where(written, terminal, 0), "a terminal", path, "row")
        return Ring(number, spans, action[rows], reward[rows], terminal[rows])

    def _spans(self, number: int, capacity: int) -> list[tuple[int, int]]:
        """Where the rows are, in the order in which they were written."""
        path = self._file("add_count", number)
        added = self._small("add_count", number)
        if added.shape or added.dtype.kind not in "iu" or added < 0:
            raise SharedqError(f"{path} should hold one whole number, how many rows were written: get it again")
        cursor = int(added) % capacity if capacity else 0
        around = self._file("invalid_range", number)
        if around.is_file() and cursor not in self._small("invalid_range", number):
            raise SharedqError(
                f"{path} says that row {cursor} is written next, and {around.name} does not have it: these files are "
                "not of one checkpoint"
            )
        if added < capacity:
            return [(0, int(added))] if added else []
        oldest = [(cursor, capacity)] if capacity - cursor >= STACK else []
        return [*oldest, (0, cursor)] if cursor else oldest

    def _small(self, name: str, number: int) -> np.ndarray:
        with ExitStack() as opened:
            return self._open(name, number, opened).whole(SMALL)

    def _open(self, name: str, number: int, opened: ExitStack) -> ArrayStream:
        path = self._file(name, number)
        refuse_link(path.parent if path.parent.name == "replay_logs" != Path(self.path).name else path)
        refuse_link(path)
        with readable(str(path)):
            return ArrayStream(opened.enter_context(gzip.open(path)), str(path))  # type: ignore[arg-type]

    def _file(self, name: str, number: int) -> Path:
        return _folder(self.path) / f"{name}_ckpt.{number}.gz"

    def _numbers(self) -> list[int]:
        folder = _folder(self.path)
        with readable(str(folder)):
            numbers = _numbers(folder)
        if not numbers:
            raise SharedqError(f"{folder} holds no file $store$_observation_ckpt.N.gz: name the folder of one run")
        return numbers

    def _game(self) -> str:
        """The name that the folders' names give: atari/Pong of Pong/1/replay_logs."""
        parts = list(_folder(self.path).absolute().parts)
        if parts[-1] == "replay_logs":
            parts.pop()
        return f"atari/{parts[-2]}" if len(parts) > 2 and parts[-1].isdecimal() else "unknown"


def _folder(path: str) -> Path:
    inner = Path(path) / "replay_logs"
    return inner if inner.is_dir() else Path(path)


def _numbers(folder: Path) -> list[int]:
    found = (OBSERVATIONS.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)
