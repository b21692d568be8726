"""What the measures of learning are called on a page, and what each says."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from sharedq.formats import SPARSITY


class Words(NamedTuple):
    title: str  # of a column and of an axis
    about: str
    counts_at_end: bool = False  # whether a table shows the last value, and not the mean over training


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
    "lookahead_residual": Words(
        "lookahead residual", "Mean square of a value minus its target, which both networks meet where it is zero."
    ),
    "replicate_residual": Words(
        "replicate residual", "Mean square of what a state’s actions are worth to the target minus what they are worth."
    ),
    "dead_units": Words("dead units", "Share of the hidden units that are zero on all of 2,048 states."),
    SPARSITY: Words(
        "sparsity", "Share of the weights of the target’s layers that are pruned: zero, and zero from then on.", True
    ),
    "target/parameters_left": Words("parameters left", "Number of parameters that are not pruned.", True),
    "target/flops_left": Words(
        "operations left",
        "Multiplications and additions of one input’s pass through the network with weights that are not pruned.",
        True,
    ),
    "target/diverged_networks": Words(
        "diverged networks",
        "Number of networks whose values or errors are not finite, which the next refresh replaces.",
    ),
    "sampler/age": Words("age of what is drawn", "Environment steps since a drawn transition was stored, on average."),
    "sampler/last_td_error": Words(
        "last TD error",
        "Absolute TD error by which a drawn transition has its priority, on average; of distributions, the loss.",
    ),
    "sampler/weight": Words(
        "weight in the loss",
        "Weight of a drawn transition in the loss, on average. With priorities the largest of a batch is 1.",
    ),
    "sampler/first_priority": Words(
        "first priorities", "Share of the drawn transitions that have not been learned from since they were stored."
    ),
    "sampler/stale": Words(
        "stale priorities",
        "Share of the drawn transitions that were last learned from longer ago than uniform replay would take, on "
        "average, to draw each stored transition once.",
    ),
    "sampler/reliability": Words("reliability", "Reliability of the drawn transitions, from 0 to 1, on average."),
    "sampler/entropy": Words(
        "entropy of the draws", "Entropy of the probabilities of all stored transitions; 1 is uniform replay."
    ),
    "sampler/effective_size": Words(
        "effective size",
        "The number of equally likely transitions that would repeat as often in a batch, as a share of those stored.",
    ),
    "sampler/surprise": Words("surprise", "Surprise of the drawn states, from 0 to 1, on average."),
}
OF_HISTOGRAMS = {
    "sampler/td_error": Words("TD error", "Absolute TD errors by which all stored transitions have their priorities."),
    "sampler/probability": Words(
        "probability, relative to uniform",
        "Probability of each stored transition to be drawn; 1 is that of uniform replay.",
    ),
    "sampler/reliability": Words("reliability", "Reliability of all stored transitions, from 0 to 1."),
}
CHOSEN = "target/chosen/"  # what the name of a measure begins with that tells how often a network was the target
LENGTH = 40  # characters of a measure's name in the name of a file


def unit(measure: str) -> str:
    return _words(measure).title


def counts_at_end(measure: str) -> bool:
    return _words(measure).counts_at_end


def column(measure: str) -> str:
    """The head of the measure's column in a table."""
    return unit(measure) + ", at the end" * counts_at_end(measure)


def _words(measure: str) -> Words:
    if measure.startswith(CHOSEN):
        number = measure.removeprefix(CHOSEN)
        return Words(
            f"network {number} chosen", f"Share of the updates in which the target is a copy of network {number}."
        )
    title = measure.replace("_", " ")
    return KNOWN.get(measure, Words(title, f"{title}, as the run measured it."))


def about(measure: str) -> str:
    """The caption of the measure's figure."""
    return f"{_words(measure).about} Interquartile mean over seeds, with its 95 % interval."


def of_histogram(name: str) -> Words:
    """The name of a histogram's axis, and the caption of its figure."""
    words = OF_HISTOGRAMS.get(name, Words(unit(name), f"{unit(name)}, of all stored transitions."))
    where = "Share of the transitions of all seeds in each bin, at the last row of the log."
    return words._replace(about=f"{words.about} {where}")


def file_names(measures: Iterable[str]) -> dict[str, str]:
    """The name of each measure's figure: small letters, digits and underscores, no two the same."""
    found: dict[str, str] = {}
    for measure in measures:
        name = "measure_" + re.sub("[^a-z0-9_]+", "_", measure.lower())[:LENGTH]
        same = sum(other.rpartition("-")[0] == name or other == name for other in found.values())
        found[measure] = f"{name}-{same + 1}" if same else name
    return found
