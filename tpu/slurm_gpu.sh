#!/usr/bin/env bash
# NVIDIA GPUs under Slurm, one process a GPU, in a checkout that all nodes see:     sbatch tpu/slurm_gpu.sh grpo_answer --mesh.fsdp 16
# First, once:     make setup && .venv/bin/pip install -r requirements-gpu.txt
# A job that is requeued goes on from its newest checkpoint.
#SBATCH --job-name=mr1jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --output=%x-%j.out
set -euo pipefail
srun .venv/bin/mr1jax train "$1" --coordinator auto "${@:2}"
