"""The names of all files that a run may have: what has another name in its folder is somebody else's."""

import re
from pathlib import Path

from sharedq.runs.durable import unfinished_name

DESCRIPTIONS = ("experiment.json", "spec.json", "versions.json", "command.txt", "cost.json", "data.json")
EVALUATIONS = "evaluations.csv"  # only of a run that evaluates while it trains
HISTOGRAMS = "histograms.csv"  # only of a run whose sampler has a distribution to show
TABLES = ("metrics.csv", "episodes.csv", EVALUATIONS, HISTOGRAMS)
EVENTS = "tensorboard/seed_{seed}/events.out.tfevents.sharedq"  # TensorBoard knows the file by "tfevents"
ENDS = ("finished.json", "diverged.json")
FOLDERS = ("checkpoints", "tensorboard", "figures")
TABLES_OF_PAGES = ("summary.csv", "seeds.csv", "curves.csv", "measure_curves.csv")
PAGES = ("report.html", "summary.json", *TABLES_OF_PAGES, "episode.mp4", "episode.gif")
EXPORTS = ("agent.onnx", "agent.int8.onnx")
FILES = (*DESCRIPTIONS, *TABLES, *ENDS, "lock", *PAGES, *EXPORTS)

_EVENTS = r"tensorboard(/seed_\d+(/events\.out\.tfevents\.sharedq)?)?"
_CHECKPOINT = r"checkpoint\.json|agent\.safetensors|rest\.safetensors|rest(/\d{6,})?"
_CHECKPOINTS = r"checkpoints(/(\d{12,}|best|\.best|\.unfinished|\.removed)(/(" + _CHECKPOINT + r"))?)?"
_OVERALL = r"overall_(areas|curves|heat_map|profile)"
_ONE_EACH = r"learning_curves|evaluation_returns|areas|memory|return_and_sparsity|speed"
_KIND = _ONE_EACH + "|" + _OVERALL + r"|measure_[a-z0-9_]*(-\d+)?"
_FIGURE = r"(environment_\d+_)?(" + _KIND + r")((-light|-dark)?\.svg|\.png)"
_FIGURES = r"figures(/(" + _FIGURE + r"|\.(" + _FIGURE + r")\.\d+))?"  # also one that a killed process was writing
_UNFINISHED = r"\.(" + "|".join(map(re.escape, FILES)) + r")\.\w+|\.episode\.unfinished\.(mp4|gif)"
_OURS = re.compile("|".join([*map(re.escape, FILES), _EVENTS, _CHECKPOINTS, _FIGURES, _UNFINISHED]))


def paths(root: Path) -> list[tuple[str, bool]]:
    """All that is in a folder, each folder after what is in it: a path in it, and whether that is a folder."""
    found, folders = [], [root]
    while folders:
        for path in folders.pop().iterdir():
            is_folder = path.is_dir() and not path.is_symlink()
            found.append((path.relative_to(root).as_posix(), is_folder))
            folders += [path] * is_folder
    return found[::-1]


def ours(name: str) -> bool:
    """Whether a path in a run is one that a run, its report, its film or its export gives."""
    return _OURS.fullmatch(name) is not None


def is_log(name: str) -> bool:
    """Whether a path in a run is a table or an event file."""
    return name in TABLES or re.fullmatch(EVENTS.format(seed="[0-9]+"), name) is not None


def stranger(root: Path) -> str | None:
    """The first thing in a run's folder that is not the run's: another name, or a link."""
    found = (name for name, _ in paths(root) if not ours(name) or (root / name).is_symlink())
    return min(found, default=None)


def remove(root: Path) -> None:
    """Removes a run's files, and its folder if nothing else is in it."""
    for name, folder in paths(root):
        if ours(name):
            _remove(root / name, folder)
    _remove(root, True)


def _remove(path: Path, folder: bool) -> None:
    if not folder:
        path.unlink(missing_ok=True)
    elif not any(path.iterdir()):
        path.rmdir()


def sweep(root: Path) -> None:
    """Removes files that a killed process was about to write; nobody else may be writing the run."""
    for name in FILES:
        root.joinpath(unfinished_name(name)).unlink(missing_ok=True)
