"""The package's own tests, with the checks of sharedq.testing."""

import jax
import jax.numpy as jnp
import numpy as np
from sharedq_plugin.cliff import HEIGHT, Cliff, value
from sharedq_plugin.fourier import Fourier
from sharedq_plugin.relative_step import RelativeStep
from sharedq_plugin.young_average import YoungAverage

from sharedq import testing


def test_the_source_keeps_the_contract():
    testing.check_source(YoungAverage(final_tau=0.1))


def test_the_environment_keeps_the_contract():
    testing.check_environment(Cliff().build())


def test_the_values_of_the_cells_are_those_of_value_iteration():
    width, gamma = 5, 0.9
    environment = Cliff(width=width, time_limit=1000).build()
    cells = [(row, column) for row in range(HEIGHT - 1) for column in range(width)] + [(HEIGHT - 1, 0)]

    def step(cell, action):
        (place, _), outcome = environment.step(jax.random.key(0), (cell, jnp.int32(0)), action)
        return place, outcome.reward, outcome.terminated

    every = jax.vmap(jax.vmap(step, (None, 0)), (0, None))(jnp.array(cells), jnp.arange(4))
    places, rewards, ends = map(np.asarray, every)
    values = np.zeros((HEIGHT, width))
    for _ in range(200):
        q_values = rewards + gamma * np.where(ends, 0, values[places[..., 0], places[..., 1]])
        for cell, best in zip(cells, q_values.max(axis=1)):
            values[cell] = best
    np.testing.assert_allclose(
        [values[cell] for cell in cells], [value(*cell, width, gamma) for cell in cells], atol=1e-5
    )


def test_the_network_carries_a_source():
    testing.check_kind(Fourier)
    testing.check_source(YoungAverage(final_tau=0.1), network=Fourier(features=4).build(3))


def test_the_measure_is_a_kind_that_can_be_shown():
    testing.check_kind(RelativeStep)
