"""What the measures of learning are called on a page, and what each says."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Words(NamedTuple):
    title: str  # of a column and of an axis
    about: str


KNOWN = {
    "gradient_alignment": Words(
        "gradient alignment",
        "Cosine between the gradient of the run’s own targets and that of targets from a frozen copy of the network, "
        "on the same parameters and batch.",
    ),
    "gradient_alignment_target_free": Words(
        "alignment without a target",
        "Cosine between the gradient of targets from the online network itself and that of targets from a frozen copy "
        "of it, on the same parameters and batch: what the alignment would be without any target.",
    ),
    "target_churn": Words(
        "target churn", "How far one gradient step moves the targets of the batch that it was made with, on average."
    ),
    "target_churn_other": Words(
        "churn, other batch", "How far one gradient step moves the targets of another batch of the replay, on average."
    ),
    "rank": Words(
        "effective rank",
        "Number of singular values that make up 99 % of the sum of all, of the last hidden layer’s features.",
    ),
    "dead_units": Words("dead units", "Share of the hidden units that are zero on all of 2,048 states."),
}
LENGTH = 40  # characters of a measure's name in the name of a file


def unit(measure: str) -> str:
    return KNOWN[measure].title if measure in KNOWN else measure.replace("_", " ")


def about(measure: str) -> str:
    """The caption of the measure's figure."""
    words = KNOWN[measure].about if measure in KNOWN else f"{unit(measure)}, as the run measured it."
    return f"{words} Interquartile mean over seeds, with its 95 % bootstrap interval."


def file_names(measures: Iterable[str]) -> dict[str, str]:
    """The name of each measure's figure: small letters, digits and underscores, no two the same."""
    found: dict[str, str] = {}
    for measure in measures:
        name = "measure_" + re.sub("[^a-z0-9_]+", "_", measure.lower())[:LENGTH]
        same = sum(other.rpartition("-")[0] == name or other == name for other in found.values())
        found[measure] = f"{name}-{same + 1}" if same else name
    return found
