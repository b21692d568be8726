"""The file of an exported agent: a model of ONNX with a description of the agent inside, and a seal behind it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sharedq import runtime
from sharedq.agent import Agent
from sharedq.environments.spec import to_json
from sharedq.errors import SharedqError
from sharedq.reports.files import is_there
from sharedq.results import Run

SPARSE_SHARE = 0.75  # ours: a constant is stored as a sparse one if that takes less than this share of its bytes
SMALLEST_SPARSE = 4_096  # ours: bytes; a smaller constant stays dense, because there is little to save
LAST_EPISODES = 100  # the file of a run that did not evaluate has their mean return


def content_of(model: Any, description: dict[str, Any]) -> bytes:
    """The bytes of a file with this model and this description of the agent."""
    foreign = sorted({node.domain for node in model.graph.node} - {""})
    if foreign:
        raise SharedqError(f"the agent cannot be exported: its graph has operators of {', '.join(foreign)}")
    model = with_sparse_constants(model)
    del model.metadata_props[:]
    described = {"format": runtime.FORMAT, "agent": json.dumps(description)}
    for name, text in described.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = runtime.PREFIX + name, text
    content = model.SerializeToString()
    return content + runtime.seal_of(content)


def with_sparse_constants(model: Any) -> Any:
    """A copy of the model, in which constants of mostly zeros are stored as their other numbers and where these stand.

    That makes the file of a pruned agent small. Whoever loads it makes them dense again, so it acts as fast as before.
    """
    import onnx
    from onnx import numpy_helper

    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    del stored.graph.initializer[:]
    for constant in model.graph.initializer:
        array = numpy_helper.to_array(constant)
        places = np.flatnonzero(array)  # eight bytes each
        values = array.reshape(-1)[places]
        is_small = places.nbytes + values.nbytes < SPARSE_SHARE * array.nbytes
        if array.dtype == np.float32 and array.nbytes >= SMALLEST_SPARSE and is_small:
            parts = numpy_helper.from_array(values, constant.name), numpy_helper.from_array(places, "places")
            stored.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(*parts, array.shape))
        else:
            stored.graph.initializer.append(constant)
    return stored


def description_of(agent: Agent, run: Run, precision: str) -> dict[str, Any]:
    """What the file says about the agent."""
    begun = run.begun_with()
    return {
        "spec": to_json(agent.built.spec),
        "experiment": agent.experiment.to_dict(),
        "algorithm": agent.experiment.kind("algorithm"),
        "label": agent.experiment.label,
        "seed": agent.seed,
        "step": agent.step,
        "return": return_of(agent, run),
        "precision": precision,
        "trained_with": {name: begun[name] for name in ("date", "sharedq", "commit", "jax") if begun.get(name)},
    }


def return_of(agent: Agent, run: Run) -> dict[str, Any] | None:
    """The mean return of the agent's last evaluation, or of the last episodes of its training up to its step."""
    for name, table in (("evaluation", run.evaluations()), ("training episodes", run.episodes())):
        mine = (table["seed"] == agent.seed) & (table["step"] <= agent.step)
        steps, returns = table["step"][mine], table["return"][mine]
        if not len(returns):
            continue
        counted = returns[steps == steps.max()] if name == "evaluation" else returns[-LAST_EPISODES:]
        return {"mean": float(np.mean(counted)), "episodes": len(counted), "of": name}
    return None


def check_place(path: Path) -> None:
    """Raises if a file cannot be written there."""
    if path.suffix != ".onnx":
        raise SharedqError(f"{path} does not end with .onnx: give --out that ending")
    if path.is_symlink() or (is_there(path) and not path.is_file()):
        raise SharedqError(f"{path} is no ordinary file, and no agent is written through a link: choose another --out")


def check_replaced(path: Path, agent: Agent) -> None:
    """Raises if the file is there and holds anything else than an agent of the same run."""
    if not is_there(path):
        return
    remedy = "choose another --out, or add --overwrite"
    try:
        found = _without_steps(runtime.load(path).metadata["experiment"])
    except (runtime.AgentError, KeyError, TypeError) as error:
        raise SharedqError(f"{path} is left alone, because no agent can be read from it ({error}): {remedy}") from None
    if found != _without_steps(agent.experiment.to_dict()):
        raise SharedqError(f"{path} holds an agent of another run, so it is left alone: {remedy}")


def _without_steps(experiment: Any) -> dict[str, Any]:
    """An experiment without its length: a run that was trained for longer is the same run."""
    return {**experiment, "training": {k: x for k, x in experiment["training"].items() if k != "steps"}}
