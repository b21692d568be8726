"""Environments. To add one, write a file with a frozen dataclass whose `build` returns it, and add a line here."""

from sharedq.environments.atari import Atari
from sharedq.environments.contract import (
    DescribedEnvironment,
    Environment,
    HostEnvironment,
    Outcome,
    VectorEnv,
    autoreset,
    check,
    time_limited,
)
from sharedq.environments.control import Control
from sharedq.environments.custom import Custom
from sharedq.environments.gymnasium_vector import Gymnasium
from sharedq.environments.jax_native import CartPole
from sharedq.environments.minatar import MinAtar
from sharedq.environments.probes import ProbeEnvironment
from sharedq.environments.recorded import Recorded
from sharedq.environments.spec import Actions, Continuous, Discrete, EnvironmentSpec, Tokens
from sharedq.environments.wordle import Wordle

ENVIRONMENTS = {
    "minatar": MinAtar,
    "cartpole": CartPole,
    "probe": ProbeEnvironment,
    "custom": Custom,
    "gymnasium": Gymnasium,
    "atari": Atari,
    "control": Control,
    "recorded": Recorded,
    "wordle": Wordle,
}

__all__ = [
    "ENVIRONMENTS",
    "Actions",
    "Atari",
    "CartPole",
    "Continuous",
    "Control",
    "Custom",
    "DescribedEnvironment",
    "Discrete",
    "Environment",
    "EnvironmentSpec",
    "Gymnasium",
    "HostEnvironment",
    "MinAtar",
    "Outcome",
    "ProbeEnvironment",
    "Recorded",
    "Tokens",
    "VectorEnv",
    "Wordle",
    "autoreset",
    "check",
    "time_limited",
]
