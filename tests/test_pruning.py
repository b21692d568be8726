"""Pruning: masks and their shares, Eau de Q-Network and the fixed schedule, by formulas and identities."""

import dataclasses
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_adaptive import ACTIONS, ALGORITHM, KEY, SIZE, batches, begun, first, place, trained
from test_interactive import same

from sharedq import testing
from sharedq.networks import Convolutional, Dense
from sharedq.networks import network as networks
from sharedq.networks.convolution import native_convolutions
from sharedq.targets import Adaptive, EauDe, IteratedNetworks, PolyPrune, SharedHeads, TargetNetwork
from sharedq.targets.pruning import (
    all_kept,
    densities,
    kernels,
    left_of,
    masks_of,
    pruned,
    pruned_moments,
    ranks,
    sparsity_of,
    uses_of_weights,
)

pytestmark = pytest.mark.usefixtures("hasty")

WIDE = Dense((12, 10))


def weights(key=KEY, **shapes):
    names = {"kernel": (8, 6), "bias": (6,), **shapes}
    keys = jax.random.split(key, len(names))
    return {"trunk": {name: jax.random.normal(k, shape) for k, (name, shape) in zip(keys, names.items(), strict=True)}}


# Masks


def test_the_smallest_weights_of_each_kernel_are_pruned_and_nothing_else():
    params = {**weights(), "heads": {"kernel": jax.random.normal(KEY, (2, 5, 3)), "bias": jnp.zeros((2, 3))}}
    masks = masks_of(ranks(params, all_kept(params), {"heads"}), 0.4, "uniform", {"heads"})
    assert masks["trunk"]["bias"].all() and masks["heads"]["bias"].all()
    layers = [(params["trunk"]["kernel"], masks["trunk"]["kernel"])]
    layers += list(zip(params["heads"]["kernel"], masks["heads"]["kernel"], strict=True))
    for w, mask in layers:
        assert int(mask.sum()) == round(0.6 * w.size)
        assert jnp.abs(w[mask]).min() >= jnp.abs(w[~mask]).max()


def test_what_is_pruned_stays_pruned_however_large_it_is():
    params, kept = weights(), {"trunk": {"kernel": jnp.arange(48).reshape(8, 6) % 2 == 0, "bias": jnp.ones(6, bool)}}
    masks = masks_of(ranks(params, kept), 0.5, "uniform")
    same(masks, kept)
    assert not (masks_of(ranks(params, kept), 0.7, "uniform")["trunk"]["kernel"] & ~kept["trunk"]["kernel"]).any()


shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5)


@given(shapes, st.floats(0, 0.99))
def test_densities_keep_the_share_that_is_asked_for_and_erk_more_of_small_layers(shapes, sparsity):
    sizes = np.array([a * b for a, b in shapes], float)
    for distribution in ("uniform", "erk"):
        found = np.array(densities(shapes, sparsity, distribution), float)
        assert (found >= 0).all() and (found <= 1).all()
        np.testing.assert_allclose(found @ sizes, (1 - sparsity) * sizes.sum(), rtol=1e-4, atol=1e-3)
    raw = np.array([(a + b) / (a * b) for a, b in shapes])
    part = found < 1
    np.testing.assert_allclose((found / raw)[part], (found / raw)[part].max(initial=0), rtol=1e-4)  # one epsilon
    if part.any():
        assert (raw[~part] * (found / raw)[part].max() >= 1 - 1e-4).all()  # those left whole would keep more


def test_no_gradient_reaches_a_pruned_weight_even_if_it_is_not_a_number():
    params, masks = {"kernel": jnp.array([1.0, jnp.nan])}, {"kernel": jnp.array([True, False])}
    slope = jax.grad(lambda p: jnp.sum(pruned(p, masks)["kernel"] * jnp.array([2.0, jnp.nan])))(params)
    same(slope["kernel"], jnp.array([2.0, 0.0]))


def test_moments_of_any_optimiser_are_pruned_where_they_have_the_form_of_the_parameters():
    params = weights()
    state = ALGORITHM._optimiser().init(params)
    state = jax.tree.map(lambda x: x + 1, state)
    masks = masks_of(ranks(params, all_kept(params)), 0.5, "uniform")
    found = pruned_moments(state, masks)
    same(found[0].count, state[0].count)
    for moments in (found[0].mu, found[0].nu):
        same(moments["trunk"]["kernel"], masks["trunk"]["kernel"].astype(jnp.float32))
        assert moments["trunk"]["bias"].all()


@pytest.mark.parametrize("lowering", ["products", "native"])
def test_a_weight_of_a_convolution_is_used_once_for_each_pixel_of_its_output(lowering):
    network = Convolutional(filters=(3,), sizes=(3,), hidden=(5,)).build(2)
    image = jnp.zeros((1, 10, 10, 4))
    trunk, heads, stats = networks.init(network, KEY, image, 2)
    params = {"trunk": trunk, "heads": heads}
    with native_convolutions() if lowering == "native" else nullcontext():
        uses = uses_of_weights(network, params, stats, image)
    assert sorted(kernels(uses)) == [1, 1, 64]
    left = left_of(all_kept(params), uses)
    assert float(left.flops) == 2 * (64 * 3 * 3 * 4 * 3 + 8 * 8 * 3 * 5 + 2 * 5 * 2)
    assert float(left.parameters) == sum(w.size for w in jax.tree.leaves(params)) and float(left.sparsity) == 0
    half = masks_of(ranks(params, all_kept(params), {"heads"}), 0.5, "uniform", {"heads"})
    assert float(left_of(half, uses).flops) == float(left.flops) / 2


# Eau de Q-Network

EAU = EauDe(networks=3, period=4, max_speed=0.2, horizon=60)


@pytest.fixture(scope="module")
def eau():
    learner, start = begun(EAU, WIDE)
    return trained(learner, start, batches(40))[0]


def test_pruned_weights_and_their_moments_are_zero_for_ever(eau):
    masks = eau.source["masks"]
    for tree in (eau.params, eau.optimiser[0].mu, eau.optimiser[0].nu):
        outside = jax.tree.map(lambda w, mask: jnp.abs(jnp.where(mask, 0, w)).max(), tree, masks)
        assert max(map(float, jax.tree.leaves(outside))) == 0
    assert all(mask.all() for path, mask in jax.tree.leaves_with_path(masks) if path[-1].key == "bias")
    assert float(sparsity_of(place(masks, -1))) > 0.2
    assert all((w[-1] != 0).sum() > 0 for w in kernels(eau.params))


def test_the_greedy_decision_is_that_of_the_network_which_the_log_tells_of(eau):
    """Behind a refresh the network that was chosen stands at the first place, and its number is another one's."""
    source = EAU.build(WIDE.build(ACTIONS))
    obs = first(batches(1)).transition.obs
    for step in (3, 7, 11, 15, 19):
        state, params = place(eau.source, step), place(eau.params, step)
        wanted = jax.tree.map(lambda w: w[:1], params)
        one = dataclasses.replace(EAU, behaviour_network="1").build(WIDE.build(ACTIONS))
        found = source.act_values(params, state, None, obs, False)
        np.testing.assert_array_equal(found, one.act_values(params, state, None, obs, False))
        zeros = sum(int((w == 0).sum()) for w in kernels(wanted)) / sum(w.size for w in kernels(wanted))
        assert zeros == pytest.approx(float(state["left"].sparsity), abs=1e-6)


@pytest.mark.parametrize("target", [EAU, PolyPrune(begin=2, end=9, prune_period=3)], ids=["eau_de", "poly_prune"])
def test_seeds_side_by_side_sort_weights_only_where_they_are_pruned(target):
    learner, start = begun(target, WIDE)
    seeds = jax.tree.map(lambda x: jnp.stack([x] * 3), start)
    batch = jax.tree.map(lambda x: jnp.stack([x] * 3), first(batches(1)))
    keys = jax.random.split(KEY, 3)
    jaxpr = jax.make_jaxpr(jax.vmap(learner.update, in_axes=(0, 0, 0, None)))(seeds, batch, keys, jnp.int32(1))

    def sorts(jaxpr):
        found = 0
        for equation in jaxpr.eqns:
            found += equation.primitive.name == "sort"
            if equation.primitive.name != "cond":
                inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
                found += sum(sorts(one) for one in inner if hasattr(one, "eqns"))
        return found

    assert sorts(jaxpr.jaxpr) == 0


def test_a_child_only_loses_weights_and_the_first_one_loses_none(eau):
    for step in range(4, 41, 4):  # the state after update 4 is at place 3
        before, after = place(eau.source, step - 2), place(eau.source, step - 1)
        best = int(after["sums"].chosen)
        parent = place(before["masks"], best)
        same(place(after["masks"], 0), parent)
        for network in (1, 2):
            grown = jax.tree.map(lambda child, kept: (child & ~kept).any(), place(after["masks"], network), parent)
            assert not any(jax.tree.leaves(grown))
        same(place(after["sparsity"], 0), before["sparsity"][best])
        target = kernels(after["target_params"])
        zeros = sum(int((w == 0).sum()) for w in target) / sum(w.size for w in target)
        assert zeros == pytest.approx(float(after["left"].sparsity), abs=1e-6)  # what the log says
        assert zeros == pytest.approx(float(after["sparsity"][0]), abs=0.02)  # what was asked for, up to rounding


def test_all_networks_go_on_from_the_chosen_one(eau):
    after = place(eau, 3)
    whole = after.source["target_params"]
    for network in range(3):
        same(place(after.params, network), pruned(whole, place(after.source["masks"], network)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(after.optimiser))  # which begins anew


def test_sparsities_have_their_formula_and_their_bounds():
    settings = EauDe(networks=400, period=100, horizon=10_000, max_speed=0.05)
    found = np.asarray(settings.sparsities(KEY, jnp.int32(2_000), jnp.float32(0.5)))
    exponents = 3 * np.asarray(jax.random.uniform(KEY, (399,)))
    np.testing.assert_allclose(found[1:], 1 - 0.5 * (1 - 100 / 8_000) ** exponents, rtol=1e-5)
    assert found[0] == 0.5
    late = settings.sparsities(KEY, jnp.int32(9_950), jnp.float32(0.5))
    assert late.max() == pytest.approx(0.55)
    assert settings.sparsities(KEY, jnp.int32(9_950), jnp.float32(0.98)).max() == pytest.approx(0.99)
    linear = dataclasses.replace(settings, schedule="linear").sparsities(KEY, jnp.int32(5), jnp.float32(0.5))
    np.testing.assert_allclose(linear[1:], 0.5 + 0.05 * exponents / 3, rtol=1e-5)


def test_with_the_largest_exponent_it_is_the_cubic_schedule_that_ends_at_one():
    """Without a draw and without a cap: a step of s from t to t + h is a step of 1 - (1 - t / horizon)^3."""
    sparsity, settings = jnp.float32(0), EauDe(networks=2, period=100, horizon=10_000, max_speed=1.0, max_sparsity=1.0)
    for step in range(0, 9_000, 100):
        left = settings.horizon - step
        sparsity = 1 - (1 - sparsity) * (1 - settings.period / left) ** settings.max_noise
        assert float(sparsity) == pytest.approx(1 - (1 - (step + 100) / 10_000) ** 3, abs=1e-4)


def test_without_speed_it_is_adaptive_with_equal_rates():
    """Both begin with equal networks."""
    stream = batches(20)
    learner, start = begun(EauDe(networks=2, period=5, max_speed=0.0, reset_optimiser=False))
    other, state = begun(Adaptive(networks=2, period=5, learning_rates=(0.01, 0.01)))
    state = state._replace(params=start.params)
    (one, _), (two, _) = trained(learner, start, stream), trained(other, state, stream)
    same(one.params, two.params)
    same(one.source["target_params"], two.source["target_params"])
    same(one.optimiser, two.optimiser)


def test_a_child_that_is_pruned_far_too_much_is_not_chosen():
    """The networks have learned a batch by heart when nearly all weights of two of them go."""
    learner, start = begun(EauDe(networks=3, period=400, horizon=400, max_speed=0.97), WIDE)
    stream = jax.tree.map(lambda x: jnp.repeat(x[:1], 800, axis=0), batches(1))
    stream = stream._replace(transition=stream.transition._replace(discount=jnp.zeros((800, SIZE))))
    found, _ = trained(learner, start, stream)
    np.testing.assert_allclose(found.source["sparsity"][399], [0, 0.97, 0.97])
    sums = np.asarray(found.source["sums"].losses[798])
    assert sums[1:].min() > 2 * sums[0]
    assert int(found.source["sums"].chosen[799]) == 0
    np.testing.assert_allclose(found.source["left"].sparsity[799], 0)


# The fixed schedule


def test_the_schedule_has_its_formula():
    settings = PolyPrune(begin=10, end=110, final_sparsity=0.9)
    for step in range(0, 130, 7):
        p = np.clip((step - 10) / 100, 0, 1)
        assert float(settings.sparsity(step)) == pytest.approx(0.9 * (1 - (1 - p) ** 3), abs=1e-6)


@pytest.mark.parametrize(
    "inner",
    [
        "target_network:period=5",
        "shared_heads:heads=3:period=3",
        "iterated_networks:networks=2:period=6:copy_period=2",
        "maxmin:networks=2:period=3",
    ],
)
def test_a_pruned_source_keeps_its_sparsity_and_its_zeros(inner):
    learner, start = begun(PolyPrune(inner, 0.8, begin=5, end=30, prune_period=5), WIDE)
    found, metrics = trained(learner, start, batches(40))
    masks = found.source["masks"]
    for tree in (found.params, found.optimiser[0].mu, found.optimiser[0].nu):
        outside = jax.tree.map(lambda w, mask: jnp.abs(jnp.where(mask, 0, w)).max(), tree, masks)
        assert max(map(float, jax.tree.leaves(outside))) == 0
    last = place(masks, -1)
    assert float(sparsity_of(last)) == pytest.approx(0.8, abs=0.02)
    assert all(abs(1 - mask.mean() - 0.8) < 0.1 for mask in kernels(last))
    assert not metrics["sparsity"][:5].any()
    assert float(metrics["sparsity"][-1]) == pytest.approx(0.8, abs=0.02)
    shares = [float(sparsity_of(place(masks, step))) for step in range(40)]
    assert all(b >= a - 1e-6 for a, b in pairwise(shares))
    zeros = [int((w[-1] == 0).sum()) for w in kernels(found.source["target_params"])]
    assert all(zeros)  # the copies are pruned too


def test_masks_move_with_their_heads():
    learner, start = begun(PolyPrune("shared_heads:heads=3:period=3", 0.5, begin=1, end=2, prune_period=1), WIDE)
    found, _ = trained(learner, start, batches(6))
    before, after = (place(found.source["masks"]["heads"]["kernel"], step) for step in (1, 2))
    same(after[:2], before[1:])
    assert (before[0] != before[1]).any()


def test_without_pruning_it_is_the_source_itself():
    for inner, settings in (
        ("shared_heads:heads=2:period=3", SharedHeads(2, period=3)),
        ("target_network:period=3", TargetNetwork(3)),
    ):
        (one, _), (two, _) = (
            trained(*begun(kind, WIDE), batches(12)) for kind in (PolyPrune(inner, begin=100, end=200), settings)
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one.params, two.params)


@pytest.mark.parametrize(
    "settings",
    [
        EAU,
        dataclasses.replace(EAU, distribution="erk", reset_optimiser=False, schedule="linear"),
        PolyPrune("lookahead_replicate:period=4:replicate_steps=2"),
    ],
    ids=lambda one: one.label,
)
def test_the_contract_is_kept(settings):
    testing.check_source(settings)


def test_a_nested_source_names_its_parts():
    settings = PolyPrune("lookahead_replicate:network=dense:period=30")
    assert settings.label == "pruned lookahead-replicate"
    assert settings.second_network == "dense"
    assert IteratedNetworks(3).label in PolyPrune("iterated_networks:networks=3").label
