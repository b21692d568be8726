"""The messages between actors and a learner: blocks of steps and published weights, as raw bytes with a checked header.

A message is a header of fixed size and the bytes that it announces. The checksum is over both, so a message that was
cut, or of which one bit is wrong, is refused. It is no signature: whoever can write to the queue can make one.

Shape letters: L steps of a block, E environments of an actor.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sharedq.errors import SharedqError
from sharedq.transitions import Step

MAGIC = b"shqm"
VERSION = 1
HEADER = struct.Struct("<4sHH8sIIQQQ")  # magic, version, kind, schema, actor, session, first step, weights, bytes
CHECKSUM = struct.Struct("<I")
STEPS, WEIGHTS = 1, 2  # the kinds of messages


class Refused(SharedqError):
    """A message that is not whole, or that another run sent."""


class OtherSchema(Refused):
    """A message of another run, of other settings, or of another version of its form."""


class Sender(NamedTuple):
    """Who sent a message, and what it goes with."""

    actor: int = 0  # the number of the actor
    session: int = 0  # drawn anew by every process of the actor
    first: int = 0  # the first step of the block, of each environment of the process
    weights: int = 0  # the updates that had been made when the weights were published


class Block(NamedTuple):
    """Consecutive steps of the environments of one actor, [L, E] each."""

    step: Step  # as the learner gets it: a lost life is a termination
    ended: Any  # whether the episode ended; the learner clears it if it did not get all steps of the episode
    returned: Any  # the return of the episode so far
    length: Any  # its length so far


def schema_of(experiment: Mapping[str, Any], spec: Mapping[str, Any]) -> bytes:
    """Eight bytes that tell a run's messages from those of other runs; those of a run that got longer stay the same."""
    training = {k: x for k, x in experiment["training"].items() if k not in ("steps", "url")}
    said = json.dumps([VERSION, {**experiment, "training": training}, spec], sort_keys=True)
    return hashlib.sha256(said.encode()).digest()[:8]


def packed(kind: int, schema: bytes, sender: Sender, content: bytes) -> bytes:
    """A message."""
    head = HEADER.pack(MAGIC, VERSION, kind, schema, *sender, len(content))
    return head + CHECKSUM.pack(zlib.crc32(content, zlib.crc32(head))) + content


def unpacked(message: bytes, kind: int, schema: bytes) -> tuple[Sender, memoryview]:
    """Who sent a message, and its content. Raises `Refused` if it is not a whole message of this kind and schema."""
    start = HEADER.size + CHECKSUM.size
    if len(message) < start:
        raise Refused(f"a message of {len(message)} bytes is shorter than its header")
    magic, version, found, its_schema, *sender, size = HEADER.unpack_from(message)
    content = memoryview(message)[start:]
    if magic != MAGIC:
        raise Refused("a message does not begin as ours do")
    if len(content) != size:
        raise Refused(f"a message announces {size} bytes and has {len(content)}")
    (checksum,) = CHECKSUM.unpack_from(message, HEADER.size)
    if checksum != zlib.crc32(content, zlib.crc32(memoryview(message)[: HEADER.size])):
        raise Refused("a message was changed on its way: its checksum differs")
    if version != VERSION or its_schema != schema:
        raise OtherSchema("a message is of another run, of other settings or of another version")
    if found != kind:
        raise Refused(f"a message is of kind {found} where {kind} is expected")
    return Sender(*sender), content


class BlockForm(NamedTuple):
    """The form of the blocks of a run: the arrays that follow each other in its bytes."""

    schema: bytes
    arrays: tuple[tuple[tuple[int, ...], np.dtype], ...]  # shape and dtype of each
    actions: int  # actions are 0 .. actions - 1

    @staticmethod
    def of(schema: bytes, step: Step, actions: int, length: int, environments: int) -> "BlockForm":
        """The form of blocks of steps shaped like `step`, arrays or shapes of one environment."""
        one: Sequence[tuple[tuple[int, ...], Any]] = [(tuple(x.shape), x.dtype) for x in step]
        told = [((), np.bool_), ((), np.float32), ((), np.int32)]
        arrays = tuple(((length, environments, *shape), np.dtype(dtype)) for shape, dtype in [*one, *told])
        return BlockForm(schema, arrays, actions)

    def pack(self, sender: Sender, block: Block) -> bytes:
        parts = []
        for (shape, dtype), array in zip(self.arrays, (*block.step, *block[1:]), strict=True):
            array = np.ascontiguousarray(array, dtype)
            assert array.shape == shape, f"{array.shape} in place of {shape}"
            parts.append(array.tobytes())
        return packed(STEPS, self.schema, sender, b"".join(parts))

    def unpack(self, message: bytes) -> tuple[Sender, Block]:
        """The block in a message, as views on its bytes. Raises `Refused` if it is not a whole one of this run."""
        sender, content = unpacked(message, STEPS, self.schema)
        arrays, at = [], 0
        for shape, dtype in self.arrays:
            count = int(np.prod(shape))
            if at + count * dtype.itemsize > len(content):
                raise Refused("a block is shorter than its arrays")
            array = np.frombuffer(content, dtype, count, at).reshape(shape)
            if dtype == np.bool_ and (array.view(np.uint8) > 1).any():
                raise Refused("a block holds what is neither true nor false")
            arrays.append(array)
            at += array.nbytes
        if at != len(content):
            raise Refused("a block is longer than its arrays")
        block = Block(Step(*arrays[:6]), *arrays[6:])
        if block.step.action.min() < 0 or block.step.action.max() >= self.actions:
            raise Refused(f"a block has an action outside 0 .. {self.actions - 1}")
        if not (np.isfinite(block.step.reward).all() and np.isfinite(block.returned).all()):
            raise Refused("a block has a reward that is not a finite number")
        return sender, block


class Arrivals:
    """What the learner notes of the blocks that arrive: how stale they are, and what was lost on the way."""

    def __init__(self, form: BlockForm, actors: int):
        self._form, self._actors = form, actors
        self._expected: dict[tuple[int, int], int] = {}  # the next first step, by actor and session
        self._since: dict[tuple[int, int], int] = {}  # the first step after which nothing was lost
        self.gaps = [0] * actors
        self._senders: set[int] = set()
        self.dropped = self.strangers = self.arrived = self.behind = 0

    def take(self, message: bytes, updates: int) -> Block | None:
        """The block in a message, or None if it is dropped. The learner has made so many updates.

        Episodes of which a block was lost do not end in it, because they are longer than the steps that came.
        """
        try:
            sender, block = self._form.unpack(message)
        except Refused as error:
            self.dropped += 1
            self.strangers += isinstance(error, OtherSchema)
            return None
        who = sender.actor, sender.session
        expected = self._expected.get(who)
        if expected is not None and sender.first < expected:  # it was sent twice: the answer to the first was lost
            self.dropped += 1
            return None
        if expected is not None and sender.first > expected:
            self.gaps[sender.actor % self._actors] += 1
        if expected != sender.first:
            self._since[who] = sender.first
        self._expected[who] = sender.first + len(block.ended)
        came = sender.first - self._since[who] + np.arange(1, len(block.ended) + 1)[:, None]  # [L, 1]
        self._senders.add(sender.actor)
        self.arrived += 1
        self.behind += max(updates - sender.weights, 0)
        return block._replace(ended=block.ended & (block.length <= came))

    def report(self) -> dict[str, float]:
        """The numbers since the last report."""
        active = len(self._senders)
        told = {"active": active, "staleness": self.behind / max(self.arrived, 1), "dropped": self.dropped}
        told |= {f"gaps_{number}": gaps for number, gaps in enumerate(self.gaps)}
        self._senders = set()
        self.gaps, self.dropped, self.arrived, self.behind = [0] * self._actors, 0, 0, 0
        return told


def epsilon_of(actor: int, actors: int) -> float:
    """The share of random actions of an actor, as in Ape-X (https://arxiv.org/abs/1803.00933)."""
    return float(0.4 ** (1 + 7 * (actor % actors) / max(actors - 1, 1)))
