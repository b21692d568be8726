"""Our DQN beside that of the package rejax: the same game, network, batch and updates per step, taking turns.

    pip install rejax && python -m benchmarks.against_rejax

MinAtar Breakout, a dense 64x64 network and a target network, 8 environments per seed, batch 32, one update per 4
steps. rejax gets our environment in the form of gymnax. Its seeds are under `vmap`, as its own examples run them.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

from sharedq.training.seeds import use_all_cores

use_all_cores()

import jax  # noqa: E402
import rejax  # noqa: E402
from gymnax.environments.spaces import Box, Discrete  # noqa: E402

from benchmarks.rows import Row  # noqa: E402
from sharedq import environments, recipe  # noqa: E402
from sharedq.networks import Dense  # noqa: E402

STEPS = 10_000  # of each seed in a timed stretch


class Gymnax:
    """One of our environments with the methods that rejax calls."""

    default_params = SimpleNamespace()

    def __init__(self, environment: environments.Environment):
        self.inner = environments.autoreset(environment)

    def reset(self, key, params):
        state, obs = self.inner.reset(key)
        return obs, state

    def step(self, key, state, action, params):
        state, outcome = self.inner.step(key, state, action)
        return outcome.obs, state, outcome.reward, outcome.terminated | outcome.truncated, {}

    def observation_space(self, params):
        return Box(0, 1, self.inner.spec.observation.shape, self.inner.spec.observation.dtype)

    def action_space(self, params):
        return Discrete(self.inner.spec.actions.n)


def dqn(environment: environments.Environment):
    """rejax's DQN with our numbers, which trains for `STEPS` steps at a call."""
    return (
        rejax.get_algo("dqn")
        .create(
            env=Gymnax(environment),
            env_params=None,
            num_envs=8,
            num_epochs=2,  # updates for each step of the 8 environments
            batch_size=32,
            buffer_size=100_000,
            fill_buffer=1000,
            learning_rate=3e-4,
            ddqn=False,
            target_update_freq=4000,
            total_timesteps=STEPS,
            eval_freq=STEPS,
            skip_initial_evaluation=True,
            agent_kwargs={"activation": "relu"},
        )
        .replace(eval_callback=lambda agent, state, key: 0)
    )  # no evaluation: training alone is timed


class Theirs:
    """An agent of rejax that trains `seeds` seeds for `steps` steps at a call, compiled."""

    def __init__(self, agent, seeds: int, steps: int):
        self.label, self.seeds, self.steps, self.rates = "rejax", seeds, steps, []
        self._train = jax.jit(jax.vmap(lambda state: agent.train(train_state=state)[0]), donate_argnums=0)
        self._state = jax.jit(jax.vmap(agent.init_state))(jax.random.split(jax.random.key(0), seeds))

    def advance(self, timed: bool) -> None:
        began = time.perf_counter()
        self._state = jax.block_until_ready(self._train(self._state))
        if timed:
            self.rates.append(self.steps * self.seeds / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--chunks", type=int, default=5, help="timed stretches of 10,000 steps of each seed")
    arguments = parser.parse_args()
    base = recipe("minatar-breakout").replace(
        network=Dense((64, 64)), target="target_network", steps=STEPS * (arguments.chunks + 2)
    )
    for seeds in arguments.seeds:
        ours, theirs = Row(base.replace(seeds=seeds), "sharedq"), Theirs(dqn(base.environment.build()), seeds, STEPS)
        for number in range(arguments.chunks + 2):
            for one in (ours, theirs):
                one.advance(timed=number >= 2)
        rates = {one.label: statistics.median(one.rates) for one in (ours, theirs)}
        words = "  ".join(f"{name} {rate:8,.0f} steps/s" for name, rate in rates.items())
        print(f"{seeds} seeds  {words}  ratio {rates['sharedq'] / rates['rejax']:.2f}")


if __name__ == "__main__":
    main()
