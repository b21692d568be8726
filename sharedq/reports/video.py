"""Pictures in a row as a film: MP4 where the program ffmpeg is at hand, else GIF."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sharedq.errors import SharedqError, missing_extra

SMALLEST_SIDE = 320  # smaller pictures are enlarged by whole factors, so that their pixels stay square


def write(path: Path, pictures: Sequence[np.ndarray], rate: int) -> Path:
    """A film of uint8 pictures [H, W, 3] of equal size, `rate` of them a second, at `path`.

    Without ffmpeg an MP4 that was asked for becomes a GIF beside it, whose path is returned.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise SharedqError(f"{path} is neither .mp4 nor .gif: give --out one of these endings")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        path = path.with_suffix(".gif")
    factor = max(1, -(-SMALLEST_SIDE // min(pictures[0].shape[:2])))
    enlarged = [picture.repeat(factor, axis=0).repeat(factor, axis=1) for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    (_mp4 if path.suffix == ".mp4" else _gif)(path, enlarged, rate)
    return path


def _mp4(path: Path, pictures: Sequence[np.ndarray], rate: int) -> None:
    height, width = (side - side % 2 for side in pictures[0].shape[:2])  # the format wants even sides
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    command = ["ffmpeg", "-y", "-loglevel", "error", *raw, "-pix_fmt", "yuv420p", str(path)]
    frames = b"".join(np.ascontiguousarray(picture[:height, :width]).tobytes() for picture in pictures)
    done = subprocess.run(command, input=frames, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise SharedqError(f"ffmpeg could not write {path} ({''.join(last)}): choose --out with the ending .gif")


def _gif(path: Path, pictures: Sequence[np.ndarray], rate: int) -> None:
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("pillow", "report", "a GIF") from None
    first, *rest = (Image.fromarray(picture) for picture in pictures)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)
