"""Data sets on disk: one store for all formats, and the batches that an algorithm learns from without an environment."""
