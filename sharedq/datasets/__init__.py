"""Data sets on disk: one store for all formats, and the batches that algorithms learn from without an environment."""
