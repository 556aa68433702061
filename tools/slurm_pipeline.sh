#!/usr/bin/env bash
# All stages of a recipe on the machines of a SLURM job. The repository, the datasets and --output
# lie on a file system that all of them share.
#
#   sbatch --nodes 4 --gpus-per-node 8 tools/slurm_pipeline.sh \
#     --recipe configs/voc/irnet/recipe.yaml --output output/voc_irnet [KEY VALUE ...]
#
# A job that was stopped goes on where it was when it is submitted again.
#SBATCH --job-name=wsis_d2
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --requeue
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export DIST_URL="tcp://$first:${PORT:-$((20000 + SLURM_JOB_ID % 20000))}"

# One process per machine, which starts those of its GPUs; where one machine fails, all end.
srun --kill-on-bad-exit=1 bash -c '
  exec "${PYTHON:-.venv/bin/python}" tools/run_pipeline.py \
    --num-gpus "${SLURM_GPUS_ON_NODE:-1}" --num-machines "$SLURM_NNODES" \
    --machine-rank "$SLURM_NODEID" --dist-url "$DIST_URL" --resume "$@"' bash "$@"
