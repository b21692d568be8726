"""The examples that the pages tell of do what the pages say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.usefixtures("hasty")
def test_on_the_chain_of_two_states_values_meet_and_parameters_do_not(tmp_path):
    spec = importlib.util.spec_from_file_location("two_state_chain", EXAMPLES / "two_state_chain.py")
    chain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chain)
    found = chain.run()
    for one in found.values():
        for network in ("online", "target"):
            np.testing.assert_allclose(one[network][-1], [1 / 0.19, 0.9 / 0.19], rtol=1e-4)
    copied, replicated, larger = map(chain.parameters_apart, found.values())
    assert copied[-1] < 1e-4
    assert replicated[-1] > 1
    assert larger is None
    chain.draw(found, str(tmp_path / "chain.png"))
    assert (tmp_path / "chain.png").stat().st_size > 10_000
