"""The command `sharedq`: it parses its arguments, calls the library and prints. It has no logic of its own.

JAX is imported inside the commands, so that `--help` and error messages appear at once.
"""

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError, device_errors, reason, unknown, visible
from sharedq.json_files import read_json
from sharedq.output import Outlet, outlets, say

DEFAULT_TARGETS = ("online_network", "target_network", "shared_heads:heads=1", "shared_heads:heads=9")

TARGETS_HELP = "sources, each as name or name:option=value,option=value"


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise SharedqError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.getLogger("jax._src.callback").disabled = True  # it prints the traceback of errors that we report
    with outlets() as out:
        try:
            with device_errors():
                _run(arguments, out)
                out.flush()
            return 0
        except SharedqError as error:
            return _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            return _fail("interrupted", 128 + signal.SIGINT)
        except BrokenPipeError:  # the reader of our output has gone, as with `| head`
            out.discard()
            return 128 + signal.SIGPIPE
        except OSError as error:  # a full disk, a folder that may not be written
            out.discard()
            return _fail(f"{error.strerror or error}: {error.filename or 'while writing'}", SharedqError.exit_code)
        except MemoryError as error:
            return _fail(f"the memory is full ({reason(error)}): ask for less at once", SharedqError.exit_code)


def _fail(message: str, code: int) -> int:
    print(f"sharedq: {visible(message)}".replace("\n", "\\n"), file=sys.stderr)
    return code


def _run(arguments: list[str], out: Outlet) -> None:
    for word in arguments:
        if not _is_text(word):
            raise SharedqError(f"'{word}' is not written in UTF-8: rename the folder, or choose another one")
    parser = Parser(prog="sharedq", description="Q-learning on one network.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(title="commands", dest="verb", metavar="COMMAND", parser_class=Parser)
    for name, (build, about) in VERBS.items():
        verb = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False)
        verb.formatter_class = argparse.RawDescriptionHelpFormatter
        verb.set_defaults(call=build(verb))
        if name in TAKES_OPTIONS:
            verb.epilog = _options_help(name, verb, arguments)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        raise unknown("command", arguments[0], VERBS)
    parsed, rest = parser.parse_known_args(arguments)
    if parsed.version:
        from importlib.metadata import version

        print(version("sharedq"))
        return
    if rest and parsed.verb is None:
        raise SharedqError(f"'{rest[0]}' was not expected (see sharedq --help)")
    if parsed.verb is None:
        parser.print_help()
        return
    parsed.options = _pairs(rest, parsed.verb)
    parsed.command = shlex.join(["sharedq", *arguments])
    out.dispensable = parsed.verb in TRAINS
    parsed.call(parsed)


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes from the system that are not valid text
        return False
    return True


def _pairs(rest: list[str], verb: str) -> dict[str, str]:
    """Parses `--option value` and `--option=value` for options that the command itself does not have."""
    pairs, words = {}, iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise SharedqError(f"'{word}' was not expected (see sharedq {verb} --help)")
        option, equals, value = word[2:].partition("=")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise SharedqError(f"--{option} is unknown or has no value (see sharedq {verb} --help)")
        if option in pairs:
            raise SharedqError(f"--{option} is given twice: give it once")
        pairs[option] = value
    if pairs and verb not in TAKES_OPTIONS:
        raise SharedqError(f"sharedq {verb} has no option --{next(iter(pairs))} (see sharedq {verb} --help)")
    return pairs


def _experiment(parsed: argparse.Namespace):
    """The recipe or experiment file with the typed options; raises if it names code that is not trusted."""
    base, trust = _base(parsed), _trust(parsed)
    if not parsed.recipe.endswith(".json") and trust is not True:  # the command names the recipe, and so its parts
        trust = {*trust, *base.imports()}
    return base.parse(parsed.options).trusted(trust)


def _base(parsed: argparse.Namespace):
    """The recipe or experiment file without the typed options. It may name code that is not trusted or imported."""
    from sharedq.recipes import recipe

    name = parsed.recipe
    return _read(Path(name), _trust(parsed)) if name.endswith(".json") else recipe(name)


def _trust(parsed: argparse.Namespace):
    """The code that may be imported: what the command itself names, or all code with `--trust`."""
    from sharedq.comparison import kind_and_options

    targets = [kind_and_options(wanted)[0] for wanted in getattr(parsed, "targets", None) or ()]
    return parsed.trust or {*parsed.options.values(), *targets}


def _read(file: Path, trust: Any):
    """The experiment of a run's experiment.json. It may name code that is not trusted."""
    from sharedq import formats
    from sharedq.experiment import Experiment

    described = read_json(file, {"schema": int, "experiment": dict}, "name a recipe or the experiment.json of a run")
    schema, experiment = described["schema"], described["experiment"]
    if schema != formats.RUN:
        raise SharedqError(
            f"{file} was written in format {schema}, this version reads format {formats.RUN}: "
            "use the version that wrote it"
        )
    return Experiment.described(experiment, trust)


def _options_help(name: str, verb: argparse.ArgumentParser, arguments: list[str]) -> str:
    """The text below the help: the options of the named recipe with their values, or, without one, the recipes."""
    words = [word for word in arguments[1:] if word not in ("-h", "--help")]
    if name not in arguments[:1] or words == arguments[1:]:
        return ""
    from sharedq.experiment import SHORT
    from sharedq.recipes import RECIPES

    try:
        parsed, rest = verb.parse_known_args(words)
    except SharedqError:  # no recipe yet, or a mistake that the parser will report
        recipes = "\n".join(f"  {one:26}{_about(RECIPES, one, 'about')}" for one in RECIPES)
        return f"recipes:\n{recipes}\n\nName one to see its options: sharedq {name} cartpole --help"
    parsed.options = _pairs(rest, name)
    options = _base(parsed).parse(parsed.options).options()
    lines = [f"options of {parsed.recipe} (type, value, meaning); another kind of a part has other options:"]
    for option, (takes, value, about) in options.items():
        value = ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"  --{option} {takes}\n        {value}  {about}")
    lines += [f"  --{short}: short for --{full}" for short, full in SHORT.items() if full in options]
    return "\n".join(lines)


def _show(name: str, steps: int, seeds: int):
    from sharedq.training.progress import shown

    return shown(name, steps, seeds)


def _train(verb: argparse.ArgumentParser) -> Callable:
    _takes_recipe(verb)
    verb.add_argument("--out", type=Path, help="folder of the run (default: a new one in runs/)")
    verb.add_argument("--overwrite", action="store_true", help="replace an existing run")
    verb.add_argument("--from", dest="start_from", type=Path, metavar="RUN", help="start from the agents of this run")
    verb.add_argument(
        "--from-checkpoint",
        default="last",
        metavar="CHECKPOINT",
        help="last, best, or the step of a checkpoint of that run (default: %(default)s)",
    )
    _takes_mirror(verb)

    def call(parsed):
        from sharedq.runs.wandb_mirror import mirrored
        from sharedq.trainer import train

        experiment = _experiment(parsed)
        out = parsed.out or _free(Path("runs"), f"{Path(parsed.recipe).stem}-{experiment.target.label}")
        options = {"overwrite": parsed.overwrite, "command": parsed.command}
        options |= {"start_from": parsed.start_from, "start_checkpoint": parsed.from_checkpoint}
        with (
            mirrored(parsed.wandb, out.name, experiment.to_dict()) as mirror,
            _show(out.name, experiment.training.steps, experiment.seeds) as progress,
        ):
            train(experiment, out, progress=progress, mirror=mirror, **options)

    return call


def _free(parent: Path, name: str) -> Path:
    """A folder of this name, numbered if necessary, that does not exist yet."""
    name = name.replace(" ", "-").replace("=", "").lower()
    numbered = (parent / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
    return next(path for path in numbered if not path.exists())


def _compare(verb: argparse.ArgumentParser) -> Callable:
    _takes_recipe(verb)
    verb.add_argument(
        "--targets",
        nargs="+",
        default=DEFAULT_TARGETS,
        metavar="TARGET",
        help=f"{TARGETS_HELP} (default: {' '.join(DEFAULT_TARGETS)})",
    )
    verb.add_argument("--out", type=Path, help="folder of the comparison (default: comparisons/RECIPE)")
    verb.add_argument("--overwrite", action="store_true", help="replace an existing comparison and train it again")

    def call(parsed):
        from sharedq.comparison import carry_out, plan, with_target

        base = _experiment(parsed)
        if "target" in parsed.options:
            raise SharedqError(f"compare takes several sources: write --targets {parsed.options['target']} ...")
        out = parsed.out or Path("comparisons") / Path(parsed.recipe).stem
        experiments = [with_target(base, wanted) for wanted in parsed.targets]
        plan(parsed.recipe, experiments, out, parsed.command, parsed.overwrite)
        say(f"report: {carry_out(out, _show, _trust(parsed), say=say)}")

    return call


def _resume(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("folder", type=Path, help="folder of a run or of a comparison")
    verb.add_argument("--steps", help="train the run for longer, to this step, also if it is finished")
    _takes_mirror(verb)
    _takes_trust(verb)

    def call(parsed):
        from sharedq.comparison import PLAN, carry_out
        from sharedq.experiment import Experiment
        from sharedq.runs import RunDirectory
        from sharedq.runs.wandb_mirror import mirrored
        from sharedq.trainer import resume

        folder = parsed.folder
        if (folder / PLAN).exists():
            if parsed.wandb:
                raise SharedqError(f"--wandb mirrors one run, and {folder} is a comparison")
            if parsed.steps:
                raise SharedqError(f"--steps is for one run, and {folder} is a comparison")
            say(f"report: {carry_out(folder, _show, parsed.trust, say=say)}")
            return
        experiment = Experiment.from_dict(RunDirectory.open(folder).experiment(), parsed.trust)
        if parsed.steps:
            experiment = experiment.replace(steps=parsed.steps)
        with (
            mirrored(parsed.wandb, folder.resolve().name, experiment.to_dict()) as mirror,
            _show(folder.name, experiment.training.steps, experiment.seeds) as progress,
        ):
            resume(folder, steps=parsed.steps, trust=parsed.trust, progress=progress, mirror=mirror)

    return call


def _evaluate(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("run", type=Path, help="folder of a run")
    _takes_trust(verb)
    verb.add_argument("--episodes", type=int, default=100, help="episodes for each trained seed (default: %(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="random seed of the episodes (default: %(default)s)")
    _takes_checkpoint(verb)
    verb.add_argument("--max-steps", type=int, default=10_000, help="most steps of an episode (default: %(default)s)")

    def call(parsed):
        from sharedq.agent import load_all

        for agent in load_all(parsed.run, checkpoint=parsed.checkpoint, trust=parsed.trust):
            played = agent.evaluate(parsed.episodes, parsed.seed, parsed.max_steps)
            steps = agent.experiment.training.steps
            at = "" if agent.step >= steps else f" at step {agent.step:,} of {steps:,}"
            cut = "" if played.ended.all() else f", {(~played.ended).sum()} cut at {parsed.max_steps} steps"
            say(
                f"seed {agent.seed}{at}: mean return {played.returns.mean():.2f}, "
                f"from {played.returns.min():.2f} to {played.returns.max():.2f}, "
                f"mean length {played.lengths.mean():.1f} over {parsed.episodes} episodes{cut}"
            )

    return call


def _record(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("run", type=Path, help="folder of a run")
    verb.add_argument(
        "--out",
        type=Path,
        help="the film, .gif or .mp4; without the program ffmpeg an MP4 becomes a GIF "
        "(default: episode.mp4 in the run's folder)",
    )
    verb.add_argument("--agent", type=int, help="the trained seed that plays (default: the first)")
    _takes_checkpoint(verb)
    verb.add_argument("--seed", type=int, default=0, help="random seed of the episode (default: %(default)s)")
    verb.add_argument("--max-steps", type=int, default=10_000, help="most steps of the episode (default: %(default)s)")
    verb.add_argument("--rate", type=int, default=15, help="pictures per second (default: %(default)s)")
    _takes_trust(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace an existing file that is not a film of sharedq")

    def call(parsed):
        from sharedq.agent import load

        out = parsed.out or parsed.run / "episode.mp4"
        agent = load(parsed.run, parsed.agent, checkpoint=parsed.checkpoint, trust=parsed.trust)
        path, returned = agent.record(out, parsed.seed, parsed.max_steps, parsed.rate, parsed.overwrite)
        instead = "" if path.suffix == out.suffix else " (no ffmpeg found: wrote a GIF)"
        say(f"film: {path}, return {returned:.2f}{instead}")

    return call


def _report(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("folder", type=Path, help="folder of a comparison, of several runs, or of one run")
    verb.add_argument("--out", type=Path, help="where to write the page (default: the folder itself)")
    verb.add_argument("--overwrite", action="store_true", help="replace existing files that no report wrote")

    def call(parsed):
        from sharedq import reports

        say(f"report: {reports.write(parsed.folder, parsed.out, parsed.overwrite, say=say)}")

    return call


def _verify(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("folder", type=Path, help="folder of a run or of a comparison")

    def call(parsed):
        from sharedq.runs.verify import verify

        damaged = 0
        for finding in verify(parsed.folder):
            say(str(finding))
            damaged += not finding.whole
        if damaged:
            raise SharedqError(f"{damaged} of the files in {parsed.folder} are not whole: restore them or train again")

    return call


def _cost(verb: argparse.ArgumentParser) -> Callable:
    _takes_recipe(verb)
    verb.add_argument(
        "--targets", nargs="+", metavar="TARGET", help=f"{TARGETS_HELP} (default: those of compare, then every other)"
    )
    verb.add_argument("--format", choices=("text", "json", "csv"), default="text", help="(default: %(default)s)")
    verb.add_argument("--no-time", action="store_true", help="do not measure time, and allocate nothing")

    def call(parsed):
        from sharedq.analysis.tables import cost_table
        from sharedq.comparison import labels_of, with_target
        from sharedq.experiment import TABLES

        base = _experiment(parsed)
        compared = {wanted.partition(":")[0] for wanted in DEFAULT_TARGETS}
        targets = parsed.targets or [*DEFAULT_TARGETS, *(name for name in TABLES["target"] if name not in compared)]
        experiments = [base] if "target" in parsed.options else [with_target(base, wanted) for wanted in targets]
        costs = [experiment.build().cost(timed=not parsed.no_time) for experiment in experiments]
        say(cost_table(dict(zip(labels_of(experiments), costs, strict=True)), parsed.format))

    return call


def _list(verb: argparse.ArgumentParser) -> Callable:
    def call(parsed):
        from sharedq.experiment import TABLES
        from sharedq.recipes import RECIPES

        print("recipes")
        for name in RECIPES:
            print(f"  {name:26}{_about(RECIPES, name, 'about')}")
        for part, table in TABLES.items():
            print(f"\n--{part}")
            for name in table:
                print(f"  {name:26}{_about(table, name, '__doc__')}")

    return call


def _about(entries: Mapping[str, Any], name: str, attribute: str) -> str:
    """The first line of a description, or why it cannot be had: one broken package does not hide the others."""
    try:
        return ((getattr(entries[name], attribute) or "").strip().splitlines() or [""])[0]
    except SharedqError as error:
        return f"({error})"


def _takes_mirror(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--wandb", choices=("online", "offline"), help="also log to Weights & Biases")


def _takes_checkpoint(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--checkpoint",
        default="last",
        help="last, best (of a run with --training.evaluation_period), or the step of a checkpoint that the run keeps "
        "(default: %(default)s)",
    )


def _takes_recipe(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a name from 'sharedq list', your own package.module:NAME, or an experiment.json",
    )
    _takes_trust(verb)


def _takes_trust(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--trust", action="store_true", help="import the code that a run or an experiment.json names")


TAKES_OPTIONS = ("train", "compare", "cost")

TRAINS = ("train", "compare", "resume")  # these continue even if nobody reads their output

VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], Callable], str]] = {
    "train": (_train, "train a recipe, all seeds at once, and write a run folder"),
    "compare": (_compare, "train a recipe on several sources of targets and write a report"),
    "resume": (_resume, "resume a run or a comparison that was stopped or killed"),
    "evaluate": (_evaluate, "play episodes with a trained agent"),
    "record": (_record, "film an episode of a trained agent"),
    "report": (_report, "write a report on existing runs"),
    "verify": (_verify, "check for every file of a run or a comparison whether it is as it was written"),
    "cost": (_cost, "show what an agent costs before it is trained, for all sources side by side"),
    "list": (_list, "list the recipes and the kinds of all parts"),
}
