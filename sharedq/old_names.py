"""Names of options and arrays in version 0.1.0 that keep working. No other file has old names."""

import re

OPTIONS = {  # old name of a setting: its new name
    "target.polyak": "target.tau",
    "target.polyak_moves": "target.tau_moves",
    "target.acting": "target.behaviour_head",
    "training.updates_at_once": "training.gradient_steps",
}

REMOVED = {  # setting that is gone: the value with which it changed nothing
    "algorithm.cut_by": "policy",
}

KINDS = {  # old name of a kind, behind its part: its new name
    "replay.uniform": "transitions",
}

ARRAYS = {  # old name of one step in the path of a saved array: its new name
    "held": "target_params",
    "held_statistics": "target_batch_stats",
    "statistics": "batch_stats",
    "actor_statistics": "actor_batch_stats",
    "kept": "trace_mask",
    "seen": "filled",
}


def current_path(path: str) -> str:
    """The path of a saved array, with the new names. What a replay stores has been one step deeper since samplers."""
    path = "/".join(ARRAYS.get(step, step) for step in path.split("/"))
    return re.sub(r"(?:^|(?<=/))(replay|recent)/(?=ring/|final_frames$|truncated_so_far$)", r"\1/storage/", path)
