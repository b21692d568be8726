"""Readers of other people's formats. To add one, write a file with a frozen dataclass, and add a line here."""

READERS: dict[str, type] = {}

__all__ = ["READERS"]
