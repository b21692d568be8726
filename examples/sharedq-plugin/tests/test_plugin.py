"""The package's own tests, with the checks of sharedq.testing."""

from sharedq_plugin.cliff import Cliff
from sharedq_plugin.fourier import Fourier
from sharedq_plugin.relative_step import RelativeStep
from sharedq_plugin.young_average import YoungAverage

from sharedq import testing


def test_the_source_keeps_the_contract():
    testing.check_source(YoungAverage(final_tau=0.1))


def test_the_environment_keeps_the_contract():
    testing.check_environment(Cliff().build())


def test_the_network_carries_a_source():
    testing.check_kind(Fourier)
    testing.check_source(YoungAverage(final_tau=0.1), network=Fourier(features=4).build(3))


def test_the_measure_is_a_kind_that_can_be_shown():
    testing.check_kind(RelativeStep)
