"""What an agent costs before it is trained: parameters, bytes, operations, time. Nothing is allocated unless timed.

Counts come from shapes alone, so networks of any size can be asked about on any machine. Operations are those the
compiler counts for the program it is given, before it optimises.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from sharedq.trees import count, size

MOST_TIMED = 1e12  # operations of an update that is timed on a CPU, where 35 of them take some minutes


@dataclass(frozen=True)
class Cost:
    """The cost of one seed. The bytes of a part are those that it needs during training."""

    parameters: dict[str, int]  # trained; held: trained and not trained; and each part: trunk, heads, untrained
    bytes: dict[str, int]  # the agent, its weights, statistics, other, further slots; replay; activations, if compiled
    flops_per_update: float  # of an update without a refresh, on one batch or, without a replay, one vector step
    flops_per_refresh: float  # added by the source at an update that refreshes its targets
    flops_per_action: float  # choosing the action for one observation
    update_seconds: float | None  # median of several measurements; None if not measured, as where it would take long

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def flops(function: Callable, *arguments: Any) -> float:
    """The operations of one call. The compiler counts the body of a scan once; the repeats are added here."""
    traced = jax.jit(function).trace(*arguments)
    return _counted(traced) + _repeats(traced.jaxpr.jaxpr)


def _counted(traced: Any) -> float:
    return float(traced.lower().cost_analysis().get("flops", 0.0))  # absent if there are none


def _repeats(jaxpr: Any) -> float:
    """The operations of scans in `jaxpr`, and of scans inside them, that the compiler does not count."""
    more = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            body = equation.params["jaxpr"]
            shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in body.in_avals]
            traced = jax.jit(jaxpr_as_fun(body)).trace(*shapes)
            once = _counted(traced)
            more += equation.params["length"] * (once + _repeats(traced.jaxpr.jaxpr)) - once
        else:
            more += sum(map(_repeats, _inner(equation.params)))
    return more


def _inner(parameters: Mapping[str, Any]) -> Iterator[Any]:
    """The programs that an equation calls: branches of a condition, or the body of a function."""
    for value in parameters.values():
        for one in value if isinstance(value, tuple) else (value,):
            if hasattr(one, "eqns"):
                yield one
            elif hasattr(one, "jaxpr"):
                yield one.jaxpr


def parameters_of(state: Any) -> dict[str, int]:
    """The parameter counts of an agent, or of its shapes, as `Cost` lists them."""
    trained, untrained = state.params, getattr(state, "source", {}).get("target_params", {})
    parts = trained if isinstance(trained, Mapping) else {}
    if isinstance(parts.get("source"), Mapping):  # a source's parts beside those of the algorithm
        parts = {**parts["source"], **{name: part for name, part in parts.items() if name != "source"}}
    return {
        "trained": count(trained),
        "held": count(trained) + count(untrained),
        **{part: count(weights) for part, weights in parts.items()},
        "untrained": count(untrained),
    }


def with_zeros(cost: Cost, params: Any) -> Cost:
    """The cost of an agent with these parameters, which also says how many of those that are trained are not zero."""
    nonzero = sum(int(jnp.count_nonzero(weights)) for weights in jax.tree.leaves(params))
    others = {name: number for name, number in cost.parameters.items() if name != "trained"}
    return replace(cost, parameters={"trained": cost.parameters["trained"], "trained_nonzero": nonzero, **others})


def cost_of(
    algorithm: Any, update: Callable, batch: Any, learned: Any, replay: Any, timed: bool, compiled: bool
) -> Cost:
    """The cost of an algorithm's functions, given the shapes of an example batch and of the replay's data.

    `update(state, learned, key, step)` is an update on what is learned from at once, of which `learned` are the shapes.
    """
    key, step = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(1)))
    state = jax.eval_shape(algorithm.init, key, batch)
    slots = state._asdict()
    trained, source = slots.pop("params"), dict(slots.pop("source", {}))
    untrained, batch_stats = source.pop("target_params", {}), source.pop("batch_stats", {})
    one_obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), batch.transition.obs)
    program = jax.jit(update, donate_argnums=0).lower(state, learned, key, step).compile() if compiled else None
    scratch = program.memory_analysis() if program else None
    refresh = _flops_of_refresh(algorithm, state, batch, key, step)
    per_update = flops(update, state, learned, key, step) - refresh
    timed = timed and (jax.default_backend() != "cpu" or per_update <= MOST_TIMED)
    return Cost(
        parameters=parameters_of(state),
        bytes={
            "agent": size(state),
            "weights": size(trained) + size(untrained),
            **{name: size(slot) for name, slot in slots.items()},
            "replay": size(replay),
            "batch_stats": size(batch_stats),
            "other": size(source),
            **({"activations": scratch.temp_size_in_bytes} if scratch else {}),
        },
        flops_per_update=per_update,
        flops_per_refresh=refresh,
        flops_per_action=flops(lambda state, key, obs: algorithm.act(state, key, obs, None), state, key, one_obs),
        update_seconds=_timed(program, algorithm.init, batch, learned) if timed else None,
    )


def _flops_of_refresh(algorithm: Any, state: Any, batch: Any, key: Any, step: Any) -> float:
    if algorithm.refresh is None:
        return 0.0
    info = jax.eval_shape(algorithm.loss, state.params, state, batch, key)[1].for_refresh
    return flops(algorithm.refresh, state, info, step)


def _timed(compiled: Any, init: Callable, batch: Any, learned: Any) -> float:
    """Seconds of one update that is dispatched by itself: the median of 30 updates after 5 for warming up."""
    batch, learned = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (batch, learned))
    key = jax.random.key(0)
    state, seconds = jax.jit(init)(key, batch), []
    for number in range(1, 36):
        began = time.perf_counter()
        state, *told = compiled(state, learned, key, jnp.int32(number))
        jax.block_until_ready((state, told))
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[5:])[15]
