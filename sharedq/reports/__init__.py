"""Reports: one page, its figures and its numbers, made from run directories alone.

Reads CSV and JSON, never a network; nothing here imports jax. `write(folder)` is all that a caller needs.
"""

from sharedq.reports.load_runs import load
from sharedq.reports.page import write

__all__ = ["load", "write"]
