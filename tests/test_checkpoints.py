"""Checkpoints: every bit comes back, damage is named in one line, and a kill at any moment leaves a whole one."""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from sharedq.errors import SharedqError
from sharedq.runs import checkpoints, pieces, tensor_file
from sharedq.runs.packing import packed, unpacked
from sharedq.runs.sealed import sealed

DTYPES = [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, jnp.bfloat16]
DTYPES += [np.uint64, np.int64, np.float64]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def save(folder: Path, step: int, tree, keep: int = 2, **meta) -> Path:
    return checkpoints.save(folder, step, {"agent": tree}, "digest", meta, keep)


LIKE = {"w": np.zeros(100, np.float32)}


def save_number(folder: Path, step: int, keep: int = 2, **meta) -> Path:
    """A checkpoint that fits LIKE and holds its own step."""
    return save(folder, step, {"w": np.full(100, step, np.float32)}, keep, **meta)


ROWS, WRITTEN = 64, 5  # of a ring, and how many of them are new in each step


def ring_at(step: int) -> dict[str, np.ndarray]:
    """A ring of which each step writes a few rows more."""
    ring = {"frames": np.zeros((ROWS, 32), np.uint8), "rewards": np.zeros(ROWS, np.float32)}
    for row in range(step * WRITTEN):
        for array in ring.values():
            array[row % ROWS] = row % 251
    return ring


def save_ring(folder: Path, step: int, keep: int = 2) -> Path:
    """A checkpoint of the step in which the ring is in pieces, of which there are eight or nine."""
    parts = {"agent": {"w": np.full(100, step, np.float32)}, "rest": ring_at(step)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "LENGTH", 300)
        return checkpoints.save(folder, step, parts, "digest", {}, keep, in_pieces=["rest"])


def assert_whole(path: Path) -> None:
    step = int(path.name)
    assert (checkpoints.load(path, "agent", LIKE)["w"] == step).all()
    if (path / "rest").exists():
        assert_same(checkpoints.load(path, "rest", ring_at(0)), ring_at(step))


def bits(array) -> bytes:
    array = jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array
    return np.asarray(array).tobytes()


def assert_same(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (one.shape, one.dtype, bits(one)) == (other.shape, other.dtype, bits(other))


def refused(match: str):
    """Expects a SharedqError of one line."""
    return pytest.raises(SharedqError, match=rf"\A.*{match}.*\Z")


# what comes back


@st.composite
def arrays(draw):
    """Any bits of any dtype: NaNs with payloads, -0.0, denormals, no elements, no dimensions."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    array = (array & 1).view(dtype) if dtype == np.bool_ else array.view(dtype)
    return array.reshape(shape)


names = st.text("abcé_ .0", min_size=1, max_size=4)
trees = st.recursive(
    arrays(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(names, inner, max_size=3)
        | st.none()
    ),
    max_leaves=6,
)


@given(trees)
@settings(max_examples=60, deadline=None)
def test_any_tree_comes_back_bit_for_bit(tree):
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), 0, tree)
        back = checkpoints.load(path, "agent", tree)
        assert_same(back, tree)
        assert all(leaf.flags.writeable for leaf in jax.tree.leaves(back))


def device_tree():
    return {
        "params": {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.zeros((0, 4), jnp.bfloat16)},
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8, impl="rbg"), (2, 3)),
        "count": (jnp.uint32(3), jnp.array(True)),
    }


def test_device_arrays_and_random_keys_come_back_from_shapes_alone(folder):
    tree = device_tree()
    path = save(folder, 5, tree)
    back = checkpoints.load(path, "agent", jax.eval_shape(lambda: tree))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(back))
    assert_same(back, tree)
    assert_same(checkpoints.load(path, "agent", tree), tree)
    assert jnp.array_equal(jax.random.normal(back["key"]), jax.random.normal(tree["key"]))


def test_transposed_arrays_come_back_in_their_order(folder):
    tree = {"t": np.arange(6, dtype=np.int32).reshape(2, 3).T, "s": np.arange(10, dtype=np.uint8)[::3]}
    back = checkpoints.load(save(folder, 0, tree), "agent", tree)
    assert back["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert back["s"].tolist() == [0, 3, 6, 9]


def test_a_restored_array_may_be_donated(folder):
    tree = {"a": jnp.arange(4096.0), "b": jnp.arange(4096.0)}
    back = checkpoints.load(save(folder, 0, tree), "agent", tree)
    jax.jit(lambda x: x * 0, donate_argnums=0)(back["a"]).block_until_ready()
    assert_same(back["b"], tree["b"])
    assert_same(checkpoints.load(checkpoints.latest(folder), "agent", tree), tree)


def test_any_safetensors_reader_reads_it(folder):
    tree = device_tree()
    path = save(folder, 5, tree)
    with safe_open(path / "agent.safetensors", framework="np") as file:
        assert sorted(file.keys()) == ["count/0", "count/1", "key", "keys", "params/b", "params/w"]
        assert np.array_equal(file.get_tensor("params/w"), tree["params"]["w"])
        assert file.get_tensor("count/1").item() is True
        assert file.metadata() == {"key": "threefry2x32", "keys": "rbg"}


@pytest.mark.parametrize("leaf", [1, 2.0, True, np.float32(1), "text", np.zeros(2, np.complex64), np.zeros(2, ">f4")])
def test_what_is_no_array_of_ours_is_the_callers_mistake(folder, leaf):
    with pytest.raises(TypeError, match="'a/0'"):
        save(folder, 0, {"a": [leaf]})
    assert checkpoints.latest(folder) is None


def test_two_leaves_cannot_share_a_name(folder):
    with pytest.raises(TypeError, match="different paths"):
        save(folder, 0, {"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)})


# in pieces


def inodes(path: Path) -> list[int]:
    return [file.stat().st_ino for file in sorted((path / "rest").iterdir())]


def test_of_a_ring_only_what_it_gained_is_written(folder):
    save_ring(folder, 20)
    old, new = inodes(folder / "000000000020"), inodes(save_ring(folder, 21))
    assert len(old) == len(new) >= 8
    # five rows of frames, five of rewards: a piece each, or two where they lie across a border
    assert 2 <= sum(one != other for one, other in zip(old, new, strict=True)) <= 4
    assert inodes(save_ring(folder, 21)) == new
    for path in folder.iterdir():
        assert_whole(path)


def test_equal_pieces_are_one(folder):
    path = save_ring(folder, 0)  # an empty ring
    assert len(set(inodes(path))) < len(inodes(path)) - 3
    assert_whole(path)


def test_the_pieces_one_after_another_are_a_safetensors_file(folder, tmp_path):
    path = save_ring(folder, 20)
    tensor_file.write(tmp_path / "whole.safetensors", ring_at(20))
    joined = b"".join(file.read_bytes() for file in sorted((path / "rest").iterdir()))
    assert joined == (tmp_path / "whole.safetensors").read_bytes()


@given(st.lists(st.binary(max_size=12)), st.integers(1, 8))
def test_cutting_neither_loses_nor_moves_a_byte(chunks, length):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(pieces, "LENGTH", length)
        told = pieces.write(Path(folder, "rest"), map(memoryview, chunks), {})
        files = sorted(Path(folder, "rest").iterdir())
        content = b"".join(chunks)
        assert [file.read_bytes() for file in files] == [
            content[i : i + length] for i in range(0, len(content), length)
        ]
        assert [one["bytes"] for one in told] == [file.stat().st_size for file in files]


def test_a_checkpoint_stands_when_those_it_shares_pieces_with_are_gone(folder):
    for step in (20, 21):
        path = save_ring(folder, step)
    shutil.rmtree(folder / "000000000020")
    assert_whole(path)


def test_where_the_disk_knows_no_links_every_piece_is_written(folder, monkeypatch):
    def refuse(*names):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    for step in (20, 21):
        assert_whole(save_ring(folder, step))
    assert not set(inodes(folder / "000000000020")) & set(inodes(folder / "000000000021"))


def test_a_damaged_piece_is_named_and_a_damaged_checkpoint_lends_none(folder):
    path = save_ring(folder, 20)
    piece = path / "rest/000003"
    whole = piece.read_bytes()
    for content, match in (
        (whole[:-1], "is truncated"),
        (whole + b"\0", "was edited"),
        (whole[:-1] + b"\xff", "was edited"),
    ):
        piece.write_bytes(content)
        with refused(f"000000000020/rest/000003 {match}"):
            checkpoints.load(path, "rest", ring_at(0))
    (path / "checkpoint.json").unlink()
    assert_whole(save_ring(folder, 21))


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_flipped_bit_does_not_spread_to_the_next_checkpoint(folder, number):
    save_ring(folder, 20)
    path = save_ring(folder, 21)
    piece = path / f"rest/{number:06d}"
    whole = piece.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole + b"x", b""):
        piece.write_bytes(damaged)
        with refused("rest"):
            checkpoints.load(path, "rest", ring_at(0))
        assert_whole(save_ring(folder, 22))
        assert len(checkpoints.all_steps(folder)) == 2
        shutil.rmtree(folder / "000000000022")
        piece.write_bytes(whole)


# which are there


def test_the_newest_are_kept_and_the_last_saved_is_the_latest(folder):
    assert checkpoints.latest(folder) is None
    assert checkpoints.all_steps(folder) == []
    for step in (5, 1_000_000, 20_000_000):
        assert save_number(folder, step) == checkpoints.latest(folder)
    assert checkpoints.all_steps(folder) == [1_000_000, 20_000_000]
    assert sorted(path.name for path in folder.iterdir()) == ["000001000000", "000020000000"]
    save_number(folder, 1_500_000, keep=1)  # the run went back and took another course
    assert checkpoints.all_steps(folder) == [1_500_000]


def test_the_same_step_may_be_saved_again(folder):
    save(folder, 3, {"w": np.zeros(1)})
    path = save(folder, 3, {"w": np.ones(1)}, note="second")
    assert checkpoints.load(path, "agent", {"w": np.zeros(1)})["w"] == 1
    assert checkpoints.read_meta(path) == {"note": "second"}


def test_meta_comes_back_for_the_same_experiment_only(folder):
    path = save_number(folder, 3, offsets={"metrics.csv": 12})
    assert checkpoints.read_meta(path, ["digest"]) == {"offsets": {"metrics.csv": 12}}
    with refused("is a checkpoint of another experiment"):
        checkpoints.read_meta(path, ["another"])
    with refused("checkpoint.json was edited or damaged .meta.offsets must be a list"):
        checkpoints.read_meta(path, ["digest"], {"offsets": [int]})
    rewrite(path, schema=5)
    with refused("format 5.*use the version that wrote it"):
        checkpoints.read_meta(path)
    (path / "checkpoint.json").unlink()
    with refused("cannot read .*checkpoint.json"):
        checkpoints.read_meta(path)


def rewrite(path: Path, without: str = "", **changes) -> None:
    """Edits a checkpoint.json by somebody who knows how to make its checksum anew."""
    content = json.loads((path / "checkpoint.json").read_text()) | changes
    content = {name: value for name, value in content.items() if name not in ("sha256", without)}
    (path / "checkpoint.json").write_bytes(sealed(content))


def as_0_1_0_wrote_it(path: Path, **changes) -> None:
    content = json.loads((path / "checkpoint.json").read_text()) | {"schema": 2} | changes
    content.pop("sha256", None)
    (path / "checkpoint.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("old", "new"), [('"step": 3', '"step": 4'), ("12", "13"), ('"digest"', '"other"'), ('"sha256": "', '"sha256": "0')]
)
def test_an_edited_checkpoint_json_is_refused(folder, old, new):
    path = save_number(folder, 3, offsets={"metrics.csv": 12})
    file = path / "checkpoint.json"
    text = file.read_text()
    for edited in (text.replace(old, new, 1), new.join(text.rsplit(old, 1))):
        assert edited != text
        file.write_text(edited)
        with refused("checkpoint.json was edited or damaged .its checksum differs.: there is no older checkpoint"):
            checkpoints.read_meta(path)


def test_a_checkpoint_that_lost_its_checksum_is_not_taken_for_an_old_one(folder):
    path = save_number(folder, 3)
    content = json.loads((path / "checkpoint.json").read_text())
    del content["sha256"]
    (path / "checkpoint.json").write_text(json.dumps(content))
    with refused("checkpoint.json was edited or damaged .'sha256' is missing"):
        checkpoints.read_meta(path)
    as_0_1_0_wrote_it(path)
    assert checkpoints.read_meta(path) == {}
    with refused("checkpoint.json was edited .it lost its checksum"):
        checkpoints.read_meta(path, oldest=checkpoints.SCHEMA)


@pytest.mark.parametrize("write", [rewrite, as_0_1_0_wrote_it])
@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": True},
        {"step": None},
        {"experiment": 1},
        {"parts": []},
        {"parts": {"agent": 3}},
        {"parts": {"agent": []}},
        {"parts": {"agent": {"bytes": "1", "sha256": "x"}}},
        {"parts": {"agent": {"bytes": 1}}},
        {"parts": {"agent": [{"bytes": 10**30, "sha256": "x"}]}},
        {"parts": {"agent": {"bytes": 10**18, "sha256": "x"}}},
        {"parts": {"agent": {"bytes": -1, "sha256": "x"}}},
        {"parts": {"../agent": {"bytes": 1, "sha256": "x"}}},
        {"meta": None},
        {"schema": "2"},
        {"schema": None},
    ],
)
def test_a_checkpoint_json_of_another_form_is_refused(folder, change, write):
    path = save_number(folder, 3)
    write(path, **change)
    with refused("000000000003"):
        checkpoints.load(path, "agent", LIKE)


def test_renamed_and_exchanged_checkpoints_are_refused(folder):
    for step in (1, 2):
        save_number(folder, step)
    one, two = (folder / f"{step:012d}" for step in (1, 2))
    one.rename(folder / "aside")
    two.rename(one)
    (folder / "aside").rename(two)
    for path, other in ((one, 2), (two, 1)):
        with refused(f"{path.name} holds the checkpoint of step {other}: it was renamed or exchanged"):
            checkpoints.load(path, "agent", LIKE)
    as_0_1_0_wrote_it(two)
    with refused("it was renamed or exchanged, remove 000000000002 to continue from the older"):
        checkpoints.read_meta(two)


def test_what_has_no_name_of_ours_is_no_checkpoint(folder):
    save_number(folder, 5)
    for name in ("7", "0000000000007", "٠٠٠٠٠٠٠٠٠٠٠٩", "000000000005.bak"):
        (folder / name).mkdir()
    (folder / "000000000009").write_text("a file")
    assert checkpoints.all_steps(folder) == [5]
    save_number(folder, 6)
    save_number(folder, 8)
    assert checkpoints.all_steps(folder) == [6, 8]
    assert (folder / "7").exists() and (folder / "000000000009").exists()


def test_what_a_killed_save_left_is_swept(folder):
    for step in (1, 2, 3):
        save_number(folder, step, keep=3)
    for name in checkpoints.UNNAMED:
        (folder / name).mkdir()
    checkpoints.sweep(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["000000000002", "000000000003"]
    checkpoints.sweep(folder / "nowhere", 2)


def test_worlds_that_json_cannot_hold_are_told(folder):
    for state in (float("nan"), {1, 2}):
        with refused("the checkpoint of step 3 needs what JSON can hold of each world"):
            save_number(folder, 3, worlds=state)
    assert checkpoints.all_steps(folder) == []


# what is refused


def test_a_truncated_file_is_named_with_the_checkpoint_to_use_instead(folder):
    save_number(folder, 1)
    path = save_number(folder, 2)
    os.truncate(path / "agent.safetensors", 40)
    with refused(
        r"000000000002/agent.safetensors is truncated \(40 of \d+ bytes\): remove 000000000002 .*000000000001"
    ):
        checkpoints.load(path, "agent", LIKE)
    (path / "agent.safetensors").unlink()
    with refused("cannot read .*agent.safetensors"):
        checkpoints.load(path, "agent", LIKE)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_flipped_bit_is_found_wherever_it_is(data):
    with tempfile.TemporaryDirectory() as folder:
        path = save_number(Path(folder), 1)
        file = path / "agent.safetensors"
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
        with refused("agent.safetensors was edited or damaged.*no older checkpoint, train again"):
            checkpoints.load(path, "agent", LIKE)


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        (
            {"w": np.zeros(99, np.float32)},
            r"'w' is float32\[100\] in the checkpoint and float32\[99\] in the experiment",
        ),
        ({"w": jax.ShapeDtypeStruct((100,), jnp.int32)}, r"'w' is float32\[100\] .* and int32\[100\]"),
        ({"w": jax.random.split(jax.random.key(0), 100)}, r"'w' is float32\[100\] .* and key<fry>\[100\]"),
        ({"v": np.zeros(100, np.float32)}, "'v' is not in the checkpoint"),
        ({}, "'w' is not in the experiment"),
    ],
)
def test_a_tree_of_another_form_is_refused(folder, like, reason):
    path = save_number(folder, 1)
    with refused(f"part 'agent' of .*000000000001 does not fit: {reason}"):
        checkpoints.load(path, "agent", like)
    with refused("holds no part 'rest', only agent"):
        checkpoints.load(path, "rest", like)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named_and_others_may_be_anything(folder, value):
    ones = np.ones(3, np.float32)
    agent = {"params": {"kernel": ones}, "source": {"target_params": ones}, "seen": value}
    agent["seen"] = np.full(3, value, np.float32)
    assert_same(checkpoints.load_agent(save(folder, 1, agent), agent), agent)
    for name, changed in (
        ("params/kernel", {"params": {"kernel": agent["seen"]}}),
        ("source/target_params", {"source": {"target_params": agent["seen"]}}),
    ):
        path = save(folder, 2, agent | changed)
        with refused(f"'{name}' in the agent of .* is not finite in every number: remove 000000000002"):
            checkpoints.load_agent(path, agent)


# what is no safetensors file


PLAIN = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "I32", "shape": [1, 1], "data_offsets": [8, 12]},
}
EXAMPLE = {"a": np.zeros(2, np.float32), "b": np.zeros((1, 1), np.int32)}


def tensors(header: dict | str, data: bytes = bytes(12)) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def changed(name: str, **changes) -> bytes:
    return tensors(PLAIN | {name: PLAIN[name] | changes})


TEXT = json.dumps(PLAIN)
DOCTORED = {
    "empty": b"",
    "short": bytes(7),
    "header longer than the file": (10**6).to_bytes(8, "little") + TEXT.encode(),
    "header longer than a number": bytes([255] * 8) + TEXT.encode(),
    "no header": tensors(""),
    "no object": tensors("[]"),
    "no JSON": tensors(TEXT[:-1]),
    "no text": tensors(TEXT)[:10] + b"\xff" + tensors(TEXT)[11:],
    "nested": tensors('{"a":' * 5000 + "1" + "}" * 5000),
    "overlap": changed("b", data_offsets=[4, 8]),
    "gap": tensors(PLAIN | {"b": PLAIN["b"] | {"data_offsets": [12, 16]}}, bytes(16)),
    "behind the end": changed("b", data_offsets=[12, 16]),
    "turned round": changed("b", data_offsets=[12, 8]),
    "negative": changed("a", data_offsets=[-8, 0]),
    "three places": changed("a", data_offsets=[0, 8, 8]),
    "a part": changed("a", data_offsets=[0.0, 8.0]),
    "true": changed("a", data_offsets=[False, 8]),
    "bytes too many": tensors(PLAIN, bytes(13)),
    "bytes too few": tensors(PLAIN, bytes(11)),
    "wrong shape": changed("a", shape=[3]),
    "negative shape": changed("a", shape=[-1, -2]),
    "endless shape": changed("a", shape=[2**62, 2**62]),
    "no shape": tensors(PLAIN | {"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "unknown dtype": changed("a", dtype="F99"),
    "wrong dtype": changed("a", dtype="F64"),
    "no entry": tensors(PLAIN | {"a": 3}),
    "metadata that is none": tensors({"__metadata__": [1], **PLAIN}),
    "metadata of numbers": tensors({"__metadata__": {"a": 1}, **PLAIN}),
    "twice": tensors(TEXT[:-1] + f', "a": {json.dumps(PLAIN["a"])}' + "}"),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_what_the_safetensors_library_refuses_is_refused(name):
    if name != "twice":  # the library takes the last of the two
        with pytest.raises(SafetensorError):
            deserialize(DOCTORED[name])
    with pytest.raises(ValueError, match=r"\w"):
        tensor_file.restore(np.frombuffer(DOCTORED[name], np.uint8), EXAMPLE)


def test_a_doctored_file_with_a_matching_checksum_is_refused_in_one_line(folder):
    path = save(folder, 1, EXAMPLE)
    content = DOCTORED["overlap"]
    (path / "agent.safetensors").write_bytes(content)
    told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(path, parts={"agent": told})
    with refused("part 'agent' of .* is no safetensors file .'b' does not lie where.*: there is no older checkpoint"):
        checkpoints.load(path, "agent", EXAMPLE)


def test_neither_true_nor_false_is_refused():
    content = tensors({"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2")
    with pytest.raises(ValueError, match="'a' holds what is neither true nor false"):
        tensor_file.restore(np.frombuffer(content, np.uint8), {"a": np.zeros(2, bool)})


def test_what_the_library_writes_is_read(folder):
    """It knows no random keys and writes no metadata, and lays arrays out in an order of its own."""
    tree = device_tree()
    tree["params"].pop("b")  # NumPy, without JAX, has no bfloat16
    path = save(folder, 1, tree)
    again = save_tensors(load_tensors((path / "agent.safetensors").read_bytes()))
    assert again != (path / "agent.safetensors").read_bytes()
    assert_same(tensor_file.restore(np.frombuffer(again, np.uint8), tree), tree)
    plain = np.frombuffer(tensors(PLAIN, np.array([1, 2], np.float32).tobytes() + bytes(4)), np.uint8)
    assert tensor_file.restore(plain, EXAMPLE)["a"].tolist() == [1, 2]


def test_a_random_key_of_another_kind_is_refused(folder):
    path = save(folder, 1, {"k": jax.random.key(1, impl="rbg")})
    with refused("'k' is uint32.4. as the words of a key of rbg in the checkpoint and key<fry>.. in the experiment"):
        checkpoints.load(path, "agent", {"k": jax.random.key(1)})


# killed in the middle


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up, as nothing does after a kill."""


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Lets the call of this number that changes the disk, counted from now, kill the process instead."""
    calls = itertools.count(1)

    def deadly(call):
        def wrapped(*args, **kwargs):
            if next(calls) == number:
                raise Killed
            return call(*args, **kwargs)

        return wrapped

    for name in ("fsync", "replace", "rename", "link", "mkdir", "unlink", "rmdir"):
        patch.setattr(os, name, deadly(getattr(os, name)))


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("save_number", [save_number, save_ring])
def test_killed_at_any_system_call_every_checkpoint_is_whole(tmp_path, monkeypatch, save_number, keep):
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        for step in (1, 2):
            save_number(folder, step, keep)
        killed = False
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                save_number(folder, 3, keep)
            except Killed:
                killed = True
        assert checkpoints.all_steps(folder)[-1] in ((2, 3) if killed else (3,))
        for step in checkpoints.all_steps(folder):
            assert_whole(folder / f"{step:012d}")
        save_number(folder, 4, keep)
        assert {path.name for path in folder.iterdir()} >= {"000000000004"}
        assert all(path.name.isdecimal() for path in folder.iterdir()), "what the kill left is cleared away"
        if not killed:
            break
    assert number > 10


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path):
    saver = textwrap.dedent(
        """
        import itertools, sys, pathlib, numpy as np
        from sharedq.runs import checkpoints
        for step in itertools.count(1):
            tree = {"w": np.full(200_000, step, np.float32)}
            checkpoints.save(pathlib.Path(sys.argv[1]), step, {"agent": tree}, "digest", {}, keep=1)
            print(step, flush=True)
        """
    )
    command = [sys.executable, "-c", saver, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        said = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout]
    path = checkpoints.latest(tmp_path)
    assert int(path.name) >= said[-1]
    assert (checkpoints.load(path, "agent", {"w": np.zeros(200_000, np.float32)})["w"] == int(path.name)).all()


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.6, 1.0])
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(3000,), (37, 41), (5, 7, 60), (0, 3)]))
def test_what_is_packed_comes_back_bit_for_bit_and_is_never_larger(dtype, share, seed, shape):
    rng = np.random.default_rng(seed)
    array = np.where(rng.random(shape) < share, rng.choice([1, -0.0, 3, np.nan], shape), 0)
    array = (np.nan_to_num(array) if np.dtype(dtype).kind in "biu" else array).astype(dtype)
    parts = packed({"a": array, "small": np.zeros(3)})
    assert sum(part.nbytes for part in parts.values()) <= array.nbytes + 24
    if dtype == np.float32 and array.nbytes and share < 0.1:
        assert sum(part.nbytes for part in parts.values()) < 0.2 * array.nbytes
    again = unpacked(parts)
    assert again.keys() == {"a", "small"} and again["a"].dtype == array.dtype and again["a"].shape == array.shape
    assert again["a"].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"a:mask": np.zeros(3, np.uint8)},
        {"a:mask": np.zeros(125, np.float32)},
        {"a:shape": np.array([-1000])},
        {"a:shape": np.array([2**60])},
        {"a:values": np.zeros(7, np.float32)},
    ],
)
def test_packed_parts_that_do_not_fit_each_other_are_refused(changes):
    parts = packed({"a": np.zeros(1000, np.float32)})
    assert parts.keys() == {"a:mask", "a:shape", "a:values"}
    with pytest.raises(ValueError, match="'a'"):
        unpacked(parts | changes)


def test_an_agent_of_pruned_weights_takes_little_room(folder):
    kept = np.random.default_rng(0).random((256, 256)) < 0.05
    agent = {"w": np.where(kept, 1.5, 0).astype(np.float32), "mask": kept}
    path = save(folder, 1, agent)
    assert (path / "agent.safetensors").stat().st_size < 0.15 * sum(x.nbytes for x in agent.values())
    assert_same(checkpoints.load(path, "agent", agent), agent)
    assert_same(checkpoints.load_arrays(path, "agent"), agent)
    rewrite(path, schema=3)
    assert checkpoints.read_meta(path) == {}  # the version before packed no agents
