"""An experiment: environment, algorithm, source of targets, network, replay, sampler, training and seeds, as settings.

Only this file imports all kinds of parts. An experiment can be changed by option names, written to JSON and read back.
It builds the program that trains it and the agent that acts.
"""

import dataclasses
import inspect
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from sharedq import formats, old_names, random_keys, settings
from sharedq.algorithms import ALGORITHMS, DQN, Algorithm, learning_of
from sharedq.analysis import MEASURES
from sharedq.analysis.cost import Cost, cost_of
from sharedq.analysis.measure import Measure, guarded
from sharedq.analysis.measure import check as check_measure
from sharedq.analysis.sampler_inputs import estimates_of, features_of
from sharedq.datasets import DATA
from sharedq.environments import ENVIRONMENTS, DescribedEnvironment, Environment, EnvironmentSpec
from sharedq.environments import check as check_environment
from sharedq.environments.spec import to_json
from sharedq.errors import SharedqError, unknown
from sharedq.imports import own_errors
from sharedq.json_files import read_json
from sharedq.networks import NETWORKS, Convolutional
from sharedq.replay import REPLAYS, Replay, Storage, Transitions
from sharedq.samplers import SAMPLERS, Uniform
from sharedq.samplers import check as check_sampler
from sharedq.settings import COUNTABLE, Chosen, chosen, require
from sharedq.tables import Table, needs_import, require_packages
from sharedq.targets import SOURCES, TargetNetwork
from sharedq.training import TRAININGS, Fused
from sharedq.training.learning import example_batch, example_step, step_like
from sharedq.training.measuring import Measuring, measuring
from sharedq.training.memory import check_fits
from sharedq.training.program import Program
from sharedq.trees import size

TABLES = {
    part: Table(part, kinds)
    for part, kinds in {
        "environment": ENVIRONMENTS,
        "algorithm": ALGORITHMS,
        "target": SOURCES,
        "network": NETWORKS,
        "replay": {**REPLAYS, **DATA},
        "sampler": SAMPLERS,
        "training": TRAININGS,
    }.items()
}

MEASURE = Table("measure", MEASURES)  # of `training.measures`, of which there can be several

NO_TARGET = "none"  # the kind of the target in a saved experiment whose algorithm asks no source for targets

SHORT = {  # other names of options, beside the last name that every option has
    "steps": "training.steps",
    "game": "environment.game",
    "lr": "algorithm.learning_rate",
    "data": "replay.path",
}


Trust = bool | Collection[str]  # the code of an experiment that may be imported: all, none, or these import strings


@dataclass(frozen=True)
class Experiment:
    """Each part is a settings object of one of its kinds. You can also give the name of a kind, or `(name, fields)`."""

    environment: Any
    algorithm: Any = field(default_factory=DQN)
    target: Any = field(default_factory=TargetNetwork)
    network: Any = field(default_factory=Convolutional)
    replay: Any = field(default_factory=Transitions)
    sampler: Any = field(default_factory=Uniform, kw_only=True)
    training: Any = field(default_factory=Fused)
    seeds: int = 1  # number of seeds, trained in parallel
    seed: int = 0  # the first seed; the others are the numbers after it

    def __post_init__(self):
        _refuse_bare(self.environment)
        for part, table in TABLES.items():
            object.__setattr__(self, part, settings.make(table, getattr(self, part)))
        for name in ("seeds", "seed"):
            object.__setattr__(self, name, settings.convert(getattr(self, name), int, name))
        require(self.seeds >= 1, f"seeds must be at least 1, not {self.seeds}")
        require(self.seed >= 0, f"seed cannot be negative: {self.seed}")
        require(self.seed + self.seeds <= COUNTABLE, f"seeds go up to {COUNTABLE:,}: lower seed {self.seed}")
        self.training.check_length()

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    @property
    def uses_target(self) -> bool:
        """Whether the algorithm learns from the targets of a source. Behaviour cloning has none."""
        return getattr(self.algorithm, "uses_target", True)

    @property
    def label(self) -> str:
        """What a run is called: by its source of targets, or by its algorithm if that asks no source."""
        return self.target.label if self.uses_target else self.algorithm.label

    def action_meanings(self) -> tuple[str, ...] | None:
        """The names of the environment's actions, if it tells them."""
        return getattr(self.environment, "action_meanings", lambda: None)()

    def kind(self, part: str) -> str:
        """The name of a part's kind."""
        return TABLES[part].name_of(type(getattr(self, part)))

    def replace(self, **options: Any) -> "Experiment":
        """The experiment with other settings: `target="shared_heads"`, `**{"target.heads": 9}`, `steps=20_000`.

        A new kind keeps the settings that it shares with the old kind. So all sources of a comparison keep the period.
        With fewer `steps`, an evaluation period that is longer, and that is not among the options, becomes as short.
        """
        names = self.full_names(options)
        options = {names[option]: value for option, value in options.items()}
        options |= self._shortened(options)
        changes: dict[str, dict[str, Any]] = {}
        kinds = {part: options[part] for part in TABLES if part in options}
        for part, given in kinds.items():
            if (kind := _current_kind(part, given)) is not given:
                warnings.warn(f"{part} '{given}' is called '{kind}' now", FutureWarning, stacklevel=3)
                kinds[part] = kind
        own: dict[str, Any] = {}
        for option, value in options.items():
            part, _, name = option.partition(".")
            if part in TABLES and name:
                changes.setdefault(part, {})[name] = value
            elif option in ("seeds", "seed"):
                own[option] = value
            elif option not in kinds:
                raise unknown("option", option, [*self.options(), *SHORT])
        for part in {**kinds, **changes}:
            own[part] = self._part(part, kinds.get(part, self.kind(part)), changes.get(part, {}))
        return dataclasses.replace(self, **own)

    def _shortened(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The evaluation period that goes with the steps among these options, by their full names."""
        period, steps = getattr(self.training, "evaluation_period", None), options.get("training.steps")
        given = "training.evaluation_period" in options or not isinstance(options.get("training", ""), str)
        if period is None or steps is None or given:
            return {}
        steps = settings.convert(steps, int, "training.steps")
        return {"training.evaluation_period": steps} if steps < period else {}

    def full_names(self, options: Mapping[str, Any]) -> dict[str, str]:
        """The full name of each option, as it is now. A warning tells the new name to whoever uses an old one."""
        _refuse_bare(options.get("environment"))
        found: dict[str, str] = {}
        for option in options:
            full = self._full_name(option, options)
            part, _, name = full.partition(".")
            if full in old_names.OPTIONS and name not in self._fields(part, options.get(part)):
                warnings.warn(f"{full} is called {old_names.OPTIONS[full]} now", FutureWarning, stacklevel=4)
                full = old_names.OPTIONS[full]
            if full in found.values():
                raise SharedqError(f"{full} is given twice, by two of its names: which of the two?")
            found[option] = full
        return found

    def _full_name(self, option: str, options: Mapping[str, Any]) -> str:
        """The full name of an option, of which its last name is enough if no other option has the same."""
        if option in SHORT or "." in option or option in (*TABLES, "seeds", "seed"):
            return SHORT.get(option, option)
        found = [f"{part}.{option}" for part in TABLES if option in self._fields(part, options.get(part))]
        if len(found) > 1:
            raise SharedqError(f"--{option} can be {' or '.join(f'--{one}' for one in found)}: write it in full")
        return found[0] if found else option

    def _fields(self, part: str, kind: Any) -> set[str]:
        """The names of the fields of a part, or of the kind that takes its place."""
        if isinstance(kind, tuple):  # a kind with fields
            kind = kind[0]
        if isinstance(kind, str):
            kind = TABLES[part][_current_kind(part, kind)]
        kind = getattr(self, part) if kind is None else kind
        return {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()

    def _part(self, part: str, kind: Any, fields: Mapping[str, Any]) -> Any:
        if not isinstance(kind, str):
            return dataclasses.replace(settings.make(TABLES[part], kind), **fields)
        return Chosen(kind, _kept(getattr(self, part), TABLES[part][kind]) | dict(fields))

    def options(self) -> dict[str, settings.Option]:
        """Every option that can be set, by its name on the command line."""
        found = {}
        for part, table in TABLES.items():
            value = getattr(self, part)
            found[part] = settings.Option("|".join(table), self.kind(part), f"which {part}")
            found |= {f"{part}.{name}": option for name, option in settings.options_of(value).items()}
        return found | {n: o for n, o in settings.options_of(self).items() if n in ("seeds", "seed")}

    def parse(self, texts: Mapping[str, str]) -> "Experiment":
        """Like `replace`, with the values as text, as they are typed."""
        names = self.full_names(texts)
        texts = {names[option]: text for option, text in texts.items()}
        kinds = {part: text for part, text in texts.items() if part in TABLES}
        changed = self.replace(**kinds)
        known = changed.options()
        for option in texts:
            part, _, name = option.partition(".")
            if option in known or (part in TABLES and not name):
                continue
            if elsewhere := _elsewhere(part, name, known):
                raise SharedqError(f"there is no option --{option}: did you mean {' or '.join(elsewhere)}?")
            if part in TABLES and name:  # says which kind it is that lacks the option
                changed.replace(**{option: texts[option]})
            last = {one.rpartition(".")[2] for one in known}
            raise unknown("option", f"--{option}", {f"--{one}" for one in (*known, *SHORT, *last)})
        try:
            return changed.replace(**{option: text for option, text in texts.items() if option not in kinds})
        except SharedqError as error:
            raise SharedqError(_with_typed_name(str(error), names)) from None

    def to_dict(self) -> dict[str, Any]:
        """Every setting and the kind of every part, in a form that JSON can hold; an ignored target is "none"."""
        plain = {part: {"kind": self.kind(part), **settings.to_plain(getattr(self, part))} for part in TABLES}
        if not self.uses_target:
            plain["target"] = {"kind": NO_TARGET}
        packages = self.packages()
        return plain | {"seeds": self.seeds, "seed": self.seed} | ({"packages": packages} if packages else {})

    def packages(self) -> dict[str, str]:
        """The installed packages that bring kinds of this experiment, by part and name of the kind."""
        kinds = [(table, self.kind(part)) for part, table in TABLES.items() if part != "target" or self.uses_target]
        kinds += [(MEASURE, chosen(text, MEASURE).kind) for text in getattr(self.training, "measures", ())]
        found = {f"{table.part} '{name}'": table.package_of(name) for table, name in kinds}
        return {name: package for name, package in found.items() if package is not None}

    def imports(self) -> list[str]:
        """The import strings `package.module:name` of code that building the experiment imports and runs."""
        parts = [getattr(self, part) for part in TABLES]
        kinds = [kind for kind in map(self.kind, TABLES) if needs_import(kind)]
        return kinds + [reference for part in parts if hasattr(part, "imports") for reference in part.imports()]

    def trusted(self, trust: Trust) -> "Experiment":
        """Returns the same experiment; raises if it would import code that is not trusted."""
        _refuse_strangers(self.imports(), trust)
        return self

    @staticmethod
    def from_dict(plain: Mapping[str, Any], trust: Trust = False) -> "Experiment":
        """The experiment that `to_dict` described; raises if it names code that is not trusted."""
        return Experiment.described(plain, trust).trusted(trust)

    @staticmethod
    def described(plain: Mapping[str, Any], trust: Trust = False) -> "Experiment":
        """Like `from_dict`, but the experiment may name code that would be imported only when it is built.

        A kind `package.module:Class` must be imported here to be described, so it must be trusted.
        """
        try:
            require_packages(plain.get("packages", {}))
            parts = {}
            saved = {part: plain[part] for part in TABLES if part in plain}  # an absent part takes its default
            targetless = saved.get("target", {}).get("kind") == NO_TARGET
            if targetless:
                del saved["target"]
            _refuse_strangers([one["kind"] for one in saved.values() if needs_import(one["kind"])], trust)
            for part, one in saved.items():
                fields = _current_fields(part, {**one, "kind": _current_kind(part, one["kind"])})
                parts[part] = Chosen(fields.pop("kind"), fields)
            if "environment" not in parts:
                raise KeyError("environment")
            found = Experiment(**parts, seeds=plain["seeds"], seed=plain["seed"])
            if targetless and found.uses_target:
                raise ValueError(f"algorithm '{found.kind('algorithm')}' needs a source of targets, and there is none")
            return found
        except KeyError as error:
            raise SharedqError(f"not a complete experiment: {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise SharedqError(f"not a complete experiment: {error}") from None

    def pinned(self) -> "Experiment":
        """The same experiment with the checksums of the data that it learns from, by which other data are refused."""
        parts = {part: getattr(self, part) for part in TABLES}
        return dataclasses.replace(self, **{n: one.pinned() for n, one in parts.items() if hasattr(one, "pinned")})

    def build(self, spec: EnvironmentSpec | None = None) -> "Built":
        """Puts the parts together. If `spec` is given, the environment itself is not built yet."""
        environment = None
        if spec is None:
            environment = self.built("environment", *(getattr(self, part) for part in needs(self.environment)))
            spec = environment.spec
        algorithm = self.built("algorithm", spec, self.target, self.network)
        self._check_fit(algorithm.learns_from)
        for part in TABLES:
            if hasattr(one := getattr(self, part), "check"):
                with self._blaming(part):
                    one.check(self, spec)
        known = {"training": self.training, "algorithm": algorithm}
        for part in (needed := needs(self.replay)):
            told = f"replay '{self.kind('replay')}' needs '{part}', and a replay can need {' and '.join(known)} only"
            require(part in known, told)
        more = [known[part] for part in needed]
        replay = self.built("replay", step_like(spec), self.algorithm.gamma, self.training.environments, *more)
        if isinstance(replay, Storage):
            replay = self._drawn(replay, spec, algorithm)
        return Built(self, spec, algorithm, replay, environment)

    def _drawn(self, storage: Storage, spec: EnvironmentSpec, algorithm: Algorithm) -> Replay:
        """The replay of a storage from which the sampler draws."""
        own, kind, training = storage.spec, self.kind("sampler"), self.training
        first = getattr(training, "warm_up", 0) // own.environments  # steps of each environment before the first update
        filled = (min(first, own.rows) - own.n_step + 1) * own.environments
        own = own._replace(steps=training.steps, filled=max(filled, 0))
        if getattr(self.sampler, "needs_estimates", False):
            require(
                estimates_of(algorithm, *shapes_of(algorithm, spec, own.batch_size)) > 1,
                f"sampler '{kind}' compares several estimates of a value, and with target '{self.kind('target')}' "
                "there is one: add --target iterated_networks, or --target shared_heads --target.heads 3",
            )
        if getattr(self.sampler, "needs_features", False):
            features, count = features_of(kind, algorithm, *shapes_of(algorithm, spec, own.batch_size))
            own = own._replace(features=features, feature_count=count)
        sampler = self.built("sampler", own)
        if not TABLES["sampler"].is_ours(type(self.sampler)):
            with self._blaming("sampler"):
                check_sampler(f"sampler '{kind}'", sampler, own, example_step(spec, own.environments))
        return Replay(storage, sampler)

    def built(self, part: str, *arguments: Any) -> Any:
        """What `build` of a part gives. An environment that is not ours is checked too."""
        one = getattr(self, part)
        with self._blaming(part):
            found = one.build(*arguments)
        if isinstance(found, Environment) and not TABLES[part].is_ours(type(one)):
            check_environment(found)
        return found

    def _blaming(self, part: str) -> AbstractContextManager[None]:
        """Reports an error in the code of a part that is not ours in one line, with file and line."""
        kind = type(getattr(self, part))
        if TABLES[part].is_ours(kind):
            return nullcontext()
        return own_errors(f"{part} '{self.kind(part)}'", kind.__module__)

    def _check_fit(self, learns_from: str) -> None:
        """Whether replay and training are made for what the algorithm learns from, and for each other."""
        for part in ("replay", "training"):
            found = getattr(getattr(self, part), "learns_from", None)
            if found is None:
                raise SharedqError(f"{part} '{self.kind(part)}' does not say learns_from: see docs/adding.md")
            if found not in SERVES[learns_from]:
                raise SharedqError(
                    f"algorithm '{self.kind('algorithm')}' learns from {LEARNS_FROM[learns_from]}, and {part} "
                    f"'{self.kind(part)}' does not provide that: add --{part} {self._fitting(part, learns_from)}"
                )
        if not isinstance(self.sampler, Uniform):
            told = f"sampler '{self.kind('sampler')}' draws from what a replay has stored, and"
            nothing = f"replay '{self.kind('replay')}' stores nothing"
            why = "batches of a data set are drawn uniformly" if self.replay.learns_from == "data" else nothing
            require(self.replay.learns_from == "replay", f"{told} {why}: add --sampler uniform")
        replay, training = (getattr(self, part).learns_from for part in ("replay", "training"))
        if replay != training:
            raise SharedqError(
                f"replay '{self.kind('replay')}' is for learning from {LEARNS_FROM[replay]}, and training "
                f"'{self.kind('training')}' for learning from {LEARNS_FROM[training]}: add --training "
                f"{self._fitting('training', replay)}, or --replay {self._fitting('replay', training)}"
            )

    @staticmethod
    def _fitting(part: str, learns_from: str) -> str:
        """The kinds of a part that are made for learning from this."""
        kinds = TABLES[part].ours.items()
        return " or ".join(name for name, kind in kinds if getattr(kind, "learns_from", "") == learns_from)


LEARNS_FROM = {
    "replay": "a replay",
    "stream": "each step as it happens, without a replay",
    "data": "a data set",
}
SERVES = {"replay": ("replay", "data"), "stream": ("stream",)}  # what an algorithm that learns from this can be given


def shapes_of(algorithm: Algorithm, spec: EnvironmentSpec, size: int) -> tuple[Any, Any]:
    """The shapes of the agent of one seed, and of a batch."""
    batch = jax.eval_shape(lambda: example_batch(spec, size))
    return jax.eval_shape(algorithm.init, jax.eval_shape(random_keys.root, 0), batch), batch


def read_experiment(file: Path, trust: Trust = False) -> Experiment:
    """The experiment of a run's experiment.json. It may name code that would be imported only when it is built."""
    described = read_json(file, {"schema": int, "experiment": dict}, "name a recipe or the experiment.json of a run")
    schema, experiment = described["schema"], described["experiment"]
    if schema != formats.RUN:
        raise SharedqError(
            f"{file} was written in format {schema}, this version reads format {formats.RUN}: "
            "use the version that wrote it"
        )
    return Experiment.described(experiment, trust)


def needs(part: Any) -> tuple[str, ...]:
    """The other parts that an environment or a replay is built from. Most need none."""
    return getattr(part, "needs", ())


def _refuse_bare(given: Any) -> None:
    """Raises if an environment of Gymnasium, or what makes one, is given where settings are expected."""
    if isinstance(given, str):
        if given not in TABLES["environment"] and re.search(r"-v\d+$", given):
            raise SharedqError(
                f"'{given}' is no kind of environment: if Gymnasium has it, write --environment gymnasium "
                f"--environment.id {given} (from Python environment=Gymnasium({given!r}))"
            )
        return
    if dataclasses.is_dataclass(given) and isinstance(given, type):  # a kind of settings, of which an object is needed
        return
    if isinstance(given, type) or inspect.isroutine(given):
        name = given.__name__
    elif hasattr(given, "entry_point"):  # an `EnvSpec` of Gymnasium
        name = "spec"
    elif hasattr(given, "action_space") and hasattr(given, "reset"):  # an environment that is made already
        name = type(given).__name__
    else:
        return
    raise SharedqError(
        f"environment takes settings, not {' '.join(repr(given).split())}: write environment=Gymnasium({name}), with "
        "from sharedq.environments import Gymnasium"
    )


def _with_typed_name(message: str, names: Mapping[str, str]) -> str:
    """The error about a setting, with the option that was typed in place of the setting's full name."""
    for option, full in names.items():
        if message.startswith(f"{full} "):
            return f"--{option}{message[len(full) :]}"
    return message


def _refuse_strangers(references: Collection[str], trust: Trust) -> None:
    """Raises if an import string is not trusted."""
    if trust is not True and (strange := set(references) - set(trust or ())):
        raise SharedqError(
            f"this experiment would import and run {' and '.join(sorted(strange))}: add --trust (from Python "
            "trust=True) if you trust its author and the code that is imported here by that name"
        )


def _current_kind(part: str, kind: Any) -> Any:
    """The current name of a kind, if it is given by the name that it had in 0.1.0."""
    if isinstance(kind, str) and (current := old_names.KINDS.get(f"{part}.{kind}")) and kind not in TABLES[part]:
        return current
    return kind


def _current_fields(part: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a saved part under their current names, without removed fields that had no effect."""
    table, found = TABLES[part], {}
    known = {field.name for field in dataclasses.fields(table[fields["kind"]])}
    for name, value in fields.items():
        option = f"{part}.{name}"
        if name in known or option not in {**old_names.OPTIONS, **old_names.REMOVED}:
            found[name] = value
        elif option in old_names.OPTIONS:
            found[old_names.OPTIONS[option].partition(".")[2]] = value
        elif value != old_names.REMOVED[option]:
            found[name] = value  # which is refused as unknown
    return found


def _elsewhere(part: str, name: str, known: Mapping[str, Any]) -> list[str]:
    """Options of other parts that begin with this name, unless an option of its own part does."""
    found = [option for option in known if option.partition(".")[2].startswith(name)] if name else []
    return [] if any(option.startswith(f"{part}.") for option in found) else [f"--{option}" for option in found]


def _kept(old: Any, kind: type) -> dict[str, Any]:
    """The settings of `old` that `kind` has too."""
    hints, mine = settings.hints(kind), settings.hints(type(old))
    names = {f.name for f in dataclasses.fields(old) if hints.get(f.name) == mine[f.name]}
    if hasattr(old, "handed_on"):
        names = old.handed_on(names)
    return {name: getattr(old, name) for name in names}


@dataclass(frozen=True)
class Built:
    """The parts of an experiment, put together. Nothing is allocated yet."""

    experiment: Experiment
    spec: EnvironmentSpec
    algorithm: Algorithm
    replay: Replay
    opened: Any = None  # the environment, if its description was not known without building it

    @cached_property
    def environment(self) -> Any:
        """The built environment: an `Environment` or a `HostEnvironment`, or a description if there is none."""
        if self.opened is not None:
            return self.opened
        if needs(self.experiment.environment):  # only the data set that it was trained from would build it
            return DescribedEnvironment(self.spec)
        environment = self.experiment.built("environment")
        if to_json(environment.spec) != to_json(self.spec):
            raise SharedqError(
                f"the environment '{environment.spec.name}' is another than when the run began, as its spec.json "
                "describes it: restore the environment, or train again"
            )
        return environment

    def program(self) -> Program:
        one = self.experiment
        if hasattr(one.replay, "check_meanings"):
            one.replay.check_meanings(one.action_meanings)
        told = {"told": (one.to_dict(), to_json(self.spec), bool(one.imports()))} if needs(one.training) else {}
        return one.training.build(self.environment, self.algorithm, self.replay, one.all_seeds, self.measuring, **told)

    @cached_property
    def measuring(self) -> Measuring:
        """The measures of the run."""
        one = self.experiment
        measures = [self._measure(text) for text in one.training.measures]
        step = step_like(self.spec)
        return measuring(measures, self.algorithm, one.training.measure_period, step, one.algorithm.gamma)

    def _measure(self, text: str) -> Measure:
        """The measure that a text names, checked on the shapes of the agent."""
        found = chosen(text, MEASURE)
        name, one = found.kind, settings.make(MEASURE, found)
        require(
            self.experiment.uses_target or not getattr(one, "needs_values", False),
            f"measure '{name}' looks at the values of actions, and algorithm '{self.experiment.kind('algorithm')}' has "
            "none: leave the measure out",
        )
        module = type(one).__module__
        with own_errors(f"measure '{name}'", module):
            measure = guarded(one.build(self.algorithm, self.experiment.target), name, module)
        check_measure(name, measure, *shapes_of(self.algorithm, self.spec, self.replay.batch_size))
        return measure

    def agent_shapes(self) -> Any:
        """The shapes of the agent of one seed."""
        return shapes_of(self.algorithm, self.spec, self.replay.batch_size)[0]

    @property
    def room(self) -> int:
        """The steps that the replay can keep; 0 if it does not say."""
        return getattr(self.experiment.replay, "room", 0)

    def check_fits(self) -> None:
        """Raises if the agents and replays alone need more memory than is free; allocates nothing."""
        one = self.experiment
        agents, replays = (one.seeds * size(x) for x in (self.agent_shapes(), jax.eval_shape(self.replay.init)))
        check_fits(agents + replays, self.advice(), replays, self.room)

    def cost(self, timed: bool = False, compiled: bool = True) -> Cost:
        """The cost of one seed. With `compiled=False` it is computed at once, but lacks the memory of activations."""
        one, algorithm, replay = self.experiment, self.algorithm, jax.eval_shape(self.replay.init)
        batch = jax.eval_shape(lambda: example_batch(self.spec, self.replay.batch_size))
        step = jax.eval_shape(lambda: example_step(self.spec, one.training.environments))
        learned = step if algorithm.learns_from == "stream" else batch
        if algorithm.rollout_targets is not None:  # an update gets its targets with the batch
            key, written = jax.eval_shape(random_keys.root, 0), jax.ShapeDtypeStruct((), jax.numpy.int32)
            learned = jax.eval_shape(self.replay.sample_uniformly, replay, written, key)
        return cost_of(algorithm, learning_of(algorithm), batch, learned, replay, timed, compiled or timed)

    def advice(self) -> str:
        """Says what to lower if the run does not fit into memory."""
        return f"lower {'--replay.capacity, ' * bool(self.room)}--seeds or --training.environments"
