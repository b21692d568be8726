"""Seconds of training steps of small Atari in the way of research code; `benchmarks/atari_small.py` starts and asks it.

It is a Python loop over one environment with a call to the device for each action and for each update, a replay in
numpy, and one network with K+1 heads in flax. It knows nothing of sharedq. Each line of its input is a number of steps;
each line of its output, the seconds that they took.
"""

import sys
import time

import ale_py
import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

GAME, HEADS = sys.argv[1], int(sys.argv[2])
SIDE, STACK, STORED, BATCH, GAMMA, PERIOD = 16, 2, 50_000, 16, 0.99, 3000


class Network(nn.Module):
    actions: int

    @nn.compact
    def __call__(self, obs):
        init = nn.initializers.xavier_uniform()
        x = nn.Conv(16, (2, 2), (2, 2), kernel_init=init)(obs / 255.0)
        x = nn.relu(nn.LayerNorm()(x)).reshape(-1)
        x = nn.relu(nn.LayerNorm()(nn.Dense(256, kernel_init=init)(x)))
        return nn.Dense((HEADS + 1) * self.actions, kernel_init=init)(x).reshape(HEADS + 1, self.actions)


class Replay:
    def __init__(self):
        shape = (STORED, SIDE, SIDE, STACK)
        self.obs, self.next_obs = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        self.action, self.reward, self.done = (np.zeros(STORED, kind) for kind in (np.int32, np.float32, np.float32))
        self.count, self.random = 0, np.random.default_rng(0)

    def add(self, *step):
        place = self.count % STORED
        for array, value in zip((self.obs, self.action, self.reward, self.done, self.next_obs), step, strict=True):
            array[place] = value
        self.count += 1

    def sample(self):
        places = self.random.integers(min(self.count, STORED), size=BATCH)
        return tuple(array[places] for array in (self.obs, self.action, self.reward, self.done, self.next_obs))


def main() -> None:
    gymnasium.register_envs(ale_py)
    game = gymnasium.make(f"ALE/{GAME}-v5", frameskip=1)
    game = FrameStackObservation(AtariPreprocessing(game, noop_max=0, screen_size=SIDE), STACK, padding_type="zero")
    network = Network(int(game.action_space.n))
    apply = jax.vmap(network.apply, in_axes=(None, 0))
    params = network.init(jax.random.key(0), jnp.zeros((SIDE, SIDE, STACK)))
    optimiser = optax.adam(1e-4, eps=1.5e-4)
    moments, replay, key, update = optimiser.init(params), Replay(), jax.random.key(1), 0

    @jax.jit
    def act(params, obs, key):
        return network.apply(params, obs)[jax.random.randint(key, (), 1, HEADS + 1)].argmax()

    @jax.jit
    def learn(params, moments, batch):
        obs, action, reward, done, next_obs = batch

        def loss(params):
            now, then = apply(params, obs), apply(params, next_obs)
            target = reward[:, None] + GAMMA * (1 - done[:, None]) * then[:, :-1].max(axis=-1)
            chosen = jnp.take_along_axis(now[:, 1:], action[:, None, None], axis=-1)[..., 0]
            return ((chosen - jax.lax.stop_gradient(target)) ** 2).mean(axis=0).sum()

        value, slope = jax.value_and_grad(loss)(params)
        changes, moments = optimiser.update(slope, moments, params)
        return optax.apply_updates(params, changes), moments, value

    @jax.jit
    def shift(params):
        def down(leaf):
            heads = leaf.reshape(*leaf.shape[:-1], HEADS + 1, -1)
            return jnp.concatenate([heads[..., 1:, :], heads[..., -1:, :]], axis=-2).reshape(leaf.shape)

        return {"params": {**params["params"], "Dense_1": jax.tree.map(down, params["params"]["Dense_1"])}}

    def step(obs):
        nonlocal params, moments, key, update
        key, own = jax.random.split(key)
        seen = np.moveaxis(np.asarray(obs), 0, -1)
        action = int(act(params, seen, own))
        after, reward, terminated, truncated, _ = game.step(action)
        replay.add(seen, action, np.clip(reward, -1, 1), terminated, np.moveaxis(np.asarray(after), 0, -1))
        params, moments, _ = learn(params, moments, replay.sample())
        update += 1
        if update % PERIOD == 0:
            params = shift(params)
        return game.reset()[0] if terminated or truncated else after

    obs = game.reset(seed=0)[0]
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            obs = step(obs)
        jax.block_until_ready(params)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
