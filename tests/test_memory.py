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


def test_a_group_of_the_first_version_has_a_limit_too(tmp_path):
    counts = "total_inactive_file 200\n"
    assert container_free(group(tmp_path, limit_in_bytes="1000", usage_in_bytes="900", stat=counts)) == 300


def test_the_groups_of_a_process_are_found_in_both_versions(tmp_path):
    listed = tmp_path / "cgroup"
    listed.write_text("4:cpu,memory:/slurm/job_7\n2:cpu:/other\n0::/system/job_7\n")
    inner, outer = ["memory/slurm/job_7", "memory/slurm", "memory"], ["system/job_7", "system", ""]
    assert list(memory.groups(listed, tmp_path)) == [tmp_path / name for name in ("", *inner, *outer)]
    assert list(memory.groups(tmp_path / "none", tmp_path)) == [tmp_path]


def test_the_smallest_of_all_limits_counts(monkeypatch, tmp_path):
    stat = "inactive_file 0\n"
    monkeypatch.setattr(memory, "groups", lambda: [group(tmp_path, max="1000", current="400", stat=stat)])
    assert memory.free_bytes() == 600
    monkeypatch.setattr(memory, "slurm_free", lambda environment: 500)
    assert memory.free_bytes() == 500


@pytest.mark.parametrize(
    ("told", "megabytes"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_NODE": "all"}, None),
        ({"SLURM_MEM_PER_NODE": "1000000"}, 1_000_000),
        ({"SLURM_MEM_PER_CPU": "1000000", "SLURM_CPUS_ON_NODE": "4"}, 4_000_000),
    ],
)
def test_what_slurm_allots_is_seen(told, megabytes):
    free = memory.slurm_free(told)
    if megabytes is None:
        assert free is None
    else:
        assert (megabytes - 100_000) * 2**20 < free < megabytes * 2**20
