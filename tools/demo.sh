#!/usr/bin/env bash
# The whole job on the built-in Shapes benchmark: set-up, data, classifier, pseudo masks, Mask R-CNN,
# report.
# Usage: bash tools/demo.sh [--method wise|irnet|affinitynet|all] [--seed S] [--output DIR]
#                           [--num-gpus N]
set -euo pipefail
cd "$(dirname "$0")/.."

method=irnet seed=0 output= gpus=1
while [ $# -gt 0 ]; do
  case $1 in
    --method) method=${2:?--method needs a name}; shift 2 ;;
    --seed) seed=${2:?--seed needs a number}; shift 2 ;;
    --output) output=${2:?--output needs a folder}; shift 2 ;;
    --num-gpus) gpus=${2:?--num-gpus needs a number}; shift 2 ;;
    *) echo "error: unknown argument $1: use --method M, --seed S, --output DIR or --num-gpus N" >&2
       exit 2 ;;
  esac
done
case $method in
  wise | irnet | affinitynet) methods=$method ;;
  all) methods="irnet affinitynet wise" ;;
  *) echo "error: unknown method $method: use wise, irnet, affinitynet or all" >&2; exit 2 ;;
esac
output=${output:-output/shapes_seed$seed}

bash tools/setup_env.sh
# Detectron2's imports raise this once in every process.
export PYTHONWARNINGS='ignore:`torch.jit.script` is deprecated:FutureWarning'
# Each seed has its own pictures, beside its results.
export DETECTRON2_DATASETS=$output/datasets
.venv/bin/python tools/prepare_shapes.py --output "$DETECTRON2_DATASETS/shapes" \
  --num-train 600 --num-val 200 --seed "$seed"
for m in $methods; do
  .venv/bin/python tools/run_pipeline.py --recipe "configs/shapes/$m/recipe.yaml" \
    --output "$output/$m" --num-gpus "$gpus" --resume SEED "$seed"
done
