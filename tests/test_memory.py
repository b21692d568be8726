"""What is free to a run, and what it may ask for: files that a container gives back count, and what fits is said."""

import pytest

from sharedq.errors import SharedqError
from sharedq.recipes import recipe
from sharedq.training import memory
from sharedq.training.memory import container_free, largest_capacity
from sharedq.units import readable


def group(folder, **files):
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (999_949, "1 MB"), (1234, "1.23 kB"), (2.23e9, "2.23 GB"), (5e15, "5e+03 TB")],
)
def test_bytes_are_told_to_three_digits(size, text):
    assert readable(size) == text


def test_cached_files_of_a_container_are_free(tmp_path):
    stat = "anon 500\nfile 300\ninactive_file 200\nactive_file 100\n"
    assert container_free(group(tmp_path, max="1000\n", current="900\n", stat=stat)) == 300


def test_a_container_without_a_limit_says_nothing(tmp_path):
    assert container_free(tmp_path) is None
    assert container_free(group(tmp_path, max="max\n", current="900\n", stat="inactive_file 200\n")) is None


@pytest.mark.parametrize(
    ("capacity", "size", "room", "largest"),
    [
        (1000, 8000, 8000, 1000),
        (1000, 8000, 7999, 990),
        (1_000_000, 8_000_000, 1_000_000, 120_000),
        (50, 400, 99, 12),
        (50, 400, 7, 0),
        (50, 400, -80, 0),
    ],
)
def test_the_largest_capacity_is_rounded_down_to_two_digits(capacity, size, room, largest):
    assert largest_capacity(capacity, size, room) == largest


def test_a_replay_that_is_too_large_is_refused_with_the_capacity_that_fits(monkeypatch):
    """Atari's million steps of 7,056 bytes and a few more, and an agent of some 50 MB."""
    atari = recipe("atari-cnn-ln")
    monkeypatch.setattr(memory, "free_bytes", lambda: 2_000_000_000)
    with pytest.raises(SharedqError, match="-") as caught:
        atari.build().check_fits()
    assert str(caught.value) == (
        "the run needs 7.14 GB of memory, 7.07 GB of it for the replay, and 2 GB is free: "
        "lower --replay.capacity, --seeds or --training.environments; --replay.capacity 270000 fits"
    )
    atari.replace(**{"replay.capacity": 270_000}).build().check_fits()
    monkeypatch.setattr(memory, "free_bytes", lambda: 1_000_000)
    with pytest.raises(SharedqError, match=r"1 MB is free: lower --replay\.capacity, --seeds"):
        atari.build().check_fits()
