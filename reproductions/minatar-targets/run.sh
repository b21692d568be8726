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
    sharedq train "$3" --seeds "$SEEDS" --out "$folder" "${@:4}"
  fi
}

dqn() { agent "$1" "$2" "minatar-$1" --steps "$STEPS" "${@:3}"; }

pqn() { # GAME NAME STEPS: with the schedules of the paper, which end with the run
  agent "$1" "$2" "pqn-minatar-$1" --steps "$3" \
    --algorithm.epsilon_steps $(($3 / 10)) --algorithm.learning_rate_updates $(($3 / 64))
}

for game in breakout space-invaders; do
  dqn $game target-network
  dqn $game target-free --target online_network
  dqn $game shared-heads --target shared_heads --target.heads 9
  dqn $game minto --target minto
  dqn $game corrected-shared-heads --target shared_heads --target.heads 9 --algorithm.gradient_correction true
  dqn $game c51 --algorithm.values categorical
  dqn $game c51-target-free --algorithm.values categorical --target online_network
  dqn $game munchausen --algorithm.backup munchausen
  dqn $game lookahead-replicate --target lookahead_replicate --target.learning_rate 3e-4
  dqn $game lookahead-replicate-200 --target lookahead_replicate --target.learning_rate 3e-4 \
    --target.replicate_steps 200
  pqn $game pqn "$STEPS"
  pqn $game pqn-longer $((5 * STEPS))
  sharedq report $game --reference target-network
done
python "$here/tables.py" breakout space-invaders
