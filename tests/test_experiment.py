"""Experiments: changed by option names, written to JSON and read back, refused where impossible, built from shapes."""

import json

import jax
import jax.numpy as jnp
import pytest

import sharedq
from sharedq.algorithms import DQN
from sharedq.algorithms.algorithm import learning_of
from sharedq.environments import CartPole, Continuous, Custom, Environment, EnvironmentSpec, MinAtar, Outcome
from sharedq.errors import SharedqError
from sharedq.experiment import TABLES, Experiment
from sharedq.networks import Convolutional, Dense, FlaxTrunk
from sharedq.recipes import GAMES, RECIPES, recipe
from sharedq.replay import FrameStacks, Transitions
from sharedq.targets import SharedHeads, TargetNetwork
from sharedq.trainer import new_folder
from sharedq.training import Fused
from sharedq.training.learning import example_batch, example_step, step_like

BASE = Experiment(
    CartPole(), DQN(), TargetNetwork(period=200), Dense((16,)), Transitions(500, 32), Fused(environments=4, warm_up=100)
)
KINDS = [(part, name) for part, table in TABLES.items() for name in table]


def through_json(experiment):
    return Experiment.from_dict(json.loads(json.dumps(experiment.to_dict())))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_go_through_json_unchanged_and_can_be_built(name):
    experiment = recipe(name)
    assert through_json(experiment) == experiment
    built = experiment.build()
    size = built.replay.batch_size
    batch = jax.eval_shape(lambda: example_batch(built.spec, size))
    learned = batch if built.algorithm.update else jax.eval_shape(lambda: example_step(built.spec, size))
    key, step = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(1)))
    state = jax.eval_shape(built.algorithm.init, key, batch)
    after, *errors, _ = jax.eval_shape(learning_of(built.algorithm), state, learned, key, step)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert [x.dtype for x in jax.tree.leaves(after)] == [x.dtype for x in jax.tree.leaves(state)]
    assert [(one.ndim, one.shape[1]) for one in errors] == ([(2, size)] if built.algorithm.update else [])
    actions = jax.eval_shape(built.algorithm.act, state, key, batch.transition.obs, step)
    assert actions.shape == (size, *built.environment.spec.actions.one.shape)


@pytest.mark.parametrize(("part", "kind"), KINDS)
def test_every_kind_goes_through_json_unchanged(part, kind):
    experiment = BASE.replace(**{part: kind})
    assert experiment.to_dict()[part]["kind"] == kind
    assert type(getattr(experiment, part)) is TABLES[part][kind]
    assert through_json(experiment).to_dict() == experiment.to_dict()
    assert through_json(experiment) == experiment or not experiment.uses_target


def test_every_field_goes_through_json():
    experiment = Experiment(
        environment=MinAtar("breakout"),
        algorithm=DQN(max_gradient_norm=10.0, backup="mellowmax", loss="huber"),
        target=SharedHeads(heads=3, behaviour_head="2", loss_weights=(1.0, 0.5, 0.25), tau=0.5, tau_moves="chain"),
        network=Convolutional((8, 8), (3, 2), (1, 2), "SAME", (), "batch"),
        replay=Transitions(500, 7, 3),
        training=Fused(steps=99, environments=3),
        seeds=4,
        seed=11,
    )
    assert through_json(experiment) == experiment
    assert experiment.all_seeds == [11, 12, 13, 14]


@pytest.mark.parametrize(
    "change", [lambda p: p.pop("environment"), lambda p: p["target"].pop("kind"), lambda p: p.pop("seed")]
)
def test_a_file_that_lacks_something_is_refused(change):
    plain = BASE.to_dict()
    change(plain)
    with pytest.raises(SharedqError, match="not a complete experiment"):
        Experiment.from_dict(plain)


@pytest.mark.parametrize("part", ["algorithm", "target", "network", "replay", "training"])
def test_a_part_that_a_file_lacks_takes_its_default(part):
    plain = BASE.to_dict()
    del plain[part]
    assert getattr(Experiment.from_dict(plain), part) == getattr(Experiment(CartPole()), part)


def test_old_names_of_options_work_and_say_the_new_one():
    with pytest.warns(FutureWarning, match=r"target.polyak is called target.tau now"):
        assert BASE.replace(target="target_network", **{"target.polyak": 0.5}).target.tau == 0.5
    plain = BASE.replace(target="shared_heads").to_dict()
    plain["target"] |= {"polyak": 0.5, "acting": "mean"}
    del plain["target"]["tau"], plain["target"]["behaviour_head"]
    assert Experiment.from_dict(plain).target == SharedHeads(period=BASE.target.period, tau=0.5, behaviour_head="mean")


def test_the_old_name_of_a_kind_works_and_says_the_new_one(monkeypatch):
    other = BASE.replace(replay="none")
    with pytest.warns(FutureWarning, match=r"^replay 'uniform' is called 'transitions' now$"):
        assert other.parse({"replay": "uniform", "capacity": "700"}).replay == Transitions(700)
    with pytest.warns(FutureWarning, match=r"^replay 'uniform' is called 'transitions' now$"):
        assert BASE.replace(replay="uniform") == BASE  # settings are kept, as of any kind
    plain = BASE.to_dict()
    plain["replay"]["kind"] = "uniform"
    assert Experiment.from_dict(plain) == BASE
    monkeypatch.setitem(TABLES["replay"].ours, "uniform", FrameStacks)
    assert type(BASE.replace(replay="uniform").replay) is FrameStacks  # a kind that has the name now keeps it


# Options


def test_options_are_replaced_by_name():
    before = BASE.to_dict()
    changed = BASE.replace(target="shared_heads", steps=20_000, seeds=3, **{"target.heads": 9, "algorithm.gamma": 0.9})
    assert changed.target == SharedHeads(heads=9, period=BASE.target.period)  # the period is kept
    assert changed.training.steps == 20_000
    assert changed.algorithm.gamma == 0.9
    assert changed.algorithm.learning_rate == BASE.algorithm.learning_rate
    assert changed.seeds == 3
    assert BASE.replace(network=Dense((7,))).network == Dense((7,))
    assert BASE.to_dict() == before


def test_values_are_taken_as_their_text_would_be():
    found = recipe("cartpole").replace(steps=2e5, **{"network.hidden": [8, 4], "algorithm.learning_rate": 1})
    assert (found.training.steps, found.network.hidden, found.algorithm.learning_rate) == (200_000, (8, 4), 1.0)
    assert type(found.training.steps) is int and type(found.algorithm.learning_rate) is float
    with pytest.raises(SharedqError, match=r"training.steps takes a whole number, not '1500.5'"):
        recipe("cartpole").replace(steps=1500.5)


def test_another_source_keeps_the_period_of_a_copy_and_not_that_of_a_slow_average():
    copied = recipe("cartpole").replace(**{"target.period": 7})
    assert copied.replace(target="iterated_networks").target.period == 7
    average = recipe("cartpole").replace(**{"target.period": 1, "target.tau": 0.005})
    assert average.replace(target="shared_heads").target.tau == 0.005
    assert average.replace(target="iterated_networks").target.period > 1
    assert average.replace(target="lookahead_replicate").target.period > 1


def test_options_are_parsed_as_typed():
    texts = {"network.hidden": "32,32", "target": "shared_heads", "target.heads": "4", "steps": "2e4", "seed": "5"}
    changed = BASE.parse(texts)
    assert changed.network == Dense((32, 32))
    assert changed.target.heads == 4
    assert changed.training.steps == 20_000
    assert changed.seed == 5
    assert BASE.parse({"algorithm.max_gradient_norm": "none"}).algorithm.max_gradient_norm is None


def test_the_last_name_of_an_option_is_enough_if_no_other_has_it():
    texts = {"lr": "0.5", "target": "shared_heads", "heads": "4", "hidden": "[8]", "capacity": "700"}
    changed = BASE.parse(texts)
    assert changed == BASE.replace(target="shared_heads", heads=4, learning_rate=0.5, hidden=(8,), capacity=700)
    assert (changed.algorithm.learning_rate, changed.target.heads, changed.replay.capacity) == (0.5, 4, 700)
    assert BASE.replace(target=("shared_heads", {}), heads=3).target.heads == 3
    for target in ("lookahead_replicate", TABLES["target"]["lookahead_replicate"]()):
        with pytest.raises(SharedqError, match=r"--algorithm.learning_rate or --target.learning_rate: write it in"):
            BASE.replace(target=target, learning_rate=0.1)
    with pytest.raises(SharedqError, match="'--head': did you mean --heads"):
        BASE.parse({"target": "shared_heads", "head": "4"})


def test_every_option_can_be_parsed_from_its_own_value():
    for name, option in BASE.options().items():
        text = ",".join(map(str, option.value)) if isinstance(option.value, tuple) else str(option.value)
        assert BASE.parse({name: text}) == BASE, name


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"target": "shared_head"}, "unknown target 'shared_head': did you mean shared_heads"),
        ({"target.heads": "4"}, "target 'target_network' has no option 'heads'"),
        ({"target.perod": "4"}, "target 'target_network' has no option 'perod': did you mean period"),
        ({"training.epsilon": "3"}, "no option --training.epsilon: did you mean --algorithm.epsilon_start or --algor"),
        ({"stepz": "4"}, "unknown option '--stepz': did you mean --steps"),
        ({"target.period": "0"}, "target.period must be at least 1"),
        ({"target.period": "often"}, "target.period takes a whole number, not 'often'"),
        ({"target": "shared_heads", "target.heads": "0"}, "target.heads must be at least 1, not 0"),
        ({"replay.batch_size": "501"}, "replay.batch_size 501 is larger than replay.capacity 500"),
        ({"replay.capacity": "64", "training.environments": "65"}, "leaves 0 steps for each of 65 environments"),
        ({"training.warm_up": "3"}, "training.warm_up must be at least 4 steps"),
        ({"training.warm_up": "11", "replay.n_step": "3"}, "training.warm_up must be at least 12 steps"),
        ({"seeds": "0"}, "seeds must be at least 1, not 0"),
        ({"seed": "-1"}, "seed cannot be negative"),
    ],
    ids=str,
)
def test_mistakes_are_answered_in_one_line(texts, message):
    with pytest.raises(SharedqError) as caught:
        BASE.parse(texts).build()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_that_is_none_is_refused():
    with pytest.raises(SharedqError, match="target must be one of online_network, target_network"):
        Experiment(CartPole(), target=7)
    assert Experiment(CartPole(), target="shared_heads").target == SharedHeads()
    assert Experiment(CartPole(), target=("shared_heads", {"heads": "9"})).target == SharedHeads(heads=9)


def test_recipes_are_found_by_name():
    assert sharedq.recipe("minatar-space-invaders").environment == MinAtar("space_invaders")
    assert len(GAMES) == 5
    with pytest.raises(SharedqError, match="unknown recipe 'cartpol': did you mean cartpole"):
        recipe("cartpol")


# Building


def continuous() -> Environment:
    def reset(key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(key, state, action):
        no = jnp.bool_(False)
        return state, Outcome(state, jnp.float32(0), no, no, state)

    observation = jax.ShapeDtypeStruct((1,), jnp.float32)
    return Environment(EnvironmentSpec("continuous", observation, Continuous(-jnp.ones(1), jnp.ones(1))), reset, step)


def test_dqn_refuses_continuous_actions():
    with pytest.raises(SharedqError, match="DQN needs discrete actions, and those of 'continuous' are continuous"):
        BASE.replace(environment=Custom(f"{__name__}:continuous")).build()


def test_a_network_that_is_not_there_is_told_when_building():
    with pytest.raises(SharedqError, match="no module 'nowhere'"):
        BASE.replace(network=FlaxTrunk("nowhere:Trunk")).build()


def test_actions_are_stored_in_the_form_that_the_environment_declares():
    assert step_like(CartPole().build().spec).action == jax.ShapeDtypeStruct((), jnp.int32)
    assert step_like(continuous().spec).action == jax.ShapeDtypeStruct((1,), jnp.float32)


def test_a_target_that_is_ignored_is_saved_as_none():
    clone = recipe("corridor").replace(algorithm="bc", target="shared_heads")
    plain = clone.to_dict()
    assert plain["target"] == {"kind": "none"} and clone.label == "behaviour cloning"
    found = Experiment.from_dict(json.loads(json.dumps(plain)))
    assert found.to_dict() == plain and not found.uses_target
    assert clone.replace(algorithm="dqn").target == clone.target  # nothing is lost
    assert new_folder("corridor", clone).name.startswith("corridor-behaviour-cloning")
    with pytest.raises(SharedqError, match="algorithm 'dqn' needs a source of targets, and there is none"):
        Experiment.from_dict(plain | {"algorithm": recipe("corridor").to_dict()["algorithm"]})
