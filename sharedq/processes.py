"""Whether a process is still there: what it left half made may be removed once it is not."""

import os


def lives(number: int) -> bool:
    """Whether there is a process of this number, whoever it belongs to."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
