"""The storage of whole steps. It puts n-step returns together when it reads them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sharedq.bellman import returns
from sharedq.replay import ring_storage
from sharedq.replay.replay import Storage
from sharedq.samplers.sampler import Index, SamplerSpec
from sharedq.settings import N_STEP, check_count, require
from sharedq.transitions import Step, Transition


@dataclass(frozen=True)
class Transitions:
    """A ring buffer of the last `capacity` steps, each with its observation and the next one."""

    learns_from: ClassVar = "replay"

    capacity: int = 100_000  # environment steps kept per seed, summed over its environments
    batch_size: int = 32  # transitions per update
    n_step: int = 1  # number of rewards before the bootstrap (n-step returns)

    def __post_init__(self):
        require(self.capacity >= 1, f"replay.capacity must be at least 1, not {self.capacity}")
        check_count("replay.batch_size", self.batch_size)
        check_count("replay.n_step", self.n_step, most=N_STEP)
        require(
            self.batch_size <= self.capacity,
            f"replay.batch_size {self.batch_size} is larger than replay.capacity {self.capacity}: lower it",
        )
        require(
            self.n_step <= self.capacity,
            f"replay.n_step {self.n_step} is longer than replay.capacity {self.capacity}: lower it",
        )

    @property
    def room(self) -> int:
        """How many steps the replay can keep."""
        return self.capacity

    def check(self, experiment: Any, spec: Any) -> None:
        """Refuses a training loop that could not learn from this replay."""
        training = experiment.training
        environments = training.environments
        rows = self.rows(environments)
        require(
            rows >= self.n_step,
            f"replay.capacity {self.capacity} leaves {rows} steps for each of {environments} environments, fewer than "
            "replay.n_step: raise the capacity",
        )
        require(
            training.warm_up >= self.n_step * environments,
            f"training.warm_up must be at least {self.n_step * environments} steps, so that there is something to "
            "learn from at the first update",
        )

    def rows(self, environments: int) -> int:
        """Steps kept per environment."""
        return self.capacity // environments

    def for_samplers(self, environments: int) -> SamplerSpec:
        """What a sampler has to know of this storage."""
        return SamplerSpec(self.rows(environments), environments, self.n_step, self.batch_size)

    def build(self, step: Step, gamma: float, environments: int) -> Storage:
        """The storage of steps shaped like `step` (arrays or shapes, of one environment)."""
        rows = self.rows(environments)

        def init():
            return {"ring": ring_storage.init(step, rows * environments)}

        def add(data, written, steps: Step):
            return {"ring": ring_storage.write(data["ring"], (written % rows) * environments, steps)}

        def read(data, index: Index) -> tuple[Transition, jax.Array]:
            first, environment = index

            def place(when):
                return (when % rows) * environments + environment

            ring = data["ring"]
            if self.n_step == 1:
                drawn = ring_storage.read(ring, place(first), step)
                discount = returns.discount(drawn.terminated, gamma)
                transition = Transition(drawn.obs, drawn.action, drawn.reward, discount, drawn.next_obs)
            else:
                window = jax.vmap(place, out_axes=1)(first + jnp.arange(self.n_step)[:, None])  # [B, n]
                reward, discount, last = returns.n_step(
                    ring.reward[window], ring.terminated[window], ring.truncated[window], gamma
                )
                obs, action = ring_storage.read((ring.obs, ring.action), place(first), (step.obs, step.action))
                next_obs = ring_storage.read(ring.next_obs, place(first + last), step.next_obs)
                transition = Transition(obs, action, reward, discount, next_obs)
            return transition, jnp.ones(first.shape, bool)

        return Storage(self.for_samplers(environments), init, add, read)
