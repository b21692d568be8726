"""Learning from the steps of actors, which are processes of their own and may be on other machines.

The actors push blocks of steps into a queue in Redis, and the learner publishes its weights there. A cycle of the
learner (see `schedule.py`) takes as many blocks as there are actors, from whichever actors they are, stores them and
makes the updates that are due. The rows and their priorities are in the learner's own replay.

A block keeps its environments beside each other, and its last step counts as cut off. So returns of several steps and
stacks of frames never reach from one block into the next, between which others may have been lost.

Shape letters: N environments, V vector steps of a cycle, L vector steps of a block, E environments of an actor.
"""

import json
import os
import secrets
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from sharedq import child_process
from sharedq.algorithms.algorithm import Algorithm
from sharedq.algorithms.dqn import DQN
from sharedq.environments.contract import Environment, HostEnvironment
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.errors import EnvironmentFailed
from sharedq.formats import ACTORS
from sharedq.redis_queue import Full, Queue, RedisQueue, Unreachable, check_url, is_exposed
from sharedq.remote_blocks import WEIGHTS, Arrivals, Block, BlockForm, Sender, packed, schema_of
from sharedq.replay.replay import Replay
from sharedq.replay.transitions import Transitions
from sharedq.runs import tensor_file
from sharedq.settings import check_count, require
from sharedq.training.compiled_program import learner_of
from sharedq.training.interactive import InteractiveProgram, Live, Run, _run
from sharedq.training.learning import step_like
from sharedq.training.measuring import NOTHING, Measuring
from sharedq.training.program import ChunkResult, Program
from sharedq.training.schedule import Schedule
from sharedq.transitions import Step

MOST_ACTORS = 1_000  # ours
POLL = 0.002  # ours: seconds between two looks at an empty queue
PATIENCE = 120.0  # ours: seconds without any block after which the run ends
COUNT = struct.Struct("<Q")  # the updates that were made when the weights were published

Told = tuple[dict[str, Any], dict[str, Any], bool]  # experiment, description of the environment, imports of others


@dataclass(frozen=True)
class Remote(Schedule):
    """Actors in processes of their own step the environments and send their steps through Redis, as in Ape-X."""

    needs: ClassVar = ("experiment",)
    learn_while_stepping: ClassVar = False
    actors_explore: ClassVar = True  # with shares of random actions of their own

    url: str = "redis://127.0.0.1:6379/0"  # where Redis or valkey is, without a password
    queue: str = "sharedq"  # what the keys in Redis begin with; two runs that share a server need different ones
    environments: int = 4  # environments of all actors together; rounded up to a multiple of the actors
    actors: int = 4  # processes that step environments, each an equal share of them
    local_actors: bool = True  # start the actors here; otherwise start each with: sharedq actor --learner URL
    block: int = 32  # steps of each environment that an actor sends at once
    queue_limit: int = 16  # actors wait while so many blocks are in the queue
    publish_period: int = 1_000  # environment steps between two publications of the weights

    def __post_init__(self):
        check_url(self.url)
        check_count("training.actors", self.actors, most=MOST_ACTORS)
        share = -(-self.environments // self.actors)
        object.__setattr__(self, "environments", max(share, 0) * self.actors)
        super().__post_init__()
        check_count("training.block", self.block, most=10_000)
        check_count("training.publish_period", self.publish_period)
        require(bool(self.queue) and self.queue.isprintable(), "training.queue needs a name that can be printed")
        require(
            self.queue_limit >= self.actors,
            f"training.queue_limit must be at least training.actors, {self.actors}, not {self.queue_limit}",
        )

    @property
    def cycle(self) -> int:
        """Environment steps in one cycle: whole blocks, after which whole updates are due."""
        return int(np.lcm(self.environments * self.block, self.update_period))

    @property
    def actor_command(self) -> str:
        """The command that starts an actor by hand, up to its number."""
        return f"sharedq actor --learner {self.url} --queue {self.queue} --number"

    def check(self, experiment: Any, spec: EnvironmentSpec) -> None:
        told = "training remote"
        require(isinstance(experiment.algorithm, DQN), f"{told} is for algorithm dqn: its actors explore by epsilon")
        require(
            isinstance(experiment.replay, Transitions),
            f"{told} needs whole observations in the replay, because blocks can be lost: add --replay transitions",
        )
        require(experiment.seeds == 1, f"{told} trains one seed, whose actors use all cores: add --seeds 1")

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        yield from super().remarks(experiment, spec)
        if is_exposed(self.url):
            yield f"{self.url} is another machine, and Redis does not encrypt: use a network of your own, or rediss://"
        if not self.local_actors:
            yield f"waiting for actors; start each of them with: {self.actor_command} 0 .. {self.actors - 1}"

    def build(
        self,
        environment: Environment | HostEnvironment,
        algorithm: Algorithm,
        replay: Replay,
        seeds: list[int],
        measuring: Measuring = NOTHING,
        *,
        told: Told,
        queue: Callable[[str, str], Queue] = RedisQueue,
    ) -> Program:
        return RemoteProgram(environment, algorithm, replay, self, seeds, measuring, told, queue)


class RemoteProgram(InteractiveProgram):
    """The compiled programs of a learner, and the actors that this process has started (see `program.Program`)."""

    settings: Any

    def __init__(
        self,
        environment: Any,
        algorithm: Algorithm,
        replay: Replay,
        settings: Remote,
        seeds: list[int],
        measuring: Measuring,
        told: Told,
        queue: Callable[[str, str], Queue],
    ):
        super().__init__(environment, algorithm, replay, settings, seeds, measuring)  # type: ignore[arg-type]
        experiment, spec, self._imports = told
        self._schema = schema_of(experiment, spec)
        self._plan = json.dumps({"experiment": experiment, "spec": spec}).encode()
        actions, step = environment.spec.actions, step_like(environment.spec)
        assert isinstance(actions, Discrete)
        share = settings.environments // settings.actors
        form = BlockForm.of(self._schema, step, actions.n, settings.block, share)
        self._arrivals = Arrivals(form, settings.actors)
        self.metric_names = [*self.metric_names, *(ACTORS + name for name in self._arrivals.report())]
        self._session = secrets.token_bytes(8)
        self._queue = queue(settings.url, settings.queue)
        self._processes: list[tuple[Any, Any]] = []  # each with the file of what it says of errors
        self._ready: list[Block] = []
        self._restored: Any = None

    def begin(self) -> Run:
        learner, shapes = self._begin(np.int32(0), self._seeds())[1], self.shapes()
        run = _run(learner, shapes.obs, shapes.returned, shapes.length)
        self._start(run, 0)
        return run

    def with_agent(self, run: Run, agent: Any) -> Run:
        run = super().with_agent(run, agent)
        self._publish(run.agent, 0)
        return run

    def to_devices(self, run: Run) -> Run:
        self._restored = super().to_devices(run)  # the loop calls `load_worlds` next, which publishes it
        return self._restored

    def load_worlds(self, saved: Any, step: int) -> None:
        self._start(self._restored, step)
        self._restored = None  # nothing but the loop refers to the run

    def _start(self, run: Run, step: int) -> None:
        """Publishes what actors need, and starts those that are to be here."""
        self._queue.put("finished", b"")
        self._queue.put("plan", self._plan)  # before the learner: actors look for another plan when that has changed
        self._queue.put("learner", self._session)
        self._publish(run.agent, step // self.settings.cycle)
        for number in range(self.settings.actors if self.settings.local_actors else 0):
            words = ["actor", "--learner", self.settings.url, "--queue", self.settings.queue]
            words += ["--number", str(number), "--schema", self._schema.hex(), *["--trust"] * self._imports]
            errors = tempfile.TemporaryFile()  # noqa: SIM115
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}  # the learner has the GPU
            self._processes.append((child_process.start(words, stderr=errors, env=environment), errors))

    def _publish(self, agent: Any, cycles: int) -> None:
        """Publishes the weights after so many cycles, and all else that a server which was restarted has lost."""
        self._check_queue()
        state = self.layout.fetch((agent.params, agent.source))
        content = b"".join(tensor_file.chunks(jax.tree.map(lambda x: x[0], state)))
        updates = self._updates_after(cycles)
        with suppress(Full):  # the actors go on with older weights until there is room
            self._queue.put("learner", self._session)
            self._queue.put("plan", self._plan)
            self._queue.put("weights", packed(WEIGHTS, self._schema, Sender(weights=updates), content))
            self._queue.put("version", COUNT.pack(updates))

    def _check_queue(self) -> None:
        """Raises if the actors at the queue work for another learner."""
        if self._queue.get("learner") not in (None, self._session):
            told = f"another learner has taken over the queue '{self.settings.queue}' at {self.settings.url}"
            raise EnvironmentFailed(f"{told}: give each run its own --training.queue")

    def _updates_after(self, cycles: int) -> int:
        learned = cycles - self.settings.cycles(self.settings.warm_up)
        return max(learned, 0) * self.settings.updates_per_cycle

    def advance(self, run: Run, start: int, stop: int) -> tuple[Run, ChunkResult]:
        live = Live(learner_of(run), self.layout.place(self._no_sums()), None)
        settings = self.settings
        first, last = start // settings.cycle, stop // settings.cycle
        warming_up = settings.warms_up(stop)
        settle = self._store if warming_up else self._store_and_learn
        published = max(settings.publish_period // settings.cycle, 1)
        ended: list[tuple] = []
        for number in range(first, last):
            blocks = self._taken(settings.steps_per_cycle // settings.block * settings.actors, number)
            for place, block in enumerate(blocks):
                ended += _ended(block, number * settings.cycle + place * block.ended.size)
            steps = self.layout.place(jax.tree.map(lambda x: x[None], self._joined(blocks)))
            (learner, sums, _, _), _ = settle(np.int32(number), (live.learner, live.sums, steps, None))
            live = Live(learner, sums, None)
            if not warming_up and (number + 1) % published == 0:
                self._publish(live.learner.agent, number + 1)
        told = self._told(live, [ended], 0 if warming_up else last - first)
        told = self._measured(told, live.learner, start, stop)
        if told.metrics:
            numbers = {ACTORS + name: np.array([float(x)]) for name, x in self._arrivals.report().items()}
            told = told._replace(metrics=told.metrics | numbers)
        if stop == self.log_steps[-1]:
            with suppress(Full, Unreachable):  # the run is whole, and actors that wait can be stopped by hand
                self._queue.put("finished", self._schema)
        return run._replace(**live.learner._asdict()), told

    def _joined(self, blocks: list[Block]) -> Step:
        """The steps [V, N] of a cycle: blocks behind each other and beside each other, of whichever actors they are."""
        beside = [blocks[place :: self.settings.actors] for place in range(self.settings.actors)]
        behind = [jax.tree.map(lambda *x: np.concatenate(x), *map(_cut, column)) for column in beside]
        return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *behind)

    def _taken(self, wanted: int, cycles: int) -> list[Block]:
        """So many blocks from the queue, after so many cycles, in the order in which they came.

        Waits for them; the updates that were dispatched are made meanwhile.
        """
        since, updates = time.monotonic(), self._updates_after(cycles)
        while len(self._ready) < wanted:
            messages = self._queue.pop(wanted - len(self._ready))
            blocks = [block for one in messages if (block := self._arrivals.take(one, updates)) is not None]
            self._ready += blocks
            if blocks:
                since = time.monotonic()
                continue
            self._check_queue()
            if not messages:
                self._check_actors(time.monotonic() - since)
                time.sleep(POLL)
        blocks, self._ready = self._ready[:wanted], self._ready[wanted:]
        return blocks

    def _check_actors(self, waited: float) -> None:
        """Raises if no block can be expected any more."""
        others = f"; {self._arrivals.strangers} blocks of other runs were dropped" if self._arrivals.strangers else ""
        if self._processes and all(process.poll() is not None for process, _ in self._processes):
            errors = self._processes[0][1]
            errors.seek(0)
            raise EnvironmentFailed(f"all actors have ended ({child_process.last_line(errors.read())}){others}")
        if waited > PATIENCE:
            told = f"no block came for {PATIENCE:.0f} s{others}"
            raise EnvironmentFailed(f"{told}: start actors with {self.settings.actor_command} 0")

    def save_worlds(self) -> Any:
        return None

    def close(self) -> None:
        for process, _ in self._processes:
            process.terminate()
        for process, errors in self._processes:
            process.wait()
            errors.close()
        self._processes = []


def _ended(block: Block, before: int) -> Iterator[tuple[int, Any, Any]]:
    """The step, the return and the length of the episodes that end in a block, if so many steps came before it."""
    rows, places = np.nonzero(block.ended)
    at = before + (rows + 1) * block.ended.shape[1]
    return zip(at.tolist(), block.returned[rows, places], block.length[rows, places], strict=True)


def _cut(block: Block) -> Step:
    """The steps of a block. The last ones are cut off, so that nothing is summed or stacked beyond them."""
    truncated = block.step.truncated.copy()
    truncated[-1] = ~block.step.terminated[-1]
    return block.step._replace(truncated=truncated)
