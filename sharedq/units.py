"""Numbers in the form that people read."""


def readable(size: float) -> str:
    """Bytes in decimal units, with three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if float(f"{size:.3g}") < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
