"""The storage of stacks of frames. It stores each frame once and rebuilds the stacks when it reads them.

An observation of depth D holds the D newest frames of its episode, [..., D], oldest first. Frames from before the
episode are zeros. The replay keeps only the newest frame of each step; the other frames are in the steps before it. It
finds the start of a stack by the zeros and not by the end of an episode, because after a lost life the stack continues.
The ring has D more rows than it samples from: D-1 hold the frames before the oldest step, and one holds the frame after
the newest step.

The frame after a step is the newest frame of the next step, except at the end of an episode:
- after a termination, the last frame is repeated; its value is never used;
- after a truncation, the value of the final observation is needed. The final frame is kept in a small ring of its own.
  If a later episode has overwritten it there, the transition is not whole.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.bellman.returns import n_step
from sharedq.replay import ring_storage
from sharedq.replay.replay import Storage
from sharedq.replay.transitions import Transitions
from sharedq.samplers.sampler import Index
from sharedq.settings import check_count, require
from sharedq.transitions import Step, Transition


class Row(NamedTuple):
    """What the ring keeps of a step."""

    frame: jax.Array  # the newest frame of its observation
    begins: jax.Array  # whether all its older frames are zeros
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    truncated_before: jax.Array  # count of truncated steps before it; places its final frame


class Data(NamedTuple):
    ring: Row  # ordered by time, then by environment
    final_frames: jax.Array  # the final frames of the last truncated steps
    truncated_so_far: jax.Array  # how many steps were truncated


@dataclass(frozen=True)
class FrameStacks(Transitions):
    """A ring buffer for stacks of frames, uint8 [..., time]; it stores each frame once.

    Colour images and stacks that begin differently can have the same shape, so the environment must declare its stacks.
    """

    capacity: int = 1_000_000  # environment steps kept per seed, summed over its environments
    truncations: int = 64  # final frames kept of the last truncated episodes, per seed

    def __post_init__(self):
        super().__post_init__()
        check_count("replay.truncations", self.truncations)

    def check(self, experiment: Any, spec: Any) -> None:
        """Refuses an environment that does not declare that its observations are such stacks."""
        super().check(experiment, spec)
        require(
            spec.stacks == "black",
            f"replay 'frame_stacks' is for stacks of frames, the newest last, black before an episode's first, and "
            f"{spec.name} does not say that it shows such: use --replay transitions, or where they are such (Atari) "
            '--environment.stack_begins black, (gymnasium) --environment.frame_stacks true, (custom) stacks="black"',
        )

    def build(self, step: Step, gamma: float, environments: int) -> Storage:
        """The storage of steps shaped like `step` (arrays or shapes, of one environment)."""
        frame, depth = _frame_and_depth(step.obs)
        flag = jax.ShapeDtypeStruct((), jnp.bool_)
        rows = self.rows(environments) + depth

        def init():
            row = Row(frame, flag, *step[1:5], jnp.int32(0))
            ring = ring_storage.init(row, rows * environments)
            return Data(ring, ring_storage.init(frame, self.truncations), jnp.int32(0))

        def add(data, written, steps: Step):
            numbers = data.truncated_so_far + jnp.cumsum(steps.truncated) - steps.truncated
            so_far = data.truncated_so_far + steps.truncated.sum()
            keep = steps.truncated & (so_far - numbers <= self.truncations)  # more may end at once than fit
            slots = jnp.where(keep, numbers % self.truncations, self.truncations)  # beyond the end nothing is written
            final = steps.next_obs[..., -1]
            begins = ~steps.obs[..., :-1].any(axis=tuple(range(1, steps.obs.ndim)))
            row = Row(steps.obs[..., -1], begins, *steps[1:5], numbers)
            ring = ring_storage.write(data.ring, (written % rows) * environments, row)
            # The newest step's successor, until the next step is written there: the same frame if no episode ended.
            frames = ring_storage.write(ring.frame, ((written + 1) % rows) * environments, final)
            final_frames = data.final_frames.at[slots].set(final, mode="drop")
            return Data(ring._replace(frame=frames), final_frames, so_far)

        def read(data, index: Index) -> tuple[Transition, jax.Array]:
            ring = data.ring
            first, environment = index

            def place(when):
                return (when % rows) * environments + environment

            def places(start, length):  # places of consecutive steps, [B, length]
                return jax.vmap(place, out_axes=1)(start + jnp.arange(length)[:, None])

            def stack(when):
                """The observations of the steps. Rows from before the first step of the run are still zero."""
                seen = places(when - depth + 1, depth)
                begins = ring.begins[seen[:, 1:]]
                begun = jnp.cumsum(begins[:, ::-1], axis=1)[:, ::-1] == 0  # no stack begins after this frame
                begun = jnp.pad(begun, ((0, 0), (0, 1)), constant_values=True)
                frames = jnp.where(jnp.expand_dims(begun, range(2, 2 + frame.ndim)), ring.frame[seen], 0)
                return jnp.moveaxis(frames, 1, -1)

            window = places(first, self.n_step)
            reward, discount, used = n_step(ring.reward[window], ring.terminated[window], ring.truncated[window], gamma)
            last = first + used
            end = place(last)
            obs = stack(first)
            last_obs = obs if self.n_step == 1 else stack(last)

            truncated, number = ring.truncated[end], ring.truncated_before[end]
            following = ring.frame[place(jnp.where(ring.terminated[end], last, last + 1))]
            final = data.final_frames[number % self.truncations]
            newest = jnp.where(jnp.expand_dims(truncated, range(1, 1 + frame.ndim)), final, following)
            next_obs = jnp.concatenate([last_obs[..., 1:], newest[..., None]], axis=-1)
            lost = truncated & (data.truncated_so_far - number > self.truncations)

            action = ring_storage.read(ring.action, place(first), step.action)
            return Transition(obs, action, reward, discount, next_obs), ~lost

        return Storage(self.for_samplers(environments), init, add, read)


def _frame_and_depth(obs: Any) -> tuple[jax.ShapeDtypeStruct, int]:
    """The shape of one frame of a stack, and the number of frames in a stack."""
    known = hasattr(obs, "shape") and obs.dtype == jnp.uint8 and len(obs.shape) >= 2 and obs.shape[-1] >= 1
    kind = f"{obs.dtype}{list(obs.shape)}" if hasattr(obs, "shape") else type(obs).__name__
    told = f"replay 'frame_stacks' needs uint8 stacks of frames [..., time], not {kind}"
    require(known, f"{told}: use --replay transitions")
    return jax.ShapeDtypeStruct(obs.shape[:-1], obs.dtype), obs.shape[-1]
