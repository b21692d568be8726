"""Exports trained agents as files that act without JAX; `sharedq.runtime` loads them."""
