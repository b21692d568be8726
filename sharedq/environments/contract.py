"""The contract of environments on the device and on the host, and a public checker for those on the device.

An environment on the device is a record of two pure functions. It never resets itself: `step` returns the true
successor observation even when the episode ends, and two separate flags say why it ended. `autoreset` turns it into the
form that a training loop needs. On the host, several environments are stepped together and reset themselves.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.environments.spec import Actions, Discrete, EnvironmentSpec, Tokens, stackable
from sharedq.errors import SharedqError, told
from sharedq.imports import place_of


class Outcome(NamedTuple):
    """The result of one action. Without autoreset `obs` and `final_obs` are the same."""

    obs: Any  # the observation to act on next; after an end, the first one of the next episode
    reward: jax.Array  # float32
    terminated: jax.Array  # bool: the episode ended in the environment itself
    truncated: jax.Array  # bool: the episode was cut off, for example by a time limit
    final_obs: Any  # the true successor observation, also at the end of an episode
    life_lost: Any = None  # bool, only on the host: the episode ends for the learner, but the game goes on


class Reset(Protocol):
    def __call__(self, key: jax.Array, /) -> tuple[Any, Any]:
        """The state and the first observation of an episode."""


class StepFunction(Protocol):
    def __call__(self, key: jax.Array, state: Any, action: jax.Array, /) -> tuple[Any, Outcome]:
        """The state after the action, and the outcome of the action."""


class Environment(NamedTuple):
    """An environment on the device: two pure functions that can be compiled, and the description of what they take."""

    spec: EnvironmentSpec
    reset: Reset
    step: StepFunction


class VectorEnv(Protocol):
    """Several environments on the host, stepped together. Each one starts its next episode by itself.

    Everything depends only on the seed and the actions, so two runs with the same seed are equal.
    """

    def reset(self) -> np.ndarray:
        """The first observations [N, ...]."""

    def step(self, actions: np.ndarray) -> Outcome:
        """The outcomes of the actions [N], as after `autoreset`: numpy arrays [N, ...] that the caller may keep."""

    def save(self) -> Any:
        """The state of the environments, in a form that JSON can hold."""

    def load(self, saved: Any) -> None:
        """Restores what `save` returned; called instead of `reset`. What follows is the same bit for bit."""

    def picture(self) -> np.ndarray:
        """An image of the first environment, uint8 [H, W, 3]; called only if it was opened with `render=True`."""

    def close(self) -> None: ...


class HostEnvironment(NamedTuple):
    """An environment that Python steps: an emulator, a simulator, or any environment of Gymnasium."""

    spec: EnvironmentSpec
    open: Callable[..., VectorEnv]  # (count, seed, render=False)
    remarks: tuple[str, ...] = ()  # lines for whoever trains here, about what may not be expected


class DescribedEnvironment(NamedTuple):
    """An environment of which only the description is there. It cannot be stepped."""

    spec: EnvironmentSpec


def follows(stack: np.ndarray, before: Any = 0) -> bool:
    """Whether each stack holds the frames of the stack `before`, shifted by one; `before` an episode they are zero."""
    older = stack[..., :-1]
    return np.array_equal(older, np.broadcast_to(before, stack.shape)[..., 1:])


def autoreset(environment: Environment) -> Environment:
    """The same environment, but it starts a new episode when one ends; `final_obs` keeps the last observation."""

    def step(key, state, action):
        step_key, reset_key = jax.random.split(key)
        state, outcome = environment.step(step_key, state, action)
        fresh_state, fresh_obs = environment.reset(reset_key)
        ended = outcome.terminated | outcome.truncated
        state, obs = jax.tree.map(
            lambda fresh, old: jnp.where(ended, fresh, old), (fresh_state, fresh_obs), (state, outcome.obs)
        )
        return state, outcome._replace(obs=obs)

    return environment._replace(step=step)


def time_limited(environment: Environment, limit: int | None, told: bool = False) -> Environment:
    """The same environment, but it truncates an episode that has not ended after `limit` steps.

    If the time is `told`, the observation, a vector, gets one more number: from -0.5 at the start to 0.5 at the limit.
    """
    if limit is None:
        return environment

    def seen(obs, steps):
        return jnp.append(obs, steps / limit - 0.5) if told else obs

    @wraps(environment.reset)  # so that an error is told with the line of the user's function
    def reset(key):
        state, obs = environment.reset(key)
        return (state, jnp.int32(0)), seen(obs, 0)

    @wraps(environment.step)
    def step(key, state, action):
        inner, steps = state
        inner, outcome = environment.step(key, inner, action)
        steps = steps + 1
        truncated = ~outcome.terminated & (outcome.truncated | (steps >= limit))
        obs, final_obs = (seen(x, steps) for x in (outcome.obs, outcome.final_obs))
        return (inner, steps), outcome._replace(obs=obs, final_obs=final_obs, truncated=truncated)

    one = environment.spec.observation
    observation = jax.ShapeDtypeStruct((one.shape[0] + 1,), one.dtype) if told else one
    return Environment(environment.spec._replace(observation=observation), reset, step)


def check(environment: Environment, key: jax.Array | None = None, steps: int = 200) -> None:
    """Raise a `SharedqError` that names the first rule of this contract that `environment` breaks.

    First the function checks structure, shapes and dtypes, without running anything. Then it takes two random walks
    under jit, vmap and scan. It traces and runs them twice, which reveals randomness that does not come from the key.
    """
    key = random_keys.root(0) if key is None else key
    _check_declaration(environment)
    _check_shapes(environment, key)

    first, second = (jax.device_get(_random_walk(environment, key, steps)) for _ in range(2))
    _check_walk(environment, first)
    same = jax.tree.map(lambda one, other: np.array_equal(one, other), first, second)
    _rule(environment, all(jax.tree.leaves(same)), "the same key gave two different episodes: draw only from the key")


def _rule(environment: Environment, holds: bool, message: str) -> None:
    if not holds:
        raise SharedqError(f"environment '{environment.spec.name}': {message}")


def _check_declaration(environment: Environment) -> None:
    if not isinstance(environment, Environment):
        raise SharedqError(f"expected a sharedq Environment, got {type(environment).__name__}")
    declared, actions = environment.spec.observation, environment.spec.actions
    _rule(
        environment,
        isinstance(declared, jax.ShapeDtypeStruct),
        f"observation must be a jax.ShapeDtypeStruct, not {type(declared).__name__}",
    )
    _rule(
        environment,
        isinstance(actions, Actions),
        f"actions must be Discrete, Continuous or Tokens, not {type(actions).__name__}",
    )
    _rule(
        environment,
        environment.spec.stacks is None or (environment.spec.stacks == "black" and stackable(declared)),
        f"stacks must be None, or 'black' for uint8 [..., time]; not {environment.spec.stacks!r} for {_form(declared)}",
    )
    if isinstance(actions, Discrete):
        whole = isinstance(actions.n, (int, np.integer)) and actions.n >= 1
        _rule(environment, whole, f"Discrete needs a whole number of actions of at least 1, not {actions.n}")
        return
    if isinstance(actions, Tokens):
        own = (actions.pad, actions.closes, *actions.opens, actions.ends)
        _rule(environment, actions.length >= 1, f"Tokens needs a length of at least 1, not {actions.length}")
        _rule(
            environment,
            bool(actions.opens) and min(own) >= 0 and max(own) < actions.vocabulary,
            f"Tokens needs pad, closes, opens and ends from 0 to {actions.vocabulary - 1}, not {actions}",
        )
        return
    low, high = np.asarray(actions.low), np.asarray(actions.high)
    _rule(environment, low.shape == high.shape, f"Continuous has bounds of shapes {low.shape} and {high.shape}")
    _rule(
        environment,
        bool(np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()),
        "Continuous needs finite bounds with low < high everywhere",
    )


def _check_shapes(environment: Environment, key: jax.Array) -> None:
    state, obs = _trace(environment, "reset", "(state, obs)", key)
    _check_leaf(environment, "reset's obs", obs, environment.spec.observation)
    action = jax.eval_shape(lambda: _random_action(environment.spec.actions, key))
    next_state, outcome = _trace(environment, "step", "(state, Outcome)", key, state, action)
    _rule(
        environment,
        isinstance(outcome, Outcome),
        f"step must return (state, Outcome), not (state, {_kind(outcome)})",
    )
    before, after = jax.tree.structure(state), jax.tree.structure(next_state)
    _rule(environment, before == after, f"the state of reset is {before} but the state of step is {after}")
    paths = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, one), other in zip(paths, jax.tree.leaves(next_state), strict=True):
        where = f"the state{jax.tree_util.keystr(path)}"
        _rule(
            environment,
            _form(one) == _form(other),
            f"{where} is {_form(one)} after reset but {_form(other)} after step",
        )
    _check_leaf(environment, "step's obs", outcome.obs, environment.spec.observation)
    _check_leaf(environment, "step's final_obs", outcome.final_obs, environment.spec.observation)
    _check_leaf(environment, "reward", outcome.reward, jax.ShapeDtypeStruct((), jnp.float32))
    _check_leaf(environment, "terminated", outcome.terminated, jax.ShapeDtypeStruct((), jnp.bool_))
    _check_leaf(environment, "truncated", outcome.truncated, jax.ShapeDtypeStruct((), jnp.bool_))
    _rule(environment, outcome.life_lost is None, "life_lost is only for environments on the host: use terminated")


def _trace(environment: Environment, name: str, returns: str, *arguments: Any) -> tuple:
    """The shapes that `environment.reset` or `.step` returns, or the reason why jax cannot run it."""
    function = getattr(environment, name)
    try:
        result = jax.eval_shape(function, *arguments)
    except (Exception, SystemExit) as error:  # the user needs to see whatever the user's function raises
        place = place_of(error, getattr(function, "__module__", ""), function)
        raise SharedqError(
            f"environment '{environment.spec.name}': {name} cannot be traced by jax.jit: {told(error)} ({place})"
        ) from error
    pair = isinstance(result, tuple) and len(result) == 2
    _rule(environment, pair, f"{name} must return {returns}, not {_kind(result)}")
    return result


def _kind(traced: Any) -> str:
    return "one array" if isinstance(traced, jax.ShapeDtypeStruct) else type(traced).__name__


def _form(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _check_leaf(environment: Environment, what: str, found: Any, wanted: jax.ShapeDtypeStruct) -> None:
    one = isinstance(found, jax.ShapeDtypeStruct)
    _rule(environment, one, f"{what} must be one array of {_form(wanted)}, not {_kind(found)}")
    _rule(environment, _form(found) == _form(wanted), f"{what} is {_form(found)} where {_form(wanted)} is declared")


def _random_action(actions: Actions, key: jax.Array) -> jax.Array:
    if isinstance(actions, Discrete):
        return jax.random.randint(key, (), 0, actions.n)
    if isinstance(actions, Tokens):
        return jax.random.randint(key, actions.one.shape, 0, actions.vocabulary).at[-1].set(actions.closes)
    return jax.random.uniform(key, actions.one.shape, actions.one.dtype, -1, 1)


def _random_walk(environment: Environment, key: jax.Array, steps: int) -> tuple[jax.Array, Outcome]:
    """The first observations and the outcomes of two random walks, leaves [2, ...] and [2, T, ...], traced anew."""
    world = autoreset(environment)

    def walk(key):
        state, obs = world.reset(random_keys.named(key, "reset"))

        def advance(state, t):
            action = _random_action(world.spec.actions, random_keys.at(random_keys.named(key, "action"), t))
            return world.step(random_keys.at(random_keys.named(key, "step"), t), state, action)

        return obs, jax.lax.scan(advance, state, jnp.arange(steps))[1]

    return jax.jit(jax.vmap(walk))(jax.random.split(key, 2))


def _check_walk(environment: Environment, walked: tuple[np.ndarray, Outcome]) -> None:
    first_obs, outcome = walked
    for what, values in (("an observation", (first_obs, outcome.obs, outcome.final_obs)), ("a reward", outcome.reward)):
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values))
        _rule(environment, finite, f"{what} is not a finite number")
    both = outcome.terminated & outcome.truncated
    _rule(environment, not both.any(), "a step is both terminated and truncated: a termination excludes a truncation")
    on = ~(outcome.terminated | outcome.truncated)
    _rule(
        environment,
        np.array_equal(outcome.obs[on], outcome.final_obs[on]),
        "obs and final_obs differ on a step that does not end the episode",
    )
    if environment.spec.stacks is None:
        return
    before = np.concatenate([first_obs[:, None], outcome.obs[:, :-1]], axis=1)
    _rule(
        environment,
        follows(first_obs) and follows(outcome.obs[~on]) and follows(outcome.final_obs, before),
        "stacks is 'black', but an observation does not hold the frames of the one before, shifted by one, with zeros "
        "before an episode's first",
    )
