"""The MinAtar games against the original package, step by step on the same actions and the same draws of chance.

Compared on every step, of whole episodes: the observation, the reward and the end. Breakout and Space Invaders draw
nothing after their first state, which is copied into the original. Asterix, Freeway and Seaquest draw while they run:
what pgx draws from a step's key is drawn here once more from the same key, and handed to the original in place of its
random numbers. Not compared: the distribution of the draws themselves, and sticky actions, which have a test apart.

Seaquest is compared where pgx plays by the original's rules: the player surfaces before the air runs out, and the
original is made to speed up when pgx does. Each of these two differences has a test that shows it, and so has what
pgx does with enemy bullets that leave the water, which the compared episodes do not meet.
"""

import functools
import importlib
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.environments import Discrete, MinAtar, check
from sharedq.environments.minatar import GAMES
from sharedq.errors import SharedqError

pytestmark = pytest.mark.usefixtures("hasty")

pytest.importorskip("pgx")
pytest.importorskip("minatar")

KEY = jax.random.key(0)


@functools.cache
def compiled(game):
    """The compiled `reset` and `step` of a game without sticky actions."""
    environment = MinAtar(game, sticky=0).build()
    return jax.jit(environment.reset), jax.jit(environment.step)


class Script:
    """Stands in for the original's random numbers and returns those it was given, in order."""

    def __init__(self):
        self.numbers = []

    def rand(self, *shape):
        return self.numbers.pop(0)

    def randint(self, *bounds, **named_bounds):
        return self.numbers.pop(0)


def coin(heads):
    return 0.0 if heads else 1.0  # below or above any probability that the original compares with


def asterix_draws(key, state):
    _, side, gold, slot = jax.random.split(key, 4)
    free = state._entities[:, 0] == 99
    weights = jnp.where(free.any(), free, jnp.arange(8) == 0).astype(jnp.float32)
    return (
        jax.random.choice(side, jnp.array([True, False])),
        jax.random.choice(gold, jnp.array([True, False]), p=jnp.array([1 / 3, 2 / 3])),
        jax.random.choice(slot, jnp.arange(8), p=weights / weights.sum()),
    )


def asterix_script(original, draws):
    from_left, gold, slot = draws
    free = [index for index, entity in enumerate(original.entities) if entity is None]
    return [coin(from_left), coin(gold)] + ([free.index(slot)] if free else [])


def freeway_draws(key, state):
    speed_key, direction_key = jax.random.split(jax.random.split(key, 2)[1], 2)
    speeds = jax.random.randint(speed_key, [8], 1, 6)
    return speeds, jax.random.choice(direction_key, jnp.array([-1, 1]), [8])


def freeway_script(original, draws):
    speeds, directions = draws
    return [speeds.astype(int), np.where(directions > 0, 0.75, 0.25)]


def seaquest_draws(key, state):
    _, side, sub, row, diver_side, diver_row = jax.random.split(key, 6)
    return (
        jax.random.choice(side, jnp.array([True, False])),
        jax.random.choice(sub, jnp.array([True, False]), p=jnp.array([1 / 3, 2 / 3])),
        jax.random.choice(row, jnp.arange(1, 9)),
        jax.random.choice(diver_side, jnp.array([True, False])),
        jax.random.choice(diver_row, jnp.arange(1, 9)),
    )


def seaquest_script(original, draws):
    side, sub, row, diver_side, diver_row = draws
    enemy = [coin(side), coin(sub), int(row)] if original.e_spawn_timer == 0 else []
    diver = [coin(diver_side), int(diver_row)] if original.d_spawn_timer == 0 else []
    return enemy + diver


def no_draws(key, state):
    return ()


def no_script(original, draws):
    return []


CHANCE = {
    "asterix": (asterix_draws, asterix_script),
    "breakout": (no_draws, no_script),
    "freeway": (freeway_draws, freeway_script),
    "seaquest": (seaquest_draws, seaquest_script),
    "space_invaders": (no_draws, no_script),
}


def original_game(game, state):
    """The original game, put into pgx's first state where that is drawn."""
    original = importlib.import_module(f"minatar.environments.{game}").Env()
    original.random = Script()
    if game == "breakout":
        original.ball_x = original.last_x = int(state._ball_x)
        original.ball_dir = int(state._ball_dir)
    if game == "freeway":
        original.cars = np.asarray(state._cars).tolist()
    if game == "seaquest":
        original._surface = lambda: surface_as_pgx(original)
    return original


def surface_as_pgx(original):
    """pgx counts the surfacing before it asks for the count's parity to speed up; the original counts after."""
    ramps = original.e_spawn_speed > 1 or original.move_speed > 2
    original.ramp_index += ramps
    counted = original.ramp_index
    reward = type(original)._surface(original)
    original.ramp_index = counted
    return reward


def follow_the_ball(original, random):
    if random.random() < 0.02:  # so that the ball is missed in the end
        return int(random.integers(3))
    return 1 if original.ball_x < original.pos else 2 if original.ball_x > original.pos else 0


def mostly_up(original, random):
    return 1 if random.random() < 0.9 else int(random.integers(3))


def wander(original, random):
    return int(random.integers(5))


def shoot_and_dodge(original, random):
    def hit(column):
        return not 0 <= column <= 9 or original.e_bullet_map[6:, column].any()

    if hit(original.pos):
        return 2 if hit(original.pos - 1) else 1
    return 3 if random.random() < 0.5 else int(random.integers(4))


def dive_and_surface(original, random):
    """Shoots and keeps out of the way under water; surfaces with divers, and always before the air runs out."""
    if original.sub_y == 0:
        return 4
    if original.oxygen < 25 or (original.diver_count and random.random() < 0.3):
        return 2

    def safe(action):
        x, y = original.sub_x, original.sub_y
        x = {1: max(0, x - 1), 3: min(9, x + 1)}.get(action, x)
        y = {2: y - 1, 4: min(8, y + 1)}.get(action, y)
        others = original.e_fish + original.e_subs + original.e_bullets
        return not any(other[1] == y and abs(other[0] - x) <= 1 for other in others)

    moves = [0, 1, 3, 4] + [2] * (original.sub_y > 1)
    wish = 5 if random.random() < 0.4 else int(random.choice(moves))
    return next((action for action in [wish, *moves] if safe(action)), 0)


POLICIES = {
    "asterix": wander,
    "breakout": follow_the_ball,
    "freeway": mostly_up,
    "seaquest": dive_and_surface,
    "space_invaders": shoot_and_dodge,
}


def play_both(game, key, random):
    """Episodes in both, one after the other; asserts that they agree on every step and yields (reward, terminal)."""
    reset, step = compiled(game)
    draw, script = CHANCE[game]
    draw = jax.jit(draw)
    while True:
        key, reset_key = jax.random.split(key)
        state, obs = reset(reset_key)
        original = original_game(game, state)
        np.testing.assert_array_equal(obs, original.state())
        for t in range(5000):
            step_key = jax.random.fold_in(key, t)
            action = POLICIES[game](original, random)
            original.random.numbers = script(original, jax.device_get(draw(step_key, state)))
            reward, terminal = original.act(original.minimal_action_set()[action])
            state, outcome = step(step_key, state, action)
            np.testing.assert_array_equal(outcome.obs, original.state())
            assert outcome.reward == reward and outcome.terminated == terminal
            yield reward, terminal
            if terminal:
                break


@pytest.mark.parametrize("game", GAMES)
def test_game_is_the_original(game):
    steps = itertools.islice(play_both(game, KEY, np.random.default_rng(0)), 2600)
    rewards, ends = zip(*steps, strict=True)
    assert sum(rewards) > 5 and sum(ends) > 0  # the episodes were played to some purpose


def seaquest(**changes):
    """Seaquest's step, and its first state with some fields changed."""
    reset, step = compiled("seaquest")
    state, _ = reset(KEY)
    return step, state.replace(**{f"_{name}": value for name, value in changes.items()})


def test_seaquest_ends_one_step_after_the_originals_when_the_air_is_gone():
    step, state = seaquest(sub_y=jnp.int32(5), surface=jnp.bool_(False), oxygen=jnp.int32(0))
    original = original_game("seaquest", state)
    original.sub_y, original.surface, original.oxygen = 5, False, 0
    assert original.act(0)[1]
    state, outcome = step(KEY, state, 0)
    assert not outcome.terminated
    assert step(KEY, state, 0)[1].terminated


def test_seaquest_speeds_up_one_surfacing_before_the_original():
    step, state = seaquest(surface=jnp.bool_(False), diver_count=jnp.int32(1))
    original = importlib.import_module("minatar.environments.seaquest").Env()
    original.surface, original.diver_count = False, 1
    original.act(0)
    assert (original.move_speed, original.e_spawn_speed) == (5, 19)
    state, _ = step(KEY, state, 0)
    assert (state._move_speed, state._e_spawn_speed) == (4, 19)


def test_seaquest_bullets_stand_still_where_an_older_one_has_left_on_the_left():
    bullets = [[0, 3, False], [4, 6, True]]  # column, row, flies to the right
    original, table = fly_three_steps(bullets)
    assert original == [[7, 6, True]]
    assert table[1].tolist() == [5, 6, True]


def test_seaquest_bullets_that_left_on_the_right_stay_in_the_table():
    original, table = fly_three_steps([[9, 3, True]])
    assert original == []
    assert table[0].tolist() == [12, 3, True]


def fly_three_steps(bullets):
    """The original's list of enemy bullets and pgx's table of them, after three steps."""
    step, state = seaquest(e_bullets=jnp.full((25, 3), -1).at[: len(bullets)].set(jnp.array(bullets, int)))
    original = original_game("seaquest", state)
    original.e_bullets = bullets
    for _ in range(3):
        original.act(0)
        state, _ = step(KEY, state, 0)
    return original.e_bullets, state._e_bullets


@pytest.mark.parametrize("game", GAMES)
def test_game_keeps_the_contract(game):
    environment = MinAtar(game, time_limit=30).build()
    check(environment, steps=60)
    original = importlib.import_module(f"minatar.environments.{game}").Env()
    assert environment.spec.actions == Discrete(len(original.minimal_action_set()))
    assert environment.spec.observation.shape == tuple(original.state_shape())


def paddle_after_moving_left(sticky, steps):
    environment = MinAtar("breakout", sticky=sticky).build()
    reset, step = jax.jit(environment.reset), jax.jit(environment.step)

    def paddle(key):
        state, _ = reset(key)
        for t in range(steps):
            state, _ = step(jax.random.fold_in(key, t), state, 1)
        return state._pos

    return jax.vmap(paddle)(jax.random.split(KEY, 2000))


def test_sticky_repeats_the_last_action():
    assert (paddle_after_moving_left(0, 3) == 1).all()
    assert (paddle_after_moving_left(1, 3) == 4).all()
    moved = (paddle_after_moving_left(0.1, 1) == 3).mean()
    assert 0.87 < moved < 0.93  # 0.9 and more than four deviations of 2,000 draws


def test_time_limit_truncates_a_game_that_goes_on():
    environment = MinAtar("freeway", time_limit=2).build()
    state, _ = environment.reset(KEY)
    step = jax.jit(environment.step)
    state, first = step(KEY, state, 0)
    state, second = step(KEY, state, 0)
    assert not first.truncated and second.truncated and not second.terminated
    np.testing.assert_array_equal(second.obs, second.final_obs)


@pytest.mark.parametrize("spelling", ["SpaceInvaders", "space-invaders", "space_invaders", "Space Invaders"])
def test_a_game_may_be_spelt_in_any_way(spelling):
    assert MinAtar(spelling) == MinAtar("space_invaders")


def test_wrong_settings_are_refused():
    for wrong, message in (
        ({"game": "brekout"}, "did you mean breakout"),
        ({"sticky": 1.5}, "sticky"),
        ({"time_limit": 0}, "time_limit"),
    ):
        with pytest.raises(SharedqError, match=message):
            MinAtar(**wrong)


def test_without_pgx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx.minatar.breakout", None)
    with pytest.raises(SharedqError, match=r"sharedq\[minatar\]"):
        MinAtar("breakout").build()
