"""QRC(lambda): Q(lambda) from a stream, with a gradient correction in place of a target network (Elelimy et al., 2025).

A second network h predicts the TD error of Q. With its help a step also takes into account how the bootstrap changes,
as the gradient of the projected Bellman error does. With the weights w of Q, and theta of h:

    delta   = r + discount * max_a' Q(s', a') - Q(s, a)
    z_q     <- gamma lambda z_q + grad Q(s, a)
    z_theta <- gamma lambda z_theta + grad h(s, a)
    z_h     <- gamma lambda z_h + h(s, a)                               a number
    w       <- w + a (delta z_q - h(s, a) grad Q(s, a) - z_h grad delta)
    theta   <- theta + a_h (delta z_theta - h(s, a) grad h(s, a) - beta theta)

If h is 0, this is Q(lambda) by plain gradient steps. With lambda 0, w moves by a (delta grad Q(s, a) - discount h(s, a)
grad max_a' Q(s', a')). Traces are cut after the update if an episode ends, and if the action was not greedy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.algorithms.algorithm import Algorithm
from sharedq.algorithms.parts import discrete_actions, source_on
from sharedq.algorithms.stream_inputs import Inputs, Normalise, absorb, as_seen, none_yet
from sharedq.bellman import backups
from sharedq.bellman.returns import discount
from sharedq.environments.spec import EnvironmentSpec
from sharedq.exploration import epsilon_greedy, greedy, linear_schedule, still_exploring
from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.optimizers import gradient_step
from sharedq.settings import check_count, check_shares, require
from sharedq.targets.online_network import OnlineNetwork
from sharedq.targets.source import TargetSource, evaluate
from sharedq.transitions import Batch, Step


class Traces(NamedTuple):
    q: Any  # z_q, shaped like the parameters of Q
    theta: Any  # z_theta, shaped like those of h
    h: jax.Array  # z_h, a number


class State(NamedTuple):
    """Everything that learning changes."""

    params: dict[str, Any]  # q and h: the parameters of the two networks
    source: Any  # the source's state, which never changes
    traces: Traces
    trace_mask: jax.Array  # 1 if the past of the traces still counts, 0 if it was cut
    inputs: Inputs  # running statistics of observations and rewards


@dataclass(frozen=True)
class StreamQRC:
    """QRC(lambda): Q(lambda) from a stream, corrected by a second network that predicts the TD error."""

    gamma: float = 0.99  # discount of future rewards, per step
    trace_decay: float = 0.8  # lambda, the decay of the eligibility traces
    learning_rate: float = 1e-4  # learning rate of Q, in plain gradient steps
    h_rate: float = 0.1  # learning rate of the network h, as a share of that of Q; 0 keeps h as it begins
    beta: float = 1.0  # how much the weights of h are drawn to 0; much of it makes h 0, which is Q(lambda)
    normalise: Normalise = "each"  # each: by each element's statistics; newest: by the newest frame's; none: off
    scale_rewards: bool = True  # divide rewards by the running deviation of the discounted return
    epsilon_start: float = 1.0  # share of random actions (epsilon) at the first environment step
    epsilon_end: float = 0.01  # share of random actions after epsilon_steps
    epsilon_steps: int = 10_000  # environment steps over which epsilon falls, in a straight line
    evaluation_epsilon: float = 0.0  # share of random actions in evaluation

    def __post_init__(self):
        check_shares("algorithm", self, "gamma", "trace_decay", "epsilon_start", "epsilon_end", "evaluation_epsilon")
        require(self.learning_rate > 0, f"algorithm.learning_rate must be above 0, not {self.learning_rate}")
        for name in ("h_rate", "beta"):
            require(getattr(self, name) >= 0, f"algorithm.{name} cannot be negative: {getattr(self, name)}")
        check_count("algorithm.epsilon_steps", self.epsilon_steps, least=0)

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        return still_exploring(experiment.training, self.epsilon_steps, self.epsilon_end)

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        actions = discrete_actions(spec, "QRC(lambda)")
        require(
            isinstance(target, OnlineNetwork),
            "QRC(lambda) bootstraps on the weights that learn, as only the online network does: add --target "
            "online_network, or --algorithm stream_q for another source",
        )
        batches = network.build(actions).normalises_batch
        require(not batches, "QRC(lambda) has no batch to normalise: set --network.norm layer_whole")
        return self.on(source_on(spec, target, network, actions))

    def on(self, source: TargetSource) -> Algorithm:
        """The algorithm on an `OnlineNetwork` that is already built on a network. The network h has the same form."""
        assert source.network is not None
        network: Network = source.network
        q_optimiser, h_optimiser = optax.scale(self.learning_rate), optax.scale(self.h_rate * self.learning_rate)

        def init(key: jax.Array, example: Batch) -> State:
            source_key, h_key = jax.random.split(key)
            inputs = none_yet(example.transition.obs[:1], self.normalise)
            obs = as_seen(inputs, example.transition.obs[:1], self.normalise)
            q, source_state = source.init(source_key, obs)
            trunk, heads, _ = networks.init(network, h_key, obs, 1)
            params = {"q": q, "h": {"trunk": trunk, "heads": heads}}
            zeros = jax.tree.map(jnp.zeros_like, params)
            traces = Traces(zeros["q"], zeros["h"], jnp.float32(0))
            return State(params, source_state, traces, jnp.float32(0), inputs)

        def outputs(weights: Any, obs: Any) -> jax.Array:
            """The outputs [A] of either network for one observation, with their gradient."""
            return evaluate(network, weights, {}, obs)[0, 0]

        def values(state: State, key: jax.Array | None, obs: Any) -> jax.Array:
            obs = as_seen(state.inputs, obs, self.normalise)
            return source.act_values(state.params["q"], state.source, key, obs)

        def act(state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
            epsilon: Any = self.evaluation_epsilon
            if step is not None:
                epsilon = linear_schedule(self.epsilon_start, self.epsilon_end, self.epsilon_steps, step)
            return epsilon_greedy(key, lambda: values(state, None, obs), epsilon)

        def decide(state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
            return greedy(values(state, None, obs))

        def observe(state: State, key: jax.Array, step: Step, obs: Any, count: jax.Array) -> tuple[State, dict]:
            require(len(step.reward) == 1, "QRC(lambda) learns from one stream: set --training.environments 1")
            inputs, pair = absorb(state.inputs, step, obs, self.gamma, self.normalise, self.scale_rewards)
            action, ended = step.action[0], (step.terminated | step.truncated)[0]
            shrink = discount(step.terminated[0], self.gamma)

            def q_and_best(weights: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
                now, then = outputs(weights, pair.now), outputs(weights, pair.then)
                return (now[action], backups.maximum(then, then)), now

            def of_h(weights: Any) -> jax.Array:
                return outputs(weights, pair.now)[action]

            (q, best), pull, followed = jax.vjp(q_and_best, state.params["q"], has_aux=True)
            (q_slope,), (best_slope,) = pull((1.0, 0.0)), pull((0.0, 1.0))
            h, h_slope = jax.value_and_grad(of_h)(state.params["h"])
            delta = backups.bellman(pair.reward, shrink, best) - q

            decay = self.gamma * self.trace_decay * state.trace_mask
            z = jax.tree.map(lambda z, new: decay * z + new, state.traces, Traces(q_slope, h_slope, h))
            # -h grad Q - z_h grad delta, in which grad delta = discount grad max Q - grad Q.
            by_z, by_now, by_then, by_h = jax.lax.optimization_barrier((delta, z.h - h, -z.h * shrink, h))

            def towards(z: jax.Array, now: jax.Array, then: jax.Array) -> jax.Array:
                return by_z * z + by_now * now + by_then * then

            def h_towards(z: jax.Array, now: jax.Array, weight: jax.Array) -> jax.Array:
                return by_z * z - by_h * now - self.beta * weight

            of_q = jax.tree.map(towards, z.q, q_slope, best_slope)
            of_theta = jax.tree.map(h_towards, z.theta, h_slope, state.params["h"])
            moved = {
                "q": gradient_step(q_optimiser, of_q, optax.EmptyState(), state.params["q"])[0],
                "h": gradient_step(h_optimiser, of_theta, optax.EmptyState(), state.params["h"])[0],
            }
            trace_mask = (~ended & (followed[action] == followed.max())).astype(jnp.float32)
            metrics = {
                "loss": jnp.square(delta),
                "td_error": jnp.abs(delta),
                "q_value": q,
                "h_value": h,
                "cut": 1 - trace_mask,
            }
            return State(moved, state.source, z, trace_mask, inputs), metrics

        return Algorithm(init, act, values, decide, observe, source=source, source_part="q", on=self.on)
