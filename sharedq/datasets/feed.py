"""Batches of a store. Which transitions are in a batch depends on the seed and on the number of the update only."""

import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.bellman import returns
from sharedq.datasets.episode import End
from sharedq.datasets.store import Store, decode
from sharedq.replay import ring_storage
from sharedq.transitions import Batch, Transition

WINDOW = 2**16  # bytes of a file that the system brings into memory together, if it keeps them
WINDOWS = 64  # those that are in memory at once; ours
PIECE = 256  # first observations that are in memory at once; ours

FractionOf = Literal["first", "episodes"]


class Raw(NamedTuple):
    """What the host reads for a batch [B]; n is the number of steps of a return. Leaves may have more axes in front."""

    obs: Any  # [B, ...] as stored; of stacks the frames [B, D, ...], with one more if `next_obs` is nothing
    next_obs: Any  # the same for the observations that follow; nothing if they overlap with `obs`
    action: np.ndarray  # [B, ...]
    reward: np.ndarray  # [B, n], zeros behind the end of an episode
    terminated: np.ndarray  # [B, n]
    truncated: np.ndarray  # [B, n] also true where the used part of the data ends


class Rewards(NamedTuple):
    """How rewards are changed before anything is learned from them."""

    shift: float
    scale: float

    def of(self, stored: np.ndarray) -> np.ndarray:
        return ((stored + np.float32(self.shift)) * np.float32(self.scale)).astype(np.float32)


AS_STORED = Rewards(0.0, 1.0)


class Ranges(NamedTuple):
    """Runs of consecutive steps, which batches are drawn from."""

    first: np.ndarray  # the first step of each
    length: np.ndarray

    @property
    def steps(self) -> int:
        return int(self.length.sum())

    def stops(self, steps: np.ndarray) -> np.ndarray:
        """The first step behind the run that each of these steps lies in, or behind the run before it."""
        inside = np.searchsorted(self.first, steps, side="right") - 1
        return self.first[inside] + self.length[inside]


def chosen_part(store: Store, fraction: float, fraction_of: FractionOf) -> Ranges:
    """The part of a data set that is learned from: the first steps of each group, or whole episodes drawn at random."""
    episodes = store.episodes
    if fraction == 1:
        return Ranges(np.array([0]), np.array([store.manifest.steps]))
    if fraction_of == "episodes":
        order = np.random.default_rng(0).permutation(len(episodes))  # the same for all seeds of a run
        wanted = fraction * store.manifest.steps
        count = int(np.searchsorted(np.cumsum(episodes["length"][order]), wanted)) + 1
        taken = np.sort(order[:count])
        return Ranges(episodes["first"][taken], episodes["length"][taken])
    begins = np.flatnonzero(np.diff(episodes["group"])) + 1  # the first episode of each group but the first
    first = np.concatenate([[0], episodes["first"][begins]])
    length = np.diff(first, append=store.manifest.steps)
    return Ranges(first, np.maximum(np.rint(fraction * length), 1).astype(np.int64))


def learned_ends(store: Store, unknown: End) -> np.ndarray:
    """How each episode ends, where those whose end is not known count as `unknown`."""
    ends = store.episodes["end"]
    return np.where(ends == End.UNKNOWN, int(unknown), ends)


def drawn(seed: int, first: int, count: int, batch_size: int, total: int) -> np.ndarray:
    """Numbers [count, B] of 0 .. total-1. Each update from `first` on has its own place in one stream of numbers."""
    width = -(-batch_size // 4) * 4  # the generator makes four numbers at a time
    stream = np.random.Philox(key=seed, counter=first * (width // 4))
    numbers = stream.random_raw(count * width).reshape(count, width)[:, :batch_size]
    return (((numbers >> np.uint64(32)) * np.uint64(total)) >> np.uint64(32)).astype(np.int64)


class StoreFeed:
    """The batches of a store; see `Feed` in replay/feed.py."""

    def __init__(
        self,
        store: Store,
        part: Ranges,
        batch_size: int,
        n_step: int,
        gamma: float,
        unknown: End,
        rewards: Rewards = AS_STORED,
    ):
        self._store, self._part, self._rewards = store, part, rewards
        self.batch_size, self._n_step, self._gamma = batch_size, n_step, gamma
        self.ends = learned_ends(store, unknown)
        self._begins = np.cumsum(part.length) - part.length  # of each range, among the steps that can be drawn

    def batches(self, seeds: Sequence[int], first: int, count: int) -> Raw:
        """The batches of updates `first` .. `first + count - 1`, [S, count, B, ...]."""
        steps = np.stack([self._drawn(seed, first, count) for seed in seeds])
        order = np.argsort(steps, axis=None)
        ordered = steps.ravel()[order]
        whole = jax.tree.map(lambda x: np.empty((steps.size, *x.shape[1:]), x.dtype), self._read(ordered[:1]))
        for begin, end in self._pieces(ordered):
            part = self._read(ordered[begin:end])
            jax.tree.map(lambda to, x: operator.setitem(to, order[begin:end], x), whole, part)  # noqa: B023
            self._store.release()
        return jax.tree.map(lambda x: x.reshape(*steps.shape, *x.shape[1:]), whole)

    def _pieces(self, ordered: np.ndarray) -> Iterator[tuple[int, int]]:
        """Runs of the steps, in their order in the files, that bring few pages into memory, however large the files."""
        window = ordered * self._store.observations.strides[0] // WINDOW
        piece = np.cumsum(np.diff(window, prepend=window[0]) != 0) // WINDOWS
        begins = np.nonzero(np.diff(piece, prepend=-1))[0].tolist()
        return itertools.pairwise([*begins, len(ordered)])

    def _drawn(self, seed: int, first: int, count: int) -> np.ndarray:
        """The first steps [count, B] of the transitions."""
        places = drawn(seed, first, count, self.batch_size, self._part.steps)
        inside = np.searchsorted(self._begins, places, side="right") - 1
        return self._part.first[inside] + places - self._begins[inside]

    def _read(self, steps: np.ndarray) -> Raw:
        episodes = self._store.episodes
        number = np.searchsorted(episodes["first"], steps, side="right") - 1  # of the episode
        stop = episodes["first"][number] + episodes["length"][number]  # behind its last step
        limit = np.minimum(stop, self._part.stops(steps))
        last = np.minimum(steps + self._n_step, limit) - 1
        window = steps[..., None] + np.arange(self._n_step)
        inside = window <= last[..., None]
        at = np.where(inside, window, last[..., None])
        over = (at == last[..., None]) & (last == limit - 1)[..., None]
        died = over & ((last == stop - 1) & (self.ends[number] == End.TERMINATED))[..., None]
        reward = np.where(inside, self._rewards.of(self._store.rewards[at]), np.float32(0))
        obs, next_obs = self._observations(steps + number, last + number, episodes["first"][number] + number)
        return Raw(obs, next_obs, self._store.actions[steps], reward, died, over & ~died)

    def _observations(self, first: np.ndarray, last: np.ndarray, begin: np.ndarray) -> tuple[np.ndarray, Any]:
        """The rows of the first observation and of the one after the last step; `begin` is the episode's first row."""
        rows, depth = self._store.observations, self._store.description.stack
        if depth is None:
            return rows[first], rows[last + 1]
        if self._n_step == 1:
            return self._frames(first, begin, depth, 1), ()
        return self._frames(first, begin, depth, 0), self._frames(last + 1, begin, depth, 0)

    def _frames(self, newest: np.ndarray, begin: np.ndarray, depth: int, more: int) -> np.ndarray:
        """The frames of the stack whose newest is given, and `more` frames after it; black before the episode."""
        rows = newest[..., None] + np.arange(1 - depth, 1 + more)
        before = rows < begin[..., None]
        frames = self._store.observations[np.maximum(rows, begin[..., None])]
        frames[before] = 0
        return frames

    def discounted_returns(self, reward_bound: float | None = None) -> np.ndarray:
        """The discounted sum of the rewards of each episode [E]. Only one episode is in memory at a time."""
        found = np.zeros(len(self._store.episodes))
        for number, (first, length, _, _) in enumerate(self._store.episodes.tolist()):
            reward = self._rewards.of(self._store.rewards[first : first + length])
            reward = reward if reward_bound is None else reward.clip(-reward_bound, reward_bound)
            found[number] = reward @ self._gamma ** np.arange(length)
        return found

    def decode(self, raw: Raw, reward_bound: float | None = None) -> Batch:
        """The batch, in compiled code. Rewards of several steps are summed by the same rule as in a replay."""
        shape, dtype = self._store.description.stored
        depth = self._store.description.stack
        if depth is None:
            one = jax.ShapeDtypeStruct(shape, dtype)
            obs, next_obs = (ring_storage.decode(x, one) for x in (raw.obs, raw.next_obs))
        elif self._n_step == 1:
            obs, next_obs = (jnp.moveaxis(x, 1, -1) for x in (raw.obs[:, :depth], raw.obs[:, 1:]))
        else:
            obs, next_obs = (jnp.moveaxis(x, 1, -1) for x in (raw.obs, raw.next_obs))
        each = raw.reward if reward_bound is None else jnp.clip(raw.reward, -reward_bound, reward_bound)
        reward, discount, _ = returns.n_step(each, raw.terminated, raw.truncated, self._gamma)
        size = reward.shape[0]
        transition = Transition(obs, raw.action, reward, discount, next_obs)
        return Batch(transition, jnp.ones(size), jnp.zeros(size, jnp.int32))


def begins_of(store: Store) -> Iterator[np.ndarray]:
    """The first observation of each episode, as an agent sees it, in pieces [E, ...] of some episodes."""
    rows = store.first_rows
    shape, dtype = store.description.stored
    depth = store.description.stack
    for first in np.array_split(rows, -(-len(rows) // PIECE)):
        obs = decode(store.observations[first], shape, dtype)
        store.release()
        if depth is not None:  # black frames lie before it
            obs = np.concatenate([np.zeros((*obs.shape, depth - 1), dtype), obs[..., None]], axis=-1)
        yield obs
