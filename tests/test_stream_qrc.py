"""QRC(lambda): its rule written out, its limits, and a task on which only a corrected gradient finds the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq import random_keys
from sharedq.algorithms import StreamQ, StreamQRC
from sharedq.environments.contract import autoreset
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Network, Table
from sharedq.targets import OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.targets.source import evaluate
from sharedq.transitions import Batch, Step, Transition

pytestmark = pytest.mark.usefixtures("hasty")

KEY, ACTIONS, GAMMA = jax.random.key(0), 3, 0.99
PLAIN = {"normalise": "none", "scale_rewards": False}
NETWORK = Dense((5,), activation="leaky_relu").build(ACTIONS)
SOURCE = OnlineNetwork().build(NETWORK)._replace(network=NETWORK)


def example(width: int) -> Batch:
    obs = jnp.zeros((1, width))
    return Batch(Transition(obs, jnp.zeros(1, jnp.int32), jnp.zeros(1), jnp.zeros(1), obs), jnp.ones(1), jnp.zeros(1))


def step_of(seed: int, action: int, terminated: bool = False, truncated: bool = False) -> Step:
    now, then = np.random.default_rng(seed).normal(size=(2, 1, 4)).astype(np.float32)
    return Step(*map(jnp.asarray, (now, [action], [0.5 + seed], [terminated], [truncated], then)))


def out(weights, obs):
    return evaluate(NETWORK, weights, {}, obs)[0, 0]


def delta_of(w, step):
    following = GAMMA * (1 - step.terminated[0]) * out(w, step.next_obs).max()
    return step.reward[0] + following - out(w, step.obs)[step.action[0]]


def equal(ours, wanted, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, wanted)


def test_steps_are_the_rule_written_out():
    """Greedy and not, a time limit and a death."""
    algorithm = StreamQRC(learning_rate=0.01, h_rate=0.5, beta=0.7, **PLAIN).on(SOURCE)
    state, observe = algorithm.init(KEY, example(4)), jax.jit(algorithm.observe)
    w, theta = state.params["q"], state.params["h"]
    zeros = jax.tree.map(jnp.zeros_like, (w, theta)), 0.0

    @jax.jit
    def rule(w, theta, z_w, z_theta, z_h, step):
        action = step.action[0]
        h, dh = jax.value_and_grad(lambda p: out(p, step.obs)[action])(theta)
        dq = jax.grad(lambda p: out(p, step.obs)[action])(w)
        delta, d_delta = jax.value_and_grad(delta_of)(w, step)
        gl = GAMMA * 0.8
        z_w, z_theta, z_h = (
            jax.tree.map(lambda z, g: gl * z + g, z, g) for z, g in ((z_w, dq), (z_theta, dh), (z_h, h))
        )
        w = jax.tree.map(lambda w, z, q, d: w + 0.01 * (delta * z - h * q - z_h * d), w, z_w, dq, d_delta)
        theta = jax.tree.map(lambda t, z, g: t + 0.005 * (delta * z - h * g - 0.7 * t), theta, z_theta, dh)
        return w, theta, z_w, z_theta, z_h

    z = *zeros[0], zeros[1]
    for count in range(1, 9):
        action = (int(out(w, step_of(count, 0).obs).argmax()) + (count == 5)) % ACTIONS
        step = step_of(count, action, terminated=count == 6, truncated=count == 2)
        state, metrics = observe(state, KEY, step, step.next_obs, jnp.int32(count))
        w, theta, *z = rule(w, theta, *z, step)
        equal(state.params, {"q": w, "h": theta}, rtol=1e-4, atol=1e-6)
        assert metrics["cut"] == (count in (2, 5, 6))
        if count in (2, 5, 6):
            z = *zeros[0], zeros[1]


@pytest.mark.parametrize("terminated", [False, True])
def test_without_traces_it_goes_down_the_loss_with_its_correction(terminated):
    algorithm = StreamQRC(trace_decay=0.0, learning_rate=0.01, h_rate=0.5, beta=0.7, **PLAIN).on(SOURCE)
    state, observe = algorithm.init(KEY, example(4)), jax.jit(algorithm.observe)
    state, _ = observe(state, KEY, step_of(0, 1), step_of(0, 1).next_obs, jnp.int32(1))  # which leaves traces behind
    step, stop = step_of(1, 2, terminated=terminated), jax.lax.stop_gradient

    def loss(params):
        q, h = out(params["q"], step.obs)[2], out(params["h"], step.obs)[2]
        delta = stop(delta_of(params["q"], step))
        following = GAMMA * (1 - step.terminated[0]) * out(params["q"], step.next_obs).max()
        of_h = h * stop(h - delta) + 0.35 * sum(jnp.square(x).sum() for x in jax.tree.leaves(params["h"]))
        return -q * delta + stop(h) * following + 0.5 * of_h

    wanted = jax.tree.map(lambda x, slope: x - 0.01 * slope, state.params, jax.grad(loss)(state.params))
    state, _ = observe(state, KEY, step, step.next_obs, jnp.int32(2))
    equal(state.params, wanted, rtol=1e-5, atol=1e-7)


def test_with_h_at_zero_it_is_stream_q_by_plain_gradient_steps():
    free = StreamQ(learning_rate=0.01, kappa=0.0, **PLAIN).on(SOURCE)
    corrected = StreamQRC(learning_rate=0.01, h_rate=0.0, **PLAIN).on(SOURCE)
    one, other = free.init(KEY, example(4)), corrected.init(KEY, example(4))
    other = other._replace(params={"q": one.params, "h": jax.tree.map(jnp.zeros_like, other.params["h"])})
    first, second = jax.jit(free.observe), jax.jit(corrected.observe)
    for count in range(1, 9):
        step = step_of(count, count % ACTIONS, terminated=count == 4, truncated=count == 6)
        one, told = first(one, KEY, step, step.next_obs, jnp.int32(count))
        other, also = second(other, KEY, step, step.next_obs, jnp.int32(count))
        equal(other.params["q"], one.params, rtol=1e-5, atol=1e-7)
        equal({name: also[name] for name in told}, told, rtol=1e-4)


def one_weight() -> Network:
    """The value of an observation is the observation times one weight."""
    return Network(
        lambda key, example: ({}, {}),
        lambda params, statistics, obs, train: (obs, statistics),
        lambda key, x, count: {"w": jnp.ones(count)},
        lambda heads, x: jnp.einsum("bf,h->hb", x, heads["w"])[..., None],
    )


def test_a_corrected_gradient_converges_where_the_plain_one_diverges():
    """From a state of value w to one of value 2 w, without reward: the plain error 2 gamma w - w drives w away from 0.

    This is the example of Tsitsiklis & Van Roy (1997) with one transition.
    """
    network = one_weight()
    source = OnlineNetwork().build(network)._replace(network=network)
    ends = jnp.zeros(1, bool)
    step = Step(jnp.ones((1, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1), ends, ~ends, jnp.full((1, 1), 2.0))
    left = {}
    for rate in (0.0, 5.0):
        algorithm = StreamQRC(gamma=0.9, learning_rate=0.05, h_rate=rate, beta=0.0, **PLAIN).on(source)
        state = algorithm.init(KEY, example(1))
        state = state._replace(params={**state.params, "h": jax.tree.map(jnp.zeros_like, state.params["h"])})
        walk = jax.jit(
            lambda state, observe=algorithm.observe: jax.lax.scan(
                lambda state, count: (observe(state, KEY, step, step.obs, count)[0], None), state, jnp.arange(1, 401)
            )[0]
        )
        left[rate] = abs(float(walk(state).params["q"]["heads"]["w"][0]))
    assert left[0.0] > 1e3 and left[5.0] < 1e-6


def test_it_learns_the_corridor():
    probe = PROBES["corridor"]
    environment = autoreset(probe.environment)
    settings = StreamQRC(gamma=0.9, learning_rate=0.1, epsilon_end=0.5, epsilon_steps=20_000, **PLAIN)
    algorithm = settings.build(probe.environment.spec, OnlineNetwork(), Table())

    def one(carry, time):
        agent, world, obs = carry
        action = algorithm.act(agent, random_keys.at(KEY, 2 * time), obs, time)
        world, out = jax.vmap(environment.step)(random_keys.at(KEY, 2 * time + 1)[None], world, action)
        step = Step(obs, action, out.reward, out.terminated, out.truncated, out.final_obs)
        agent, _ = algorithm.observe(agent, random_keys.at(KEY, time), step, out.obs, time + 1)
        return (agent, world, out.obs), None

    @jax.jit
    def run():
        world, obs = jax.vmap(environment.reset)(KEY[None])
        start = (algorithm.init(KEY, example(environment.spec.observation.shape[0])), world, obs)
        (agent, _, _), _ = jax.lax.scan(one, start, jnp.arange(20_000))
        return algorithm.values(agent, KEY, jnp.asarray(probe.observations))

    np.testing.assert_allclose(run(), probe.q_values(0.9), atol=0.05)


@pytest.mark.parametrize("target", [TargetNetwork(period=5), SharedHeads(2)], ids=lambda target: target.label)
def test_a_source_whose_bootstrap_has_no_gradient_is_refused(target):
    with pytest.raises(SharedqError, match=r"^QRC.* add --target online_network, or --algorithm stream_q for another"):
        StreamQRC().build(PROBES["corridor"].environment.spec, target, Table())


def test_a_network_that_normalises_its_batch_is_refused():
    with pytest.raises(SharedqError, match=r"--network\.norm layer_whole"):
        StreamQRC().build(PROBES["corridor"].environment.spec, OnlineNetwork(), Dense((4,), norm="batch"))


def test_one_stream_only():
    algorithm = StreamQRC().on(SOURCE)
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), step_of(0, 1))
    with pytest.raises(SharedqError, match=r"--training\.environments 1"):
        algorithm.observe(algorithm.init(KEY, example(4)), KEY, two, two.next_obs, jnp.int32(1))


@pytest.mark.parametrize("options", [{"trace_decay": 1.5}, {"learning_rate": 0.0}, {"h_rate": -0.1}, {"beta": -1.0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(SharedqError, match=f"algorithm.{next(iter(options))}"):
        StreamQRC(**options)
