"""What the numbers say, in sentences: computed from the intervals and the tests, and no more than they carry."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from sharedq import formats
from sharedq.reports.comparisons import LEVEL, MOST_NEEDED, Test
from sharedq.reports.statistics import FEWEST, FEWEST_OF_PAIRS, Improvement, Interval
from sharedq.reports.summary import Overall, Result, Summary, Task

ROUNDING = 0.001  # a layer keeps a whole number of weights, so its sparsity is not exactly the one that was drawn


def findings(summary: Summary) -> list[str]:
    """One sentence per run against the reference; over all environments where there are several."""
    if summary.overall:
        return [
            _overall(row, f"{len(summary.tasks)} {summary.what}", any(map(_is_going_on, summary.tasks)))
            for row in summary.overall
        ]
    several = len(summary.tasks) > 1
    sentences = []
    for task in summary.tasks:
        found = [_first(task)] if summary.comparison.ranked else []
        found += [_sentence(task, result) for result in task.results if result.seeds]
        sentences += [f"{task.title}: {sentence}" if several else sentence for sentence in found if sentence]
    if sentences:
        return sentences
    if any(task.plays for task in summary.tasks):
        return ["No episode has finished yet: there is nothing to compare."]
    return ["No agent was evaluated in an environment: there are no returns to compare."]


def _overall(row: Overall, where: str, going_on: bool) -> str:
    if not math.isfinite(row.relative.value):
        return f"{row.label}: no percentage over {where}, because a reference is not above zero."
    return (
        f"{row.label}: {interval(row.relative, percent)} of the reference’s area under the learning curve over "
        f"{where}{_verdict(row.relative, 1.0, row.test, 'the reference', going_on, ' on each')}."
    )


def _first(task: Task) -> str:
    """Which of ranked runs is the best, and whether the data tell it from the second."""
    placed = [result for result in task.results if math.isfinite(result.area.value)]
    if len(placed) < 2:
        return ""
    best, *others = placed
    words = f"Ranked by the area under the learning curve, {best.label} is the first of {len(task.results)}"
    near = [other.label for other in others if not other.area.high < best.area.low]
    if not near:
        return f"{words}."
    return (
        f"{words}; these data do not separate it from {near[0] if len(near) == 1 else f'{len(near)} others'}, because "
        "the intervals overlap or are missing."
    )


def _sentence(task: Task, result: Result) -> str:
    """Empty for the reference itself."""
    if task.unit == "none":
        return f"{result.label}: mean return over training {interval(result.area, number)}."
    if result.label == task.reference:
        return ""
    if result.relative is None or result.test is None:
        what = "finished episodes" if task.plays else "an evaluation"
        return f"{result.label}: no step yet that both it and {task.reference} have reached with {what}."
    span = "" if result.compared_steps >= task.grid[-1] else f" over the first {result.compared_steps:,} steps"
    level = 1.0 if task.unit == "percent" else 0.0
    verdict = _verdict(result.relative, level, result.test, str(task.reference), _is_going_on(task))
    if task.unit == "percent":
        share = parameter_share(task, result)
        cost = "" if share is None else f" with {percent(share)} of its parameters"
        return (
            f"{result.label}: {interval(result.relative, percent)} of {task.reference}’s area under the learning "
            f"curve{span}{cost}{verdict}{_collapsed(result)}."
        )
    return (
        f"{result.label}: mean return over training {interval(result.relative, signed)} against "
        f"{task.reference}{span}{verdict}{_collapsed(result)}."
    )


def _is_going_on(task: Task) -> bool:
    """Whether a run of the task may still be trained."""
    return any(not result.run.finished and not result.run.diverged for result in task.results)


def _verdict(relative: Interval, level: float, test: Test, reference: str, going_on: bool, where: str = "") -> str:
    """Whether the data separate the two, and if not, how many seeds it would take.

    There is no verdict while runs are going on: who looks at each of many reports finds too many differences.
    """
    if going_on:
        return "; there is no verdict before all runs are finished"
    if test.separated:
        side = "above" if relative.value > level else "below"
        return f"; it is {side} {reference} ({p_value(test.p)})"
    words = f"; not separated with {seeds_of([test])}{where} ({p_value(test.p)})"
    if test.seeds_needed is None:
        return words
    needed = f"more than {MOST_NEEDED}" if test.seeds_needed > MOST_NEEDED else f"about {test.seeds_needed}"
    return f"{words}: a difference of this size would take {needed} seeds per run"


def _collapsed(result: Result) -> str:
    return f"; {collapsed(result)}" if result.collapsed else ""


def collapsed(result: Result) -> str:
    return f"{result.collapsed} of {result.seeds} collapsed"


def seeds_of(tests: list[Test]) -> str:
    """How many seeds the runs of these tests have."""
    fewest, most = min(test.seeds[0] for test in tests), max(test.seeds[1] for test in tests)
    return f"{fewest} seed{'s' * (fewest != 1)}" if fewest == most else f"{fewest} to {most} seeds"


def p_value(p: float) -> str:
    """Three digits of a small one; what is below the level of the tests is not rounded to it."""
    if p < 0.001:
        return "p < 0.001"
    if p < LEVEL <= round(p, 3):
        return f"p < {LEVEL}"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def parameter_share(task: Task, result: Result) -> float | None:
    """Parameters held, in units of what the reference holds."""
    if task.reference is None:
        return None
    held, reference = (one.run.cost.get("parameters", {}).get("held") for one in (result, task.result(task.reference)))
    return held / reference if held and reference else None


def notes(summary: Summary) -> list[str]:
    """What a reader must know before trusting the numbers."""
    comparison = summary.comparison
    lines = damages(summary)
    lines += [f"{label} has not started." for label in comparison.missing]
    lines += [f"{name} is a link, and links are not followed." for name in comparison.links]
    results = [result for task in summary.tasks for result in task.results]
    for name, result in _named(summary):
        if not result.run.finished:
            verb = "" if result.run.diverged else "is "
            lines.append(f"{name} {verb}{result.status}; what it has so far is used.")
        if silent := len(result.run.seeds) - result.seeds:
            verb = "finished no episode" if result.run.plays else "have no evaluation"
            lines.append(f"{name}: {silent} of {len(result.run.seeds)} seeds {verb}; left out.")
        if (bound := _reached_bound(result)) is not None:
            lines.append(
                f"{name} pruned up to its max_sparsity of {bound:g}: that bound stopped it, and not what pruning cost."
            )
    if any(0 < result.seeds < FEWEST for result in results):
        lines.append(
            f"Intervals are not shown where a run or its reference has fewer than {FEWEST} seeds: so few do not tell "
            "how far seeds are apart."
        )
    if any(2 <= result.seeds < 4 for result in results):
        lines.append("With fewer than four seeds nothing is trimmed: the interquartile mean is then the plain mean.")
    lines += _too_few(summary)
    if any(min(map(min, one.improvement.pairs)) < FEWEST_OF_PAIRS for one in results if one.improvement):
        lines.append(
            f"P(better) is shown as a count of pairs of seeds where a run has fewer than {FEWEST_OF_PAIRS} seeds in "
            "one environment: such a count is too small for an interval."
        )
    if summary.what == "tasks":
        lines.append(
            "Runs that learn from other data, or from another share of them, or by playing, are other tasks even in "
            "the same environment: more or better data raise a return whatever the source is, so they are not compared."
        )
    for task in summary.tasks:
        if task.unit == "difference":
            lines.append(
                f"{task.title}: differences instead of percentages. Returns are measured from zero, and the area of "
                f"{task.reference} is not above zero in every resample, so a ratio would mean nothing."
            )
        if task.reference is None and len(task.results) > 1:
            lines.append(f"{task.title}: areas are shown as they are, because {_no_reference(summary)}.")
    return lines


def _reached_bound(result: Result) -> float | None:
    """The bound on the sparsity of a run that sets its sparsity itself, if a seed has come to it."""
    bound = result.run.experiment.get("target", {}).get("max_sparsity")
    sparsity = result.run.metrics.get(formats.SPARSITY, np.empty(0))
    reached = isinstance(bound, float) and bool((sparsity >= bound - ROUNDING).any())
    return bound if reached else None


def _too_few(summary: Summary) -> list[str]:
    """That some tests cannot find anything, whatever the runs do."""
    overall = [row.test for row in summary.overall]
    alone = [one.test for task in summary.tasks for one in task.results if one.test]
    lines = []
    if weak := [test for test in overall if test.smallest >= LEVEL]:
        lines.append(
            f"With {seeds_of(weak)} on each of {len(summary.tasks)} {summary.what} no test can reach {LEVEL}: these "
            "numbers describe the runs, and separate none."
        )
    if weak := [test for test in alone if test.smallest >= LEVEL]:
        lines.append(
            f"With {seeds_of(weak)} no test can reach {LEVEL}"
            + (
                " on one environment alone."
                if len(summary.tasks) > 1
                else ": these numbers describe the runs, and separate none."
            )
        )
    return lines


def damages(summary: Summary) -> list[str]:
    """Which runs are left out and what is not whole of finished ones, so that nobody takes such a run for whole."""
    named = list(_named(summary))
    lines = [*summary.comparison.left_out]
    lines += [f"{name} is not whole: {damage}." for name, one in named for damage in one.run.damages]
    if silent := [name for name, one in named if not one.run.vouched]:
        lines.append(
            f"Nothing vouches for the logs of {', '.join(silent)}: finished.json has no checksums of them, as those of "
            "version 0.1.0 have none."
        )
    return lines


def _named(summary: Summary) -> Iterator[tuple[str, Result]]:
    """Each result, by its label and, where there are several environments, by its environment too."""
    several = len(summary.tasks) > 1
    for task in summary.tasks:
        yield from ((f"{one.label} on {task.title}" if several else one.label, one) for one in task.results)


def _no_reference(summary: Summary) -> str:
    wanted = summary.comparison.reference
    if wanted is not None:
        return f"the reference {wanted} has no return here"
    return "no run is named as the reference, as --reference does, and there is not exactly one with a target network"


def interval(estimate: Interval, show: Callable[[float], str]) -> str:
    """`value [low, high]`; the value alone where there is no interval."""
    if not math.isfinite(estimate.low):
        return show(estimate.value)
    unit = " %" if show is percent else ""
    low, high = (show(bound).removesuffix(" %") for bound in (estimate.low, estimate.high))
    return f"{show(estimate.value).removesuffix(' %')}{unit} [{low}, {high}]"


def improvement(found: Improvement) -> str:
    """The probability with its interval; of few seeds how many pairs were won, because they carry no interval."""
    if math.isfinite(found.share.low):
        return interval(found.share, probability)
    (m, n), *others = found.pairs
    count = f"{sum(m * n for m, n in found.pairs):,}" if others else f"{m} × {n}"
    return f"{found.wins:,g} of {count} pairs"


def probability(value: float) -> str:
    """Two digits; what is neither 0 nor 1 is not rounded to it."""
    if 0 < value < 0.005:
        return "< 0.01"
    return "> 0.99" if 0.995 <= value < 1 else f"{value:.2f}"


def number(value: float) -> str:
    """About three digits; a dash where there is no number."""
    if not np.isfinite(value):
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Three digits, also of what is far below one."""
    return number(value) if abs(value) >= 1 or not np.isfinite(value) else f"{value:.3g}".replace("-", "−")


def signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def percent(fraction: float) -> str:
    return f"{round(100 * fraction)} %".replace("-", "−") if np.isfinite(fraction) else "–"
