"""Settings: read from text, checked, helped with, and written to JSON."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedq import settings
from sharedq.algorithms import DQN
from sharedq.environments import CartPole, ProbeEnvironment
from sharedq.errors import SharedqError, unknown
from sharedq.networks import Convolutional, Dense
from sharedq.replay import Transitions
from sharedq.tables import Table
from sharedq.targets import SOURCES, IteratedNetworks, LookaheadReplicate, SharedHeads, TargetNetwork
from sharedq.training import Fused

PARSED = [
    ("7", int, 7),
    ("100_000", int, 100_000),
    ("2e5", int, 200_000),
    ("-3", int, -3),
    ("1e-3", float, 0.001),
    ("1_000.5", float, 1000.5),
    ("yes", bool, True),
    ("False", bool, False),
    ("0", bool, False),
    ("as it is", str, "as it is"),
    ("32,64", tuple[int, ...], (32, 64)),
    ("32", tuple[int, ...], (32,)),
    ("", tuple[float, ...], ()),
    ("0.5,2", tuple[float, ...], (0.5, 2.0)),
    ("[64, 32]", tuple[int, ...], (64, 32)),
    (" ( 64,) ", tuple[int, ...], (64,)),
    ("[]", tuple[float, ...], ()),
    ("()", tuple[float, ...], ()),
    ("[a, b]", tuple[str, ...], ("a", "b")),
    ("none", float | None, None),
    ("10", float | None, 10.0),
    ("SAME", Literal["SAME", "VALID"], "SAME"),
]


@pytest.mark.parametrize(("text", "hint", "value"), PARSED, ids=str)
def test_text_becomes_the_value_it_means(text, hint, value):
    found = settings.parse(text, hint, "--option")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "message"),
    [
        ("1.5", int, "--option takes a whole number, not '1.5'"),
        ("many", int, "--option takes a whole number, not 'many'"),
        ("inf", int, "--option takes a whole number, not 'inf'"),
        ("nan", int, "--option takes a whole number, not 'nan'"),
        ("much", float, "--option takes a finite number, not 'much'"),
        ("much", float | None, "--option takes a finite number, not 'much'"),
        ("inf", float, "--option takes a finite number, not 'inf'"),
        ("nan", float, "--option takes a finite number, not 'nan'"),
        ("maybe", bool, "--option takes true or false, not 'maybe'"),
        ("SAMEE", Literal["SAME", "VALID"], "unknown value for --option 'SAMEE': did you mean SAME?"),
        ("1,x", tuple[int, ...], "--option takes a whole number, not 'x'"),
        ("[1,2", tuple[int, ...], "--option takes a whole number, not '[1'"),
        ("[1,,2]", tuple[int, ...], "--option takes a whole number, not ''"),
        ("{}", dict, "--option cannot be set from the command line"),
    ],
    ids=str,
)
def test_text_that_means_nothing_is_refused_in_one_line(text, hint, message):
    with pytest.raises(SharedqError) as caught:
        settings.parse(text, hint, "--option")
    assert str(caught.value) == message


@given(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers(0, 999)))
def test_what_is_written_is_read_back(whole, number, row):
    assert settings.parse(str(whole), int, "") == whole
    assert settings.parse(str(number), float, "") == number
    assert settings.parse(",".join(map(str, row)), tuple[int, ...], "") == tuple(row)


@pytest.mark.parametrize(
    ("value", "hint", "text"),
    [
        (True, bool, "true"),
        (None, float | None, "none"),
        ((64, 32), tuple[int, ...], "64,32"),
        ([True, False], tuple[bool, ...], "true,false"),
        ((), tuple[int, ...], ""),
        (1e-4, float, "0.0001"),
        ("a b", str, "a b"),
    ],
)
def test_a_value_is_typed_as_it_is_parsed(value, hint, text):
    assert settings.as_typed(value) == text
    assert settings.parse(text, hint, "") == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        ("rank", "rank", {}),
        (" rank:delta=0.1 ", "rank", {"delta": "0.1"}),
        ("heads:heads=2,loss_weights=1,0.5,period=7", "heads", {"heads": "2", "loss_weights": "1,0.5", "period": "7"}),
        ("alignment:period=2:tau=0.5", "alignment", {"period": "2", "tau": "0.5"}),
        ("own.parts:Slow", "own.parts:Slow", {}),
        ("own:Slow:period=2:of=other:Part,tau=1", "own:Slow", {"period": "2", "of": "other:Part", "tau": "1"}),
    ],
)
def test_a_part_is_chosen_with_options_between_commas_or_colons(text, kind, fields):
    assert settings.chosen(text, ["rank"]) == (kind, fields)


@pytest.mark.parametrize("text", ["rank:3", "rank:", "rank:=1", "tau=0.5", "rank,delta=1", "rank:3,delta=1"])
def test_options_of_a_part_that_cannot_be_read_are_refused(text):
    with pytest.raises(SharedqError, match=r"^'.*' is not written as name:option=value:option=value$"):
        settings.chosen(text, ["rank"])
    with pytest.raises(SharedqError, match=r"^'rank:a=1,a=2' gives a twice$"):
        settings.chosen("rank:a=1,a=2")


@dataclass(frozen=True)
class Example:
    size: int = 3  # how large
    rates: tuple[float, ...] = (0.5,)  # one number per layer, e.g. (1, 2)
    mode: Literal["a", "b"] = "a"  # which way; see #4

    def build(self): ...


def test_comments_are_the_help_texts():
    assert settings.comments(Example) == {
        "size": "how large",
        "rates": "one number per layer, e.g. (1, 2)",
        "mode": "which way; see #4",
    }
    assert settings.options_of(Example())["rates"] == ("number,...", (0.5,), "one number per layer, e.g. (1, 2)")
    assert settings.options_of(Example())["mode"].takes == "a|b"


def test_plain_values_go_through_json():
    plain = json.loads(json.dumps(settings.to_plain(Example(rates=(1.5, 2.0)))))
    assert plain == {"size": 3, "rates": [1.5, 2.0], "mode": "a"}
    assert settings.make(Table("part", {"example": Example}), ("example", plain)) == Example(rates=(1.5, 2.0))


def test_unknown_names_bring_the_nearest_ones():
    assert str(unknown("target", "shared_head", SOURCES)) == "unknown target 'shared_head': did you mean shared_heads?"
    assert str(unknown("target", "xyz", ["b", "a"])) == "unknown target 'xyz': choose from a, b"
    with pytest.raises(SharedqError, match="unknown target 'target_networks': did you mean target_network"):
        settings.make(Table("target", SOURCES), "target_networks")
    with pytest.raises(SharedqError, match="target 'shared_heads' has no option 'head': did you mean heads"):
        settings.make(Table("target", SOURCES), ("shared_heads", {"head": 3}))
    with pytest.raises(SharedqError, match=r"target 'online_network' has no option 'heads' \(it has none\)"):
        settings.make(Table("target", SOURCES), ("online_network", {"heads": 3}))


REFUSED = [
    (SharedHeads, {"heads": 0}, "target.heads must be at least 1, not 0"),
    (SharedHeads, {"period": 0}, "target.period must be at least 1"),
    (SharedHeads, {"tau": 0.0}, "target.tau must be above 0"),
    (SharedHeads, {"tau": 1.5}, "target.tau must be above 0"),
    (SharedHeads, {"heads": 3, "behaviour_head": "4"}, "the number of a head from 1 to 3, not '4'"),
    (SharedHeads, {"heads": 3, "behaviour_head": "0"}, "the number of a head from 1 to 3, not '0'"),
    (SharedHeads, {"heads": 3, "loss_weights": (1.0,)}, "target.loss_weights needs 3 numbers"),
    (SharedHeads, {"heads": 2, "loss_weights": (1.0, -1.0)}, "cannot be negative"),
    (SharedHeads, {"heads": 2, "loss_discount": 0.0}, "target.loss_discount must be above 0"),
    (SharedHeads, {"heads": 1, "loss_weights": (1.0,), "loss_discount": 0.5}, "not both"),
    (IteratedNetworks, {"networks": 0}, "target.networks must be at least 1, not 0"),
    (IteratedNetworks, {"copy_period": 0}, "target.copy_period must be at least 1"),
    (TargetNetwork, {"period": -1}, "target.period must be at least 1"),
    (TargetNetwork, {"tau": -0.1}, "target.tau must be above 0"),
    (LookaheadReplicate, {"period": 10, "replicate_steps": 11}, "replicate_steps cannot exceed target.period"),
    (LookaheadReplicate, {"learning_rate": 0.0}, "target.learning_rate must be above 0"),
    (DQN, {"gamma": 1.1}, "algorithm.gamma must lie in 0 .. 1"),
    (DQN, {"learning_rate": 0.0}, "algorithm.learning_rate must be above 0"),
    (DQN, {"max_gradient_norm": 0.0}, "algorithm.max_gradient_norm must be above 0 or none"),
    (DQN, {"epsilon_end": 2.0}, "algorithm.epsilon_end must lie in 0 .. 1"),
    (DQN, {"epsilon_steps": -1}, "algorithm.epsilon_steps cannot be negative"),
    (DQN, {"mellowmax_omega": 0.0}, "algorithm.mellowmax_omega must be above 0"),
    (Transitions, {"capacity": 10, "batch_size": 11}, "replay.batch_size 11 is larger than replay.capacity 10"),
    (Transitions, {"capacity": 0}, "replay.capacity must be at least 1"),
    (Transitions, {"batch_size": 0}, "replay.batch_size must be at least 1"),
    (Transitions, {"n_step": 0}, "replay.n_step must be at least 1"),
    (Dense, {"hidden": ()}, "network.hidden needs layers"),
    (Dense, {"hidden": (0,)}, "network.hidden needs layers"),
    (Convolutional, {"filters": (16, 16)}, "one number per convolution"),
    (Convolutional, {"strides": (0,)}, "a stride of 1"),
    (Fused, {"steps": 0}, "training.steps must be at least 1"),
    (Fused, {"warm_up": -1}, "training.warm_up cannot be negative"),
    (CartPole, {"time_limit": 0}, "time_limit must be at least 1"),
    (ProbeEnvironment, {"name": "corrido"}, "unknown probe 'corrido': did you mean corridor"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_settings_that_cannot_be_are_refused_in_one_line(kind, fields, message):
    with pytest.raises(SharedqError) as caught:
        kind(**fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
