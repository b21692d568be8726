"""Runs that version 0.1.0 left behind are reported, acted with and gone on with by this version."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import sharedq
from sharedq.command_line import main

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
pytestmark = pytest.mark.usefixtures("hasty")

STOPPED = sorted(path.name for path in FIXTURES.iterdir() if path.name not in ("corridor-finished", "comparison"))


@pytest.fixture
def copied(tmp_path):
    def copy(name: str) -> Path:
        (tmp_path / name / "checkpoints").mkdir(parents=True)  # git keeps no empty folder
        return shutil.copytree(FIXTURES / name, tmp_path / name, dirs_exist_ok=True)

    return copy


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_is_gone_on_with_and_reported(copied, name, capsys):
    run = copied(name)
    assert main(["resume", str(run)]) == 0
    assert "finished" in capsys.readouterr().out
    assert (run / "finished.json").is_file()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_finished_run_still_acts(copied, seed):
    agent = sharedq.load(copied("corridor-finished"), seed=seed)
    np.testing.assert_allclose(agent.values([1, 0, 0, 0]), [0.9**4, 0.9**3], atol=0.05)


def test_a_comparison_is_reported_and_has_nothing_left_to_train(copied, capsys):
    folder = copied("comparison")
    assert main(["report", str(folder)]) == 0
    assert main(["resume", str(folder)]) == 0
    assert "report:" in capsys.readouterr().out
    assert (folder / "report.html").is_file()
