"""An algorithm is one file and one line: two toys that only a table knows train, stop, go on, play and are costed."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharedq
from sharedq.algorithms import ALGORITHMS, Algorithm
from sharedq.algorithms.parts import discrete_actions
from sharedq.environments import ProbeEnvironment
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError, Stopped
from sharedq.experiment import Experiment
from sharedq.exploration import epsilon_greedy, greedy
from sharedq.replay import NoReplay, Transitions
from sharedq.runs import checkpoints
from sharedq.training import Fused, Streaming
from sharedq.training.progress import Silent

PROBE = PROBES["corridor"]
GAMMA, RATE = 0.9, 0.2


class State(NamedTuple):
    params: jax.Array  # [states, actions]
    visits: jax.Array  # [states] how often each was observed


def table(spec) -> tuple:
    """`init`, `act`, `values`, `decide` and a step of Q-learning on a table; one-hot observations choose its row."""
    shape = (*spec.observation.shape, discrete_actions(spec, "a table"))

    def init(key, example):
        return State(jnp.zeros(shape), jnp.zeros(shape[0]))

    def values(state, key, obs):
        return obs @ state.params

    def act(state, key, obs, step):
        return epsilon_greedy(key, lambda: values(state, key, obs), 0.0 if step is None else 1.0)

    def learned(params, obs, action, reward, discount, next_obs):
        target = reward + discount * (next_obs @ params).max(axis=-1)
        place = obs.argmax(axis=-1), action
        error = target - params[place]
        return params.at[place].add(RATE * error / len(error)), error

    def decide(state, obs):
        return greedy(values(state, None, obs))

    return (init, act, values, decide), learned


@dataclass(frozen=True)
class OneStep:
    """Q-learning from each step as it happens."""

    gamma: float = GAMMA  # discount of the future, per step

    def build(self, spec, target, network):
        functions, learned = table(spec)

        def observe(state, key, step, obs, count):
            discount = jnp.where(step.terminated, 0.0, self.gamma)
            params, error = learned(state.params, step.obs, step.action, step.reward, discount, step.next_obs)
            return State(params, state.visits + step.obs.sum(axis=0)), {"loss": error**2, "counted": count}

        return Algorithm(*functions, observe)


@dataclass(frozen=True)
class Replayed:
    """Q-learning from a replay that also counts what it sees as it happens."""

    gamma: float = GAMMA  # discount of the future, per step

    def build(self, spec, target, network):
        functions, learned = table(spec)

        def observe(state, key, step, obs, count):
            return state._replace(visits=state.visits + step.obs.sum(axis=0)), {"counted": count}

        def update(state, batch, key, step):
            params, error = learned(state.params, *batch.transition)
            return state._replace(params=params), -error[None], {"loss": error**2}

        return Algorithm(*functions, observe, update)


WORLD = ProbeEnvironment("corridor")
STREAM = Streaming(steps=6_000, environments=2, log_period=2_000, checkpoint_period=2_000)
CYCLES = Fused(steps=6_000, environments=2, warm_up=100, update_period=2, log_period=2_000, checkpoint_period=2_000)
TOYS: dict[str, tuple[type, Any, Any]] = {
    "one_step": (OneStep, NoReplay(), STREAM),
    "replayed": (Replayed, Transitions(1000, 8), CYCLES),
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for name, (kind, _, _) in TOYS.items():
        monkeypatch.setitem(ALGORITHMS, name, kind)


def experiment(name: str) -> Experiment:
    kind, replay, training = TOYS[name]
    return Experiment(WORLD, kind(), replay=replay, training=training)


class Stops(Silent):
    """Sends this process a signal when the run is at 4,000 steps."""

    def update(self, step, rate, mean_return, learning):
        if step == 4_000:
            signal.raise_signal(signal.SIGTERM)


def rows(run: Path) -> list[list[str]]:
    """The log, without how long it took."""
    header, *lines = (line.split(",") for line in (run / "metrics.csv").read_text().splitlines())
    timeless = [place for place, name in enumerate(header) if "seconds" not in name and "second" not in name]
    return [[line[place] for place in timeless] for line in (header, *lines)]


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_trains_stops_goes_on_plays_and_is_costed(name, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    sharedq.train(experiment(name), whole)
    with pytest.raises(Stopped):
        sharedq.train(experiment(name), broken, progress=Stops())
    sharedq.resume(broken)
    files = [checkpoints.latest(run / "checkpoints") / "agent.safetensors" for run in (whole, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert rows(whole) == rows(broken)

    agent = sharedq.load(whole)
    found = np.stack([agent.values(obs) for obs in PROBE.observations])
    np.testing.assert_allclose(found, PROBE.q_values(GAMMA), atol=0.01)
    assert [agent.act(obs) for obs in PROBE.observations] == [1, 1, 1, 1]
    assert agent.evaluate(episodes=2).lengths.tolist() == [4, 4]

    cost = experiment(name).build().cost(timed=True)
    assert cost.parameters == {"trained": 8, "held": 8, "untrained": 0}
    kept = {"one_step": 0, "replayed": 1000 * (2 * 4 * 4 + 4 + 4 + 1 + 1)}[name]
    assert cost.bytes.items() >= {"weights": 8 * 4, "visits": 4 * 4, "replay": kept}.items()
    assert cost.flops_per_update > 0 and cost.flops_per_action > 0 and cost.update_seconds > 0


@pytest.mark.parametrize("name", TOYS)
def test_every_step_is_observed_once_and_its_metrics_are_averaged_over_steps(name):
    program = experiment(name).build().program()
    program.prepare()
    assert program.metric_names == ["counted", "loss"]
    run, step = program.begin(), 0
    for stop in program.log_steps:
        run, told = program.advance(run, step, stop)
        if told.metrics:
            np.testing.assert_allclose(told.metrics["counted"], (step / 2 + 1 + stop / 2) / 2, rtol=1e-6)
        step = stop
    assert program.to_host(run).agent.visits.sum(axis=1).tolist() == [6_000]


def test_a_loss_while_observing_that_is_no_number_is_told_with_its_step():
    built = experiment("one_step").build()

    def observe(state, key, step, obs, count):
        return state, {"loss": jnp.where(count >= 7, jnp.nan, 0.0)}

    program = STREAM.build(built.environment, built.algorithm._replace(observe=observe), built.replay, [0])
    program.prepare()
    assert program.advance(program.begin(), 0, 2_000)[1].bad_step.tolist() == [7 * 2]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "one_step",
            {"replay": "transitions"},
            "'one_step' learns from each step .* and replay 'transitions' .*: add --replay none",
        ),
        (
            "one_step",
            {"training": "fused"},
            "'one_step' learns from each step .* and training 'fused' .*: add --training streaming",
        ),
        (
            "replayed",
            {"replay": "none"},
            "'replayed' learns from a replay, and replay 'none' .*: add --replay transitions or frame_stacks",
        ),
        (
            "replayed",
            {"training": "streaming"},
            "learns from a replay, and training 'streaming' .*: add --training fused or interactive",
        ),
    ],
)
def test_a_replay_where_none_is_wanted_is_refused_and_the_other_way_round(name, change, message):
    with pytest.raises(SharedqError, match=message):
        experiment(name).replace(**change).build()
