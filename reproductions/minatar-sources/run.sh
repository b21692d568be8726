#!/usr/bin/env bash
# Trains seven sources of targets on the five games of MinAtar, without normalisation and with LayerNorm, 5 seeds each,
# and writes a page for each of the two networks. It goes on where it was interrupted, and several processes, also on
# machines that share the folder, can work on it at the same time.
#     bash run.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"

STEPS=${STEPS:-200000}
SEEDS=${SEEDS:-5}

for norm in none layer; do
  sharedq compare minatar-breakout --game breakout asterix freeway seaquest space-invaders --network.norm $norm \
    --targets target_network online_network shared_heads:heads=1 shared_heads:heads=3 shared_heads:heads=9 \
    iterated_networks lookahead_replicate:learning_rate=3e-4,replicate_steps=200 \
    --steps "$STEPS" --seeds "$SEEDS" --training.measures gradient_alignment:period=1000,target_churn,rank \
    --out "norm-$norm"
done
