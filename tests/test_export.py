"""Exported agents decide as the agents that they were made from, and `sharedq.runtime` acts with nothing else."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import linen as nn

import sharedq as library
from sharedq import random_keys, runtime
from sharedq.agent import Agent, Compiled
from sharedq.algorithms import BC, CQLSAC, DQN, IQL, SAC
from sharedq.environments import Atari, Continuous, Discrete, EnvironmentSpec, MinAtar, Wordle
from sharedq.environments.spec import Tokens, to_json
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.exporting import agent_file, int8, playing
from sharedq.exporting import export as exporting
from sharedq.exporting.decision import decision_of, from_units, in_units
from sharedq.exporting.lowering import model_of
from sharedq.networks import Dense
from sharedq.recipes import RECIPES, recipe
from sharedq.runs import run_files
from sharedq.targets import SOURCES, IteratedNetworks, SharedHeads
from sharedq.training.interactive import WORLDS

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

ROOT = Path(__file__).parent.parent
IMAGES = EnvironmentSpec("images", jax.ShapeDtypeStruct((84, 84, 4), jnp.uint8), Discrete(4), "black")
GRIDS = EnvironmentSpec("grids", jax.ShapeDtypeStruct((10, 10, 4), jnp.bool_), Discrete(3))
CHOICES = EnvironmentSpec("choices", jax.ShapeDtypeStruct((5,), jnp.float32), Discrete(3, first=1))
MOVES = EnvironmentSpec(
    "moves", jax.ShapeDtypeStruct((5,), jnp.float32), Continuous(np.float32([-2, 0]), np.float32([2, 1]))
)

SMALL = {"hidden": (8,), "filters": (4,), "width": 8, "blocks": 1, "depth": 1, "actor_width": 8, "actor_depth": 1}


def narrow(part):
    """The settings of a part with small layers, as many as before."""
    own = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    small = {name: SMALL[name] for name in own if name in SMALL}
    if "filters" in small:
        small["filters"] = small["filters"] * len(own["filters"])
    return dataclasses.replace(part, **small)


def spec_of(one: Experiment) -> EnvironmentSpec:
    """A description of an environment that the agent of the experiment fits, for which no simulator is needed."""
    if isinstance(one.environment, Atari) or one.kind("network") == "impala":
        return IMAGES
    if one.kind("network") == "convolutional":
        return IMAGES if max(one.network.strides) > 1 else GRIDS
    return MOVES if hasattr(one.algorithm, "actor_width") else CHOICES


def variants() -> dict[str, Experiment]:
    """The recipes whose agents differ by more than numbers that acting does not depend on, with narrow layers."""
    found = {}
    for name in RECIPES:
        one = recipe(name)
        if isinstance(one.environment, Wordle):
            continue
        one = dataclasses.replace(one, network=narrow(one.network), algorithm=narrow(one.algorithm))
        acting = (
            one.kind("algorithm"),
            getattr(one.algorithm, "values", ""),
            one.network,
            one.target,
            spec_of(one).name,
        )
        statistics = [getattr(one.algorithm, name, "") for name in ("normalise_observations", "normalise")]
        found.setdefault(str((acting, statistics)), (name, one))
    return dict(found.values())


VARIANTS = variants()


def agent_of(one: Experiment, spec: EnvironmentSpec | None) -> Agent:
    """An agent whose weights and statistics are drawn, which takes a tenth of the time of its own first ones."""
    built, generator = one.build(spec), np.random.default_rng(3)

    def draw(path, form):
        if form.dtype != jnp.float32:
            return np.zeros(form.shape, form.dtype)
        positive = {"var", "variance", "losses"} & {str(getattr(key, "key", getattr(key, "name", ""))) for key in path}
        drawn = generator.normal(size=form.shape) * 0.5
        return (np.abs(drawn) + 0.1 if positive else drawn).astype(np.float32)

    shapes = built.agent_shapes()
    kinds = jax.tree.map(lambda form: jax.dtypes.issubdtype(form.dtype, jax.dtypes.prng_key), shapes)
    state = jax.tree_util.tree_map_with_path(
        lambda path, form, is_key: random_keys.root(0) if is_key else draw(path, form), shapes, kinds
    )
    return Agent(Compiled(built), state, 0, 0)


def exported(agent: Agent, path: Path) -> runtime.Agent:
    """The agent, read back from a file that it was exported to."""
    model = exporting.model_of_agent(agent, decision_of(agent))
    description = {"spec": to_json(agent.built.spec), "label": agent.experiment.label, "seed": 0}
    path.write_bytes(agent_file.content_of(model, description))
    return runtime.load(path)


def checked(agent: Agent, path: Path) -> runtime.Agent:
    """The exported agent, after it was compared with the agent on random observations."""
    found = exported(agent, path)
    obs = playing.drawn(agent, np.random.default_rng(1), 40)
    compared = exporting.compare(decision_of(agent), found, obs)
    assert compared.holds, compared
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_the_agent_of_a_recipe_decides_the_same_from_its_file(name, tmp_path):
    one = VARIANTS[name]
    spec = spec_of(one)
    found = checked(agent_of(one, spec), tmp_path / "agent.onnx")
    one = playing.drawn(agent_of(one, spec), np.random.default_rng(2), 1)[0]
    action = found.act(one)
    if spec is MOVES:
        assert action.dtype == np.float32 and (spec.actions.low <= action).all() and (action <= spec.actions.high).all()
    else:
        assert isinstance(action, int) and action - spec.actions.first == found.values(one).argmax()


SOURCES_OF_SEVERAL = {"shared_heads": {"heads": 3}, "iterated_networks": {"networks": 2}, "adaptive": {"networks": 3}}


@pytest.mark.parametrize("name", SOURCES)
def test_the_decision_of_every_source_is_exported(name, tmp_path):
    target = SOURCES[name](**SOURCES_OF_SEVERAL.get(name, {}))
    one = dataclasses.replace(recipe("cartpole"), target=target, network=Dense((8,)))
    agent = agent_of(one, CHOICES)
    found = checked(agent, tmp_path / "agent.onnx")
    heads = {"shared_heads": 3, "iterated_networks": 2, "adaptive": 3, "eau_de": getattr(target, "networks", 1)}
    assert found.head_values(np.zeros(5)).shape == (heads.get(name, 1), 3)


@pytest.mark.parametrize("target", [SharedHeads(heads=3), IteratedNetworks(networks=3)], ids=lambda one: one.label)
def test_values_of_heads_are_those_that_learn_and_the_policy_follows_their_mean(target, tmp_path):
    one = dataclasses.replace(recipe("cartpole"), target=target, network=Dense((8,)))
    agent = agent_of(one, CHOICES)
    found = exported(agent, tmp_path / "agent.onnx")
    obs = playing.drawn(agent, np.random.default_rng(1), 6)
    source, state = agent.built.algorithm.source, agent.state
    predicted = source.values(state.params, state.source, obs).predicted  # [H, B, A]
    np.testing.assert_allclose(found.head_values(obs), np.moveaxis(np.asarray(predicted), 0, 1), atol=1e-6)
    np.testing.assert_allclose(found.values(obs), found.head_values(obs).mean(axis=1), atol=1e-6)
    assert (found.act(obs) == found.values(obs).argmax(axis=1) + CHOICES.actions.first).all()


LEARNERS = {
    "dueling noisy quantiles": (DQN(values="quantile", atoms=7), Dense((8,), dueling=True, noisy=True), CHOICES),
    "hl_gauss": (DQN(values="hl_gauss", atoms=7), Dense((8,)), CHOICES),
    "corrected gradients": (DQN(gradient_correction=True), Dense((8,)), CHOICES),
    "batch normalisation": (DQN(), Dense((8,), norm="batch"), CHOICES),
    "BC": (BC(), Dense((8,)), CHOICES),
    "BC, continuous": (BC(actor_width=8), Dense((8,)), MOVES),
    "IQL": (IQL(), Dense((8,)), CHOICES),
    "IQL, reweighted": (IQL(policy="reweighted"), Dense((8,)), CHOICES),
    "IQL, continuous": (IQL(actor_width=8), Dense((8,)), MOVES),
    "CQL on SAC": (CQLSAC(actor_width=8), Dense((8,)), MOVES),
    "SAC, normalised": (SAC(actor_width=8, normalise_observations=True), Dense((8,)), MOVES),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_decision_of_every_algorithm_is_exported(name, tmp_path):
    algorithm, network, spec = LEARNERS[name]
    base = recipe("cartpole" if spec is CHOICES else "sac-pendulum")
    one = dataclasses.replace(base, algorithm=algorithm, network=network, target=SharedHeads(heads=2))
    agent = agent_of(one, spec)
    found = checked(agent, tmp_path / "agent.onnx")
    if spec is MOVES:
        with pytest.raises(runtime.AgentError, match="no values: its actions are continuous"):
            found.values(np.zeros(5))


def test_an_agent_that_writes_texts_is_refused():
    spec = EnvironmentSpec("texts", jax.ShapeDtypeStruct((9,), jnp.int32), Tokens(3, 5, 0, 1, (2,), 3))
    built = dataclasses.replace(recipe("cartpole").build(CHOICES), spec=spec)
    with pytest.raises(SharedqError, match="cannot be exported: it writes texts token by token"):
        decision_of(Agent(Compiled(built), None, 0, 0))


# Single operations

KERNEL = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
FUNCTIONS = {
    "gelu": lambda x: jax.nn.gelu(x),
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "softplus": lambda x: jax.nn.softplus(x),
    "elu and silu": lambda x: jax.nn.elu(x) + jax.nn.silu(x),
    "softmax": lambda x: jax.nn.softmax(x),
    "columns": lambda x: x[:, 1] + x[:, -1],
    "steps": lambda x: x[:, ::2],
    "split and stack": lambda x: jnp.stack(jnp.split(x, 2, axis=1), axis=2),
    "chosen columns": lambda x: x[:, np.array([3, 0])],
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2)), constant_values=7),
    "sums so far": lambda x: jnp.cumsum(x, axis=1),
    "places": lambda x: jnp.argmin(x, axis=1) + jnp.arange(x.shape[0]),
    "the batch size": lambda x: x * x.shape[0],
    "broadcast to the batch": lambda x: jnp.concatenate([x, jnp.broadcast_to(jnp.arange(2.0), (x.shape[0], 2))], 1),
    "rounded and clipped": lambda x: jnp.clip(jnp.round(x), -1, 1) + jnp.sign(x) + jnp.floor(x),
    "powers": lambda x: x**3 + jnp.abs(x) ** 0.5 + jax.lax.rsqrt(x * x + 1),
    "kernels of an ensemble": lambda x: jnp.einsum("bi,ijk->kbj", x, KERNEL),
    "products of a batch": lambda x: jnp.einsum("bi,bj->bij", x, x),
    "vmapped layers": lambda x: jax.vmap(lambda w: jax.nn.relu(x @ w), in_axes=2, out_axes=1)(KERNEL),
    "finite": lambda x: jnp.where(jnp.isfinite(x), x, 0) % 2,
    "logical": lambda x: jnp.where((x > 0) & ~(x != 1) | (x <= -1), x, -x),
    "deviation": lambda x: (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True),
    "LayerNorm without a bias": lambda x: nn.LayerNorm(use_bias=False).apply({"params": {"scale": KERNEL[:, 0, 0]}}, x),
}


def run(function, obs: np.ndarray) -> np.ndarray:
    import onnxruntime

    model = model_of(lambda x: {"out": function(x)}, jax.ShapeDtypeStruct(obs.shape[1:], obs.dtype), "one")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["out"], {"observation": obs})[0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [1, 3])
def test_an_operation_is_written_as_jax_computes_it(name, size):
    obs = np.random.default_rng(1).normal(size=(size, 4)).astype(np.float32)
    wanted = np.asarray(FUNCTIONS[name](jnp.asarray(obs)))
    found = run(FUNCTIONS[name], obs)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_convolutions_and_layer_normalisation_are_single_operators():
    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.LayerNorm()(nn.Conv(3, (3, 3), strides=2)(x))
            return nn.LayerNorm(epsilon=0.1)(nn.Dense(2)(x.reshape(x.shape[0], -1)))

    obs = np.random.default_rng(1).normal(size=(3, 6, 6, 2)).astype(np.float32)
    weights = Layers().init(random_keys.root(0), obs)
    weights = jax.tree.map(lambda w: w + 0.1, weights)
    function = lambda x: {"out": Layers().apply(weights, x)}  # noqa: E731
    model = model_of(function, jax.ShapeDtypeStruct(obs.shape[1:], obs.dtype), "layers")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LayerNormalization") == 2 and operators.count("Conv") == 1 and "Sqrt" not in operators
    np.testing.assert_allclose(run(lambda x: function(x)["out"], obs), function(obs)["out"], atol=1e-5)


def test_an_operation_without_a_counterpart_is_named():
    with pytest.raises(SharedqError, match="its decision uses the operation 'sort'"):
        run(lambda x: jnp.sort(x, axis=1), np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    ("function", "operation"),
    [(lambda x: x & 1, "and"), (lambda x: x | 1, "or"), (lambda x: ~x, "not")],
    ids=["and", "or", "not"],
)
def test_an_operation_on_bits_is_named(function, operation):
    with pytest.raises(SharedqError, match=f"its decision uses the operation '{operation}' of int32"):
        run(lambda x: function(x.astype(jnp.int32)), np.zeros((2, 4), np.float32))


def test_a_graph_that_onnx_does_not_take_is_refused_in_one_line():
    """ONNX has no largest of booleans, and JAX has."""
    agent = agent_of(recipe("cartpole").replace(network=Dense((4,))), CHOICES)
    with pytest.raises(SharedqError, match=r"the agent cannot be exported: .* that ONNX does not take") as refused:
        exporting.model_of_agent(agent, lambda obs: {"action": jnp.maximum(obs > 0, obs < 1)})
    assert "\n" not in str(refused.value)


def test_a_network_that_needs_to_know_the_batch_size_is_refused_in_one_line():
    with pytest.raises(SharedqError, match="fails where the batch size is left open") as refused:
        run(lambda x: x * np.ones(int(x.shape[0])).sum(), np.zeros((2, 4), np.float32))
    assert "\n" not in str(refused.value)


def test_a_network_in_bfloat16_is_refused():
    with pytest.raises(SharedqError, match=r"computes in bfloat16.*--network.compute float32"):
        run(lambda x: x.astype(jnp.bfloat16) * 2, np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    "actions",
    [
        Discrete(3),
        Discrete(3, first=5),
        Discrete(24, sizes=(2, 3, 4), starts=(0, 1, -1)),
        Continuous(np.float32([-2, 0]), np.float32([2, 1])),
        Continuous(np.float64([-2, 0]), np.float64([2, 1])),
    ],
    ids=["numbers", "numbers from 5", "vectors", "continuous", "continuous in float64"],
)
def test_actions_are_in_the_units_of_the_environment_and_back(actions):
    if isinstance(actions, Continuous):
        given = np.random.default_rng(0).uniform(-1, 1, (7, 2)).astype(np.float32)
    else:
        given = np.arange(actions.n, dtype=np.int32)
    found = np.asarray(in_units(actions, jnp.asarray(given)))
    np.testing.assert_allclose(found, actions.in_units(given), rtol=1e-6)
    np.testing.assert_allclose(from_units(actions, found), given, atol=1e-6)


# The command


@pytest.fixture(scope="module")
def here(tmp_path_factory, hasty):
    """A folder with a run of two seeds on the corridor."""
    from sharedq.command_line import main

    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["train", "corridor", "--steps", "2000", "--seeds", "2", "--target", "shared_heads", "--heads", "3"]
        assert main([*words, "--out", "run"]) == 0
        assert main(["export", "run"]) == 0
        yield folder


@pytest.fixture
def agent(here):
    return runtime.load(here / "run" / "agent.onnx")


def test_a_trained_agent_is_exported_and_says_what_it_is(here, sharedq, agent):
    answer = sharedq("export", "run", "--out", "other.onnx", "--agent", 1)
    assert answer.code == 0 and "largest difference" in answer.out and "agree in 100.0% of" in answer.out
    mine, other = agent.metadata, runtime.load(here / "other.onnx").metadata
    assert mine["seed"] == 0 and other["seed"] == 1 and mine["label"] == "shared heads K=3"
    assert mine["spec"] == json.loads((here / "run" / "spec.json").read_text())
    assert mine["experiment"] == json.loads((here / "run" / "experiment.json").read_text())["experiment"]
    assert mine["return"]["episodes"] == 100 and mine["step"] == 2000 and mine["precision"] == "float32"
    assert repr(agent) == "Agent(shared heads K=3, in probe/corridor, seed 0)"


def test_the_exported_agent_acts_as_the_agent(here, agent):
    trained = library.load(here / "run").replace(behaviour_head="mean")
    obs = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(agent.act(obs), trained.act(obs))
    np.testing.assert_allclose(agent.values(obs), trained.values(obs), atol=1e-5)
    assert agent.act(obs[0]) == agent.act(obs)[0] and isinstance(agent.act(obs[0]), int)
    assert agent.values(obs[0]).shape == (2,) and agent.head_values(obs).shape == (4, 3, 2)
    found = agent.outputs(obs)
    assert set(found) == {"action", "values", "head_values"}
    np.testing.assert_array_equal(found["values"], agent.values(obs))


def test_the_seed_with_the_best_return_is_exported(here, sharedq):
    episodes = library.Run(here / "run").episodes()
    means = [episodes["return"][episodes["seed"] == seed][-100:].mean() for seed in (0, 1)]
    assert f"the agent of seed {int(np.argmax(means))} is exported" in sharedq("export", "run").out


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        (np.zeros(3), r"must be float32 \[4\], or a batch of them, and is float64 \[3\]"),
        (np.zeros((2, 2, 4)), r"and is float64 \[2, 2, 4\]"),
        ("left", "must be float32"),
        (np.zeros(4, complex), "and is complex128"),
        ([[1, 2], [3]], "is no array"),
        ([0, 0, 0, float("inf")], "not finite"),
        (np.zeros((0, 4)), "is empty"),
    ],
)
def test_an_observation_of_another_form_is_refused_in_one_line(agent, obs, words):
    with pytest.raises(runtime.AgentError, match=words) as refused:
        agent.act(obs)
    assert "\n" not in str(refused.value)


def test_bytes_are_not_made_of_numbers_that_they_cannot_hold(tmp_path):
    one = dataclasses.replace(recipe("minatar-breakout"), network=narrow(recipe("minatar-breakout").network))
    assert isinstance(one.environment, MinAtar)
    agent = exported(agent_of(one, GRIDS), tmp_path / "agent.onnx")
    assert agent.act(np.zeros((10, 10, 4), int)) == agent.act(np.zeros((10, 10, 4), bool))
    with pytest.raises(runtime.AgentError, match="cannot become that without loss"):
        agent.act(np.full((10, 10, 4), 2))
    with pytest.raises(runtime.AgentError, match="cannot become that without loss"):
        agent.act(np.zeros((10, 10, 4)))


def changed(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: changed(content, 100), "was changed after it was exported"),
        (lambda content: changed(content, len(content) - 1), "was changed after it was exported"),
        (lambda content: content[:-20], "is not an agent that sharedq exported, or not all of one"),
        (lambda content: content + b"x", "is not an agent that sharedq exported, or not all of one"),
        (lambda content: b"", "is not an agent"),
        (lambda content: b"\x72" + b"junk" + runtime.seal_of(b"\x72junk"), "cannot be run by this onnxruntime"),
        (lambda content: _without_our_metadata(content), "has the format None"),
    ],
    ids=["edited", "another seal", "cut", "longer", "empty", "no model", "another model"],
)
def test_a_file_that_is_not_ours_or_was_edited_is_refused(here, tmp_path, spoil, words):
    path = tmp_path / "agent.onnx"
    path.write_bytes(spoil((here / "run" / "agent.onnx").read_bytes()))
    with pytest.raises(runtime.AgentError, match=words) as refused:
        runtime.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["secret.bin", "whole path", "../secret.bin"])
@pytest.mark.parametrize("form", ["initializer", "node"])
def test_a_file_with_weights_in_another_file_is_refused(tmp_path, monkeypatch, place, form):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder" if place.startswith("..") else tmp_path)
    np.arange(20, dtype=np.float32).tofile(tmp_path / "secret.bin")
    agent, path = agent_of(recipe("cartpole").replace(network=Dense((4,))), CHOICES), tmp_path / "agent.onnx"
    exported(agent, path)
    model = onnx.load_from_string(path.read_bytes())
    weights = next(one for one in model.graph.initializer if list(one.dims) == [5, 4])
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    location = weights.external_data.add()
    location.key, location.value = "location", str(tmp_path / "secret.bin") if place == "whole path" else place
    if form == "node":
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weights.name], value=weights))
        model.graph.initializer.remove(weights)
    path.write_bytes(_sealed(model))
    with pytest.raises(runtime.AgentError, match="cannot be run by this onnxruntime") as refused:
        runtime.load(path)
    assert "\n" not in str(refused.value)


def _without_our_metadata(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    return _sealed(model)


def _sealed(model: onnx.ModelProto) -> bytes:
    content = model.SerializeToString()
    return content + runtime.seal_of(content)


def test_the_seal_is_an_entry_that_every_reader_of_onnx_finds(here):
    content = (here / "run" / "agent.onnx").read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    assert [entry.key for entry in model.metadata_props] == ["sharedq.format", "sharedq.agent", "sharedq.sha256"]
    assert {node.domain for node in model.graph.node} == {""}


def test_a_file_that_disagrees_is_not_kept_and_an_older_one_stays(here, sharedq, monkeypatch):
    before = (here / "run" / "agent.onnx").read_bytes()
    monkeypatch.setattr(exporting, "compare", lambda *_: exporting.Comparison(0.5, 1.0, 0.7))
    for out in ("run/agent.onnx", "new.onnx"):
        answer = sharedq("export", "run", "--out", out)
        assert answer.code == 2 and answer.err.count("\n") == 1
        assert "does not decide as the agent does" in answer.err and "70.0%" in answer.err
    assert (here / "run" / "agent.onnx").read_bytes() == before
    assert not (here / "new.onnx").exists() and not list(here.rglob(".*.onnx.*"))


def test_a_file_that_the_runtime_cannot_run_is_not_kept(here, sharedq, monkeypatch):
    monkeypatch.setattr(agent_file, "content_of", lambda *_: b"r" + runtime.seal_of(b"r"))
    answer = sharedq("export", "run", "--out", "new.onnx")
    assert answer.code == 2 and "the agent cannot be exported" in answer.err and answer.err.count("\n") == 1
    assert not (here / "new.onnx").exists() and not list(here.rglob(".*.onnx.*"))


def test_a_comparison_finds_a_wrong_value_and_a_wrong_action(here, agent):
    decision = decision_of(library.load(here / "run"))
    obs = np.eye(4, dtype=np.float32)
    assert exporting.compare(decision, agent, obs).holds

    def other(obs):
        found = decision(obs)
        return {**found, "values": found["values"] + 0.01}

    assert not exporting.compare(other, agent, obs).holds
    assert not exporting.compare(lambda obs: {**decision(obs), "action": 1 - decision(obs)["action"]}, agent, obs).holds


@pytest.mark.parametrize("output", ["action", "values", "head_values"])
def test_a_file_that_gives_no_number_is_not_kept(here, agent, output):
    class Broken:
        def outputs(self, obs):
            found = agent.outputs(obs)
            return {**found, output: found[output] * np.nan}

    obs = np.eye(4, dtype=np.float32)
    assert not exporting.compare(decision_of(library.load(here / "run")), Broken(), obs).holds


def test_a_continuous_action_that_is_no_number_differs(tmp_path):
    agent = agent_of(dataclasses.replace(recipe("sac-pendulum"), algorithm=SAC(actor_width=8)), MOVES)

    class Broken:
        def outputs(self, obs):
            return {"action": np.full((len(obs), 2), np.nan, np.float32)}

    found = exporting.compare(decision_of(agent), Broken(), np.zeros((3, 5), np.float32))
    assert not found.holds and found.agreement == 0


def test_what_stands_at_the_place_of_a_file_is_replaced_only_if_it_is_ours(here, sharedq):
    (here / "mine.onnx").write_text("mine")
    (here / "link.onnx").symlink_to("mine.onnx")
    assert "no agent can be read from it" in sharedq("export", "run", "--out", "mine.onnx").err
    assert "no ordinary file" in sharedq("export", "run", "--out", "link.onnx").err
    assert "does not end with .onnx" in sharedq("export", "run", "--out", "agent.txt").err
    assert (here / "mine.onnx").read_text() == "mine"
    assert sharedq("export", "run", "--out", "mine.onnx", "--overwrite").code == 0
    assert sharedq("export", "run", "--out", "mine.onnx").code == 0
    other = runtime.load(here / "mine.onnx").metadata
    other["experiment"]["seed"] += 1
    (here / "mine.onnx").write_bytes(agent_file.content_of(onnx.load(here / "mine.onnx"), other))
    assert "holds an agent of another run" in sharedq("export", "run", "--out", "mine.onnx").err
    assert "is a folder: export the agent of a run first" in sharedq("serve", "run").err


def test_an_exported_file_belongs_to_the_run(here):
    shutil.copytree(here / "run", here / "again")
    (here / "again" / "agent.int8.onnx").write_bytes(b"")
    (here / "again" / ".agent.onnx.1234").write_bytes(b"")  # what a process leaves behind that was killed
    assert run_files.stranger(here / "again") is None
    (here / "again" / "other.onnx").write_bytes(b"")
    assert run_files.stranger(here / "again") == "other.onnx"


def test_an_export_leaves_the_unfinished_file_of_another_process_and_removes_those_of_none(here, sharedq):
    (here / "several").mkdir()
    mine, gone = (here / "several" / f".agent.onnx.{number}" for number in (os.getppid(), 999_999_999))
    for left in (mine, gone):
        left.write_bytes(b"half")
    assert sharedq("export", "run", "--out", "several/agent.onnx").code == 0
    assert mine.read_bytes() == b"half" and not gone.exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--seed", -1, "seed cannot be negative: -1"),
        ("--max-steps", 0, "max_steps must be at least 1, not 0"),
        ("--episodes", 0, "episodes must be at least 1, not 0"),
        ("--episodes", 10**8, "episodes can be 10,000,000 at most"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused_before_anything_is_written(here, sharedq, option, value, words):
    answer = sharedq("export", "run", "--out", "new.onnx", "--int8", option, value)
    assert answer.code == 2 and words in answer.err and answer.err.count("\n") == 1
    assert not list(here.glob("new*"))


def test_more_episodes_than_the_host_can_open_are_refused_before_anything_is_written(here, monkeypatch):
    agent = agent_of(dataclasses.replace(recipe("lunar-lander"), network=Dense((8,))), None)
    monkeypatch.setattr(exporting, "chosen", lambda *_: agent)
    with pytest.raises(SharedqError, match=f"episodes can be {WORLDS:,} at most"):
        exporting.export("run", "new.onnx", int8=True, episodes=WORLDS + 1)
    assert not list(here.glob("new*"))


def test_what_would_say_nothing_is_refused(here, sharedq):
    assert "add --int8" in sharedq("export", "run", "--episodes", 3).err
    for threads in (0, "2"):
        with pytest.raises(runtime.AgentError, match="threads must be a whole number of at least 1"):
            runtime.load(here / "run" / "agent.onnx", threads)


def test_a_seed_that_the_run_does_not_have_is_named(sharedq):
    assert "has no seed 7: choose from 0, 1" in sharedq("export", "run", "--agent", 7).err


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(sharedq, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    answer = sharedq("export", "run")
    assert answer.code == 2 and f"needs the package '{package}': run  pip install 'sharedq[export]'" in answer.err


def test_int8_writes_a_second_file_and_plays_both(here, sharedq):
    answer = sharedq("export", "run", "--out", "small.onnx", "--int8", "--episodes", 3)
    assert answer.code == 0, answer.err
    assert "small.int8.onnx: mean return" in answer.out and "small.onnx: mean return" in answer.out
    assert "the network is dense" in answer.out
    found = runtime.load(here / "small.int8.onnx")
    assert found.metadata["precision"] == "int8" and found.act(np.eye(4)).shape == (4,)


def test_a_convolutional_network_is_calibrated_and_stays_near_its_values(tmp_path):
    one = recipe("minatar-breakout")
    agent = agent_of(dataclasses.replace(one, network=dataclasses.replace(one.network, hidden=(16,))), GRIDS)
    model = exporting.model_of_agent(agent, decision_of(agent))
    obs = playing.drawn(agent, np.random.default_rng(0), 80)
    small = int8.quantised(model, obs[:40])
    operators = {node.op_type for node in small.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators
    description = {"spec": to_json(GRIDS), "label": "", "seed": 0}
    (tmp_path / "agent.onnx").write_bytes(agent_file.content_of(small, description))
    found = runtime.load(tmp_path / "agent.onnx").values(obs[40:])
    wanted = np.asarray(decision_of(agent)(obs[40:])["values"])
    assert 0 < np.abs(found - wanted).mean() < 0.1 * wanted.std()


def test_observations_are_kept_spread_over_play():
    sample = playing.ObservationSample()
    for time in range(10_000):
        sample.add(np.full((2, 1), time))
    kept = sample.batch()[:, 0]
    assert len(kept) <= playing.SAMPLE_SIZE and kept[0] == 0 and kept[-1] > 9_900
    assert np.diff(kept).max() <= 64


def test_observations_are_not_of_games_that_have_ended():
    """One of eight poles is balanced for long, and the others fall early, again and again."""
    agent = agent_of(recipe("cartpole").replace(network=Dense((8,))), None)

    def act(obs):
        return np.where(np.arange(len(obs)) == 0, obs[:, 2] > 0, 1)

    assert np.ptp(playing.acting_with(agent, act).evaluate(8, max_steps=256).lengths) > 30
    seen = playing.observations(agent, act, 0)
    assert seen.source == "played observations"
    assert (np.abs(seen.batch[:, 2]) < 0.2095).all()  # the angle at which an episode ends


def test_a_host_environment_is_played_and_its_returns_are_those_of_the_agent(tmp_path):
    one = dataclasses.replace(recipe("lunar-lander"), network=Dense((8,)))
    agent = agent_of(one, None)
    found = exported(agent, tmp_path / "agent.onnx")
    its = playing.acting_with(agent, exporting.acting(found))
    mine, its = agent.evaluate(3, max_steps=40), its.evaluate(3, max_steps=40)
    np.testing.assert_allclose(its.returns, mine.returns, rtol=1e-5)
    assert playing.observations(agent, exporting.acting(found), 0).source == "played observations"


def test_an_agent_that_learned_from_data_is_compared_on_the_data(here, sharedq, tmp_path):
    assert sharedq("data", "collect", "data", "--from", "run", "--steps", 300).code == 0
    one = dataclasses.replace(recipe("cartpole-iql"), network=Dense((8,)))
    agent = agent_of(one.replace(environment="recorded", data="data", **{"training.evaluation_period": None}), None)
    assert not playing.can_play(agent)
    found = exported(agent, tmp_path / "agent.onnx")
    seen = playing.observations(agent, exporting.acting(found), 0)
    assert seen.source == "observations of its data" and set(seen.batch.sum(axis=1)) == {1.0}  # one-hot, as recorded
    (here / "data").rename(here / "gone")
    lost = agent_of(dataclasses.replace(one, environment=agent.experiment.environment), agent.built.spec)
    assert playing.observations(lost, exporting.acting(found), 0).source == "random observations"


# The runtime


def test_the_runtime_imports_numpy_and_onnxruntime_only(here):
    code = (
        "import sys; [sys.modules.__setitem__(name, None) for name in ('jax', 'flax', 'onnx')];"
        "from sharedq import runtime; agent = runtime.load('run/agent.onnx');"
        "print(agent.act([0, 0, 1, 0]), sorted(name for name in sys.modules if name.startswith('sharedq.')))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("['sharedq.runtime']\n")


def test_a_runtime_without_onnxruntime_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(runtime.AgentError, match=r"run  pip install onnxruntime$"):
        runtime.load(here / "run" / "agent.onnx")


def test_the_runtime_is_installed_alone_and_acts(here, tmp_path):
    """It brings no JAX, and is smaller than 150 MB without the bytecode of modules that nothing imports."""
    for folder in ("runtime", "sharedq/runtime"):  # building leaves files beside what is built
        shutil.copytree(ROOT / folder, tmp_path / "source" / folder)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--no-compile", tmp_path / "source" / "runtime"]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    packages = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    others = [one for one in packages.iterdir() if not one.name.startswith(("pip", "setuptools", "pkg_res", "_dist"))]
    size = sum(file.stat().st_size for one in others for file in [one, *one.rglob("*")] if file.is_file())
    assert size < 150e6
    code = (
        "import importlib.util, sharedq_runtime as runtime;"
        "assert not any(map(importlib.util.find_spec, ('jax', 'flax', 'onnx', 'sharedq')));"
        f"print(runtime.load({str(here / 'run' / 'agent.onnx')!r}).act([0, 0, 1, 0]))"
    )
    found = subprocess.run([python, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and found.stdout in ("0\n", "1\n"), found.stderr


def test_a_pruned_agent_has_a_small_file_that_decides_the_same(tmp_path):
    agent = agent_of(recipe("cartpole").replace(network=Dense((128, 128))), CHOICES)
    draws, weights = np.random.default_rng(0), agent.state.params
    params = jax.tree.map(lambda w: np.where(draws.random(w.shape) < 0.05, w, 0) if w.ndim > 1 else w, weights)
    sparse = Agent(agent._compiled, agent.state._replace(params=params), 0, 0)
    for one, name in ((agent, "dense.onnx"), (sparse, "sparse.onnx")):
        obs = np.float32(draws.normal(size=(40, 5)))
        assert exporting.compare(decision_of(one), exported(one, tmp_path / name), obs).holds
    sizes = {name: (tmp_path / name).stat().st_size for name in ("dense.onnx", "sparse.onnx")}
    assert sizes["sparse.onnx"] < 0.25 * sizes["dense.onnx"]
    sparse_ones = onnx.load(tmp_path / "sparse.onnx").graph.sparse_initializer
    assert len(sparse_ones) >= 1 and min(np.prod(one.dims) for one in sparse_ones) * 4 >= 4_096


DESCRIBED = {"label": "an agent", "seed": 0, "spec": to_json(CHOICES)}


def without(name: str, of: dict) -> dict:
    return {key: value for key, value in of.items() if key != name}


@pytest.mark.parametrize(
    "described",
    [
        *(without(name, DESCRIBED) for name in DESCRIBED),
        *({**DESCRIBED, "spec": without(name, to_json(CHOICES))} for name in ("name", "observation", "actions")),
        *({**DESCRIBED, "spec": spec} for spec in (3, {**to_json(CHOICES), "observation": {"shape": "x"}})),
        3,
    ],
)
def test_a_file_that_does_not_describe_its_agent_is_refused_in_one_line(tmp_path, described):
    agent, path = agent_of(recipe("cartpole").replace(network=Dense((4,))), CHOICES), tmp_path / "agent.onnx"
    exported(agent, path)
    path.write_bytes(agent_file.content_of(onnx.load(path), described))
    with pytest.raises(runtime.AgentError, match="does not describe its agent"):
        runtime.load(path)


def test_vectors_of_whole_numbers_have_the_dtype_of_the_environment(tmp_path):
    actions = Discrete(6, sizes=(2, 3), starts=(0, 5), dtype="int32")
    agent = agent_of(recipe("cartpole").replace(network=Dense((4,))), CHOICES._replace(actions=actions))
    found, obs = exported(agent, tmp_path / "agent.onnx"), np.eye(5, dtype=np.float32)
    assert found.act(obs).dtype == found.act(obs[0]).dtype == found.outputs(obs)["action"].dtype == np.int32
    np.testing.assert_array_equal(found.act(obs), actions.in_units(found.values(obs).argmax(axis=1)))
