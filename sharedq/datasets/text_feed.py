"""Batches of whole episodes of text, of a store whose observations are the text so far.

The last observation of an episode is its whole text, so that one row of the store is one sample. Which episodes are in
a batch depends on the seed and on the number of the update only.

Shape letters: B episodes, T tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.datasets.episode import End
from sharedq.datasets.feed import Ranges, Rewards, drawn, learned_ends
from sharedq.datasets.store import Store
from sharedq.environments.spec import Tokens
from sharedq.errors import SharedqError
from sharedq.transitions import Batch, Transition


class Texts(NamedTuple):
    """What the host reads for a batch. Leaves may have more axes in front."""

    tokens: np.ndarray  # [B, T]
    reward: np.ndarray  # [B, T] of each action, where the token lies that closes it
    terminated: np.ndarray  # [B]


class TextFeed:
    """The batches of a store of text; see `Feed` in replay/feed.py."""

    def __init__(self, store: Store, part: Ranges, batch_size: int, gamma: float, unknown: End, rewards: Rewards):
        self._store, self._rewards, self.batch_size, self._gamma = store, rewards, batch_size, gamma
        self.ends = learned_ends(store, unknown)
        first = store.episodes["first"]
        whole = first + store.episodes["length"] <= part.stops(first)
        self._episodes = np.flatnonzero(whole)  # those that lie in the part whole
        if not len(self._episodes):
            raise SharedqError(f"the chosen part of {store.path} holds no whole episode: raise replay.fraction")

    def batches(self, seeds: Sequence[int], first: int, count: int) -> Texts:
        """The batches of updates `first` .. `first + count - 1`, [S, count, B, ...]."""
        places = np.stack([drawn(seed, first, count, self.batch_size, len(self._episodes)) for seed in seeds])
        found = self._read(self._episodes[places.ravel()])
        self._store.release()
        return jax.tree.map(lambda x: x.reshape(*places.shape, *x.shape[1:]), found)

    def _read(self, episodes: np.ndarray) -> Texts:
        records, form = self._store.episodes[episodes], self._store.description.spec.actions
        assert isinstance(form, Tokens)
        tokens = np.array(self._store.observations[records["first"] + episodes + records["length"]])
        unknown = np.flatnonzero((tokens >= form.vocabulary).any(axis=1))
        if unknown.size:
            number = int(episodes[unknown[0]])
            raise SharedqError(
                f"{self._store.path}, episode {number}: its text has token {tokens[unknown[0]].max()}, and the largest "
                f"is {form.vocabulary - 1}: make the data set again"
            )
        text, place = np.nonzero(tokens == form.closes)
        actions = np.bincount(text, minlength=len(episodes))
        wrong = np.flatnonzero(actions != records["length"])
        if wrong.size:
            number = int(episodes[wrong[0]])
            raise SharedqError(
                f"{self._store.path}, episode {number}: its text closes {actions[wrong[0]]} actions and it has "
                f"{records['length'][wrong[0]]} steps: make the data set again"
            )
        turn = np.arange(len(text)) - np.repeat(np.cumsum(actions) - actions, actions)
        reward = np.zeros(tokens.shape, np.float32)
        reward[text, place] = self._rewards.of(self._store.rewards[records["first"][text] + turn])
        return Texts(tokens, reward, self.ends[episodes] == End.TERMINATED)

    def decode(self, raw: Any, reward_bound: float | None = None) -> Batch:
        """The batch, in compiled code."""
        size = raw.terminated.shape[0]
        reward = raw.reward if reward_bound is None else jnp.clip(raw.reward, -reward_bound, reward_bound)
        discount = jnp.where(raw.terminated, 0.0, self._gamma)
        return Batch(Transition(raw.tokens, (), reward, discount, ()), jnp.ones(size), jnp.zeros(size, jnp.int32))
