"""Named experiments, as plain values. A number says where it comes from; one that says nothing is ours.

[IS]  the public iS-DQN code, https://github.com/theovincent/iS-DQN
[CR]  CleanRL's dqn.py, https://github.com/vwxyzjn/cleanrl
[IQ]  the LunarLander script of the public i-QN code, https://github.com/theovincent/i-DQN
[SD]  Elsayed et al., Streaming Deep Reinforcement Learning Finally Works, https://arxiv.org/abs/2410.14606, and its
      public code, https://github.com/mohmdelsayed/streaming-drl
[MA]  Young & Tian, MinAtar, https://arxiv.org/abs/1903.03176
"""

from dataclasses import replace
from typing import Any, NamedTuple

from sharedq.algorithms import DQN, StreamQ
from sharedq.algorithms.stream_inputs import Normalise
from sharedq.environments import Atari, CartPole, Gymnasium, MinAtar, ProbeEnvironment
from sharedq.environments.minatar import GAMES
from sharedq.errors import unknown
from sharedq.experiment import Experiment
from sharedq.networks import Convolutional, Dense, Impala, Table
from sharedq.networks.normalisation import Norm
from sharedq.replay import FrameStacks, NoReplay, Uniform
from sharedq.targets import OnlineNetwork, TargetNetwork
from sharedq.training import Fused, Interactive, Streaming


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


def _atari(network: Convolutional | Impala) -> Experiment:
    """The protocol of the paper's online setting."""
    return Experiment(
        environment=Atari("Breakout"),  # [IS] the game is an option; sticky actions, stacks and horizon as in [IS]
        algorithm=DQN(
            gamma=0.99,  # [IS]
            learning_rate=6.25e-5,  # [IS]
            adam_epsilon=1.5e-4,  # [IS]
            epsilon_end=0.01,  # [IS]
            epsilon_steps=250_000,  # [IS]
        ),
        target=TargetNetwork(period=2000),  # [IS] 8,000 environment steps, one update for four of them
        network=network,
        replay=FrameStacks(capacity=1_000_000, batch_size=32),  # [IS]
        training=Interactive(
            steps=10_000_000,  # [IS] 40 epochs of 250,000; its launch files have 20 and 100 too
            environments=1,  # [IS]
            warm_up=20_000,  # [IS]
            update_period=4,  # [IS]
            reward_bound=1.0,  # [IS]
            log_period=2_500,  # ours
            checkpoint_period=250_000,  # ours: an epoch
        ),
    )


def _stream(
    environment: Any, network: Convolutional | Dense, steps: int, exploration: float, normalise: Normalise = "each"
) -> Experiment:
    """Stream Q(lambda), which has one set of numbers for all its environments; explores in a share of the steps."""
    return Experiment(
        environment=environment,
        algorithm=StreamQ(
            gamma=0.99,  # [SD]
            trace_decay=0.8,  # [SD]
            learning_rate=1.0,  # [SD]
            kappa=2.0,  # [SD]
            normalise=normalise,
            epsilon_start=1.0,  # [SD]
            epsilon_end=0.01,  # [SD]
            epsilon_steps=round(exploration * steps),
        ),
        target=OnlineNetwork(),  # [SD]
        network=replace(network, norm="layer_whole", activation="leaky_relu", init="sparse"),  # [SD]
        replay=NoReplay(),
        training=Streaming(
            steps=steps,
            environments=1,  # [SD]
            log_period=steps // 500,  # ours
            checkpoint_period=steps // 10,  # ours
        ),
    )


def _nature(norm: Norm) -> Convolutional:
    return Convolutional(  # [IS]
        filters=(32, 64, 64), sizes=(8, 4, 3), strides=(4, 2, 1), padding="SAME", hidden=(512,), norm=norm
    )


RECIPES = {
    f"minatar-{game.replace('_', '-')}": Recipe(
        f"MinAtar {game.replace('_', ' ').title()} with the MinAtar network, 8 environments side by side",
        _minatar(game),
    )
    for game in GAMES
} | {
    "cartpole": Recipe(
        "CartPole-v1 with a small dense network and LayerNorm: a minute of training",
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
    "atari-cnn": Recipe("Atari by the paper's protocol, with its convolutional network", _atari(_nature("none"))),
    "atari-cnn-ln": Recipe("atari-cnn with LayerNorm", _atari(_nature("layer"))),
    "atari-impala-ln": Recipe(
        "Atari by the paper's protocol, with the IMPALA network and LayerNorm", _atari(Impala(norm="layer"))
    ),
    "lunar-lander": Recipe(
        "LunarLander-v3 of Gymnasium with a small dense network",
        Experiment(
            environment=Gymnasium("LunarLander-v3"),
            algorithm=DQN(
                learning_rate=3e-4,  # [IQ]
                adam_epsilon=1e-8,  # ours
                epsilon_end=0.01,  # [IQ]
                epsilon_steps=1_000,  # [IQ]
            ),
            target=TargetNetwork(period=200),  # [IQ]
            network=Dense(hidden=(100, 100)),  # [IQ]
            replay=Uniform(capacity=10_000, batch_size=32),  # [IQ]
            training=Interactive(
                steps=500_000,  # [IQ], 50 epochs of 10,000
                environments=4,  # ours
                warm_up=1_000,  # [IQ]
                update_period=1,  # [IQ]
            ),
        ),
    ),
    "stream-minatar": Recipe(
        "Stream Q(lambda), without replay, on MinAtar Breakout; --game asterix for another",
        _stream(
            MinAtar("breakout"),  # [SD]
            Convolutional(filters=(16,), sizes=(3,), strides=(1,), hidden=(128,)),  # [SD]
            steps=5_000_000,  # [SD]
            exploration=0.2,  # [SD]
        ),
    ),
    "stream-control": Recipe(
        "Stream Q(lambda), without replay, on CartPole-v1",
        _stream(
            CartPole(),  # [SD], there with the time of the episode as a fifth number
            Dense(hidden=(32, 32)),  # [SD]
            steps=500_000,  # [SD]
            exploration=0.05,  # [SD]
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
