"""Surprise: transitions count more, or less, if the network's features of their state are unusual (DISRC).

    surprise s  =  | z / |z| - c / |c| | / 2  in 0 .. 1,     z = the features, c = a moving average of features

Transitions are drawn uniformly. What surprise does is one of three things, because the paper and the code of DISRC
(Kini et al., 2026, https://arxiv.org/abs/2601.17598) differ, and descriptions of it differ from both:

* `plastic`: the loss has the weight 1 + strength * k * s, as the abstract says: more is learned where all is new;
* `conservative`: the loss has the weight 1 - tanh(s), as a description says: less is learned there;
* `shaping`: the reward r becomes clip(r / (mean |r|) - 0.04 k * strength * 2 s, -1, 1), as the authors' code has it,
  which changes no weight and punishes surprise. Their strength is 0.2 or 0.4.

k = 1 - (step / anneal_steps)^1.2 falls from 1 to 0. Ours are: s is computed for the states that are replayed, with the
features of now of the last hidden layer, and c moves with each batch, where the authors' agent does both at each step
of the environment; and `plastic`, for which the paper gives no equation.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.samplers import uniform
from sharedq.samplers.sampler import Index, Sampler, SamplerSpec
from sharedq.settings import check_count, require
from sharedq.transitions import Batch

PENALTY = 0.04  # the authors' weight of surprise in the reward, before the strength
REWARDS = 0.01  # the authors' weight of the newest rewards in their mean
LEAST = 1e-8  # ours: the least mean of rewards that they are divided by; where all are zero, it falls to zero
FALL = 1.2  # the authors' exponent of the fall of k

Effect = Literal["plastic", "conservative", "shaping"]


class State(NamedTuple):
    setpoint: jax.Array  # [D] c
    reward: jax.Array  # the moving average of |r|


@dataclass(frozen=True)
class Surprise:
    """Uniform draws, with a weight in the loss for how unusual the features of a state are."""

    needs_features: ClassVar = True

    effect: Effect = "plastic"  # what surprise does to learning, in three versions
    strength: float = 1.0  # of the effect, which falls during the run; conservative has none and stays
    pace: float = 0.03  # weight of the newest batch in the moving average of features
    anneal_steps: int | None = None  # environment steps over which the effect falls to zero; none: all steps

    def __post_init__(self):
        require(self.strength >= 0, f"sampler.strength cannot be negative, and is {self.strength}")
        require(0 < self.pace <= 1, f"sampler.pace must be above 0 and at most 1, not {self.pace}")
        check_count("sampler.anneal_steps", 1 if self.anneal_steps is None else self.anneal_steps)

    def build(self, spec: SamplerSpec) -> Sampler:
        features = spec.features
        assert features is not None

        def init() -> State:
            return State(jnp.zeros(spec.feature_count), jnp.float32(1))

        def draw(state: State, written: Any, count: Any, key: jax.Array) -> tuple[Index, jax.Array, dict]:
            return uniform.draw(spec, written, key), jnp.ones(spec.batch_size), {}

        def weigh(state: State, written: Any, agent: Any, batch: Batch) -> tuple[State, Batch, dict]:
            z = jax.lax.stop_gradient(features(agent, batch))
            s = surprise(z, state.setpoint)
            k = 1 - jnp.minimum(written * spec.environments / (self.anneal_steps or spec.steps), 1.0) ** FALL
            reward = batch.transition.reward
            setpoint = state.setpoint + self.pace * (z.mean(axis=0) - state.setpoint)
            usual = state.reward + REWARDS * (jnp.abs(reward).mean() - state.reward)
            weight = jnp.ones_like(s)
            if self.effect == "plastic":
                weight = 1 + self.strength * k * s
            elif self.effect == "conservative":
                weight = 1 - jnp.tanh(s)
            else:
                shaped = jnp.clip(reward / jnp.maximum(usual, LEAST) - PENALTY * k * self.strength * 2 * s, -1, 1)
                batch = batch._replace(transition=batch.transition._replace(reward=shaped))
            batch = batch._replace(weights=batch.weights * weight)
            return State(setpoint, usual), batch, {"surprise": s.mean(), "weight": weight.mean()}

        def same(state: State, *_: Any) -> State:
            return state

        return Sampler(init, same, draw, same, weigh, metrics=("surprise", "weight"))


def surprise(features: jax.Array, setpoint: jax.Array) -> jax.Array:
    """Half the distance [B] between the directions of features [B, D] and of the setpoint [D]."""

    def direction(x: jax.Array) -> jax.Array:
        size = jnp.linalg.norm(x, axis=-1, keepdims=True)
        return x / jnp.where(size > 0, size, 1)

    return jnp.linalg.norm(direction(features) - direction(setpoint), axis=-1) / 2
