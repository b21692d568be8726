#!/usr/bin/env bash
# Trains the agents of the study, 11 runs of 5 seeds, and prints the tables. It goes on where it was interrupted.
#     bash run.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

study() {
  if [ -e "$1/compare.json" ]; then sharedq resume "$1"; else
    sharedq compare lunar-lander --seeds 5 --steps 200000 --replay.capacity 200000 --out "$1" "${@:2}"
  fi
}

study shared-heads --targets shared_heads:heads=3 --sampler uniform prioritized reaper reaper_plus annealed ensemble
study target-network --targets target_network --sampler uniform prioritized reaper reaper_plus annealed
python "$here/tables.py" target-network shared-heads
