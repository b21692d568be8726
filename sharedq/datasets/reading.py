"""What readers share: an error while reading names its place, and arrays are checked before they become episodes."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sharedq.errors import SharedqError, reason

DAMAGED = "the file is damaged or incomplete: get it or make it again"


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turns what goes wrong while a damaged file is read into one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise SharedqError(f"cannot read {what} ({reason(error)}): {DAMAGED}") from None


def check_lengths(lengths: dict[str, tuple[int, int]], where: str) -> None:
    """Raises if an array has not the length that it should have: of each name, what was found and what was wanted."""
    for name, (found, wanted) in lengths.items():
        if found != wanted:
            raise SharedqError(
                f"{where} has {found:,} {name}, and should have {wanted:,}: its arrays do not belong together"
            )


def flags(values: np.ndarray, name: str, where: str) -> np.ndarray:
    """End flags [T] as booleans."""
    values = values.reshape(-1)
    if not ((values == 0) | (values == 1)).all():
        step = int(np.argmax((values != 0) & (values != 1)))
        raise SharedqError(f"{where}, step {step}: {name} is {values[step]}, and not true or false")
    return values.astype(bool)


def as_rewards(own: np.ndarray) -> np.ndarray:
    """Rewards [T] or [T, 1] as the store keeps them."""
    with np.errstate(over="ignore"):  # the rules find what is infinite
        return own.reshape(-1).astype(np.float32)
