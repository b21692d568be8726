#!/usr/bin/env bash
# Trains the agents of the study on two games, 5 seeds each, and writes a page for each game. It goes on where it was
# interrupted.
#     bash run.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

STEPS=${STEPS:-200000}
SEEDS=${SEEDS:-5}

agent() { # GAME NAME RECIPE OPTIONS ...
  local folder="$1/$2"
  [ -e "$folder/finished.json" ] && return
  if [ -e "$folder/experiment.json" ]; then sharedq resume "$folder"; else
    sharedq train "$3" --seeds "$SEEDS" --steps "$STEPS" --out "$folder" "${@:4}"
  fi
}

for game in breakout space-invaders; do
  recipe="minatar-$game"
  agent $game target-network $recipe
  agent $game target-free $recipe --target online_network
  agent $game shared-heads $recipe --target shared_heads --target.heads 9
  agent $game minto $recipe --target minto
  agent $game corrected-shared-heads $recipe --target shared_heads --target.heads 9 --algorithm.gradient_correction true
  agent $game c51 $recipe --algorithm.values categorical
  agent $game c51-target-free $recipe --algorithm.values categorical --target online_network
  agent $game munchausen $recipe --algorithm.backup munchausen
  agent $game lookahead-replicate $recipe --target lookahead_replicate --target.learning_rate 3e-4
  agent $game pqn "pqn-minatar-$game"
  sharedq report $game --reference "target network"
done
python "$here/tables.py" breakout space-invaders
