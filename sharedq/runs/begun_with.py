"""With what a run is begun: the time, the machine and the versions, and the commit of sharedq if it is known."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from sharedq.runs.checkpoints import SCHEMA as CHECKPOINT_FORMAT

PACKAGES = ("sharedq", "jax", "jaxlib", "flax", "optax", "numpy")
WORLDS = ("pgx", "gymnasium", "ale-py", "opencv-python-headless", "box2d", "dm-control", "mujoco")  # those installed
ROOT = Path(__file__).parents[2]  # of a checkout


def versions(packages: Iterable[str] = ()) -> dict:
    """When and with what the run was begun; nothing that names a person or a machine.

    `packages` are those that bring parts of the experiment.
    """

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree
            return None

    known = {"commit": commit(), "cpu": cpu()}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: text for name, text in known.items() if text},
        "cpu_count": os.cpu_count(),
        "checkpoint_format": CHECKPOINT_FORMAT,
        **{package: version(package) for package in PACKAGES},
        **{package: found for package in (*WORLDS, *packages) if (found := version(package))},
    }


@cache
def commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout that this code is run from, with `-dirty` if it was changed, or that pip installed."""
    if (root / "pyproject.toml").is_file() and (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        here = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}  # another repository's
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, env=here)
            return done.stdout.strip()
        return None
    with suppress(metadata.PackageNotFoundError, ValueError, AttributeError):
        text = metadata.distribution("sharedq").read_text("direct_url.json")
        return json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return None


@cache
def cpu(listed: Path = Path("/proc/cpuinfo")) -> str | None:
    """The model of the processor."""
    with suppress(OSError, UnicodeDecodeError):
        for line in listed.read_text().splitlines():
            name, _, model = line.partition(":")
            if name.strip() == "model name":
                return model.strip()
    return platform.processor() or None
