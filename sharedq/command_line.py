"""The command `sharedq`: it parses its arguments, calls the library and prints. It has no logic of its own.

JAX is imported inside the commands, so that `--help` and error messages appear at once.
"""

import argparse
import logging
import shlex
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharedq import data_command
from sharedq.errors import SharedqError, device_errors, reason, unknown, visible
from sharedq.imports import import_strings
from sharedq.output import Outlet, has_colours, outlets, say
from sharedq.playing import MAX_STEPS
from sharedq.settings import FITTED_Q_UPDATES, check_count
from sharedq.tables import COMPARED

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
    parser = Parser(prog="sharedq", description="Q-learning on one network.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the versions of sharedq, Python and JAX")
    # The metavar is long, so that argparse leaves room for the longest command.
    verbs = parser.add_subparsers(title="commands", dest="verb", metavar="COMMAND OPTIONS", parser_class=Parser)
    for name, (build, about) in VERBS.items():
        verb = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False)
        verb.formatter_class = argparse.RawDescriptionHelpFormatter
        verb.set_defaults(call=build(verb))
        if name in TAKES_OPTIONS:
            verb.epilog = _options_help(name, verb, arguments)
    if arguments[:2] == ["complete", "--"]:  # what the scripts of `sharedq completion` call
        from sharedq.completion import complete

        for word in complete(arguments[2:], verbs.choices):
            print(word)
        return
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        raise unknown("command", arguments[0], VERBS)
    parsed, rest = parser.parse_known_args(arguments)
    if parsed.version:
        from importlib.metadata import version
        from platform import python_version

        print(f"sharedq {version('sharedq')} (Python {python_version()}, JAX {version('jax')})")
        return
    if rest and parsed.verb is None:
        raise SharedqError(f"'{rest[0]}' was not expected (see sharedq --help)")
    if parsed.verb is None:
        parser.print_help()
        return
    parsed.options = _options(rest, parsed.verb)
    parsed.command = shlex.join(["sharedq", *arguments])
    out.dispensable = parsed.verb in WRITES
    parsed.call(parsed)


def _options(rest: list[str], verb: str) -> dict[str, list[str]]:
    """Parses `--option value ...` and `--option=value` for options that the command itself does not have."""
    options: dict[str, list[str]] = {}
    words = deque(rest)
    while words:
        word = words.popleft()
        if not word.startswith("--"):
            raise SharedqError(f"'{word}' was not expected (see sharedq {verb} --help)")
        option, equals, value = word[2:].partition("=")
        values = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            values.append(words.popleft())
        if not values:
            raise SharedqError(f"--{option} is unknown or has no value (see sharedq {verb} --help)")
        if option in options:
            raise SharedqError(f"--{option} is given twice: give it once")
        options[option] = _lists(values)
        if option in ("seed", "seeds") and len(values) > 1:
            raise SharedqError(f"--{option} takes one number: --seeds 3 trains three seeds side by side")
    if options and verb not in TAKES_OPTIONS:
        raise SharedqError(f"sharedq {verb} has no option --{next(iter(options))} (see sharedq {verb} --help)")
    return options


def _lists(values: list[str]) -> list[str]:
    """The values, in which a list in brackets is one value again: the shell splits [64, 64] into two words."""
    found: list[str] = []
    for value in values:
        if found and found[-1].startswith(("[", "(")) and not found[-1].endswith(("]", ")")):
            found[-1] += f" {value}"
        else:
            found.append(value)
    return found


def _experiment(parsed: argparse.Namespace):
    """The recipe or experiment file with the typed options; raises if it names code that is not trusted."""
    for option, values in parsed.options.items():
        if len(values) > 1:
            several = shlex.join([parsed.recipe, f"--{option}", *values])
            raise SharedqError(
                f"--{option} takes one value here, not {len(values)}: to train a run for each, write "
                f"sharedq compare {several}"
            )
    base = _base(parsed)
    experiment = base.parse(_first_values(parsed))
    return experiment.trusted(_trust(parsed, [experiment]))


def _first_values(parsed: argparse.Namespace) -> dict[str, str]:
    return {option: values[0] for option, values in parsed.options.items()}


def _base(parsed: argparse.Namespace):
    """The recipe or experiment file without the typed options. It may name code that is not trusted or imported."""
    from sharedq.experiment import read_experiment
    from sharedq.recipes import recipe

    name = parsed.recipe
    return read_experiment(Path(name), _trust(parsed)) if name.endswith(".json") else recipe(name)


def _trust(parsed: argparse.Namespace, experiments: Iterable[Any] = ()):
    """The code that may be imported: what the command itself names, or all code with `--trust`.

    A command that names a recipe names all that `experiments` import. One that names a file does not name what stands
    in the file.
    """
    if parsed.trust:
        return True
    if not parsed.recipe.endswith(".json"):
        return {reference for one in experiments for reference in one.imports()}
    values = [value for typed in parsed.options.values() for value in typed]
    texts = [*values, *(getattr(parsed, "targets", None) or ())]
    return {name for text in texts for name in (text, *import_strings(text))}


def _options_help(name: str, verb: argparse.ArgumentParser, arguments: list[str]) -> str:
    """The text below the help: the options of the named recipe with their values, or, without one, the recipes."""
    words = [word for word in arguments[1:] if word not in ("-h", "--help")]
    if name not in arguments[:1] or words == arguments[1:]:
        return ""
    from sharedq.experiment import SHORT
    from sharedq.settings import as_typed

    try:
        parsed, rest = verb.parse_known_args(words)
    except SharedqError:  # no recipe yet, or a mistake that the parser will report
        return f"{_recipes()}\n\nName one to see its options: sharedq {name} cartpole --help"
    parsed.options = _options(rest, name)
    options = _base(parsed).parse(_first_values(parsed)).options()
    lines = [
        f"options of {parsed.recipe} (type, value, meaning); another kind of a part has other options. The last name",
        "of an option is enough if no other option has the same: --period 500 for --target.period 500.",
        "",
    ]
    for option, (takes, value, about) in options.items():
        lines.append(f"  --{option} {takes}\n        {as_typed(value)}  {about}")
    lines += [f"  --{short}: short for --{full}" for short, full in SHORT.items() if full in options]
    return "\n".join(lines)


def _show(name: str, experiment: Any):
    from sharedq.training.progress import shown

    return shown(name, experiment)


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
        from sharedq.trainer import new_folder, train

        if "on" in parsed.options:
            raise SharedqError("--on is an option of compare and resume, and a run alone is trained here: leave it out")
        experiment = _experiment(parsed)
        out = parsed.out or new_folder(Path(parsed.recipe).stem, experiment)
        options = {"overwrite": parsed.overwrite, "command": parsed.command}
        options |= {"start_from": parsed.start_from, "start_checkpoint": parsed.from_checkpoint}
        with (
            mirrored(parsed.wandb, visible(out.name), experiment.to_dict()) as mirror,
            _show(out.name, experiment) as progress,
        ):
            train(experiment, out, progress=progress, mirror=mirror, **options)

    return call


def _compare(verb: argparse.ArgumentParser) -> Callable:
    _takes_recipe(verb)
    verb.add_argument(
        "--targets",
        nargs="+",
        metavar="TARGET",
        help=f"{TARGETS_HELP} (default: {' '.join(COMPARED)}; in a sweep the recipe's own); an algorithm that asks no "
        "source, as in --algorithm cql bc, is trained once",
    )
    verb.add_argument("--out", type=Path, help="folder of the comparison (default: a folder in comparisons/)")
    verb.add_argument("--overwrite", action="store_true", help="replace an existing comparison and train it again")
    _takes_cluster(verb)

    def call(parsed):
        from sharedq.comparison import carry_out, plan, planned

        base = _base(parsed)
        members, ranked, folder, reference = planned(Path(parsed.recipe).stem, base, parsed.options, parsed.targets)
        experiments = [one.experiment for one in members.values()]
        trust = _trust(parsed, experiments)
        for one in experiments:
            one.trusted(trust)
        out = parsed.out or folder
        plan(parsed.recipe, members, out, parsed.command, parsed.overwrite, ranked, reference)
        say(f"report: {carry_out(out, _show, trust, say=say, on_ray=parsed.on == 'ray')}")

    return call


def _actor(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument(
        "--learner", required=True, metavar="URL", help="where the queue of the learner is: redis://127.0.0.1:6379/0"
    )
    verb.add_argument("--queue", default="sharedq", help="the learner's --training.queue (default: %(default)s)")
    verb.add_argument(
        "--number", type=int, default=0, help="which of the learner's actors this is, from 0; it sets its exploration"
    )
    verb.add_argument("--schema", help="refuse to act for any other run than the one with this schema")
    _takes_trust(verb)

    def call(parsed):
        from sharedq.actor import act
        from sharedq.redis_queue import RedisQueue
        from sharedq.training.seeds import use_all_cores

        if not 0 <= parsed.number < 2**32:
            raise SharedqError(f"--number must be at least 0, not {parsed.number}")
        use_all_cores()
        act(RedisQueue(parsed.learner, parsed.queue), parsed.number, parsed.trust, parsed.schema, say=say)

    return call


def _search(verb: argparse.ArgumentParser) -> Callable:
    _takes_recipe(verb)
    verb.add_argument(
        "--vary",
        nargs="+",
        metavar="NAME=RANGE",
        help="settings with their ranges: LOW..HIGH, log:LOW..HIGH or a,b,c; a source that lacks one of them is tuned "
        "without it",
    )
    verb.add_argument("--trials", type=int, help="how many settings are tried, of each source")
    verb.add_argument(
        "--targets", nargs="+", metavar="TARGET", help=f"tune each of these with as many trials: {TARGETS_HELP}"
    )
    verb.add_argument("--jobs", type=int, default=1, help="trials that are trained at once (default: %(default)s)")
    verb.add_argument("--out", type=Path, help="folder of the search; one that was stopped goes on in its folder")

    def call(parsed):
        from sharedq.search import carry_out, planned

        for option in ("vary", "trials", "out"):
            if getattr(parsed, option) is None:
                if not parsed.targets:  # the option may be misspelt
                    _base(parsed).parse({name: values[0] for name, values in parsed.options.items()})
                raise SharedqError(f"a search needs --{option} (see sharedq search --help)")
        words = (parsed.options, parsed.vary, parsed.targets, parsed.trials, parsed.trust, parsed.command)
        search = planned(parsed.recipe, _base(parsed), *words)
        for one in search.ends:
            one.trusted(_trust(parsed, search.ends))
        say(f"page: {carry_out(search, parsed.vary, parsed.out, parsed.jobs, say=say)}")

    return call


def _resume(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("folder", type=Path, help="folder of a run or of a comparison")
    verb.add_argument("--steps", help="train the run for longer, to this step, also if it is finished")
    verb.add_argument("--run", metavar="NAME", help="of a comparison, only this run, by the name of its folder")
    _takes_cluster(verb)
    _takes_mirror(verb)
    _takes_trust(verb)

    def call(parsed):
        from sharedq.comparison import PLAN, carry_out
        from sharedq.experiment import Experiment
        from sharedq.formats import SEARCH_FILE
        from sharedq.runs import RunDirectory
        from sharedq.runs.wandb_mirror import mirrored
        from sharedq.trainer import for_longer, resume

        folder = parsed.folder
        if (folder / PLAN).exists():
            if parsed.wandb:
                raise SharedqError(f"--wandb mirrors one run, and {folder} is a comparison")
            if parsed.steps:
                raise SharedqError(f"--steps is for one run, and {folder} is a comparison")
            on_ray = parsed.on == "ray"
            say(f"report: {carry_out(folder, _show, parsed.trust, say=say, only=parsed.run, on_ray=on_ray)}")
            return
        if (folder / SEARCH_FILE).exists():
            raise SharedqError(f"{folder} is a search: to continue, repeat its command, which {SEARCH_FILE} has")
        if parsed.run or parsed.on:
            option = "--run" if parsed.run else "--on"
            raise SharedqError(f"{option} is for a comparison, and {folder} is none: leave it out")
        directory = RunDirectory.open(folder)
        experiment = Experiment.from_dict(directory.experiment(), parsed.trust)
        if parsed.steps:
            experiment = for_longer(directory, experiment, parsed.steps)
        with (
            mirrored(parsed.wandb, visible(folder.resolve().name), experiment.to_dict()) as mirror,
            _show(folder.name, experiment) as progress,
        ):
            resume(folder, steps=parsed.steps, trust=parsed.trust, progress=progress, mirror=mirror)

    return call


def _evaluate(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("run", type=Path, help="folder of a run, or of a comparison, all of whose runs are evaluated")
    _takes_trust(verb)
    playing = {"episodes": 100, "seed": 0, "max_steps": MAX_STEPS}  # options with their defaults
    on_data = {"updates": FITTED_Q_UPDATES, "unknown_ends": None}
    verb.add_argument("--episodes", type=int, help=f"episodes for each trained seed (default: {playing['episodes']})")
    verb.add_argument("--seed", type=int, help=f"random seed of the episodes (default: {playing['seed']})")
    _takes_checkpoint(verb)
    verb.add_argument("--max-steps", type=int, help=f"most steps of an episode (default: {MAX_STEPS})")
    verb.add_argument("--data", type=Path, metavar="FOLDER", help="evaluate on a data set instead of playing")
    verb.add_argument(
        "--updates", type=int, help=f"updates of fitted-Q evaluation, with --data (default: {FITTED_Q_UPDATES})"
    )
    verb.add_argument(
        "--unknown_ends",
        choices=("terminated", "truncated"),
        help="with --data, what to take episodes as whose end is not known (default: as the run did, or refuse them)",
    )

    def call(parsed):
        from sharedq.agent import load_all

        used, ignored = (playing, on_data) if parsed.data is None else (on_data, playing)
        if given := [option for option in ignored if getattr(parsed, option) is not None]:
            option = "--max-steps" if given[0] == "max_steps" else f"--{given[0]}"
            beside = "has an effect only beside --data" if parsed.data is None else "has no effect beside --data"
            raise SharedqError(f"{option} {beside}: leave it out")
        for option, default in used.items():
            if getattr(parsed, option) is None:
                setattr(parsed, option, default)
        for name, run in _runs_in(parsed.run):
            agents = load_all(run, checkpoint=parsed.checkpoint, trust=parsed.trust)
            if parsed.data is not None:
                _evaluate_on_data(name, agents, parsed)
                continue
            for agent in agents:
                played = agent.evaluate(parsed.episodes, parsed.seed, parsed.max_steps)
                steps = agent.experiment.training.steps
                at = "" if agent.step >= steps else f" at step {agent.step:,} of {steps:,}"
                cut = "" if played.ended.all() else f", {(~played.ended).sum()} cut at {parsed.max_steps} steps"
                say(
                    f"{name}seed {agent.seed}{at}: mean return {played.returns.mean():.2f}, "
                    f"from {played.returns.min():.2f} to {played.returns.max():.2f}, "
                    f"mean length {played.lengths.mean():.1f} over {parsed.episodes} episodes{cut}"
                )

    return call


def _evaluate_on_data(name: str, agents: Sequence[Any], parsed: argparse.Namespace) -> None:
    """Prints what the data say about each agent of a run."""
    from sharedq.data_evaluation import OnData

    data = OnData(agents[0], parsed.data, parsed.updates, parsed.unknown_ends)
    for remark in data.remarks:
        say(f"{name}{remark}")
    for agent in agents:
        found = data.evaluate(agent)
        moving = (
            f" (not settled: it moved by {found.fitted_q_moved:.0%} in the last tenth of its updates; raise --updates)"
        )
        told = {
            "agreement": f"{found.agreement:.3f}",
            "TD error": f"{found.td_error:.3g}",
            "Q": f"{found.q_value:.3g}",
            "action gap": f"{found.action_gap:.3g}",
            "fitted Q of the greedy policy": f"{found.fitted_q:.3g}{'' if found.settled else moving}",
            "discounted return of the data": f"{found.behaviour:.3g}",
        }
        say(f"{name}seed {agent.seed}: " + ", ".join(f"{what} {text}" for what, text in told.items() if text != "nan"))


def _runs_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """The run at `folder`, or the runs of a comparison that have a checkpoint, each with the start of its lines."""
    from sharedq.comparison import PLAN, read_plan
    from sharedq.runs import RunDirectory, checkpoints

    if not (folder / PLAN).exists():
        yield "", folder
        return
    found = 0
    for one in read_plan(folder)["runs"]:
        run = folder / one["folder"]
        if (run / "experiment.json").exists() and checkpoints.latest(RunDirectory.open(run).checkpoints):
            found += 1
            yield f"{one['label']}, ", run
        else:
            say(f"{one['label']} has no checkpoint yet")
    if not found:
        onwards = f"sharedq resume {shlex.quote(str(folder))}"
        raise SharedqError(f"no run of {folder} has a checkpoint yet: wait, or continue with {onwards}")


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
    verb.add_argument(
        "--max-steps", type=int, default=MAX_STEPS, help="most steps of the episode (default: %(default)s)"
    )
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


def _export(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("run", type=Path, help="folder of a run")
    verb.add_argument("--out", type=Path, help="the file, .onnx (default: agent.onnx in the run's folder)")
    verb.add_argument("--agent", type=int, help="the trained seed that is exported (default: that of the best return)")
    _takes_checkpoint(verb)
    verb.add_argument("--int8", action="store_true", help="also write a smaller file, with INT8 products")
    verb.add_argument(
        "--episodes",
        type=int,
        help="with --int8, episodes in which both files play (default: 10)",
    )
    verb.add_argument("--seed", type=int, default=0, help="random seed of the episodes (default: %(default)s)")
    verb.add_argument(
        "--max-steps", type=int, default=MAX_STEPS, help="most steps of an episode (default: %(default)s)"
    )
    _takes_trust(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace an existing file that sharedq did not export")

    def call(parsed):
        from sharedq.exporting.export import export

        if parsed.episodes is not None and not parsed.int8:
            raise SharedqError("--episodes are played to compare an INT8 file with the other: add --int8")
        export(
            parsed.run,
            parsed.out or parsed.run / "agent.onnx",
            agent=parsed.agent,
            checkpoint=parsed.checkpoint,
            int8=parsed.int8,
            episodes=10 if parsed.episodes is None else parsed.episodes,
            seed=parsed.seed,
            max_steps=parsed.max_steps,
            trust=parsed.trust,
            overwrite=parsed.overwrite,
            say=say,
        )

    return call


def _serve(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("file", type=Path, help="an agent that sharedq export wrote, .onnx")
    verb.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen at; any that other machines reach needs a token (default: %(default)s)",
    )
    verb.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    verb.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a file with the token that every request must send; the variable SHAREDQ_TOKEN can hold it too",
    )
    verb.add_argument("--play", action="store_true", help="let the agent play on the page; this opens its environment")
    verb.add_argument("--seed", type=int, default=0, help="with --play, random seed of the game (default: %(default)s)")
    verb.add_argument("--trust", action="store_true", help="with --play, import the code that the file names")

    def call(parsed):
        from sharedq.serving.server import serve

        check_count("seed", parsed.seed, 0)
        serve(
            parsed.file,
            parsed.host,
            parsed.port,
            parsed.token_file,
            play=parsed.play,
            seed=parsed.seed,
            trust=parsed.trust,
            say=say,
        )

    return call


def _play(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("run", type=Path, help="folder of a run on Wordle")
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--games", type=int, default=1, help="watch so many games (default: %(default)s)")
    what.add_argument("--target", metavar="WORD", help="watch a game whose word is this one")
    what.add_argument(
        "--history",
        nargs="*",
        metavar="GUESS",
        help="ask for the next guess of a game of your own, whose guesses and colours so far are typed as crane:bbygb, "
        "with g for green, y for yellow and b for neither",
    )
    verb.add_argument("--words", type=int, default=5, help="words that are told with a guess (default: %(default)s)")
    verb.add_argument("--agent", type=int, help="the trained seed that plays (default: the first)")
    _takes_checkpoint(verb)
    verb.add_argument("--seed", type=int, default=0, help="random seed of the games (default: %(default)s)")
    _takes_trust(verb)

    def call(parsed):
        from sharedq.agent import load
        from sharedq.watching import Spectator

        agent = load(parsed.run, parsed.agent, checkpoint=parsed.checkpoint, trust=parsed.trust)
        spectator = Spectator(agent, parsed.words, has_colours())
        if parsed.history is None:
            lines = spectator.watch(parsed.games, parsed.seed, parsed.target)
        else:
            lines = spectator.advise(parsed.history, parsed.seed)
        for line in lines:
            print(line, flush=True)

    return call


def _report(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("folder", type=Path, help="folder of a comparison, of several runs, or of one run")
    verb.add_argument("--out", type=Path, help="where to write the page (default: the folder itself)")
    verb.add_argument("--overwrite", action="store_true", help="replace existing files that no report wrote")
    verb.add_argument(
        "--reference",
        metavar="NAME",
        help="the run that the others are compared with, by its name in the report (default: the one with a target "
        "network)",
    )

    def call(parsed):
        from sharedq import reports

        page = reports.write(parsed.folder, parsed.out, parsed.overwrite, parsed.reference, say=say)
        say(f"report: {page}")

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


def _bundle(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("run", type=Path, help="folder of a finished run")
    verb.add_argument("--out", type=Path, help="the bundle (default: the run's name with .sharedq.zip, beside the run)")
    verb.add_argument("--licence", help="what others may do with the agent, such as apache-2.0; the card tells it")
    verb.add_argument("--overwrite", action="store_true", help="replace an existing bundle")

    def call(parsed):
        from sharedq.bundles import bundle
        from sharedq.units import readable

        path = bundle(parsed.run, parsed.out, parsed.licence, parsed.overwrite)
        if parsed.licence is None:
            say("no licence was given, and the card says so: name one with --licence, such as apache-2.0")
        say(f"bundle: {path}, {readable(path.stat().st_size)}")

    return call


def _load_bundle(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("bundle", type=Path, help="a file that 'sharedq bundle' wrote")
    verb.add_argument("--out", type=Path, required=True, help="folder of the run, which must not exist yet")

    def call(parsed):
        from sharedq.bundles import load_bundle

        say(f"run: {load_bundle(parsed.bundle, parsed.out)}")

    return call


def _cost(verb: argparse.ArgumentParser) -> Callable:
    _takes_recipe(verb, or_more=", or the folder of a run")
    verb.add_argument(
        "--targets", nargs="+", metavar="TARGET", help=f"{TARGETS_HELP} (default: those of compare, then every other)"
    )
    verb.add_argument("--format", choices=("text", "json", "csv"), default="text", help="(default: %(default)s)")
    verb.add_argument("--no-time", action="store_true", help="do not measure time, and allocate nothing")

    def call(parsed):
        from sharedq.analysis.tables import cost_table

        is_run = (Path(parsed.recipe) / "experiment.json").is_file()
        say(cost_table((_costs_of_run if is_run else _costs_of_recipe)(parsed), parsed.format))

    return call


def _costs_of_recipe(parsed: argparse.Namespace) -> dict[str, Any]:
    """The cost of an agent for each source, before it is trained."""
    from sharedq.comparison import labels_of, with_target
    from sharedq.experiment import TABLES

    base = _experiment(parsed)
    compared = {wanted.partition(":")[0] for wanted in COMPARED}
    targets = parsed.targets or [*COMPARED, *(name for name in TABLES["target"] if name not in compared)]
    one = "target" in parsed.options or not base.uses_target
    experiments = [base] if one else [with_target(base, wanted) for wanted in targets]
    asked = one or bool(parsed.targets)
    built = [found for found in (_built(experiment, asked) for experiment in experiments) if found is not None]
    costs = [found.cost(timed=not parsed.no_time) for found in built]
    return dict(zip(labels_of([found.experiment for found in built]), costs, strict=True))


def _costs_of_run(parsed: argparse.Namespace) -> dict[str, Any]:
    """The cost of the agent of each seed, in which weights that are zero are counted."""
    from sharedq.agent import load_all
    from sharedq.analysis.cost import with_zeros

    if parsed.options or parsed.targets:
        raise SharedqError(
            f"{parsed.recipe} is a run, which has its settings: leave the other options out, or name {parsed.recipe}"
            "/experiment.json to change them"
        )
    agents = load_all(parsed.recipe, trust=parsed.trust)
    cost = agents[0].built.cost(timed=not parsed.no_time)
    return {f"seed {agent.seed}": with_zeros(cost, agent.state.params) for agent in agents}


def _built(experiment: Any, asked: bool) -> Any:
    """The experiment, put together. None if its parts do not fit and nobody asked for this one."""
    try:
        return experiment.build()
    except SharedqError:
        if asked:
            raise
        return None


def _list(verb: argparse.ArgumentParser) -> Callable:
    def call(parsed):
        from sharedq.experiment import MEASURE, TABLES

        print(_recipes())
        for part, table in {**TABLES, "training.measures": MEASURE}.items():
            print(f"\n--{part}")
            for name in table:
                print(f"  {name:27}{_about(table, name, '__doc__')}")

    return call


def _recipes() -> str:
    """A line for each recipe, below the name of its family."""
    from sharedq.recipes import RECIPES, families

    return "\n\n".join(
        "\n".join([f"recipes: {family}", *(f"  {name:27}{_about(RECIPES, name, 'about')}" for name in names)])
        for family, names in families().items()
    )


def _about(entries: Mapping[str, Any], name: str, attribute: str) -> str:
    """The first line of a description, or why it cannot be had: one broken package does not hide the others."""
    try:
        return ((getattr(entries[name], attribute) or "").strip().splitlines() or [""])[0]
    except SharedqError as error:
        return f"({error})"


def _completion(verb: argparse.ArgumentParser) -> Callable:
    from sharedq.completion import SCRIPTS

    verb.add_argument("shell", choices=SCRIPTS, metavar="SHELL", help=f"the shell: {' or '.join(SCRIPTS)}")
    verb.epilog = "\n".join(
        ["To complete commands in every new shell, add a line to the file that the shell reads at its start:"]
        + [f"  ~/.{shell}rc:  source <(sharedq completion {shell})" for shell in SCRIPTS]
    )

    def call(parsed):
        print(SCRIPTS[parsed.shell], end="")

    return call


def _takes_cluster(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--on",
        choices=("ray",),
        help="train each run as a task of Ray: on the cluster at RAY_ADDRESS, on one that is started here, or on a "
        "new one that this machine alone can reach",
    )


def _takes_mirror(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--wandb", choices=("online", "offline"), help="also log to Weights & Biases")


def _takes_checkpoint(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--checkpoint",
        default="last",
        help="last, best (of a run with --training.evaluation_period), or the step of a checkpoint that the run keeps "
        "(default: %(default)s)",
    )


def _takes_recipe(verb: argparse.ArgumentParser, or_more: str = "") -> None:
    verb.add_argument(
        "recipe",
        metavar="RECIPE",
        help=f"a name from 'sharedq list', your own package.module:NAME, an experiment.json{or_more}",
    )
    _takes_trust(verb)


def _takes_trust(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--trust", action="store_true", help="import the code that a run or an experiment.json names")


TAKES_OPTIONS = ("train", "compare", "search", "cost", *data_command.TAKES_OPTIONS)

# These continue even if nobody reads their output.
WRITES = ("train", "compare", "search", "resume", *data_command.WRITES)

VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], Callable], str]] = {
    "train": (_train, "train a recipe, all seeds at once, and write a run folder"),
    "compare": (_compare, "train a recipe on several sources of targets and write a report"),
    "search": (_search, "search for the best settings of a recipe, and write a page on all trials"),
    "resume": (_resume, "resume a run or a comparison that was stopped or killed"),
    "actor": (_actor, "step environments for a learner that trains with --training remote"),
    "evaluate": (_evaluate, "play episodes with a trained agent"),
    "record": (_record, "film an episode of a trained agent"),
    "export": (_export, "write a trained agent as one ONNX file that acts without JAX"),
    "serve": (_serve, "let an exported agent act for others, over HTTP, and show it at play in a browser"),
    "play": (_play, "watch an agent play Wordle, or ask it for the next guess of a game of your own"),
    "report": (_report, "write a report on existing runs"),
    "verify": (_verify, "check for every file of a run or a comparison whether it is as it was written"),
    "data": (data_command.build, "make, check and describe data sets, to learn from without an environment"),
    "bundle": (_bundle, "pack a finished run into one file, with a card"),
    "load-bundle": (_load_bundle, "open a bundle as the folder of a run"),
    "cost": (_cost, "show what an agent costs: for all sources side by side, or of a run, with its zeros"),
    "list": (_list, "list the recipes and the kinds of all parts"),
    "completion": (_completion, "print a script that completes commands in a shell"),
}
