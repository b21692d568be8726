"""Named experiments, as plain values. The comment behind a number names its source; a number without one is ours.

[IS]  the public iS-DQN code, https://github.com/theovincent/iS-DQN
[CR]  CleanRL's dqn.py, https://github.com/vwxyzjn/cleanrl
[IQ]  the LunarLander script of the public i-QN code, https://github.com/theovincent/i-DQN
[SD]  Elsayed et al., Streaming Deep Reinforcement Learning Finally Works, https://arxiv.org/abs/2410.14606, and its
      public code, https://github.com/mohmdelsayed/streaming-drl
[MA]  Young & Tian, MinAtar, https://arxiv.org/abs/1903.03176
[HA]  Haarnoja et al., Soft Actor-Critic Algorithms and Applications, https://arxiv.org/abs/1812.05905
[SS]  the public code of slimSAC, by authors of [IS]
[SV]  SimbaV2, its paper https://arxiv.org/abs/2502.15280 and public code
[XQ]  XQC, its paper https://arxiv.org/abs/2509.25174 and public code, https://github.com/danielpalenicek/xqc
[FL]  FlashSAC, its paper https://arxiv.org/abs/2604.04539 and public code, https://github.com/Holiday-Robot/FlashSAC
[CQ]  CrossQ, https://openreview.net/forum?id=PczQtTsTIX, and its public code
[RZ]  the settings of RL Baselines3 Zoo, https://github.com/DLR-RM/rl-baselines3-zoo
[SC]  the public code of slimCQL, by authors of [IS]
[IO]  Kostrikov, Nair & Levine, Offline Reinforcement Learning with Implicit Q-Learning,
      https://arxiv.org/abs/2110.06169, and its public code
[IL]  Snell et al., Offline RL for Natural Language Generation with Implicit Language Q Learning,
      https://arxiv.org/abs/2206.11871, and its public code, https://github.com/Sea-Snell/Implicit-Language-Q-Learning
[CO]  the configurations of CORL, https://github.com/tinkoff-ai/CORL
[PQ]  PQN: Gallici et al., Simplifying Deep Temporal Difference Learning, https://arxiv.org/abs/2407.04811, and its
      public code, https://github.com/mttga/purejaxql
[SA]  the scaled-down Atari agent in the public code of Gi-DQN, https://arxiv.org/abs/2603.07833
[DO]  Dopamine, https://github.com/google/dopamine
[NN]  Fortunato et al., Noisy Networks for Exploration, https://arxiv.org/abs/1706.10295
[AQ]  Gogianu, Lutu & Pascanu, Revisiting Adam for Streaming Reinforcement Learning, https://arxiv.org/abs/2605.06764
[IU]  Sharifnassab et al., Intentional Updates for Streaming Reinforcement Learning, https://arxiv.org/abs/2604.19033,
      and its public code, https://github.com/sharifnassab/Intentional_RL
[GT]  Elelimy et al., Deep Reinforcement Learning with Gradient Eligibility Traces, https://arxiv.org/abs/2507.09087,
      and its public code, https://github.com/esraaelelimy/gtd_algos
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import e, log, pi
from typing import Any, NamedTuple

from sharedq.algorithms import CQL, DQN, ILQL, IQL, PQN, SAC, StreamQ, StreamQRC
from sharedq.algorithms.stream_inputs import Normalise
from sharedq.datasets import DataSet
from sharedq.environments import Atari, CartPole, Control, Gymnasium, MinAtar, ProbeEnvironment, Wordle
from sharedq.environments.minatar import GAMES
from sharedq.errors import SharedqError, unknown
from sharedq.experiment import Experiment
from sharedq.imports import resolve
from sharedq.networks import GPT2, XQC, Convolutional, Dense, FlashSAC, Impala, SimbaV2, Table
from sharedq.networks.normalisation import Norm
from sharedq.replay import FrameStacks, NoReplay, Rollout, Transitions
from sharedq.samplers import Prioritized
from sharedq.suggestions import fitting_recipes
from sharedq.tables import entry_points, load_entry_point, needs_import
from sharedq.targets import OnlineNetwork, TargetNetwork
from sharedq.training import Fused, Interactive, Offline, Streaming


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
        replay=Transitions(capacity=100_000, batch_size=32),  # [MA]
        training=Fused(
            steps=500_000,  # ours: a tenth of [MA], minutes on two cores
            environments=8,  # ours
            warm_up=5_000,  # [MA]
            update_period=4,  # [IS]
        ),
    )


def _pqn(game: str) -> Experiment:
    """PQN on MinAtar. Its schedules go by the length of the run, as in [PQ]."""
    steps = 2_000_000  # ours: minutes on two cores; [PQ] has 10,000,000
    rollout, minibatches, epochs = 128 * 32, 32, 2  # [PQ]
    return Experiment(
        environment=MinAtar(game),
        algorithm=PQN(
            gamma=0.99,  # [PQ]
            trace_decay=0.65,  # [PQ]
            targets="rollout",  # [PQ]
            learning_rate=5e-4,  # [PQ]
            final_learning_rate=1e-20,  # [PQ]
            learning_rate_updates=steps // rollout * minibatches * epochs,  # [PQ] the whole run
            adam_epsilon=1e-8,  # [PQ]
            max_gradient_norm=10.0,  # [PQ]
            epsilon_start=1.0,  # [PQ]
            epsilon_end=0.05,  # [PQ]
            epsilon_steps=steps // 10,  # [PQ]
        ),
        target=OnlineNetwork(),  # [PQ]
        network=Convolutional(  # [PQ], but for the kernels, which [PQ] draws by He's rule
            filters=(16,), sizes=(3,), strides=(1,), hidden=(128,), norm="layer"
        ),
        replay=Rollout(batch_size=rollout // minibatches),  # [PQ]
        training=Fused(
            steps=steps,
            environments=128,  # [PQ]
            warm_up=0,  # [PQ]
            update_period=rollout,  # [PQ]
            gradient_steps=minibatches * epochs,  # [PQ]
            log_period=5 * rollout,  # ours
            checkpoint_period=steps // 10,  # ours
        ),
    )


def _atari(network: Convolutional | Impala) -> Experiment:
    """Atari by the protocol of the paper's online setting."""
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


def _small_atari() -> Experiment:
    """Atari scaled down by authors of the paper, for a small machine: 16x16 pixels and an update per step."""
    return Experiment(
        environment=Atari("Breakout", side=16, stack=2, time_limit=10_000),  # [SA]
        algorithm=DQN(
            learning_rate=1e-4,  # [SA] for a target network; what its authors chose for shared heads is not known
            adam_epsilon=1.5e-4,  # [SA]
            epsilon_end=0.01,  # [SA]
            epsilon_steps=100_000,  # [SA]
        ),
        target=TargetNetwork(period=3000),  # [SA]
        network=Convolutional(filters=(16,), sizes=(2,), strides=(2,), hidden=(256,), norm="layer"),  # [SA]
        replay=FrameStacks(capacity=50_000, batch_size=16),  # [SA]
        training=Interactive(
            steps=1_500_000,  # [SA] 30 epochs of 50,000
            environments=8,  # ours: [SA] has 1, and a call to the device would then be made for every single update
            learn_while_stepping=True,  # ours: the updates run while the emulators do, from the steps before
            warm_up=10_000,  # [SA]
            update_period=1,  # [SA]
            reward_bound=1.0,  # [SA]
            log_period=5_000,  # ours
        ),
    )


def _rainbow(experiment: Experiment, full: bool) -> Experiment:
    """Dopamine's Rainbow of an experiment of DQN: C51, three-step returns and PER. The full one has all six parts."""
    parts = {
        "algorithm.values": "categorical",  # [DO]
        "algorithm.atoms": 51,  # [DO]
        "algorithm.value_bound": 10.0,  # [DO]
        "replay.n_step": 3,  # [DO]
        "sampler": Prioritized(
            alpha=0.5,  # [DO] the root of the loss
            beta_start=0.5,  # [DO] the root of the probability
            beta_end=0.5,  # [DO]
        ),
    }
    if full:
        parts |= {
            "algorithm.backup": "double",  # [DO]
            "algorithm.epsilon_start": 0.0,  # [NN] noisy layers explore in place of random actions
            "algorithm.epsilon_end": 0.0,  # [NN]
            "network.dueling": True,  # [DO]
            "network.noisy": True,  # [DO]
        }
    return experiment.replace(**parts)


def _prioritized(name: str) -> Recipe:
    """A recipe with prioritised replay, by the numbers of its paper, and with the learning rate of uniform replay."""
    return Recipe(f"{name} with prioritised replay", replace(OURS[name].experiment, sampler=Prioritized()))


def _stream(
    environment: Any, network: Convolutional | Dense, steps: int, exploration: float, normalise: Normalise = "each"
) -> Experiment:
    """Stream Q(lambda) with one set of numbers for all environments. `exploration` is the share of exploring steps."""
    return Experiment(
        environment=environment,
        algorithm=StreamQ(
            gamma=0.99,  # [SD]
            trace_decay=0.8,  # [SD]
            learning_rate=None,  # [SD] the optimiser's own, 1
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


def _other_stream(about: str, **changes: Any) -> Recipe:
    """The recipe `stream-minatar` with another algorithm, or with other settings of it."""
    return Recipe(f"stream-minatar {about}", OURS["stream-minatar"].experiment.replace(**changes))


def _nature(norm: Norm) -> Convolutional:
    return Convolutional(  # [IS]
        filters=(32, 64, 64), sizes=(8, 4, 3), strides=(4, 2, 1), padding="SAME", hidden=(512,), norm=norm
    )


HARD = tuple(f"dog-{gait}" for gait in ("stand", "walk", "trot", "run")) + tuple(
    f"humanoid-{gait}" for gait in ("stand", "walk", "run")
)  # the seven tasks of the paper's continuous setting


def _simba(task: str) -> Experiment:
    """The paper's base agent, as its authors state it: SAC with SimbaV2. They add BatchNorm; we do not know where."""
    return Experiment(
        environment=Control(task, action_repeat=2),  # [SV]
        algorithm=SAC(
            gamma=0.99,  # [SV] by its rule, of episodes of 500 actions
            critics=1,  # [SV] on the Control Suite
            values="categorical",  # [SV]
            atoms=101,  # [SV]
            value_bound=5.0,  # [SV]
            learning_rate=1e-4,  # [SV]
            final_learning_rate=5e-5,  # [SV] the code's; the paper's text has 3e-5
            learning_rate_updates=1_000_000,  # [SV] all updates of the run
            initial_temperature=0.01,  # [SV]
            target_entropy=-0.5,  # [SV]
            actor_width=128,  # [SV]
            actor_depth=1,  # [SV]
            random_steps=5_000,  # [SV]
            normalise_observations=True,  # [SV]
            scale_rewards=True,  # [SV]
        ),
        target=TargetNetwork(period=1, tau=0.005),  # [SV]
        network=SimbaV2(width=512, blocks=2),  # [SV]
        replay=Transitions(capacity=500_000, batch_size=256),  # [SV] 1,000,000, which are more than all steps
        training=Interactive(
            steps=500_000,  # [SV] a million steps of the simulator
            environments=1,  # [SV]
            warm_up=5_000,  # [SV]
            update_period=1,  # [SV]
            gradient_steps=2,  # [SV]
            log_period=2_500,  # ours: five episodes
            checkpoint_period=50_000,  # ours: where [SV] evaluates
        ),
    )


def _xqc(task: str) -> Experiment:
    """XQC's agent on the Control Suite, with its target network."""
    return Experiment(
        environment=Control(task, action_repeat=2),  # [XQ]
        algorithm=SAC(
            gamma=0.99,  # [XQ] by its rule, of episodes of 500 actions
            critics=2,  # [XQ]
            values="categorical",  # [XQ]
            atoms=101,  # [XQ]
            value_bound=5.0,  # [XQ]
            learning_rate=3e-4,  # [XQ]
            final_learning_rate=3e-5,  # [XQ]
            learning_rate_updates=1_000_000,  # [XQ] all updates of the run
            initial_temperature=0.01,  # [XQ]
            target_entropy=-0.5,  # [XQ]
            actor_period=3,  # [XQ]
            actor_width=256,  # [XQ]
            actor_depth=4,  # [XQ]
            random_steps=5_000,  # [XQ]
            scale_rewards=True,  # [XQ]
            bound_returns=False,  # [XQ]
        ),
        target=TargetNetwork(period=1, tau=0.005, joint_batch=True),  # [XQ]
        network=XQC(width=512, depth=4),  # [XQ]
        replay=Transitions(capacity=500_000, batch_size=256),  # [XQ] 1,000,000, which are more than all steps
        training=Interactive(
            steps=500_000,  # [XQ] a million steps of the simulator
            environments=1,  # [XQ]
            warm_up=5_000,  # [XQ]
            update_period=1,  # [XQ]
            gradient_steps=2,  # [XQ]
            log_period=2_500,  # ours: five episodes
            checkpoint_period=50_000,  # ours
        ),
    )


def _flash_sac(task: str) -> Experiment:
    """FlashSAC's agent on the Control Suite as its authors run it on CPUs, with its target network."""
    return Experiment(
        environment=Control(task),  # [FL]
        algorithm=SAC(
            gamma=0.99,  # [FL]
            critics=2,  # [FL]
            values="categorical",  # [FL]
            atoms=101,  # [FL]
            value_bound=5.0,  # [FL]
            learning_rate=3e-4,  # [FL]
            final_learning_rate=1.5e-4,  # [FL]
            learning_rate_updates=1_000_000,  # [FL] all updates of the run
            learning_rate_schedule="cosine",  # [FL]
            initial_temperature=0.01,  # [FL]
            target_entropy=0.5 * log(2 * pi * e * 0.15**2),  # [FL] that of a Gaussian with a deviation of 0.15
            actor_period=2,  # [FL]
            actor_width=128,  # [FL]
            actor_depth=2,  # [FL]
            random_steps=5_000,  # ours, as in sac-simba-dmc
            scale_rewards=True,  # [FL]
        ),
        target=TargetNetwork(period=1, tau=0.01, joint_batch=True),  # [FL]
        network=FlashSAC(width=256, blocks=2),  # [FL]
        replay=Transitions(capacity=1_000_000, batch_size=512),  # all steps there are; [FL]
        training=Interactive(
            steps=1_000_000,  # [FL]
            environments=1,  # [FL]
            warm_up=5_000,  # ours, as in sac-simba-dmc
            update_period=1,  # [FL]
            log_period=5_000,  # ours: five episodes
            checkpoint_period=50_000,  # ours
        ),
    )


def _small_sac(environment: Gymnasium | Control, steps: int, random_steps: int) -> Experiment:
    """An agent for easy tasks, which learns with every source of targets."""
    return Experiment(
        environment=environment,
        algorithm=SAC(  # [HA] but for
            learning_rate=1e-3,  # [RZ]
            random_steps=random_steps,
            adam_beta=0.5,  # [CQ]; with 0.9 and an actor that moves at each update it is not learned target-free
            actor_period=3,  # [CQ]
        ),
        target=TargetNetwork(period=1, tau=0.005),  # [HA]
        network=Dense(hidden=(256, 256), norm="layer"),  # [HA]; LayerNorm ours, for target-free and shared heads
        replay=Transitions(capacity=steps, batch_size=256),  # all steps there are; [HA]
        training=Interactive(
            steps=steps,
            environments=1,  # [RZ]
            warm_up=random_steps,
            update_period=1,  # [HA]
            log_period=steps // 20,  # ours
        ),
    )


def _cql(environment: Any, network: Any, learning_rate: float, period: int, data: DataSet, training: Offline):
    """Conservative Q-learning by the paper's offline setting."""
    return Experiment(
        environment=environment,
        algorithm=CQL(
            gamma=0.99,  # [SC]
            alpha=0.1,  # [SC]
            learning_rate=learning_rate,
            adam_epsilon=3.125e-4,  # [SC]
            evaluation_epsilon=0.001,  # [SC]
        ),
        target=TargetNetwork(period=period),
        network=network,
        replay=data,
        training=training,
    )


def _iql(environment: Any, steps: int, evaluated: int | None, **options: Any) -> Experiment:
    """Implicit Q-learning with the numbers of its authors. The data are named with --data."""
    experiment = Experiment(
        environment=environment,
        algorithm=IQL(
            gamma=0.99,  # [IO]
            expectile=0.7,  # [IO] on MuJoCo
            beta=3.0,  # [IO] on MuJoCo
            critics=2,  # [IO]
            learning_rate=3e-4,  # [IO]
            actor_decay_updates=steps,  # [IO] the whole run
        ),
        target=TargetNetwork(period=1, tau=0.005),  # [IO]
        network=Dense(hidden=(256, 256)),  # [IO]
        replay=DataSet(batch_size=256),  # [IO]
        training=Offline(
            steps=steps,
            evaluation_period=evaluated,
            evaluation_episodes=10,  # [IO] on MuJoCo
            log_period=steps // 50,  # ours
            checkpoint_period=steps // 10,  # ours
        ),
    )
    return experiment.replace(**options)


def _wordle(
    environment: Wordle, algorithm: ILQL, tau: float, network: GPT2, batch_size: int, training: Offline
) -> Experiment:
    """Implicit language Q-learning on games of Wordle. The data are named with --data."""
    return Experiment(
        environment=environment,
        algorithm=algorithm,
        target=TargetNetwork(period=1, tau=tau),
        network=network,
        replay=DataSet(batch_size=batch_size),
        training=training,
    )


D4RL = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}


OURS = {
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
            replay=Transitions(capacity=10_000, batch_size=128),  # [CR]
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
    "atari-small": Recipe("Atari for a small machine: 16x16 pixels, two frames, an update per step", _small_atari()),
    "lunar-lander": Recipe(
        "LunarLander-v3 of Gymnasium with a small dense network and LayerNorm",
        Experiment(
            environment=Gymnasium("LunarLander-v3"),
            algorithm=DQN(
                learning_rate=3e-4,  # [IQ]
                adam_epsilon=1e-8,  # ours
                epsilon_end=0.01,  # [IQ]
                epsilon_steps=1_000,  # [IQ]
            ),
            target=TargetNetwork(period=200),  # [IQ]
            network=Dense(hidden=(100, 100), norm="layer"),  # [IQ]; LayerNorm ours, for target-free and shared heads
            replay=Transitions(capacity=10_000, batch_size=32),  # [IQ]
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
    "stream-atari": Recipe(
        "Stream Q(lambda), without replay, on Atari Breakout; --game pong for another",
        _stream(
            Atari(
                "Breakout",  # [SD]
                sticky=0.0,  # [SD]
                stack_begins="repeated",  # [SD]
                time_limit=27_000,  # ours, as in atari-cnn
                noops=30,  # [SD]
                fire="start",  # [SD], whose learning goes on after a lost life without it
                life_loss=True,  # [SD]
            ),
            Convolutional(filters=(32, 64, 64), sizes=(8, 4, 3), strides=(5, 3, 2), hidden=(256,)),  # [SD]
            steps=10_000_000,  # [SD]
            exploration=0.05,  # [SD]
            normalise="newest",  # [SD], there for each frame as it comes, before it is stacked
        ),
    ),
    "stream-control": Recipe(
        "Stream Q(lambda), without replay, on CartPole-v1",
        _stream(
            CartPole(tell_time=True),  # [SD], which adds the time behind the normaliser
            Dense(hidden=(32, 32)),  # [SD]
            steps=500_000,  # [SD]
            exploration=0.05,  # [SD]
        ),
    ),
    "sac-pendulum": Recipe(
        "SAC on Pendulum-v1 of Gymnasium: minutes of training",
        _small_sac(Gymnasium("Pendulum-v1"), steps=20_000, random_steps=100),  # [RZ]
    ),
    "sac-swingup": Recipe(
        "the same agent on cartpole-swingup of the Control Suite, which it learns in minutes",
        _small_sac(Control("cartpole-swingup", action_repeat=8), steps=10_000, random_steps=1_000),  # ours
    ),
    "sac-mlp": Recipe(
        "SAC as published, with two dense critics, on cheetah-run of the Control Suite",
        Experiment(
            environment=Control("cheetah-run"),  # ours: the task is an option
            algorithm=SAC(
                gamma=0.99,  # [HA]
                learning_rate=3e-4,  # [HA]
                initial_temperature=1.0,  # [SS]
                target_entropy=-1.0,  # [HA]
                random_steps=5_000,  # [SS]
            ),
            target=TargetNetwork(period=1, tau=0.005),  # [HA]
            network=Dense(hidden=(256, 256)),  # [HA]
            replay=Transitions(capacity=1_000_000, batch_size=256),  # [HA]
            training=Interactive(
                steps=1_000_000,  # [SS]
                environments=1,  # [SS]
                warm_up=5_000,  # [SS]
                update_period=1,  # [HA]
                log_period=5_000,  # ours: five episodes
                checkpoint_period=50_000,  # ours
            ),
        ),
    ),
    "crossq": Recipe(
        "CrossQ: SAC without a target network, with wide critics and batch renormalisation, on cheetah-run",
        Experiment(
            environment=Control("cheetah-run"),  # ours: the task is an option
            algorithm=SAC(
                gamma=0.99,  # [CQ]
                learning_rate=1e-3,  # [CQ]
                adam_beta=0.5,  # [CQ]
                initial_temperature=1.0,  # [CQ]
                target_entropy=-1.0,  # [CQ]
                actor_period=3,  # [CQ]
                actor_width=256,  # [CQ]
                actor_depth=2,  # [CQ]
                random_steps=5_000,  # [CQ]
            ),
            target=OnlineNetwork(),  # [CQ]
            network=Dense(hidden=(2048, 2048), norm="batch_renorm"),  # [CQ]
            replay=Transitions(capacity=1_000_000, batch_size=256),  # [CQ]
            training=Interactive(
                steps=1_000_000,  # ours, as in sac-mlp
                environments=1,  # [CQ]
                warm_up=5_000,  # [CQ]
                update_period=1,  # [CQ]
                log_period=5_000,  # ours
                checkpoint_period=50_000,  # ours
            ),
        ),
    ),
    "sac-simba-dmc": Recipe(
        "SimbaV2's agent on cheetah-run of the Control Suite; the seven tasks of the paper have recipes of their own",
        _simba("cheetah-run"),
    ),
    "sac-simba-small": Recipe(
        "SimbaV2's agent with small networks on cartpole-swingup of the Control Suite: minutes on two cores",
        _simba("cartpole-swingup").replace(  # what differs is ours
            **{
                "environment.action_repeat": 8,
                "algorithm.learning_rate": 5e-4,
                "algorithm.final_learning_rate": 1e-4,
                "algorithm.actor_width": 64,
                "algorithm.random_steps": 1_000,
                "algorithm.learning_rate_updates": 40_000,
                "network.width": 128,
                "network.blocks": 1,
                "replay.capacity": 20_000,
                "training.steps": 20_000,
                "training.warm_up": 1_000,
                "training.log_period": 500,
                "training.checkpoint_period": 5_000,
            }
        ),
    ),
    **{f"sac-simba-{task}": Recipe(f"SimbaV2's agent on {task} of the Control Suite", _simba(task)) for task in HARD},
    "xqc": Recipe(
        "XQC's agent, with its target network, on cheetah-run; seven harder tasks have recipes of their own",
        _xqc("cheetah-run"),
    ),
    **{f"xqc-{task}": Recipe(f"XQC's agent on {task} of the Control Suite", _xqc(task)) for task in HARD},
    "flash-sac": Recipe(
        "FlashSAC's agent, with its target network, on cheetah-run; seven harder tasks have recipes of their own",
        _flash_sac("cheetah-run"),
    ),
    **{
        f"flash-sac-{task}": Recipe(f"FlashSAC's agent on {task} of the Control Suite", _flash_sac(task))
        for task in HARD
    },
    "minatar-cql": Recipe(
        "conservative Q-learning on recorded MinAtar Breakout: name the data with --data, another game with --game",
        _cql(
            MinAtar("breakout"),
            Convolutional(filters=(16,), sizes=(3,), strides=(1,), hidden=(128,), norm="layer"),  # [MA]; the norm [SC]
            learning_rate=3e-4,  # ours, as in minatar-breakout
            period=1_000,  # [MA]
            data=DataSet(batch_size=32),  # [SC]
            training=Offline(
                steps=100_000,  # ours: minutes on two cores
                evaluation_period=10_000,  # ours, as are the next two
                log_period=2_000,
                checkpoint_period=20_000,
            ),
        ),
    ),
    "atari-cql": Recipe(
        "conservative Q-learning on a tenth of recorded Atari games, the paper's offline setting; --data names them",
        _cql(
            Atari("Breakout"),  # [IS]
            Impala(norm="layer"),  # the paper
            learning_rate=5e-5,  # [SC]
            period=2_000,  # [SC]
            data=DataSet(batch_size=32, fraction=0.1, fraction_of="first"),  # [SC]
            training=Offline(
                steps=3_125_000,  # [SC] 50 epochs of 62,500
                reward_bound=1.0,  # ours: [SC] has the option and does not apply it
                evaluation_period=62_500,  # [SC]
                evaluation_episodes=10,  # ours: [SC] plays 125,000 steps
                log_period=12_500,  # ours
                checkpoint_period=62_500,  # ours
            ),
        ),
    ),
    "cartpole-iql": Recipe(
        "implicit Q-learning on recorded CartPole-v1; --data names the data set",
        _iql(
            CartPole(),
            steps=10_000,  # ours
            evaluated=1_000,  # ours
            network=Dense(hidden=(120, 84), norm="layer"),  # [CR]; LayerNorm ours, as in cartpole
        ),
    ),
    "pendulum-iql": Recipe(
        "implicit Q-learning on recorded Pendulum-v1; --data names the data set",
        _iql(
            Gymnasium("Pendulum-v1"),
            steps=10_000,  # ours
            evaluated=1_000,  # ours
            return_range=200.0,  # ours: one per step of an episode, as [IO] has it with episodes of 1,000 steps
        ),
    ),
    "ilql-wordle": Recipe(
        "implicit language Q-learning on Wordle with GPT-2 small, for GPUs; 'sharedq data wordle' makes the data",
        _wordle(
            Wordle(),  # [IL] 236 words, any five letters are a guess
            ILQL(
                gamma=0.99,  # [IL]
                expectile=0.7,  # [IL]
                conservative=1e-4,  # [IL]
                critics=2,  # [IL]
                beta=16.0,  # [IL]
                learning_rate=1e-5,  # [IL]
                accumulate=16,  # [IL]
            ),
            tau=0.005,  # [IL]
            network=GPT2(),  # [IL] GPT-2 small, dropout 0.1
            batch_size=1024,  # [IL] 64 games, 16 times
            training=Offline(
                steps=37_500,  # ours: 600,000 parts of a batch, as far as the figure of the iS-QL paper goes
                evaluation_period=1_024,  # [IL] has 64: 1,024 parts of a batch
                evaluation_episodes=16,  # [IL] in training
                log_period=64,  # ours
                checkpoint_period=1_024,  # [IL] 16,384 parts of a batch
            ),
        ),
    ),
    "ilql-wordle-small": Recipe(
        "implicit language Q-learning on Wordle with 16 words and a small GPT-2, for CPUs; --data names the games",
        _wordle(
            Wordle(count=16),  # ours
            ILQL(
                gamma=0.99,  # [IL]
                expectile=0.7,  # [IL]
                conservative=1e-4,  # [IL]
                critics=2,  # [IL]
                beta=16.0,  # [IL]
                learning_rate=1e-3,  # ours
            ),
            tau=0.1,  # ours: runs are short, and a reward must come from the last token to the first
            network=GPT2(layers=2, width=64, attention_heads=2, positions=74, dropout=0.0),  # ours
            batch_size=32,  # ours
            training=Offline(
                steps=2_000,  # ours
                evaluation_period=250,  # ours
                evaluation_episodes=64,  # ours
                log_period=50,  # ours
                checkpoint_period=500,  # ours
            ),
        ),
    ),
    "pointmaze-iql": Recipe(
        "implicit Q-learning on a recorded point maze, such as Minari's D4RL/pointmaze/umaze-v2; --data names it",
        _iql(
            Gymnasium("PointMaze_UMaze-v3"),
            steps=50_000,  # ours: [CO] has a million on maze2d
            evaluated=10_000,  # ours
            evaluation_episodes=20,  # ours: [CO] plays 100; on maze2d it has the expectile and the beta of _iql
        ),
    ),
    **{
        f"{task}-iql": Recipe(
            f"implicit Q-learning on D4RL's {task} data, such as {task}-medium-v2.hdf5, converted for --data",
            _iql(
                Gymnasium(environment),
                steps=1_000_000,  # [IO]
                evaluated=20_000,  # ours: [IO] evaluates every 5,000
                return_range=1_000.0,  # [IO]
            ),
        )
        for task, environment in D4RL.items()
    },
    "corridor": Recipe(
        "a corridor of four cells and a table of Q-values, all of them known: the smallest run there is",
        Experiment(
            environment=ProbeEnvironment("corridor"),
            algorithm=DQN(gamma=0.9, learning_rate=0.02, adam_epsilon=1e-8, epsilon_end=1.0),
            target=TargetNetwork(period=50),
            network=Table(),
            replay=Transitions(capacity=1_000, batch_size=32),
            training=Fused(steps=20_000, environments=2, warm_up=200, update_period=2, log_period=2_000),
        ),
    ),
}

OURS |= {
    "rainbow": Recipe(
        "Dopamine's Rainbow on Atari: distributions (C51), three-step returns and prioritised replay",
        _rainbow(_atari(_nature("none")), full=False),
    ),
    "rainbow-full": Recipe(
        "all six parts of Rainbow on Atari: also double Q-learning, dueling heads and noisy layers",
        _rainbow(_atari(_nature("none")), full=True),
    ),
    "minatar-rainbow": Recipe(
        "Rainbow as in Dopamine on MinAtar Breakout; --game asterix for another",
        _rainbow(_minatar("breakout"), full=False),
    ),
    "minatar-rainbow-full": Recipe(
        "all six parts of Rainbow on MinAtar Breakout; --game asterix for another",
        _rainbow(_minatar("breakout"), full=True),
    ),
}
OURS |= {
    "stream-minatar-adaptive": _other_stream(
        "with the optimiser of Adaptive Q(lambda), by the paper's numbers for Atari",
        **{"algorithm.optimiser": "adaptive", "algorithm.learning_rate": 4.6e-4},  # [AQ]
    ),
    "stream-minatar-intentional": _other_stream(
        "with the optimiser of Intentional Q(lambda)",
        **{"algorithm.optimiser": "intentional", "algorithm.learning_rate": 0.25},  # [IU]
    ),
    "stream-minatar-qrc": _other_stream(
        "with QRC(lambda), which corrects the gradient by a second network",
        algorithm=StreamQRC(
            gamma=0.99,  # [GT]
            trace_decay=0.8,  # [GT]
            learning_rate=1e-4,  # [GT]
            h_rate=0.1,  # [GT]
            beta=1.0,  # [GT]
            epsilon_start=1.0,  # [GT]
            epsilon_end=0.01,  # [GT]
            epsilon_steps=1_000_000,  # [GT]
        ),
    ),
}
OURS |= {
    f"pqn-minatar-{game.replace('_', '-')}": Recipe(
        f"PQN on MinAtar {game.replace('_', ' ').title()}: 128 environments side by side and no replay", _pqn(game)
    )
    for game in GAMES
}
OURS |= {f"{name}-per": _prioritized(name) for name in ("cartpole", "minatar-breakout", "atari-small")}


class _Recipes(Mapping[str, Recipe]):
    """Ours, and those that installed packages bring as entry points of the group `sharedq.recipes`."""

    def __getitem__(self, name: str) -> Recipe:
        if name in OURS:
            return OURS[name]
        found = entry_points("sharedq.recipes")
        if name not in found:
            raise KeyError(name)
        return _as_recipe(load_entry_point(found[name]), name)

    def __iter__(self) -> Iterator[str]:
        return iter({**OURS, **entry_points("sharedq.recipes")})

    def __len__(self) -> int:
        return len(list(iter(self)))


RECIPES = _Recipes()

FAMILIES = {MinAtar: "MinAtar", Atari: "Atari", Gymnasium: "Gymnasium", Control: "DeepMind Control Suite"}


def families() -> dict[str, list[str]]:
    """The names of all recipes by family. Those of installed packages are not loaded for it."""
    names = (
        *FAMILIES.values(),
        "offline, from a data set",
        "streaming, without a replay",
        "small, in JAX",
        "from installed packages",
    )
    found: dict[str, list[str]] = {name: [] for name in names}
    *_, offline, streaming, small, installed = names
    by_training = {Streaming: streaming, Offline: offline}
    for name, one in OURS.items():
        environment = FAMILIES.get(type(one.experiment.environment), small)
        found[by_training.get(type(one.experiment.training), environment)].append(name)
    found[installed] = [name for name in RECIPES if name not in OURS]
    return {family: members for family, members in found.items() if members}


def recipe(name: str) -> Experiment:
    """The experiment of this name: ours, one of an installed package, or your own by `package.module:NAME`."""
    if not isinstance(name, str):
        raise SharedqError(f"a recipe is given by its name, such as 'cartpole', not by {name!r}")
    if needs_import(name):
        return _as_recipe(resolve(name, "recipe"), name).experiment
    if name in RECIPES:
        return RECIPES[name].experiment
    if name == "gymnasium":
        raise SharedqError(
            "'gymnasium' is a kind of environment and no recipe: for an environment of your own start from "
            "lunar-lander (discrete actions) or sac-pendulum (continuous ones), each with --environment.id "
            "my_module:MyEnv"
        )
    if fitting := fitting_recipes(name, {one: ours.experiment for one, ours in OURS.items()}):
        raise SharedqError(f"unknown recipe '{name}': for this environment write {' or '.join(fitting)}")
    raise unknown("recipe", name, RECIPES)


def _as_recipe(found: Any, name: str) -> Recipe:
    """What stands behind a name, a recipe or the experiment alone."""
    if isinstance(found, Experiment):
        return Recipe("", found)
    if not isinstance(found, Recipe):
        raise SharedqError(f"recipe '{name}' is a {type(found).__name__}, not a Recipe or an Experiment")
    return found
