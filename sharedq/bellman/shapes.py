"""Checks of shapes, made while a function is traced: what does not fit raises an error and is not broadcast."""


def check_equal(what: str, shape: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> None:
    """Raises unless both shapes are the same."""
    if shape != wanted:
        raise ValueError(f"{what} has shape {list(shape)}, and {other} {list(wanted)}: they must be equal")


def check_aligned(what: str, shape: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> None:
    """Raises unless `shape` is the end of `wanted`, but for axes that are 1 on purpose.

    So [B] fits [H, B], and [B, 1] fits [B, n]; but [B] does not fit [B, 1], nor [B, 1] a [B].
    """
    end = wanted[len(wanted) - len(shape) :]
    if len(shape) > len(wanted) or any(one not in (1, size) for one, size in zip(shape, end, strict=True)):
        raise ValueError(f"{what} has shape {list(shape)}, which does not fit {other} of shape {list(wanted)}")
