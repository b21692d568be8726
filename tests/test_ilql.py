"""Implicit language Q-learning: where decisions lie, every loss, known values of a small text game, and writing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from logged import close, widened

from sharedq.algorithms import BC, ILQL, ilql
from sharedq.algorithms.writing import Reader, write
from sharedq.environments.spec import EnvironmentSpec, Tokens, from_json, to_json
from sharedq.environments.wordle import ACTIONS
from sharedq.errors import SharedqError
from sharedq.networks import Dense
from sharedq.networks.gpt2 import GPT2, LanguageModel
from sharedq.recipes import recipe
from sharedq.targets import IteratedNetworks, LookaheadReplicate, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.transcripts import decisions
from sharedq.transitions import Batch, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # the programs are small, and compiling them is what takes time

KEY = jax.random.key(0)

# The alphabet of a small game: words of two letters, of which the answer says one colour for each.
A, B, GREEN, BLACK, PAD, CLOSES, ANSWERED, BEGINS, ENDS = range(9)
FORM = Tokens(length=3, vocabulary=9, pad=PAD, closes=CLOSES, opens=(BEGINS, ANSWERED), ends=ENDS)
LENGTH = 14
SPEC = EnvironmentSpec("small game", jax.ShapeDtypeStruct((LENGTH,), jnp.uint8), FORM)

TEXTS = np.full((3, LENGTH), PAD, np.uint8)
TEXTS[0, :14] = [BEGINS, A, B, CLOSES, GREEN, BLACK, ANSWERED, A, A, CLOSES, GREEN, GREEN, ANSWERED, ENDS]
TEXTS[1, :8] = [BEGINS, B, A, CLOSES, GREEN, GREEN, ANSWERED, ENDS]
TEXTS[2, :11] = [BEGINS, B, CLOSES, ANSWERED, A, B, CLOSES, GREEN, BLACK, ANSWERED, PAD]  # malformed, and cut off
REWARDS = np.zeros((3, LENGTH), np.float32)
REWARDS[0, [3, 9]], REWARDS[1, 3], REWARDS[2, [2, 6]] = [-1, 0.5], 0.25, [-1, -1]
DISCOUNTS = np.array([0, 0, 0.9])

DECIDES = [[0, 1, 2, 6, 7, 8], [0, 1, 2], [0, 1, 3, 4, 5]]
NEXT = [[1, 2, 6, 7, 8, 12], [1, 2, 6], [1, 3, 4, 5, 9]]

SMALL = GPT2(layers=1, width=6, attention_heads=2, positions=LENGTH, dropout=0)
SETTINGS = ILQL(gamma=0.9, expectile=0.8, conservative=0.3, beta=2.0, learning_rate=0.01)
SOURCES = (
    OnlineNetwork(),
    TargetNetwork(period=2),
    SharedHeads(heads=2, period=2),
    IteratedNetworks(2, 3, 2),
    LookaheadReplicate(period=2, replicate_steps=1),
)


def batch() -> Batch:
    sample = Transition(jnp.array(TEXTS), (), jnp.array(REWARDS) + 0.0, jnp.array(DISCOUNTS) + 0.0, ())
    return Batch(sample, jnp.ones(3), jnp.zeros(3, jnp.int32))


def test_decisions_lie_before_the_tokens_that_the_agent_wrote():
    found = decisions(FORM, jnp.array(TEXTS))
    for text, (places, following) in enumerate(zip(DECIDES, NEXT)):
        assert np.flatnonzero(found.decides[text]).tolist() == places
        assert found.next[text, np.array(places)].tolist() == following
        assert found.action[text, np.array(places)].tolist() == TEXTS[text, np.array(places) + 1].tolist()
    assert [np.flatnonzero(row).tolist() for row in found.closes] == [[2, 8], [2], [1, 5]]
    assert [np.flatnonzero(row).tolist() for row in found.last] == [[8], [2], [5]]
    assert found.seen.sum(axis=1).tolist() == [14, 8, 10]


def test_the_decisions_of_wordle_are_six_in_every_turn_of_twelve_tokens():
    turn, end = [*b"crane"], [27, 27, 28, 26, 27]
    turn = [token - ord("a") for token in turn]
    two = [33, *turn, 30, *end, 31, *turn, 30, *end, 31, 34]
    found = decisions(ACTIONS, jnp.array([two]))
    assert np.flatnonzero(found.decides[0]).tolist() == [*range(6), *range(12, 18)]
    assert found.next[0, jnp.array([0, 4, 5, 12, 17])].tolist() == [1, 5, 12, 13, 24]
    assert np.flatnonzero(found.closes[0]).tolist() == [5, 17] and np.flatnonzero(found.last[0]).tolist() == [17]
    malformed = [33, 2, 0, 30, 31, *turn, 30, *end, 31, 34]
    assert np.flatnonzero(decisions(ACTIONS, jnp.array([malformed])).decides[0]).tolist() == [0, 1, 2, *range(4, 10)]


def test_the_form_of_text_is_read_back_from_json():
    assert from_json(to_json(SPEC)) == SPEC


@pytest.mark.parametrize(
    ("target", "parameters"),
    [
        (TargetNetwork(), 263_730_573),
        (OnlineNetwork(), 175_391_303),
        (SharedHeads(heads=1), 175_498_893),
        (SharedHeads(heads=9), 176_371_909),
    ],
)
def test_the_papers_parameters_are_counted_to_the_unit(target, parameters):
    built = recipe("ilql-wordle").replace(target=target).build()
    assert built.cost(compiled=False).parameters["held"] == parameters


@pytest.mark.parametrize("target", SOURCES, ids=lambda target: target.label)
def test_the_loss_equals_a_slow_loop_and_its_gradient_reaches_the_trunk(target):
    with jax.enable_x64():
        algorithm = SETTINGS.build(SPEC, target, SMALL)
        state = widened(jax.jit(algorithm.init)(KEY, batch()))
        state = state._replace(source=jax.tree.map(lambda x: x * 1.1, state.source))  # a copy that is behind
        of = jax.jit(jax.value_and_grad(algorithm.loss, has_aux=True))
        (total, info), slope = of(state.params, state, batch(), KEY)
        text = ilql.Text(batch().transition.obs)
        seen = jax.jit(algorithm.source.values)(state.params["critic"], state.source, text)
        several = isinstance(target, IteratedNetworks)
        v = value_of(state.params["value"], seen.features.body, several)
        wanted = slow_loss(seen, v, policy_logits(state))
        assert float(total) == pytest.approx(wanted, abs=1e-10)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(slope["critic"]["trunk"]["hidden"])) > 0
    assert info.errors.shape == (len(seen.weights), 3, 2)


def value_of(value, body, several):
    """V of every head, written out: [H, B, T]."""
    found: list = []
    value, body = jax.tree.map(np.asarray, (value, body))
    for head in range(len(value["heads"]["bias"])):
        features = body[head] if several else body
        hidden = np.maximum(features @ value["hidden"]["kernel"] + value["hidden"]["bias"], 0)
        found.append((hidden @ value["heads"]["kernel"][head] + value["heads"]["bias"][head])[..., 0])
    return np.stack(found)


def policy_logits(state):
    features = SMALL.language_model(9).features(state.params["policy"], jnp.array(TEXTS))
    return np.asarray(features) @ np.asarray(state.params["policy"]["tokens"]).T


def slow_loss(seen, v, logits):
    predicted, bootstrap, weights = (np.asarray(x) for x in (seen.predicted, seen.bootstrap, seen.weights))
    written = sum(map(len, DECIDES))
    total = 0.0
    for head, weight in enumerate(weights.tolist()):
        for text, places in enumerate(DECIDES):
            for number, p in enumerate(places):
                x = TEXTS[text, p + 1]
                last = number == len(places) - 1
                u = bootstrap[head, text, p, :, x].min() - v[head, text, p]
                total += weight * (0.8 if u >= 0 else 0.2) * u**2 / written
                reward = REWARDS[text, p + 1] if x == CLOSES else 0
                discount = DISCOUNTS[text] if last else 0.9
                for critic in range(2):
                    q = predicted[head, text, p, critic]
                    total += weight * (reward + discount * v[head, text, NEXT[text][number]] - q[x]) ** 2 / written
                    total += weight * 0.3 * (np.log(np.exp(q).sum()) - q[x]) / written
    for text, places in enumerate(DECIDES):
        for p in places:
            row = logits[text, p]
            total += (np.log(np.exp(row).sum()) - row[TEXTS[text, p + 1]]) / (TEXTS != PAD).sum()
    return total


def test_one_pass_over_a_text_serves_shared_heads():
    """The compiled update holds no second pass through the body of the critics."""
    reads = []

    def counted(settings):
        model = settings.language_model(9)

        def features(params, tokens, key=None):
            reads.append(1)
            return model.features(params, tokens, key)

        return model._replace(features=features)

    for target, passes in ((OnlineNetwork(), 1), (SharedHeads(heads=2), 1), (TargetNetwork(), 2)):
        algorithm = SETTINGS.build(SPEC, target, SMALL)
        state = jax.eval_shape(algorithm.init, KEY, batch())
        own = ilql.language_critics.critics(counted(SMALL), 6, 9, 2)
        algorithm = algorithm.on(target.build(own))
        reads.clear()
        jax.eval_shape(algorithm.loss, state.params, state, batch(), KEY)
        assert len(reads) == passes


@pytest.mark.parametrize("target", SOURCES[2:3], ids=lambda target: target.label)
def test_a_batch_in_parts_gives_the_mean_of_their_gradients(target):
    """The moments of the first step are shares of the gradient, and each text keeps its place."""
    four = jax.tree.map(lambda x: x[jnp.array([0, 1, 2, 0])], batch())
    halves = [jax.tree.map(lambda x, p=places: x[p], four) for places in (slice(None, 2), slice(2, None))]
    whole = SETTINGS.build(SPEC, target, SMALL)
    parts = ILQL(**{**SETTINGS.__dict__, "accumulate": 2}).build(SPEC, target, SMALL)
    state = jax.jit(whole.init)(KEY, four)
    learn = jax.jit(whole.learn)
    (one, info, told), *others = jax.jit(parts.learn)(state, four, KEY, 1), *(learn(state, x, KEY, 1) for x in halves)
    means = jax.tree.map(lambda a, b: (a + b) / 2, *(other[0].optimiser[0].mu for other in others))
    close(one.optimiser[0].mu, means, 1e-5)
    for name in ("errors", "targets", "predictions"):
        close(getattr(info, name), jnp.concatenate([getattr(other[1], name) for other in others], axis=1), 1e-5)
    close(told, jax.tree.map(lambda a, b: (a + b) / 2, *(other[2] for other in others)), 1e-5)
    assert np.array_equal(info.inputs.tokens, four.transition.obs)


def test_a_batch_that_the_parts_do_not_divide_is_refused():
    algorithm = ILQL(accumulate=2).build(SPEC, OnlineNetwork(), SMALL)
    state = jax.eval_shape(algorithm.init, KEY, batch())
    with pytest.raises(SharedqError, match="does not divide"):
        jax.eval_shape(algorithm.learn, state, batch(), KEY, jnp.int32(1))


def test_v_shifts_with_the_heads_and_keeps_its_hidden_layer():
    algorithm = SETTINGS.build(SPEC, SharedHeads(heads=2, period=2), SMALL)
    state = jax.jit(algorithm.init)(KEY, batch())
    info = jax.eval_shape(algorithm.loss, state.params, state, batch(), KEY)[1]
    after = algorithm.refresh(state, info.for_refresh._replace(batch_stats={}), jnp.int32(2))
    kernels, shifted = (one.params["value"]["heads"]["kernel"] for one in (state, after))
    close(shifted, kernels[jnp.array([1, 1])], 0)
    close(after.source["target_params"], jax.tree.map(lambda w: w[:1], state.params["critic"]["heads"]), 0)
    close(after.params["value"]["hidden"], state.params["value"]["hidden"], 0)


# A game of one word with one letter, whose values are known. A model whose features tell every text so far apart stands
# for the language model.

WORDS = EnvironmentSpec("one letter", jax.ShapeDtypeStruct((4,), jnp.uint8), FORM._replace(length=2))
GAINS = {A: (1.0, 3), B: (-1.0, 1)}  # the reward of each letter, and how often the data wrote it


def told_apart() -> LanguageModel:
    """Features of a text so far: which letter it has, and whether it is closed."""

    def features(params, tokens, key=None):
        tokens = tokens.astype(int)
        letter = jnp.where(jnp.arange(tokens.shape[1]) > 0, 1 + tokens[:, 1:2], 0)
        closed = jnp.cumsum(tokens == CLOSES, axis=1) > 0
        return jax.nn.one_hot(letter + 3 * closed, 6)

    def logits(params, features):
        return features @ params["kernel"]

    return LanguageModel(lambda key: {"kernel": jnp.zeros((6, 9))}, features, logits, None, None)


@pytest.mark.parametrize("target", [TargetNetwork(period=25), SharedHeads(heads=2, period=25)], ids=str)
def test_the_values_of_a_small_game_are_learned(target):
    """V at the start is the expectile of the values of the letters, with the data's frequencies."""
    rows = [(letter, gain) for letter, (gain, times) in GAINS.items() for _ in range(times)]
    tokens = jnp.array([[BEGINS, letter, CLOSES, ENDS] for letter, _ in rows], jnp.uint8)
    reward = jnp.array([[0, 0, gain, 0] for _, gain in rows])
    sample = Batch(Transition(tokens, (), reward, jnp.zeros(4), ()), jnp.ones(4), jnp.zeros(4, jnp.int32))
    settings = ILQL(gamma=0.9, expectile=0.8, conservative=0.0, learning_rate=0.003)
    model, value = told_apart(), ilql.language_critics.value(6)
    source = target.build(ilql.language_critics.critics(model, 6, 9, 2))
    algorithm = settings.on(source, model, value, WORDS.actions, False)
    state = jax.jit(algorithm.init)(KEY, sample)
    state, _ = jax.lax.scan(
        lambda state, step: (algorithm.update(state, sample, KEY, step)[0], None), state, jnp.arange(1, 1001)
    )
    seen = source.values(state.params["critic"], state.source, ilql.Text(tokens))
    v = value_of(state.params["value"], seen.features.body, False)
    q = np.asarray(seen.predicted)
    for row, (letter, gain) in enumerate(rows):
        np.testing.assert_allclose(q[:, row, 1, :, CLOSES], gain, atol=2e-3)
        np.testing.assert_allclose(v[:, row, 1], gain, atol=2e-3)
        np.testing.assert_allclose(q[:, row, 0, :, letter], 0.9 * gain, atol=2e-3)
    # 0.8 * 3/4 * (0.9 - v) = 0.2 * 1/4 * (v + 0.9)
    np.testing.assert_allclose(v[:, 0, 0], 0.9 * (0.6 - 0.05) / (0.6 + 0.05), atol=2e-3)


# Writing


def scripted(scores) -> Reader:
    """Scores that depend on how many tokens were written: [N, V] for each place."""
    scores = jnp.array(scores, jnp.float32)
    return Reader(lambda tokens, lengths: (scores[0], 0), lambda place, token: (scores[place + 1], place + 1))


def test_an_action_ends_with_its_last_token_or_when_its_length_is_used_up():
    scores = np.zeros((3, 2, 9))
    scores[:, :, PAD] = 9  # padding is never written
    scores[0, 0, A] = scores[1, 0, CLOSES] = scores[2, 0, B] = 1
    scores[0, 1, B] = scores[1, 1, B] = scores[2, 1, A] = 1
    written = write(FORM, scripted(scores), jnp.array(TEXTS[:2]), None)
    assert written.tolist() == [[A, CLOSES, PAD], [B, B, A]] and written.dtype == jnp.int32


def test_sampled_words_follow_the_scores():
    probabilities = np.full(9, 0.0)
    probabilities[[A, B]] = 0.75, 0.25
    scores = np.broadcast_to(np.log(probabilities + 1e-12), (3, 4000, 9))
    written = np.asarray(write(FORM, scripted(scores), jnp.zeros((4000, LENGTH), jnp.uint8), KEY))
    np.testing.assert_allclose(
        [(written == letter).mean(axis=0) for letter in (A, B)], [[0.75] * 3, [0.25] * 3], atol=0.03
    )


@pytest.mark.parametrize("target", SOURCES[1:4], ids=lambda target: target.label)
def test_words_are_written_by_policy_and_advantage(target):
    """The cached scores equal those of the whole text, and the word is the best by them, token by token."""
    settings = ILQL(beta=50.0)
    algorithm = settings.build(SPEC, target, SMALL)
    state = jax.jit(algorithm.init)(KEY, batch())
    state = jax.tree.map(lambda x: x * 3, state)
    begun = np.full((2, LENGTH), PAD, np.uint8)
    begun[0, 0] = BEGINS
    begun[1, :7] = TEXTS[0, :7]
    words, values = jax.jit(algorithm.decide)(state, jnp.array(begun))
    model, read = SMALL.language_model(9), jax.jit(algorithm.source.values)
    clone = jax.jit(lambda params, row: model.logits(params, model.features(params, row)))
    for text, length in enumerate((1, 7)):
        row = begun[text : text + 1].copy()
        for place, token in enumerate(words[text].tolist()):
            policy = jax.nn.log_softmax(clone(state.params["policy"], row))
            seen = read(state.params["critic"], state.source, ilql.Text(jnp.array(row)))
            v = value_of(state.params["value"], seen.features.body, isinstance(target, IteratedNetworks))
            advantage = (np.asarray(seen.predicted).min(axis=3) - v[..., None]).mean(axis=0)  # of all heads
            scores = np.asarray(policy)[0, length - 1 + place] + np.minimum(50 * advantage[0, length - 1 + place], 0)
            scores[PAD] = -np.inf
            assert token == scores.argmax()
            if place == 0:
                np.testing.assert_allclose(values[text], v.mean(axis=0)[0, length - 1], rtol=1e-4)
            if token == CLOSES:
                break
            row[0, length + place] = token
    same = jax.jit(partial(algorithm.act, step=None))(state, KEY, jnp.array(begun))
    if not isinstance(target, (SharedHeads, IteratedNetworks)):  # those draw a head
        assert np.array_equal(same, words)


@pytest.mark.parametrize("target", SOURCES[2:], ids=lambda target: target.label)
def test_words_are_judged_as_they_would_be_written(target):
    """One pass over all words gives what reading each text anew gives before each token."""
    algorithm = ILQL(beta=5.0).build(SPEC, target, SMALL)
    state = jax.tree.map(lambda x: x * 3, jax.jit(algorithm.init)(KEY, batch()))
    begun = np.full((4, LENGTH), PAD, np.uint8)
    begun[0, 0], begun[1:, :7] = BEGINS, TEXTS[0, :7]
    words = np.array([[A, B, CLOSES], [B, B, CLOSES], [A, CLOSES, PAD], [BLACK, A, B]], np.int32)
    judged = jax.device_get(jax.jit(algorithm.judge)(state, begun, words))
    model, read = SMALL.language_model(9), jax.jit(algorithm.source.values)
    clone = jax.jit(lambda params, row: jax.nn.log_softmax(model.logits(params, model.features(params, row))))
    several = isinstance(target, IteratedNetworks)
    for text, (row, word) in enumerate(zip(begun[:, None], words)):
        for place, token in enumerate(word[word != PAD]):
            p = (row != PAD).sum() - 1
            seen = read(state.params["critic"], state.source, ilql.Text(jnp.array(row)))
            q = np.asarray(seen.predicted)[:, 0, p, :, token].min(axis=1)
            v = value_of(state.params["value"], seen.features.body, several)[:, 0, p]
            log_probability = clone(state.params["policy"], row)[0, p, token]
            score = log_probability + min(5 * (q - v).mean(), 0)
            np.testing.assert_allclose(judged.q[:, text, place], q, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(judged.v[:, text, place], v, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(judged.log_probability[text, place], log_probability, rtol=1e-4)
            np.testing.assert_allclose(judged.score[text, place], score, rtol=1e-4)
            row[0, p + 1] = token
    assert all((x[..., 2, 2] == 0).all() for x in judged)


def test_without_values_the_words_are_those_of_the_clone():
    clone, text = BC().build(SPEC, OnlineNetwork(), SMALL), jnp.array(TEXTS)
    algorithm = ILQL(beta=0.0).build(SPEC, SharedHeads(heads=2), SMALL)
    state = jax.jit(algorithm.init)(KEY, batch())
    cloned = jax.jit(clone.init)(KEY, batch())._replace(params=state.params["policy"])
    assert np.array_equal(clone.decide(cloned, text)[0], algorithm.decide(state, text)[0])
    words = jnp.array([[A, B, CLOSES], [B, CLOSES, PAD], [B, A, CLOSES]])
    begun = jnp.where(jnp.arange(LENGTH) < 7, text, PAD)
    one, other = (jax.jit(one.judge)(its, begun, words) for one, its in ((clone, cloned), (algorithm, state)))
    close(one[:2], other[:2], 1e-6)
    assert one.q.shape == one.v.shape == (0, 3, 3)


def test_a_clone_learns_the_data():
    clone = BC(learning_rate=0.02).build(SPEC, OnlineNetwork(), SMALL)
    state = jax.jit(clone.init)(KEY, batch())
    one = jax.tree.map(lambda x: x[:1], batch())
    state, metrics = jax.lax.scan(lambda s, i: clone.update(s, one, KEY, i)[::2], state, jnp.arange(200))
    assert metrics["accuracy"][-1] == 1
    begun = jnp.array(np.where(np.arange(LENGTH) < 7, TEXTS[:1], PAD))
    assert clone.decide(state, begun)[0].tolist() == [[A, A, CLOSES]]


def test_dropout_is_drawn_anew_at_every_update_and_never_where_words_are_written():
    network = GPT2(layers=1, width=6, attention_heads=2, positions=LENGTH, dropout=0.3)
    algorithm = SETTINGS.build(SPEC, TargetNetwork(), network)
    state = jax.jit(algorithm.init)(KEY, batch())
    of = jax.jit(lambda key: algorithm.loss(state.params, state, batch(), key)[0])
    assert of(KEY) == of(KEY) != of(jax.random.key(1))
    assert np.array_equal(*(algorithm.decide(state, jnp.array(TEXTS))[1] for _ in range(2)))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: ILQL().build(SPEC, OnlineNetwork(), Dense()), "add --network gpt2"),
        (lambda: ILQL().build(SPEC, OnlineNetwork(), GPT2(positions=13)), "has up to 14 tokens: raise it"),
        (lambda: BC().build(SPEC, OnlineNetwork(), Dense()), "add --network gpt2"),
        (lambda: ILQL(accumulate=0), "algorithm.accumulate"),
        (lambda: ILQL(beta=-1), "algorithm.beta cannot be negative"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(build, says):
    with pytest.raises(SharedqError, match=says):
        build()


def test_learning_moves_every_parameter_that_learns():
    algorithm = SETTINGS.build(SPEC, SharedHeads(heads=2, period=100), SMALL)
    state = jax.jit(algorithm.init)(KEY, batch())
    after, errors, metrics = jax.jit(algorithm.update)(state, batch(), KEY, 1)
    assert errors.shape == (2 * 2, 3) and all(np.isfinite(x) for x in metrics.values())
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, after.params)
    assert min(jax.tree.leaves(moved)) > 0 and optax.tree.norm(after.source) == optax.tree.norm(state.source)
