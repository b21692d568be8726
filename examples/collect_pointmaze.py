"""Collects a data set in a point maze: a controller that knows the maze steers the ball from waypoint to waypoint.

    pip install 'sharedq[maze]'
    python examples/collect_pointmaze.py data/pointmaze
    sharedq train pointmaze-iql --data data/pointmaze

The controller is that of the scripts which made Minari's D4RL/pointmaze data, with their gains, their distance from
waypoints and their noise. Two things differ. There an episode ends when the ball reaches the goal, so no step begins at
a goal and the values there are never learned; here it goes on to the time limit of the environment. And in a part of
our episodes (`--astray`) the ball visits one random cell after another and knows no goal. Imitating such data reaches
the goal less often than its best part, so that they show what learning from rewards adds.
"""

import argparse
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np

from sharedq.collecting import known_of
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.writing import StoreWriter
from sharedq.output import bar
from sharedq.recipes import recipe

GAIN, DAMPING = 10.0, 1.0  # of the force, for each metre to the waypoint and each metre per second
CLOSE = 0.1  # metres from a waypoint, where the next one is chosen
JITTER = 0.1  # metres, the most by which a waypoint lies beside the middle of its cell
WALL = 1
Cell = tuple[int, int]  # row and column


class Maze:
    """The cells of a maze of side 1, and the way from one to another."""

    def __init__(self, walls: list[list[int | str]]):
        self._shape = (len(walls), len(walls[0]))
        self.free = [(r, c) for r, row in enumerate(walls) for c, one in enumerate(row) if one != WALL]

    def middle(self, cell: Cell) -> np.ndarray:
        (row, column), (rows, columns) = cell, self._shape
        return np.array([column + 0.5 - columns / 2, rows / 2 - row - 0.5])

    def cell_at(self, place: np.ndarray) -> Cell:
        return min(self.free, key=lambda cell: float(np.abs(self.middle(cell) - place).max()))

    def way(self, start: Cell, goal: Cell) -> list[Cell]:
        """The cells behind `start` on a shortest way to `goal`."""
        towards: dict[Cell, Cell] = {goal: goal}
        for cell in (reached := [goal]):
            row, column = cell
            for one in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if one in self.free and one not in towards:
                    towards[one] = cell
                    reached.append(one)
        cells = [start]
        while cells[-1] != goal:
            cells.append(towards[cells[-1]])
        return cells[1:]


class Controller:
    """Steers the ball to a goal, or astray. An observation is achieved goal, desired goal, place and velocity."""

    def __init__(self, maze: Maze, noise: float, random: np.random.Generator):
        self._maze, self._noise, self._random = maze, noise, random

    def begin(self, obs: np.ndarray, astray: bool) -> None:
        self._astray, self._waypoints = astray, [obs[4:6]]

    def act(self, obs: np.ndarray) -> np.ndarray:
        goal, place, velocity = obs[2:4], obs[4:6], obs[6:8]
        if np.linalg.norm(self._waypoints[0] - place) <= CLOSE:
            self._waypoints = self._waypoints[1:] or self._way(place, goal)
        force = GAIN * (self._waypoints[0] - place) - DAMPING * velocity
        return (force + self._noise * self._random.standard_normal(2)).clip(-1, 1).astype(np.float32)

    def _way(self, place: np.ndarray, goal: np.ndarray) -> list[np.ndarray]:
        maze, random = self._maze, self._random
        aim = maze.free[random.integers(len(maze.free))] if self._astray else maze.cell_at(goal)
        cells = maze.way(maze.cell_at(place), aim)
        waypoints = [maze.middle(cell) + random.uniform(-JITTER, JITTER, 2) for cell in cells]
        return [*waypoints, maze.middle(aim)] if self._astray else [*waypoints[:-1], goal]


def episodes(worlds, act: Callable, begin: Callable, steps: int) -> Iterator[Episode]:
    """Whole episodes of one world, of at least `steps` steps together."""
    first, done = worlds.reset()[0], 0
    while done < steps:
        begin(first)
        seen, actions, rewards, ended = [first], [], [], False
        while not ended:
            actions.append(act(seen[-1]))
            happened = worlds.step(actions[-1][None])
            seen.append(happened.final_obs[0])
            rewards.append(happened.reward[0])
            ended = bool(happened.terminated[0] or happened.truncated[0])
        end = End.TERMINATED if happened.terminated[0] else End.TRUNCATED
        done += len(rewards)
        yield Episode(np.stack(seen), np.stack(actions), np.array(rewards, np.float32), end)
        first = happened.obs[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder of the new data set")
    parser.add_argument("--maze", default="PointMaze_UMaze-v3", help="the environment (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100_000, help="steps to collect (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of noise on each force")
    parser.add_argument("--astray", type=float, default=0.5, help="share of episodes that know no goal")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the episodes")
    arguments = parser.parse_args()
    experiment = recipe("pointmaze-iql").replace(**{"environment.id": arguments.maze})
    built = experiment.environment.build()
    maze = Maze(gymnasium.spec(arguments.maze).kwargs["maze_map"])
    random = np.random.default_rng(arguments.seed)
    controller = Controller(maze, arguments.noise, random)
    description = Description(
        source=f"collect_pointmaze.py --maze {arguments.maze} --steps {arguments.steps} --noise {arguments.noise:g} "
        f"--astray {arguments.astray:g} --seed {arguments.seed}",
        reader="collect",
        behaviour=f"a controller that steers from waypoint to waypoint, astray in {arguments.astray:.0%} of episodes; "
        f"noise with standard deviation {arguments.noise:g}",
        **known_of(experiment, built.spec),
    )
    worlds = built.open(1, arguments.seed)

    def begin(obs: np.ndarray) -> None:
        controller.begin(obs, random.random() < arguments.astray)

    done = 0
    with bar(f"collecting {arguments.out}", "steps") as progress, StoreWriter(arguments.out, description) as writer:
        for number, episode in enumerate(episodes(worlds, controller.act, begin, arguments.steps)):
            if number >= writer.episodes_written:
                writer.add(episode, f"episode {number}")
            done += len(episode.reward)
            progress(min(done, arguments.steps), arguments.steps)
        store = writer.finish()
    worlds.close()
    reached = (store.returns > 0).mean()
    print(
        f"{store.manifest.steps:,} steps in {store.manifest.episodes:,} episodes, of which {reached:.0%} reach the goal"
    )


if __name__ == "__main__":
    main()
