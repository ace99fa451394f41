#!/usr/bin/env bash
# GKE by xpk: a workload on a cluster that is there (xpk cluster create):
#   CLUSTER=... PROJECT=... ZONE=... bash tpu/xpk.sh grpo_answer --mesh.fsdp 16
# The tree goes into an image over python:3.12. A bucket has been attached to the cluster as a volume at /runs (xpk storage attach), which
# all workers see: a workload that is evicted and started again goes on there from its newest checkpoint.
set -euo pipefail
experiment=$1 && shift
xpk workload create \
  --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" \
  --workload="mr1jax-${experiment//_/-}" --tpu-type="${TYPE:-v5litepod-16}" --num-slices=1 --max-restarts=20 \
  --base-docker-image=python:3.12 --script-dir=. \
  --command="ln -sfn /runs runs && make train-tpu EXP=$experiment ARGS='--coordinator auto $*'"
