"""The parts that algorithms are built from. Errors here say what the user can do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from sharedq import random_keys, settings
from sharedq.bellman.readings import SCALAR, Reading
from sharedq.environments.spec import Continuous, Discrete, EnvironmentSpec, Tokens
from sharedq.errors import SharedqError, told
from sharedq.formats import TARGET
from sharedq.imports import own_errors
from sharedq.networks import NETWORKS, Dense, policies
from sharedq.networks import network as networks
from sharedq.networks.critics import ensemble, of_pairs
from sharedq.networks.network import Network, outputs_of, read_as
from sharedq.networks.policies import Policy
from sharedq.settings import require
from sharedq.tables import Table
from sharedq.targets import SOURCES
from sharedq.targets.source import TargetSource

UNLIMITED = 1e10  # a bound from here on means none: the Control Suite gives it to unbounded actuators


def discrete_actions(spec: EnvironmentSpec, who: str) -> int:
    """The number of discrete actions."""
    no_texts(spec, who)
    if not isinstance(spec.actions, Discrete):
        raise SharedqError(
            f"{who} needs discrete actions, and those of '{spec.name}' are continuous: begin with a recipe named "
            "sac-*, such as sac-pendulum, or add --algorithm sac (to learn from a data set: cql_sac, iql or bc)"
        )
    return spec.actions.n


def continuous_actions(spec: EnvironmentSpec, who: str) -> Continuous:
    """The bounds of continuous actions, each of which is one vector."""
    no_texts(spec, who)
    actions, name = spec.actions, spec.name
    if not isinstance(actions, Continuous):
        raise SharedqError(
            f"{who} needs continuous actions, and those of '{name}' are discrete: begin with a recipe for them, "
            "such as lunar-lander, or add --algorithm dqn (to learn from a data set: cql, iql or bc)"
        )
    low, high = np.asarray(actions.low), np.asarray(actions.high)
    if low.ndim != 1 or low.shape != high.shape or not low.size:
        raise SharedqError(f"{who} needs actions that are one vector, and those of '{name}' are {list(low.shape)}")
    bounded = (np.abs(low) < UNLIMITED) & (np.abs(high) < UNLIMITED) & (low < high)  # false if a bound is NaN
    if not bounded.all():
        worst = int(np.argmin(bounded))
        raise SharedqError(
            f"{who} needs actions with bounds, and dimension {worst} of those of '{name}' lies in {low[worst]:g} .. "
            f"{high[worst]:g}: give its action space finite ones if it is your own, else choose another task"
        )
    return actions


def no_texts(spec: EnvironmentSpec, who: str) -> None:
    """Raises if an action is a text."""
    if isinstance(spec.actions, Tokens):
        raise SharedqError(
            f"{who} needs actions that are numbers, and those of '{spec.name}' are texts: add --algorithm ilql, or "
            "begin with the recipe ilql-wordle-small"
        )


def check_actions(spec: EnvironmentSpec, who: str) -> None:
    """Raises if actions are continuous and not one vector with bounds."""
    if not isinstance(spec.actions, Discrete):
        continuous_actions(spec, who)


def source_on(
    spec: EnvironmentSpec,
    target: Any,
    network: Any,
    actions: int,
    reading: Reading = SCALAR,
    noise: bool = False,
    **serves: bool,
) -> TargetSource:
    """The source on a network of an observation, which returns [H, B, actions, *reading.shape].

    Networks with noisy layers are refused unless the algorithm says that it gives them `noise`. `serves` says what else
    it has that some sources need, as in `source_of`.
    """
    _check_noise(network, noise)

    def build(network: Any) -> Network:
        outputs, each = outputs_of(reading, actions), outputs_of(reading)
        built = network.build(outputs, each) if getattr(network, "dueling", False) else network.build(outputs)
        return read_as(built, reading, actions) if reading.shape else built

    return _source_on(spec, target, network, spec.observation, build, actions=True, **serves)


def critics_of_all_actions(
    spec: EnvironmentSpec, target: Any, network: Any, actions: int, critics: int, **serves: bool
) -> TargetSource:
    """The source on so many networks of an observation; they return [H, B, C, actions]."""
    _check_critics(network)

    def build(network: Any) -> Network:
        return ensemble(network.build(actions), critics)

    return _source_on(spec, target, network, spec.observation, build, **serves)


def critics_on(
    spec: EnvironmentSpec, target: Any, network: Any, critics: int, reading: Reading = SCALAR, **serves: bool
) -> TargetSource:
    """The source on critics that take an observation and an action together; they return [H, B, C, *reading.shape]."""
    _check_critics(network)

    def build(network: Any) -> Network:
        return read_as(ensemble(of_pairs(network.build(outputs_of(reading))), critics), reading)

    return _source_on(spec, target, network, (spec.observation, spec.actions.one), build, **serves)


def _source_on(
    spec: EnvironmentSpec, target: Any, network: Any, one: Any, build: Callable[[Any], Network], **serves: bool
) -> TargetSource:
    """The source on what `build` makes of a network's settings, for inputs like `one`.

    A source can name the architecture of a second network, of which `build` makes one too. `serves` says what the
    algorithm has that some sources need, as in `source_of`.
    """
    built = [network_on(spec, network, one, lambda: build(network))]
    named = getattr(target, "second_network", None)
    if named is not None:
        table = Table("network", NETWORKS)
        second = settings.make(table, settings.chosen(named, table))
        _check_noise(second)
        built.append(network_on(spec, second, one, lambda: build(second)))
    first, *others = built
    return source_of(target, first, one, *others, **serves)


def _check_noise(network: Any, given: bool = False) -> None:
    if getattr(network, "noisy", False):
        require(given, "network.noisy needs an algorithm that draws the noise, as dqn, cql and pqn do: leave it out")


def _check_critics(network: Any) -> None:
    """Raises if the layers of a network are not made for several critics or for a policy of their own."""
    _check_noise(network)
    dueling = getattr(network, "dueling", False)
    require(not dueling, "network.dueling compares the actions of one network, as dqn has it: leave it out")


def network_on(spec: EnvironmentSpec, network: Any, one: Any, build: Callable[[], Network]) -> Network:
    """What `build` makes of the settings of a network, checked to take inputs like `one`, which has no batch axis."""
    with blaming(network, spec):
        built = build()
        jax.eval_shape(lambda key, example: networks.init(built, key, example, 1), *_example(one))
    return built


def policy_on(spec: EnvironmentSpec, network: Any, kind: policies.Kind, width: int, depth: int) -> Policy:
    """A policy over the environment's actions, checked to take its observations.

    Over discrete actions it is the network itself, and the other arguments say nothing. Over continuous actions it is
    an actor of this kind, width and depth, whose layers are of the network's type.
    """
    _check_noise(network)
    with blaming(network, spec):
        if isinstance(spec.actions, Discrete):
            policy = policies.categorical(network.build(spec.actions.n))
        else:
            policy = getattr(network, "policy", Dense().policy)(spec.actions.one.size, width, depth, kind)
        jax.eval_shape(policy.init, *_example(spec.observation))
    return policy


def source_of(
    target: Any,
    built: Network,
    one: Any,
    *second: Network,
    anchor: bool = False,
    actions: bool = False,
    moments: bool = False,
    losses: bool = False,
) -> TargetSource:
    """The source on a network that is built; `one` has the shapes of its input, without the batch axis.

    A source that asks for a second network is given that too. One that adds a term to the loss is refused unless the
    algorithm says that it adds the term of the `anchor`, and one that selects actions unless it says that the network
    gives those of all `actions`. One that meets the optimiser is refused unless the algorithm asks it for its
    `moments`, and one that sets the losses of its heads unless it asks for those.
    """
    table = Table("target", SOURCES)
    if table.is_ours(type(target)):
        source = target.build(built, *second)
    else:
        whose, module = f"target '{target.label}'", type(target).__module__
        with own_errors(whose, module):
            source = target.build(built, *second)
        with own_errors(whose, module, called=source.values):
            jax.eval_shape(lambda key, x: source.values(*source.init(key, x), x, None, key), *_example(one))
        with own_errors(whose, module, called=source.act_values):
            jax.eval_shape(lambda key, x: source.act_values(*source.init(key, x), key, x, False), *_example(one))
    require(
        anchor or not source.anchored,
        f"target '{table.name_of(type(target))}' adds a term to the loss, and this algorithm cannot: add --algorithm "
        "dqn, cql, pqn, sac or cql_sac, or choose another --target",
    )
    require(
        actions or not source.selects_actions,
        "target.actions selects among the actions of one network, which this algorithm does not have: add "
        "--target.actions all",
    )
    if source.meets_the_optimiser:
        require(
            moments,
            f"target '{table.name_of(type(target))}' changes the optimiser, and this algorithm has one of its own: add "
            "--algorithm dqn, cql, pqn, sac, iql or ilql, or choose another --target",
        )
        jax.eval_shape(source.init, *_example(one))  # it may refuse the network's weights
    require(
        losses or not source.losses,
        "target.losses are losses of one network's values, and this algorithm has one of its own: add --algorithm dqn, "
        "cql or pqn, or leave target.losses out",
    )
    named = getattr(target, "second_network", None)
    require(named is None or bool(second), "this algorithm has no second network to build: leave target.network out")

    def metrics(state):
        return {TARGET + name: value for name, value in source.metrics(state).items()}

    return source._replace(network=built, metrics=metrics)


def _example(one: Any) -> tuple[Any, Any]:
    """The shapes of a key, and of a batch of one input."""
    key = jax.eval_shape(random_keys.root, 0)
    return key, jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), one)


@contextmanager
def blaming(network: Any, spec: EnvironmentSpec) -> Iterator[None]:
    """Reports every error within as an error of the network, which may be the user's own and can fail in any way."""
    try:
        yield
    except SharedqError:
        raise
    except (Exception, SystemExit) as error:
        kind, shape = Table("network", NETWORKS).name_of(type(network)), spec.observation.shape
        raise SharedqError(
            f"network '{kind}' fails on the observations of '{spec.name}', of shape {shape} ({told(error)}): "
            "choose another --network"
        ) from error
