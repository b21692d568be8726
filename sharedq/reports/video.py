"""Pictures in a row as a film: MP4 where the program ffmpeg is at hand, else GIF."""

import contextlib
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sharedq.errors import SharedqError, missing_extra

SMALLEST_SIDE = 320  # smaller pictures are enlarged by whole factors, so that their pixels stay square


def write(path: Path, pictures: Iterable[np.ndarray], rate: int) -> Path:
    """A film of uint8 pictures [H, W, 3] of equal size, `rate` of them a second, at `path`.

    Each picture is written as it comes, and the film has its name once it is complete. Without ffmpeg an MP4 that was
    asked for becomes a GIF beside it, whose path is returned.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise SharedqError(f"{path} is neither .mp4 nor .gif: give --out one of these endings")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        path = path.with_suffix(".gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_stem(f".{path.stem}.unfinished")
    try:
        (_mp4 if path.suffix == ".mp4" else _gif)(unfinished, map(_enlarged, pictures), rate)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = max(1, -(-SMALLEST_SIDE // min(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _mp4(path: Path, pictures: Iterator[np.ndarray], rate: int) -> None:
    first = next(pictures)
    height, width = (side - side % 2 for side in first.shape[:2])  # the format wants even sides
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    command = ["ffmpeg", "-y", "-loglevel", "error", *raw, "-pix_fmt", "yuv420p", str(path)]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said) as ffmpeg:
            assert ffmpeg.stdin is not None
            with contextlib.suppress(BrokenPipeError), ffmpeg.stdin as frames:  # it ended early, and said why
                for picture in itertools.chain([first], pictures):
                    frames.write(np.ascontiguousarray(picture[:height, :width]).data)
        if ffmpeg.returncode:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-1:]
            raise SharedqError(f"ffmpeg could not write the film ({''.join(last)}): choose --out with the ending .gif")


def _gif(path: Path, pictures: Iterator[np.ndarray], rate: int) -> None:
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("pillow", "report", "a GIF") from None
    images = map(Image.fromarray, pictures)
    next(images).save(path, save_all=True, append_images=images, duration=round(1000 / rate), loop=0)
