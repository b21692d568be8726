"""An experiment: environment, algorithm, source of targets, network, replay, training and seeds, as plain settings.

The only file that knows all wings. An experiment can be changed by option names, written to JSON and read back; it
builds the program that trains it and the agent that acts.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from sharedq import random_keys, settings
from sharedq.algorithms import ALGORITHMS, DQN, Algorithm, learning_of
from sharedq.analysis.cost import Cost, cost_of, size
from sharedq.environments import ENVIRONMENTS
from sharedq.errors import SharedqError, unknown
from sharedq.networks import NETWORKS, Convolutional, Network
from sharedq.replay import REPLAYS, FrameStacks, NoReplay, Replay, Uniform
from sharedq.settings import COUNTABLE, require
from sharedq.targets import SOURCES, TargetNetwork, TargetSource
from sharedq.training import TRAININGS, Fused, Streaming
from sharedq.training.learning import example_batch, example_step, step_like
from sharedq.training.memory import check_fits
from sharedq.training.program import Program

TABLES: dict[str, settings.Table] = {
    "environment": ENVIRONMENTS,
    "algorithm": ALGORITHMS,
    "target": SOURCES,
    "network": NETWORKS,
    "replay": REPLAYS,
    "training": TRAININGS,
}

SHORT = {"steps": "training.steps", "game": "environment.game"}  # options long typed in full


Trust = bool | Collection[str]  # in the code that an experiment names: all, none, or these import strings


def checked(part: str, value: Any) -> Any:
    """A part of an experiment, of a kind that is known, each field of the type that it is declared with."""
    if type(value) not in TABLES[part].values():
        kinds = ", ".join(kind.__name__ for kind in TABLES[part].values())
        raise SharedqError(f"{part} must be one of {kinds}, not {value!r}")
    return settings.conformed(value, part)


@dataclass(frozen=True)
class Experiment:
    environment: Any
    algorithm: Any = field(default_factory=DQN)
    target: Any = field(default_factory=TargetNetwork)
    network: Any = field(default_factory=Convolutional)
    replay: Any = field(default_factory=Uniform)
    training: Any = field(default_factory=Fused)
    seeds: int = 1  # how many seeds are trained, side by side
    seed: int = 0  # the first of them; the others follow it

    def __post_init__(self):
        for part in TABLES:
            object.__setattr__(self, part, checked(part, getattr(self, part)))
        for name in ("seeds", "seed"):
            object.__setattr__(self, name, settings.conform(getattr(self, name), int, name))
        require(self.seeds >= 1, f"seeds must be at least 1, not {self.seeds}")
        require(self.seed >= 0, f"seed cannot be negative: {self.seed}")
        require(self.seed + self.seeds <= COUNTABLE, f"seeds go up to {COUNTABLE:,}: lower seed {self.seed}")
        self.training.check()
        if self.stores and not isinstance(self.training, Streaming):
            self._check_room()

    @property
    def stores(self) -> bool:
        """Whether steps are kept to be learned from."""
        return not isinstance(self.replay, NoReplay)

    def _check_room(self) -> None:
        rows = self.replay.rows(self.training.environments)
        require(
            rows >= self.replay.n_step,
            f"replay.capacity {self.replay.capacity} leaves {rows} steps for each of {self.training.environments} "
            f"environments, fewer than replay.n_step: raise the capacity",
        )
        require(
            self.training.warm_up >= self.replay.n_step * self.training.environments,
            f"training.warm_up must be at least {self.replay.n_step * self.training.environments} steps, "
            "so that there is something to learn from at the first update",
        )

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    def replace(self, **options: Any) -> "Experiment":
        """The experiment with other settings: `target="shared_heads"`, `**{"target.heads": 9}`, `steps=20_000`.

        Another kind keeps those of the old kind's settings that it has too: a comparison of sources keeps the period.
        """
        changes: dict[str, dict[str, Any]] = {}
        kinds: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for option, value in options.items():
            option = SHORT.get(option, option)
            part, _, name = option.partition(".")
            if part in TABLES and not name:
                kinds[part] = value
            elif part in TABLES:
                changes.setdefault(part, {})[name] = value
            elif option in ("seeds", "seed"):
                own[option] = value
            else:
                raise unknown("option", option, self.options())
        for part in {**kinds, **changes}:
            own[part] = self._part(part, kinds.get(part), changes.get(part, {}))
        return dataclasses.replace(self, **own)

    def _part(self, part: str, kind: Any, fields: Mapping[str, Any]) -> Any:
        old = getattr(self, part)
        if kind is not None and not isinstance(kind, str):
            return dataclasses.replace(kind, **fields)
        name = kind or settings.kind_of(TABLES[part], old)
        return settings.make(TABLES[part], part, name, _kept(old, TABLES[part].get(name)) | dict(fields))

    def options(self) -> dict[str, settings.Option]:
        """Every option that can be set, by its name on the command line."""
        found = {}
        for part, table in TABLES.items():
            value = getattr(self, part)
            found[part] = settings.Option("|".join(table), settings.kind_of(table, value), f"which {part}")
            found |= {f"{part}.{name}": option for name, option in settings.options_of(value).items()}
        return found | {n: o for n, o in settings.options_of(self).items() if n in ("seeds", "seed")}

    def parse(self, texts: Mapping[str, str]) -> "Experiment":
        """`replace` with values as they are typed."""
        kinds = {part: text for part, text in texts.items() if part in TABLES}
        changed = self.replace(**kinds)
        known = changed.options()
        values = {}
        for option, text in texts.items():
            if option in kinds:
                continue
            full = SHORT.get(option, option)
            part, _, name = full.partition(".")
            if full not in known:
                if elsewhere := _elsewhere(part, name, known):
                    raise SharedqError(f"there is no option --{option}: did you mean {' or '.join(elsewhere)}?")
                if part in TABLES and name:  # says which kind it is that lacks the option
                    changed.replace(**{full: text})
                raise unknown("option", f"--{option}", [f"--{one}" for one in [*known, *SHORT]])
            owner = getattr(changed, part) if name else changed
            values[full] = settings.parse(text, settings.hints(type(owner))[name or full], f"--{option}")
        return changed.replace(**values)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: every setting of every part, and the kind of each part."""
        plain = {
            part: {"kind": settings.kind_of(table, getattr(self, part)), **settings.to_plain(getattr(self, part))}
            for part, table in TABLES.items()
        }
        return plain | {"seeds": self.seeds, "seed": self.seed}

    def imports(self) -> list[str]:
        """The code of others that building it imports and runs: `package.module:name` of every part that has one."""
        parts = [getattr(self, part) for part in TABLES]
        return [reference for part in parts if hasattr(part, "imports") for reference in part.imports()]

    def trusted(self, trust: Trust) -> "Experiment":
        """The same experiment, refused if it would import what is not trusted."""
        if trust is not True and (strange := set(self.imports()) - set(trust or ())):
            raise SharedqError(
                f"this experiment would import and run {' and '.join(sorted(strange))}: add --trust (from Python "
                "trust=True) if you trust whoever made it and the code that is imported here by that name"
            )
        return self

    @staticmethod
    def from_dict(plain: Mapping[str, Any], trust: Trust = False) -> "Experiment":
        """The experiment that `to_dict` described. It imports nothing, and names only code that is trusted."""
        try:
            parts = {}
            for part, table in TABLES.items():
                fields = dict(plain[part])
                parts[part] = settings.make(table, part, fields.pop("kind"), fields)
            return Experiment(**parts, seeds=plain["seeds"], seed=plain["seed"]).trusted(trust)
        except KeyError as error:
            raise SharedqError(f"not a complete experiment: {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise SharedqError(f"not a complete experiment: {error}") from None

    def build(self) -> "Built":
        environment = self.environment.build()
        algorithm = self.algorithm.build(environment, self.target, self.network)
        self._check_match(streams=algorithm.update is None)
        if isinstance(self.replay, FrameStacks):
            self.replay.check(environment.name, environment.stacks)
        replay = self.replay.build(step_like(environment), self.algorithm.gamma, self.training.environments)
        return Built(self, environment, algorithm, replay)

    def _check_match(self, streams: bool) -> None:
        """Whether replay and training suit an algorithm that learns from steps as they happen, or one that does not."""
        name = settings.kind_of(ALGORITHMS, self.algorithm)
        if streams:
            why = f"algorithm '{name}' learns from each step as it happens"
            require(not self.stores, f"{why} and keeps none: add --replay none")
            require(isinstance(self.training, Streaming), f"{why}: add --training streaming")
        else:
            why = f"algorithm '{name}' learns from a replay"
            require(self.stores, f"{why}: choose another --replay than none")
            require(not isinstance(self.training, Streaming), f"{why}: choose another --training than streaming")


def _elsewhere(part: str, name: str, known: Mapping[str, Any]) -> list[str]:
    """Options of other parts that begin with this name, if none of its own part does."""
    found = [option for option in known if option.partition(".")[2].startswith(name)] if name else []
    return [] if any(option.startswith(f"{part}.") for option in found) else [f"--{option}" for option in found]


def _kept(old: Any, kind: type | None) -> dict[str, Any]:
    """Those settings of `old` that a kind has too."""
    if kind is None:
        return {}
    hints, mine = settings.hints(kind), settings.hints(type(old))
    names = {f.name for f in dataclasses.fields(old) if hints.get(f.name) == mine[f.name]}
    if hasattr(old, "handed_on"):
        names = old.handed_on(names)
    return {name: getattr(old, name) for name in names}


class Still(NamedTuple):
    """The settings of a source whose targets stand still: what an update costs without its refresh."""

    target: Any

    def build(self, network: Network) -> TargetSource:
        return self.target.build(network)._replace(refresh=lambda step, params, state, seen: (params, state))


@dataclass(frozen=True)
class Built:
    """An experiment's parts, put together. Nothing is allocated yet."""

    experiment: Experiment
    environment: Any  # an Environment, or a HostEnvironment
    algorithm: Algorithm
    replay: Replay

    def program(self) -> Program:
        one = self.experiment
        if one.stores:
            capacity = one.replay.capacity
            require(capacity <= COUNTABLE, f"replay.capacity can be {COUNTABLE:,} at most, not {capacity:,}")
        return one.training.build(self.environment, self.algorithm, self.replay, one.all_seeds)

    def agent_shapes(self) -> Any:
        """The shapes of one seed's agent."""
        key = jax.eval_shape(random_keys.root, 0)
        batch = jax.eval_shape(lambda: example_batch(self.environment, self.replay.batch_size))
        return jax.eval_shape(self.algorithm.init, key, batch)

    def check_fits(self) -> None:
        """Refuses a run whose agents and replays alone need more memory than is free; allocates nothing."""
        one = self.experiment
        agents, replays = (one.seeds * size(x) for x in (self.agent_shapes(), jax.eval_shape(self.replay.init)))
        check_fits(agents + replays, self.advice(), replays, one.replay.capacity if one.stores else 0)

    def cost(self, timed: bool = False, compiled: bool = True) -> Cost:
        """What one seed costs. Not compiled it takes no seconds, and does not know of activations."""
        one, algorithm, replay = self.experiment, self.algorithm, jax.eval_shape(self.replay.init)
        plain = one.algorithm.build(self.environment, Still(one.target), one.network)
        batch = jax.eval_shape(lambda: example_batch(self.environment, self.replay.batch_size))
        step = jax.eval_shape(lambda: example_step(self.environment, one.training.environments))
        learned = step if algorithm.update is None else batch
        learning = learning_of(algorithm), learning_of(plain)
        return cost_of(algorithm.init, algorithm.act, *learning, batch, learned, replay, timed, compiled or timed)

    def advice(self) -> str:
        """What to lower when the run does not fit."""
        return f"lower {'--replay.capacity, ' * self.experiment.stores}--seeds or --training.environments"
