#!/usr/bin/env bash
# What only a GPU can show: tests/gpu and the benchmarks, in one JSON file.
#   bash tools/gpu_check.sh FILE.json [arguments of pytest, such as -m "not slow"]
# $PYTHON is the interpreter; by default that of tools/setup_env.sh, or python3 where it has not run.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "error: name the JSON file to write: bash tools/gpu_check.sh FILE.json" >&2
    exit 2
fi
output=$(realpath -m "$1")
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: $python finds no CUDA device through PyTorch: run this on a machine that has a" \
        "GPU, its driver and a PyTorch built for CUDA" >&2
    exit 2
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Neither of the two stops the other: the file says what came of both.
"$python" -m pytest tests/gpu --junitxml "$folder/tests.xml" "$@" || true
"$python" tools/benchmark.py --device cuda --output "$folder/benchmarks.json" || true
exec "$python" tools/gpu_report.py "$folder" "$output"
