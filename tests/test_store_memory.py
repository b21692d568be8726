"""Reading a store: in pieces, whose pages leave the memory of the process again."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from sharedq.datasets import feed as feeds
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.feed import StoreFeed, chosen_part
from sharedq.datasets.manifest import Description
from sharedq.datasets.writing import StoreWriter
from sharedq.environments import Discrete, EnvironmentSpec


@pytest.fixture(params=["vectors", "stacks"])
def store(request, tmp_path):
    stack = 4 if request.param == "stacks" else None
    shape, dtype = ((84, 84, 4), np.uint8) if stack else ((17,), np.float32)
    spec = EnvironmentSpec("unknown", jax.ShapeDtypeStruct(shape, dtype), Discrete(3), "black" if stack else None)
    random, kept = np.random.default_rng(0), shape[:2] if stack else shape
    with StoreWriter(tmp_path / "data", Description("here", "test", spec, stack=stack)) as writer:
        for length in (40, 1, 59, 100):
            obs = random.integers(0, 256, (length + 1, *kept)).astype(dtype)
            action, reward = random.integers(3, size=length).astype(np.int32), random.random(length, np.float32)
            writer.add(Episode(obs, action, reward, End.TRUNCATED), "here")
        return writer.finish()


def feed_of(store, n_step):
    return StoreFeed(store, chosen_part(store, 1.0, "first"), 8, n_step, 0.99, End.TRUNCATED)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("windows", [1, 2, 1_000])
def test_batches_do_not_depend_on_the_pieces_in_which_they_are_read(store, n_step, windows, monkeypatch):
    feed = feed_of(store, n_step)
    monkeypatch.setattr(feeds, "WINDOWS", windows)
    monkeypatch.setattr(feeds, "WINDOW", 2**13)
    found = feed.batches([0, 5], 7, 6)
    plain = feed._read(np.stack([feed._drawn(seed, 7, 6) for seed in (0, 5)]))
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(plain)]


@pytest.mark.parametrize("windows", [1, 3])
def test_a_piece_lies_in_few_windows(store, windows, monkeypatch):
    monkeypatch.setattr(feeds, "WINDOWS", windows)
    monkeypatch.setattr(feeds, "WINDOW", 2**10)
    feed, steps = feed_of(store, 1), np.sort(np.random.default_rng(0).integers(200, size=90))
    pieces = list(feed._pieces(steps))
    assert [step for begin, end in pieces for step in steps[begin:end]] == steps.tolist()
    row = store.observations.strides[0]
    assert len(pieces) > 1
    assert all(len(set(steps[begin:end] * row // 2**10)) <= windows for begin, end in pieces)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages a process holds")
def test_no_page_of_the_store_stays_in_the_process(store):
    feed = feed_of(store, 1)
    assert store.observations.sum() > 0
    assert held(store) > 0
    feed.batches([0], 1, 50)
    assert held(store) == 0


def held(store):
    """Kilobytes of the observations that this process holds."""
    maps = Path("/proc/self/smaps").read_text()
    return sum(
        map(int, re.findall(rf"{store.path / 'observations.npy'}\nSize:[^\n]*\n(?:[^\n]*\n){{2}}Rss: +(\d+)", maps))
    )
