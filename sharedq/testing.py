"""Checks for the tests of your own parts: does a part keep its contract?

    from sharedq import testing

    def test_my_source_keeps_the_contract():
        testing.check_source(MySource(period=7))

Each check raises a `SharedqError` that names the first broken promise. The same functions test our own parts.
"""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import settings
from sharedq.algorithms import DQN
from sharedq.environments import check as check_environment
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Network
from sharedq.targets import RefreshInfo, TargetSource, Values
from sharedq.transitions import Batch, Transition

__all__ = ["check_environment", "check_kind", "check_source"]

SIZE, INPUTS, ACTIONS, STEPS = 4, 5, 3, 12
KEY = jax.random.key(0)


def check_kind(kind: type) -> None:
    """Checks that a class of settings can be shown, saved and changed: a frozen dataclass with explained fields."""
    what = kind.__name__
    _promise(dataclasses.is_dataclass(kind), what, "it is a dataclass")
    _promise(kind.__dataclass_params__.frozen, what, "it is frozen: @dataclass(frozen=True)")  # type: ignore[attr-defined]
    _promise(callable(getattr(kind, "build", None)), what, "it has a method build")
    described = kind.__doc__ and not kind.__doc__.startswith(f"{what}(")
    _promise(bool(described), what, "it has a docstring, which `sharedq list` shows")
    explained = settings.comments(kind)
    for field in dataclasses.fields(kind):
        _promise(bool(explained.get(field.name)), what, f"a comment behind the field '{field.name}' explains it")


def check_source(source: Any, network: Network | None = None) -> None:
    """Checks that the settings of a source build one that keeps the contract in `sharedq/targets/source.py`.

    The network takes 5 inputs and has 3 outputs for each head; by default it is a small dense network. Choose periods
    of a few steps, so that the 12 steps of the check include a refresh.
    """
    check_kind(type(source))
    what = type(source).__name__
    _promise(isinstance(getattr(source, "label", None), str), what, "it has a label, which is its name in reports")
    network = network or Dense((6,)).build(ACTIONS)
    built = source.build(network)
    _promise(isinstance(built, TargetSource), what, f"build returns a TargetSource, not {type(built).__name__}")
    now, then = jax.random.normal(KEY, (2, SIZE, INPUTS))
    params, state = built.init(KEY, now)
    for slot in ("target_params", "batch_stats"):
        _promise(slot in state, what, f"its state has a slot '{slot}', which may be empty, so that cost counts it")
    _check_arguments(what, built, params, state, now, then)
    values = built.values(params, state, now, then)
    _check_values(what, built, values)
    _check_gradients(what, built, params, state, now, then)
    _check_draws(what, built, params, state, now, then)
    _check_one_pass(what, built, params, state, now)
    _check_selection(what, built, params, state, now, network.reading.value(values.predicted))
    _check_refresh(what, built, params, state, now)
    if not built.replaces_heads:
        _check_heads_follow(what, built, params, state, now, values)
    _check_training(what, built)


def _promise(kept: bool, what: str, rule: str) -> None:
    if not kept:
        raise SharedqError(f"{what} breaks a promise: {rule}")


def _close(one: Any, other: Any, tolerance: float = 1e-5) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs)


def _same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def _check_arguments(what: str, source: TargetSource, params: Any, state: Any, now: Any, then: Any) -> None:
    """Algorithms give these arguments by their places."""
    calls: dict[str, tuple[Any, tuple]] = {
        "values(params, state, now, then=None, key=None)": (source.values, (params, state, now, then, KEY)),
        "act_values(params, state, key, inputs, noisy=False)": (source.act_values, (params, state, KEY, now, False)),
    }
    for form, (function, arguments) in calls.items():
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise SharedqError(f"{what} breaks a promise: it has {form} ({error})") from error


def _check_values(what: str, source: TargetSource, values: Any) -> None:
    _promise(isinstance(values, Values), what, f"values returns Values, not {type(values).__name__}")
    (heads,) = values.weights.shape
    rule = "it is `anchored` if its values have an anchor, so that algorithms add the anchor's term or refuse it"
    _promise(source.anchored == (values.anchor is not None), what, rule)
    for name in ("predicted", "bootstrap", "selector", "anchor"):
        for leaf in jax.tree.leaves(getattr(values, name)):
            rule = f"'{name}' begins with heads and batch [{heads}, {SIZE}], not {list(leaf.shape[:2])}"
            _promise(leaf.shape[:2] == (heads, SIZE), what, rule)


def _check_gradients(what: str, source: TargetSource, params: Any, state: Any, now: Any, then: Any) -> None:
    def slope(names: tuple[str, ...]) -> float:
        def total(params):
            values = source.values(params, state, now, then)
            leaves = jax.tree.leaves([getattr(values, name) for name in names])
            # A sum of squares would not do: that of sines and cosines is the same for all params.
            return sum(jnp.vdot(leaf, jax.random.normal(KEY, leaf.shape)) for leaf in leaves)

        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(jax.grad(total)(params)))

    _promise(slope(("predicted",)) > 0, what, "'predicted' carries a gradient to params")
    _promise(slope(("features",)) > 0, what, "'features' carry a gradient to params")
    fixed = ("bootstrap", "selector", "anchor")
    _promise(slope(fixed) == 0, what, "'bootstrap', 'selector' and 'anchor' carry no gradient")


def _check_one_pass(what: str, source: TargetSource, params: Any, state: Any, now: Any) -> None:
    once, twice = source.values(params, state, now), source.values(params, state, now, now)
    _promise(_close(once, twice), what, "values without `then` equal those with `then` equal to `now`")


def _check_draws(what: str, source: TargetSource, params: Any, state: Any, now: Any, then: Any) -> None:
    for key, rule in ((None, "values without a key draws nothing"), (KEY, "what values draws depends on the key only")):
        one, other = (source.values(params, state, now, then, key) for _ in range(2))
        _promise(_same(one, other), what, rule)


def _check_selection(what: str, source: TargetSource, params: Any, state: Any, now: Any, of_heads: Any) -> None:
    acting = source.act_values(params, state, KEY, now)
    _promise(_close(source.select(state, KEY, of_heads), acting), what, "act_values and select follow one rule")
    drawn_nothing = [source.act_values(params, state, None, now) for _ in range(2)]
    _promise(_same(*drawn_nothing), what, "act_values without a key draws nothing")


def _check_refresh(what: str, source: TargetSource, params: Any, state: Any, now: Any) -> None:
    info = _info(source, params, state, now)
    after = jax.eval_shape(source.refresh, jnp.int32(1), params, state, info)
    before = jax.eval_shape(lambda: (params, state))
    forms = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (before, after)]
    _promise(forms[0] == forms[1], what, "refresh keeps the form of params and state (shapes and dtypes)")


def _check_heads_follow(what: str, source: TargetSource, params: Any, state: Any, now: Any, values: Values) -> None:
    params = jax.tree.map(lambda w: w + jax.random.normal(KEY, w.shape), params)
    own = {part: params[part] for part in params if part not in source.shared}
    (heads,) = values.weights.shape
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(own)}
    rule = f"params outside of `shared` begin with an axis of {heads} heads, not {sorted(rows)}"
    _promise(rows <= {heads}, what, rule)
    both = jax.jit(
        lambda step: (
            source.refresh(step, params, state, _info(source, params, state, now))[0],
            source.follow(step, own),
        )
    )
    for step in range(1, STEPS + 1):
        refreshed, followed = both(jnp.int32(step))
        moved = {part: refreshed[part] for part in own}
        _promise(_same(moved, followed), what, f"follow moves rows as refresh moves heads; at step {step} it does not")


def _check_training(what: str, source: TargetSource) -> None:
    """Trains deep Q-learning on the source. Losses must stay finite, and two equal trainings have equal results."""
    first = next(_batches())

    def train() -> tuple[Any, list[float]]:
        algorithm = DQN(gamma=0.9, learning_rate=0.01).on(source)  # anew, so that each training is traced by itself
        update, state, losses = jax.jit(algorithm.update), algorithm.init(KEY, first), []  # type: ignore[arg-type]
        for step, batch in enumerate(_batches(), start=1):
            state, _, metrics = update(state, batch, KEY, jnp.int32(step))
            losses.append(float(metrics["loss"]))
        return state, losses

    (one, losses), (other, _) = train(), train()
    _promise(bool(np.isfinite(losses).all()), what, "losses of deep Q-learning stay finite")
    _promise(_same(one.params, other.params), what, "two equal trainings have equal results: every draw uses a key")
    shapes = [
        jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (DQN().on(source).init(KEY, first).source, one.source)
    ]
    _promise(shapes[0] == shapes[1], what, "its state keeps its form in training")


def _info(source: TargetSource, params: Any, state: Any, now: Any) -> RefreshInfo:
    values = source.values(params, state, now)
    return RefreshInfo(now, values.batch_stats, jnp.zeros(values.weights.shape))


def _batches() -> Iterator[Batch]:
    for step in range(STEPS):
        keys = jax.random.split(jax.random.fold_in(KEY, step), 3)
        obs, next_obs = jax.random.normal(keys[0], (2, SIZE, INPUTS))
        action = jax.random.randint(keys[1], (SIZE,), 0, ACTIONS)
        reward = jax.random.normal(keys[2], (SIZE,))
        transition = Transition(obs, action, reward, jnp.full(SIZE, 0.9), next_obs)
        yield Batch(transition, jnp.ones(SIZE), jnp.zeros(SIZE, jnp.int32))
