"""XQC and FlashSAC: counts, the layers written out, lengths that updates keep, and SAC with them on every source."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.algorithms import SAC
from sharedq.algorithms.sac import FIRST_COUNT
from sharedq.analysis.cost import parameters_of
from sharedq.environments import Continuous, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.exploration import cosine_schedule
from sharedq.networks import XQC, FlashSAC, Table
from sharedq.networks import network as networks
from sharedq.networks.unit_kernels import GAINS, NAME, project
from sharedq.normalisers import no_returns
from sharedq.recipes import HARD, recipe
from sharedq.targets import IteratedNetworks, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.transitions import Batch, Step, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(3)
ATOMS, SIZE = 101, 32
SIZES = {"humanoid": (67, 21), "dog": (223, 38)}  # observations and actions


def spec_of(obs: int, actions: int) -> EnvironmentSpec:
    bound = np.ones(actions, np.float32)
    return EnvironmentSpec("vectors", jax.ShapeDtypeStruct((obs,), jnp.float32), Continuous(-bound, bound))


def batch_of(obs: int, actions: int, size: int = SIZE) -> Batch:
    keys = jax.random.split(KEY, 4)
    now, then = (jax.random.normal(key, (size, obs)) for key in keys[:2])
    action = jax.random.uniform(keys[2], (size, actions), minval=-1.0, maxval=1.0)
    transition = Transition(now, action, jax.random.normal(keys[3], (size,)), jnp.full(size, 0.9), then)
    return Batch(transition, jnp.ones(size), jnp.zeros(size, jnp.int32))


def named(tree, name):
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if path[-1].key == name]


# What an agent holds


def held_by_hand(name: str, obs: int, actions: int) -> tuple[int, int, int]:
    """The parameters of one critic without its last layer, of that layer, and of the actor."""
    pair = obs + actions
    if name == "xqc":

        def layers(inputs, width):  # BatchNorm of the inputs, then four times a kernel and a BatchNorm
            return 2 * inputs + (inputs * width + 2 * width) + 3 * (width * width + 2 * width)

        return layers(pair, 512), 512 * ATOMS + ATOMS, layers(obs, 256) + 2 * (256 * actions + actions)

    def blocks(inputs, width):  # BatchNorm of the inputs, a kernel, two blocks, and the gains of RMSNorm
        block = width * 4 * width + 2 * 4 * width + 4 * width * width + 2 * width
        return 2 * inputs + inputs * width + 2 * block + width

    return blocks(pair, 256), 256 * ATOMS + ATOMS, blocks(obs, 128) + 2 * (128 * actions + actions)


@pytest.mark.parametrize(
    ("name", "body", "critics", "actor", "saved"),
    [
        ("xqc", "humanoid", 1_775_146, 226_736, 47.0),
        ("xqc", "dog", 1_952_990, 275_722, 46.7),
        ("flash-sac", "humanoid", 2_205_226, 278_960, 47.0),
        ("flash-sac", "dog", 2_294_494, 303_626, 46.9),
    ],
)
def test_the_recipes_agents_hold_the_parameters_that_their_layers_have(name, body, critics, actor, saved):
    trunk, head, actor_by_hand = held_by_hand(name, *SIZES[body])
    assert (2 * (trunk + head), actor_by_hand) == (critics, actor)
    experiment = recipe(f"{name}-{body}-run")

    def found(target):
        algorithm = experiment.algorithm.build(spec_of(*SIZES[body]), target, experiment.network)
        return parameters_of(jax.eval_shape(algorithm.init, KEY, batch_of(*SIZES[body], size=1)))

    with_target, without, shared = map(found, (experiment.target, OnlineNetwork(), SharedHeads(heads=1)))
    assert (without["critic"], without["actor"], without["temperature"]) == (critics, actor, 1)
    assert without["held"] == critics + actor + 1
    assert with_target["held"] == 2 * critics + actor + 1
    assert shared["held"] == without["held"] + 2 * head
    assert round(100 * (1 - without["held"] / with_target["held"]), 1) == saved


# The layers written out


SMALL = [XQC(width=6, depth=2), FlashSAC(width=3, blocks=2)]


def drawn(shapes):
    """An array for every shape of a state, without compiling the layers' own initialisation.

    Weights are random, variances 1 or larger, and Adam's moments and counts 0.
    """
    generator = np.random.default_rng(0)

    def one(path, x):
        names = [getattr(step, "key", getattr(step, "name", None)) for step in path]
        if {"mu", "nu", "count"} & set(names):
            return jnp.zeros(x.shape, x.dtype)
        noise = generator.normal(size=x.shape, scale=0.5)
        return jnp.asarray(1 + noise**2 if names[-1] in ("var", "variance", "count") else noise, x.dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


def network_of(settings, x, count=1):
    """A built network with random trunk, heads and statistics."""
    network = settings.build(4)
    return network, *drawn(jax.eval_shape(lambda: networks.init(network, KEY, x, count)))


class ByHand:
    """The trunks in NumPy; `moved` collects the running statistics after a batch, by the name of the layer."""

    def __init__(self, epsilon, train):
        self.epsilon, self.train, self.moved = epsilon, train, {}

    def batch_norm(self, x, name, stats, gain, shift):
        mean, variance = np.asarray(stats["mean"], np.float64), np.asarray(stats["var"], np.float64)
        if self.train:
            own = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
            self.moved[name] = [0.99 * old + 0.01 * new for old, new in zip((mean, variance), own, strict=True)]
            mean, variance = own
        return (x - mean) / np.sqrt(variance + self.epsilon) * gain + shift

    def xqc(self, params, stats, x):
        def norm(x, number):
            name = f"BatchNorm_{number}"
            return self.batch_norm(x, name, stats[name], params[name]["scale"], params[name]["bias"])

        x = norm(x, 0)
        for layer in range(2):
            x = np.maximum(norm(x @ params[f"UnitDense_{layer}"][NAME], layer + 1), 0)
        return x

    def flash_sac(self, params, stats, x):
        def norm(x, params, stats, name):
            own = stats[name]["BatchNorm_0"]
            return self.batch_norm(x, id(own), own, *params[name][GAINS])

        x = norm(x, params, stats, "UnitBatchNorm_0") @ params["UnitDense_0"][NAME]
        for number in range(2):
            block, own = params[f"Block_{number}"], stats[f"Block_{number}"]
            y = np.maximum(norm(x @ block["UnitDense_0"][NAME], block, own, "UnitBatchNorm_0"), 0)
            x = x + np.maximum(norm(y @ block["UnitDense_1"][NAME], block, own, "UnitBatchNorm_1"), 0)
        return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6) * params["UnitRMSNorm_0"][GAINS][0]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("settings", SMALL, ids=lambda settings: type(settings).__name__)
def test_a_trunk_is_its_layers_written_out(settings, train):
    x = 1 + 2 * jax.random.normal(KEY, (9, 5))
    network, trunk, heads, stats = network_of(settings, x, count=2)
    features, moved = network.trunk(trunk, stats, x, train)
    is_xqc = isinstance(settings, XQC)
    by_hand = ByHand(1e-3 if is_xqc else 1e-5, train)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trunk)
    expected = (by_hand.xqc if is_xqc else by_hand.flash_sac)(wide, stats, np.asarray(x, np.float64))
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)
    outputs = np.stack([expected @ kernel + bias for kernel, bias in zip(heads[NAME], heads["bias"], strict=True)])
    np.testing.assert_allclose(network.heads(heads, features), outputs, rtol=1e-3, atol=1e-3)
    if train:
        found = np.concatenate(jax.tree.leaves(moved))
        by_layer = np.concatenate([x for pair in by_hand.moved.values() for x in pair])
        np.testing.assert_allclose(np.sort(found), np.sort(by_layer), rtol=1e-4, atol=1e-5)
    else:
        jax.tree.map(np.testing.assert_array_equal, moved, stats)


def test_layers_begin_with_orthogonal_kernels_of_length_one_and_gains_of_one():
    network = FlashSAC(width=4, blocks=1).build(3)
    trunk, heads, _ = jax.jit(lambda: networks.init(network, KEY, jnp.zeros((1, 6)), 2))()
    kernels = named(trunk, NAME)
    assert len(kernels) == 3 and heads[NAME].shape == (2, 4, 3)
    for kernel in (*kernels, *heads[NAME]):
        np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
        if kernel.shape[0] >= kernel.shape[1]:
            np.testing.assert_allclose(kernel.T @ kernel, np.eye(kernel.shape[1]), atol=1e-4)
    for gains in named(trunk, GAINS):
        np.testing.assert_array_equal(gains, np.arange(len(gains))[:, None] * np.ones(gains.shape) == 0)


def test_a_policy_bounds_its_deviation_as_its_source_does():
    """XQC clips, so an output of 0 is a deviation of 1; FlashSAC squashes, so it is one of exp(-4)."""
    obs = jax.random.normal(KEY, (8, 5))
    for settings, middle in zip(SMALL, (0.0, -4.0), strict=True):
        policy = settings.policy(actions=3, width=4, depth=1)
        params, stats = drawn(jax.eval_shape(policy.init, KEY, obs))
        assert set(params["mean"]) == set(params["log_std"]) == {NAME, "bias"}
        params["log_std"] = {NAME: jnp.zeros((4, 3)), "bias": jnp.array([90.0, -90.0, 0.0])}
        (_, log_std), _ = policy.distribution(params, stats, obs, False)
        np.testing.assert_allclose(log_std, np.tile([2.0, -10.0, middle], (8, 1)), atol=1e-5)


def test_settings_that_make_no_network_are_refused():
    for kind, wrong in (
        (XQC, {"width": 0}),
        (XQC, {"depth": -1}),
        (FlashSAC, {"width": 0}),
        (FlashSAC, {"blocks": -1}),
    ):
        with pytest.raises(SharedqError, match=next(iter(wrong))):
            kind(**wrong)


def test_a_projection_gives_gains_the_length_of_as_many_ones():
    """Gains and shifts share one length, for each head, critic or network on its own."""
    gains = jnp.array([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [0.0, 0.0]]])  # two critics; gains and shifts; features
    back = project({"UnitBatchNorm_0": {GAINS: gains}, "scale": gains})
    np.testing.assert_allclose(back["UnitBatchNorm_0"][GAINS][0], np.sqrt(2) / 5 * gains[0], rtol=1e-6)
    np.testing.assert_allclose(back["UnitBatchNorm_0"][GAINS][1], gains[1], rtol=1e-6)
    np.testing.assert_array_equal(back["scale"], gains)


# In SAC


OBS, ACTIONS = 4, 2
TINY = {"xqc": (XQC(width=8, depth=2), 8, 2), "flash-sac": (FlashSAC(width=4, blocks=1), 4, 1)}
SOURCES = {
    "target_network": TargetNetwork(period=1, tau=0.1, joint_batch=True),
    "online_network": OnlineNetwork(),
    "shared_heads": SharedHeads(heads=1, period=1, tau=0.1),
    "iterated_networks": IteratedNetworks(networks=2, period=3, copy_period=2),
}


@functools.cache
def built(name: str, target):
    """A random state, and the compiled update on one batch."""
    network, width, depth = TINY[name]
    algorithm = dataclasses.replace(
        recipe(name).algorithm, atoms=11, actor_width=width, actor_depth=depth, actor_period=1, learning_rate=0.05
    )
    learner, batch = algorithm.build(spec_of(OBS, ACTIONS), target, network), batch_of(OBS, ACTIONS)
    state = drawn(jax.eval_shape(learner.init, KEY, batch))
    return state._replace(params=project(state.params)), jax.jit(
        lambda s, number: learner.update(s, batch, KEY, number)
    )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", TINY)
def test_every_source_teaches_every_weight_and_leaves_it_at_its_length(name, source):
    """Adam moves each weight whose gradient is not 0, and to no number if the gradient is none."""
    start, update = built(name, SOURCES[source])
    state = start
    for number in (1, 2):
        state, _, told = update(state, jnp.int32(number))
    assert np.isfinite(told["loss"]) and np.isfinite(told["entropy"])
    for before, after in zip(*map(jax.tree.leaves, (start.params, state.params)), strict=True):
        assert jnp.isfinite(after).all() and (before != after).any()
    kernels, gains = named(state.params, NAME), named(state.params, GAINS)
    assert (len(kernels), len(gains)) == ((3 + 4, 0) if name == "xqc" else (4 + 5, 4 + 4))
    for kernel in kernels:
        np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=-2), 1, rtol=1e-5)
    for gain in gains:
        np.testing.assert_allclose(jnp.square(gain).sum((-2, -1)), gain.shape[-1], rtol=1e-5)


@pytest.mark.parametrize("source", ["target_network", "shared_heads"])
def test_an_average_of_unit_kernels_is_not_projected_again(source):
    start, update = built("xqc", SOURCES[source])
    held, online = start.source["target_params"], start.params["critic"]
    online = online["heads"] if source == "shared_heads" else online
    start = start._replace(source={**start.source, "target_params": jax.tree.map(jnp.copy, online)})
    state, _, _ = update(start, jnp.int32(1))
    for kernel in named(state.source["target_params"], NAME):
        assert (jnp.linalg.norm(kernel, axis=-2) < 1 - 1e-4).any()
    assert jax.tree.structure(held) == jax.tree.structure(state.source["target_params"])


def test_a_copy_that_follows_at_every_update_is_target_free_learning():
    """So what removing the target costs is what its lag gives, and no other part of the agent changes."""
    copying, free = TargetNetwork(period=1, joint_batch=True), SOURCES["online_network"]
    (start, update), (start_free, update_free) = built("xqc", copying), built("xqc", free)
    held = jax.tree.map(jnp.copy, start_free.params["critic"])
    source = {**start_free.source, "target_params": held, "target_batch_stats": start_free.source["batch_stats"]}
    (copied, _, told), (without, _, told_free) = (
        update(start_free._replace(source=source), jnp.int32(1)),
        update_free(start_free, jnp.int32(1)),
    )
    np.testing.assert_allclose(told["loss"], told_free["loss"], rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
                 copied.source["batch_stats"], without.source["batch_stats"])  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, copied.source["target_params"], copied.params["critic"])
    assert jax.tree.structure(start) == jax.tree.structure(copied)


def test_a_gradient_does_not_stretch_a_kernel_in_front_of_batch_norm():
    """The layer's output does not depend on the lengths of columns, so projecting them undoes nothing learned."""
    x = jax.random.normal(KEY, (64, 5))
    network, trunk, heads, stats = network_of(XQC(width=8, depth=2), x)
    gains = {name: {**trunk[name], "scale": 1_000 * trunk[name]["scale"]} for name in ("BatchNorm_0", "BatchNorm_1")}
    trunk = project({**trunk, **gains})  # outputs of the kernels so large that epsilon is nothing beside them

    def total(trunk):
        return jnp.square(network.heads(heads, network.trunk(trunk, stats, x, True)[0]) - x[:, :4]).sum()

    slopes = jax.jit(jax.grad(total))(trunk)
    for slope, kernel in zip(named(slopes, NAME), named(trunk, NAME), strict=True):
        along, length = (slope * kernel).sum(axis=0), jnp.linalg.norm(slope, axis=0)  # a kernel's columns have length 1
        assert (length > 0).sum() >= 4 and (jnp.abs(along) <= 1e-3 * length).all()


def test_a_learning_rate_falls_along_half_a_cosine():
    rates = [cosine_schedule(3e-4, 1.5e-4, 100, jnp.int32(step)) for step in (0, 25, 50, 75, 100, 1_000)]
    corner = 0.75e-4 * np.sqrt(0.5)
    np.testing.assert_allclose(rates, [3e-4, 2.25e-4 + corner, 2.25e-4, 2.25e-4 - corner, 1.5e-4, 1.5e-4], rtol=1e-5)
    algorithm = SAC(
        learning_rate=0.1,
        final_learning_rate=0.02,
        learning_rate_updates=100,
        learning_rate_schedule="cosine",
        adam_epsilon=1e-30,
        actor_depth=0,
    )
    learner, batch = algorithm.build(spec_of(OBS, ACTIONS), OnlineNetwork(), Table()), batch_of(OBS, ACTIONS)
    start, update = drawn(jax.eval_shape(learner.init, KEY, batch)), jax.jit(learner.update)
    for number, rate in ((25, 0.06 + 0.04 * np.sqrt(0.5)), (1_000, 0.02)):
        moved = update(start, batch, KEY, number)[0].params["temperature"] - start.params["temperature"]
        assert abs(moved) == pytest.approx(rate, rel=1e-4)  # Adam's first step is the rate


@pytest.mark.parametrize("bounded", [True, False])
def test_scaled_rewards_are_bounded_by_the_largest_return_only_if_that_is_asked_for(bounded):
    """Without a next step the target is the scaled reward."""
    algorithm = SAC(gamma=0.5, value_bound=0.1, scale_rewards=True, bound_returns=bounded, actor_depth=0)
    learner, batch = algorithm.build(spec_of(OBS, ACTIONS), OnlineNetwork(), Table()), batch_of(OBS, ACTIONS)
    batch = batch._replace(transition=batch.transition._replace(discount=jnp.zeros(SIZE)))
    state, no = drawn(jax.eval_shape(learner.init, KEY, batch)), jnp.zeros(1, bool)
    state = state._replace(returns=no_returns(1, FIRST_COUNT))
    for reward in (1.0, 5.0, -2.0):
        step = Step(jnp.zeros((1, OBS)), jnp.zeros((1, ACTIONS)), jnp.array([reward]), no, no, jnp.zeros((1, OBS)))
        state, _ = learner.observe(state, KEY, step, step.obs, jnp.int32(1))
    running = np.array([1.0, 5.5, 0.75])
    scale = max(running.std(), 5.5 / 0.1 if bounded else 0)
    _, info = jax.jit(learner.loss)(state.params, state, batch, KEY)
    np.testing.assert_allclose(info.targets[0], batch.transition.reward / scale, rtol=1e-3)


# Recipes and the command line


def test_both_recipes_have_a_target_network_on_the_joint_batch_and_all_hard_tasks():
    for name, tau, temperature_aim in (("xqc", 0.005, -0.5), ("flash-sac", 0.01, -0.478182)):
        for task in ("", *(f"-{task}" for task in HARD)):
            experiment = recipe(f"{name}{task}")
            assert experiment.environment.task == (task[1:] or "cheetah-run")
            assert experiment.target == TargetNetwork(period=1, tau=tau, joint_batch=True)
            assert experiment.algorithm.target_entropy == pytest.approx(temperature_aim, abs=1e-6)
            training = experiment.training
            assert experiment.algorithm.learning_rate_updates == training.steps * training.gradient_steps == 1_000_000


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHORT = "--task cartpole-swingup --time_limit 20 --steps 24 --warm_up 16 --log_period 8 --batch_size 8 --atoms 11"
SHORT = [*SHORT.split(), "--random_steps", "8", "--actor_width", "4", "--actor_depth", "1", "--width", "4"]


def test_a_recipe_trains_with_small_layers(sharedq, here):
    pytest.importorskip("dm_control")
    done = sharedq("train", "xqc", *SHORT, "--depth", "1", "--out", "run")
    assert done.code == 0, done.err
    settings = json.loads((here / "run" / "experiment.json").read_text())["experiment"]
    assert settings["target"] == {"kind": "target_network", "period": 1, "tau": 0.005, "joint_batch": True}
    assert "\n24," in (here / "run" / "metrics.csv").read_text()


@pytest.mark.parametrize(("name", "depth"), [("xqc", "depth"), ("flash-sac", "blocks")])
def test_what_removing_the_target_costs_is_one_command(sharedq, here, undrawn, name, depth):
    pytest.importorskip("dm_control")
    sources = ("target_network", "online_network", "shared_heads")
    done = sharedq("compare", name, *SHORT, f"--{depth}", "1", "--targets", *sources, "--out", "costs")
    assert done.code == 0, done.err
    runs = sorted((here / "costs" / "runs").iterdir())
    targets = {json.loads((run / "experiment.json").read_text())["experiment"]["target"]["kind"]: run for run in runs}
    assert set(targets) == set(sources)
    assert all("\n24," in (run / "metrics.csv").read_text() for run in runs)
