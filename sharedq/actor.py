"""An actor: it steps environments with the newest weights that a learner has published, and sends it the steps.

The learner publishes the experiment, so an actor needs the address of the queue only. It never changes the learner's
run, and it can be killed or started at any time.
"""

import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.environments import Environment
from sharedq.environments.contract import Outcome, autoreset
from sharedq.environments.spec import from_json
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment, Trust
from sharedq.json_files import parse_json
from sharedq.redis_queue import Full, Queue
from sharedq.remote_blocks import WEIGHTS, Block, BlockForm, OtherSchema, Sender, epsilon_of, schema_of, unpacked
from sharedq.runs import tensor_file
from sharedq.training.interactive import ends_to_learn
from sharedq.training.learning import step_like
from sharedq.training.remote import COUNT
from sharedq.transitions import Step

POLL = 0.05  # ours: seconds between two looks at a full queue
LONGEST_POLL = 0.5  # ours: at one without memory, and for a learner that has not begun
REMEDY = "something else has written it: use another --queue"

Say = Callable[[str], None]


class Plan(NamedTuple):
    """What a learner has published, and what follows from it for one actor."""

    experiment: Experiment  # with the actor's own exploration
    schema: bytes
    spec: Any


def read_plan(text: bytes, number: int, trust: Trust, expected: str | None) -> Plan:
    """The plan that a learner has published. Raises if it is not the expected one, or names code that is not trusted.

    Nothing of it is imported or run before that.
    """
    said, spec, schema = _said(text)
    if expected is not None and schema.hex() != expected:
        raise SharedqError("the plan in Redis is that of another run: give each run its own --training.queue")
    experiment = Experiment.from_dict(said, trust)
    if experiment.kind("training") != "remote":
        raise SharedqError(f"the plan in Redis is damaged (training {experiment.kind('training')}): {REMEDY}")
    share = epsilon_of(number, experiment.training.actors)
    own = {"epsilon_start": share, "epsilon_end": share, "epsilon_steps": 0}
    return Plan(experiment.replace(**{f"algorithm.{name}": x for name, x in own.items()}), schema, spec)


def _said(text: bytes) -> tuple[dict[str, Any], Any, bytes]:
    """The experiment of a plan, the description of its environment, and its schema."""
    said = parse_json(text, {"experiment": {str: Any}, "spec": {str: Any}}, "the plan in Redis", REMEDY)
    try:
        return said["experiment"], from_json(said["spec"]), schema_of(said["experiment"], said["spec"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SharedqError(f"the plan in Redis is damaged ({error}): {REMEDY}") from None


class Actor:
    """Steps environments and sends the steps."""

    def __init__(self, queue: Queue, plan: Plan, number: int, say: Say):
        self._queue, self._plan, self._number, self._say = queue, plan, number, say
        training = plan.experiment.training
        self._length, self._size = training.block, training.environments // training.actors
        built = plan.experiment.build()
        step = step_like(plan.spec)
        self._form = BlockForm.of(plan.schema, step, plan.spec.actions.n, self._length, self._size)
        self._session = secrets.randbits(32)
        words = [plan.experiment.seed, number, self._session]
        self._seed = int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)
        stepped = Compiled if isinstance(built.environment, Environment) else Hosted
        self._worlds: Any = stepped(built.environment, built.algorithm, self._seed, self._length, self._size)
        shapes = built.agent_shapes()
        self._like = (shapes.params, shapes.source)
        self._bare = shapes._replace(optimiser=())  # acting needs no optimiser
        self._agent: Any = None
        self._version = 0
        self._learner: bytes | None = None  # which process learned when we last looked
        self._warned = False

    def run(self, blocks: int | None = None) -> None:
        """Sends blocks until the run has finished or another one has taken its place, or so many."""
        first = 0
        while blocks is None or first < blocks * self._length:
            if not self._update_weights():
                return
            block = self._worlds.collect(self._agent, first)
            sender = Sender(self._number, self._session, first, self._version)
            self._send(self._form.pack(sender, block))
            first += self._length

    def _update_weights(self) -> bool:
        """Takes the newest weights, and waits for the first ones. Returns whether the run goes on."""
        while True:
            if self._is_over():
                return False
            version = self._queue.get("version")
            if self._agent is None or version not in (None, COUNT.pack(self._version)):
                self._read_weights()
            if self._agent is not None:
                return True
            time.sleep(LONGEST_POLL)

    def close(self) -> None:
        self._worlds.close()

    def _is_over(self) -> bool:
        """Whether the run has finished, or another one has taken its place."""
        return self._queue.get("finished") == self._plan.schema or self._is_replaced()

    def _is_replaced(self) -> bool:
        """Whether the learner is that of another run now. A run that was resumed is the same run."""
        learner = self._queue.get("learner")
        if learner in (None, self._learner):
            return False
        self._learner, plan = learner, self._queue.get("plan")
        return plan is not None and _said(plan)[2] != self._plan.schema

    def _read_weights(self) -> None:
        message = self._queue.get("weights")
        if message is None:  # Redis was restarted, and the learner will publish them again
            return
        try:
            sender, content = unpacked(message, WEIGHTS, self._plan.schema)
        except OtherSchema:  # a run has just begun or ended here: look at the plan again before the next try
            self._learner = None
            return
        try:
            params, source = tensor_file.restore(np.frombuffer(content, np.uint8), self._like)
        except ValueError as error:
            raise SharedqError(f"the weights in Redis cannot be read: {error}") from None
        self._agent = self._bare._replace(params=params, source=source)
        self._version = sender.weights

    def _send(self, message: bytes) -> None:
        """Sends a block, and waits while the learner has enough to do."""
        limit = self._plan.experiment.training.queue_limit
        while True:
            try:
                waiting = self._queue.push(message)
                break
            except Full as error:
                if not self._warned:
                    self._say(f"{error}: waiting until there is room")
                self._warned = True
                time.sleep(LONGEST_POLL)
        while waiting >= limit:
            time.sleep(POLL)
            if self._is_over():
                return
            waiting = self._queue.waiting()


def act(queue: Queue, number: int, trust: Trust = False, expected: str | None = None, *, say: Say = print) -> None:
    """Acts for the learner at a queue until it has finished. Waits for a learner that has not begun."""
    while True:
        plan = read_plan(_newest(queue, say), number, trust, expected)
        say(f"actor {number} explores with epsilon {plan.experiment.algorithm.epsilon_end:.4f}")
        actor = Actor(queue, plan, number, say)
        actor.run()
        actor.close()
        if queue.get("finished") == plan.schema:
            say("the learner has finished")
            return
        say("another run has begun at this queue")


def _newest(queue: Queue, say: Say) -> bytes:
    """The plan of the learner at a queue. Waits for it; that of a run that has finished does not count."""
    waiting = ""
    while True:
        text, finished = queue.get("plan"), queue.get("finished")
        if text is not None and not (finished and finished == _said(text)[2]):
            return text
        told = "no run has published its plan here yet" if text is None else "the last run here has finished"
        if told != waiting:
            say(f"waiting for a learner: {told}")
        waiting = told
        time.sleep(LONGEST_POLL)


class Compiled:
    """Environments on the device. A block is one compiled call."""

    def __init__(self, environment: Environment, algorithm: Any, seed: int, length: int, size: int):
        step_all = jax.vmap(autoreset(environment).step)
        root = random_keys.root(seed)
        act_key, world_key = (random_keys.named(root, name) for name in ("act", "environment"))

        def once(agent: Any, carry: Any, time: jax.Array) -> Any:
            state, obs, returned, lengths = carry
            action = algorithm.act(agent, random_keys.at(act_key, time), obs, time)
            keys = jax.random.split(random_keys.at(world_key, time), size)
            state, out = step_all(keys, state, action)
            returned, lengths, ended = returned + out.reward, lengths + 1, out.terminated | out.truncated
            step = Step(obs, action, out.reward, out.terminated, out.truncated, out.final_obs)
            block = Block(step, ended, returned, lengths)
            return (state, out.obs, jnp.where(ended, 0, returned), jnp.where(ended, 0, lengths)), block

        def collect(agent: Any, carry: Any, first: jax.Array) -> Any:
            return jax.lax.scan(partial(once, agent), carry, first + jnp.arange(length))

        keys = jax.random.split(random_keys.named(root, "first episodes"), size)
        self._carry = (*jax.jit(jax.vmap(environment.reset))(keys), jnp.zeros(size), jnp.zeros(size, jnp.int32))
        self._collect = jax.jit(collect)

    def close(self) -> None: ...

    def collect(self, agent: Any, first: int) -> Block:
        self._carry, block = self._collect(agent, self._carry, np.int32(first % 2**30))
        return jax.device_get(block)


class Hosted:
    """Environments that Python steps."""

    def __init__(self, environment: Any, algorithm: Any, seed: int, length: int, size: int):
        self._worlds = environment.open(size, seed)
        self._obs, self._length = self._worlds.reset(), length
        self._returned, self._lengths = np.zeros(size, np.float32), np.zeros(size, np.int32)
        root = random_keys.named(random_keys.root(seed), "act")
        self._act = jax.jit(lambda agent, obs, time: algorithm.act(agent, random_keys.at(root, time), obs, time))

    def close(self) -> None:
        self._worlds.close()

    def collect(self, agent: Any, first: int) -> Block:
        rows = [self._once(agent, time) for time in range(first, first + self._length)]
        return jax.tree.map(lambda *x: np.stack(x), *rows)

    def _once(self, agent: Any, time: int) -> Block:
        action = np.asarray(self._act(agent, self._obs, np.int32(time % 2**30)))
        out: Outcome = self._worlds.step(action)
        self._returned, self._lengths = self._returned + out.reward, self._lengths + 1
        ended = out.terminated | out.truncated
        step = Step(self._obs, action, out.reward, *ends_to_learn(out), out.final_obs)
        block = Block(step, ended, self._returned, self._lengths)
        self._returned, self._lengths = np.where(ended, 0, self._returned), np.where(ended, 0, self._lengths)
        self._obs = out.obs
        return block
