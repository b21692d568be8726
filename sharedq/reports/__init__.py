"""Reports: one page, its figures and its numbers, made from run directories alone.

Reads CSV and JSON, never a network; nothing here imports jax. `write(folder)` is all that a caller needs.
"""

from sharedq.reports.load_runs import load
from sharedq.reports.outputs import FILES, check_place
from sharedq.reports.page import write
from sharedq.reports.plan import PLAN, read_plan

__all__ = ["FILES", "PLAN", "check_place", "load", "read_plan", "write"]
