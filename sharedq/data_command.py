"""The command `sharedq data`: it parses its arguments, calls the library and prints. It has no logic of its own.

JAX is imported inside the commands, as in `command_line.py`.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedq.errors import SharedqError
from sharedq.output import bar, say

if TYPE_CHECKING:
    from sharedq.datasets.contents import ActionsAndRewards
    from sharedq.datasets.manifest import Description
    from sharedq.datasets.reader import Reader
    from sharedq.datasets.store import Store

SOURCE_HELP = "a data set, or a SOURCE as convert takes it"


def build(verb: argparse.ArgumentParser) -> Callable:
    commands = verb.add_subparsers(title="commands", dest="data_verb", metavar="COMMAND OPTIONS", required=True)
    calls = {}
    for name, (build_one, about) in VERBS.items():
        one = commands.add_parser(name, help=about, allow_abbrev=False, add_help=False)
        one.description = f"{about[0].upper()}{about[1:]}."
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        one.add_argument("-h", "--help", action=_Help, help="show this help message and exit")
        calls[name] = build_one(one)
        one.set_defaults(verb=f"data {name}")  # by which the options and errors of the command are known
    return lambda parsed: calls[parsed.data_verb](parsed)


class _Help(argparse.Action):
    """Shows the help, with the formats and their options below it where a command takes a source."""

    def __init__(self, option_strings: list[str], dest: str, **keywords: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **keywords)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        if parser.get_default("takes_source"):
            from sharedq.data_sources import sources
            from sharedq.datasets.converting import formats_help

            parser.epilog = formats_help(sources())
        parser.print_help()
        parser.exit()


def _convert(verb: argparse.ArgumentParser) -> Callable:
    verb.set_defaults(takes_source=True)
    verb.add_argument("source", metavar="SOURCE", help="FORMAT:PATH, or a path whose format shows; see below")
    verb.add_argument(
        "out",
        metavar="OUT",
        help="folder of the new data set; minari:namespace/name-v0 gives a data set (SOURCE) to Minari instead, "
        "with the options --author, --email and --form hdf5, arrow or parquet",
    )

    def call(parsed):
        from sharedq.data_sources import convert

        store = convert(parsed.source, parsed.out, **_options(parsed))
        say(f"data set: {parsed.out}, {_size(store)}")
        for line in _warnings(store.description, store.manifest.ends):
            say(line)

    return call


def _inspect(verb: argparse.ArgumentParser) -> Callable:
    _takes_data(verb)

    def call(parsed):
        from sharedq.datasets.contents import Contents

        with _opened(parsed) as (data, description, parts):
            contents = Contents(description, parts)
        manifest = getattr(data, "manifest", None)
        for name, text in _table(description, contents, manifest):
            say(f"{name:15}{text}")
        for line in _warnings(description, contents.ends_by_name):
            say(line)

    return call


def _stats(verb: argparse.ArgumentParser) -> Callable:
    _takes_data(verb)
    verb.add_argument("--json", action="store_true", help="print the numbers as JSON")

    def call(parsed):
        from sharedq.datasets.contents import Contents

        with _opened(parsed) as (_, description, parts):
            contents = Contents(description, parts)
        say(json.dumps(contents.to_dict(), indent=2) if parsed.json else "\n".join(contents.lines()))

    return call


def _validate(verb: argparse.ArgumentParser) -> Callable:
    _takes_data(verb)

    def call(parsed):
        from sharedq.datasets.checking import check_all, found_in_source, found_in_store
        from sharedq.datasets.store import Store

        data = _data(parsed)
        if isinstance(data, Store):
            with bar(f"reading {parsed.data}", "bytes") as progress:
                data.check(progress)
        with bar(f"checking {parsed.data}", "steps") as progress:
            if isinstance(data, Store):
                found, description = found_in_store(data, progress), data.description
            else:
                found, description = found_in_source(data, progress), data.describe()
            steps, episodes, remarks = check_all(found, description)
        for remark in remarks:
            say(f"remark: {remark}")
        say(f"valid: {steps:,} steps in {episodes:,} episode{'s' * (episodes != 1)}")

    return call


def _collect(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the new data set")
    verb.add_argument(
        "--from",
        dest="agents",
        nargs="+",
        required=True,
        metavar="AGENT",
        help="who plays, each as a group of its own: the folder of a run (its first seed plays, as in an evaluation), "
        "RUN@STEP or RUN@best for another checkpoint than the last, or random",
    )
    verb.add_argument(
        "--steps",
        help="steps of all agents together; the last episode of each is cut. Without it nobody plays, and the data set "
        "is the replay that one run kept, as of sharedq data convert run:RUN",
    )
    verb.add_argument("--shares", nargs="+", metavar="SHARE", help="the share of each agent (default: all the same)")
    verb.add_argument(
        "--epsilon",
        default=0.0,
        help="where actions are discrete, the share of the agents' actions that are random; where they are continuous, "
        "the standard deviation of noise on each number, which goes from -1 to 1 (default: %(default)s)",
    )
    verb.add_argument("--seed", default=0, help="random seed of the episodes (default: %(default)s)")
    verb.add_argument(
        "--in",
        dest="environment",
        metavar="RECIPE",
        help="whose environment random agents play in: a recipe, also with settings of its environment as "
        "atari-cnn:game=Pong, an experiment.json, or the folder of a run; of your own environment of Gymnasium it is "
        "lunar-lander:id=my_module:MyEnv (default: the environment of the first run)",
    )
    verb.add_argument("--trust", action="store_true", help="import the code that a run or an experiment.json names")

    def call(parsed):
        from sharedq.collecting import collect

        if parsed.steps is None:
            from sharedq.data_sources import convert

            run, *others = parsed.agents
            given = [one for one in ("shares", "epsilon", "seed", "environment") if getattr(parsed, one)]
            if others or given or run == "random" or "@" in run:
                told = (
                    "without it the data set is the replay of one run's last checkpoint, and nothing else can be said"
                )
                raise SharedqError(f"say how many --steps they play; {told}")
            store = convert(f"run:{run}", parsed.out)
            say(f"data set: {parsed.out}, {_size(store)}, the replay of {run}")
            return
        store = collect(
            parsed.out,
            parsed.agents,
            parsed.steps,
            shares=parsed.shares,
            epsilon=parsed.epsilon,
            seed=parsed.seed,
            environment=parsed.environment,
            trust=parsed.trust,
        )
        say(f"data set: {parsed.out}, {_size(store)}, mean return {store.returns.mean():.2f}")

    return call


def _wordle(verb: argparse.ArgumentParser) -> Callable:
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the new data set")
    verb.add_argument(
        "--recipe",
        dest="mixture",  # it is no recipe of a training
        choices=("human", "mixed", "adversarial", "branch", "paper"),
        required=True,
        help="who plays: players of a human's skill, players of every skill, players that only values can tell apart, "
        "an expert with branches into mistakes, or the families of games of the paper",
    )
    verb.add_argument("--games", required=True, help="number of games")
    verb.add_argument("--seed", default=0, help="random seed of the games (default: %(default)s)")
    verb.add_argument("--words", default="wonderwords", help="wonderwords, or a text file with one word in each line")
    verb.add_argument(
        "--count", default=236, help="size of a sample of the words; none takes all (default: %(default)s)"
    )
    verb.add_argument("--words_seed", default=0, help="random seed of the sample (default: %(default)s)")
    verb.add_argument(
        "--colours",
        choices=("paper", "real"),
        default="paper",
        help="paper: yellow if the target has the letter; real: at most as often as the target does "
        "(default: %(default)s)",
    )

    def call(parsed):
        from sharedq.environments import ENVIRONMENTS
        from sharedq.settings import make
        from sharedq.tables import Table
        from sharedq.wordle_players import write_games

        named = {name: getattr(parsed, name) for name in ("words", "count", "words_seed", "colours")}
        environment = make(Table("environment", ENVIRONMENTS), ("wordle", named))
        store = write_games(parsed.out, parsed.mixture, parsed.games, parsed.seed, environment)
        won = (store.returns > -6).mean()
        say(f"data set: {parsed.out}, {_size(store)}, mean return {store.returns.mean():.2f}, {won:.1%} won")

    return call


def _takes_data(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(takes_source=True)
    verb.add_argument("data", metavar="PATH", help=SOURCE_HELP)


def _options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The options of the reader; several values of one option are a list."""
    return {name: values[0] if len(values) == 1 else ",".join(values) for name, values in parsed.options.items()}


def _data(parsed: argparse.Namespace) -> "Store | Reader":
    """The data set, or the reader of the source."""
    from sharedq.data_sources import source_reader
    from sharedq.datasets.converting import is_store
    from sharedq.datasets.store import Store

    if not is_store(parsed.data):
        return source_reader(parsed.data, _options(parsed))
    if parsed.options:
        raise SharedqError(f"--{next(iter(parsed.options))} is an option for reading other formats: leave it out")
    return Store(parsed.data)


@contextmanager
def _opened(parsed: argparse.Namespace) -> "Iterator[tuple[Store | Reader, Description, Iterator[ActionsAndRewards]]]":
    """The data, what is known about them, and their episodes, which are counted in a bar."""
    from sharedq.datasets.contents import parts_of_source, parts_of_store
    from sharedq.datasets.store import Store

    data = _data(parsed)
    with bar(f"reading {parsed.data}", "steps") as progress:
        if isinstance(data, Store):
            yield data, data.description, parts_of_store(data, progress)
        else:
            yield data, data.describe(), parts_of_source(data, progress)


def _size(store: "Store") -> str:
    episodes = store.manifest.episodes
    return f"{store.manifest.steps:,} steps in {episodes:,} episode{'s' * (episodes != 1)}"


def _table(description: "Description", contents: Any, manifest: Any) -> Iterator[tuple[str, str]]:
    """What the data are, line by line."""
    from sharedq.datasets.contents import ends_in_words
    from sharedq.environments.spec import Discrete, Tokens
    from sharedq.reports.settings_told import scores_in_words
    from sharedq.settings import as_typed
    from sharedq.units import readable

    spec, told = description.spec, contents.to_dict()
    yield "source", description.source
    yield "format", description.reader
    settings = {name: value for name, value in (description.environment or {}).items() if name != "kind"}
    set_to = ", ".join(f"{name}={as_typed(value)}" for name, value in settings.items())
    yield "environment", f"{spec.name} ({set_to})" if set_to else spec.name
    frames = f", stacks of {description.stack} frames, each kept once" if description.stack else ""
    yield "observations", f"{spec.observation.dtype}{list(spec.observation.shape)}{frames}"
    if isinstance(spec.actions, Discrete):
        names = f": {', '.join(description.action_meanings)}" if description.action_meanings else ""
        yield "actions", f"{spec.actions.n} discrete{names}"
    elif isinstance(spec.actions, Tokens):
        yield "actions", f"texts of {spec.actions.length} tokens out of {spec.actions.vocabulary}"
    else:
        bounds = f"{spec.actions.low.tolist()} .. {spec.actions.high.tolist()}"
        yield "actions", f"{spec.actions.one.shape[0]} continuous, from {bounds}"
    if description.behaviour:
        yield "behaviour", description.behaviour
    groups = len(told["groups"])
    yield "steps", f"{contents.steps:,} in {contents.episodes:,} episodes and {groups:,} group{'s' * (groups != 1)}"
    yield "ends", ends_in_words(contents.ends_by_name)
    yield "rewards", description.rewards
    if contents.episodes:
        shown = ("least", "25 %", "median", "75 %", "most", "mean")
        yield "returns", ", ".join(f"{name} {told['returns'][name]:.6g}" for name in shown)
    numbers = {"action repeat": description.action_repeat, "sticky actions": description.sticky_actions}
    yield from ((name, f"{value:g}") for name, value in numbers.items() if value is not None)
    if description.reference_scores:
        mean = "" if contents.normalised_return is None else f"; normalised mean {contents.normalised_return:.1f}"
        yield "scores", f"{scores_in_words(*description.reference_scores)}{mean}"
    if manifest is not None:
        yield "size", readable(sum(file["bytes"] for file in manifest.files.values()))
        yield "content", manifest.content
        yield "made", f"{manifest.made} by sharedq {manifest.version}"
    for note in description.notes:
        yield "note", note


def _warnings(description: "Description", ends: dict[str, int]) -> Iterator[str]:
    if unknown := ends["unknown"]:
        yield (
            f"warning: the data do not tell whether {unknown:,} of {sum(ends.values()):,} episodes ended by themselves "
            "or at a time limit"
        )
    if description.rewards == "unknown":
        yield "warning: the data do not tell how their rewards were treated, for example whether they were clipped"


VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], Callable], str]] = {
    "inspect": (_inspect, "show what a data set is: its source, its spaces, its episodes and how they end"),
    "validate": (_validate, "check every file and every episode of a data set"),
    "convert": (_convert, "make a data set of other people's files, or of the replay of a run"),
    "collect": (_collect, "make a data set with agents, trained or random, in their environment"),
    "wordle": (_wordle, "make a data set of games of Wordle that scripted players play"),
    "stats": (_stats, "count returns, lengths, actions and rewards of a data set"),
}

TAKES_OPTIONS = ("data inspect", "data validate", "data convert", "data stats")  # those of the reader

WRITES = ("data convert", "data collect", "data wordle")  # these continue even if nobody reads their output
