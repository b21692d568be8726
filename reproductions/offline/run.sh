#!/usr/bin/env bash
# Trains the agents, collects the data and learns from them. It goes on where it was interrupted.
#     bash run.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"

agent() { [ -e "agents/$1/finished.json" ] || sharedq train "${@:2}" --overwrite --out "agents/$1"; }
collect() { [ -e "data/$1" ] || sharedq data collect "data/$1" "${@:2}"; }

agent cartpole-60k cartpole --steps 60000 --epsilon_steps 30000
agent cartpole-200k cartpole --steps 200000 --epsilon_steps 100000
agent breakout-150k minatar-breakout --steps 150000 --epsilon_steps 50000
agent breakout-600k minatar-breakout --steps 600000
agent pendulum-2500 sac-pendulum --steps 2500
agent pendulum-12k sac-pendulum --steps 12000

collect cartpole-mixed --from random agents/cartpole-60k agents/cartpole-200k --shares 0.5 0.3 0.2 --steps 50000
collect breakout-mixed --from random agents/breakout-150k agents/breakout-600k --shares 0.3 0.4 0.3 --steps 200000
collect pendulum-mixed --from random agents/pendulum-2500 agents/pendulum-12k --shares 0.4 0.4 0.2 --epsilon 0.1 \
  --steps 50000

sharedq compare minatar-cql --data data/breakout-mixed --seeds 5 --steps 50000 --algorithm cql bc \
  --targets online_network target_network shared_heads:heads=1 shared_heads:heads=9 --out minatar-cql
sharedq compare cartpole-iql --data data/cartpole-mixed --seeds 5 --algorithm iql bc --targets online_network \
  target_network shared_heads:heads=1,tau=1,period=200 shared_heads:heads=9,tau=1,period=200 --out cartpole-iql
sharedq compare pendulum-iql --data data/pendulum-mixed --seeds 5 --algorithm iql bc --targets target_network \
  --out pendulum-iql
