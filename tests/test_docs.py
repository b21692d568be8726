"""What the pages say is so: their code runs, their links lead somewhere, the options and files they name exist.

Blocks fenced as `python` and `sh` are run, those of one page in order, in one empty folder; a python block that begins
with `# name.py` is that file. Blocks fenced as `console`, with a `$` before each command, take long or install
something: only their options are checked.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sharedq.command_line import VERBS
from sharedq.data_sources import FOR_MINARI, sources
from sharedq.experiment import SHORT, TABLES
from sharedq.settings import hints

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.M | re.S)


def run_shell(script: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hasty = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # what runs here is small: compiling is all the time it takes
    environment = {**os.environ, **hasty, "PATH": path}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


RUNNING = [page for page in PAGES if {"python", "sh"} & {language for language, _ in blocks_of(page)}]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for language, text in blocks_of(page):
        file = re.match(r"# (\w+\.py)\b", text)
        if language == "sh":
            run_shell(text)
        elif language == "python" and file:
            Path(file[1]).write_text(text)
        elif language == "python":
            exec(compile(text, page.name, "exec"), names)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https:"):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
            assert anchor in map(slug, headings), target


@every_page
def test_files_that_a_page_names_exist(page):
    for name in re.findall(r"`((?:sharedq|tests|benchmarks|requirements)/[\w./-]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


def options_of_verbs() -> set[str]:
    """The options that the commands themselves have, and the commands of `sharedq data`."""
    found, parsers = {"--version"}, []
    for build, _ in VERBS.values():
        parsers.append(argparse.ArgumentParser())
        build(parsers[-1])
    for parser in parsers:
        for action in parser._actions:
            found |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return found


def options_of_formats() -> set[str]:
    """The options with which `sharedq data` reads each format, and those with which it writes to Minari."""
    reading = {name for kind in sources().values() for name in hints(kind) if name != "path"}
    return {f"--{name}" for name in (*reading, *FOR_MINARI)}


def options_of_parts() -> set[str]:
    """The options of all kinds of all parts."""
    fields = {f"--{part}.{name}" for part, table in TABLES.items() for kind in table.values() for name in hints(kind)}
    last = {f"--{option.rpartition('.')[2]}" for option in fields}
    return fields | last | {f"--{name}" for name in (*TABLES, *SHORT, "seeds", "seed")}


OPTIONS = options_of_verbs() | options_of_formats() | options_of_parts()


@every_page
def test_options_that_a_page_names_exist(page):
    text = page.read_text()
    named = re.findall(r"(?<=`)--[\w.-]+", text)
    for _, block in blocks_of(page):
        for line in re.findall(r"^(?:\$ )?sharedq .*$", block, re.M):
            named += re.findall(r"--[\w.-]+", line)
    assert set(named) <= OPTIONS


def test_a_misspelt_option_is_not_among_them():
    assert {"--target.heads", "--out", "--no-time"} <= OPTIONS
    assert "--target.head" not in OPTIONS
