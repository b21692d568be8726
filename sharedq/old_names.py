"""The names that options and arrays had in version 0.1.0, which keep working. No other file knows an old name."""

OPTIONS = {  # an old name of a setting, and the new one
    "target.polyak": "target.tau",
    "target.polyak_moves": "target.tau_moves",
    "target.acting": "target.behaviour_head",
    "training.updates_at_once": "training.gradient_steps",
}

REMOVED = {  # a setting that is gone, and the value that it had where it changed nothing
    "algorithm.optimiser": "obgd",
    "algorithm.cut_by": "policy",
}

ARRAYS = {  # one step in the path of a saved array, and what it is called now
    "held": "target_params",
    "held_statistics": "target_batch_stats",
    "statistics": "batch_stats",
    "actor_statistics": "actor_batch_stats",
    "kept": "trace_mask",
    "seen": "filled",
}


def current_path(path: str) -> str:
    """The path of a saved array, by the names of now."""
    return "/".join(ARRAYS.get(step, step) for step in path.split("/"))
