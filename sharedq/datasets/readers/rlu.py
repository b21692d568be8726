"""RL Unplugged Atari, the ordered episodes: files run_R-CCCCC-of-00050 of run R of a game, in the folder of the game.

A file is a TFRecord file, mostly in gzip, of a checkpoint C; a record is an episode. Its features:

    checkpoint_idx, episode_idx     the group, and the number within it
    observations                    one PNG 84 x 84 in grey for each row
    actions, unclipped_rewards      one for each row
    discounts                       one for each row
    clipped_rewards, ...            not read

There are as many observations as actions. The published loader (tensorflow_datasets, rl_unplugged/atari_utils.py) says
how they belong together: if the last discount is 0, "in the last step only the observation has valid information (the
terminal state)", and it moves discounts, not rewards, one row ahead. So an action and its reward stand beside the
observation before them, the discount stands beside the observation after them, and the last row gives the last step its
successor. A file that contradicts this is refused: a reward in the row of a terminal state, or a discount of 0 before.
An episode whose last discount is not 0 was cut by a time limit or the recording; its last row, too, lends only its
observation.
"""

import gzip
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import jax
import numpy as np

from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found
from sharedq.datasets.readers.tfrecord import Feature, example, is_head, records
from sharedq.datasets.reading import check_lengths, check_size, readable, refuse_link
from sharedq.datasets.spaces import find_actions, in_our_form
from sharedq.environments.spec import EnvironmentSpec
from sharedq.errors import SharedqError, missing_extra, reason
from sharedq.reports.human_scores import human_scale

NAME = re.compile(r"run_(\d+)-(\d{5})-of-\d{5}")
SIDE = 84  # pixels
STACK = 4
SEEN = 100_000  # steps that are looked at for actions: the agent begins with random ones, so all occur early


class Rows(NamedTuple):
    """A record."""

    pngs: list[bytes]
    action: np.ndarray
    reward: np.ndarray
    end: End
    group: int


@dataclass(frozen=True)
class RLUnplugged:
    """The files of one run of a game."""

    path: str  # the folder of a game, or one of its files
    run: int | None = None  # which run, if the folder holds several
    environment: str | None = None  # the environment's name; only the folders of Atari data tell it by themselves
    actions: int | None = None  # how many discrete actions there are; none counts up to the largest that is found

    @staticmethod
    def recognises(path: str) -> bool:
        try:
            return bool(_named(path))
        except OSError:
            return False

    def describe(self) -> Description:
        files, largest, steps = self._files(), 0, 0
        for _, rows in (one for file in files for one in self._rows(file)):
            largest, steps = max(largest, int(rows.action.max(initial=0))), steps + len(rows.action)
            if self.actions is not None or steps >= SEEN:
                break
        found = find_actions(self.path, [np.array([largest])], self.actions, None)
        folder = files[0].absolute().parent.name
        named = f"atari/{folder}" if re.fullmatch(r"[A-Z][A-Za-z]+", folder) else "unknown"
        name = self.environment or named
        return Description(
            source=self.path,
            reader="rlu",
            spec=EnvironmentSpec(
                name=name,
                observation=jax.ShapeDtypeStruct((SIDE, SIDE, STACK), np.uint8),
                actions=found.actions,
                stacks="black",
            ),
            stack=STACK,
            rewards="raw",
            action_repeat=4,
            sticky_actions=0.25,
            reference_scores=human_scale({"kind": "atari", "game": name.removeprefix("atari/")}),
            behaviour="DQN while it learned; a group is a checkpoint",
            notes=found.notes,
        )

    def files(self) -> list[Path]:
        return self._files()

    def count(self) -> None:
        """Not known before the files are read."""

    def episodes(self, start: int = 0) -> Iterator[Found]:
        actions = self.describe().spec.actions
        number = 0
        files = self._files()
        for place, (where, rows) in ((place, one) for place, file in enumerate(files, 1) for one in self._rows(file)):
            if not len(rows.action):
                continue
            number += 1
            if number > start:
                obs = np.stack([_pixels(png, f"{where}, step {step}") for step, png in enumerate(rows.pngs)])
                action = in_our_form(actions, rows.action, where)
                yield Found(Episode(obs, action, rows.reward, rows.end, rows.group), where, place)

    def _rows(self, path: Path) -> Iterator[tuple[str, Rows]]:
        """The records of a file, each with its place."""
        with readable(str(path)), path.open("rb") as raw:
            plain = is_head(raw.read(12))
            raw.seek(0)
            file: BinaryIO = raw if plain else gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]
            for number, data in enumerate(records(file, str(path))):
                where = f"{path}, episode {number}"
                yield where, _row(example(data, where), where)

    def _files(self) -> list[Path]:
        with readable(self.path):
            Path(self.path).stat()  # says if it is not there
            named = _named(self.path)
        runs = sorted({run for run, _, _ in named})
        if self.run is None and len(runs) > 1:
            raise SharedqError(f"{self.path} holds the runs {', '.join(map(str, runs))}: choose one with run")
        found = [path for run, _, path in sorted(named) if self.run in (None, run)]
        if not found:
            wanted = f"run_{'R' if self.run is None else self.run}-CCCCC-of-00050"
            raise SharedqError(f"{self.path} holds no file {wanted}: name the folder of one game")
        for path in found:
            refuse_link(path if path != Path(self.path) else path.resolve())  # whoever named it meant what it leads to
        return found


def _named(path: str) -> list[tuple[int, int, Path]]:
    """The run, the checkpoint and the path of each file."""
    paths = Path(path).iterdir() if Path(path).is_dir() else [Path(path)]
    found = ((NAME.fullmatch(one.name), one) for one in paths)
    return [(int(match[1]), int(match[2]), one) for match, one in found if match]


def _row(features: dict[str, Feature], where: str) -> Rows:
    pngs = features.get("observations")
    if not isinstance(pngs, list):
        raise SharedqError(f"{where} has no observations: it is not of the ordered episodes of RL Unplugged Atari")
    action = _numbers(features, "actions", "i", where)
    reward = _numbers(features, "unclipped_rewards", "f", where)
    discount = _numbers(features, "discounts", "f", where)
    group = _numbers(features, "checkpoint_idx", "i", where)
    check_size(len(pngs), (SIDE, SIDE), np.uint8, where)
    if not pngs:
        raise SharedqError(f"{where} has no observations: get the file again")
    arrays = {"actions": action, "unclipped_rewards": reward, "discounts": discount}
    check_lengths({name: (len(array), len(pngs)) for name, array in arrays.items()}, where)
    if len(group) != 1 or not 0 <= group[0] < 2**31:
        raise SharedqError(f"{where} has the checkpoint_idx {group.tolist()}, and should have one number")
    early = np.nonzero(~(discount[1:-1] > 0))[0]
    if early.size:
        wrong = discount[1:-1][early[0]]
        raise SharedqError(f"{where}, step {early[0]}: the discount is {wrong}, an end flag in the middle")
    if not discount[-1] >= 0:
        raise SharedqError(f"{where}, step {len(discount) - 1}: the discount is {discount[-1]}")
    ends = discount[-1] == 0
    if ends and len(reward) > 1 and reward[-1] != 0:
        raise SharedqError(
            f"{where}, step {len(reward) - 1}: the row of a terminal state has the reward {reward[-1]}, so its rewards "
            "are not where this reader expects them"
        )
    return Rows(pngs, action[:-1], reward[:-1], End.TERMINATED if ends else End.TRUNCATED, int(group[0]))


def _numbers(features: dict[str, Feature], name: str, kind: str, where: str) -> np.ndarray:
    found = features.get(name)
    if not isinstance(found, np.ndarray) or found.dtype.kind != kind:
        lacks = "no" if found is None else "another kind of"
        raise SharedqError(f"{where} has {lacks} {name}: it is not of the ordered episodes of RL Unplugged Atari")
    return found


def _pixels(png: bytes, where: str) -> np.ndarray:
    """The frame of a PNG."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing_extra("pillow", "data", "Reading PNGs") from error
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.size != (SIDE, SIDE) or image.mode != "L":  # known before any pixel is unpacked
                raise ValueError(f"it has {image.size[0]} x {image.size[1]} pixels of the mode {image.mode}")
            return np.array(image)
    except Exception as error:  # Pillow raises errors of many kinds
        raise SharedqError(f"{where}: the observation is no grey PNG of 84 x 84 ({reason(error)})") from None
