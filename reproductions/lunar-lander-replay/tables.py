"""What the study of samplers on LunarLander says, as a table: python tables.py COMPARISON ...

For each run: the step at which the last 100 episodes of a seed have a mean return of 200 for the first time, the mean
return over training after the warm-up, and the variance of the returns in the second half of training, also as a
multiple of the uniform sampler's. Intervals are 95 %: Student's t over seeds of a mean, and Welch's of the difference
of logarithms for the multiple, whose p-value is in results.csv. Seeds are not paired.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from sharedq.reports.load_runs import Run, load

SOLVED, LAST = 200.0, 100  # the mean return of so many episodes in a row that counts as solved
HEADS = ("sampler", "solved after", "seeds that solve it", "mean return", "of the second half", "its variance", "times")


def solved_at(steps: np.ndarray, returns: np.ndarray) -> float:
    """The step at which the last episodes first have the mean return that counts as solved; nan if they never do."""
    if len(returns) < LAST:
        return np.nan
    means = np.convolve(returns, np.full(LAST, 1 / LAST), "valid")
    found = np.flatnonzero(means >= SOLVED)
    return float(steps[found[0] + LAST - 1]) if len(found) else np.nan


def numbers(run: Run) -> dict[str, np.ndarray]:
    """The numbers [seeds] of a run."""
    found: dict[str, list[float]] = {"solved": [], "area": [], "variance": [], "second_half": []}
    for seed in run.seeds:
        own = run.episodes.seed == seed
        steps, returns = run.episodes.step[own], run.episodes.returns[own]
        late = returns[steps > run.planned / 2]
        found["solved"].append(solved_at(steps, returns))
        grid = np.linspace(run.warm_up, run.planned, 1000)
        found["area"].append(float(np.interp(grid, steps, returns).mean()))
        found["variance"].append(float(late.var(ddof=1)))
        found["second_half"].append(float(late.mean()))
    return {name: np.array(values) for name, values in found.items()}


def mean(x: np.ndarray) -> tuple[float, float, float]:
    """The mean over seeds and its interval."""
    low, high = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    return float(x.mean()), float(low), float(high)


def multiple(x: np.ndarray, reference: np.ndarray) -> tuple[float, float, float, float]:
    """The ratio of the geometric means of two groups of seeds, its interval, and the p-value of no difference."""
    a, b = np.log(x), np.log(reference)
    found = stats.ttest_ind(a, b, equal_var=False)
    low, high = found.confidence_interval(0.95)
    ratio, low, high = (float(np.exp(one)) for one in (a.mean() - b.mean(), low, high))
    return ratio, low, high, float(found.pvalue)


def rows_of(folder: Path) -> list[dict]:
    """A row for each finished run; names the others."""
    runs = load(folder).runs
    for run in runs:
        if not run.finished:
            print(f"{run.label} is not finished", file=sys.stderr)
    found = {run.label.removeprefix("sampler "): numbers(run) for run in runs if run.finished}
    rows = []
    for name, own in found.items():
        solved = own["solved"][np.isfinite(own["solved"])]
        row = {"comparison": folder.name, "sampler": name, "seeds": len(own["solved"]), "solved": len(solved)}
        row["solved_after"] = float(solved.mean()) if len(solved) else ""
        for key in ("area", "second_half", "variance"):
            row[key], row[f"{key}_low"], row[f"{key}_high"] = mean(own[key])
        names = ("times", "times_low", "times_high", "times_p")
        told = multiple(own["variance"], found["uniform"]["variance"]) if name != "uniform" else ("", "", "", "")
        rows.append(row | dict(zip(names, told, strict=True)))
    return rows


def line(row: dict) -> str:
    def interval(name: str, form: str = ",.0f") -> str:
        value, low, high = (row[name + end] for end in ("", "_low", "_high"))
        return "–" if value == "" else f"{value:{form}} [{low:{form}}, {high:{form}}]"

    after = "–" if row["solved_after"] == "" else f"{row['solved_after']:,.0f}"
    cells = (after, f"{row['solved']} of {row['seeds']}", *map(interval, ("area", "second_half", "variance")))
    return f"| {row['sampler']} | {' | '.join(cells)} | {interval('times', '.2f')} |"


def main() -> None:
    every = []
    for folder in map(Path, sys.argv[1:]):
        rows = rows_of(folder)
        print(f"\n## {folder.name}\n\n| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}")
        print("\n".join(map(line, rows)))
        every += rows
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(every[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in every)


if __name__ == "__main__":
    main()
