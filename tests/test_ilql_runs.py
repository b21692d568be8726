"""Runs of implicit language Q-learning: killed and resumed to the bit, and refused on data of another game."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_offline import assert_same_end, ended, kill, rows
from test_resume import refused

from sharedq.command_line import main
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.writing import StoreWriter
from sharedq.environments.spec import EnvironmentSpec
from sharedq.environments.wordle import ACTIONS, TEXT
from sharedq.runs import checkpoints

WORDS = ("crane", "slate", "trace", "house", "moist")
TINY = {
    "count": "none",
    "network.layers": 1,
    "network.width": 8,
    "network.attention_heads": 2,
    "network.dropout": 0.2,
    "critics": 1,
    "target": "shared_heads",
    "target.heads": 2,
    "target.period": 3,
    "batch_size": 2,
    "steps": 6,
    "log_period": 2,
    "checkpoint_period": 2,
    "evaluation_period": 2,
    "evaluation_episodes": 2,
}


@pytest.fixture
def words(tmp_path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS))
    return path


def games(out: Path, words: Path, *options: str) -> Path:
    chosen = ("--recipe", "mixed", "--games", "9", "--words", str(words), "--count", "none", *options)
    assert main(["data", "wordle", str(out), *chosen]) == 0
    return out


def command(out: Path, words: Path, data: Path) -> list[str]:
    options = {**TINY, "words": words, "data": data}
    return ["train", "ilql-wordle-small", "--out", str(out), *(f"--{name}={value}" for name, value in options.items())]


def test_killed_while_it_saves_and_resumed_the_end_is_the_same_and_other_words_are_refused(tmp_path, words, capsys):
    data, run = games(tmp_path / "games", words), tmp_path / "run"
    assert main(command(tmp_path / "unbroken", words, data)) == 0
    assert [row["step"] for row in rows(tmp_path / "unbroken/evaluations.csv")] == ["2", "2", "4", "4", "6", "6"]
    kill("saving", 2, [command(run, words, data)])
    assert checkpoints.all_steps(run / "checkpoints") == [2]
    words.write_text("\n".join([*WORDS[:-1], "moose"]))
    assert "was recorded in 'wordle-5-" in refused(capsys, "resume", run)
    words.write_text("\n".join(WORDS))
    assert main(["resume", str(run)]) == 0
    assert_same_end(run, ended(tmp_path / "unbroken"))


def test_data_of_another_game_or_of_other_tokens_are_refused(tmp_path, words, capsys):
    real = games(tmp_path / "real", words, "--colours", "real")
    line = refused(capsys, *command(tmp_path / "run", words, real))
    assert "-real', and the experiment's environment is 'wordle-5-" in line
    more = EnvironmentSpec("unknown", jax.ShapeDtypeStruct((TEXT,), jnp.uint8), ACTIONS._replace(vocabulary=36))
    with StoreWriter(tmp_path / "more", Description("tests", "tests", more)) as writer:
        text = np.full((2, TEXT), ACTIONS.pad, np.uint8)
        writer.add(Episode(text, np.zeros((1, 6), np.int32), np.zeros(1, np.float32), End.TERMINATED), "episode 0")
        writer.finish()
    line = refused(capsys, *command(tmp_path / "run", words, tmp_path / "more"))
    assert "texts of 6 tokens out of 36 (" in line and ", and 'wordle-5-" in line
    assert "has texts of 6 tokens out of 35 (" in line
    assert not (tmp_path / "run").exists()
