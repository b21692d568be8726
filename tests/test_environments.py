"""The environment contract and its checker, CartPole against Gymnasium, the probes against exact enumeration."""

import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharedq.environments import (
    ENVIRONMENTS,
    CartPole,
    Continuous,
    Custom,
    Discrete,
    Environment,
    EnvironmentSpec,
    Outcome,
    ProbeEnvironment,
    Tokens,
    autoreset,
    check,
)
from sharedq.environments.jax_native import _step as cartpole_step
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError

KEY = jax.random.key(0)


def counter(**changes) -> Environment:
    """A correct environment, which counts its steps and ends at three, with some parts replaced."""

    def reset(key):
        return {"count": jnp.int32(0)}, jnp.zeros(2)

    def step(key, state, action):
        count = state["count"] + 1
        obs = jnp.full(2, count, jnp.float32)
        return {"count": count}, Outcome(obs, jnp.float32(1), count >= 3, jnp.bool_(False), obs)

    spec = EnvironmentSpec("counter", jax.ShapeDtypeStruct((2,), jnp.float32), Discrete(2))
    described = {name: changes.pop(name) for name in EnvironmentSpec._fields if name in changes}
    return Environment(spec._replace(**described), reset, step)._replace(**changes)


def outcome_with(**changes):
    """A `step` like the counter's whose outcome has some fields computed by other functions of (key, outcome)."""

    def step(key, state, action):
        state, outcome = counter().step(key, state, action)
        return state, outcome._replace(**{name: change(key, outcome) for name, change in changes.items()})

    return step


def state_with(change):
    def step(key, state, action):
        state, outcome = counter().step(key, state, action)
        return change(state), outcome

    return step


CONTINUOUS = Continuous(np.array([-1.0], np.float32), np.array([1.0], np.float32))


def pictures(*shown) -> Environment:
    """The counter, which says that it shows stacks of two frames of one pixel; at each count those given."""
    table = jnp.array(shown, jnp.uint8)[:, None]

    def reset(key):
        return {"count": jnp.int32(0)}, table[0]

    def step(key, state, action):
        state, outcome = counter().step(key, state, action)
        obs = table[state["count"]]
        return state, outcome._replace(obs=obs, final_obs=obs)

    return counter(observation=jax.ShapeDtypeStruct((1, 2), jnp.uint8), reset=reset, step=step, stacks="black")


VIOLATIONS = {
    "stacks must be None, or 'black' for uint8 .*; not 'white'": counter(stacks="white"),
    "stacks must be None, or 'black' .* not 'black' for float32.2.": counter(stacks="black"),
    "does not hold the frames of the one before.*zeros": pictures((5, 5), (5, 6), (6, 7), (7, 8)),  # first repeated
    "does not hold the frames of the one before, shifted": pictures((0, 5), (6, 7), (7, 8), (8, 9)),
    "observation must be a jax.ShapeDtypeStruct": counter(observation=(2,)),
    "actions must be Discrete, Continuous or Tokens": counter(actions=2),
    "at least 1, not 0": counter(actions=Discrete(0)),
    "a length of at least 1, not 0": counter(actions=Tokens(0, 5, 0, 1, (2,), 3)),
    "pad, closes, opens and ends from 0 to 4": counter(actions=Tokens(3, 5, 0, 5, (2,), 3)),
    "ends from 0 to 4": counter(actions=Tokens(3, 5, 0, 1, (), 3)),
    "bounds of shapes": counter(actions=Continuous(np.zeros(1), np.ones(2))),
    "low < high": counter(actions=Continuous(np.ones(1), np.ones(1))),
    "finite bounds": counter(actions=Continuous(np.zeros(1), np.full(1, np.inf))),
    "reset must return": counter(reset=lambda key: jnp.zeros(2)),
    "reset cannot be traced by jax.jit: TypeError": counter(reset=lambda: None),
    "step cannot be traced by jax.jit: TracerBoolConversionError": counter(
        step=lambda key, state, action: state if state["count"] > 1 else None
    ),
    "step must return .state, Outcome., not .state, one array.": counter(step=lambda *_: ({}, np.zeros(2))),
    "reset's obs is float32.2. where float32.3. is declared": counter(
        observation=jax.ShapeDtypeStruct((3,), jnp.float32)
    ),
    "step's obs is float32.4.": counter(step=outcome_with(obs=lambda _, outcome: jnp.zeros(4))),
    "step's final_obs is int32.2.": counter(step=outcome_with(final_obs=lambda _, outcome: jnp.zeros(2, int))),
    "reward is int32": counter(step=outcome_with(reward=lambda _, outcome: jnp.int32(1))),
    "reward is float32.1.": counter(step=outcome_with(reward=lambda _, outcome: jnp.ones(1))),
    "reward must be one array": counter(step=outcome_with(reward=lambda _, outcome: None)),
    "terminated is float32": counter(step=outcome_with(terminated=lambda _, outcome: jnp.float32(0))),
    "truncated is int32": counter(step=outcome_with(truncated=lambda _, outcome: jnp.int32(0))),
    "life_lost is only for environments": counter(step=outcome_with(life_lost=lambda _, outcome: outcome.terminated)),
    "the state of reset is": counter(step=state_with(lambda state: (state,))),
    "the state.'count'. is int32.. after reset but float32": counter(
        step=state_with(lambda state: {"count": jnp.float32(state["count"])})
    ),
    "both terminated and truncated": counter(step=outcome_with(truncated=lambda _, outcome: outcome.terminated)),
    "an observation is not a finite number": counter(
        step=outcome_with(final_obs=lambda _, outcome: outcome.obs / (2 - outcome.obs))
    ),
    "a reward is not a finite number": counter(
        step=outcome_with(reward=lambda _, outcome: jnp.where(outcome.terminated, jnp.nan, 1.0))
    ),
    "obs and final_obs differ": counter(step=outcome_with(obs=lambda _, outcome: outcome.obs + 1)),
}


@pytest.mark.parametrize("message", VIOLATIONS)
def test_checker_names_the_violation_in_one_line(message):
    with pytest.raises(SharedqError, match=message) as caught:
        check(VIOLATIONS[message], steps=8)
    assert "environment 'counter'" in str(caught.value) and "\n" not in str(caught.value)


def test_checker_sees_randomness_from_outside_the_key():
    generator = np.random.default_rng(0)
    step = outcome_with(reward=lambda _, outcome: jnp.float32(generator.random()))
    with pytest.raises(SharedqError, match="the same key gave two different episodes"):
        check(counter(step=step), steps=8)


def test_checker_refuses_what_is_no_environment():
    with pytest.raises(SharedqError, match="expected a sharedq Environment, got int"):
        check(3)


@pytest.mark.parametrize(
    "environment",
    [
        counter(),
        pictures((0, 5), (5, 6), (6, 7), (7, 8)),
        counter(actions=CONTINUOUS),
        autoreset(counter()),
        CartPole(time_limit=7).build(),
        *(probe.environment for probe in PROBES.values()),
    ],
    ids=lambda environment: environment.spec.name,
)
def test_checker_accepts_what_keeps_the_contract(environment):
    check(environment, steps=40)


def test_autoreset_keeps_the_true_end():
    environment = autoreset(counter())
    state, _ = environment.reset(KEY)
    seen = []
    for _ in range(4):
        state, outcome = environment.step(KEY, state, 0)
        seen.append((outcome.obs[0].item(), outcome.final_obs[0].item(), outcome.terminated.item()))
    assert seen == [(1, 1, False), (2, 2, False), (0, 3, True), (1, 1, False)]


# CartPole


def gymnasium_cartpole(state):
    reference = gymnasium.make("CartPole-v1").unwrapped
    reference.reset(seed=0)
    reference.state = np.array(state, np.float64)
    return reference


@pytest.mark.parametrize("seed", range(5))
def test_cartpole_runs_as_gymnasiums_until_it_falls(seed):
    state = obs = CartPole().build().reset(jax.random.key(seed))[1]
    step = jax.jit(cartpole_step)
    reference = gymnasium_cartpole(obs)
    random = np.random.default_rng(seed)
    for _ in range(500):
        action = int(random.integers(2))
        state, outcome = step(KEY, state, action)
        expected, reward, terminated, _, _ = reference.step(action)
        np.testing.assert_allclose(outcome.obs, expected, rtol=1e-4, atol=1e-5)
        assert outcome.terminated == terminated and outcome.reward == reward
        if terminated:
            return
    pytest.fail("random actions never let the pole fall")


@settings(max_examples=50, deadline=None)
@given(
    state=st.tuples(*(st.floats(-bound, bound, width=32) for bound in (2.375, 3, 0.203125, 3))),
    action=st.integers(0, 1),
)
def test_cartpole_step_is_gymnasiums_from_any_state(state, action):
    _, outcome = cartpole_step(KEY, jnp.array(state, jnp.float32), action)
    expected = gymnasium_cartpole(state).step(action)[0]
    np.testing.assert_allclose(outcome.obs, expected, rtol=1e-5, atol=1e-6)


def test_cartpole_truncates_at_its_limit_and_not_before():
    environment = CartPole(time_limit=3).build()
    state, _ = environment.reset(KEY)
    ends = []
    for action in (0, 1, 0):
        state, outcome = environment.step(KEY, state, action)
        ends.append((outcome.terminated.item(), outcome.truncated.item()))
    assert ends == [(False, False), (False, False), (False, True)]
    np.testing.assert_array_equal(outcome.obs, outcome.final_obs)


def test_cartpole_tells_the_time_if_asked():
    environment = CartPole(time_limit=4, tell_time=True).build()
    state, first = environment.reset(KEY)
    np.testing.assert_array_equal(first, [*state[0], -0.5])
    for action, time in ((0, -0.25), (1, 0.0)):
        state, outcome = environment.step(KEY, state, action)
        np.testing.assert_array_equal(outcome.final_obs, [*state[0], time])
    assert environment.spec.observation.shape == first.shape


def test_a_fall_on_the_last_step_is_a_termination():
    environment = CartPole(time_limit=1).build()
    falling = (jnp.array([0, 0, 0.2, 3], jnp.float32), jnp.int32(0))
    _, outcome = environment.step(KEY, falling, 0)
    assert outcome.terminated and not outcome.truncated


def test_cartpole_starts_near_upright():
    starts = jax.vmap(CartPole().build().reset)(jax.random.split(KEY, 1000))[1]
    assert 0.045 < jnp.abs(starts).max() <= 0.05 and starts.min() < 0 < starts.max()


def test_cartpole_refuses_a_limit_of_nothing():
    with pytest.raises(SharedqError, match="time_limit"):
        CartPole(time_limit=0)


# Probes


def enumerated_tables(probe):
    """Mean reward, successor's index and discount factor of each state and action, by running the environment."""
    environment, observations = probe.environment, probe.observations
    states, actions = len(observations), environment.spec.actions.n
    limited = not isinstance(jax.eval_shape(environment.reset, KEY)[0], jax.ShapeDtypeStruct)
    reward, follows = np.zeros((states, actions)), np.zeros((states, actions))
    successor = np.zeros((states, actions), int)
    step = jax.jit(jax.vmap(environment.step, in_axes=(0, None, None)))
    keys = jax.random.split(KEY, 20_000)
    for index in range(states):
        state = (jnp.int32(index), jnp.int32(0)) if limited else jnp.int32(index)
        for action in range(actions):
            _, outcome = step(keys, state, action)
            reward[index, action] = outcome.reward.mean()
            follows[index, action] = not outcome.terminated[0]
            successor[index, action] = np.flatnonzero((observations == outcome.final_obs[0]).all(-1)).item()
    return reward, successor, follows


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_q_values_are_those_of_value_iteration(name, gamma):
    reward, successor, follows = enumerated_tables(PROBES[name])
    values = np.zeros_like(reward)
    for _ in range(400):  # 0.9^400 is far below the precision asked for
        values = reward + gamma * follows * values.max(-1)[successor]
    tolerance = 0.05 if name == "maximisation_bias" else 1e-6  # the mean of 20,000 noisy rewards, 7 deviations
    np.testing.assert_allclose(PROBES[name].q_values(gamma), values, atol=tolerance)


@pytest.mark.parametrize("name", PROBES)
def test_every_start_is_a_listed_observation(name):
    probe = PROBES[name]
    starts = jax.vmap(probe.environment.reset)(jax.random.split(KEY, 64))[1]
    found = {tuple(row) for row in np.asarray(starts)}
    both = name.startswith("observation")
    assert found == {tuple(row) for row in probe.observations[: 2 if both else 1]}


def test_the_time_limit_truncates_and_never_terminates():
    environment = ProbeEnvironment("time_limit").build()
    state, _ = environment.reset(KEY)
    ends = []
    for _ in range(5):
        state, outcome = environment.step(KEY, state, 0)
        ends.append((outcome.terminated.item(), outcome.truncated.item()))
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_the_arms_are_noisy_and_the_way_to_them_is_not():
    environment = PROBES["maximisation_bias"].environment
    step = jax.vmap(environment.step, in_axes=(0, None, None))
    keys = jax.random.split(KEY, 1000)
    assert (step(keys, jnp.int32(0), 3)[1].reward == 0).all()
    assert 0.9 < step(keys, jnp.int32(1), 3)[1].reward.std() < 1.1


def test_an_unknown_probe_is_told_the_nearest():
    with pytest.raises(SharedqError, match="did you mean corridor"):
        ProbeEnvironment("coridor")


# A user's own


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes a module into an otherwise empty current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])

    def write(text: str, name: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return write


GOOD = """
from sharedq.environments.probes import PROBES
make = PROBES["corridor"].environment
factory = lambda: make
wrong = lambda: 3
broken = lambda: make._replace(step=lambda key, state, action: state)
number = 5
"""


def test_custom_builds_from_the_current_directory(user_module):
    user_module(GOOD, "my_worlds")
    assert Custom("my_worlds:factory").build().spec.name == "probe/corridor"
    for reference, message in {
        "my_worlds:wrong": "returned int, not an Environment",
        "my_worlds:broken": "step must return",
        "my_worlds:number": "is not a function",
        "my_worlds:missing": "'my_worlds' has no 'missing'",
        "no_such_module:factory": "no module 'no_such_module'",
        "my_worlds": "package.module:name",
        "": "package.module:name",
    }.items():
        with pytest.raises(SharedqError, match=message):
            Custom(reference).build()


def test_a_missing_import_inside_the_users_module_is_not_hidden(user_module):
    user_module("import no_such_dependency", "my_broken_world")
    told = r"raised ModuleNotFoundError: No module named 'no_such_dependency' \(.*my_broken_world.py:1\)"
    with pytest.raises(SharedqError, match=told):
        Custom("my_broken_world:factory").build()


LIMITED = """
from sharedq.environments import time_limited
from sharedq.environments.probes import PROBES

def step(key, state, action):
    return state.place, 3

def reset(key, more):
    return key, key

def make():
    return time_limited(PROBES["corridor"].environment._replace(step=step), 9)

def other():
    return time_limited(PROBES["corridor"].environment._replace(reset=reset), 9)

def wants(number):
    return make()
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("make", r"step cannot be traced by jax.jit: AttributeError: .* no attribute place \(.*limited.py:6\)"),
        ("other", r"reset cannot be traced by jax.jit: TypeError: .*'more' \(.*limited.py:8\)"),
        ("wants", r"limited:wants' raised TypeError: .*'number' \(.*limited.py:17\)"),
    ],
)
def test_an_error_under_a_time_limit_or_in_a_call_is_told_with_the_users_line(user_module, name, told):
    user_module(LIMITED, "limited")
    with pytest.raises(SharedqError, match=told):
        Custom(f"limited:{name}").build()


# The table


def test_importing_the_table_imports_no_optional_package():
    optional = {"pgx", "ale_py", "cv2", "gymnasium", "dm_control", "mujoco"}
    code = f"import sys, sharedq.environments; sys.exit(not {optional}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert list(ENVIRONMENTS) == [
        "minatar",
        "cartpole",
        "probe",
        "custom",
        "gymnasium",
        "atari",
        "control",
        "recorded",
        "wordle",
    ]
