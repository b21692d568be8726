"""Gradient corrections of DQN: the written gradient, and what must not change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.algorithms import DQN, correction
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Network
from sharedq.targets import IteratedNetworks, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.transitions import Batch, Transition

pytestmark = pytest.mark.usefixtures("hasty")

KEY, ACTIONS, SIZE = jax.random.key(5), 3, 5
SPEC = EnvironmentSpec("a test", jax.ShapeDtypeStruct((4,), np.float32), Discrete(ACTIONS))
SOURCES = [OnlineNetwork(), SharedHeads(heads=3, period=2), IteratedNetworks(networks=3, period=2, copy_period=1)]
named = pytest.mark.parametrize("target", SOURCES, ids=lambda one: type(one).__name__)
close = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9))


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def widened(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


def batch() -> Batch:
    keys = jax.random.split(KEY, 4)
    obs, next_obs = jax.random.normal(keys[0], (2, SIZE, 4))
    action = jax.random.randint(keys[1], (SIZE,), 0, ACTIONS)
    transition = Transition(obs, action, jax.random.normal(keys[2], (SIZE,)), jnp.full(SIZE, 0.9), next_obs)
    return widened(Batch(transition, jnp.linspace(0.5, 1.5, SIZE), jnp.zeros(SIZE, jnp.int32)))


def begun(target, moved: float = 0.3):
    """An algorithm with corrections and a state in which all weights differ from copies."""
    algorithm = DQN(gradient_correction=True).build(SPEC, target, Dense((6,)))
    state = widened(algorithm.init(KEY, batch()))
    keys = iter(jax.random.split(KEY, 100))
    params = jax.tree.map(lambda w: w + moved * jax.random.normal(next(keys), w.shape), state.params)
    return algorithm, state._replace(params=params)


def gradient(algorithm, params, state):
    return jax.grad(lambda p: algorithm.loss(p, state, batch(), KEY)[0])(params)


@named
def test_without_estimates_it_is_the_gradient_of_q_learning_with_live_targets(target):
    """With h = 0 nothing is added: the trunk's gradient does not come from the next states."""
    algorithm, state = begun(target)
    params = {**state.params, "correction": jax.tree.map(jnp.zeros_like, state.params["correction"])}
    source = algorithm.source

    def plain(own):
        x = batch().transition
        held = jax.lax.stop_gradient(source.live_bootstrap(own, state.source, x.next_obs))
        predicted = source.values(own, state.source, x.obs, x.next_obs).predicted
        q = jnp.take_along_axis(predicted, jnp.broadcast_to(x.action, predicted.shape[:2])[..., None], -1)[..., 0]
        return (batch().weights * (q - x.reward - x.discount * held.max(-1)) ** 2).mean(1).sum()

    close(gradient(algorithm, params, state)["source"], jax.grad(plain)(params["source"]))


@pytest.mark.parametrize("target", SOURCES[:2], ids=lambda one: type(one).__name__)
def test_plain_sources_and_corrected_ones_agree_where_h_is_zero(target):
    """Of sources whose bootstrap is live anyway, the gradient without estimates is that of the plain algorithm."""
    algorithm, state = begun(target)
    params = {**state.params, "correction": jax.tree.map(jnp.zeros_like, state.params["correction"])}
    plain = DQN().on(algorithm.source)
    found = jax.grad(lambda p: plain.loss(p, state, batch(), KEY)[0])(params["source"])
    close(gradient(algorithm, params, state)["source"], found)


@named
def test_the_gradient_is_the_written_one(target):
    """2 ( -(y - Q) grad Q + h grad y + (h - (y - Q)) grad h ), with the features of h held."""
    algorithm, state = begun(target)
    source, x, weights = algorithm.source, batch().transition, batch().weights
    frozen = source.frozen_heads

    def terms(params):
        value = source.values(params["source"], state.source, x.obs, x.next_obs)
        action = jnp.broadcast_to(x.action, value.predicted.shape[:2])
        q = jnp.take_along_axis(value.predicted, action[..., None], -1)[..., 0]
        y = x.reward + x.discount * source.live_bootstrap(params["source"], state.source, x.next_obs).max(-1)
        h = correction.errors(source, params["correction"], value.features, action)
        return q, y, h

    (q, y, h), pull = jax.vjp(terms, state.params)
    scale = 2 * weights / SIZE
    (wanted,) = pull((-(y - q) * scale, h * scale, (h - (y - q)) * scale))
    close(gradient(algorithm, state.params, state), wanted)
    assert (h[:frozen] == 0).all() and (h[frozen:] != 0).all()
    total, _ = algorithm.loss(state.params, state, batch(), KEY)
    np.testing.assert_allclose(total, (weights * (y - q) ** 2).mean(1).sum())  # the log shows the squared error


@named
def test_the_loss_of_the_estimates_does_not_reach_the_trunk(target):
    algorithm, state = begun(target)
    source = algorithm.source

    def estimates(own):
        features = source.values(own, state.source, batch().transition.obs).features
        action = jnp.zeros((source.frozen_heads + jax.tree.leaves(state.params["correction"])[0].shape[0], SIZE), int)
        return correction.errors(source, state.params["correction"], features, action).sum()

    assert all((leaf == 0).all() for leaf in jax.tree.leaves(jax.grad(estimates)(state.params["source"])))


def test_the_estimates_learn_the_expected_error():
    """With Q held, h comes to the mean of y - Q for each state and action: here of two rewards for one state."""
    algorithm = DQN(gradient_correction=True, learning_rate=0.01, correction_decay=0.0).build(
        SPEC, OnlineNetwork(), Dense((6,))
    )
    obs = jnp.ones((4, 4))
    transition = Transition(obs, jnp.zeros(4, int), jnp.array([0.0, 1.0, 2.0, 5.0]), jnp.zeros(4), obs)
    sample = widened(Batch(transition, jnp.ones(4), jnp.zeros(4, jnp.int32)))
    first = widened(algorithm.init(KEY, sample))

    def once(state, number):
        state, _, metrics = algorithm.update(state, sample, KEY, number)
        return state._replace(params={**state.params, "source": first.params["source"]}), metrics["correction"]

    _, told = jax.lax.scan(once, first, jnp.arange(1, 1500))
    value = algorithm.values(first, None, obs)[0, 0]
    np.testing.assert_allclose(told[-1], 2.0 - value, atol=1e-2)


def one_weight() -> Network:
    """The value of an observation is the observation times one weight. There is one action."""
    return Network(
        lambda key, example: ({}, {}),
        lambda params, statistics, obs, train: (obs, statistics),
        lambda key, x, count: {"w": jnp.zeros(count)},
        lambda heads, x: jnp.einsum("bf,h->hb", x, heads["w"])[..., None],
    )


@pytest.mark.parametrize("corrected", [False, True])
def test_a_corrected_gradient_converges_where_the_plain_one_diverges(corrected):
    """From a state of value w to one of value 2 w, without reward: the plain error 2 gamma w - w drives w away from 0.

    This is the example of Tsitsiklis & Van Roy (1997) with one transition. Both go down the gradient in plain steps.
    """
    network = one_weight()
    source = OnlineNetwork().build(network)._replace(network=network)
    algorithm = DQN(gradient_correction=corrected).on(source)
    transition = Transition(jnp.ones((1, 1)), jnp.zeros(1, int), jnp.zeros(1), jnp.full(1, 0.9), jnp.full((1, 1), 2.0))
    sample = widened(Batch(transition, jnp.ones(1), jnp.zeros(1, jnp.int32)))
    first = widened(algorithm.init(KEY, sample))
    slope = jax.grad(lambda params: algorithm.loss(params, first, sample, KEY)[0])

    def value(params):
        return (params["source"] if corrected else params)["heads"]["w"][0]

    def once(params, _):
        return jax.tree.map(lambda w, s: w - 0.02 * s, params, slope(params)), None

    own = {"trunk": {}, "heads": {"w": jnp.ones(1)}}
    start = {**first.params, "source": own} if corrected else own
    end = value(jax.lax.scan(once, start, None, length=3_000)[0])
    if corrected:
        assert abs(end) < 1e-3
    else:
        np.testing.assert_allclose(end, (1 + 0.04 * (2 * 0.9 - 1)) ** 3_000, rtol=1e-9)


def test_the_weights_of_a_sampler_multiply_the_corrected_loss_of_each_transition():
    """The gradient of Q and of the estimates is the weighted mean of those of each transition alone."""
    algorithm, state = begun(SOURCES[1])
    sample = batch()

    def learned(weights, rows):
        def loss(params):
            picked = jax.tree.map(lambda x: x[rows], sample)
            return algorithm.loss(params, state, picked._replace(weights=weights), KEY)[0]

        return jax.value_and_grad(loss)(state.params)

    weights = jnp.linspace(0.2, 2, SIZE)

    @jax.jit
    def both():
        each = jax.vmap(lambda row: learned(jnp.ones(1), row[None]))(jnp.arange(SIZE))  # each transition alone
        together = learned(weights, jnp.arange(SIZE))
        return together, jax.tree.map(lambda rows: jnp.tensordot(weights, rows, 1) / SIZE, each)

    close(*both())


def test_decay_reaches_the_estimates_alone():
    algorithm, state = begun(SOURCES[1])
    quick = DQN(gradient_correction=True, learning_rate=0.1, correction_decay=1.0).on(algorithm.source)
    slow = DQN(gradient_correction=True, learning_rate=0.1, correction_decay=0.0).on(algorithm.source)
    ends = [one.learn(state, batch(), KEY, jnp.int32(1))[0].params for one in (quick, slow)]
    close(ends[0]["source"], ends[1]["source"])
    difference = jax.tree.map(jnp.subtract, ends[0]["correction"], ends[1]["correction"])
    close(difference, jax.tree.map(lambda w: -0.1 * w, state.params["correction"]))


@named
def test_estimates_shift_with_their_heads(target):
    algorithm, state = begun(target)
    _, info = algorithm.loss(state.params, state, batch(), KEY)
    moved = algorithm.refresh(state, info.for_refresh, jnp.int32(2)).params["correction"]["kernel"]
    own = state.params["correction"]["kernel"]
    wanted = own if len(own) == 1 else jnp.concatenate([own[1:], own[-1:]])
    np.testing.assert_array_equal(moved, wanted)


def test_seeds_side_by_side_learn_what_they_learn_one_after_another():
    """Over three updates, of which the second shifts the heads and their estimates."""
    algorithm, state = begun(SOURCES[1])

    def learned(factor):
        start = state._replace(params=jax.tree.map(lambda w: factor * w, state.params))

        def once(state, number):
            return algorithm.update(state, batch(), jax.random.fold_in(KEY, number), number)[0], None

        return jax.lax.scan(once, start, jnp.arange(1, 4))[0].params

    factors = jnp.array([1.0, 0.7])
    beside, alone = jax.jit(jax.vmap(learned))(factors), jax.jit(learned)
    for seed, factor in enumerate(factors):
        close(jax.tree.map(lambda w, seed=seed: w[seed], beside), alone(factor))
    assert all((w[0] != w[1]).any() for w in jax.tree.leaves(beside["correction"]))


def test_parameters_are_those_of_the_sheet():
    """One further linear head for QRC, and K - 1 of them for a chain."""
    for target, more in zip(SOURCES, (1, 2, 2), strict=True):
        _, state = begun(target)
        assert sum(w.size for w in jax.tree.leaves(state.params["correction"])) == more * (6 * ACTIONS + ACTIONS)


@pytest.mark.parametrize(
    ("target", "network", "told"),
    [
        (TargetNetwork(), Dense((6,)), "needs the gradient of the targets"),
        (SharedHeads(heads=1), Dense((6,)), "nothing to correct with one head"),
        (OnlineNetwork(), Dense((6,), norm="batch"), "cannot be used with normalisation by the batch"),
    ],
)
def test_what_cannot_be_corrected_is_refused(target, network, told):
    with pytest.raises(SharedqError, match=told):
        DQN(gradient_correction=True).build(SPEC, target, network).init(KEY, batch())
