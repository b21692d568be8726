"""What the study of samplers on LunarLander says, as a table: python tables.py COMPARISON ...

For each run: steps until the last 100 episodes of a seed have a mean return of 200, the mean return over training after
the warm-up, and the variance of the returns in the second half of training, also as a multiple of the uniform sampler's.
Values are means over seeds with 95 % intervals: Student's t over seeds, of logarithms for the ratio, whose seeds are not
paired. The tables go to results.csv beside this file too.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats

from sharedq.reports.load_runs import Run, load

SOLVED, LAST = 200.0, 100  # the mean return of so many episodes in a row that counts as solved


def of_seeds(run: Run) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Step and return of each episode, for each seed."""
    for seed in run.seeds:
        own = run.episodes.seed == seed
        yield run.episodes.step[own], run.episodes.returns[own]


def solved_at(steps: np.ndarray, returns: np.ndarray) -> float:
    """The step at which the last episodes have the mean return that counts as solved; nan if that never happens."""
    if len(returns) < LAST:
        return np.nan
    means = np.convolve(returns, np.full(LAST, 1 / LAST), "valid")
    found = np.flatnonzero(means >= SOLVED)
    return float(steps[found[0] + LAST - 1]) if len(found) else np.nan


def numbers(run: Run) -> dict[str, np.ndarray]:
    """The numbers [seeds] of a run."""
    half, start = run.planned / 2, run.warm_up
    found: dict[str, list[float]] = {"solved": [], "area": [], "variance": [], "second_half": []}
    for steps, returns in of_seeds(run):
        late = returns[steps > half]
        found["solved"].append(solved_at(steps, returns))
        found["area"].append(float(np.interp(np.linspace(start, run.planned, 1000), steps, returns).mean()))
        found["variance"].append(float(late.var(ddof=1)))
        found["second_half"].append(float(late.mean()))
    return {name: np.array(values) for name, values in found.items()}


def mean(x: np.ndarray) -> tuple[float, float, float]:
    """The mean over seeds and its 95 % interval."""
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def ratio(x: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """The ratio of geometric means of two groups of seeds, with Welch's 95 % interval, and the p-value of no change."""
    a, b = np.log(x), np.log(reference)
    found = stats.ttest_ind(a, b, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return tuple(float(np.exp(one)) for one in (a.mean() - b.mean(), low, high))


def main() -> None:
    rows = []
    for folder in sys.argv[1:]:
        runs = {run.label.removeprefix("sampler "): numbers(run) for run in load(folder).runs if run.finished}
        print(f"\n## {Path(folder).name}\n")
        print("| sampler | solved after | seeds that solve it | mean return | in the second half | its variance | of uniform's |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, own in runs.items():
            solved = own["solved"][np.isfinite(own["solved"])]
            row = {"comparison": Path(folder).name, "sampler": name, "solved": len(solved), "seeds": len(own["solved"])}
            row["steps_to_200"] = float(solved.mean()) if len(solved) else np.nan
            for key in ("area", "second_half", "variance"):
                row[key], row[f"{key}_low"], row[f"{key}_high"] = mean(own[key])
            of_uniform = ratio(own["variance"], runs["uniform"]["variance"]) if "uniform" in runs else (np.nan,) * 3
            row["variance_ratio"], row["variance_ratio_low"], row["variance_ratio_high"] = of_uniform
            rows.append(row)
            told = "–" if name == "uniform" else "{:.2f} [{:.2f}, {:.2f}]".format(*of_uniform)
            print(
                f"| {name} | {row['steps_to_200']:,.0f} | {row['solved']} of {row['seeds']} | {_told(row, 'area')} | "
                f"{_told(row, 'second_half')} | {_told(row, 'variance')} | {told} |"
            )
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def _told(row: dict, name: str) -> str:
    return f"{row[name]:,.0f} [{row[f'{name}_low']:,.0f}, {row[f'{name}_high']:,.0f}]"


if __name__ == "__main__":
    main()
