"""What an agent costs, against counts by hand."""

import csv
import io
import json

import jax
import numpy as np
import pytest

from sharedq.agent import load
from sharedq.algorithms import DQN
from sharedq.analysis.tables import cost_table
from sharedq.command_line import main
from sharedq.environments import CartPole, MinAtar
from sharedq.experiment import Experiment
from sharedq.networks import Convolutional, Dense
from sharedq.replay import Transitions
from sharedq.targets import (
    REDQ,
    Averaged,
    IteratedNetworks,
    LookaheadReplicate,
    OnlineNetwork,
    SharedHeads,
    TargetNetwork,
)
from sharedq.trees import count

WIDTH, BATCH = 64, 256
TRUNK = (4 * WIDTH + WIDTH) + (WIDTH * WIDTH + WIDTH)
HEAD = WIDTH * 2 + 2

PARAMETERS = {  # trained, untrained, by hand
    OnlineNetwork(): (TRUNK + HEAD, 0),
    TargetNetwork(): (TRUNK + HEAD, TRUNK + HEAD),
    SharedHeads(heads=1): (TRUNK + HEAD, HEAD),
    SharedHeads(heads=9): (TRUNK + 9 * HEAD, HEAD),
    IteratedNetworks(networks=3): (3 * (TRUNK + HEAD), 3 * (TRUNK + HEAD)),
    LookaheadReplicate(): (TRUNK + HEAD, TRUNK + HEAD),
    Averaged(snapshots=3): (TRUNK + HEAD, 3 * (TRUNK + HEAD)),
    REDQ(networks=3): (3 * (TRUNK + HEAD), 3 * (TRUNK + HEAD)),
}


def cost(target, width=WIDTH, timed=False, corrected=False):
    network = Dense((width, width))
    algorithm = DQN(gradient_correction=corrected)
    return Experiment(CartPole(), algorithm, target, network, Transitions(1000, BATCH)).build().cost(timed)


@pytest.mark.parametrize("target", PARAMETERS, ids=lambda target: target.label)
def test_parameters_and_bytes_are_those_of_the_closed_forms(target):
    found = cost(target)
    trained, untrained = PARAMETERS[target]
    assert found.parameters["trained"] == trained == found.parameters["trunk"] + found.parameters["heads"]
    assert found.parameters["untrained"] == untrained
    assert found.parameters["held"] == trained + untrained
    assert found.bytes["weights"] == 4 * (trained + untrained)
    assert found.bytes["optimiser"] == 2 * 4 * trained + 4  # Adam's two moments, and its count
    assert found.bytes["replay"] == 1000 * (2 * 4 * 4 + 4 + 4 + 1 + 1)  # two observations, action, reward, two flags
    assert found.bytes["batch_stats"] == 0
    assert found.bytes["activations"] > 0
    assert found.update_seconds is None


def test_what_lookahead_replicate_keeps_besides():
    source = LookaheadReplicate(replicate_steps=20)
    optimiser = 2 * 4 * (TRUNK + HEAD) + 4
    assert cost(source).bytes["other"] == optimiser + 20 * BATCH * 4 * 4 + 20  # its recent inputs, and which are there


def test_batch_normalisation_has_two_statistics_per_unit():
    network = Dense((WIDTH, WIDTH), norm="batch")
    found = (
        Experiment(CartPole(), network=network, target=OnlineNetwork(), replay=Transitions(1000, BATCH)).build().cost()
    )
    assert found.bytes["batch_stats"] == 4 * 2 * 2 * WIDTH


def test_a_minatar_replay_stores_images_as_bits():
    experiment = Experiment(MinAtar("breakout"), replay=Transitions(capacity=100_003, batch_size=32))
    replay = jax.eval_shape(experiment.build().replay.init)
    image = -(-10 * 10 * 4 // 8)
    kept = 100_003 // experiment.training.environments * experiment.training.environments
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(replay)) == kept * (2 * image + 4 + 4 + 1 + 1)


def products(width, batch):
    """Operations of one forward pass' matrix products: a multiplication and an addition for each weight."""
    return 2 * batch * (4 * width + width * width + width * 2)


@pytest.mark.parametrize("target", [OnlineNetwork(), TargetNetwork()], ids=lambda target: target.label)
def test_operations_are_those_of_the_matrix_products_and_little_more(target):
    """Forward at now and at then, gradients of weights, and of inputs but for the first layer's.

    What the compiler counts besides is elementwise: biases, activations, the loss and Adam's step.
    """
    shares = []
    for width in (64, 256):
        by_hand = 4 * products(width, BATCH) - 2 * BATCH * 4 * width
        shares.append(cost(target, width).flops_per_update / by_hand - 1)
    assert 0 < shares[1] < shares[0] / 2 < 0.02  # one share falls as the other's cost grows with the width's square


def test_iterated_networks_cost_as_many_times_as_there_are_networks():
    many, one = cost(IteratedNetworks(networks=3)), cost(TargetNetwork())
    assert many.flops_per_update == pytest.approx(3 * one.flops_per_update, rel=0.01)
    assert many.flops_per_action == pytest.approx(3 * one.flops_per_action, rel=0.03)


def test_a_head_more_costs_its_own_products_only():
    """A head in four products: at now, at then, and the gradients of its weights and of the features."""
    fewer, more = cost(SharedHeads(heads=4)), cost(SharedHeads(heads=8))
    by_hand = 4 * (4 * 2 * BATCH * WIDTH * 2)
    assert by_hand < more.flops_per_update - fewer.flops_per_update < 1.2 * by_hand


@pytest.mark.parametrize(
    ("target", "further"),
    [(OnlineNetwork(), 1), (SharedHeads(heads=3), 2), (IteratedNetworks(networks=3), 2)],
    ids=lambda value: getattr(value, "label", value),
)
def test_a_gradient_correction_costs_its_further_heads_and_a_gradient_of_the_targets(target, further):
    plain, corrected = cost(target), cost(target, corrected=True)
    more = further * HEAD
    assert corrected.parameters["correction"] == more
    for name, plus in {"trained": more, "held": more, "untrained": 0}.items():
        assert corrected.parameters[name] - plain.parameters[name] == plus
    assert corrected.bytes["optimiser"] - plain.bytes["optimiser"] == 2 * 4 * more
    assert corrected.bytes["other"] == plain.bytes["other"]
    assert corrected.flops_per_update > plain.flops_per_update
    assert corrected.flops_per_action == plain.flops_per_action  # no estimate is needed to act


def test_an_action_costs_one_forward_pass():
    found = cost(OnlineNetwork()).flops_per_action
    assert products(WIDTH, 1) < found < 1.1 * products(WIDTH, 1)


def test_copies_and_shifts_cost_nothing_to_speak_of():
    for target in (TargetNetwork(), SharedHeads(heads=9), IteratedNetworks(networks=3), Averaged(3)):
        assert cost(target).flops_per_refresh < 100


@pytest.mark.parametrize(
    ("target", "held"),
    [
        (OnlineNetwork(), 4_049_898),
        (TargetNetwork(), 8_099_796),
        (SharedHeads(heads=1), 4_055_028),
        (SharedHeads(heads=4), 4_070_418),
        (SharedHeads(heads=9), 4_096_068),
        (SharedHeads(heads=49), 4_301_268),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_the_atari_agents_hold_the_parameters_of_the_public_code(target, held):
    network = Convolutional((32, 64, 64), (8, 4, 3), (4, 2, 1), "SAME", (512,), norm="layer").build(10)
    frames = jax.ShapeDtypeStruct((1, 84, 84, 4), np.uint8)
    params, state = jax.eval_shape(target.build(network).init, jax.eval_shape(lambda: jax.random.key(0)), frames)
    assert count(params) + count(state["target_params"]) == held


def test_a_measured_update_takes_time():
    assert cost(OnlineNetwork(), timed=True).update_seconds > 0


def test_tables_tell_the_same_in_every_format():
    costs = {"target-free": cost(OnlineNetwork()), "shared": cost(SharedHeads(heads=9))}
    plain = json.loads(cost_table(costs, "json"))
    rows = list(csv.DictReader(io.StringIO(cost_table(costs, "csv"))))
    assert [row["source"] for row in rows] == list(plain)
    for row in rows:
        assert int(row["parameters_held"]) == plain[row["source"]]["parameters"]["held"]
        sizes = plain[row["source"]]["bytes"]
        apart = ("agent", "replay", "activations")
        assert int(row["bytes_agent"]) == sum(size for part, size in sizes.items() if part not in apart)
    text = cost_table(costs, "text").splitlines()
    assert text[0].split() == ["target-free", "shared"]
    line = next(line for line in text if line.startswith("parameters, trained "))
    assert line.split()[-2:] == [f"{plain[source]['parameters']['trained']:,}" for source in plain]


def test_a_refresh_counts_each_of_its_steps():
    def refresh(steps):
        return cost(LookaheadReplicate(replicate_steps=steps)).flops_per_refresh

    assert refresh(20) / refresh(1) == pytest.approx(20, rel=0.01)


def test_the_cost_of_a_run_counts_the_weights_that_are_zero(tmp_path, capsys):
    source = ["--target.source", "online_network", "--target.begin", "1", "--target.end", "9", "--target.prune_period"]
    options = ["--target", "poly_prune", *source, "2", "--target.final_sparsity", "0.9", "--network.hidden", "20"]
    options += ["--steps", "300", "--training.warm_up", "32", "--seeds", "2", "--out", str(tmp_path / "run")]
    main(["train", "corridor", "--network", "dense", *options])
    capsys.readouterr()
    main(["cost", str(tmp_path / "run"), "--no-time", "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["seed 0", "seed 1"]
    for seed, cost in found.items():
        params = jax.tree.leaves(load(tmp_path / "run", int(seed[-1])).state.params)
        kernels = [w for w in params if w.ndim > 1 and w.shape[-2] > 1]
        assert cost["parameters"]["trained_nonzero"] == sum(int((np.asarray(w) != 0).sum()) for w in params)
        assert cost["parameters"]["trained"] - cost["parameters"]["trained_nonzero"] > 0.8 * sum(
            w.size for w in kernels
        )
    assert main(["cost", str(tmp_path / "run"), "--target", "shared_heads"]) == 2
    assert "is a run" in capsys.readouterr().err
