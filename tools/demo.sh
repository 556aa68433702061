#!/usr/bin/env bash
# The whole job: set-up, classifier, pseudo masks, Mask R-CNN, report.
# On the built-in Shapes benchmark, which is drawn first:
#   bash tools/demo.sh [--method wise|irnet|affinitynet|all] [--seed S] [--output DIR] [--num-gpus N]
# On your own photographs, with MobileNetV2 and ImageNet weights:
#   bash tools/demo.sh --photos DIR --labels FILE [the same options] [KEY VALUE ...]
set -euo pipefail
cd_from=$PWD
cd "$(dirname "$0")/.."

fail() { echo "error: $*" >&2; exit 2; }

method=irnet seed=0 output= gpus=1 photos= labels=
while [ $# -gt 0 ]; do
  case $1 in
    --method) method=${2:?--method needs a name}; shift 2 ;;
    --seed) seed=${2:?--seed needs a number}; shift 2 ;;
    --output) output=${2:?--output needs a folder}; shift 2 ;;
    --num-gpus) gpus=${2:?--num-gpus needs a number}; shift 2 ;;
    --photos) photos=${2:?--photos needs a folder}; shift 2 ;;
    --labels) labels=${2:?--labels needs a file}; shift 2 ;;
    --*) fail "unknown argument $1: use --photos DIR, --labels FILE, --method M, --seed S, --output DIR or --num-gpus N" ;;
    *) break ;;
  esac
done
case $method in
  wise | irnet | affinitynet) methods=$method ;;
  all) methods="irnet affinitynet wise" ;;
  *) fail "unknown method $method: use wise, irnet, affinitynet or all" ;;
esac

# Paths are the caller's.
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s' "$cd_from/$1" ;; esac; }
if [ -n "$photos" ]; then
  photos=$(absolute "$photos")
  [ -d "$photos" ] || fail "--photos $photos is no folder"
  if [ -n "$labels" ]; then
    labels=$(absolute "$labels")
    [ -f "$labels" ] || fail "--labels $labels does not exist: give a CSV with the columns file_name and labels, or a COCO JSON"
  fi
  output=${output:+$(absolute "$output")}
  output=${output:-output/photos_seed$seed}
elif [ -n "$labels" ] || [ $# -gt 0 ]; then
  fail "--labels and KEY VALUE options go with --photos DIR"
else
  output=${output:-output/shapes_seed$seed}
fi

bash tools/setup_env.sh
# Detectron2's imports raise this once in every process.
export PYTHONWARNINGS='ignore:`torch.jit.script` is deprecated:FutureWarning'
run() { # recipe, output folder, options
  .venv/bin/python tools/run_pipeline.py --recipe "$1" --output "$2" --num-gpus "$gpus" --resume \
    SEED "$seed" "${@:3}"
}
if [ -n "$photos" ]; then
  for m in $methods; do
    run "configs/own/${m}_mobile/recipe.yaml" "$output/$m" \
      DATASETS.OWN_TRAIN.IMAGE_ROOT "$photos" DATASETS.OWN_TRAIN.LABELS "$labels" "$@"
  done
  exit
fi
# Each seed has its own pictures, beside its results.
export DETECTRON2_DATASETS=$output/datasets
.venv/bin/python tools/prepare_shapes.py --output "$DETECTRON2_DATASETS/shapes" \
  --num-train 600 --num-val 200 --seed "$seed"
for m in $methods; do
  run "configs/shapes/$m/recipe.yaml" "$output/$m"
done
