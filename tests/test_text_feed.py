"""Batches of whole texts: every reward beside its token, every end, and which episodes are drawn."""

import jax
import numpy as np
import pytest

from sharedq.datasets.data_set import DataSet
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.feed import AS_STORED, Rewards, chosen_part
from sharedq.datasets.manifest import Description
from sharedq.datasets.store import Store
from sharedq.datasets.text_feed import TextFeed
from sharedq.datasets.writing import StoreWriter
from sharedq.environments.spec import EnvironmentSpec, Tokens
from sharedq.errors import SharedqError

A, PAD, CLOSES, ANSWERED, BEGINS, ENDS = range(6)
FORM = Tokens(length=2, vocabulary=6, pad=PAD, closes=CLOSES, opens=(BEGINS, ANSWERED), ends=ENDS)
SPEC = EnvironmentSpec("letters", jax.ShapeDtypeStruct((11,), np.dtype(np.uint8)), FORM)


def game(turns: int, end: End, group: int = 0, wrong: int | None = None) -> Episode:
    """A text in which every turn has one letter more to read; the reward of turn t is t - 0.5."""
    rows, text = [], [BEGINS]
    for turn in range(turns + 1):
        whole = text + [ENDS] * (turn == turns and end == End.TERMINATED)
        rows.append(whole + [PAD] * (11 - len(whole)))
        text = [*text, A, CLOSES, ANSWERED]
    obs = np.array(rows, np.uint8)
    if wrong is not None:
        obs[-1, 1] = wrong
    action = np.tile(np.array([A, CLOSES], np.int32), (turns, 1))
    return Episode(obs, action, np.arange(turns, dtype=np.float32) - 0.5, end, group)


def stored(folder, *games: Episode) -> Store:
    with StoreWriter(folder, Description("here", "test", SPEC)) as writer:
        for one in games:
            writer.add(one, "here")
        return writer.finish()


def feed(store: Store, fraction: float = 1.0, rewards: Rewards = AS_STORED, unknown: End = End.TRUNCATED) -> TextFeed:
    return TextFeed(store, chosen_part(store, fraction, "first"), 4, 0.9, unknown, rewards)


GAMES = (game(3, End.TERMINATED), game(1, End.TRUNCATED), game(2, End.UNKNOWN), game(2, End.TERMINATED))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("texts") / "data", *GAMES)


def test_every_reward_stands_at_the_token_that_closes_its_action(store):
    found = feed(store, rewards=Rewards(1.0, 2.0))._read(np.arange(4))
    for number, one in enumerate(store):
        assert np.array_equal(found.tokens[number], one.obs[-1])
        places = np.flatnonzero(one.obs[-1] == CLOSES)
        np.testing.assert_allclose(found.reward[number, places], (one.reward + 1) * 2)
        assert np.delete(found.reward[number], places).tolist() == [0] * (11 - len(places))
    assert found.terminated.tolist() == [True, False, False, True]
    assert feed(store, unknown=End.TERMINATED)._read(np.arange(4)).terminated.tolist() == [True, False, True, True]


def test_a_batch_has_the_discount_of_its_ends_and_bounded_rewards(store):
    batch = feed(store).decode(feed(store)._read(np.arange(4)), reward_bound=0.75)
    np.testing.assert_allclose(batch.transition.discount, [0, 0.9, 0.9, 0])
    assert float(batch.transition.reward.max()) == 0.75 and batch.weights.tolist() == [1] * 4


def test_batches_depend_on_seed_and_update_only(store):
    one = feed(store)
    block, later = one.batches([3, 4], 5, 4), one.batches([4], 7, 1)
    assert block.tokens.shape == (2, 4, 4, 11)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1, 2], y[0, 0]), block, later)
    assert not np.array_equal(block.tokens[0], block.tokens[1])


def test_a_fraction_has_only_texts_that_lie_in_it_whole(store, tmp_path):
    assert feed(store, 0.75)._episodes.tolist() == [0, 1, 2]  # six of eight steps
    assert feed(store, 0.7)._episodes.tolist() == [0, 1, 2]
    assert feed(store, 0.6)._episodes.tolist() == [0, 1]
    with pytest.raises(SharedqError, match=r"holds no whole episode: raise replay\.fraction"):
        feed(store, 0.2)
    groups = stored(tmp_path / "groups", *(game(2, End.TERMINATED, group) for group in (0, 0, 1, 1)))
    assert feed(groups, 0.5)._episodes.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("wrong", "says"), [(9, "episode 1: its text has token 9"), (CLOSES, "closes 3 actions and it has 2 steps")]
)
def test_texts_that_contradict_their_steps_are_refused(tmp_path, wrong, says):
    damaged = stored(tmp_path / "data", game(2, End.TERMINATED), game(2, End.TERMINATED, wrong=wrong))
    with pytest.raises(SharedqError, match=says):
        feed(damaged)._read(np.arange(2))


def test_returns_of_several_steps_and_other_meanings_of_tokens_are_refused(store):
    with pytest.raises(SharedqError, match=r"leave replay\.n_step at 1"):
        DataSet(str(store.path), n_step=3).build(None, 0.9, 1).batches([0], 1, 1)
    other = SPEC._replace(actions=FORM._replace(closes=ANSWERED, opens=(BEGINS, CLOSES)))
    with pytest.raises(SharedqError, match=r"closes 2.*and 'letters' has.*closes 3"):
        DataSet(str(store.path), unknown_ends="truncated").build(None, 0.9, 1).open(other)
