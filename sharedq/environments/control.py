"""Tasks of the DeepMind Control Suite, through dm_control itself.

An observation is the task's dictionary in the task's own order, with each part flattened, in float32. Wrapper packages
sort the names instead, so agents trained with them expect other inputs than ours.

The saved state of an environment is the number of its episode, the control steps since its start, and MuJoCo's
integration state: time, positions, velocities, activations, the start of the solver, and the forces and bodies that a
task may move. To load it, the episode is first started again, because some tasks draw parts of the model at random (the
place of a target, the ground). No task draws after that, so the episode continues bit for bit.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sharedq.environments.contract import HostEnvironment
from sharedq.environments.spec import Continuous, EnvironmentSpec
from sharedq.environments.sync_vector_env import HostTimeStep, SyncVectorEnv, episode_seed
from sharedq.errors import SharedqError, Unphysical, letters, missing_extra, reason, unknown
from sharedq.settings import check_count


@dataclass(frozen=True)
class Control:
    """A task of the DeepMind Control Suite: continuous actions, rewards of 0 to 1 per control step, no terminations."""

    task: str = "cheetah-run"  # a domain-task of the suite, in any spelling
    action_repeat: int = 1  # control steps per action; their rewards are summed
    time_limit: int = 1_000  # control steps (not actions) until an episode is truncated; the suite's own is 1,000

    def __post_init__(self):
        for name in ("action_repeat", "time_limit"):
            check_count(name, getattr(self, name))

    def build(self) -> HostEnvironment:
        name, example = _load(self.task)
        spec, parts = example.action_spec(), example.observation_spec().values()
        actions = Continuous(spec.minimum, spec.maximum)

        def open_worlds(count: int, seed: int, render: bool = False) -> SyncVectorEnv:
            return SyncVectorEnv([Simulation(self, _load(name)[1], actions, seed, world) for world in range(count)])

        observation = jax.ShapeDtypeStruct((sum(int(np.prod(part.shape)) for part in parts),), np.float32)
        return HostEnvironment(EnvironmentSpec(f"control/{name}", observation, actions), open_worlds)


class Simulation:
    """One environment of the suite, the number of its episode and the control steps of that episode so far."""

    def __init__(self, settings: Control, environment: Any, actions: Continuous, seed: int, world: int):
        self._settings, self._environment, self._actions = settings, environment, actions
        self._seed, self._world = seed, world
        self._episode, self._steps = -1, 0

    def begin(self) -> np.ndarray:
        self._episode, self._steps = self._episode + 1, 0
        self._environment.task.random.seed(episode_seed(self._seed, self._world, self._episode))
        return _flat(self._environment.reset().observation)

    def step(self, action: Any) -> HostTimeStep:
        from dm_control.rl.control import PhysicsError

        control, limit, reward = self._actions.in_units(action), self._settings.time_limit, 0.0
        try:
            for _ in range(self._settings.action_repeat):
                now = self._environment.step(control)
                reward += now.reward
                self._steps += 1
                if now.last() or self._steps >= limit:
                    break
        except PhysicsError as error:
            raise Unphysical("the state of the simulator" if np.isfinite(control).all() else "an action") from error
        terminated = now.last() and now.discount == 0
        truncated = not terminated and (now.last() or self._steps >= limit)
        return HostTimeStep(_flat(now.observation), reward, terminated, truncated)

    def save(self) -> Any:
        state = self._environment.physics.get_state(_integration())
        return {"episode": self._episode, "steps": self._steps, "state": state.tolist()}

    def load(self, saved: Any) -> None:
        import mujoco

        self._episode = saved["episode"] - 1
        self.begin()
        self._steps = saved["steps"]
        physics = self._environment.physics
        physics.set_state(np.array(saved["state"]), _integration())
        mujoco.mj_step1(physics.model.ptr, physics.data.ptr)  # every step of dm_control ends with this call

    def picture(self) -> np.ndarray:
        try:
            return self._environment.physics.render(240, 320, camera_id=0)
        except Exception as error:  # each way to draw without a screen raises other errors
            raise SharedqError(
                f"'{self._settings.task}' cannot be drawn ({reason(error)}): "
                "install EGL or OSMesa and set MUJOCO_GL to it"
            ) from error

    def close(self) -> None:
        self._environment.close()


def _flat(observation: Any) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)


def _integration() -> int:
    import mujoco

    return int(mujoco.mjtState.mjSTATE_INTEGRATION)


def tasks() -> list[str]:
    """The names of all tasks of the suite."""
    return [f"{domain}-{name}" for domain, name in _suite().ALL_TASKS]


def _load(task: str) -> tuple[str, Any]:
    """The name of a task, from any spelling, and a new environment of it without a time limit."""
    suite = _suite()
    for domain, name in suite.ALL_TASKS:
        if letters(domain + name) == letters(task):
            with _quiet():
                return f"{domain}-{name}", suite.load(domain, name, {"random": 0, "time_limit": float("inf")})
    raise unknown("task of the Control Suite", task, tasks())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides MuJoCo's warnings about the suite's own files."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _suite() -> Any:
    """Imports dm_control's suite. It chooses how to draw when it is imported; without a screen, we choose EGL."""
    if importlib.util.find_spec("dm_control") is None:
        raise missing_extra("dm_control", "control", "the Control Suite")
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl"
        try:
            return importlib.import_module("dm_control.suite")
        except Exception:  # no EGL, or no device for it: everything except pictures still works
            os.environ["MUJOCO_GL"] = "disabled"
    return importlib.import_module("dm_control.suite")
