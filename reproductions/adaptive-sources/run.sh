#!/usr/bin/env bash
# Trains the agents of the study on four environments, and writes a page for each. It goes on where it was interrupted.
#     bash run.sh FOLDER [PART ...]       where a part is cartpole, swingup, lunar-lander or space-invaders
set -euo pipefail
mkdir -p "$1"
cd "$1"
PARTS=${*:2}

SEEDS=${SEEDS:-5}

agent() { # FOLDER RECIPE OPTIONS ...
  [ -e "$1/finished.json" ] && return
  if [ -e "$1/experiment.json" ]; then sharedq resume "$1"; else
    sharedq train "$2" --seeds "$SEEDS" --out "$1" "${@:3}"
  fi
}

sparsity() { # FOLDER: the mean over seeds at the end of a run, which the fixed schedule is then given
  python - "$1" << 'END'
import csv, pathlib, statistics, sys

with pathlib.Path(sys.argv[1], "metrics.csv").open() as file:
    last = {row["seed"]: float(row["target/sparsity"]) for row in csv.DictReader(file)}
print(round(statistics.mean(last.values()), 4))
END
}

pruning() { # FOLDER RECIPE PERIOD UPDATES OPTIONS ...: a dense network, EauDeQN, and the fixed schedule to its sparsity
  agent "$1/dense" "$2" --target target_network --target.period "$3" --target.tau 1 "${@:5}"
  agent "$1/eau-de" "$2" --target eau_de --target.period "$3" --target.horizon "$4" "${@:5}"
  local final
  final=$(sparsity "$1/eau-de")
  agent "$1/poly-prune" "$2" --target poly_prune --target.source "target_network:period=$3" \
    --target.final_sparsity "$final" --target.begin $(($4 / 5)) --target.end $(($4 * 4 / 5)) \
    --target.prune_period "$3" "${@:5}"
}

cartpole() {
  pruning cartpole cartpole 250 62500
  sharedq report cartpole --reference dense
}

space-invaders() {
  local recipe=minatar-space-invaders steps=200000 final
  pruning space-invaders $recipe 250 50000 --steps $steps
  agent space-invaders/shared-heads $recipe --target shared_heads --target.heads 9 --target.period 250 --steps $steps
  final=$(sparsity space-invaders/eau-de)
  agent space-invaders/poly-prune-shared-heads $recipe --target poly_prune \
    --target.source shared_heads:heads=9:period=250 --target.final_sparsity "$final" \
    --target.begin 10000 --target.end 40000 --target.prune_period 250 --steps $steps
  sharedq report space-invaders --reference dense
}

swingup() {
  SEEDS=3 pruning swingup sac-swingup 100 10000
  sharedq report swingup --reference dense
}

lunar-lander() {
  local steps=100000 rates="3e-5 3e-4 3e-3"
  for rate in $rates; do
    agent "lunar-lander/rate-$rate" lunar-lander --algorithm.learning_rate "$rate" --steps $steps
  done
  agent lunar-lander/adaptive lunar-lander --target adaptive --target.networks 3 --target.learning_rates "${rates// /,}" \
    --steps $steps
  sharedq report lunar-lander --reference rate-3e-4
}

for part in ${PARTS:-cartpole swingup lunar-lander space-invaders}; do $part; done
