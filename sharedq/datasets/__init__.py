"""Data sets on disk: one store for all formats, and the batches that algorithms learn from without an environment."""

from sharedq.datasets.data_set import DataSet

DATA = {"dataset": DataSet}  # kinds of `replay` that draw from a data set

__all__ = ["DATA", "DataSet"]
