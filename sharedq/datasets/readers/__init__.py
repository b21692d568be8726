"""The formats of other people's data. A reader is one file here and one line of `READERS`."""

READERS: dict[str, type] = {}
