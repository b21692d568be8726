"""The card of a run: what the agent is, how it was trained, what it reaches and how to use it, as Markdown.

It begins as the model cards of the Hugging Face Hub do. Texts that come from a run are shown as they are, and none of
them can end the line that it stands in.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sharedq.reports.files import printable
from sharedq.reports.finding import interval, number
from sharedq.reports.load_runs import Run, load
from sharedq.reports.settings_told import portable
from sharedq.reports.summary import Result, summarise

FILMS = ("episode.gif", "episode.mp4")
NO_LICENCE = "No licence was given. Ask whoever trained the agent before you use it."
TOLD_VERSIONS = ("date", "sharedq", "commit", "jax", "python", "platform", "cpu")


def markdown(folder: Path, licence: str | None, trust: bool) -> str:
    """The card of the finished run in `folder`. Using it may take `trust`, if it names code of its own."""
    result = summarise(load(folder)).tasks[0].results[0]
    run, name = result.run, printable(folder.name)
    place, option = shlex.quote(name), " --trust" * trust
    film = next((one for one in FILMS if (folder / one).is_file()), None)
    title = f"{_kind(run, 'algorithm')} with {_kind(run, 'target')} in {run.environment_name}"
    steps_are = "environment" if run.plays else "gradient"
    seeds = "1 seed" if len(run.seeds) == 1 else f"{len(run.seeds)} seeds. Each seed is an agent of its own"
    parts = [
        _front_matter(name, result, licence),
        f"# {_plain(title)}",
        f"An agent of sharedq, trained for {int(run.reached.min()):,} {steps_are} steps with {seeds}.",
        f"![An episode]({film})" if film else "",
        "## Returns",
        _returns(result),
        "## Training",
        _fenced(portable(run.command, folder) or "The command was not written down."),
        _table(("", ""), [(key, str(run.versions[key])) for key in TOLD_VERSIONS if key in run.versions]),
        "The settings are in `experiment.json`, and the learning curve is in `episodes.csv`.",
        "## Use",
        _fenced(
            f"sharedq load-bundle BUNDLE --out {place}\n"
            f"sharedq evaluate {place}{option}\n"
            f"sharedq record {place}{option}"
        ),
        "Nothing in a bundle is executed or imported when it is opened.",
        "## Licence",
        _plain(licence) if licence else NO_LICENCE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _kind(run: Run, part: str) -> str:
    return str(run.experiment.get(part, {}).get("kind", "unknown"))


def _front_matter(name: str, result: Result, licence: str | None) -> str:
    """What the Hub reads. A text in JSON is one in YAML too."""
    run = result.run
    tags = ["reinforcement-learning", _kind(run, "algorithm"), _kind(run, "target"), run.environment_name]
    metric = {"type": "mean_reward", "name": "mean_reward", "value": number(result.final.value), "verified": False}
    kind = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
    found = {
        "task": kind,
        "dataset": {"name": run.environment_name, "type": run.environment_name},
        "metrics": [metric],
    }
    content: Mapping[str, object] = {
        "library_name": "sharedq",
        **({"license": licence} if licence else {}),
        "tags": tags,
        "model-index": [{"name": name, "results": [found] if result.seeds else []}],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    return "\n".join(["---", *lines, "---"])


def _returns(result: Result) -> str:
    if not result.seeds:
        return "No episode has ended, so there are no returns."
    rows = [("all", interval(result.final, number))]
    rows += [(f"{seed}", number(value)) for seed, value in zip(result.seed_names, result.seed_finals, strict=True)]
    words = (
        "A return is a mean at the end of the training. That of all seeds is their interquartile mean, with its 95 % "
        "interval."
    )
    return f"{words}\n\n{_table(('seed', 'return'), rows)}"


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(_plain, line)) + " |" for line in lines)


def _fenced(text: str) -> str:
    """Lines of text, in which no backticks can end the block."""
    return "```text\n" + "\n".join(printable(line).replace("`", "'") for line in text.split("\n")) + "\n```"


def _plain(text: str) -> str:
    """A text that means nothing to Markdown."""
    shown = printable(text)
    return "".join(f"\\{one}" if one in "\\`*[]<>|" else one for one in shown)
