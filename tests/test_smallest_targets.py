"""Sources whose targets come from several estimates, and the one that penalises, by identities and slow loops.

They are MINTO, Averaged DQN, Maxmin, REDQ and functional regularisation.
"""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_iql import ALGORITHM as IMPLICIT
from test_targets import ACTIONS, ALGORITHM, BATCHES, DENSE, FIRST, INPUTS, KEY, SIZE, close, same, trained, widened

from sharedq.algorithms import DQN, SAC, StreamQ
from sharedq.bellman import readings
from sharedq.environments import ProbeEnvironment
from sharedq.environments.spec import Continuous, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Table
from sharedq.networks.network import outputs_of, read_as
from sharedq.recipes import recipe
from sharedq.targets import (
    REDQ,
    Averaged,
    FunctionalRegularisation,
    Maxmin,
    Minto,
    OnlineNetwork,
    RefreshInfo,
    TargetNetwork,
)

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

NOW, THEN = FIRST.transition.obs, FIRST.transition.next_obs
of_every_kind = pytest.mark.parametrize("kind", ["scalar", "categorical", "quantile"])  # hl_gauss has logits too


def read(kind):
    """A small network whose outputs are read as values of this kind."""
    reading = readings.of_kind(kind, 5, 3.0)
    return read_as(Dense((6,)).build(outputs_of(reading, ACTIONS)), reading, ACTIONS)


def begun(settings, network=DENSE):
    """A source, and its parameters and state after random changes of both, so that no two networks are equal."""
    source = settings.build(network)
    params, state = source.init(KEY, NOW)
    keys = iter(jax.random.split(KEY, 100))
    params, state = jax.tree.map(lambda w: w + jax.random.normal(next(keys), w.shape), (params, state))
    return source, params, state


def outputs(network, weights, inputs):
    """The outputs [B, A, ...] of one network with one head."""
    features, _ = network.trunk(weights["trunk"], {}, inputs, False)
    return network.heads(weights["heads"], features)[0]


def member(tree, number):
    return jax.tree.map(lambda w: w[number], tree)


def smallest_by_loops(network, several):
    """For each input and action the outputs of the network with the smallest value."""
    values = np.stack([network.reading.value(one) for one in several])
    found = np.array(several[0])
    for place in np.ndindex(values.shape[1:]):
        found[place] = several[values[(slice(None), *place)].argmin()][place]
    return found


# MINTO


def test_minto_with_a_copy_of_every_step_is_target_free():
    (copied, losses), (free, free_losses) = trained(Minto(period=1)), trained(OnlineNetwork())
    same(copied.params, free.params)
    same(losses, free_losses)


@of_every_kind
def test_minto_takes_what_has_the_smaller_value(kind):
    network = read(kind)
    source, params, state = begun(Minto(), network)
    found = source.values(params, state, NOW, THEN).bootstrap[0]
    two = [outputs(network, weights, THEN) for weights in (state["target_params"], params)]
    close(found, smallest_by_loops(network, two), 1e-6)
    taken = [(network.reading.value(found) == network.reading.value(one)).mean() for one in two]
    assert min(taken) > 0.1  # each of the two is the smaller one somewhere


@pytest.mark.parametrize("backup", ["maximum", "mellowmax"])
def test_no_target_of_minto_is_above_that_of_the_target_network_or_of_the_online_network(backup):
    algorithm = dataclasses.replace(ALGORITHM, backup=backup)
    _, params, state = begun(Minto())

    def targets(settings):
        learner = algorithm.on(settings.build(DENSE))
        agent = learner.init(KEY, FIRST)._replace(source=state)
        return learner.loss(params, agent, FIRST, KEY)[1].targets

    minto, classic, free = (targets(settings) for settings in (Minto(), TargetNetwork(), OnlineNetwork()))
    assert (minto <= jnp.minimum(classic, free)).all()
    assert (minto < classic).any()
    assert (minto < free).any()


# Averaged DQN


@pytest.mark.parametrize("kind", ["scalar", "categorical"])
def test_one_snapshot_is_a_target_network(kind):
    network, algorithm = read(kind), dataclasses.replace(ALGORITHM, values=kind, atoms=5, value_bound=3.0)
    with jax.enable_x64(True):
        (one, losses), (classic, classic_losses) = (
            trained(settings, network, algorithm) for settings in (Averaged(1, period=20), TargetNetwork(20))
        )
    close(one.params, classic.params)
    close(jax.tree.map(lambda w: w[:, 0], one.source["target_params"]), classic.source["target_params"])
    close(losses, classic_losses)


def test_a_snapshot_takes_the_place_of_the_oldest():
    states, _ = trained(Averaged(snapshots=3, period=20), DENSE)
    ring, online = (tree["heads"]["kernel"] for tree in (states.source["target_params"], states.params))
    first = ALGORITHM.on(OnlineNetwork().build(DENSE)).init(KEY, FIRST).params["heads"]["kernel"]

    def taken_at(update):
        return first if update == 0 else online[update - 1]

    for update in (19, 20, 39, 40, 60, 79, 80, 300):
        newest = update // 20 * 20
        wanted = [taken_at(max(newest - 20 * age, 0)) for age in range(3)]
        kept = ring[update - 1]
        assert sorted(w.sum().item() for w in kept) == sorted(w.sum().item() for w in wanted)


@of_every_kind
def test_the_target_has_the_mean_value_of_the_snapshots(kind):
    network = read(kind)
    source, params, state = begun(Averaged(snapshots=4), network)
    each = [network.reading.value(outputs(network, member(state["target_params"], n), THEN)) for n in range(4)]
    found = network.reading.value(source.values(params, state, NOW, THEN).bootstrap[0])
    close(found, np.mean(each, axis=0), 1e-5)


# Maxmin and REDQ


@pytest.mark.parametrize("settings", [Maxmin(1, period=20), REDQ(1, 1, period=20, tau=1.0)], ids=lambda s: s.label)
def test_one_network_of_an_ensemble_is_a_target_network(settings):
    with jax.enable_x64(True):
        ours, classic = (ALGORITHM.on(one.build(DENSE)) for one in (settings, TargetNetwork(20)))
        (own_key,) = jax.random.split(KEY, 1)  # with which the ensemble draws its only network

        def run(learner, key):
            def update(state, numbered):
                state, _, metrics = learner.update(state, numbered[1], KEY, numbered[0])
                return state, metrics["loss"]

            numbered = jnp.arange(1, 301), widened(BATCHES)
            return jax.jit(lambda state: jax.lax.scan(update, state, numbered))(widened(learner.init(key, FIRST)))

        (one, losses), (other, classic_losses) = run(ours, KEY), run(classic, own_key)
    close(member(one.params, 0), other.params)
    close(losses, classic_losses)
    assert losses.dtype == jnp.float64


@of_every_kind
@pytest.mark.parametrize("settings", [Maxmin(3), REDQ(3, 3)], ids=lambda settings: settings.label)
def test_all_networks_bootstrap_on_the_smallest_of_all_copies(settings, kind):
    network = read(kind)
    source, params, state = begun(settings, network)
    copies = [outputs(network, member(state["target_params"], n), THEN) for n in range(3)]
    wanted = smallest_by_loops(network, copies)
    for key in (None, KEY, jax.random.key(1)):
        found = source.values(params, state, NOW, THEN, key)
        for bootstrap in found.bootstrap:
            close(bootstrap, wanted, 1e-6)
    close(found.predicted, jnp.stack([outputs(network, member(params, n), NOW) for n in range(3)]), 1e-6)


def test_the_networks_of_an_ensemble_begin_apart():
    params, _ = Maxmin(3).build(DENSE).init(KEY, NOW)
    kernels = params["trunk"]["Dense_0"]["kernel"]
    assert all((kernels[a] != kernels[b]).any() for a, b in itertools.combinations(range(3), 2))


def test_maxmin_follows_the_smallest_value_and_redq_the_mean():
    for settings, wanted in ((Maxmin(3), jnp.min), (REDQ(3), jnp.mean)):
        source, params, state = begun(settings)
        each = jnp.stack([outputs(DENSE, member(params, n), NOW) for n in range(3)])
        close(source.act_values(params, state, KEY, NOW), wanted(each, axis=0), 1e-6)


def equally_often(counts, bound):
    """`bound` is exceeded by 0.1 % of fair draws, whose degrees of freedom are one less than there are counts."""
    counts = np.asarray(counts)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < bound


def test_one_random_network_of_maxmin_learns_at_each_update():
    source, params, state = begun(Maxmin(4))
    learner = ALGORITHM.on(source)
    agent = learner.init(KEY, FIRST)._replace(source=state)

    @jax.jit
    @partial(jax.vmap, in_axes=0)
    def slopes(key):
        slope = jax.grad(lambda own: learner.loss(own, agent, FIRST, key)[0])(params)
        return jnp.abs(slope["heads"]["kernel"]).sum(axis=(1, 2, 3))

    learned = np.asarray(slopes(jax.random.split(KEY, 400))) > 0
    assert (learned.sum(axis=1) == 1).all()
    equally_often(learned.sum(axis=0), 16.3)
    assert source.values(params, state, NOW, THEN).weights.tolist() == [0.25] * 4


def test_redq_draws_a_pair_for_the_whole_batch_at_each_update():
    source, params, state = begun(REDQ(4, 2))
    copies = jnp.stack([outputs(DENSE, member(state["target_params"], n), THEN) for n in range(4)])
    pairs = list(itertools.combinations(range(4), 2))
    candidates = jnp.stack([copies[jnp.array(pair)].min(axis=0) for pair in pairs])
    drawn = jax.jit(jax.vmap(lambda key: source.values(params, state, NOW, THEN, key).bootstrap))
    found = drawn(jax.random.split(KEY, 600))
    same(found, jnp.broadcast_to(found[:, :1], found.shape))  # all networks have the same target
    matches = jnp.isclose(found[:, :1], candidates, rtol=1e-5, atol=1e-6).all(axis=(2, 3))
    assert (matches.sum(axis=1) == 1).all()
    equally_often(matches.sum(axis=0), 20.5)
    close(source.values(params, state, NOW, THEN).bootstrap[0], candidates[0], 1e-6)  # without a key: the first two
    assert source.values(params, state, NOW, THEN, KEY).weights.tolist() == [1.0] * 4


# Continuous actions

BOX = EnvironmentSpec(
    "box", jax.ShapeDtypeStruct((INPUTS,), np.float32), Continuous(-np.ones(2, np.float32), np.ones(2, np.float32))
)
ACTED = FIRST._replace(
    transition=FIRST.transition._replace(action=jax.random.uniform(KEY, (SIZE, 2), minval=-1.0, maxval=1.0))
)


def soft(settings, **options):
    learner = SAC(actor_width=8, **options).build(BOX, settings, Dense((6,)))
    return learner, jax.jit(learner.init)(KEY, ACTED)


def test_redq_of_two_networks_is_sac_with_two_critics_whose_mean_the_policy_follows():
    ours, agent = soft(REDQ(2, 2), critics=1)
    classic, other = soft(TargetNetwork(), critics=2)
    keys = iter(jax.random.split(KEY, 100))
    critic, copy = (
        jax.tree.map(lambda w: w + jax.random.normal(next(keys), w.shape), agent.params["critic"]) for _ in range(2)
    )

    def as_critics(tree):
        """From networks [N] with a head [1] of a critic [1] to a head [1] of critics [C] on a trunk of critics [C]."""
        return {
            "trunk": jax.tree.map(lambda w: w[:, 0], tree["trunk"]),
            "heads": jax.tree.map(lambda w: w[:, 0, 0][None], tree["heads"]),
        }

    agent = agent._replace(params={**agent.params, "critic": critic}, source={**agent.source, "target_params": copy})
    other = other._replace(
        params={**agent.params, "critic": as_critics(critic)},
        source={**other.source, "target_params": as_critics(copy)},
    )
    (total, _), (wanted, _) = (
        jax.jit(one.loss)(a.params, a, ACTED, KEY) for one, a in ((ours, agent), (classic, other))
    )
    close(total, wanted, 1e-5)

    obs = ACTED.transition.obs
    action, values = jax.jit(ours.decide)(agent, obs)
    inputs = obs, action
    each = classic.source.values(other.params["critic"], other.source, inputs).predicted[0]
    close(values, each.mean(axis=-1), 1e-5)
    assert (jnp.abs(each[:, 0] - each[:, 1]) > 1e-3).all()


# Functional regularisation


def test_functional_regularisation_of_no_strength_is_target_free():
    (loose, losses), (free, free_losses) = trained(FunctionalRegularisation(0.0, period=20)), trained(OnlineNetwork())
    same(loose.params, free.params)
    same(losses, free_losses)


def slope_of(settings, network, params, state, algorithm=ALGORITHM):
    learner = algorithm.on(settings.build(network))
    agent = learner.init(KEY, FIRST)._replace(source=state)
    return jax.jit(jax.grad(lambda own: learner.loss(own, agent, FIRST, KEY)[0]))(params)


def test_the_anchor_draws_each_value_towards_the_copys_by_twice_the_strength():
    """A table: the gradient of kappa mean_b (Q - Q')^2 is 2 kappa / B sum_b (Q - Q') times the input of the row."""
    network, kappa = Table().build(ACTIONS), 0.7
    _, params, state = begun(FunctionalRegularisation(kappa), network)
    strong, free = (
        slope_of(FunctionalRegularisation(k), network, params, state)["heads"]["kernel"][0] for k in (kappa, 0.0)
    )
    t, wanted = FIRST.transition, np.zeros((INPUTS, ACTIONS))
    kernel, copy = (np.asarray(tree["heads"]["kernel"][0]) for tree in (params, state["target_params"]))
    for obs, action in zip(np.asarray(t.obs), np.asarray(t.action), strict=True):
        wanted[:, action] += 2 * kappa / SIZE * (obs @ kernel - obs @ copy)[action] * obs
    close(strong - free, wanted, 1e-4)


@pytest.mark.parametrize("kind", ["scalar", "categorical"])  # quantiles that are equal do not have the smallest loss
def test_an_anchor_that_says_the_same_draws_nowhere(kind):
    network, algorithm = read(kind), DQN(values=kind, atoms=5, value_bound=3.0)
    _, params, state = begun(FunctionalRegularisation(), network)
    right_after_a_copy = {**state, "target_params": params}
    free, agreed, apart = (
        slope_of(FunctionalRegularisation(strength), network, params, one, algorithm)
        for strength, one in ((0.0, state), (2.0, right_after_a_copy), (2.0, state))
    )
    close(agreed, free, 1e-5)
    assert (jnp.abs(apart["heads"]["kernel"] - free["heads"]["kernel"]) > 1e-3).any()


def test_the_anchor_is_the_copy_of_the_last_refresh():
    source, params, state = begun(FunctionalRegularisation(period=3))
    for step, moved in ((2, False), (3, True)):
        _, after = source.refresh(jnp.int32(step), params, state, RefreshInfo(NOW, {}, jnp.zeros(1)))
        anchor = source.values(params, after, NOW, THEN).anchor[0]
        close(anchor, outputs(DENSE, params if moved else state["target_params"], NOW), 1e-6)


def test_sac_adds_the_term_of_each_critic():
    strong, agent = soft(FunctionalRegularisation(0.5))
    free, _ = soft(FunctionalRegularisation(0.0))
    critic = jax.tree.map(lambda w: w + 0.3, agent.params["critic"])
    params = {**agent.params, "critic": critic}
    with_term, without = (jax.jit(learner.loss)(params, agent, ACTED, KEY)[0] for learner in (strong, free))
    found = strong.source.values(critic, agent.source, (ACTED.transition.obs, ACTED.transition.action))
    wanted = 0.5 * np.mean(np.sum(np.square(found.predicted[0] - found.anchor[0]), axis=-1))
    assert float(with_term - without) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0.01


@pytest.mark.parametrize("algorithm", [StreamQ(), IMPLICIT], ids=lambda algorithm: type(algorithm).__name__)
def test_an_algorithm_that_adds_no_term_refuses_the_source(algorithm):
    message = "target 'functional_regularisation' adds a term .*: add --algorithm dqn, cql, pqn, sac or cql_sac"
    with pytest.raises(SharedqError, match=message):
        algorithm.build(ProbeEnvironment("corridor").build().spec, FunctionalRegularisation(), Table())


# With other parts


@pytest.mark.parametrize("options", [{"target": "maxmin"}, {"target": "redq", "target.subset": 1}])
def test_the_networks_of_an_ensemble_are_estimates_that_a_sampler_can_compare(options):
    options |= {"sampler": "ensemble"}
    assert recipe("corridor").replace(**options).build().replay.metric_names
    with pytest.raises(SharedqError, match="compares several estimates"):
        recipe("corridor").replace(**options, **{"target.networks": 1}).build()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (Maxmin, {"networks": 0}, "target.networks must be at least 1, not 0"),
        (Maxmin, {"tau": 0.0}, "target.tau must be above 0"),
        (REDQ, {"subset": 11}, "target.subset must lie in 1 .. target.networks, which is 10, not 11"),
        (REDQ, {"period": 0}, "target.period must be at least 1"),
        (Averaged, {"snapshots": 0}, "target.snapshots must be at least 1, not 0"),
        (FunctionalRegularisation, {"strength": -1.0}, "target.strength cannot be negative"),
        (Minto, {"tau": 2.0}, "target.tau must be above 0 and at most 1"),
    ],
)
def test_impossible_settings_are_refused(settings, options, message):
    with pytest.raises(SharedqError, match=message):
        settings(**options)
