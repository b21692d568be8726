"""The short face for people who write code: an experiment, a run, an agent that acts."""

import os
import sys
import weakref
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import sharedq
from sharedq.agent import Compiled, load_all
from sharedq.environments import Discrete, EnvironmentSpec, Gymnasium
from sharedq.environments.probes import PROBES
from sharedq.environments.spec import to_json
from sharedq.errors import SharedqError
from sharedq.playing import film_file
from sharedq.playing.episodes import evaluation_seed
from sharedq.runs import RunDirectory, checkpoints
from sharedq.training.learning import example_batch

CORRIDOR = PROBES["corridor"]


THREE_HEADS = sharedq.recipe("corridor").replace(
    target="shared_heads", seeds=2, seed=5, **{"target.heads": 3, "target.period": 70}
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Long enough for the known values to be learned, to the last bit."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return sharedq.train(THREE_HEADS.replace(steps=40_000), out, progress=None).path


@pytest.fixture(scope="module")
def young(tmp_path_factory):
    """A run so short that seeds still differ, and heads too: its 300 updates end between two shifts."""
    explores = THREE_HEADS.replace(steps=800, **{"algorithm.evaluation_epsilon": 0.5})
    return sharedq.train(explores, tmp_path_factory.mktemp("runs") / "young", progress=None).path


@pytest.fixture(scope="module")
def agent(run):
    return sharedq.load(run)


def test_the_face_names_what_it_has():
    assert all(getattr(sharedq, name).__name__ == name for name in sharedq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'recipes_of'"):
        sharedq.recipes_of  # noqa: B018


def test_an_agent_says_where_it_comes_from(run, agent):
    assert isinstance(agent, sharedq.Agent)
    assert (agent.step, agent.seed) == (40_000, 5)
    assert sharedq.load(run, seed=6).seed == 6
    assert agent.experiment.to_dict() == RunDirectory.open(run).experiment()


@pytest.mark.parametrize("cell", range(4))
def test_an_agent_knows_the_corridor(agent, cell):
    obs = CORRIDOR.observations[cell]
    np.testing.assert_allclose(agent.values(obs), CORRIDOR.q_values(0.9)[cell], atol=1e-3)
    assert agent.act(obs) == 1


def test_acting_and_values_repeat(young):
    obs, agent, again = CORRIDOR.observations[0], sharedq.load(young), sharedq.load(young)
    assert type(agent.act(obs)) is int
    assert [agent.act(obs, draw) for draw in range(5)] == [again.act(obs, draw) for draw in range(5)]
    for draw in range(5):
        np.testing.assert_array_equal(agent.values(obs, draw), again.values(obs, draw))


def test_each_call_draws_anew_and_an_agent_loaded_again_draws_the_same(young):
    obs, agent, again = CORRIDOR.observations[0], sharedq.load(young), sharedq.load(young)
    actions = [agent.act(obs) for _ in range(20)]
    assert set(actions) == {0, 1}
    assert actions == [again.act(obs, draw) for draw in range(20)]
    assert actions == [again.act(obs) for _ in range(20)]  # naming a draw does not count


def test_the_head_that_is_drawn_depends_on_the_draw(young):
    agent = sharedq.load(young)
    drawn = {agent.values(CORRIDOR.observations[2], draw).tobytes() for draw in range(20)}
    assert len(drawn) == 3  # heads


def test_seeds_are_agents_of_their_own(young):
    first, second = (sharedq.load(young, seed) for seed in (5, 6))
    assert any(not np.array_equal(first.values(o), second.values(o)) for o in CORRIDOR.observations)
    for one, agent in zip((first, second), load_all(young), strict=True):
        assert agent.seed == one.seed
        np.testing.assert_array_equal(agent.values(CORRIDOR.observations[0]), one.values(CORRIDOR.observations[0]))


def test_an_observation_may_be_a_list_or_a_jax_array(agent):
    assert agent.act([0, 1, 0, 0]) == agent.act(jax.numpy.array([0.0, 1, 0, 0])) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros((4, 1)), r" must be numbers of shape \(4,\) or a batch of them, not of shape \(4, 1\)$"),
        (np.zeros((0, 4)), r" must be numbers of shape \(4,\) or a batch of them, not of shape \(0, 4\)$"),
        (np.zeros((1, 2, 4)), r" must be numbers .* not of shape \(1, 2, 4\)$"),
        ("x", r" must be numbers of shape \(4,\) or a batch of them, not 'x'$"),
        ([[0, 1, 0, 0], [0, 1]], r" must be numbers .*, not \[\[0, 1, 0, 0\], \[0, 1\]\]$"),
        ([0, 1, np.nan, np.inf], r"\[2\] is nan: it must be a number between "),
    ],
)
def test_a_wrong_observation_is_told(agent, wrong, says):
    for ask in (agent.act, agent.values):
        with pytest.raises(sharedq.SharedqError, match=f"^observation{says}"):
            ask(wrong)


def test_a_batch_is_told_by_its_axes_and_answered_as_its_observations_are(agent):
    cells = CORRIDOR.observations
    np.testing.assert_array_equal(agent.act(cells), [agent.act(cell) for cell in cells])
    one = agent.act(cells[:1])
    assert (one.shape, one.dtype.kind) == ((1,), "i")
    first = agent.replace(behaviour_head="1")  # "uniform" draws a head for each observation
    np.testing.assert_array_equal(first.values(cells), [first.values(cell) for cell in cells])
    assert agent.values(cells.tolist()).shape == (4, 2)


def test_an_agent_can_act_by_other_settings(young):
    obs, agent = CORRIDOR.observations[2], sharedq.load(young)
    heads = [agent.replace(behaviour_head=str(head)) for head in (1, 2, 3)]
    drawn = {agent.values(obs, draw).tobytes() for draw in range(20)}
    assert {one.values(obs, draw).tobytes() for one in heads for draw in range(5)} == drawn
    greedy = heads[0].replace(**{"algorithm.evaluation_epsilon": 0})
    assert greedy.experiment.algorithm.evaluation_epsilon == 0 and greedy.experiment.target.behaviour_head == "1"
    assert {greedy.act(obs) for _ in range(20)} == {int(greedy.values(obs).argmax())}
    assert {agent.act(obs) for _ in range(20)} == {0, 1}, "the agent itself stays as it was"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heads": 2}, "^target.heads cannot be changed after training: the trained weights would not fit$"),
        ({"behaviour_head": "9"}, "^target.behaviour_head is uniform, mean or the number of a head from 1 to 3"),
        ({"evaluation_epsilon": "none"}, "^algorithm.evaluation_epsilon takes a finite number, not 'none'$"),
        ({"evaluation_epsilo": 0.1}, "did you mean algorithm.evaluation_epsilon"),
        ({"seeds": 9}, "^unknown option of a trained agent 'seeds'"),
    ],
)
def test_settings_that_an_agent_cannot_act_by_are_refused(agent, options, says):
    with pytest.raises(SharedqError, match=says):
        agent.replace(**options)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda agent: sharedq.load(None), "^the folder of a run must be a path, not None$"),
        (lambda agent: agent.act([0, 1, 0, 0], draw="x"), "^draw takes a whole number, not 'x'$"),
        (lambda agent: agent.values([0, 1, 0, 0], draw=None), "^draw takes a whole number, not 'none'$"),
        (lambda agent: agent.evaluate("many"), "^episodes takes a whole number, not 'many'$"),
        (lambda agent: agent.evaluate(seed=None), "^seed takes a whole number, not 'none'$"),
        (lambda agent: agent.record(3), "^out must be a path, not 3$"),
        (lambda agent: agent.record("film.gif", rate="fast"), "^rate takes a whole number, not 'fast'$"),
    ],
)
def test_wrong_types_are_told_in_one_line(agent, ask, says):
    with pytest.raises(SharedqError, match=says):
        ask(agent)


def test_an_agent_acts_where_its_environment_cannot_be_imported(tmp_path, monkeypatch):
    experiment = sharedq.recipe("lunar-lander").replace(**{"network.hidden": 4})
    spec = EnvironmentSpec("gymnasium/LunarLander-v3", jax.ShapeDtypeStruct((8,), np.float32), Discrete(4))
    built = experiment.build(spec)
    run = RunDirectory.create(tmp_path / "run", experiment.to_dict(), "", spec=to_json(spec))
    state = built.algorithm.init(jax.random.key(0), example_batch(spec, 1))
    state = jax.tree.map(lambda x: np.asarray(x)[None], state)
    checkpoints.save(run.checkpoints, 10, {"agent": state}, run.digest(), {}, keep=1)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    agent = sharedq.load(run.path)
    assert agent.act(np.zeros(8)) in range(4)
    for ask in (lambda: agent.evaluate(1), lambda: agent.record(tmp_path / "film.gif")):
        with pytest.raises(SharedqError, match=r"^'LunarLander-v3' needs the package 'gymnasium': run  pip install "):
            ask()


def test_evaluation_plays_whole_episodes_and_repeats(agent):
    played = agent.evaluate(episodes=6, seed=1)
    assert played.returns.tolist() == [1.0] * 6
    assert played.lengths.tolist() == [4] * 6  # the shortest way
    assert played.ended.all()
    for one, other in zip(played, agent.evaluate(episodes=6, seed=1), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_evaluation_begins_as_a_training_with_its_seed_did(young):
    seeds = [evaluation_seed(seed) for seed in range(1000)]
    assert len({*seeds, *range(1000)}) == 2000 and max(seeds) < 2**31
    agent = sharedq.load(young)
    lengths = {
        seed: agent._compiled.play(agent._state, seed, episodes=50, max_steps=100)[1]
        for seed in (1, evaluation_seed(1))
    }
    assert (agent.evaluate(50, seed=1, max_steps=100).lengths == lengths[evaluation_seed(1)]).all()
    assert (lengths[1] != lengths[evaluation_seed(1)]).any()


def test_evaluation_says_which_episodes_it_cut(agent):
    played = agent.evaluate(episodes=2, max_steps=3)
    assert not played.ended.any()
    assert (played.returns.tolist(), played.lengths.tolist()) == ([0, 0], [3, 3])


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"max_steps": 0}])
def test_evaluation_refuses(agent, wrong):
    with pytest.raises(sharedq.SharedqError, match="must be at least 1, not 0"):
        agent.evaluate(**wrong)


def test_loading_says_what_is_missing(run, tmp_path):
    with pytest.raises(sharedq.SharedqError, match="has no seed 0: choose from 5, 6"):
        sharedq.load(run, seed=0)
    with pytest.raises(sharedq.SharedqError, match="give the folder of a run"):
        sharedq.load(tmp_path / "nowhere")
    begun = RunDirectory.create(tmp_path / "begun", RunDirectory.open(run).experiment(), "")
    with pytest.raises(sharedq.SharedqError, match="has no checkpoint yet"):
        sharedq.load(begun.path)


def test_an_episode_is_filmed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no ffmpeg
    built = sharedq.recipe("minatar-breakout").replace(network="table").build()
    state = built.algorithm.init(jax.random.key(0), example_batch(built.spec, 1))
    agent = sharedq.Agent(Compiled(built), state, step=0, seed=0)
    film, returned = agent.record(tmp_path / "film.mp4", max_steps=6)
    assert film == tmp_path / "film.gif" and returned >= 0
    with Image.open(film) as pictures:
        assert 1 < pictures.n_frames <= 7
        assert pictures.size == (320, 320)
    with pytest.raises(SharedqError, match=r"neither .mp4 nor .gif"):
        agent.record(tmp_path / "film.avi", max_steps=1)


ENCODER = """#!{python} -S
import sys
if {fails}:
    sys.exit("no room")
with open(sys.argv[-1], "wb") as film:
    film.write(sys.stdin.buffer.read())
"""


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """Puts a program ffmpeg in place that writes what it is given, or fails at once."""

    def install(fails: bool):
        program = tmp_path / "bin/ffmpeg"
        program.parent.mkdir()
        program.write_text(ENCODER.format(python=sys.executable, fails=fails))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))

    return install


def test_pictures_are_handed_on_one_by_one(tmp_path, encoder):
    encoder(fails=False)
    made = []

    def pictures():
        for shade in range(5):
            made.append(weakref.ref(picture := np.full((321, 400, 3), shade, np.uint8)))
            assert sum(one() is not None for one in made) <= 3, "none is kept but the first and the last"
            yield picture

    film = film_file.write(tmp_path / "films/film.mp4", pictures(), rate=15)
    frames = np.frombuffer(film.read_bytes(), np.uint8).reshape(-1, 320, 400, 3)
    assert [np.unique(frame).tolist() for frame in frames] == [[0], [1], [2], [3], [4]]
    assert [path.name for path in film.parent.iterdir()] == ["film.mp4"]


def test_a_film_that_fails_leaves_the_one_before_as_it_was(tmp_path, encoder):
    encoder(fails=True)
    (tmp_path / "film.mp4").write_bytes(b"before")
    pictures = (np.zeros((400, 400, 3), np.uint8) for _ in range(50))
    with pytest.raises(SharedqError, match=r"ffmpeg could not write the film \(no room\): choose --out"):
        film_file.write(tmp_path / "film.mp4", pictures, rate=15, overwrite=True)
    assert (tmp_path / "film.mp4").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "film.mp4"]


def test_a_film_replaces_films_and_nothing_else(tmp_path):
    def film(out: str, **options):
        pictures = (np.full((4, 4, 3), shade, np.uint8) for shade in range(3))
        return film_file.write(tmp_path / out, pictures, rate=15, **options)

    assert film("film.gif").read_bytes().count(film_file.MARK) == 1
    film("film.gif")
    (tmp_path / "holiday.gif").write_bytes(b"years ago")
    with pytest.raises(SharedqError, match="was not filmed by this program, so it is left alone"):
        film("holiday.gif")
    assert (tmp_path / "holiday.gif").read_bytes() == b"years ago"
    (tmp_path / "link.gif").symlink_to(tmp_path / "holiday.gif")
    for overwrite in (False, True):
        with pytest.raises(SharedqError, match="no film is written through a link"):
            film("link.gif", overwrite=overwrite)
    film("holiday.gif", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "holiday.gif", "link.gif"]


def test_the_umask_says_who_may_see_a_film(tmp_path):
    before = os.umask(0o077)
    try:
        film = film_file.write(tmp_path / "film.gif", (np.zeros((4, 4, 3), np.uint8) for _ in range(2)), rate=15)
    finally:
        os.umask(before)
    assert film.stat().st_mode & 0o777 == 0o600


def test_what_has_no_pictures_is_not_filmed(tmp_path, agent):
    with pytest.raises(SharedqError, match="has no pictures"):
        agent.record(tmp_path / "film.gif")


def test_a_continuous_action_is_in_the_worlds_units():
    built = SimpleNamespace(spec=Gymnasium("Pendulum-v1").build().spec, experiment=None)
    compiled = SimpleNamespace(built=built, act=lambda state, key, obs: np.full((1, 1), 0.25, np.float32))
    assert sharedq.Agent(compiled, state=None, step=0, seed=0).act(np.zeros(3)) == [0.5]  # of -2 to 2


@pytest.mark.parametrize("obs", [{"cell": [1, 0, 0, 0]}, ([1, 0], 3)])
def test_an_observation_of_several_parts_is_refused_with_the_way_to_flatten_it(young, obs):
    way = r"gymnasium.spaces.utils.flatten\(env.observation_space, obs\)\Z"
    with pytest.raises(sharedq.SharedqError, match=rf"\Aobservation must be numbers of shape \(4,\).*{way}"):
        sharedq.load(young).act(obs)
    with pytest.raises(sharedq.SharedqError) as refusal:
        sharedq.load(young).act([1, 0])
    assert "flatten" not in str(refusal.value)
