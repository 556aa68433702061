#!/usr/bin/env bash
# Set-up, then style and the whole test suite; arguments go to pytest (`-m "not slow"`, a path, ...).
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup_env.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest "$@"
