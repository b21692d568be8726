"""Lookahead-Replicate on a Markov chain of two states: two networks come to agree in values, not in parameters.

    python examples/two_state_chain.py [FIGURE]

The chain swaps between its states, with rewards 1 and 0 and a discount of 0.9, so the true values are 1 / 0.19 and
0.9 / 0.19. Both networks are linear in features that have more parameters than there are states. Three ways to bring
the target network behind the online network are compared: a copy, replication, and replication to a target network with
four parameters in place of three. The paper shows such a chain (Asadi et al., 2024); its numbers are not known, and
these are ours.
"""

import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from sharedq.algorithms import DQN
from sharedq.networks import Network
from sharedq.targets import LookaheadReplicate, TargetNetwork
from sharedq.transitions import Batch, Transition

matplotlib.use("Agg")
from matplotlib import pyplot

UPDATES, PERIOD = 20_000, 100
EACH = 9  # of so many updates one is drawn; no divisor of the period, so that both ends of a period are seen
TRUE = np.array([1.0, 0.9]) / 0.19
THREE = [[1.0, 0.5, 1.0], [0.0, 1.0, -1.0]]
FOUR = [[1.0, 0.0, 2.0, 0.3], [0.5, 1.0, 0.0, 1.0]]
SMOOTH = {"learning_rate": 0.2, "adam_epsilon": 1.0}  # with so large an epsilon Adam is gradient descent with momentum


def linear(features: list[list[float]]) -> Network:
    """A network without a trunk to learn: its value of a state is linear in the state's features."""
    table = jnp.array(features)
    return Network(
        init_trunk=lambda key, example: ({}, {}),
        trunk=lambda params, batch_stats, state, train: (table[state], batch_stats),
        init_heads=lambda key, x, count: {"w": 2 * jax.random.normal(key, (count, table.shape[1]))},
        heads=lambda params, x: jnp.einsum("bf,hf->hb", x, params["w"])[..., None],
    )


def learn(source, seed: int = 3) -> dict[str, np.ndarray]:
    """Values of both networks after each update [UPDATES, 2], and their parameters."""
    states = jnp.array([0, 1])
    transition = Transition(states, jnp.zeros(2, jnp.int32), jnp.array([1.0, 0.0]), jnp.full(2, 0.9), states[::-1])
    batch = Batch(transition, jnp.ones(2), states)
    algorithm, key = DQN(gamma=0.9, **SMOOTH).on(source), jax.random.key(seed)
    start = algorithm.init(key, batch)
    target = jax.tree.map(lambda w: 2 * jax.random.normal(jax.random.key(1), w.shape), start.source["target_params"])
    start = start._replace(source={**start.source, "target_params": target})  # the two begin apart

    def update(state, step):
        state, _, _ = algorithm.update(state, batch, key, step)
        found = source.values(state.params, state.source, states)
        online, held = (w["heads"]["w"][0] for w in (state.params, state.source["target_params"]))
        return state, {
            "online": found.predicted[0, :, 0],
            "target": found.bootstrap[0, :, 0],
            "parameters": online,
            "target_parameters": held,
        }

    told = jax.jit(lambda state: jax.lax.scan(update, state, jnp.arange(1, UPDATES + 1)))(start)[1]
    return jax.tree.map(np.asarray, told)


def run() -> dict[str, dict[str, np.ndarray]]:
    replicate = LookaheadReplicate(period=PERIOD, replicate_steps=PERIOD, **SMOOTH)
    return {
        "copied": learn(TargetNetwork(PERIOD).build(linear(THREE))),
        "replicated": learn(replicate.build(linear(THREE))),
        "replicated, 4 parameters for 3": learn(replicate.build(linear(THREE), linear(FOUR))),
    }


def draw(results: dict[str, dict[str, np.ndarray]], path: str) -> None:
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    steps = np.arange(1, UPDATES + 1, EACH)
    colours = dict(zip(results, ("#888888", "#1f77b4", "#d95f02"), strict=True))
    space, values, parameters = axes
    told = results["replicated"]
    space.plot(*told["online"][::EACH].T, color="#1f77b4", label="online network")
    space.plot(*told["target"][::EACH].T, color="#d95f02", label="target network")
    space.plot(*TRUE, "k*", markersize=12, label="true values")
    space.set(xlabel="value of state 1", ylabel="value of state 2", title="Replicated: values meet")
    for name, one in results.items():
        apart = np.linalg.norm(one["online"] - one["target"], axis=1) + np.linalg.norm(one["online"] - TRUE, axis=1)
        values.semilogy(steps, np.maximum(apart, 1e-6)[::EACH], color=colours[name], label=name)
        if (distance := parameters_apart(one)) is not None:
            parameters.plot(steps, distance[::EACH], color=colours[name], label=name)
    values.set(xlabel="updates", title="Distance of values, to each other and to the truth")
    parameters.set(xlabel="updates", title="Distance of parameters", ylim=(0, None))
    for one in axes:
        one.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def parameters_apart(one: dict[str, np.ndarray]) -> np.ndarray | None:
    """The distance [UPDATES] of the two networks' parameters; None if they have different numbers of them."""
    if one["parameters"].shape != one["target_parameters"].shape:
        return None
    return np.linalg.norm(one["parameters"] - one["target_parameters"], axis=1)


if __name__ == "__main__":
    found = run()
    for name, one in found.items():
        distance = parameters_apart(one)
        print(
            f"{name}: values {one['online'][-1].round(3)} and {one['target'][-1].round(3)}, true {TRUE.round(3)}; "
            f"distance of parameters {'not defined' if distance is None else f'{distance[-1]:.3f}'}"
        )
    if len(sys.argv) > 1:
        draw(found, sys.argv[1])
