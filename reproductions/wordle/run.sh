#!/usr/bin/env bash
# Makes the games, learns from them by every source, and writes the report. It goes on where it was interrupted.
#     bash run.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"

[ -e games ] || sharedq data wordle games --recipe adversarial --games 40000 --count 16
sharedq compare ilql-wordle-small --data games --seeds 4 --algorithm ilql bc --targets online_network target_network \
  shared_heads:heads=1,tau=1,period=20 shared_heads:heads=9,tau=1,period=20 --out wordle
