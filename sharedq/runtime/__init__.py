"""Acts with an exported agent. It needs numpy and onnxruntime, and nothing else.

    from sharedq import runtime        # or, from the small package of that name:  import sharedq_runtime as runtime

    agent = runtime.load("agent.onnx")
    action = agent.act(observation)

This package imports nothing of sharedq, because it is also installed alone.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "sharedq agent 1"
PREFIX = "sharedq."  # of the names of our metadata in the file
LARGEST = 4 * 2**30  # ours: a file of more bytes is not read
KINDS = "biuf"  # kinds of the dtypes of numbers
MISSING = "the runtime needs the package 'onnxruntime': run  pip install onnxruntime"


class AgentError(Exception):
    """What is wrong with a file or an observation, in one line."""


class Agent:
    """An exported agent. Its decisions are greedy, so it draws nothing at random."""

    def __init__(self, session: Any, metadata: dict[str, Any]):
        self._session, self._outputs = session, [one.name for one in session.get_outputs()]
        self.metadata = metadata
        self.spec: dict[str, Any] = metadata["spec"]
        self._shape = tuple(self.spec["observation"]["shape"])
        self._dtype = np.dtype(self.spec["observation"]["dtype"])
        actions = self.spec["actions"]
        is_number = actions["kind"] == "discrete" and "dtype" not in actions  # only vectors have a dtype of their own
        self._action_dtype = np.dtype("int64" if is_number else actions["dtype"])
        self._described = f"Agent({metadata['label']}, in {self.spec['name']}, seed {metadata['seed']})"

    def __repr__(self) -> str:
        return self._described

    def act(self, obs: Any) -> int | np.ndarray:
        """The greedy action for one observation, in the environment's own form; for a batch [N, ...] N actions."""
        batch, is_one = self.batch_of(obs)
        actions = self._run("action", batch).astype(self._action_dtype)
        if not is_one:
            return actions
        return actions[0] if actions.ndim > 1 else int(actions[0])

    def values(self, obs: Any) -> np.ndarray:
        """The values of all actions [A], or [N, A] for a batch. The policy follows them."""
        return self._of_heads("values", obs)

    def head_values(self, obs: Any) -> np.ndarray:
        """The values of all actions by each head that learns: [H, A], or [N, H, A] for a batch."""
        return self._of_heads("head_values", obs)

    def outputs(self, obs: Any) -> dict[str, np.ndarray]:
        """Every output of the file for a batch of observations [N, ...], from one run."""
        batch, is_one = self.batch_of(obs)
        if is_one:
            raise AgentError(f"a batch of observations [N, {_listed(self._shape)}] is needed, and one was given alone")
        found = dict(zip(self._outputs, self._session.run(self._outputs, {"observation": batch}), strict=True))
        return {**found, "action": found["action"].astype(self._action_dtype)}

    def _of_heads(self, output: str, obs: Any) -> np.ndarray:
        if output not in self._outputs:
            raise AgentError(f"this agent has no {output}: its actions are continuous")
        batch, is_one = self.batch_of(obs)
        found = self._run(output, batch)
        return found[0] if is_one else found

    def _run(self, output: str, batch: np.ndarray) -> np.ndarray:
        return self._session.run([output], {"observation": batch})[0]

    def batch_of(self, obs: Any) -> tuple[np.ndarray, bool]:
        """Observations as a batch, and whether one was given alone. Raises if shape or dtype are not the agent's."""
        wanted = f"{self._dtype} [{_listed(self._shape)}]"
        try:
            given = np.asarray(obs)
        except ValueError as error:
            raise AgentError(f"the observation must be {wanted}, and is no array ({error})") from None
        rank = len(self._shape)
        if given.dtype.kind not in KINDS or given.shape[given.ndim - rank :] != self._shape or given.ndim - rank > 1:
            found = f"{given.dtype} [{_listed(given.shape)}]"
            raise AgentError(f"the observation must be {wanted}, or a batch of them, and is {found}")
        if given.dtype != self._dtype:
            given = self._converted(given, wanted)
        if given.dtype.kind == "f" and not np.isfinite(given).all():
            raise AgentError(f"the observation has a number that is not finite as {self._dtype}")
        is_one = given.ndim == rank
        if not is_one and not len(given):
            raise AgentError("the batch of observations is empty")
        return np.ascontiguousarray(given[None] if is_one else given), is_one

    def _converted(self, given: np.ndarray, wanted: str) -> np.ndarray:
        """Numbers in the agent's dtype, if that keeps what they say."""
        with np.errstate(all="ignore"):
            found = given.astype(self._dtype)
        same = self._dtype.kind == "f" or (given.dtype.kind in "biu" and np.array_equal(found, given))
        if not same:
            raise AgentError(f"the observation must be {wanted}, and its {given.dtype} cannot become that without loss")
        return found


def load(path: str | Path, threads: int = 1) -> Agent:
    """The agent of a file that `sharedq export` wrote, which uses so many threads.

    The file is refused if it is not whole or was changed. This finds accidents; it does not stop an attacker, who can
    compute the checksum of a changed file too. A file whose weights are in other files is refused as well.
    """
    try:
        import onnxruntime
    except ImportError:
        raise AgentError(MISSING) from None
    if not isinstance(threads, int) or threads < 1:
        raise AgentError(f"threads must be a whole number of at least 1, not {threads!r}")
    path = Path(path)
    try:
        if path.is_dir():
            raise AgentError(f"{path} is a folder: export the agent of a run first, with: sharedq export {path}")
        if path.stat().st_size > LARGEST:
            raise AgentError(f"{path} is no exported agent: it is larger than {LARGEST // 2**30} GiB")
        content = path.read_bytes()
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {error.strerror or error}") from None
    check_seal(content, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what it warns of says nothing to the user of an agent
    # Weights in other files are looked for below this path, and nothing can be there.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has an exception of its own for each kind of failure
        raise AgentError(f"{path} cannot be run by this onnxruntime: {str(error).splitlines()[0]}") from None
    try:
        return Agent(session, _metadata(session, path))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise AgentError(f"{path} does not describe its agent: export it again") from None


def _metadata(session: Any, path: Path) -> dict[str, Any]:
    """What the file says about the agent."""
    stored = session.get_modelmeta().custom_metadata_map
    found = {name.removeprefix(PREFIX): text for name, text in stored.items() if name.startswith(PREFIX)}
    if (form := found.get("format")) != FORMAT:
        raise AgentError(f"{path} has the format {form!r}, and this version reads {FORMAT!r}: export the agent again")
    return {"format": form, **json.loads(found["agent"])}


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


# The seal: the last bytes of a file are an entry of the metadata with the checksum of all bytes before them. Protocol
# buffers allow that, because the entries of a list may stand anywhere in a file.

SEAL = PREFIX + "sha256"
DIGITS = 64


def seal_of(content: bytes) -> bytes:
    """The entry that is appended to a file with this content."""
    name, digest = SEAL.encode(), hashlib.sha256(content).hexdigest().encode()
    entry = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([DIGITS]) + digest  # the fields 1, key, and 2, value
    return b"\x72" + bytes([len(entry)]) + entry  # an entry of field 14, metadata_props


SEALED_BYTES = len(seal_of(b""))


def check_seal(content: bytes, path: Path) -> None:
    """Raises unless the content ends with the seal of what is before it."""
    before, seal = content[:-SEALED_BYTES], content[-SEALED_BYTES:]
    if seal[:-DIGITS] != seal_of(b"")[:-DIGITS]:
        raise AgentError(f"{path} is not an agent that sharedq exported, or not all of one: use  sharedq export")
    if seal != seal_of(before):
        raise AgentError(f"{path} was changed after it was exported: export the agent again")
