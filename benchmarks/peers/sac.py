"""Seconds of gradient updates of another package's soft actor-critic; `benchmarks/sac_update.py` starts it and asks.

It runs in an environment of the package's own, and so knows nothing of sharedq. Each line of its input is a number of
updates; each line of its output, the seconds that they took.
"""

import sys
import time

import gymnasium
import numpy as np

package, *numbers = sys.argv[1:]
OBS, ACTIONS, BATCH, STORED, AT_ONCE = map(int, numbers)


class Body(gymnasium.Env):
    """As large as humanoid, and nothing else."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (ACTIONS,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(OBS, np.float32), {}

    def step(self, action):
        return np.zeros(OBS, np.float32), 0.0, False, False, {}


def agent():
    """Both have two critics, layers of 256x256 and a Polyak average of 0.005 unless told otherwise."""
    if package == "sbx":
        from sbx import SAC
    else:
        from stable_baselines3 import SAC
    return SAC("MlpPolicy", Body(), batch_size=BATCH, buffer_size=STORED, learning_starts=STORED, device="cpu")


def main() -> None:
    model, random = agent(), np.random.default_rng(0)
    model.learn(total_timesteps=2)  # sets up what training wants
    for _ in range(STORED):
        obs, next_obs = random.normal(size=(2, 1, OBS)).astype(np.float32)
        action, reward = random.uniform(-1, 1, (1, ACTIONS)).astype(np.float32), random.normal(size=1)
        model.replay_buffer.add(obs, next_obs, action, reward, np.zeros(1, bool), [{}])
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(max(int(line) // AT_ONCE, 1)):
            model.train(gradient_steps=AT_ONCE, batch_size=BATCH)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
