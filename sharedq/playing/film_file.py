"""Writes pictures as a film: an MP4 if the program ffmpeg is installed, else a GIF."""

import contextlib
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sharedq.errors import SharedqError, missing_extra
from sharedq.reports.files import is_there, make_empty

SMALLEST_SIDE = 320  # smaller pictures are enlarged by whole factors, so that their pixels stay square


MARK = b"filmed by sharedq"  # a comment in each film, by which we recognise it
SEARCHED = 2**20  # bytes searched for the comment at each end of a file


def write(path: Path, pictures: Iterable[np.ndarray], rate: int, overwrite: bool = False) -> Path:
    """Writes a film of uint8 pictures [H, W, 3] of equal size to `path`, with `rate` pictures per second.

    Each picture is written as it comes, and the film gets its name when it is complete. Without ffmpeg a GIF is written
    in place of an MP4. The path of the film is returned. A film of sharedq is replaced; any other file is replaced only
    with `overwrite`.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise SharedqError(f"{path} is neither .mp4 nor .gif: give --out one of these endings")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        path = path.with_suffix(".gif")
    _check_place(path, overwrite)
    unfinished = path.with_stem(f".{path.stem}.unfinished")
    make_empty(unfinished)
    try:
        (_mp4 if path.suffix == ".mp4" else _gif)(unfinished, map(_enlarged, pictures), rate)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _check_place(path: Path, overwrite: bool) -> None:
    if path.is_symlink() or (is_there(path) and not path.is_file()):
        raise SharedqError(f"{path} is no ordinary file, and no film is written through a link: choose another --out")
    if is_there(path) and not overwrite and not _is_a_film(path):
        raise SharedqError(
            f"{path} was not filmed by this program, so it is left alone: choose another --out, or add --overwrite"
        )


def _is_a_film(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(SEARCHED)
        file.seek(max(0, path.stat().st_size - SEARCHED))
        return MARK in begin or MARK in file.read()


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = max(1, -(-SMALLEST_SIDE // min(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _mp4(path: Path, pictures: Iterator[np.ndarray], rate: int) -> None:
    first = next(pictures)
    height, width = (side - side % 2 for side in first.shape[:2])  # the format needs even sides
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    path, marked = path.absolute(), ["-metadata", f"comment={MARK.decode()}"]  # a name may look like an option
    command = ["ffmpeg", "-y", "-loglevel", "error", *raw, "-pix_fmt", "yuv420p", *marked, str(path)]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said) as ffmpeg:
            assert ffmpeg.stdin is not None
            with contextlib.suppress(BrokenPipeError), ffmpeg.stdin as frames:  # ffmpeg ended early and printed why
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
    next(images).save(path, save_all=True, append_images=images, duration=round(1000 / rate), loop=0, comment=MARK)
