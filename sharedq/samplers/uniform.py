"""The uniform sampler: every stored transition is as likely as any other."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sharedq.samplers.sampler import Index, Sampler, SamplerSpec


@dataclass(frozen=True)
class Uniform:
    """Every stored transition is as likely as any other, and counts as much."""

    def build(self, spec: SamplerSpec) -> Sampler:
        def draw_all(state: Any, written: Any, count: Any, key: jax.Array) -> tuple[Index, jax.Array, dict]:
            return draw(spec, written, key), jnp.ones(spec.batch_size), {}

        return Sampler(lambda: (), lambda state, *_: state, draw_all, lambda state, *_: state)


def draw(spec: SamplerSpec, written: jax.Array, key: jax.Array) -> Index:
    """A batch of stored transitions, drawn uniformly and independently."""
    age_key, environment_key = jax.random.split(key)
    age = jax.random.randint(age_key, (spec.batch_size,), 0, spec.count(written))
    environment = jax.random.randint(environment_key, (spec.batch_size,), 0, spec.environments)
    return Index(spec.first(written) + age, environment)
