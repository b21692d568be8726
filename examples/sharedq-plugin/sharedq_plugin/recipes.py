"""A recipe with the package's own parts."""

from sharedq.algorithms import DQN
from sharedq.experiment import Experiment
from sharedq.recipes import Recipe
from sharedq.replay import Transitions
from sharedq.training import Fused
from sharedq_plugin.cliff import Cliff
from sharedq_plugin.fourier import Fourier
from sharedq_plugin.young_average import YoungAverage

CLIFF = Recipe(
    "a walk along a cliff, with the parts of an installed package",
    Experiment(
        environment=Cliff(),
        algorithm=DQN(gamma=0.98, learning_rate=1e-3, adam_epsilon=1e-8, epsilon_end=0.1, epsilon_steps=10_000),
        target=YoungAverage(),
        network=Fourier(),
        replay=Transitions(capacity=20_000, batch_size=32),
        training=Fused(steps=40_000, environments=4, warm_up=1_000, update_period=4, log_period=4_000),
    ),
)
