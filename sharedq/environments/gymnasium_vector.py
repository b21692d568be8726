"""Any environment of Gymnasium, or a user's own. Several of them are stepped one after another in this process."""

import contextlib
import io
import warnings
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sharedq.environments.contract import HostEnvironment, follows
from sharedq.environments.gymnasium_spaces import actions, observations
from sharedq.environments.keywords import keywords_as_text, keywords_of, texts_in
from sharedq.environments.spec import EnvironmentSpec, Stacks, stackable
from sharedq.environments.sync_vector_env import HostTimeStep, SyncVectorEnv, episode_seed
from sharedq.errors import EnvironmentFailed, SharedqError, missing_extra, told, unknown
from sharedq.imports import BrokenContract, own_errors, place_of, reference_to, references, resolve, search_here
from sharedq.settings import check_count, require

if TYPE_CHECKING:
    import gymnasium

MAZES = ("PointMaze_", "AntMaze_")  # how the ids of the package gymnasium-robotics begin


@dataclass(frozen=True)
class Gymnasium:
    """An environment of Gymnasium, or your own with its interface, stepped by Python on the host.

    Arrays keep the dtypes uint8 and bool and become float32 otherwise. Discrete observations become one-hot vectors.
    Dictionaries and tuples are flattened into one vector of float32. Actions are discrete or a box of floats; up to
    1,000 combinations of MultiDiscrete and MultiBinary are enumerated.

    From Python, `id` can also be a class, a function that makes the environment, or an `EnvSpec` of Gymnasium. The
    setting becomes a text by which another process finds it.

    Every episode has a seed of its own, derived from the seed of the run, the number of the environment and the number
    of the episode. The saved state is the number of the episode and its actions so far, and loading replays them. This
    takes as long as the episode took, and is exact if the environment draws only from its own generator. If the replay
    ends at another observation, it is refused.
    """

    id: Any = "LunarLander-v3"  # a registered id, or the package.module:name of a class or function that makes one
    time_limit: int | None = None  # steps until an episode is truncated; none keeps the environment's own limit
    frame_stacks: bool = False  # observations are stacks of uint8 frames [..., time], newest last, zeros at the start
    channels: Literal["last", "first"] | None = None  # where images have them; none refuses what looks like first
    kwargs: Any = None  # keyword arguments for the environment or your function, as name=value,name=value

    def __post_init__(self):
        object.__setattr__(self, "kwargs", keywords_as_text(self.kwargs, "environment.kwargs"))
        if not isinstance(self.id, str):
            for name, value in _as_texts(self.id, self.kwargs, self.time_limit).items():
                object.__setattr__(self, name, value)
        require(
            self.time_limit is None or self.time_limit >= 1,
            f"time_limit must be none or at least 1, not {self.time_limit}",
        )
        check_count("time_limit", self.time_limit or 1)

    def imports(self) -> list[str]:
        """The import strings that building may run: a factory, Gymnasium's own form module:id, and texts like these.

        An environment may hand a keyword argument on to `gymnasium.make`, as those of the package shimmy do.
        """
        return references(self.id, *texts_in(keywords_of(self.kwargs)))

    def build(self) -> HostEnvironment:
        example = self._make()
        with own_errors(f"environment '{self.id}'", *_code_of(example, "close")):
            seen = observations(self.id, example.observation_space, self.channels, self.frame_stacks)
            acted = actions(self.id, example.action_space)
            example.close()
        observation = seen.form
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
        spec = EnvironmentSpec(f"gymnasium/{self.id}", observation, acted.actions, stacks)
        return HostEnvironment(spec, open_worlds, tuple(filter(None, (seen.remark, acted.remark))))

    def _make(self, render: bool = False) -> "gymnasium.Env":
        try:
            import gymnasium
        except ModuleNotFoundError as error:
            raise missing_extra("gymnasium", "gymnasium", f"'{self.id}'") from error

        options = {"render_mode": "rgb_array"} if render else {}
        made = (self._made_by_user if _is_factory(self.id) else self._registered)(gymnasium, options)
        shows = made.render_mode == "rgb_array" or not render
        require(shows, f"'{self.id}' has no pictures: its render_mode is {made.render_mode} and not rgb_array")
        return made

    def _made_by_user(self, gymnasium: Any, options: dict[str, Any]) -> "gymnasium.Env":
        """What the user's class or function makes, with those of the options that it takes."""
        factory = resolve(self.id, "environment factory")
        require(callable(factory), f"environment factory '{self.id}' is not a function")
        module = getattr(factory, "__module__", "")
        options = {name: value for name, value in options.items() if _takes(factory, name)}
        with own_errors(f"environment factory '{self.id}'", module, EnvironmentFailed, factory):
            made = factory(**{**keywords_of(self.kwargs), **options})
        right = isinstance(made, gymnasium.Env)
        require(right, f"environment factory '{self.id}' returned {type(made).__name__}, not a gymnasium.Env")
        return made if self.time_limit is None else gymnasium.wrappers.TimeLimit(made, self.time_limit)

    def _registered(self, gymnasium: Any, options: dict[str, Any]) -> "gymnasium.Env":
        if references(self.id):
            search_here()
        if self.id.startswith(MAZES):
            _register_mazes(self.id)
        try:
            with warnings.catch_warnings():
                # Box2D's extension warns while it is imported, and crashes where warnings are errors.
                warnings.filterwarnings("ignore", r"builtin type .* has no __module__", DeprecationWarning)
                options = {**keywords_of(self.kwargs), **options}
                return gymnasium.make(self.id, self.time_limit, disable_env_checker=True, **options)
        except gymnasium.error.UnregisteredEnv as error:
            named = unknown("Gymnasium environment", self.id, gymnasium.registry)
            raise SharedqError(f"{named} (if a package of its own registers it, write package:{self.id})") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user needs to see whatever goes wrong
            if isinstance(error.__cause__, ImportError) and error.__cause__.name == "Box2D":
                raise missing_extra("box2d", "gymnasium", f"'{self.id}'") from error
            entry = getattr(gymnasium.registry.get(self.id.rpartition(":")[2]), "entry_point", None)
            made_by = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "gymnasium")
            modules = (self.id.partition(":")[0], made_by)
            theirs = references(self.id) or made_by.partition(".")[0] != "gymnasium"
            where = f" ({place_of(error, modules)})" if theirs else ""
            raise SharedqError(f"Gymnasium environment '{self.id}' cannot be created: {told(error)}{where}") from error


class Player:
    """One environment, the number of its episode and the actions of that episode so far."""

    def __init__(self, settings: Gymnasium, environment: "gymnasium.Env", seed: int, world: int):
        self._name, self._environment, self._seed, self._world = settings.id, environment, seed, world
        self._stacked = settings.frame_stacks
        seen = observations(self._name, environment.observation_space, settings.channels, self._stacked)
        self._read = seen.read
        self._to_action = actions(self._name, environment.action_space).in_units
        self._code = {name: _code_of(environment, name) for name in ("reset", "step", "render", "close")}
        self._episode = -1
        self._actions: list[Any] = []

    def begin(self) -> np.ndarray:
        self._episode, self._actions = self._episode + 1, []
        seed = episode_seed(self._seed, self._world, self._episode)
        with self._own_errors("reset"):
            given = self._environment.reset(seed=seed)
            if not (isinstance(given, tuple) and len(given) == 2):
                raise BrokenContract(f"returned {_kind(given)} from reset, and not the two obs and info")
            return self._see(self._read(given[0]), before=0)

    def step(self, action: Any) -> HostTimeStep:
        self._actions.append(action)
        with self._own_errors("step"):
            given = self._environment.step(self._to_action(action))
            if not (isinstance(given, tuple) and len(given) == 5):
                raise BrokenContract(
                    f"returned {_kind(given)} from step, and not the five obs, reward, terminated, truncated and info"
                )
            obs, reward, terminated, truncated, _ = given
            obs = self._see(self._read(obs), self._seen)
            return HostTimeStep(obs, _number(reward), bool(terminated), bool(truncated and not terminated))

    def _see(self, obs: np.ndarray, before: Any) -> np.ndarray:
        """Keeps the newest observation. If stacks are declared, checks that its older frames are those of `before`."""
        require(
            not self._stacked or follows(obs, before),
            f"observations of environment '{self._name}' are not stacks of frames [..., time], the newest last, with "
            "zeros before an episode's first: set --environment.frame_stacks false and --replay transitions, or stack "
            "so",
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
        with self._own_errors("render"):
            return np.asarray(self._environment.render(), np.uint8)

    def close(self) -> None:
        with self._own_errors("close"):
            self._environment.close()

    def _own_errors(self, method: str) -> AbstractContextManager[None]:
        return own_errors(f"environment '{self._name}' of seed {self._seed}", *self._code[method])


def _register_mazes(name: str) -> None:
    """Their package registers them when it is imported, and prints a line about other environments."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            import gymnasium_robotics  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra("gymnasium-robotics", "maze", f"'{name}'") from error


def _code_of(environment: "gymnasium.Env", method: str) -> tuple[tuple[str, ...], type[SharedqError], Any]:
    """For `own_errors`: the modules of an environment and of its wrappers, the kind of error, and their method.

    Gymnasium's own modules and methods are left out, unless there are no others.
    """
    from gymnasium import Wrapper

    layers = [environment]
    while isinstance(layers[-1], Wrapper):
        layers.append(layers[-1].env)
    classes = [one for layer in layers for one in type(layer).__mro__]
    names = [one.__module__ for one in classes if one.__module__.partition(".")[0] not in NOT_THEIRS]
    modules = tuple(names or [type(environment.unwrapped).__module__])
    methods = [getattr(type(layer), method, None) for layer in layers]
    theirs = (one for one in methods if getattr(one, "__module__", "") in modules)
    return modules, EnvironmentFailed, next(theirs, methods[-1])


NOT_THEIRS = ("gymnasium", "builtins", "typing", "abc")


def _kind(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, tuple) else f"one {type(given).__name__}"


def _number(reward: Any) -> float:
    """The reward as a number. Arrays that hold one number are taken too."""
    if isinstance(reward, (float, int)):
        return float(reward)
    found = np.asarray(reward)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise BrokenContract(f"returned the reward {' '.join(repr(reward).split())} from step, which is no number")
    return float(found.item())


def _as_texts(given: Any, kwargs: str | None, time_limit: int | None) -> dict[str, Any]:
    """The id of a class, a function or an `EnvSpec`, with the keyword arguments and the time limit that it brings."""
    if not all(hasattr(given, name) for name in ("entry_point", "additional_wrappers", "max_episode_steps")):
        return {"id": reference_to(given, "environment.id")}
    from gymnasium import registry

    require(
        not given.additional_wrappers,
        f"environment.id is the EnvSpec of '{given.id}' with wrappers: write a function that makes the wrapped "
        "environment, and give that function",
    )
    entry, brought, limit = given.entry_point, dict(given.kwargs), given.max_episode_steps
    brought.pop("render_mode", None)  # a film chooses its own
    registered = registry.get(given.id)
    if registered is not None and registered.entry_point == entry and str(entry).startswith("gymnasium."):
        name = given.id
        brought = {key: value for key, value in brought.items() if registered.kwargs.get(key) != value}
        limit = None if limit == registered.max_episode_steps else limit
    else:  # the id may be registered in this process only
        name = entry if isinstance(entry, str) else reference_to(entry, "environment.id")
    kwargs = keywords_as_text({**brought, **keywords_of(kwargs)}, "environment.kwargs")
    return {"id": name, "kwargs": kwargs, "time_limit": limit if time_limit is None else time_limit}


def _takes(function: Callable, name: str) -> bool:
    """Whether a function, or a class, takes an argument of this name as a keyword."""
    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError):  # it is written in C
        return False
    named = name in parameters and parameters[name].kind is not Parameter.POSITIONAL_ONLY
    return named or any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())


def _is_factory(reference: str) -> bool:
    """Whether the string names a factory. Gymnasium's own form module:id does not, because its ids contain a '-'."""
    return ":" in reference and reference.partition(":")[2].replace(".", "").isidentifier()
