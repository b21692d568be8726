"""What the study of targets on MinAtar says, as a table for each game: python tables.py GAME ...

For each agent: the mean return over training after the warm-up, also as a multiple of the target network's, the mean
return of the last tenth of training, the parameters and bytes of an agent, and the time of training. Intervals are
95 %: Student's t over seeds of a mean, and Welch's of the difference of logarithms for the multiple, whose p-value is
in results.csv. Seeds are not paired.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from sharedq.reports.load_runs import Run, load

REFERENCE = "target-network"
HEADS = ("agent", "mean return", "times the target network's", "last tenth", "parameters", "bytes of an agent", "s")


def numbers(run: Run) -> dict[str, np.ndarray]:
    """The numbers [seeds] of a run."""
    found: dict[str, list[float]] = {"area": [], "last": []}
    for seed in run.seeds:
        own = run.episodes.seed == seed
        steps, returns = run.episodes.step[own], run.episodes.returns[own]
        grid = np.linspace(run.warm_up, run.planned, 1000)
        found["area"].append(float(np.interp(grid, steps, returns).mean()))
        found["last"].append(float(returns[steps > 0.9 * run.planned].mean()))
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
    """A row for each finished run of a game; names the others."""
    found = {}
    for path in sorted(one.parent for one in folder.glob("*/experiment.json")):
        (run,) = load(path).runs
        if run.finished:
            found[path.name] = path, numbers(run)
        else:
            print(f"{path} is not finished", file=sys.stderr)
    rows = []
    for name, (path, own) in sorted(found.items(), key=lambda pair: -pair[1][1]["area"].mean()):
        cost, finished = (json.loads((path / f"{one}.json").read_text()) for one in ("cost", "finished"))
        row = {"game": folder.name, "agent": name, "seeds": len(own["area"])}
        for key in ("area", "last"):
            row[key], row[f"{key}_low"], row[f"{key}_high"] = mean(own[key])
        names = ("times", "times_low", "times_high", "times_p")
        told = ("", "", "", "") if name == REFERENCE else multiple(own["area"], found[REFERENCE][1]["area"])
        row |= dict(zip(names, told, strict=True))
        rows.append(
            row
            | {
                "parameters": cost["parameters"]["held"],
                "bytes": cost["bytes"]["agent"],
                "seconds": finished["seconds"],
            }
        )
    return rows


def line(row: dict) -> str:
    def interval(name: str, form: str = ",.2f") -> str:
        value, low, high = (row[name + end] for end in ("", "_low", "_high"))
        return "–" if value == "" else f"{value:{form}} [{low:{form}}, {high:{form}}]"

    cells = map(interval, ("area", "times", "last"))
    return (
        f"| {row['agent']} | {' | '.join(cells)} | {row['parameters']:,} | {row['bytes']:,} | {row['seconds']:,.0f} |"
    )


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
