"""Atari games by the paper's protocol, on the Arcade Learning Environment (ale-py).

The frames equal those of Gymnasium's `AtariPreprocessing`: the last two frames of a step are taken in grey, and their
maximum is resized by area, in the protocol to 84x84. If a game ends within a step, the frames that it did not reach
keep their previous content, as in Gymnasium; the value of that observation is never used for learning.

Sticky actions are drawn here by the emulator's rule, and not by the emulator. Its saved states lack the action that it
repeats, so a resumed game would not continue bit for bit. The environments of a run are stepped one after another,
because ale-py holds Python's lock while it emulates: two threads on two cores were as slow as one.

No-ops, FIRE and lost lives work as in the usual wrappers; the paper's protocol does not use them. A loss counts as a
lost life only if lives are left. If a game shows no lives while it still runs, its own end counts.
"""

import base64
import importlib
import zlib
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from sharedq.environments.contract import HostEnvironment
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.environments.sync_vector_env import HostTimeStep, SyncVectorEnv
from sharedq.errors import letters, missing_extra, unknown
from sharedq.settings import COUNTABLE, check_count, require

FRAMES = 1_000  # ours: the most frames per action, per observation, and of no-ops

SIDE = 160  # the largest height and width of a frame in pixels: the width of the game's screen
MULTIPLAYER = {"combat", "joust", "maze_craze", "warlords"}  # ale-py has them, but they need several players
NOOP, FIRE = 0, 1  # the emulator's numbers of these actions


@dataclass(frozen=True)
class Atari:
    """An Atari 2600 game: small grey frames, minimal actions, raw rewards. Logged episodes are whole games."""

    game: str = "Breakout"  # a game of ale-py, in any spelling
    sticky: float = 0.25  # probability, at each frame, that the last action is repeated instead of the chosen one
    frame_skip: int = 4  # frames of the game per action
    side: int = 84  # height and width of a frame in pixels
    stack: int = 4  # number of frames in an observation, the newest last
    stack_begins: Literal["black", "repeated"] = "black"  # fill a new stack with black, or with the first frame
    time_limit: int = 27_000  # actions until an episode is truncated; 27,000 are half an hour of play
    noops: int = 0  # a game starts with a random number of no-op frames, from 1 to this; 0 means none
    fire: Literal["never", "start", "life"] = "never"  # press FIRE at the start, or also after each lost life
    life_loss: bool = False  # a lost life ends the episode for the learner, but not in logs and evaluation

    def __post_init__(self):
        require(0 <= self.sticky <= 1, f"sticky must be a probability between 0 and 1, not {self.sticky}")
        for name, most in (("frame_skip", FRAMES), ("side", SIDE), ("stack", FRAMES), ("time_limit", COUNTABLE)):
            check_count(name, getattr(self, name), most=most)
        check_count("noops", self.noops, least=0, most=FRAMES)

    def action_meanings(self) -> tuple[str, ...]:
        """The names of the actions: ("NOOP", "FIRE", ...)."""
        return tuple(action.name for action in _emulator(_find(self.game)[0]).getMinimalActionSet())

    def build(self) -> HostEnvironment:
        rom, name = _find(self.game)

        def open_worlds(count: int, seed: int, render: bool = False) -> SyncVectorEnv:
            seeds = [np.random.SeedSequence(seed, spawn_key=(world,)) for world in range(count)]
            return SyncVectorEnv([Game(self, rom, one) for one in seeds])

        spec = EnvironmentSpec(
            name=f"atari/{name}",
            observation=jax.ShapeDtypeStruct((self.side, self.side, self.stack), np.uint8),
            actions=Discrete(len(_emulator(rom).getMinimalActionSet())),
            stacks="black" if self.stack_begins == "black" else None,
        )
        return HostEnvironment(spec, open_worlds)


class Game:
    """One game: the emulator, the frames of the stack, and the random generator of the sticky actions."""

    def __init__(self, settings: Atari, rom: str, seed: np.random.SeedSequence):
        import cv2

        self._settings, self._random, self._emulator = settings, np.random.default_rng(seed), _emulator(rom)
        self._actions = [action.value for action in self._emulator.getMinimalActionSet()]
        self._fires = settings.fire if FIRE in self._actions else "never"
        self._shrink = partial(cv2.resize, dsize=(settings.side, settings.side), interpolation=cv2.INTER_AREA)
        self._frames: deque[np.ndarray] = deque(maxlen=settings.stack)
        self._screen, self._before = np.zeros((2, *self._emulator.getScreenDims()), np.uint8)

    def begin(self) -> np.ndarray:
        self._emulator.reset_game()
        self._steps, self._repeated = 0, NOOP
        for _ in range(self._random.integers(1, self._settings.noops + 1) if self._settings.noops else 0):
            self._emulator.act(NOOP)
        self._emulator.getScreenGrayscale(self._screen)
        self._before[:] = 0
        if self._fires != "never":
            self._play(FIRE)
        first = self._frame()
        before = first if self._settings.stack_begins == "repeated" else np.zeros_like(first)
        self._frames.extend([before] * self._settings.stack)
        return self._observe()

    def step(self, action: Any) -> HostTimeStep:
        lives = self._emulator.lives()
        reward, over = self._play(self._actions[action])
        lost = not over and 0 < self._emulator.lives() < lives
        if lost and self._fires == "life":  # part of this step: its successor is the frame after FIRE
            more, over = self._play(FIRE)
            reward += more
        self._steps += 1
        truncated = not over and self._steps >= self._settings.time_limit
        return HostTimeStep(self._observe(), reward, over, truncated, self._settings.life_loss and lost and not over)

    def _play(self, action: int) -> tuple[float, bool]:
        """Plays the frames of one step and keeps the last two; returns the reward and whether the game is over."""
        emulator, skip, reward = self._emulator, self._settings.frame_skip, 0
        for frame, draw in enumerate(self._random.random(skip), start=1):
            if draw >= self._settings.sticky:
                self._repeated = action
            reward += emulator.act(self._repeated)
            if emulator.game_over(with_truncation=False):
                return reward, True
            if frame == skip - 1:
                emulator.getScreenGrayscale(self._before)
            elif frame == skip:
                emulator.getScreenGrayscale(self._screen)
        return reward, False

    def _frame(self) -> np.ndarray:
        np.maximum(self._screen, self._before, out=self._screen)
        return self._shrink(self._screen)

    def _observe(self) -> np.ndarray:
        self._frames.append(self._frame())
        return np.stack(self._frames, axis=-1)

    def save(self) -> Any:
        return {
            "emulator": _to_text(self._emulator.cloneState(include_rng=True).serialize()),
            "screen": _to_text(self._screen.tobytes()),
            "frames": _to_text(np.stack(self._frames).tobytes()),
            "random": self._random.bit_generator.state,
            "repeated": self._repeated,
            "steps": self._steps,
        }

    def load(self, saved: Any) -> None:
        from ale_py import ALEState

        self._emulator.restoreState(ALEState(_from_text(saved["emulator"])))
        self._screen[:] = np.frombuffer(_from_text(saved["screen"]), np.uint8).reshape(self._screen.shape)
        self._before[:] = 0  # its content is in the screen, which is the maximum of both
        shape = (-1, self._settings.side, self._settings.side)
        self._frames.extend(np.frombuffer(_from_text(saved["frames"]), np.uint8).reshape(shape))
        self._random.bit_generator.state = saved["random"]
        self._repeated, self._steps = saved["repeated"], saved["steps"]

    def picture(self) -> np.ndarray:
        return self._emulator.getScreenRGB()

    def close(self) -> None: ...


def _emulator(rom: str) -> Any:
    import ale_py
    from ale_py import roms

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # otherwise it prints a greeting at every start
    emulator: Any = ale_py.ALEInterface()
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.setInt("random_seed", 1)  # it draws nothing without its own sticky actions; the default is the clock
    emulator.loadROM(roms.get_rom_path(rom))
    return emulator


def _find(game: str) -> tuple[str, str]:
    """The names of a game in ale-py and in Gymnasium, from any spelling: MsPacman, ms_pacman, Ms. Pacman."""
    for module, package in (("ale_py", "ale-py"), ("cv2", "opencv-python-headless")):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise missing_extra(package, "atari", "Atari") from error
    from ale_py import roms

    names = {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids() if rom not in MULTIPLAYER}
    for name, rom in names.items():
        if letters(name) == letters(game):
            return rom, name
    raise unknown("Atari game", game, names)


def _to_text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _from_text(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
