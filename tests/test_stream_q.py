"""Stream Q(lambda): against its rule written out plainly, its limits, its fixed points, what traces do, and probes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq import random_keys
from sharedq.algorithms.stream_inputs import absorb, none_yet
from sharedq.algorithms.stream_q import StreamQ
from sharedq.command_line import main
from sharedq.environments.contract import autoreset
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Network, Table
from sharedq.recipes import recipe
from sharedq.runs import checkpoints
from sharedq.targets import (
    REDQ,
    Averaged,
    IteratedNetworks,
    LookaheadReplicate,
    Maxmin,
    Minto,
    OnlineNetwork,
    SharedHeads,
    TargetNetwork,
)
from sharedq.transitions import Batch, Step, Transition

pytestmark = pytest.mark.usefixtures("hasty")

KEY = jax.random.key(0)
ACTIONS = 3
PLAIN = {"normalise": "none", "scale_rewards": False}  # the step alone, on numbers as they are
NETWORK = Dense((5,), activation="leaky_relu").build(ACTIONS)


def example(width: int) -> Batch:
    obs = jnp.zeros((1, width))
    return Batch(Transition(obs, jnp.zeros(1, jnp.int32), jnp.zeros(1), jnp.zeros(1), obs), jnp.ones(1), jnp.zeros(1))


def step_of(seed: int, action: int, terminated: bool = False, truncated: bool = False) -> Step:
    now, then = np.random.default_rng(seed).normal(size=(2, 1, 4)).astype(np.float32)
    return Step(*map(jnp.asarray, (now, [action], [0.5 + seed], [terminated], [truncated], then)))


def observer(settings: StreamQ, source):
    algorithm = settings.on(source)
    return algorithm.init(KEY, example(4)), jax.jit(algorithm.observe)


def q(source, params, state, obs):
    """All heads' values [H, A], and those they learn from."""
    value = source.values(params, state, obs, obs)
    return value.predicted[:, 0], value.bootstrap[:, 0]


def plainly(source, params, state, step: Step, z, decay: float, kappa: float):
    """One step of the rule with one joint bound, head by head, on a list of whole-network gradients z."""
    action, discount = step.action[0], 0.99 * (1 - step.terminated[0])
    after = q(source, params, state, step.next_obs)[1].max(axis=1)
    deltas, new = [], []
    for head, old in enumerate(z):
        value, gradient = jax.value_and_grad(lambda p, head=head: q(source, p, state, step.obs)[0][head, action])(
            params
        )
        deltas.append(step.reward[0] + discount * after[head] - value)
        new.append(jax.tree.map(lambda z, g: decay * z + g, old, gradient))
    lengths = [sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(one)) for one in new]
    reach = kappa * sum(jnp.maximum(jnp.abs(d), 1) * size for d, size in zip(deltas, lengths, strict=True))
    for delta, one in zip(deltas, new, strict=True):
        params = jax.tree.map(lambda w, z, delta=delta: w + delta * z / jnp.maximum(reach, 1), params, one)
    return params, new


def row_moved(tree, old: int, new: int):
    """One head's row of leaves [K, ...] in another place, and zeros in all others."""
    return jax.tree.map(lambda w: jnp.zeros_like(w).at[new].set(w[old]), tree)


@pytest.mark.parametrize("heads", [1, 2])
def test_steps_are_the_rule_written_out_head_by_head(heads):
    """Greedy and not, a shift, a time limit and a death; the shift moves traces along with the heads."""
    source = SharedHeads(heads, period=3, behaviour_head="1").build(NETWORK)
    state, observe = observer(StreamQ(**PLAIN), source)
    params, held = state.params, state.source
    rule = jax.jit(lambda params, held, step, z: plainly(source, params, held, step, z, 0.99 * 0.8, kappa=2.0))
    z = none = [jax.tree.map(jnp.zeros_like, params)] * heads
    for count in range(1, 8):
        greedy = int(q(source, params, held, step_of(count, 0).obs)[0][0].argmax())
        action = (greedy + (count == 5)) % ACTIONS
        step = step_of(count, action, terminated=count == 6, truncated=count == 2)
        state, metrics = observe(state, KEY, step, step.next_obs, jnp.int32(count))
        params, z = rule(params, held, step, z)
        if count % 3 == 0:  # heads 1..K take the place of heads 0..K-1
            chain = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), held["target_params"], params["heads"])
            held = {**held, "target_params": jax.tree.map(lambda w: w[1:2], chain)}
            moved = jax.tree.map(lambda w: jnp.concatenate([w[2:], w[-1:]]), chain)
            params = {**params, "heads": moved}
            above = [min(head + 1, heads - 1) for head in range(heads)]
            z = [
                {"trunk": z[up]["trunk"], "heads": row_moved(z[up]["heads"], up, head)} for head, up in enumerate(above)
            ]
        if count in (2, 5, 6):
            z = none
        assert metrics["cut"] == (count in (2, 5, 6))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), state.params, params)


def test_without_traces_and_bound_it_is_a_semi_gradient_step():
    source = OnlineNetwork().build(NETWORK)
    state, observe = observer(StreamQ(trace_decay=0, kappa=0, learning_rate=0.1, **PLAIN), source)
    state, _ = observe(state, KEY, step_of(0, 1), step_of(0, 1).next_obs, jnp.int32(1))  # which leaves a trace behind
    step = step_of(1, 2)

    def half_square(params):
        target = step.reward[0] + 0.99 * q(source, state.params, state.source, step.next_obs)[1].max()
        return 0.5 * (target - q(source, params, state.source, step.obs)[0][0, 2]) ** 2

    wanted = jax.tree.map(lambda w, g: w - 0.1 * g, state.params, jax.grad(half_square)(state.params))
    state, _ = observe(state, KEY, step, step.next_obs, jnp.int32(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, wanted)


def walked(settings: StreamQ, source, steps: int = 9):
    state, observe = observer(settings, source)
    for count in range(1, steps + 1):
        step = step_of(count, count % ACTIONS, terminated=count == 4)
        state, _ = observe(state, KEY, step, step.next_obs, jnp.int32(count))
    return state.params


@pytest.mark.parametrize("credit", ["naive", "forward"])
def test_copies_at_every_step_are_the_target_free_algorithm(credit):
    free = walked(StreamQ(credit=credit, **PLAIN), OnlineNetwork().build(NETWORK))
    for target in (TargetNetwork(period=1), SharedHeads(1, period=1, initial_heads="copies")):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            walked(StreamQ(credit=credit, **PLAIN), target.build(NETWORK)),
            free,
        )


def test_one_head_makes_all_ways_of_sharing_one():
    source = SharedHeads(1, period=4).build(NETWORK)
    plain = walked(StreamQ(**PLAIN), source)
    for option in ({"trunk_traces": "joint"}, {"bound": "each"}, {"bound": "mean"}):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), walked(StreamQ(**option, **PLAIN), source), plain
        )


def test_a_head_takes_its_weights_share_of_the_bound():
    """By hand: two errors of 2.5 on tables of zeros. M = 2 (2.5 / 2 + 2.5 / 4), and each head moves by w 2.5 / M."""
    source = SharedHeads(2, loss_weights=(0.5, 0.25)).build(Table().build(ACTIONS))
    state, observe = observer(StreamQ(kappa=2.0, **PLAIN), source)
    step = step_of(2, 1)._replace(obs=jnp.eye(4)[:1], next_obs=jnp.eye(4)[1:2])
    state, metrics = observe(state, KEY, step, step.next_obs, jnp.int32(1))
    np.testing.assert_allclose(state.params["heads"]["kernel"][:, 0, 1], [1 / 3, 1 / 6], rtol=1e-6)
    assert (metrics["loss"], metrics["td_error"]) == (6.25, 2.5)  # errors as they are, without weights


def test_watkins_cuts_the_past_and_keeps_the_exploratory_pair():
    source = OnlineNetwork().build(Table().build(ACTIONS))
    for cut, wanted in (("after", [1, 1, 0]), ("before", [0, 1, 1])):
        state, observe = observer(StreamQ(cut=cut, gamma=1.0, trace_decay=1.0, **PLAIN), source)
        kernel = jnp.zeros((1, 4, ACTIONS)).at[0, :, 0].set(1.0)  # action 0 is greedy everywhere
        state = state._replace(params={"trunk": {}, "heads": {"kernel": kernel}})
        traces = []
        for count, action in enumerate([0, 1, 0], start=1):  # the second is not greedy
            obs = jnp.eye(4)[count - 1 : count]
            step = Step(obs, *map(jnp.array, ([action], [0.0], [False], [False])), jnp.eye(4)[count : count + 1])
            state, _ = observe(state, KEY, step, step.next_obs, jnp.int32(count))
            traces.append(np.asarray(state.traces.z["heads"]["kernel"])[0])
        of_first, of_second = traces[1][0, 0], traces[1][1, 1]
        assert [of_first, of_second, traces[2][1, 1]] == wanted


GAMMA, LAMBDA = 0.9, 0.8
EVALUATING = StreamQ(gamma=GAMMA, trace_decay=LAMBDA, kappa=0.0, epsilon_steps=0, **PLAIN)


def evaluated(settings: StreamQ, target, network: Network, held, chances, rewards, steps: int) -> np.ndarray:
    """The values [H, states] that a long walk along a chain with one action leaves, a mean over its last two thirds."""
    source, states = target.build(network), len(rewards)
    algorithm, rooms = settings.on(source), jnp.eye(states)
    start = algorithm.init(KEY, example(states))
    chances, rewards = jnp.asarray(chances, jnp.float32), jnp.asarray(rewards, jnp.float32)

    def one(carry, count):
        state, at, total = carry
        to = jax.random.choice(random_keys.at(KEY, count), states, p=chances[at])
        ends = jnp.zeros(1, bool)
        step = Step(rooms[at][None], jnp.zeros(1, jnp.int32), rewards[at][None], ends, ends, rooms[to][None])
        state, _ = algorithm.observe(state, KEY, step, step.next_obs, count)
        found = source.values(state.params, state.source, rooms, rooms).predicted[..., 0]
        return (state, to, total + jnp.where(count > steps // 3, found, 0)), None

    @jax.jit
    def walk(start):
        begin = start, jnp.int32(0), jnp.zeros((start.trace_mask.size, states))
        return jax.lax.scan(one, begin, jnp.arange(1, steps + 1))[0][2] / (steps - steps // 3)

    return np.asarray(walk(start._replace(source={**start.source, "target_params": held})))


def test_which_credit_converges_to_which_fixed_point():
    """With a frozen bootstrap V and one action: naive to r + gamma P V, forward to the lambda-image of V."""
    draw, states = np.random.default_rng(7), 5
    chances = draw.dirichlet(np.ones(states), states)
    rewards, frozen = draw.normal(size=states), draw.normal(size=states) * 2
    one_step = rewards + GAMMA * chances @ frozen
    image = rewards + GAMMA * (1 - LAMBDA) * chances @ frozen
    image = np.linalg.solve(np.eye(states) - GAMMA * LAMBDA * chances, image)
    assert np.abs(one_step - image).max() > 2
    held = {"trunk": {}, "heads": {"kernel": jnp.asarray(frozen, jnp.float32)[None, :, None]}}
    target, network = TargetNetwork(period=10**9), Table().build(1)
    for credit, wanted in (("naive", one_step), ("forward", image)):
        settings = dataclasses.replace(EVALUATING, credit=credit, learning_rate=0.01)
        found = evaluated(settings, target, network, held, chances, rewards, steps=60_000)
        assert np.abs(found[0] - wanted).max() < 0.1


def two_features(states: int) -> Network:
    """A trunk that learns two features of each state, and heads without a bias."""
    return Network(
        lambda key, example: ({"table": jax.random.normal(key, (states, 2))}, {}),
        lambda params, statistics, state, train: (state @ params["table"], statistics),
        lambda key, x, count: {"w": jax.random.normal(key, (count, 2))},
        lambda heads, x: jnp.einsum("bf,hf->hb", x, heads["w"])[..., None],
    )


def test_a_joint_trace_stands_still_where_the_errors_of_the_heads_cancel():
    """Its bias: on a round of three rooms without chance, per-head traces reach what two features can say exactly.

    Head 0 says 0, so head 1 learns r, and head 2 learns r + gamma r'.
    """
    rewards, chances = np.array([1.0, 0.0, 0.0]), np.roll(np.eye(3), 1, axis=1)
    wanted = np.stack([rewards, rewards + GAMMA * chances @ rewards])
    far = {}
    for traces in ("per_head", "joint"):
        settings = dataclasses.replace(EVALUATING, trunk_traces=traces, learning_rate=0.05)
        target, held = SharedHeads(2, period=10**9), {"w": jnp.zeros((1, 2))}
        found = evaluated(settings, target, two_features(3), held, chances, rewards, steps=30_000)
        far[traces] = np.abs(found - wanted).max()
    assert far["per_head"] < 1e-3
    assert 0.3 < far["joint"] < 0.4  # docs/algorithms.md has the values


def played(target, probe: str, steps: int, **options) -> np.ndarray:
    """The values that a table learns on a probe; without normalisation, which probes with known values do without."""
    environment = autoreset(PROBES[probe].environment)
    settings = StreamQ(gamma=0.9, kappa=2.0, epsilon_end=0.5, epsilon_steps=steps, **PLAIN | options)
    algorithm = settings.build(PROBES[probe].environment.spec, target, Table())
    width = environment.spec.observation.shape[0]

    def one(carry, time):
        agent, world, obs = carry
        action = algorithm.act(agent, random_keys.at(KEY, 2 * time), obs, time)
        world, out = jax.vmap(environment.step)(random_keys.at(KEY, 2 * time + 1)[None], world, action)
        step = Step(obs, action, out.reward, out.terminated, out.truncated, out.final_obs)
        agent, _ = algorithm.observe(agent, random_keys.at(KEY, time), step, out.obs, time + 1)
        return (agent, world, out.obs), None

    @jax.jit
    def run():
        world, obs = jax.vmap(environment.reset)(KEY[None])
        start = (algorithm.init(KEY, example(width)), world, obs)
        (agent, _, _), _ = jax.lax.scan(one, start, jnp.arange(steps))
        return algorithm.values(agent, KEY, jnp.asarray(PROBES[probe].observations))

    return np.asarray(run())


SOURCES = [
    OnlineNetwork(),
    TargetNetwork(period=50),
    SharedHeads(heads=2, period=50, behaviour_head="mean"),
    IteratedNetworks(networks=2, period=50, behaviour_head="mean"),
    LookaheadReplicate(period=50, replicate_steps=20, learning_rate=0.05),
    Minto(period=50),
    Averaged(snapshots=2, period=50),
    Maxmin(networks=2, period=50),
    REDQ(networks=3, period=1, tau=0.05),
]


@pytest.mark.parametrize("target", SOURCES, ids=lambda target: target.label)
def test_every_source_learns_the_corridor(target):
    truth = PROBES["corridor"].q_values(0.9)
    np.testing.assert_allclose(played(target, "corridor", 20_000), truth, atol=0.1)


@pytest.mark.parametrize("options", [{"optimiser": "adaptive", "learning_rate": 0.02}, {"optimiser": "intentional"}])
@pytest.mark.parametrize("target", [OnlineNetwork(), SharedHeads(2, period=50, behaviour_head="mean")])
def test_every_optimiser_learns_the_corridor(target, options):
    truth = PROBES["corridor"].q_values(0.9)
    np.testing.assert_allclose(played(target, "corridor", 20_000, **options), truth, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("probe", sorted(set(PROBES) - {"corridor", "maximisation_bias"}))  # the last is all noise
@pytest.mark.parametrize("target", SOURCES, ids=lambda target: target.label)
def test_every_source_learns_every_probe_without_noise(target, probe):
    np.testing.assert_allclose(played(target, probe, 20_000), PROBES[probe].q_values(0.9), atol=1e-3)


def test_a_time_limit_is_not_learned_as_a_death():
    np.testing.assert_allclose(played(OnlineNetwork(), "time_limit", 4_000), [[10.0]], atol=0.2)


def test_normalised_it_finds_its_way_too():
    values = played(OnlineNetwork(), "observation_and_action", 2_000, normalise="each", scale_rewards=True)
    np.testing.assert_array_equal(values.argmax(axis=1), [0, 1])


@pytest.mark.parametrize(("ends", "begins_anew", "counted"), [(True, True, 3), (True, False, 2), (False, False, 2)])
def test_an_observation_that_arrived_once_counts_once(ends, begins_anew, counted):
    """The first, the successor, and the next episode's first, which after a lost life is the successor."""
    step = step_of(0, 1, terminated=ends)
    following = step.next_obs + 1 if begins_anew else step.next_obs
    inputs, _ = absorb(none_yet(step.obs, "each"), step, following, 0.9, "each", scale_rewards=True)
    assert inputs.moments.count == counted


def test_one_stream_only():
    state, observe = observer(StreamQ(), OnlineNetwork().build(NETWORK))
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), step_of(0, 1))
    with pytest.raises(SharedqError, match=r"--training\.environments 1"):
        observe(state, KEY, two, two.next_obs, jnp.int32(1))


@pytest.mark.parametrize("options", [{"trace_decay": 1.5}, {"kappa": -1.0}, {"trunk_traces": "joint", "bound": "each"}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(SharedqError, match=f"algorithm.{next(iter(options))}"):
        StreamQ(**options)


HEADS = {"target": "shared_heads", "target.period": 30, "target.heads": 2}


@pytest.mark.parametrize(
    "options",
    [
        HEADS,
        HEADS | {"algorithm.optimiser": "adaptive"},
        HEADS | {"algorithm.optimiser": "intentional"},
        {"algorithm": "stream_qrc"},
    ],
    ids=["obgd", "adaptive", "intentional", "qrc"],
)
def test_saved_and_loaded_it_goes_on_to_the_bit(tmp_path, options):
    """Traces, normalisers and the key of the head that acts are all in the state."""
    small = {"steps": 200, "training.log_period": 100, "network.hidden": (6,)}
    experiment = recipe("stream-control").replace(**small, **options)
    program = experiment.build().program()
    program.prepare()
    run, _ = program.advance(program.begin(), 0, 100)
    path = checkpoints.save(tmp_path, 100, {"run": program.to_host(run)}, "digest", {}, keep=1)
    loaded = program.to_devices(checkpoints.load(path, "run", program.shapes()))
    ends = [program.to_host(program.advance(start, 100, 200)[0]) for start in (run, loaded)]
    assert set(program.metric_names) - {"h_value"} == {"cut", "loss", "q_value", "td_error"}
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(*(np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in (one, other)))


def test_the_control_recipe_learns_in_a_world_of_gymnasiums_too(tmp_path):
    pytest.importorskip("gymnasium")
    options = ["--environment", "gymnasium", "--environment.id", "CartPole-v1", "--network.hidden", "6"]
    lengths = ["--steps", "60", "--training.log_period", "30", "--out", str(tmp_path / "run")]
    assert main(["train", "stream-control", *options, *lengths]) == 0
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert last["step"] == "60" and float(last["loss"]) > 0


def is_key(x) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def test_the_cost_of_traces_is_told():
    """A trace for each head of all that heads share: what shared heads save in weights, they hold in traces."""
    experiment = recipe("stream-minatar")
    for heads in (1, 3):
        one = experiment.replace(target="shared_heads", **{"target.heads": heads})
        cost = one.build().cost(compiled=False)
        expected = heads * cost.parameters["trunk"] + cost.parameters["heads"]
        assert cost.bytes["traces"] == 4 * expected + 4  # and the count of steps
    joint = one.replace(**{"algorithm.trunk_traces": "joint"}).build().cost(compiled=False)
    assert joint.bytes["traces"] == 4 * joint.parameters["trained"] + 4
    adaptive = one.replace(**{"algorithm.optimiser": "adaptive"}).build().cost(compiled=False)
    assert adaptive.bytes["traces"] == 4 * (
        expected + adaptive.parameters["trained"]
    )  # and a mean square for each weight
