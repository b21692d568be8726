"""Exports the agent of a run: writes the file, runs it, and keeps it only if it decides as the agent does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sharedq import runtime
from sharedq.agent import Agent, Evaluation, checked_game, load_all
from sharedq.environments import HostEnvironment
from sharedq.errors import SharedqError, missing_extra, reason
from sharedq.experiment import Trust
from sharedq.exporting import agent_file, playing
from sharedq.exporting.decision import decision_of
from sharedq.playing import MAX_STEPS
from sharedq.reports.files import unfinished
from sharedq.results import Run
from sharedq.units import readable
from sharedq.validation import path as as_path

TOLERANCE = 1e-4  # ours: the largest difference, as a share of the largest value (or of 1, if all values are smaller)
AGREEMENT = 0.99  # ours: the smallest share of equal actions, because two values can be equal but for their rounding
BATCH = 32  # observations that are run together in the comparison
ALONE = 16  # observations that are also run one at a time


class Comparison(NamedTuple):
    """A file beside the agent that it was made from."""

    difference: float  # the largest difference of values, or of continuous actions
    scale: float  # the largest of these numbers; 1 if all are smaller
    agreement: float  # the share of equal actions; of continuous actions those that differ by less than the tolerance

    @property
    def holds(self) -> bool:
        return self.difference <= TOLERANCE * self.scale and self.agreement >= AGREEMENT


@contextmanager
def agent_errors() -> Iterator[None]:
    """Reports an error of the runtime as one of ours."""
    try:
        yield
    except runtime.AgentError as error:
        raise SharedqError(f"the agent cannot be exported: {error}") from error


@agent_errors()
def export(
    run: str | Path,
    out: str | Path,
    *,
    agent: int | None = None,
    checkpoint: str | int = "last",
    int8: bool = False,
    episodes: int = 10,
    seed: int = 0,
    max_steps: int = MAX_STEPS,
    trust: Trust = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Writes the agent of a run as `out`, and with `int8` another file beside it; gives the paths.

    `agent` is a trained seed, by default the one with the best return; `seed` is that of the episodes that are played.
    `say` takes a line on each result.
    """
    check_packages()
    episodes, seed, max_steps = checked_game(episodes, seed, max_steps)
    trained, out = Run(as_path(run, "run")), as_path(out, "out")
    wanted = [out, out.with_suffix(".int8.onnx")] if int8 else [out]
    for path in wanted:
        agent_file.check_place(path)
    learned = chosen(trained, agent, checkpoint, trust, say)
    for path in [] if overwrite else wanted:
        agent_file.check_replaced(path, learned)
    plays_both = int8 and playing.can_play(learned)
    if plays_both:
        checked_game(episodes, seed, max_steps, isinstance(learned.environment, HostEnvironment))
    decision = decision_of(learned)
    model = model_of_agent(learned, decision)
    content = agent_file.content_of(model, agent_file.description_of(learned, trained, "float32"))
    with unfinished(out, content) as file:
        exported = runtime.load(file)
        seen = playing.observations(learned, acting(exported), seed)
        found = compare(decision, exported, seen.batch)
        told = f"largest difference {found.difference:.2g} of {found.scale:.3g}, {_told(found, seen)}"
        if not found.holds:
            raise SharedqError(f"the exported file does not decide as the agent does, so it is not kept: {told}")
    say(f"{out}: {readable(len(content))}, {told}")
    if int8:
        _export_int8(learned, trained, model, decision, seen, wanted, say)
        if plays_both:
            for path in wanted:
                act = acting(runtime.load(path))
                say_return(path, playing.acting_with(learned, act).evaluate(episodes, seed, max_steps), say)
        else:
            say("the agent has no environment here to play in, so the returns of the two files are not known")
    return wanted


def _export_int8(
    agent: Agent,
    trained: Run,
    model: Any,
    decision: Callable,
    seen: playing.Observations,
    paths: list[Path],
    say: Callable[[str], None],
) -> None:
    """Writes the INT8 file beside the other, and says how its decisions compare. They may differ, so it is kept.

    Half of the observations calibrate it, and the other half are for the comparison.
    """
    from sharedq.exporting import int8

    float32, out = paths
    others = seen._replace(batch=seen.batch[1::2])
    content = agent_file.content_of(
        int8.quantised(model, seen.batch[::2]), agent_file.description_of(agent, trained, "int8")
    )
    with unfinished(out, content) as file:
        found = compare(decision, runtime.load(file), others.batch)
    say(
        f"{out}: {readable(len(content))}, largest difference {found.difference:.2g} of {found.scale:.3g}, "
        f"{_told(found, others)}"
    )
    if not int8.is_convolutional(model):
        smaller = len(content) < float32.stat().st_size
        saved = "saves memory and hardly any time" if smaller else "makes its small file larger"
        say(f"the network is dense, and INT8 {saved}")


def say_return(path: Path, found: Evaluation, say: Callable[[str], None]) -> None:
    returns, cut = found.returns, int((~found.ended).sum())
    spread = f" +- {returns.std(ddof=1) / len(returns) ** 0.5:.2f}" if len(returns) > 1 else ""
    ended = f", {cut} of them cut" if cut else ""
    say(f"{path}: mean return {returns.mean():.2f}{spread} over {len(returns)} episodes{ended}")


def check_packages() -> None:
    for package in ("onnx", "onnxruntime"):
        try:
            import_module(package)
        except ImportError:
            raise missing_extra(package, "export", "exporting an agent") from None


def chosen(run: Run, seed: int | None, checkpoint: str | int, trust: Trust, say: Callable[[str], None]) -> Agent:
    """The agent of this seed, or of the seed with the best return."""
    agents = load_all(run.path, checkpoint=checkpoint, trust=trust)
    if seed is not None:
        found = [agent for agent in agents if agent.seed == seed]
        if not found:
            seeds = ", ".join(str(agent.seed) for agent in agents)
            raise SharedqError(f"{run.path} has no seed {seed}: choose from {seeds}")
        return found[0]
    returns = [agent_file.return_of(agent, run) for agent in agents]
    means = [-np.inf if one is None else one["mean"] for one in returns]
    best = int(np.argmax(means))
    if len(agents) > 1:
        told = returns[best]
        why = f"the first of {len(agents)}, because none has a return"
        if told is not None:
            mean = f"mean return {told['mean']:.2f} over {told['episodes']} {told['of']}"
            why = f"which is the best of {len(agents)}: {mean}"
        say(f"the agent of seed {agents[best].seed} is exported, {why}")
    return agents[best]


def model_of_agent(agent: Agent, decision: Callable[[Any], dict[str, jax.Array]]) -> Any:
    """The checked ONNX model of a decision."""
    import onnx

    from sharedq.exporting.lowering import model_of

    model = model_of(decision, agent.built.spec.observation, agent.experiment.label)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise SharedqError(
            f"the agent cannot be exported: its decision has an operation that ONNX does not take ({reason(error)}); "
            "write the network without it"
        ) from error
    return model


def acting(exported: runtime.Agent) -> Callable[[np.ndarray], np.ndarray]:
    return lambda obs: exported.outputs(obs)["action"]


def compare(decision: Callable, exported: runtime.Agent, obs: np.ndarray) -> Comparison:
    """Runs the file in batches and one observation at a time, and compares it with the agent on the same ones."""
    decide = jax.jit(decision)
    pairs = [(decide(part), exported.outputs(part)) for part in _parts(obs, BATCH)]
    pairs += [(decide(part), exported.outputs(part)) for part in _parts(obs[:ALONE], 1)]
    wanted, found = (
        {name: np.concatenate([np.asarray(pair[side][name]) for pair in pairs]) for name in pairs[0][1]}
        for side in (0, 1)
    )
    floats = [name for name, value in found.items() if np.asarray(wanted[name]).dtype.kind == "f"]
    for name in floats:
        if not np.isfinite(wanted[name]).all():
            raise SharedqError(f"the agent's own {name} are not finite: it diverged, and is not exported")
    difference = float(np.max([np.abs(wanted[name] - found[name]).max() for name in floats]))  # NaN if one is NaN
    scale = max(1.0, *(float(np.abs(wanted[name]).max()) for name in floats))
    limit = TOLERANCE * scale if "values" not in found else 0
    same = np.abs(wanted["action"].astype(float) - found["action"]) <= limit
    return Comparison(difference, scale, float(same.reshape(len(same), -1).all(axis=1).mean()))


def _parts(obs: np.ndarray, size: int) -> list[np.ndarray]:
    """The observations in batches of this size; what is left is a smaller batch."""
    return [obs[start : start + size] for start in range(0, len(obs), size)]


def _told(found: Comparison, seen: playing.Observations) -> str:
    return f"actions agree in {found.agreement:.1%} of {len(seen.batch)} {seen.source}"
