"""Fitted-Q evaluation: what a policy would earn, learned from data that others collected (Le, Voloshin & Yue, 2019).

    Q(s, a) <- r + discount * Q_copy(s', pi(s'))        for the transitions of the data and the policy's greedy action

The network is the one that the experiment's algorithm learned with, drawn anew, with a slow average as the copy. The
value of the policy is the mean of Q(s, pi(s)) over the first observations of the episodes. An episode that was
truncated goes on with the value of its last observation, so this is the return without any time limit.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.parts import critics_on, source_on
from sharedq.bellman import backups, losses
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.optimizers import adam, gradient_step
from sharedq.replay.feed import Feed
from sharedq.targets import TargetNetwork
from sharedq.targets.source import RefreshInfo, TargetSource
from sharedq.transitions import Batch

LEARNING_RATE = 3e-4  # ours, as are the next two
TAU = 0.005  # how far the copy moves at each update
BLOCK = 200  # updates in one compiled call


class Fitted(NamedTuple):
    value: float  # of the policy
    earlier: float  # the same before the last tenth of the updates


class Fit(NamedTuple):
    params: Any
    source: Any
    optimiser: Any


def fitted_q(
    decide: Callable,
    spec: EnvironmentSpec,
    network: Any,
    feed: Feed,
    begins: Callable[[], Iterable[np.ndarray]],
    updates: int,
    seed: int,
    reward_bound: float | None = None,
) -> Fitted:
    """The value of the policy `decide(obs) -> actions` from the observations of `begins()` on, in pieces [E, ...].

    The feed must give single steps: in a return of several steps, who acted in the data chose all actions but the last.
    """
    target = TargetNetwork(period=1, tau=TAU)
    discrete = isinstance(spec.actions, Discrete)
    if isinstance(spec.actions, Discrete):
        source = source_on(spec, target, network, spec.actions.n)
    else:
        source = critics_on(spec, target, network, critics=1)
    optimiser = adam(LEARNING_RATE, 1e-8, None)

    def inputs(obs: Any, action: Any) -> Any:
        return obs if discrete else (obs, action)

    def of(outputs: jax.Array, action: jax.Array) -> jax.Array:
        """The values [H, B] of actions from outputs [H, B, A], or [H, B, 1] of continuous actions."""
        if discrete:
            return backups.of_action(outputs, jnp.broadcast_to(action, outputs.shape[:-1]))
        return outputs[..., 0]

    def loss(params: Any, state: Fit, batch: Batch):
        sample = batch.transition
        chosen = decide(sample.next_obs)
        value = source.values(params, state.source, inputs(sample.obs, sample.action), inputs(sample.next_obs, chosen))
        target = backups.bellman(sample.reward, sample.discount, of(value.bootstrap, chosen))
        error = of(value.predicted, sample.action) - target
        return losses.squared(error).mean(), value.batch_stats

    def once(place: jax.Array, carry: tuple[Fit, jax.Array, Any]):
        state, first, raw = carry
        batch = feed.decode(jax.tree.map(lambda x: x[0, place], raw), reward_bound)
        gradient, batch_stats = jax.grad(loss, has_aux=True)(state.params, state, batch)
        params, moments = gradient_step(optimiser, gradient, state.optimiser, state.params)
        info = RefreshInfo(batch.transition.obs, batch_stats, jnp.zeros(1))
        params, source_state = source.refresh(first + place, params, state.source, info)
        return Fit(params, source_state, moments), first, raw

    @jax.jit
    def block(state: Fit, first: jax.Array, count: jax.Array, raw: Any) -> Fit:
        return jax.lax.fori_loop(0, count, once, (state, first, raw))[0]

    @jax.jit
    def value(state: Fit, obs: jax.Array) -> jax.Array:
        action = decide(obs)
        outputs = source.act_values(state.params, state.source, None, inputs(obs, action))
        return of(outputs[None], action)[0]

    state, values = _begin(source, optimiser, inputs, feed, seed), []
    for before, last in itertools.pairwise((0, updates - -(-updates // 10), updates)):
        for first in range(before + 1, last + 1, BLOCK):
            raw = feed.batches([seed], first, BLOCK)
            state = block(state, jnp.int32(first), jnp.int32(min(BLOCK, last + 1 - first)), raw)
        found = [np.asarray(value(state, piece)) for piece in begins()]
        values.append(float(np.concatenate(found).mean()))
    return Fitted(value=values[1], earlier=values[0])


def _begin(source: TargetSource, optimiser: Any, inputs: Callable, feed: Feed, seed: int) -> Fit:
    """The network before its first update."""
    sample = jax.eval_shape(lambda raw: feed.decode(jax.tree.map(lambda x: x[0, 0], raw)), feed.batches([seed], 1, 1))
    example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sample).transition
    key = random_keys.named(random_keys.root(seed), "fitted q")
    params, source_state = source.init(key, inputs(example.obs, example.action))
    return Fit(params, source_state, optimiser.init(params))
