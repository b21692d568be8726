#!/usr/bin/env bash
# Trains five sources of targets on Atari games in 16x16 pixels, with LayerNorm and without, 3 seeds each, and writes a
# page for each of the two networks. The periods are those that the authors of the small agent chose, and shared heads,
# for which theirs is not known, have that of the target network. The authors tuned on Asterix, Gopher and Enduro, and
# nobody on Breakout and Space Invaders. It goes on where it was interrupted, and several processes, also on machines that
# share the folder, can work on it at the same time.
#     bash run.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"

STEPS=${STEPS:-500000}
SEEDS=${SEEDS:-3}

for norm in layer none; do
  sharedq compare atari-small --game Breakout SpaceInvaders Asterix Gopher Enduro --network.norm $norm \
    --targets target_network online_network shared_heads:heads=1 shared_heads:heads=9 \
    iterated_networks:networks=5,period=10000,copy_period=1 \
    --steps "$STEPS" --seeds "$SEEDS" --training.measures gradient_alignment:period=3000,target_churn,rank \
    --out "norm-$norm"
done
