"""Measures of learning from text: what they look at, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_ilql import DECIDES, KEY, SETTINGS, SMALL, SPEC, batch

from sharedq.analysis import Agreement, DeadUnits, GradientAlignment, Rank, TargetChurn
from sharedq.analysis.measure import UpdateInfo, check, one_of_each
from sharedq.analysis.rank import srank
from sharedq.errors import SharedqError
from sharedq.networks.language_critics import Text, hidden_features
from sharedq.targets import SharedHeads, TargetNetwork

pytestmark = pytest.mark.usefixtures("hasty")  # the programs are small, and compiling them is what takes time


def learner(target):
    algorithm = SETTINGS.build(SPEC, target, SMALL)
    return algorithm, jax.jit(algorithm.init)(KEY, batch())


def test_one_of_the_places_where_something_was_written_is_drawn_of_each_text():
    states = np.zeros((3, 14), bool)
    for text, places in enumerate(DECIDES):
        states[text, places] = True
    numbers = jnp.broadcast_to(jnp.arange(14), (3, 14))
    drawn = jax.vmap(lambda key: one_of_each(states, numbers, key))(jax.random.split(KEY, 200))
    assert [sorted(set(column)) for column in np.asarray(drawn).T.tolist()] == DECIDES


def test_rank_and_dead_units_look_at_the_hidden_layers_where_something_was_written():
    target = SharedHeads(heads=2)
    algorithm, state = learner(target)
    rank, dead = (kind.build(algorithm, target) for kind in (Rank(), DeadUnits()))
    features = np.asarray(jax.jit(rank.at_log)(state, batch(), KEY))
    trunk = state.params["critic"]["trunk"]
    body = SMALL.language_model(9).features(trunk["body"], batch().transition.obs)
    hidden = np.asarray(hidden_features(trunk, body).hidden)
    for text, places in enumerate(DECIDES):
        assert np.isclose(hidden[text, places], features[text], atol=1e-5).all(axis=(1, 2)).sum() == 1
    assert rank.summarise(features) == {"rank": np.mean([srank(features[:, critic]) for critic in range(2)])}
    (layer,) = algorithm.source.network.activations(trunk, {}, Text(batch().transition.obs), True)
    np.testing.assert_allclose(layer, hidden, atol=1e-5)
    trunk["hidden"]["bias"] = trunk["hidden"]["bias"].at[1, :3].set(-1e9)
    zero = (features[:, 1, 3:] == 0).all(axis=0).sum() + (features[:, 0] == 0).all(axis=0).sum()
    share = dead.summarise(np.asarray(jax.jit(dead.at_log)(state, batch(), KEY)))["dead_units"]
    assert share == pytest.approx((3 + zero) / 24)


@pytest.mark.parametrize("target", [SharedHeads(heads=2), TargetNetwork()], ids=lambda target: target.label)
def test_the_target_network_agrees_with_itself_and_the_targets_of_text_churn(target):
    algorithm, state = learner(target)
    measures = [kind.build(algorithm, target) for kind in (TargetChurn(), GradientAlignment())]
    other = jax.tree.map(lambda x: x[::-1], batch())

    @jax.jit
    def numbers(state):
        after, _, _ = algorithm.learn(state, batch(), KEY, jnp.int32(1))
        info = UpdateInfo(state, after, batch(), other, KEY, jnp.int32(1))
        return [one.at_update(one.init(state), info) for one in measures]

    churn, alignment = numbers(state)
    assert min(churn.values()) > 0  # V is an online network on every source
    assert -1 <= alignment["gradient_alignment"] <= 1 + 1e-5
    if isinstance(target, TargetNetwork):
        np.testing.assert_allclose(alignment["gradient_alignment"], 1, rtol=1e-5)


def test_the_agreement_of_whole_actions_is_refused_for_text():
    algorithm, state = learner(TargetNetwork())
    with pytest.raises(SharedqError, match=r"and a text has many: leave the measure out; the log's 'accuracy' is"):
        check("agreement", Agreement().build(algorithm, TargetNetwork()), state, batch())
