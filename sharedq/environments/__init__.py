"""Worlds to learn in: one contract, a table of kinds, a file for each."""

from sharedq.environments.contract import Box, Discrete, Environment, Outcome, autoreset, check, time_limited
from sharedq.environments.custom import Custom
from sharedq.environments.jax_native import CartPole
from sharedq.environments.minatar import MinAtar
from sharedq.environments.probes import ProbeEnvironment

ENVIRONMENTS = {"minatar": MinAtar, "cartpole": CartPole, "probe": ProbeEnvironment, "custom": Custom}

__all__ = [
    "ENVIRONMENTS",
    "Box",
    "CartPole",
    "Custom",
    "Discrete",
    "Environment",
    "MinAtar",
    "Outcome",
    "ProbeEnvironment",
    "autoreset",
    "check",
    "time_limited",
]
