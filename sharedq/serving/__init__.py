"""Serves an exported agent over HTTP. Nothing here imports JAX, except the game that `--play` opens."""
