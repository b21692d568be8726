"""Named experiments, as plain values. A number says where it comes from; one that says nothing is ours.

[IS]  the public iS-DQN code, https://github.com/theovincent/iS-DQN
[CR]  CleanRL's dqn.py, https://github.com/vwxyzjn/cleanrl
[MA]  Young & Tian, MinAtar, https://arxiv.org/abs/1903.03176
"""

from typing import NamedTuple

from sharedq.algorithms import DQN
from sharedq.environments import CartPole, MinAtar, ProbeEnvironment
from sharedq.environments.minatar import GAMES
from sharedq.errors import unknown
from sharedq.experiment import Experiment
from sharedq.networks import Convolutional, Dense, Table
from sharedq.replay import Uniform
from sharedq.targets import TargetNetwork
from sharedq.training import Fused


class Recipe(NamedTuple):
    about: str
    experiment: Experiment


def _minatar(game: str) -> Experiment:
    return Experiment(
        environment=MinAtar(game),
        algorithm=DQN(
            gamma=0.99,  # [IS], [MA]
            learning_rate=3e-4,  # ours: eight environments and short runs want a larger step than [IS] 6.25e-5
            adam_epsilon=1.5e-4,  # [IS]
            epsilon_end=0.01,  # [IS]
            epsilon_steps=100_000,  # [MA]
        ),
        target=TargetNetwork(period=1000),  # [MA], in updates
        network=Convolutional(filters=(16,), sizes=(3,), strides=(1,), hidden=(128,)),  # [MA]
        replay=Uniform(capacity=100_000, batch_size=32),  # [MA]
        training=Fused(
            steps=500_000,  # ours: a tenth of [MA], minutes on two cores
            environments=8,  # ours
            warm_up=5_000,  # [MA]
            update_period=4,  # [IS]
        ),
    )


RECIPES = {
    f"minatar-{game.replace('_', '-')}": Recipe(
        f"MinAtar {game.replace('_', ' ').title()} with the MinAtar network, 8 environments side by side",
        _minatar(game),
    )
    for game in GAMES
} | {
    "cartpole": Recipe(
        "CartPole-v1 with a small dense network and LayerNorm: balanced within a minute",
        Experiment(
            environment=CartPole(),
            algorithm=DQN(
                learning_rate=2.5e-4,  # [CR]
                adam_epsilon=1e-8,  # [CR]
                epsilon_end=0.05,  # [CR]
                epsilon_steps=250_000,  # [CR]
            ),
            target=TargetNetwork(period=250),  # ours: [CR] has 50, which learned less surely here
            network=Dense(hidden=(120, 84), norm="layer"),  # [CR]; LayerNorm ours, for target-free learning
            replay=Uniform(capacity=10_000, batch_size=128),  # [CR]
            training=Fused(
                steps=500_000,  # [CR]
                environments=4,  # ours
                warm_up=10_000,  # [CR]
                update_period=8,  # [CR] has 10, with one environment
            ),
        ),
    ),
    "corridor": Recipe(
        "a corridor of four cells and a table of Q-values, all of them known: the smallest run there is",
        Experiment(
            environment=ProbeEnvironment("corridor"),
            algorithm=DQN(gamma=0.9, learning_rate=0.02, adam_epsilon=1e-8, epsilon_end=1.0),
            target=TargetNetwork(period=50),
            network=Table(),
            replay=Uniform(capacity=1_000, batch_size=32),
            training=Fused(steps=20_000, environments=2, warm_up=200, update_period=2, log_period=2_000),
        ),
    ),
}


def recipe(name: str) -> Experiment:
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name].experiment
