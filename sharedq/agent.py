"""A trained agent: it acts on observations, returns its values and plays episodes."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sharedq import random_keys
from sharedq.environments import DescribedEnvironment, Environment, HostEnvironment
from sharedq.errors import SharedqError, unknown
from sharedq.experiment import Built, Experiment, Trust
from sharedq.networks.convolution import traced_natively
from sharedq.playing import MAX_STEPS, film_file
from sharedq.playing.episodes import evaluation_seed, film, first_episodes, play, play_on_host
from sharedq.runs import RunDirectory, checkpoints
from sharedq.settings import check_count, convert, require
from sharedq.trainer import spec_of
from sharedq.training.evaluation import META as BEST_META
from sharedq.training.interactive import WORLDS
from sharedq.training.memory import check_fits
from sharedq.trees import size
from sharedq.validation import numbers
from sharedq.validation import path as as_path

EPISODES = 10_000_000  # ours: the most episodes played at once, if memory allows
RATE = 1_000  # ours: the most pictures per second


class Evaluation(NamedTuple):
    returns: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray  # whether the episode ended by itself, and not at the bound on its steps


class Compiled:
    """What the agents of a run share: the parts of the experiment, and functions that are compiled only once."""

    def __init__(self, built: Built, data: Mapping[str, Any] | None = None):
        self.built, self.data = built, data or {}
        self.act = jax.jit(traced_natively(partial(built.algorithm.act, step=None)))
        self.values = jax.jit(traced_natively(built.algorithm.values))
        self._plays: dict[tuple[int, int], Any] = {}  # compiled functions, by number of episodes and of steps

    @cached_property
    def on_host(self) -> bool:
        """Whether the host steps the environment. The first access builds the environment."""
        return isinstance(self.environment, HostEnvironment)

    @property
    def environment(self) -> Any:
        """The environment to play in. Raises if the agent was trained without one."""
        if isinstance(self.built.environment, DescribedEnvironment):
            raise SharedqError(
                "the agent was trained from recorded data, without an environment to play in: train again with the "
                "--environment of the data, which is then only used to evaluate"
            )
        return self.built.environment

    def play(self, state: Any, seed: int, episodes: int, max_steps: int):
        return (self._play_on_host if self.on_host else self._play_on_device)(state, seed, episodes, max_steps)

    def _play(self, state: Any, seed: jax.Array, episodes: int, max_steps: int):
        act = partial(self.built.algorithm.act, state, step=None)
        return play(self.environment, act, seed, episodes, max_steps)

    def _play_on_device(self, state: Any, seed: int, episodes: int, max_steps: int):
        wanted = (episodes, max_steps)
        if wanted not in self._plays:
            first = jax.eval_shape(lambda: first_episodes(self.environment, seed, episodes))
            check_fits(2 * size(first), "lower --episodes")  # the current and the next states
            function = jax.jit(self._play, static_argnames=("episodes", "max_steps"))
            compiled = function.lower(state, seed, episodes=episodes, max_steps=max_steps).compile()
            scratch = compiled.memory_analysis()
            check_fits(scratch.temp_size_in_bytes if scratch else 0, "lower --episodes")
            self._plays[wanted] = compiled
        return self._plays[wanted](state, seed)

    def _play_on_host(self, state: Any, seed: int, episodes: int, max_steps: int):
        return play_on_host(self.environment, partial(self.act, state), seed, episodes, max_steps)


class Agent:
    """The agent of one seed of a run."""

    def __init__(self, compiled: Compiled, state: Any, step: int, seed: int):
        self.experiment, self.step, self.seed = compiled.built.experiment, step, seed
        self._compiled, self._state, self._calls = compiled, state, count()

    def __repr__(self) -> str:
        one, environment = self.experiment, self.built.spec.name
        return f"Agent({one.kind('algorithm')}, {one.label}, in {environment}, seed {self.seed}, step {self.step:,})"

    @property
    def built(self) -> Built:
        """The parts of the experiment, put together."""
        return self._compiled.built

    @property
    def data(self) -> Mapping[str, Any]:
        """What the run noted of the data set that it learned from; empty if it learned from none."""
        return self._compiled.data

    @property
    def state(self) -> Any:
        """The state of the algorithm, as its functions take it."""
        return self._state

    def act(self, obs: Any, draw: int | None = None) -> int | np.ndarray:
        """The action for one observation, in the environment's own form: a number, or a vector between its bounds.

        For a batch of observations [N, *shape] these are N actions, as an array. Each new N is compiled once.

        The random choices of the policy (a random action, the behaviour head) depend only on the seed and on `draw`.
        Without `draw`, the agent uses the number of the call: each call draws anew, and a newly loaded agent repeats
        the same draws.
        """
        batch, is_one = self._batch(obs)
        key = self._key(next(self._calls) if draw is None else draw)
        actions = np.asarray(self._compiled.act(self._state, key, batch))
        in_units = self._compiled.built.spec.actions.in_units
        return in_units(actions[0] if is_one else actions)

    def values(self, obs: Any, draw: int = 0) -> np.ndarray:
        """The values of the behaviour head for one observation: of every action, or, if actions are continuous, of one.

        For a batch of observations [N, *shape] they have one more axis in front. If the behaviour head is drawn at
        random, it is drawn with the number `draw`.
        """
        batch, is_one = self._batch(obs)
        values = np.asarray(self._compiled.values(self._state, self._key(draw), batch))
        return values[0] if is_one else values

    def replace(self, **options: Any) -> "Agent":
        """The same weights with other settings for acting: `evaluation_epsilon=0.05`, `behaviour_head="1"`.

        The options are those of the algorithm and of the source of targets, as in `Experiment.replace`. An option that
        changes the shape of the weights is refused.
        """
        built = self._compiled.built
        options = {self._full_name(option): value for option, value in options.items()}
        changed = built.experiment.replace(**options).build(built.spec)
        if changed.agent_shapes() != built.agent_shapes():
            raise SharedqError(
                f"{' and '.join(options)} cannot be changed after training: the trained weights would not fit"
            )
        return Agent(Compiled(changed, self.data), self._state, self.step, self.seed)

    def _full_name(self, option: str) -> str:
        """The full name of an option for acting: `target.behaviour_head`, also for `behaviour_head`."""
        known = [name for name in self.experiment.options() if name.startswith(("algorithm.", "target."))]
        found = [name for name in known if option in (name, name.partition(".")[2])]
        if not found:
            raise unknown("option of a trained agent", option, known)
        return found[0]

    @property
    def environment(self) -> Environment | HostEnvironment:
        """The environment that the agent was trained in. The first access builds it."""
        return self._compiled.environment

    @property
    def policy(self) -> tuple[Callable[[Any, jax.Array, Any], jax.Array], Any]:
        """`act(weights, key, obs [N, ...]) -> actions [N, ...]`, as in an evaluation, to be compiled; and the weights.

        The actions are those of `Discrete` and `Continuous` in environments/spec.py.
        """
        return partial(self._compiled.built.algorithm.act, step=None), self._state

    def evaluate(self, episodes: int = 10, seed: int = 0, max_steps: int = MAX_STEPS) -> Evaluation:
        """Plays episodes in the environment that the agent was trained in."""
        episodes, seed, max_steps = checked_game(episodes, seed, max_steps, self._compiled.on_host)
        played = self._compiled.play(self._state, evaluation_seed(seed), episodes=episodes, max_steps=max_steps)
        return Evaluation(*(np.asarray(x) for x in played))

    def record(
        self, out: str | Path, seed: int = 0, max_steps: int = MAX_STEPS, rate: int = 15, overwrite: bool = False
    ) -> tuple[Path, float]:
        """Films one episode at `rate` pictures per second. Returns the path of the film and the return of the episode.

        The ending of `out` chooses MP4 or GIF; without the program ffmpeg a GIF is written instead of an MP4. A file
        that is not a film of sharedq is replaced only with `overwrite`.
        """
        out, max_steps, rate = as_path(out, "out"), _whole("max_steps", max_steps), _whole("rate", rate)
        check_count("max_steps", max_steps)
        require(rate >= 1, f"rate must be at least 1 frame per second, not {rate}")
        check_count("rate", rate, most=RATE)
        seed = _first_seed(seed)
        act = partial(self._compiled.act, self._state)
        returned = 0.0

        def pictures():
            nonlocal returned
            returned = yield from film(self._compiled.environment, act, evaluation_seed(seed), max_steps)

        return film_file.write(out, pictures(), rate, overwrite), returned

    def _key(self, draw: int) -> jax.Array:
        return random_keys.at(random_keys.root(self.seed), draw if type(draw) is int else _whole("draw", draw))

    def _batch(self, obs: Any) -> tuple[np.ndarray, bool]:
        """The observations as a batch, and whether one was given alone."""
        wanted = self._compiled.built.spec.observation
        try:
            found = numbers(obs, wanted, "observation", or_batch=True)
        except SharedqError as error:
            if not isinstance(obs, (Mapping, tuple)):
                raise
            flatten = "gymnasium.spaces.utils.flatten(env.observation_space, obs)"
            raise SharedqError(f"{error}; the vector of a Dict or a Tuple of observations is {flatten}") from None
        is_one = found.ndim == len(wanted.shape)
        return (found[None] if is_one else found), is_one


def _whole(name: str, value: Any) -> int:
    return convert(value, int, name)


def checked_game(episodes: Any, seed: Any, max_steps: Any, on_host: bool = False) -> tuple[int, int, int]:
    """The settings of `Agent.evaluate` as whole numbers. Raises if such episodes cannot be played."""
    episodes, max_steps = _whole("episodes", episodes), _whole("max_steps", max_steps)
    check_count("episodes", episodes, most=WORLDS if on_host else EPISODES)
    check_count("max_steps", max_steps)
    return episodes, _first_seed(seed), max_steps


def _first_seed(seed: Any) -> int:
    found = _whole("seed", seed)
    require(found >= 0, f"seed cannot be negative: {found}")
    return found


def load(run: str | Path, seed: int | None = None, *, checkpoint: str | int = "last", trust: Trust = False) -> Agent:
    """The agent of a run's last checkpoint, of the run's first seed unless `seed` is given.

    `checkpoint` may also be the step of another checkpoint that the run keeps, or "best": the agent with the best
    evaluation, if the run evaluated while it trained. Code that the run names is imported only if `trust` allows it:
    `True` allows all, a list these import strings.
    """
    agents = load_all(run, checkpoint=checkpoint, trust=trust)
    found = [agent for agent in agents if seed in (None, agent.seed)]
    if not found:
        raise SharedqError(f"{run} has no seed {seed}: choose from {', '.join(str(agent.seed) for agent in agents)}")
    return found[0]


def load_all(run: str | Path, *, checkpoint: str | int = "last", trust: Trust = False) -> list[Agent]:
    """The agents of a run's checkpoint, one for each seed; see `load`. Of the best, each has a step of its own."""
    directory = RunDirectory.open(run)
    experiment = Experiment.from_dict(directory.experiment(), trust)
    path = directory.checkpoint(checkpoint)
    best = checkpoints.is_best(path)
    meta = checkpoints.read_meta(
        path, directory.digests(), BEST_META if best else Any, oldest=directory.oldest_checkpoint()
    )
    compiled = Compiled(experiment.build(spec_of(directory)), directory.data())
    seeds = experiment.all_seeds
    one = compiled.built.agent_shapes()
    every = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(seeds), *x.shape), x.dtype), one)
    states = checkpoints.load_agent(path, every)
    steps = meta["steps"] if best else [int(path.name)] * len(seeds)
    return [
        Agent(compiled, jax.tree.map(itemgetter(place), states), step, seed)
        for place, (seed, step) in enumerate(zip(seeds, steps, strict=True))
    ]
