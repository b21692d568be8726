"""The agents that a new run starts from: those of another run, in their weights but not in how they were trained.

A state of an algorithm is a named tuple of slots (see `algorithms/algorithm.py`). The weights, the source's state and
running statistics are taken over. What belongs to the course of a training begins anew: the moments of the optimiser,
traces and their mask, and the key of the current episode.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.environments.spec import JSON_FORM, EnvironmentSpec, from_json, to_json
from sharedq.errors import SharedqError
from sharedq.experiment import NO_TARGET, TABLES, Built, Experiment
from sharedq.runs import RunDirectory, checkpoints
from sharedq.runs.durable import checksum
from sharedq.runs.run_directory import Start
from sharedq.runs.tensor_file import named_leaves
from sharedq.settings import as_typed, require
from sharedq.training.learning import begin_learner

NOT_TAKEN_OVER = ("optimiser", "optimisers", "traces", "trace_mask", "policy_key")  # slots that begin anew


def agents_of(run: str | Path, checkpoint: str | int, built: Built) -> Start:
    """The agents that the seeds of a built experiment start from.

    The run has as many seeds, or one seed, whose agent all start from.
    """
    directory, seeds = RunDirectory.open(run), built.experiment.all_seeds
    path = directory.checkpoint(checkpoint)
    checkpoints.read_meta(path, directory.digests(), oldest=directory.oldest_checkpoint())
    begun = jax.jit(lambda seeds: jax.lax.map(lambda seed: _begun(built, seed), seeds))(jnp.array(seeds, jnp.int32))
    arrays = checkpoints.load_arrays(path, "agent")
    wanted, there = (
        {name: x for name, x in one.items() if _is_taken_over(name)} for one in (named_leaves(begun), arrays)
    )
    for name in sorted(wanted.keys() | there.keys()):
        forms = [_form(one.get(name)) for one in (there, wanted)]
        if forms[0] != forms[1]:
            told = f"'{name}' is {forms[0]} in {directory.path} and {forms[1]} here"
            raise SharedqError(f"agents do not fit: {told}; {_fitting(directory, built)}")
    count = len(next(iter(there.values())))
    require(
        count in (1, len(seeds)),
        f"{directory.path} has {count} seeds and the new run {len(seeds)}: start {count} seeds from it, or all from a "
        "run of one seed",
    )
    places = np.arange(len(seeds)) % count
    leaves = [there[name][places] if _is_taken_over(name) else leaf for name, leaf in named_leaves(begun).items()]
    agent = jax.tree.unflatten(jax.tree.structure(begun), leaves)
    remark = _other_rewards(directory, built)
    origin = {"run": str(Path(run)), "checkpoint": path.name, "sha256": checksum(path / "agent.safetensors")}
    return Start(agent, origin, remark)


def _other_rewards(directory: RunDirectory, built: Built) -> str | None:
    """Says how the other run changed its rewards, if the new run learns from rewards that are changed otherwise."""
    settings, note = directory.experiment().get("replay", {}), directory.data()
    shift, spread = settings.get("reward_shift") or 0.0, settings.get("return_range")
    scale = note.get("reward_scale") if spread is not None else 1.0  # older runs do not say it
    if (shift, scale) == getattr(built.experiment.replay, "rewards", (0.0, 1.0)):
        return None
    scaled = f"--return_range {spread:g}" if scale is None else f"a factor of {scale:.4g}"
    changes = [f"a shift of {shift:g}"] * (shift != 0) + [scaled] * (scale != 1)
    told = f"changed by {' and '.join(changes)}" if changes else "as they are in its data"
    return (
        f"the values of these agents are of other rewards: {directory.path} learned from rewards {told}, and this run "
        "learns from others, so its critics have to learn new values first"
    )


def _begun(built: Built, seed: jax.Array) -> Any:
    return begin_learner(seed, built.algorithm, built.spec, built.replay, built.measuring).agent


def _is_taken_over(name: str) -> bool:
    return name.partition("/")[0] not in NOT_TAKEN_OVER


def _form(array: Any) -> str:
    """Dtype and shape of one seed's array."""
    return "absent" if array is None else f"{array.dtype}{list(array.shape[1:])}"


def _fitting(directory: RunDirectory, built: Built) -> str:
    """The environment and the settings of the other run that its agents need, as far as they are not the new run's."""
    theirs, mine = directory.experiment(), built.experiment.to_dict()
    kinds: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for part in ("algorithm", "target", "network"):
        one, other = theirs.get(part, {}), mine[part]
        if NO_TARGET in (one.get("kind"), other["kind"]):
            continue
        if one.get("kind") != other["kind"]:
            kinds[part] = one.get("kind")
        if part != "algorithm":
            differing = [name for name in one if name != "kind" and one[name] != other.get(name)]
            fields |= {f"{part}.{name}": one[name] for name in differing}
    spec, own = directory.spec(JSON_FORM), to_json(built.spec)
    elsewhere = spec is not None and (spec["observation"], spec["actions"]) != (own["observation"], own["actions"])
    seen, base = (from_json(spec) if spec else built.spec), built.experiment
    found = [f"--{name} {as_typed(value)}" for name, value in kinds.items() if _shapes_differ(base, name, value, seen)]
    if all(kind in TABLES[part].ours for part, kind in kinds.items()):  # no code is imported for a message
        with suppress(SharedqError):
            base = base.replace(**kinds)
    found += [
        f"--{name} {as_typed(value)}" for name, value in fields.items() if _shapes_differ(base, name, value, seen)
    ]
    settings = " ".join(found)
    if spec and elsewhere:
        also = f", and {settings}" if found else ""
        fits = f"an environment with the observations and actions of '{spec['name']}'{also}"
    else:
        fits = settings or f"the settings in {directory.path}/experiment.json"
    learned = f"it learned in another environment, '{spec['name']}'; " if spec and spec["name"] != own["name"] else ""
    return f"{learned}what fits: {fits}"


def _shapes_differ(experiment: Experiment, name: str, value: Any, spec: EnvironmentSpec) -> bool:
    """Whether a setting changes the names and shapes of the arrays of an agent; also if that cannot be found out."""
    if name in TABLES and value not in TABLES[name].ours:
        return True
    try:
        changed = experiment.replace(**{name: value})
        if set(changed.imports()) - set(experiment.imports()):
            return True
        return changed.build(spec).agent_shapes() != experiment.build(spec).agent_shapes()
    except SharedqError:
        return True
