"""Collects a data set: agents, trained or random, play in one environment, and their episodes go into a store.

The agents play one after another, each in several worlds at once. Its episodes are written in a fixed order: the first
episode of every world, then the second of every world, and so on. So how long an episode takes does not decide whether
it is kept, and the data depend on nothing but the agents, the numbers of steps and the seed. For the same reason a
collection that was killed is repeated up to where it was, and goes on from there.

Shape letters: W worlds, V vector steps of a block.
"""

import dataclasses
import itertools
import shlex
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.agent import Agent, load
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.store import Store
from sharedq.datasets.writing import StoreWriter
from sharedq.environments import Actions, Continuous, Discrete, Environment, HostEnvironment, Tokens, autoreset
from sharedq.environments.spec import EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment, Trust, needs, read_experiment
from sharedq.networks.convolution import traced_natively
from sharedq.output import bar
from sharedq.recipes import RECIPES, recipe
from sharedq.reports.human_scores import human_scale
from sharedq.runs import RunDirectory
from sharedq.settings import chosen, convert, require
from sharedq.trees import size
from sharedq.units import readable
from sharedq.validation import path as as_path

RANDOM = "random"  # the name of the agent that draws its actions
BLOCK = 128  # vector steps of an environment on the device in one compiled call
STEPS_OF_A_WORLD = 256  # with fewer steps of each, more worlds would only play what is not needed
WORLDS, WORLDS_ON_HOST = 64, 8  # the most worlds of an agent
HELD_BYTES = 2**33  # of steps that wait in memory until the worlds before theirs have ended an episode; ours

OWN = "--in lunar-lander:id=my_module:MyEnv (from Python environment=Gymnasium(MyEnv))"
WAYS = f"name a recipe, an experiment.json or the folder of a run with --in; one of your own is {OWN}"

Choose = Callable[[Any, jax.Array, Any], jax.Array]  # of a state, a key and observations [W, ...]: the actions


class Player(NamedTuple):
    """An agent that collects."""

    name: str  # as it is typed, with the step of its checkpoint
    about: str
    choose: Choose
    state: Any


class Block(NamedTuple):
    """Consecutive vector steps, leaves [V, W, ...]. Of stacks of frames these are the newest frames."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_obs: np.ndarray  # the observation that follows


def collect(
    out: str | Path,
    agents: Sequence[str | Path],
    steps: int,
    *,
    shares: Sequence[float] | None = None,
    epsilon: float = 0.0,
    seed: int = 0,
    environment: Any = None,
    trust: Trust = False,
) -> Store:
    """Makes a data set of `steps` steps, in which each agent is a group with its share (by default all the same).

    An agent is the folder of a run, whose first seed plays; `RUN@STEP` or `RUN@best` for another checkpoint than the
    last; or "random". All play in the environment of the first run. If all are random, `environment` names it: a
    recipe such as "cartpole" or "atari-cnn:game=Pong", an experiment.json, the folder of a run, an `Experiment`, or the
    settings of an environment such as `Gymnasium(MyEnv)`. Code that a file names is imported only if `trust` allows it.

    Agents act as in an evaluation. With `epsilon` an action is random with this probability where actions are discrete;
    where they are continuous, noise with this standard deviation is added to each number, which goes from -1 to 1.
    """
    out = as_path(out, "out")
    steps, seed = convert(steps, int, "steps"), convert(seed, int, "seed")
    epsilon = convert(epsilon, float, "epsilon")
    require(steps >= 1, f"steps must be at least 1, not {steps}")
    require(seed >= 0, f"seed cannot be negative: {seed}")
    require(0 <= epsilon <= 1, f"epsilon goes from 0 to 1, not {epsilon:g}")
    require(not isinstance(agents, (str, Path)) and len(agents) >= 1, "name at least one agent: a run, or random")
    shares = [convert(share, float, "a share") for share in shares or ()]
    budgets = _budgets(steps, shares or [1.0] * len(agents), len(agents))
    require(not out.exists(), f"{out} exists already: choose another name, or remove it")
    experiment, world, players = _players([str(one) for one in agents], epsilon, environment, trust)
    words = ["sharedq", "data", "collect", "--from", *(one.name for one in players), "--steps", str(steps)]
    words += ["--shares", *(f"{share:g}" for share in shares)] if shares else []
    words += ["--epsilon", f"{epsilon:g}"] if epsilon else []
    words += ["--in", str(environment)] if isinstance(environment, (str, Path)) else []
    description = Description(
        source=shlex.join([*words, "--seed", str(seed)]),
        reader="collect",
        behaviour=_behaviour(players, budgets, epsilon, world.spec.actions),
        **known_of(experiment, world.spec),
        action_meanings=experiment.action_meanings(),
    )
    files = [_checkpoint(name) / "checkpoint.json" for name in map(str, agents) if name != RANDOM]
    with bar(f"collecting {out}", "steps") as progress, StoreWriter(out, description, files) as writer:
        done, number = 0, 0
        for group, (player, budget) in enumerate(zip(players, budgets, strict=True)):
            for episode in _episodes(world, player, _seed_of(seed, group), budget):
                if number >= writer.episodes_written:
                    writer.add(episode._replace(group=group), f"episode {number}, played by {player.name}")
                number, done = number + 1, done + len(episode.reward)
                progress(done, steps)
        return writer.finish()


def known_of(experiment: Experiment, spec: EnvironmentSpec) -> dict[str, Any]:
    """What the settings of an environment of ours tell about data from it, as fields of a `Description`."""
    settings, plain = experiment.environment, experiment.to_dict()["environment"]
    return {
        "spec": spec,
        "stack": depth_of(spec),
        "environment": plain,
        "action_repeat": getattr(settings, "frame_skip", getattr(settings, "action_repeat", None)),
        "sticky_actions": getattr(settings, "sticky", None),
        "reference_scores": human_scale(plain),
    }


def depth_of(spec: EnvironmentSpec) -> int | None:
    """How many frames an observation has, if it is a stack of frames that begins black."""
    return spec.observation.shape[-1] if spec.stacks == "black" else None


def _budgets(steps: int, shares: Sequence[float], agents: int) -> list[int]:
    """The steps of each agent, which add up to `steps`."""
    require(len(shares) == agents, f"there are {agents} agents and {len(shares)} shares: give one share for each")
    for share in shares:
        require(share > 0, f"a share must be above 0, not {share:g}: leave the agent out")
    edges = [round(steps * edge / sum(shares)) for edge in itertools.accumulate(shares, initial=0.0)]
    budgets = [after - before for before, after in itertools.pairwise(edges)]
    require(min(budgets) >= 1, f"{steps} steps are too few for these shares: an agent would have none")
    return budgets


def _players(
    agents: Sequence[str], epsilon: float, environment: Any, trust: Trust
) -> tuple[Experiment, Environment | HostEnvironment, list[Player]]:
    """The experiment whose environment they play in, the environment, and the agents."""
    loaded = [None if one == RANDOM else _load(one, trust) for one in agents]
    runs = [agent for agent in loaded if agent is not None]
    if runs:
        require(environment is None, "the agents play in the environment of the first run: leave out --in")
        experiment, world = runs[0].experiment, runs[0].environment
    else:
        require(environment is not None, f"random agents need an environment: {WAYS}")
        experiment = _experiment(environment, trust)
        world = experiment.built("environment")
    players = []
    for name, agent in zip(agents, loaded, strict=True):
        if agent is None:
            players.append(Player(RANDOM, "random actions", _random(world.spec.actions), ()))
            continue
        if agent.experiment.to_dict()["environment"] != experiment.to_dict()["environment"]:
            raise SharedqError(
                f"{name} was trained in another environment than the first run, {agents[loaded.index(runs[0])]}: "
                "collect a data set for each"
            )
        act, state = agent.policy
        run, at = _split(name)
        about = f"the agent of {Path(run).name} at step {agent.step:,}{' (its best)' if at == 'best' else ''}"
        choose = _disturbed(act, world.spec.actions, epsilon)
        players.append(Player(f"{run}@{at if at == 'best' else agent.step}", about, choose, state))
    return experiment, world, players


def _load(text: str, trust: Trust) -> Agent:
    run, checkpoint = _split(text)
    return load(run, checkpoint=checkpoint, trust=trust)


def _split(text: str) -> tuple[str, str]:
    """The folder of a run, and which of its checkpoints."""
    run, at, checkpoint = text.rpartition("@")
    return (text, "last") if not at or Path(text).is_dir() else (run, checkpoint)


def _checkpoint(text: str) -> Path:
    run, checkpoint = _split(text)
    return RunDirectory.open(run).checkpoint(checkpoint)


def _experiment(given: Any, trust: Trust) -> Experiment:
    """The experiment of a file, of a run, or of a recipe, whose environment may have other settings."""
    found = given if isinstance(given, Experiment) else _named(given, trust)
    if needs(found.environment):
        raise SharedqError(
            f"'{found.kind('environment')}' only describes recorded data and cannot be played in: {WAYS}"
        )
    return found


def _named(given: Any, trust: Trust) -> Experiment:
    if not isinstance(given, (str, Path)):
        return Experiment(environment=given)
    text = str(given)
    if text.endswith(".json"):
        return read_experiment(Path(text), trust).trusted(trust)
    if text not in RECIPES and (isinstance(given, Path) or Path(text).is_dir() or "/" in text.partition(":")[0]):
        return Experiment.from_dict(RunDirectory.open(text).experiment(), trust)
    wanted = chosen(text, RECIPES)
    try:
        base = recipe(wanted.kind)
    except SharedqError as error:
        raise SharedqError(f"{error}; in an environment of your own: {OWN}") from None
    changed = base.parse({name: str(value) for name, value in wanted.fields.items()})
    if dataclasses.replace(changed, environment=base.environment) != base:
        raise SharedqError(f"--in {given} sets more than the environment: random agents need no more")
    return changed


def _random(actions: Actions) -> Choose:
    def choose(state: Any, key: jax.Array, obs: Any) -> jax.Array:
        shape = (len(obs), *actions.one.shape)
        if isinstance(actions, Discrete):
            return jax.random.randint(key, shape, 0, actions.n)
        if isinstance(actions, Tokens):  # texts of full length, each with the token that ends it
            return jax.random.randint(key, shape, 0, actions.vocabulary).at[:, -1].set(actions.closes)
        return jax.random.uniform(key, shape, actions.one.dtype, -1, 1)

    return choose


def _disturbed(act: Choose, actions: Actions, epsilon: float) -> Choose:
    """The policy with extra random actions, or with noise on continuous ones."""
    if not epsilon:
        return act
    drawn = _random(actions)

    def choose(state: Any, key: jax.Array, obs: Any) -> jax.Array:
        act_key, when_key, other_key = jax.random.split(key, 3)
        action = act(state, act_key, obs)
        if not isinstance(actions, Continuous):
            when = jax.random.uniform(when_key, action.shape[:1]) < epsilon
            return jnp.where(when.reshape(-1, *(1,) * (action.ndim - 1)), drawn(state, other_key, obs), action)
        return (action + epsilon * jax.random.normal(other_key, action.shape, action.dtype)).clip(-1, 1)

    return choose


def _behaviour(players: Sequence[Player], budgets: Sequence[int], epsilon: float, actions: Actions) -> str:
    steps = sum(budgets)
    told = [f"{budget / steps:.0%} {player.about}" for player, budget in zip(players, budgets, strict=True)]
    text = players[0].about if len(players) == 1 else f"a mixture of {', '.join(told)}"
    if not epsilon or all(player.name == RANDOM for player in players):
        return text
    if not isinstance(actions, Continuous):
        return f"{text}; of the agents' actions {epsilon:.1%} are random"
    return f"{text}; noise with standard deviation {epsilon:g} on the agents' actions"


def _seed_of(seed: int, place: int) -> int:
    """The seed of the worlds of one agent. No training begins with the same episodes."""
    return int(np.random.SeedSequence((seed, crc32(b"collect"), place)).generate_state(1)[0] >> 1)


def _episodes(world: Environment | HostEnvironment, player: Player, seed: int, budget: int) -> Iterator[Episode]:
    """The episodes of one agent in their order. They have `budget` steps in all: the last one is cut."""
    on_host = isinstance(world, HostEnvironment)
    count = max(1, min(WORLDS_ON_HOST if on_host else WORLDS, budget // STEPS_OF_A_WORLD))
    tracks, left = [_Track() for _ in range(count)], budget
    turns = itertools.cycle(tracks)
    track = next(turns)
    play: Callable[..., Generator[Block, None, None]] = _host_blocks if on_host else _device_blocks
    blocks = play(world, player, seed, count)
    with closing(blocks):
        for block in blocks:
            for place, one in enumerate(tracks):
                one.add(Block(*(x[:, place] for x in block)))
            while (episode := track.next(left)) is not None:
                yield episode
                left -= len(episode.reward)
                if not left:
                    return
                track = next(turns)
            held = sum(one.held for one in tracks) * size(block[:3]) // block.reward.size
            require(
                held <= HELD_BYTES,
                f"the episodes of {player.name} are so long that the steps of {count} worlds side by side take "
                f"{readable(held)} of memory: collect fewer steps at once (one world plays less than "
                f"{2 * STEPS_OF_A_WORLD})",
            )


class _Track:
    """What one world has played and nobody has taken yet."""

    def __init__(self) -> None:
        self._ended: deque[Episode] = deque()
        self._begun: list[Block] = []  # of the episode that goes on, leaves [V, ...]
        self._length = 0  # of the episode that goes on
        self.held = 0  # all steps that wait here

    def add(self, block: Block) -> None:
        begin = 0
        self.held += len(block.reward)
        for last in np.nonzero(block.terminated | block.truncated)[0].tolist():
            self._begun.append(Block(*(x[begin : last + 1] for x in block)))
            self._ended.append(_joined(self._begun, End.TERMINATED if block.terminated[last] else End.TRUNCATED))
            self._begun, self._length, begin = [], 0, last + 1
        if begin < len(block.reward):
            self._begun.append(Block(*(x[begin:] for x in block)))
            self._length += len(block.reward) - begin

    def next(self, most: int) -> Episode | None:
        """The next episode, cut after `most` steps. None if that many are not played yet, nor to its end."""
        if self._ended:
            episode = self._ended.popleft()
            self.held -= len(episode.reward)
            return _cut(episode, most)
        if self._length < most:
            return None
        return _cut(_joined(self._begun, End.TRUNCATED), most)


def _joined(blocks: Sequence[Block], end: End) -> Episode:
    obs = np.concatenate([*(block.obs for block in blocks), blocks[-1].final_obs[-1:]])
    action, reward = (np.concatenate([block[place] for block in blocks]) for place in (1, 2))
    return Episode(obs, action, reward, end)


def _cut(episode: Episode, most: int) -> Episode:
    if len(episode.reward) <= most:
        return episode
    return Episode(episode.obs[: most + 1], episode.action[:most], episode.reward[:most], End.TRUNCATED)


def _device_blocks(environment: Environment, player: Player, seed: int, count: int) -> Generator[Block, None, None]:
    key, kept = random_keys.root(seed), depth_of(environment.spec) is not None
    act_key, world_key = random_keys.named(key, "act"), random_keys.named(key, "environment")
    step_all = jax.vmap(autoreset(environment).step)

    @jax.jit
    def play(agent: Any, carry: Any, begin: jax.Array) -> Any:
        def step(carry: Any, time: jax.Array) -> Any:
            state, obs = carry
            action = player.choose(agent, random_keys.at(act_key, time), obs)
            state, outcome = step_all(jax.random.split(random_keys.at(world_key, time), count), state, action)
            seen, after = ((x[..., -1] if kept else x) for x in (obs, outcome.final_obs))
            block = Block(seen, action, outcome.reward, outcome.terminated, outcome.truncated, after)
            return (state, outcome.obs), block

        return jax.lax.scan(step, carry, begin + jnp.arange(BLOCK))

    firsts = jax.random.split(random_keys.named(key, "first episodes"), count)
    carry = jax.vmap(environment.reset)(firsts)
    for number in itertools.count():
        carry, block = play(player.state, carry, jnp.int32(number * BLOCK))
        yield Block(*(np.asarray(x) for x in block))


def _host_blocks(environment: HostEnvironment, player: Player, seed: int, count: int) -> Generator[Block, None, None]:
    act_key, kept = random_keys.named(random_keys.root(seed), "act"), depth_of(environment.spec) is not None
    choose = jax.jit(traced_natively(player.choose))
    with closing(environment.open(count, seed)) as worlds:
        obs = worlds.reset()
        for time in itertools.count():
            action = np.asarray(choose(player.state, random_keys.at(act_key, time), obs))
            outcome = worlds.step(action)
            seen, after = ((x[..., -1] if kept else x) for x in (obs, outcome.final_obs))
            flags = (np.asarray(x) for x in (outcome.reward, outcome.terminated, outcome.truncated))
            yield Block(*(x[None] for x in (seen, action, *flags, after)))
            obs = outcome.obs
