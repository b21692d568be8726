"""Checks of shapes while a function is traced. Shapes that do not fit raise an error instead of being broadcast."""


def check_equal(what: str, shape: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> None:
    """Raises an error unless both shapes are the same."""
    if shape != wanted:
        raise ValueError(f"{what} has shape {list(shape)}, and {other} {list(wanted)}: they must be equal")


def check_aligned(what: str, shape: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> None:
    """Raises an error unless `shape` equals the last axes of `wanted`. Axes of `shape` may also be 1.

    So [B] fits [H, B], and [B, 1] fits [B, n]. But [B] does not fit [B, 1], and [B, 1] does not fit [B].
    """
    end = wanted[len(wanted) - len(shape) :]
    if len(shape) > len(wanted) or any(one not in (1, size) for one, size in zip(shape, end, strict=True)):
        raise ValueError(f"{what} has shape {list(shape)}, which does not fit {other} of shape {list(wanted)}")
