#!/usr/bin/env bash
# Set-up, then style and the whole test suite; arguments go to pytest (`-m "not slow"`, a path, ...).
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup_env.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# One process per core; the tests of a file share their fixtures. Files come in the order of
# tests/conftest.py, the slow ones first.
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile \
  --no-loadscope-reorder "$@"
