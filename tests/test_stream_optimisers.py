"""Adaptive Q and Intentional Q: their steps written out in numpy, their limits, and what several heads share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from sharedq.algorithms.stream_q import StreamQ
from sharedq.errors import SharedqError
from sharedq.networks import Dense
from sharedq.optimizers import adaptive, intentional, obgd
from sharedq.targets import IteratedNetworks, OnlineNetwork, SharedHeads
from sharedq.transitions import Batch, Step, Transition

pytestmark = pytest.mark.usefixtures("hasty")

KEY, ACTIONS, MEMORY = jax.random.key(0), 3, 0.99 * 0.8
NETWORK = Dense((5,), activation="leaky_relu").build(ACTIONS)


class AdaptiveWrittenOut:
    """On gradients [H, P] of all P parameters, which are 0 where a head has no part in a parameter."""

    def __init__(self, heads, size, rate, epsilon=0.1):
        self.z, self.v, self.rate, self.epsilon = np.zeros((heads, size)), np.zeros(size), rate, epsilon

    def step(self, g, delta, decay):
        self.z = decay * self.z + g
        self.v = MEMORY * self.v + (1 - MEMORY) * (g**2).sum(axis=0)
        return self.rate * np.clip(delta, -1, 1) @ self.z / (np.sqrt(self.v) + self.epsilon)


class IntentionalWrittenOut:
    def __init__(self, heads, size, rate, error_memory=0.9998, largest_error=20.0):
        self.z, self.v, self.sigma, self.errors = np.zeros((heads, size)), np.zeros(size), 0.0, np.ones(heads)
        self.rate, self.error_memory, self.largest_error, self.count = rate, error_memory, largest_error, 0

    def step(self, g, delta, decay):
        self.count += 1
        self.v = 0.999 * self.v + 0.001 * (g**2).sum(axis=0)
        n = np.sqrt(self.v / (1 - 0.999**self.count)) + 1e-8
        self.z = decay * self.z + g
        self.sigma += (1 - MEMORY) * ((g**2 / n).sum() - self.sigma)
        step = self.rate / np.sqrt(self.sigma / (1 - MEMORY**self.count) * (self.z**2 / n).sum())
        self.errors = self.error_memory * self.errors + (1 - self.error_memory) * delta**2
        most = self.largest_error * np.sqrt(self.errors / (1 - self.error_memory**self.count))
        return step * np.clip(delta, -most, most) @ self.z / n


def total(tree):
    """Of gradients in which all heads share w, and each has its own b."""
    return {"w": tree["w"].sum(axis=0), "b": tree["b"]}


def as_parts(g, heads):
    """Gradients [H, 3 + 2 H] as the tree that an optimiser takes."""
    own = np.stack([g[head, 3 + 2 * head : 5 + 2 * head] for head in range(heads)])
    return {"w": jnp.asarray(g[:, :3], jnp.float32), "b": jnp.asarray(own, jnp.float32)}


def drawn(heads, seed=0):
    """A gradient [H, 3 + 2 H] with zeros where a head has no part in a parameter, and errors [H]."""
    draw = np.random.default_rng(seed)
    mask = np.concatenate([np.ones((heads, 3)), np.repeat(np.eye(heads), 2, axis=1)], axis=1)
    return draw.normal(size=mask.shape) * mask, 2 * draw.normal(size=heads)


def flat(updates):
    return np.concatenate([np.asarray(updates["w"]).sum(axis=0), np.ravel(updates["b"])])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", ["adaptive", "intentional"])
def test_steps_are_the_rule_written_out(kind, heads):
    """Some errors are larger than their bound, and at the fourth step the past is cut."""
    if kind == "adaptive":
        optimiser, rule = adaptive(0.01, MEMORY, total), AdaptiveWrittenOut(heads, 3 + 2 * heads, 0.01)
    else:
        clipping = {"error_memory": 0.5, "largest_error": 0.7}
        optimiser = intentional(0.25, MEMORY, total, **clipping)
        rule = IntentionalWrittenOut(heads, 3 + 2 * heads, 0.25, **clipping)
    traces = optimiser.init(as_parts(drawn(heads)[0], heads))
    update, clipped = jax.jit(optimiser.update), 0
    for count in range(1, 9):
        g, delta = drawn(heads, count)
        decay = 0.0 if count == 4 else MEMORY
        decays, errors = jnp.full(heads, decay), jnp.asarray(delta, jnp.float32)
        updates, traces = update(as_parts(g, heads), traces, delta=errors, decay=decays)
        np.testing.assert_allclose(flat(updates), rule.step(g, delta, decay), rtol=2e-4, atol=1e-7)
        clipped += (np.abs(delta) > 1).sum()
    assert clipped > 2


def test_with_a_large_epsilon_adaptive_steps_are_plain_ones_along_the_traces():
    epsilon = 1e8
    one, other = adaptive(0.3 * epsilon, MEMORY, total, epsilon), obgd(alpha=0.3, kappa=0.0)
    like = as_parts(drawn(2)[0], 2)
    traces, plain = one.init(like), other.init(like)
    for count in range(5):
        g, delta = drawn(2, count)
        told = {"delta": jnp.clip(jnp.asarray(delta, jnp.float32), -1, 1), "decay": jnp.full(2, MEMORY)}
        updates, traces = one.update(as_parts(g, 2), traces, **told)
        wanted, plain = other.update(as_parts(g, 2), plain, **told)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), updates, wanted)


@pytest.mark.parametrize("delta", [1e-3, -1.0, 30.0])
def test_the_first_intentional_step_takes_the_intended_fraction_of_the_error(delta):
    optimiser, (g, _) = intentional(0.25, MEMORY, total), drawn(1)
    gradients = as_parts(g, 1)
    told = {"delta": jnp.full(1, delta), "decay": jnp.full(1, MEMORY)}
    updates, _ = optimiser.update(gradients, optimiser.init(gradients), **told)
    np.testing.assert_allclose(flat(updates) @ g[0], 0.25 * delta, rtol=1e-3)


INTENTIONAL = jax.jit(intentional(0.25, MEMORY, total).update)


@given(st.integers(0, 1000), st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5))
@settings(deadline=None, max_examples=40)
def test_intentional_steps_take_no_more_than_that_fraction_of_the_errors_of_all_heads(seed, decays):
    """The changes of the three heads' values, as a vector, are no longer than a quarter of their errors."""
    heads, (g, _) = 3, drawn(3, seed)
    traces = intentional(0.25, MEMORY, total).init(as_parts(g, heads))
    for count, decay in enumerate(decays):
        delta = drawn(heads, seed + count)[1]
        told = {"delta": jnp.asarray(delta, jnp.float32), "decay": jnp.full(heads, decay)}
        updates, traces = INTENTIONAL(as_parts(g, heads), traces, **told)
        assert np.linalg.norm(g @ flat(updates)) <= 0.25 * np.linalg.norm(delta) * (1 + 1e-3)


def step_of(seed: int, action: int, terminated: bool = False, truncated: bool = False) -> Step:
    now, then = np.random.default_rng(seed).normal(size=(2, 1, 4)).astype(np.float32)
    return Step(*map(jnp.asarray, (now, [action], [0.5 + seed], [terminated], [truncated], then)))


@pytest.mark.parametrize("kind", ["adaptive", "intentional"])
@pytest.mark.parametrize(
    "target",
    [OnlineNetwork(), SharedHeads(2, period=100), IteratedNetworks(2, period=100)],
    ids=lambda target: target.label,
)
def test_a_stream_learns_by_the_rule_on_all_its_parameters(kind, target):
    """Greedy and not, a time limit and a death. All networks and heads that learn are one vector of parameters."""
    source = target.build(NETWORK)
    algorithm = StreamQ(optimiser=kind, normalise="none", scale_rewards=False).on(source)
    obs = jnp.zeros((1, 4))
    batch = Batch(Transition(obs, jnp.zeros(1, jnp.int32), jnp.zeros(1), jnp.zeros(1), obs), jnp.ones(1), jnp.zeros(1))
    state, observe = algorithm.init(KEY, batch), jax.jit(algorithm.observe)
    params, unravel = ravel_pytree(state.params)
    heads = state.trace_mask.size
    rule = {"adaptive": AdaptiveWrittenOut, "intentional": IntentionalWrittenOut}[kind](
        heads, params.size, {"adaptive": 4.6e-4, "intentional": 0.25}[kind]
    )

    @jax.jit
    def seen(params, held, step):
        """The values of all heads [H, A], the gradients [H, P] of those of the action, and the targets [H]."""
        value = source.values(unravel(params), held, step.obs, step.next_obs)
        best = value.bootstrap[:, 0].max(axis=1)
        slopes = jax.jacobian(
            lambda p: source.values(unravel(p), held, step.obs, step.next_obs).predicted[:, 0, step.action[0]]
        )(params)
        return value.predicted[:, 0], slopes, step.reward[0] + 0.99 * (1 - step.terminated[0]) * best

    cut = True
    for count in range(1, 7):
        policy = source.select(
            state.source, state.policy_key, seen(params, state.source, step_of(count, 0))[0][:, None]
        )
        action = (int(policy[0].argmax()) + (count == 4)) % ACTIONS
        step = step_of(count, action, terminated=count == 5, truncated=count == 2)
        q, slopes, wanted = map(np.asarray, seen(params, state.source, step))
        moved = rule.step(slopes.astype(np.float64), wanted - q[:, action], 0.0 if cut else MEMORY)
        state, _ = observe(state, KEY, step, step.next_obs, jnp.int32(count))
        params = params + jnp.asarray(moved, jnp.float32)
        np.testing.assert_allclose(ravel_pytree(state.params)[0], params, rtol=1e-3, atol=2e-6)
        cut = count in (2, 4, 5)


def test_each_optimiser_has_a_learning_rate_of_its_own():
    rates = [StreamQ(optimiser=kind).rate for kind in ("obgd", "adaptive", "intentional")]
    assert rates == [1.0, 4.6e-4, 0.25]
    assert StreamQ(optimiser="intentional", learning_rate=0.5).rate == 0.5


@pytest.mark.parametrize("kind", ["adaptive", "intentional"])
@pytest.mark.parametrize(
    "option", [{"kappa": 3.0}, {"bound": "each"}, {"trunk_traces": "joint"}, {"credit": "forward"}]
)
def test_what_belongs_to_obgd_is_refused_by_the_others(kind, option):
    StreamQ(**option)
    (name,) = option
    says = f"^algorithm.{name} belongs to algorithm.optimiser obgd, and {kind} does without it: leave it out$"
    with pytest.raises(SharedqError, match=says):
        StreamQ(optimiser=kind, **option)


@pytest.mark.parametrize("kind", ["adaptive", "intentional"])
def test_means_that_never_forget_are_refused(kind):
    assert StreamQ(optimiser=kind, gamma=1.0).rate and StreamQ(gamma=1.0, trace_decay=1.0).rate
    with pytest.raises(SharedqError, match=r"algorithm\.trace_decay below 1$"):
        StreamQ(optimiser=kind, gamma=1.0, trace_decay=1.0)
