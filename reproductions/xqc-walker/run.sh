#!/usr/bin/env bash
# Trains XQC's agent on walker-walk with three sources of targets, 3 seeds each, and writes a page. It goes on where it
# was interrupted. The network is half as wide as in the paper, and the run is a twentieth as long.
#     bash run.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"

STEPS=${STEPS:-25000}
SEEDS=${SEEDS:-3}

agent() { # NAME OPTIONS ...
  [ -e "$1/finished.json" ] && return
  if [ -e "$1/experiment.json" ]; then sharedq resume "$1"; else
    sharedq train xqc --environment.task walker-walk --network.width 256 --steps "$STEPS" --seeds "$SEEDS" \
      --algorithm.learning_rate_updates $((2 * STEPS)) --training.checkpoint_period 2500 --out "$1" "${@:2}"
  fi
}

agent target-network
agent target-free --target online_network
agent shared-heads --target shared_heads --target.heads 1 --target.period 1 --target.tau 0.005
sharedq report . --reference target-network
