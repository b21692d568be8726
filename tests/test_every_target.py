"""Every source with every backup and every reading learns the values that its equation has.

The probe is a world of three states and two actions without chance, whose six transitions are all in each batch. Its
values are found by iterating the same backup on a table of numbers.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.algorithms import DQN
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Table
from sharedq.targets import SOURCES
from sharedq.transitions import Batch, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

GAMMA, STATES, ACTIONS = 0.8, 3, 2
REWARDS = np.array([[0.0, 1.0], [0.5, -1.0], [2.0, 0.0]])
NEXT = np.array([[1, 2], [2, 0], [0, 0]])
ENDS = np.array([[False, False], [False, False], [True, False]])
SPEC = EnvironmentSpec("a probe", jax.ShapeDtypeStruct((STATES,), np.float32), Discrete(ACTIONS))

QUICK = {  # of the fields of sources, so that targets are refreshed often
    "period": 5,
    "copy_period": 2,
    "tau": 1.0,
    "heads": 2,
    "networks": 2,
    "snapshots": 2,
    "replicate_steps": 50,
    "learning_rate": 0.05,
    "adam_epsilon": 1e-3,
    "strength": 0.1,
}
BACKUPS = {
    "maximum": {},
    "double": {},
    "mellowmax": {"mellowmax_omega": 3.0},
    "expected_sarsa": {"epsilon_end": 0.3},
    "munchausen": {"munchausen_tau": 0.3, "munchausen_alpha": 0.5},
}
READINGS = {
    "scalar": {},
    "categorical": {"atoms": 41, "value_bound": 6.0},
    "quantile": {"atoms": 4},
    "hl_gauss": {"atoms": 41, "value_bound": 6.0},
}
REFUSED = {("mellowmax", "categorical"), ("mellowmax", "quantile")}  # pairs of backup and reading

TABULAR = [name for name in SOURCES if name not in ("eau_de", "poly_prune")]  # a table has no weights to prune
ALL = list(itertools.product(TABULAR, BACKUPS, READINGS))
PAIRS = [pair for pair in itertools.product(BACKUPS, READINGS) if pair not in REFUSED]
EACH = {  # every source once, and every pair of backup and reading once
    *((source, *PAIRS[place % len(PAIRS)]) for place, source in enumerate(TABULAR)),
    *(("online_network", *pair) for pair in PAIRS),
}


def settings(backup: str, reading: str, **more) -> DQN:
    rates = {"learning_rate": 0.05, "adam_epsilon": 1e-3}
    options = {**rates, **BACKUPS[backup], **READINGS[reading], **more}
    return DQN(gamma=GAMMA, backup=backup, values=reading, **options)


def source(name: str):
    kind = SOURCES[name]
    fields = {field.name: QUICK[field.name] for field in dataclasses.fields(kind) if field.name in QUICK}
    if "replicate_steps" in fields:
        fields["period"] = fields["replicate_steps"]  # a shorter one swings, because Adam has momentum
    return kind(**fields)


def batch() -> Batch:
    state, action = (x.ravel() for x in np.mgrid[:STATES, :ACTIONS])
    one_hot = np.eye(STATES, dtype=np.float32)
    discount = np.where(ENDS, 0, GAMMA).astype(np.float32)[state, action]
    reward = REWARDS.astype(np.float32)[state, action]
    transition = Transition(one_hot[state], action.astype(np.int32), reward, discount, one_hot[NEXT[state, action]])
    return jax.tree.map(jnp.asarray, Batch(transition, np.ones(6, np.float32), np.zeros(6, np.int32)))


def fixed_point(algorithm: DQN) -> np.ndarray:
    """The values [states, actions] that the backup leaves as they are."""
    backup, q = algorithm.of_next_states(), jnp.zeros((STATES, ACTIONS))
    for _ in range(150):
        reward = REWARDS
        if algorithm.backup == "munchausen":
            tau, alpha = algorithm.munchausen_tau, algorithm.munchausen_alpha
            reward = reward + alpha * np.clip(tau * jax.nn.log_softmax(q / tau), -1, 0)
        q = jnp.float32(reward + GAMMA * ~ENDS * np.asarray(backup.value(q, q))[NEXT])
    return np.asarray(q)


def learns(name: str, backup: str, reading: str, tolerance: float = 0.1, **more) -> None:
    wanted = settings(backup, reading, **more)
    algorithm, data = wanted.build(SPEC, source(name), Table()), batch()

    def update(state, step):
        key = jax.random.fold_in(jax.random.key(0), step)
        return algorithm.update(state, data, key, step)[0], None

    start = algorithm.init(jax.random.key(1), data)
    end, _ = jax.jit(lambda state: jax.lax.scan(update, state, jnp.arange(1, 2501)))(start)
    found = algorithm.values(end, None, jnp.eye(STATES))
    np.testing.assert_allclose(found, fixed_point(wanted), atol=tolerance)


@pytest.mark.parametrize("combination", sorted(EACH), ids="-".join)
def test_every_source_and_every_pair_of_backup_and_reading_learns_the_values(combination):
    learns(*combination)


@pytest.mark.slow
@pytest.mark.parametrize(
    "combination", [one for one in ALL if one[1:] not in REFUSED and one not in EACH], ids="-".join
)
def test_every_combination_learns_the_values(combination):
    learns(*combination)


@pytest.mark.parametrize("name", ["online_network", "shared_heads", "iterated_networks"])
def test_a_corrected_gradient_learns_the_values(name):
    """With a large epsilon Adam's steps fall with the gradient, so that values and estimates come to rest."""
    quiet = {"learning_rate": 0.1, "adam_epsilon": 1.0}
    learns(name, "maximum", "scalar", tolerance=1e-3, gradient_correction=True, **quiet)


@pytest.mark.parametrize("pair", sorted(REFUSED), ids="-".join)
def test_pairs_that_do_not_fit_are_refused(pair):
    with pytest.raises(SharedqError, match="choose another backup"):
        settings(*pair)
