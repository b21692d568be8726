"""The contract of a measure, which looks at learning from outside. Its numbers become columns of the log.

The settings of a measure are a frozen dataclass with `build(algorithm, target) -> Measure`. Beside the algorithm it
gets the settings of the source that the algorithm stands on. A measure that cannot serve an algorithm raises a
`SharedqError` that says what would fit. One with the class attribute `needs_values = True` is refused where an
algorithm asks no source for targets: what behaviour cloning gives as values are log probabilities.

Some measures look at single updates: `at_update` is called at every `training.measure_period`-th one, inside the
compiled loop. Others look at many states: `at_log` is called at every row of the log, and `summarise` finishes its
result on the host, where there are functions that a compiled loop should not call, such as a singular value
decomposition.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm
from sharedq.imports import own_errors
from sharedq.networks import Network
from sharedq.settings import require
from sharedq.targets.source import RefreshInfo
from sharedq.transitions import Batch

STATES = 2048  # transitions that `at_log` gets, as in the public iS-DQN code


class UpdateInfo(NamedTuple):
    """One update, as a measure sees it."""

    before: Any  # the agent before the update
    after: Any  # the agent after the gradient step and before the source's refresh
    batch: Batch  # the transitions that the update learned from
    other: Batch  # transitions that were drawn independently of it
    key: jax.Array  # for the random choices of a loss
    step: jax.Array  # the number of the update


class Init(Protocol):
    def __call__(self, agent: Any) -> Any:
        """What the measure keeps in the run from one update to the next."""


class Follow(Protocol):
    def __call__(self, kept: Any, agent: Any, info: RefreshInfo, step: jax.Array) -> Any:
        """What the measure keeps, after the gradient step of update `step` and before the source's refresh."""


class AtUpdate(Protocol):
    def __call__(self, kept: Any, info: UpdateInfo) -> dict[str, jax.Array]:
        """The numbers of one update, by name."""


class AtLog(Protocol):
    def __call__(self, agent: Any, batch: Batch, key: jax.Array) -> Any:
        """Arrays for `summarise`, made on the device from about `STATES` transitions."""


class Summarise(Protocol):
    def __call__(self, arrays: Any) -> dict[str, float]:
        """The numbers of a row of the log, by name, from numpy arrays."""


def nothing(agent: Any) -> Any:
    """The `init` of a measure that keeps nothing."""
    return ()


def unchanged(kept: Any, agent: Any, info: RefreshInfo, step: jax.Array) -> Any:
    """The `follow` of a measure that keeps nothing, or never changes it."""
    return kept


class Measure(NamedTuple):
    names: tuple[str, ...]  # of its numbers
    at_update: AtUpdate | None = None
    at_log: AtLog | None = None
    summarise: Summarise | None = None  # belongs to `at_log`
    init: Init = nothing
    follow: Follow = unchanged


def guarded(measure: Measure, name: str, module: str) -> Measure:
    """The measure, whose errors are told in one line with their place in `module`."""

    def guard(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            with own_errors(f"measure '{name}'", module):
                return function(*arguments)

        return None if function is None else call

    def summarise(arrays: Any) -> dict[str, float]:
        found = guard(measure.summarise)(arrays)
        right = isinstance(found, dict) and found.keys() == set(measure.names)
        require(right, f"measure '{name}' must return a number for each of {measure.names}, and returned {found!r}")
        return found

    functions = {one: guard(getattr(measure, one)) for one in ("at_update", "at_log", "init", "follow")}
    return measure._replace(**functions, summarise=measure.summarise and summarise)


def check(name: str, measure: Measure, agent: Any, batch: Batch) -> None:
    """Traces what a measure does at updates and at the log, for an agent and a batch of these shapes.

    Raises if its numbers are misnamed.
    """
    key = jax.eval_shape(random_keys.root, 0)
    if measure.at_update is not None:
        info = UpdateInfo(agent, agent, batch, batch, key, jax.ShapeDtypeStruct((), jnp.int32))
        found = jax.eval_shape(measure.at_update, jax.eval_shape(measure.init, agent), info)
        shapes = {number: jnp.shape(shape) for number, shape in found.items()}
        right = shapes == dict.fromkeys(measure.names, ())
        require(right, f"measure '{name}' must return one number for each of {measure.names}, and returned {shapes}")
    if measure.at_log is not None:
        require(measure.summarise is not None, f"measure '{name}' has at_log, and so needs summarise")
        jax.eval_shape(measure.at_log, agent, batch, key)


def check_serves(measure: str, algorithm: Algorithm, *needs: str) -> None:
    """Raises if an algorithm lacks one of these functions."""
    missing = [name for name in needs if getattr(algorithm, name) is None]
    require(
        not missing,
        f"measure '{measure}' needs an algorithm with {' and '.join(missing)}, as dqn, sac and stream_q have: choose "
        "one of them, or leave the measure out",
    )


def network_of(measure: str, algorithm: Algorithm) -> Network:
    """The network that the algorithm's source was built on."""
    network = None if algorithm.source is None else algorithm.source.network
    require(network is not None, f"measure '{measure}' needs a source that is built by sharedq.algorithms.parts")
    assert network is not None
    return network


def source_params(algorithm: Algorithm, params: Any) -> Any:
    """The parameters that belong to the algorithm's source."""
    return params if algorithm.source_part is None else params[algorithm.source_part]


def with_source_params(algorithm: Algorithm, params: Any, own: Any) -> Any:
    """The algorithm's parameters with other ones for its source."""
    return own if algorithm.source_part is None else {**params, algorithm.source_part: own}


def first_network(algorithm: Algorithm, agent: Any) -> tuple[Any, Any]:
    """The first head that learns as a network of its own, and its running statistics."""
    assert algorithm.source is not None
    return algorithm.source.first(source_params(algorithm, agent.params), agent.source.get("batch_stats", {}))


def trunk_on(algorithm: Algorithm, function: Callable, agent: Any, batch: Batch, key: jax.Array) -> Any:
    """A function of the network's trunk on the states of a batch, as the loss gives them to the network.

    A network that normalises its batch does so here as it does in training. A text has many states, and one of them is
    drawn, so that a batch of texts gives as many states as any other.
    """
    assert algorithm.loss is not None
    _, info = algorithm.loss(agent.params, agent, batch, key)
    network, batch_stats = first_network(algorithm, agent)
    found = function(network["trunk"], batch_stats, info.inputs, True)
    return found if algorithm.states is None else one_of_each(algorithm.states(batch), found, key)


def one_of_each(states: jax.Array, found: Any, key: jax.Array) -> Any:
    """A tree [B, ...] of what was found at all places [B, T, ...] of texts: at a random one of each text's states."""
    place = jax.random.categorical(key, jnp.where(states, 0.0, -jnp.inf))
    return jax.tree.map(lambda x: x[jnp.arange(len(place)), place], found)
