"""The script that collects data in a point maze: it finds shortest ways, and its data are those of the recipe."""

import runpy
import sys
from pathlib import Path

import numpy as np

import sharedq
from sharedq.datasets import DataSet
from sharedq.datasets.store import Store

SCRIPT = Path(__file__).parents[1] / "examples" / "collect_pointmaze.py"
U = [[1, 1, 1, 1, 1], [1, 0, 0, "r", 1], [1, 1, 1, 0, 1], [1, 0, "g", 0, 1], [1, 1, 1, 1, 1]]


def test_the_way_through_a_maze_goes_around_its_walls():
    maze = runpy.run_path(str(SCRIPT))["Maze"](U)
    assert maze.way((1, 1), (3, 2)) == [(1, 2), (1, 3), (2, 3), (3, 3), (3, 2)]
    assert maze.way((1, 1), (1, 1)) == []
    assert all(maze.cell_at(maze.middle(cell) + 0.4) == cell for cell in maze.free)


def test_the_data_are_those_of_the_recipe_and_repeat_themselves(tmp_path, monkeypatch):
    contents = []
    for name in ("one", "two"):
        out = str(tmp_path / name)
        monkeypatch.setattr(sys, "argv", ["collect", out, "--steps", "900", "--astray", "0.3", "--seed", "4"])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        contents.append(Store(out).manifest.content)
    assert contents[0] == contents[1]
    store = Store(out)
    assert (store.manifest.steps, store.manifest.ends["truncated"]) == (900, 3)
    assert set(np.unique(store.rewards)) == {0, 1}
    experiment = sharedq.recipe("pointmaze-iql").replace(replay=DataSet(path=out))
    built = experiment.build()
    built.replay.open(built.spec)
