"""Any environment of Gymnasium, or a user's own. Several of them are stepped one after another in this process."""

import warnings
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharedq.environments.contract import HostEnvironment, follows
from sharedq.environments.spec import Actions, Continuous, Discrete, EnvironmentSpec, Stacks, stackable
from sharedq.environments.sync_vector_env import HostTimeStep, SyncVectorEnv, episode_seed
from sharedq.errors import EnvironmentFailed, SharedqError, missing_extra, told, unknown
from sharedq.imports import own_errors, place_of, references, resolve, search_here
from sharedq.settings import check_count, require

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class Gymnasium:
    """An environment of Gymnasium, or your own with its interface, stepped by Python on the host.

    Observations are arrays or discrete. Arrays keep the dtypes uint8 and bool and become float32 otherwise; discrete
    observations become one-hot vectors.

    Every episode has a seed of its own, derived from the seed of the run, the number of the environment and the number
    of the episode. The saved state is the number of the episode and its actions so far, and loading replays them. This
    takes as long as the episode took, and is exact if the environment draws only from its own generator. If the replay
    ends at another observation, it is refused.
    """

    id: str = "LunarLander-v3"  # a registered id, or a package.module:function that returns a new gymnasium.Env
    time_limit: int | None = None  # steps until an episode is truncated; none keeps the environment's own limit
    frame_stacks: bool = False  # observations are stacks of uint8 frames [..., time], newest last, zeros at the start

    def __post_init__(self):
        require(
            self.time_limit is None or self.time_limit >= 1,
            f"time_limit must be none or at least 1, not {self.time_limit}",
        )
        check_count("time_limit", self.time_limit or 1)

    def imports(self) -> list[str]:
        """The import strings that building runs: a factory, or the module of Gymnasium's own form module:id."""
        return references(self.id)

    def build(self) -> HostEnvironment:
        example = self._make()
        with own_errors(f"environment '{self.id}'", type(example.unwrapped).__module__, EnvironmentFailed):
            observation, _ = _reader(self.id, example.observation_space)
            actions, _ = _actor(self.id, example.action_space)
            example.close()
        require(
            not self.frame_stacks or stackable(observation),
            f"frame_stacks needs observations of uint8 [..., time], and those of '{self.id}' are "
            f"{observation.dtype}{list(observation.shape)}: set --environment.frame_stacks false",
        )

        def open_worlds(count: int, seed: int, render: bool = False) -> SyncVectorEnv:
            made = [self._make(render) for _ in range(count)]
            require(len(set(map(id, made))) == count, f"'{self.id}' returned one environment twice: make a new one")
            return SyncVectorEnv([Player(self, one, seed, world) for world, one in enumerate(made)])

        stacks: Stacks = "black" if self.frame_stacks else None
        return HostEnvironment(EnvironmentSpec(f"gymnasium/{self.id}", observation, actions, stacks), open_worlds)

    def _make(self, render: bool = False) -> "gymnasium.Env":
        try:
            import gymnasium
        except ModuleNotFoundError as error:
            raise missing_extra("gymnasium", "gymnasium", f"'{self.id}'") from error

        if _is_factory(self.id):
            made = self._made_by_user(gymnasium)
        else:
            made = self._registered(gymnasium, {"render_mode": "rgb_array"} if render else {})
        shows = made.render_mode == "rgb_array" or not render
        require(shows, f"'{self.id}' has no pictures: its render_mode is {made.render_mode} and not rgb_array")
        return made

    def _made_by_user(self, gymnasium: Any) -> "gymnasium.Env":
        factory = resolve(self.id, "environment factory")
        require(callable(factory), f"environment factory '{self.id}' is not a function")
        with own_errors(f"environment factory '{self.id}'", getattr(factory, "__module__", ""), EnvironmentFailed):
            made = factory()
        right = isinstance(made, gymnasium.Env)
        require(right, f"environment factory '{self.id}' returned {type(made).__name__}, not a gymnasium.Env")
        return made if self.time_limit is None else gymnasium.wrappers.TimeLimit(made, self.time_limit)

    def _registered(self, gymnasium: Any, options: dict[str, Any]) -> "gymnasium.Env":
        if references(self.id):
            search_here()
        try:
            with warnings.catch_warnings():
                # Box2D's extension warns while it is imported, and crashes where warnings are errors.
                warnings.filterwarnings("ignore", r"builtin type .* has no __module__", DeprecationWarning)
                return gymnasium.make(self.id, self.time_limit, disable_env_checker=True, **options)
        except gymnasium.error.UnregisteredEnv as error:
            raise unknown("Gymnasium environment", self.id, gymnasium.registry) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user needs to see whatever goes wrong
            if isinstance(error.__cause__, ImportError) and error.__cause__.name == "Box2D":
                raise missing_extra("box2d", "gymnasium", f"'{self.id}'") from error
            module = self.id.partition(":")[0]
            where = f" ({place_of(error, module)})" if references(self.id) else ""
            raise SharedqError(f"Gymnasium environment '{self.id}' cannot be created: {told(error)}{where}") from error


class Player:
    """One environment, the number of its episode and the actions of that episode so far."""

    def __init__(self, settings: Gymnasium, environment: "gymnasium.Env", seed: int, world: int):
        self._name, self._environment, self._seed, self._world = settings.id, environment, seed, world
        self._stacked = settings.frame_stacks
        self._read = _reader(self._name, environment.observation_space)[1]
        self._to_action = _actor(self._name, environment.action_space)[1]
        self._episode = -1
        self._actions: list[Any] = []

    def begin(self) -> np.ndarray:
        self._episode, self._actions = self._episode + 1, []
        seed = episode_seed(self._seed, self._world, self._episode)
        with self._own_errors():
            return self._see(self._read(self._environment.reset(seed=seed)[0]), before=0)

    def step(self, action: Any) -> HostTimeStep:
        self._actions.append(action)
        with self._own_errors():
            obs, reward, terminated, truncated, _ = self._environment.step(self._to_action(action))
            obs = self._see(self._read(obs), self._seen)
            return HostTimeStep(obs, float(reward), bool(terminated), bool(truncated and not terminated))

    def _see(self, obs: np.ndarray, before: Any) -> np.ndarray:
        """Keeps the newest observation. If stacks are declared, checks that its older frames are those of `before`."""
        require(
            not self._stacked or follows(obs, before),
            f"observations of environment '{self._name}' are not stacks of frames [..., time], the newest last, with "
            "zeros before an episode's first: set --environment.frame_stacks false and --replay uniform, or stack so",
        )
        self._seen = obs
        return obs

    def save(self) -> Any:
        actions = np.asarray(self._actions).tolist()
        return {"episode": self._episode, "actions": actions, "seen": zlib.crc32(self._seen.tobytes())}

    def load(self, saved: Any) -> None:
        self._episode = saved["episode"] - 1
        self.begin()
        ended = any(happened.terminated or happened.truncated for happened in map(self.step, saved["actions"]))
        require(
            not ended and zlib.crc32(self._seen.tobytes()) == saved["seen"],
            f"environment '{self._name}' did not reach the same state when its episode was played again: a run can "
            "only be resumed if the environment draws from its own np_random alone; correct that and begin a new run",
        )

    def picture(self) -> np.ndarray:
        with self._own_errors():
            return np.asarray(self._environment.render(), np.uint8)

    def close(self) -> None:
        with self._own_errors():
            self._environment.close()

    def _own_errors(self) -> AbstractContextManager[None]:
        module = type(self._environment.unwrapped).__module__
        return own_errors(f"environment '{self._name}' of seed {self._seed}", module, EnvironmentFailed)


def _is_factory(reference: str) -> bool:
    """Whether the string names a factory. Gymnasium's own form module:id does not, because its ids contain a '-'."""
    return ":" in reference and reference.partition(":")[2].replace(".", "").isidentifier()


def _reader(name: str, space: Any) -> tuple[jax.ShapeDtypeStruct, Callable[[Any], np.ndarray]]:
    """The shape and dtype of observations, and a function that turns one into a new array of this form."""
    from gymnasium import spaces

    def checked(obs: Any, wanted: str, right: Callable[[np.ndarray], bool]) -> np.ndarray:
        found = np.asarray(obs)
        if not right(found):
            raise SharedqError(
                f"environment '{name}' gave an observation of {found.dtype}{list(found.shape)} and declared {wanted}: "
                "wrap it so that all are as declared"
            )
        return found

    if isinstance(space, spaces.Box):
        form, declared = space.shape, np.dtype(space.dtype)
        wanted = f"{declared}{list(form)}"
        dtype = declared if declared in (np.uint8, np.bool_) else np.dtype(np.float32)

        def read_array(obs: Any) -> np.ndarray:
            found = checked(obs, wanted, lambda found: found.shape == form and found.dtype.kind == declared.kind)
            return found.astype(dtype)  # also a copy: some environments reuse the array that they returned

        return jax.ShapeDtypeStruct(form, dtype), read_array

    if isinstance(space, spaces.Discrete):
        first, count = int(space.start), int(space.n)
        last = first + count - 1

        def read_number(obs: Any) -> np.ndarray:
            wanted = f"a whole number from {first} to {last}"
            found = checked(obs, wanted, lambda found: found.shape == () and found.dtype.kind in "iu")
            if not first <= found <= last:
                raise SharedqError(f"environment '{name}' returned the observation {found} but declared {wanted}")
            one_hot = np.zeros(count, np.float32)
            one_hot[found - first] = 1
            return one_hot

        return jax.ShapeDtypeStruct((count,), np.float32), read_number

    raise SharedqError(
        f"environment '{name}' has observations of {type(space).__name__}, but only Box and Discrete are supported: "
        "wrap it in gymnasium.wrappers.FlattenObservation"
    )


def _actor(name: str, space: Any) -> tuple[Actions, Callable[[Any], Any]]:
    """The actions of an environment, and a function that turns one of ours into one of its own."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        numbered = Discrete(int(space.n), int(space.start))
        return numbered, numbered.in_units
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f":
        actions = Continuous(space.low, space.high)
        return actions, lambda action: actions.in_units(np.asarray(action, np.float32))  # a saved action is a list
    kind = f"Box of {space.dtype}" if isinstance(space, spaces.Box) else type(space).__name__
    raise SharedqError(f"environment '{name}' has actions of {kind}; they must be Discrete or a Box of floats")
