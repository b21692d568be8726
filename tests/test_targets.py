"""Sources of targets, by identities: two ways to the same number. Heads and networks move as the papers say.

Where the two ways group their matrix products otherwise, sums are rounded otherwise: those are compared in float64.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sharedq import testing
from sharedq.algorithms import ALGORITHMS, DQN
from sharedq.bellman.readings import SCALAR, distribution
from sharedq.environments.spec import Continuous, Discrete, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Network, SimbaV2, Table
from sharedq.targets import SOURCES as TABLE
from sharedq.targets import (
    IteratedNetworks,
    LookaheadReplicate,
    OnlineNetwork,
    RefreshInfo,
    SharedHeads,
    TargetNetwork,
)
from sharedq.targets.lookahead_replicate import distance_of
from sharedq.targets.source import select_head, weights_of
from sharedq.transitions import Batch, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(7)
SIZE, INPUTS, ACTIONS, UPDATES = 8, 5, 3, 300
ALGORITHM = DQN(gamma=0.9, learning_rate=0.01)
DENSE = Dense((6,)).build(ACTIONS)
QUICK = {"period": 7, "copy_period": 3, "replicate_steps": 2}  # so that a refresh is seen
QUICK |= {"heads": 3, "networks": 3, "snapshots": 3}
SOURCES = [
    kind(**{f.name: QUICK[f.name] for f in dataclasses.fields(kind) if f.name in QUICK}) for kind in TABLE.values()
]
named = partial(pytest.mark.parametrize, "settings", ids=lambda settings: type(settings).__name__)


def stream(count: int = UPDATES) -> Batch:
    """A fixed stream of random batches, leaves [count, SIZE, ...]."""
    keys = jax.random.split(KEY, 5)
    rows = (count, SIZE)
    obs, next_obs = (jax.random.normal(key, (*rows, INPUTS)) for key in keys[:2])
    action = jax.random.randint(keys[2], rows, 0, ACTIONS)
    discount = jnp.where(jax.random.bernoulli(keys[4], 0.2, rows), 0.0, 0.9)
    transition = Transition(obs, action, jax.random.normal(keys[3], rows), discount, next_obs)
    return Batch(transition, jnp.ones(rows), jnp.zeros(rows, jnp.int32))


BATCHES = stream()
FIRST = jax.tree.map(lambda x: x[0], BATCHES)


def widened(tree):
    """In float64, where there is one: within `jax.enable_x64`."""
    wide = jnp.zeros(()).dtype
    return jax.tree.map(lambda x: x.astype(wide) if x.dtype == jnp.float32 else x, tree)


def trained(settings, network: Network = DENSE, algorithm: DQN = ALGORITHM):
    """The state after every update on the stream, leaves [UPDATES, ...], and the losses."""
    learner = algorithm.on(settings.build(network))

    def update(state, numbered):
        step, batch = numbered
        state, _, metrics = learner.update(state, batch, KEY, step)
        return state, (state, metrics["loss"])

    start = widened(learner.init(KEY, FIRST))
    return jax.jit(lambda s: jax.lax.scan(update, s, (jnp.arange(1, UPDATES + 1), widened(BATCHES)))[1])(start)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other, tolerance=1e-10):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other)


def first_network(tree):
    return jax.tree.map(lambda w: w[:, 0], tree)


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


# Sources that are the same source


def test_a_target_network_copied_at_every_step_is_no_target_network():
    (copied, losses), (free, free_losses) = trained(TargetNetwork(period=1)), trained(OnlineNetwork())
    same(copied.params, free.params)
    same(copied.optimiser, free.optimiser)
    same(losses, free_losses)


@pytest.mark.usefixtures("wide")
def test_a_copy_on_the_joint_batch_copied_at_every_step_is_no_target_network_with_batch_normalisation_too():
    network, x = Dense((4,), norm="batch").build(ACTIONS), FIRST.transition
    values = []
    for settings in (OnlineNetwork(), TargetNetwork(period=1, joint_batch=True), TargetNetwork(period=1)):
        source = settings.build(network)
        params, state = source.init(KEY, x.obs)
        values.append(source.values(params, state, x.obs, x.next_obs))
    free, joint, alone = values
    close(free, joint)
    assert (jnp.abs(free.bootstrap - alone.bootstrap) > 1e-3).any()


@pytest.mark.usefixtures("wide")
def test_one_iterated_network_is_a_target_network():
    (chain, losses), (classic, classic_losses) = trained(IteratedNetworks(1, period=20)), trained(TargetNetwork(20))
    close(first_network(chain.params), classic.params)
    close(first_network(chain.source["target_params"]), classic.source["target_params"])
    close(losses, classic_losses)
    assert losses.dtype == jnp.float64


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_one_shared_head_without_a_trunk_is_a_target_network(tau):
    heads, losses = trained(SharedHeads(1, period=20, tau=tau, initial_heads="copies"), Table().build(ACTIONS))
    classic, classic_losses = trained(TargetNetwork(20, tau), Table().build(ACTIONS))
    close(heads.params, classic.params)
    close(heads.source["target_params"], classic.source["target_params"]["heads"])
    close(losses, classic_losses)


@pytest.mark.usefixtures("wide")
@named([OnlineNetwork(), SharedHeads(heads=2, period=20)])
def test_one_joint_pass_is_two_passes_where_the_batch_is_not_normalised(settings):
    (joint, losses), (two, two_losses) = trained(settings, DENSE._replace(normalises_batch=True)), trained(settings)
    close(joint.params, two.params)
    close(losses, two_losses)


def test_the_joint_pass_normalises_both_halves_by_the_statistics_of_both():
    network = Dense((6,), norm="batch").build(ACTIONS)
    source = OnlineNetwork().build(network)
    now, then = FIRST.transition.obs, 5 + FIRST.transition.next_obs
    params, state = source.init(KEY, now)
    found = source.values(params, state, now, then)
    together, batch_stats = network.trunk(params["trunk"], state["batch_stats"], jnp.concatenate([now, then]), True)
    values = network.heads(params["heads"], together)
    np.testing.assert_allclose(found.predicted, values[:, :SIZE], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bootstrap, values[:, SIZE:], rtol=1e-5, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found.batch_stats, batch_stats)


# What every source promises

VARIANTS = [
    TargetNetwork(period=7, tau=0.25),
    TargetNetwork(period=7, joint_batch=True),
    SharedHeads(3, period=7, initial_heads="copies", behaviour_head="2"),
    *(SharedHeads(3, period=7, tau=0.25, tau_moves=moves) for moves in ("first", "chain")),
    IteratedNetworks(networks=3, period=7, copy_period=3, behaviour_head="mean"),
]


@named([*SOURCES, *VARIANTS])
def test_the_contract_is_kept(settings):
    testing.check_source(settings)


@named(SOURCES)
def test_under_batch_normalisation_too_only_the_prediction_carries_a_gradient(settings):
    source, x = settings.build(Dense((6,), norm="batch").build(ACTIONS)), FIRST.transition
    params, state = source.init(KEY, x.obs)

    def others(params):
        found = source.values(params, state, x.obs, x.next_obs)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((found.bootstrap, found.selector, found.batch_stats)))

    assert not any(leaf.any() for leaf in jax.tree.leaves(jax.grad(others)(params)))


@dataclasses.dataclass(frozen=True)
class Broken:
    """A target network with one promise broken."""

    how: str = ""  # which one

    label = "broken"

    def build(self, network):
        source = TargetNetwork(period=7).build(network)
        return BREAKS[self.how](source)


def leaks(source):
    def values(params, state, now, then=None, key=None):
        found = source.values(params, state, now, then, key)
        return found._replace(bootstrap=found.predicted)

    return source._replace(values=values)


def draws_without_a_key(source):
    def refresh(step, params, state, info):
        params, state = source.refresh(step, params, state, info)
        noise = np.random.default_rng().normal()  # drawn when it is traced
        return {**params, "trunk": jax.tree.map(lambda w: w + noise, params["trunk"])}, state

    return source._replace(refresh=refresh)


def forgets_then(source):
    def values(params, state, now, then=None, key=None):
        return source.values(params, state, now, jnp.zeros_like(now) if then is None else then, key)

    return source._replace(values=values)


def takes_no_key(source):
    return source._replace(values=lambda params, state, now, then=None: source.values(params, state, now, then))


def draws_anyway(source):
    def values(params, state, now, then=None, key=None):
        found = source.values(params, state, now, then, key)
        return found._replace(weights=found.weights * np.random.default_rng().random()) if then is not None else found

    return source._replace(values=values)


BREAKS = {
    "carry no gradient": leaks,
    r"it has values\(params, state, now, then=None, key=None\)": takes_no_key,
    "it has act_values": lambda source: source._replace(act_values=lambda params, state, key, inputs: inputs),
    "values without a key draws nothing": draws_anyway,
    "it is `anchored` if": lambda source: source._replace(anchored=True),
    "without `then`": forgets_then,
    "follow one rule": lambda source: source._replace(select=lambda state, key, values: values[0] + 1),
    "keeps the form": lambda source: source._replace(refresh=lambda step, params, state, info: (params, {})),
    "follow moves rows": lambda source: source._replace(follow=lambda step, tree: jax.tree.map(jnp.zeros_like, tree)),
    "every draw uses a key": draws_without_a_key,
    "a slot 'batch_stats'": lambda source: source._replace(
        init=lambda key, x: (source.init(key, x)[0], {"target_params": {}})
    ),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_promise_is_named(how):
    with pytest.raises(SharedqError, match=f"Broken breaks a promise: .*{how}"):
        testing.check_source(Broken(how))


@named([one for one in SOURCES if not one.build(DENSE).meets_the_optimiser])
def test_a_refresh_never_reaches_the_optimisers_moments(settings):
    """One update with and without the refresh, at a step at which it moves weights."""
    source = settings.build(DENSE)
    kept = source._replace(refresh=lambda step, params, state, seen: (params, state))
    start = ALGORITHM.on(source).init(KEY, FIRST)
    moved, still = (jax.jit(ALGORITHM.on(s).update)(start, FIRST, KEY, jnp.int32(21))[0] for s in (source, kept))
    same(moved.optimiser, still.optimiser)
    assert still.optimiser[0].mu["heads"]["kernel"].any()


@named(SOURCES)
def test_the_last_selector_is_the_network_that_learns_at_then(settings):
    source = settings.build(DENSE)
    params, state = source.init(KEY, FIRST.transition.obs)
    now, then = FIRST.transition.obs, FIRST.transition.next_obs
    selector = source.values(params, state, now, then).selector
    np.testing.assert_allclose(selector, source.values(params, state, then, now).predicted, rtol=1e-5, atol=1e-6)


@named([SharedHeads(heads=3), IteratedNetworks(networks=3)])
def test_loss_weights_weigh_the_heads(settings):
    weighted = dataclasses.replace(settings, loss_weights=(0.5, 0.0, 2.0))

    def loss(one):
        learner = ALGORITHM.on(one.build(DENSE))
        return jax.jit(learner.update)(learner.init(KEY, FIRST), FIRST, KEY, jnp.int32(1))[2]["loss"]

    alone = [loss(dataclasses.replace(settings, loss_weights=tuple(float(h == k) for h in range(3)))) for k in range(3)]
    np.testing.assert_allclose(loss(settings), sum(alone), rtol=1e-6)
    np.testing.assert_allclose(loss(weighted), 0.5 * alone[0] + 2 * alone[2], rtol=1e-6)


# Shared heads


def chain_of(params, state):
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), state["target_params"], params["heads"])


def nothing_seen(state) -> RefreshInfo:
    return RefreshInfo(FIRST.transition.obs, state["batch_stats"], jnp.zeros(3))


def test_a_shift_moves_values_to_the_bit():
    source = SharedHeads(heads=3, period=10).build(DENSE)
    params, state = source.init(KEY, FIRST.transition.obs)
    x = FIRST.transition.obs

    def q(params, state):
        features, _ = DENSE.trunk(params["trunk"], {}, x, False)
        return DENSE.heads(chain_of(params, state), features)

    before = q(params, state)
    unmoved = source.refresh(jnp.int32(9), params, state, nothing_seen(state))
    same(unmoved, (params, state))
    after = q(*source.refresh(jnp.int32(10), params, state, nothing_seen(state)))
    same(after[:-1], before[1:])
    same(after[-1], before[-1])
    assert len({float(head.sum()) for head in before}) == 4


def test_head_0_stands_still_between_shifts_whatever_the_optimiser_does(monkeypatch):
    def restless(*settings):
        return optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.05, weight_decay=0.5))

    monkeypatch.setattr("sharedq.algorithms.dqn.adam", restless)
    states, _ = trained(SharedHeads(heads=2, period=50))
    held, first = states.source["target_params"]["kernel"], states.params["heads"]["kernel"][:, 0]
    moves = np.flatnonzero((held[1:] != held[:-1]).any(axis=(1, 2, 3))) + 2  # the number of the update that moved it
    assert moves.tolist() == [50, 100, 150, 200, 250, 300]
    assert (first[1:] != first[:-1]).any(axis=(1, 2)).all()
    assert states.params["heads"]["kernel"].shape[1] == 2  # head 0 is none of what the optimiser moves


def test_right_after_a_shift_the_last_two_heads_are_equal():
    states, _ = trained(SharedHeads(heads=3, period=50))
    kernel = states.params["heads"]["kernel"]
    equal = (kernel[:, 1] == kernel[:, 2]).all(axis=(1, 2))
    assert (np.flatnonzero(equal) + 1).tolist() == [50, 100, 150, 200, 250, 300]


@pytest.mark.parametrize("initial_heads", ["drawn", "copies"])
def test_heads_begin_as_columns_of_one_layer_or_as_copies(initial_heads):
    source = SharedHeads(heads=3, initial_heads=initial_heads).build(DENSE)
    params, state = source.init(KEY, FIRST.transition.obs)
    kernel = chain_of(params, state)["kernel"]
    alike = [(kernel[0] == kernel[k]).all() for k in (1, 2, 3)]
    assert kernel.shape[0] == 4
    assert all(alike) if initial_heads == "copies" else not any(alike)


def written_out(params, state, batch: Batch, heads: int):
    """The paper's loss, one pair of heads after another, in plain arithmetic on a network with one hidden layer."""
    t = batch.transition
    layer, chain = params["trunk"]["Dense_0"], chain_of(params, state)
    total = 0.0
    for k in range(1, heads + 1):
        hidden_now, hidden_then = (jax.nn.relu(x @ layer["kernel"] + layer["bias"]) for x in (t.obs, t.next_obs))
        q = (hidden_now @ params["heads"]["kernel"][k - 1] + params["heads"]["bias"][k - 1])[jnp.arange(SIZE), t.action]
        below = jax.lax.stop_gradient(hidden_then @ chain["kernel"][k - 1] + chain["bias"][k - 1])
        target = jax.lax.stop_gradient(t.reward + t.discount * below.max(axis=1))
        total += jnp.mean((target - q) ** 2)
    return total


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-5), (True, 1e-12)], ids=["float32", "float64"])
def test_the_loss_of_many_heads_is_the_sum_of_the_losses_of_pairs(monkeypatch, x64, tolerance):
    # A plain descent of rate 1 gives the gradient away: what an update took off the parameters.
    monkeypatch.setattr("sharedq.algorithms.dqn.adam", lambda *settings: optax.sgd(1.0))
    heads = 4
    with jax.enable_x64(x64):
        learner, batch = ALGORITHM.on(SharedHeads(heads).build(DENSE)), widened(FIRST)
        before = widened(learner.init(KEY, FIRST))
        after, _, metrics = jax.jit(learner.update)(before, batch, KEY, jnp.int32(1))
        paper = jax.jit(jax.value_and_grad(written_out), static_argnums=3)
        loss, slope = paper(before.params, before.source, batch, heads)
        assert loss.dtype == (jnp.float64 if x64 else jnp.float32)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=tolerance)
        close(jax.tree.map(jnp.subtract, before.params, after.params), slope, tolerance)


# Polyak averages


@pytest.mark.usefixtures("wide")
def test_tau_of_a_target_network_is_an_exponential_average():
    states, _ = trained(TargetNetwork(period=1, tau=0.1), Table().build(ACTIONS))
    online = states.params["heads"]["kernel"]
    average = np.zeros_like(online[0])  # a table begins with zeros
    for n in range(UPDATES):
        average = 0.9 * average + 0.1 * online[n]
    np.testing.assert_allclose(states.source["target_params"]["heads"]["kernel"][-1], average, rtol=1e-10)


@pytest.mark.parametrize("moves", ["first", "chain"])
def test_tau_of_shared_heads_closed_form(moves):
    source = SharedHeads(heads=2, period=1, tau=0.25, tau_moves=moves).build(Table().build(1))
    params = {"trunk": {}, "heads": {"kernel": scalars(4, 12)}}
    state = {"target_params": {"kernel": scalars(0)}, "batch_stats": {}}
    params, state = source.refresh(jnp.int32(1), params, state, nothing_seen(state))
    assert chain_of(params, state)["kernel"].ravel().tolist() == [1, 6 if moves == "chain" else 4, 12]


# Iterated networks


def scalars(*numbers):
    """Heads or networks of one number each."""
    return jnp.array(numbers, jnp.float32).reshape(-1, 1, 1)


def test_iterated_networks_copy_and_shift_in_the_order_of_the_paper():
    """K = 3, written out: copies 0..2 are targets of networks 1..3; a copy at 2, 4, 8, a shift at 6."""
    source = IteratedNetworks(networks=3, period=6, copy_period=2).build(Table().build(1))

    def whole(*numbers):
        return {"trunk": {}, "heads": {"kernel": scalars(*numbers)[:, None]}}

    def numbers(tree):
        return tree["heads"]["kernel"].ravel().tolist()

    state = {"target_params": whole(0, 0, 0), "target_batch_stats": {}, "batch_stats": {}}
    params = whole(10, 20, 30)
    seen = {}
    for step in range(1, 9):
        params = jax.tree.map(lambda w: w + 1, params)  # stands for a gradient step
        params, state = source.refresh(jnp.int32(step), params, state, nothing_seen(state))
        seen[step] = numbers(state["target_params"]), numbers(params)
    assert seen[1] == ([0, 0, 0], [11, 21, 31])
    assert seen[2] == ([0, 12, 22], [12, 22, 32])  # copy k takes network k, copy 0 stays
    assert seen[4] == ([0, 14, 24], [14, 24, 34])
    assert seen[5] == ([0, 14, 24], [15, 25, 35])
    assert seen[6] == ([16, 26, 36], [26, 36, 36])  # copy k takes network k+1; then networks move down, the last stays
    assert seen[7] == ([16, 26, 36], [27, 37, 37])
    assert seen[8] == ([16, 28, 38], [28, 38, 38])


# Acting


@pytest.mark.parametrize("settings", [SharedHeads(heads=4), IteratedNetworks(networks=4)], ids=["heads", "networks"])
def test_every_learning_head_acts_equally_often_one_drawn_per_input(settings):
    source = settings.build(Table().build(1))
    params, state = source.init(KEY, jnp.ones((1, 1)))
    kernel = params["heads"]["kernel"]
    params["heads"]["kernel"] = jnp.arange(1.0, 5.0).reshape(kernel.shape)  # head 0 keeps its zero
    count = 4000
    drawn = source.act_values(params, state, KEY, jnp.ones((count, 1)))[:, 0]
    heads, times = np.unique(drawn, return_counts=True)
    assert heads.tolist() == [1, 2, 3, 4]
    chi_square = ((times - count / 4) ** 2 / (count / 4)).sum()
    assert chi_square < 16.3  # 0.1 % of fair draws with 3 degrees of freedom exceed it
    again = source.act_values(params, state, jax.random.key(8), jnp.ones((count, 1)))[:, 0]
    assert (drawn != again).any()


def test_other_rules_of_acting():
    values = jax.random.normal(KEY, (3, 4, 2))
    np.testing.assert_allclose(select_head("mean", {}, KEY, values), values.mean(0), rtol=1e-6)
    for number in (1, 2, 3):
        same(select_head(str(number), {}, KEY, values), values[number - 1])
    same(select_head("uniform", {}, None, values), values.mean(0))  # nothing may be drawn


@named(SOURCES)
@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.usefixtures("wide")
def test_the_same_inputs_need_one_pass(settings, norm):
    network, passes = Dense((6,), norm=norm).build(ACTIONS), []

    def counted(params, batch_stats, inputs, train):
        passes.append(train)
        return network.trunk(params, batch_stats, inputs, train)

    source, x = settings.build(network._replace(trunk=counted)), widened(FIRST.transition.obs)
    params, state = widened(source.init(KEY, x))
    passes.clear()
    once = source.values(params, state, x)
    assert passes.count(True) == 1  # and none for the selector; a target network is another function
    assert len(passes) == (1 if isinstance(settings, (OnlineNetwork, SharedHeads)) else 2)
    close(once, source.values(params, state, x, x))


@named(SOURCES)
def test_trees_of_features_and_outputs_are_handled_like_arrays(settings):
    network = DENSE

    def trunk(params, batch_stats, inputs, train):
        features, batch_stats = network.trunk(params, batch_stats, inputs, train)
        return {"deep": features, "raw": inputs}, batch_stats

    def init_heads(key, features, count):
        return network.init_heads(key, features["deep"], count)

    def heads(params, features):
        values = network.heads(params, features["deep"])
        return {"values": values, "shifted": values + features["raw"].sum(axis=-1)[:, None]}

    x, then = FIRST.transition.obs, FIRST.transition.next_obs
    plain, tree = (
        settings.build(one) for one in (network, network._replace(trunk=trunk, init_heads=init_heads, heads=heads))
    )
    params, state = plain.init(KEY, x)
    one, other = plain.values(params, state, x, then), tree.values(params, state, x, then)
    for name in ("predicted", "bootstrap", "selector"):
        close(getattr(one, name), getattr(other, name)["values"], 1e-6)
    acting = tree.act_values(params, state, KEY, x)
    close(acting["values"], plain.act_values(params, state, KEY, x), 1e-6)
    close(acting["shifted"] - acting["values"], jnp.broadcast_to(x.sum(-1)[:, None], acting["values"].shape), 1e-4)


# Lookahead-replicate


def linear_features(matrix) -> Network:
    """A network that is linear in fixed features of two states: v = matrix @ w, its only action."""
    features = jnp.array(matrix)
    return Network(
        lambda key, example: ({}, {}),
        lambda params, statistics, state, train: (features[state], statistics),
        lambda key, x, count: {"w": jax.random.normal(key, (count, features.shape[1]))},
        lambda heads, x: jnp.einsum("bf,hf->hb", x, heads["w"])[..., None],
    )


@pytest.mark.parametrize(("period", "replicate_steps"), [(1, 1), (5, 5)])
def test_lookahead_replicate_agrees_in_values_and_not_in_parameters(monkeypatch, period, replicate_steps):
    """Two states that swap, rewards 1 and 0, gamma 0.9: the values are 1 / 0.19 and 0.9 / 0.19. Plain descent."""
    monkeypatch.setattr("sharedq.algorithms.dqn.adam", lambda *settings: optax.sgd(0.2))
    monkeypatch.setattr("optax.adam", lambda *settings, **more: optax.sgd(0.2))
    network = linear_features([[1.0, 0.5, 1.0], [0.0, 1.0, -1.0]])
    source = LookaheadReplicate(period=period, replicate_steps=replicate_steps).build(network)
    learner = ALGORITHM.on(source)
    states = jnp.array([0, 1])
    transition = Transition(states, jnp.zeros(2, jnp.int32), jnp.array([1.0, 0.0]), jnp.full(2, 0.9), states[::-1])
    batch = Batch(transition, jnp.ones(2), states)
    start = learner.init(KEY, batch)
    apart = jnp.array([[0.6, -0.4, 0.2]])  # the target network begins elsewhere
    elsewhere = {"trunk": {}, "heads": {"w": start.params["heads"]["w"] + apart}}
    start = start._replace(source={**start.source, "target_params": elsewhere})

    def update(state, step):
        return learner.update(state, batch, KEY, step)[0], None

    end, _ = jax.jit(lambda state: jax.lax.scan(update, state, jnp.arange(1, 6001)))(start)
    online, held = end.params["heads"]["w"][0], end.source["target_params"]["heads"]["w"][0]
    matrix = np.array([[1.0, 0.5, 1.0], [0.0, 1.0, -1.0]])
    np.testing.assert_allclose(matrix @ online, [1 / 0.19, 0.9 / 0.19], rtol=1e-4)
    np.testing.assert_allclose(matrix @ held, [1 / 0.19, 0.9 / 0.19], rtol=1e-4)
    # What the features cannot see never moves: the two stay apart by that part of where they began.
    unseen = np.array([-1.5, 1.0, 1.0]) / np.sqrt(4.25)
    np.testing.assert_allclose(held - online, unseen * (unseen @ np.asarray(apart[0])), atol=1e-4)
    assert np.linalg.norm(held - online) > 0.1


def test_the_distance_of_lookahead_replicate_is_over_the_actions_that_are_asked_for():
    """Squared differences of all actions, of the replay's, and of those that the online network likes best."""
    outputs, wanted = jnp.array([[[1.0, 2.0], [3.0, 0.0]]]), jnp.array([[[0.0, 5.0], [1.0, -2.0]]])
    action = jnp.array([0, 1])
    distance = partial(distance_of, "values", SCALAR)
    same(distance("all", outputs, wanted, None), jnp.array([[[1.0, 9.0], [4.0, 4.0]]]))
    same(distance("replay", outputs, wanted, action), jnp.array([[1.0, 4.0]]))
    same(distance("greedy", outputs, wanted, None), jnp.array([[9.0, 4.0]]))


def test_the_distance_distribution_losses_is_their_cross_entropy_or_that_of_their_means():
    reading = distribution(-1, 1, 5)
    outputs, wanted = jax.random.normal(KEY, (2, 1, SIZE, ACTIONS, 5))
    crossed = distance_of("distributions", reading, "all", outputs, wanted, None)
    close(crossed, -(jax.nn.softmax(wanted) * jax.nn.log_softmax(outputs)).sum(-1), 1e-5)
    support = jnp.linspace(-1, 1, 5)
    means = [jax.nn.softmax(x) @ support for x in (outputs, wanted)]
    close(distance_of("values", reading, "all", outputs, wanted, None), (means[0] - means[1]) ** 2, 1e-5)


@pytest.mark.parametrize("actions", ["all", "replay", "greedy"])
def test_a_target_network_of_another_architecture_comes_to_give_the_same_values(actions):
    """Of the actions that it is fitted to: all of them, or those that the replay has or the online network likes."""
    settings = LookaheadReplicate(period=1, replicate_steps=1, learning_rate=0.02, adam_epsilon=1e-8, actions=actions)
    source = settings.build(DENSE, Dense((64,)).build(ACTIONS))
    now, action = FIRST.transition.obs, FIRST.transition.action
    params, state = source.init(KEY, now)
    assert sum(w.size for w in jax.tree.leaves(state["target_params"])) > sum(w.size for w in jax.tree.leaves(params))

    def once(state, step):
        return source.refresh(step, params, state, RefreshInfo(now, {}, jnp.zeros(1), action))[1], None

    state, _ = jax.jit(lambda state: jax.lax.scan(once, state, jnp.arange(1, 1501)))(state)
    found = source.values(params, state, now)
    distance = jnp.abs(found.bootstrap - found.predicted)[0]
    fitted = {"all": distance.max(-1), "replay": distance[jnp.arange(SIZE), action]}
    best = distance[jnp.arange(SIZE), found.predicted[0].argmax(-1)]
    assert fitted.get(actions, best).max() < 0.05
    if actions != "all":
        assert distance.max() > 0.1  # what is not fitted stays as it was drawn


def test_networks_that_disagree_in_their_outputs_are_refused():
    source = LookaheadReplicate().build(DENSE, Dense((16,)).build(ACTIONS + 1))
    with pytest.raises(SharedqError, match=r"target\.network gives outputs of shape \(1, 8, 4\)"):
        source.init(KEY, FIRST.transition.obs)
    with pytest.raises(SharedqError, match="needs values that are distributions"):
        LookaheadReplicate(distance="distributions").build(DENSE)


@pytest.mark.parametrize(
    ("network", "second", "told"),
    [
        (Dense((6,), noisy=True), None, "fits a network without noise"),
        (Dense((6,)), Dense((8,), norm="batch"), "cannot normalise by the batch"),
    ],
)
def test_networks_that_cannot_be_replicated_are_refused(network, second, told):
    second = None if second is None else second.build(ACTIONS)
    with pytest.raises(SharedqError, match=told):
        LookaheadReplicate().build(network.build(ACTIONS), second)


@pytest.mark.parametrize("algorithm", ["iql", "sac"])
def test_actions_can_be_selected_only_where_one_network_has_them_all(algorithm):
    actions = Continuous(-np.ones(2, np.float32), np.ones(2, np.float32)) if algorithm == "sac" else Discrete(3)
    spec = EnvironmentSpec("a test", jax.ShapeDtypeStruct((4,), np.float32), actions)
    with pytest.raises(SharedqError, match=r"target\.actions selects among the actions of one network"):
        ALGORITHMS[algorithm]().build(spec, LookaheadReplicate(actions="greedy"), Dense((6,)))


def test_replicate_sees_the_batches_since_the_last_refresh():
    source = LookaheadReplicate(period=4, replicate_steps=2).build(DENSE)
    params, state = source.init(KEY, FIRST.transition.obs)
    fitted = None
    for step in range(1, 5):
        inputs = jnp.full((SIZE, INPUTS), float(step))
        fitted = state["target_params"]
        params, state = source.refresh(jnp.int32(step), params, state, RefreshInfo(inputs, {}, jnp.zeros(1)))
        if step < 4:
            same(state["target_params"], fitted)
    assert sorted(state["recent"][:, 0, 0].tolist()) == [3, 4]
    assert state["optimiser"][0].count == 2


def test_replicate_makes_do_with_the_batches_there_are_and_keeps_unit_kernels_on_the_sphere():
    """The first update of a run has the number that its warm-up gives it, so the first refresh may come early."""
    network = SimbaV2(width=4, blocks=0).build(2)
    source = LookaheadReplicate(period=10, replicate_steps=6, learning_rate=0.1).build(network)
    params, state = source.init(KEY, FIRST.transition.obs)
    first = state["target_params"]
    params = jax.tree.map(lambda w: -w, params)  # something to move to
    for step in (8, 9, 10):
        params, state = source.refresh(
            jnp.int32(step), params, state, RefreshInfo(FIRST.transition.obs, {}, jnp.zeros(1))
        )
    assert state["optimiser"][0].count == 3
    before, after = (heads["heads"]["unit_kernel"] for heads in (first, state["target_params"]))
    assert (before != after).any()
    np.testing.assert_allclose(jnp.linalg.norm(after, axis=-2), 1, rtol=1e-5)


def test_a_discount_lets_earlier_heads_count_more():
    assert weights_of((), 0.25, 3).tolist() == [1, 0.25, 0.0625]
