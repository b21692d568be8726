"""The replay of a training run as a source of data: what the last checkpoint holds of it, in the order of time.

The steps of each environment lie in the ring of the replay (see `replay/transitions.py` and `replay/frame_stacks.py`).
Those that the replay would draw from become episodes. One that is cut at the edge of the ring begins in its middle.
The newest one of each environment is cut where the training stood.

Shape letters: S seeds, N environments of a seed, R rows of the ring for each environment.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sharedq.collecting import depth_of, known_of
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found
from sharedq.datasets.store import decode
from sharedq.environments.spec import EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.replay import FrameStacks, Transitions
from sharedq.runs import RunDirectory, checkpoints
from sharedq.settings import require
from sharedq.trainer import spec_of

RING = "replay/storage/ring/"  # what the names of the ring's arrays begin with in a checkpoint


class Piece(NamedTuple):
    """An episode, or a part of one, in the ring of one environment of one seed."""

    seed: int  # its place among the seeds
    environment: int
    begin: int  # when its first step was written
    stop: int  # when the step after its last one was written
    end: End


class Kept(NamedTuple):
    """What is known of the replay of a run."""

    experiment: Experiment
    spec: EnvironmentSpec
    step: int  # environment steps when it was kept
    oldest: int  # when the oldest step was written, counted for each environment
    written: int  # the steps that each environment has written
    rows: int  # R
    arrays: dict[str, np.ndarray]  # [S, R * N, ...] of the ring, and what else the replay holds

    def places(self, begin: int, stop: int, environment: int) -> np.ndarray:
        """The places in the ring of consecutive steps of an environment."""
        return (np.arange(begin, stop) % self.rows) * self.experiment.training.environments + environment

    @property
    def frames(self) -> bool:
        """Whether the ring holds single frames of stacks."""
        return "frame" in self.arrays


@dataclass(frozen=True)
class KeptReplay:
    """The replay of a training run, from its last checkpoint."""

    path: str  # the folder of the run
    seed: int | None = None  # the trained seed whose replay is read; none reads those of all, each as a group

    @staticmethod
    def recognises(path: str) -> bool:
        return (Path(path) / "experiment.json").is_file()

    @cached_property
    def _kept(self) -> Kept:
        directory = RunDirectory.open(self.path)
        experiment = Experiment.described(directory.experiment())
        replay, training = experiment.replay, experiment.training
        if type(replay) not in (Transitions, FrameStacks):
            raise SharedqError(
                f"{self.path} has the replay '{experiment.kind('replay')}', from which no data can be read: only "
                "transitions and frame_stacks keep steps in an order that is known"
            )
        require(
            self.seed is None or self.seed in experiment.all_seeds,
            f"{self.path} has no seed {self.seed}: choose from {', '.join(map(str, experiment.all_seeds))}",
        )
        checkpoint = directory.checkpoint("last")
        checkpoints.read_meta(checkpoint, directory.digests(), oldest=directory.oldest_checkpoint())
        if not checkpoints.holds(checkpoint, "rest"):
            raise SharedqError(
                f"{self.path} did not keep its replay at its end: train with --training.keep_replay true, or collect "
                f"new data with 'sharedq data collect OUT --from {shlex.quote(str(self.path))} --steps N'"
            )
        spec = spec_of(directory) or experiment.trusted(False).build().spec
        step = int(checkpoint.name)
        written, capacity = step // training.environments, replay.rows(training.environments)
        found = checkpoints.load_arrays(checkpoint, "rest")
        frames = isinstance(replay, FrameStacks)
        arrays = {name.removeprefix(RING): x for name, x in found.items() if name.startswith(RING)}
        if frames:
            arrays |= {name: found[f"replay/storage/{name}"] for name in ("final_frames", "truncated_so_far")}
        rows = capacity + (spec.observation.shape[-1] if frames else 0)
        wanted = (experiment.seeds, rows * training.environments)
        if "reward" not in arrays or arrays["reward"].shape != wanted:
            raise SharedqError(f"the replay in {checkpoint} is not the one that {self.path} describes: train again")
        return Kept(experiment, spec, step, written - min(written, capacity), written, rows, arrays)

    @cached_property
    def _pieces(self) -> list[Piece]:
        kept, found = self._kept, list[Piece]()
        for place, seed in enumerate(kept.experiment.all_seeds):
            if self.seed in (None, seed):
                for environment in range(kept.experiment.training.environments):
                    found += _pieces_of(kept, place, environment)
        return found

    def describe(self) -> Description:
        kept = self._kept
        bound = kept.experiment.training.reward_bound
        return Description(
            source=f"run:{self.path}" + (f" --seed {self.seed}" if self.seed is not None else ""),
            reader="run",
            rewards="raw" if bound is None else f"clipped to {-bound:g} .. {bound:g}",
            behaviour=f"the agent of {Path(self.path).name} while it was trained, up to step {kept.step:,}",
            notes=tuple(self._notes()),
            **known_of(kept.experiment, kept.spec),
        )

    def _notes(self) -> Iterator[str]:
        kept = self._kept
        if kept.oldest:
            yield "the replay was full: the first episode of each environment begins in its middle where it was cut"
        depth = depth_of(kept.spec)
        if depth and (count := sum(_begins_in_the_middle(kept, piece) for piece in self._pieces)):
            yield (
                f"{count:,} episodes begin in the middle of a game: in their first stacks, black stands in place of "
                "earlier frames"
            )

    def files(self) -> list[Path]:
        """That of the checkpoint's checksums."""
        return [RunDirectory.open(self.path).checkpoint("last") / "checkpoint.json"]

    def count(self) -> int:
        return sum(piece.stop - piece.begin for piece in self._pieces)

    def episodes(self, start: int = 0) -> Iterator[Found]:
        kept = self._kept
        for piece in self._pieces[start:]:
            seed = kept.experiment.all_seeds[piece.seed]
            where = f"{self.path}, seed {seed}, environment {piece.environment}, step {piece.begin}"
            yield Found(_episode(kept, piece), where)


def _pieces_of(kept: Kept, seed: int, environment: int) -> Iterator[Piece]:
    places = kept.places(kept.oldest, kept.written, environment)
    terminated, truncated = (kept.arrays[name][seed][places] for name in ("terminated", "truncated"))
    begin = kept.oldest
    for last in (np.nonzero(terminated | truncated)[0] + kept.oldest).tolist():
        end, stop = (End.TERMINATED if terminated[last - kept.oldest] else End.TRUNCATED), last + 1
        if end == End.TRUNCATED and kept.frames and _final_frame(kept, seed, places[last - kept.oldest]) is None:
            stop -= 1  # the observation after its last step is lost
        if stop > begin:
            yield Piece(seed, environment, begin, stop, end)
        begin = last + 1
    if begin < kept.written:
        yield Piece(seed, environment, begin, kept.written, End.TRUNCATED)


def _begins_in_the_middle(kept: Kept, piece: Piece) -> bool:
    """Whether an episode of stacks begins with frames that are not its own."""
    (place,) = kept.places(piece.begin, piece.begin + 1, piece.environment)
    if kept.frames:
        return not kept.arrays["begins"][piece.seed, place]
    return bool(kept.arrays["obs"][piece.seed, place][..., :-1].any())


def _episode(kept: Kept, piece: Piece) -> Episode:
    ring = {name: array[piece.seed] for name, array in kept.arrays.items()}
    places = kept.places(piece.begin, piece.stop, piece.environment)
    obs = _frames(kept, piece, ring, places) if kept.frames else _observations(kept, ring, places)
    return Episode(obs, ring["action"][places], ring["reward"][places], piece.end, piece.seed)


def _observations(kept: Kept, ring: dict[str, np.ndarray], places: np.ndarray) -> np.ndarray:
    rows = np.concatenate([ring["obs"][places], ring["next_obs"][places[-1:]]])
    form = kept.spec.observation
    obs = decode(rows, form.shape, form.dtype)
    return obs if depth_of(kept.spec) is None else obs[..., -1]


def _frames(kept: Kept, piece: Piece, ring: dict[str, np.ndarray], places: np.ndarray) -> np.ndarray:
    last, (following,) = places[-1], kept.places(piece.stop, piece.stop + 1, piece.environment)
    after: Any = ring["frame"][following]  # the next step's, which of the newest step stands there too
    if ring["terminated"][last]:
        after = ring["frame"][last]
    elif ring["truncated"][last]:
        after = _final_frame(kept, piece.seed, last)
    return np.concatenate([ring["frame"][places], after[None]])


def _final_frame(kept: Kept, seed: int, place: Any) -> np.ndarray | None:
    """The frame after a truncated step; None if those of later ones have taken its place."""
    finals, number = kept.arrays["final_frames"][seed], int(kept.arrays["truncated_before"][seed, place])
    lost = int(kept.arrays["truncated_so_far"][seed]) - number > len(finals)
    return None if lost else finals[number % len(finals)]
