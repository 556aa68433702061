#!/usr/bin/env bash
# Pseudo labels by an array of SLURM jobs that know nothing of each other: each labels its shard of
# the images. They share the file system of --output.
#
#   sbatch --array 0-63 tools/slurm_shards.sh \
#     --config-file configs/voc/wise/pseudo_labels.yaml --output output/labels.json [KEY VALUE ...]
#
# Submitted again, it makes what is missing. When all are done, one command makes the file:
#
#   python tools/make_pseudo_labels.py --merge-shards 64 --config-file ... (the same arguments)
#SBATCH --job-name=wsis_d2_shards
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
set -euo pipefail

exec "${PYTHON:-.venv/bin/python}" tools/make_pseudo_labels.py \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --resume "$@"
