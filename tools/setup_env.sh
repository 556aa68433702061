#!/usr/bin/env bash
# Make .venv with everything that wsis_d2 needs, Detectron2 included. Safe to run again: it does only
# what is missing. Settings, by environment variable:
#   PYTHON           interpreter to make .venv with (default: python3), 3.10 or newer
#   DETECTRON2_SPEC  another Detectron2: any pip requirement, URL or path
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "error: $*" >&2; exit 2; }

PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null || fail "$PYTHON is not installed: install Python 3.10 or newer, or set PYTHON to one"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
  || fail "$("$PYTHON" --version) is too old: wsis_d2 needs Python 3.10 or newer (set PYTHON to one)"
"$PYTHON" -c 'import ensurepip' 2>/dev/null \
  || fail "$PYTHON has no venv module: install it (on Debian and Ubuntu: apt-get install python3-venv)"

# What the environment was made from; it is made anew where that has changed.
wanted=$(cat tools/requirements.txt tools/install_detectron2.py setup.py; echo "${DETECTRON2_SPEC:-}")
wanted=$(printf '%s' "$wanted" | "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [ -f .venv/complete ] && [ "$(cat .venv/complete)" = "$wanted" ]; then
  exit 0
fi

echo "setting up .venv (a few minutes: PyTorch is large) ..."
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
rm -f .venv/complete
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

log=.venv/setup.log
if ! pip install -r tools/requirements.txt >"$log" 2>&1; then
  tail -n 15 "$log" >&2
  if grep -qiE 'connection|resolve|timed out|No matching distribution' "$log"; then
    fail "pip could not get a package (see $PWD/$log): check the network and pip's index settings"
  elif grep -qiE 'gcc|cc1|compiler|Python\.h' "$log"; then
    fail "a package could not be compiled (see $PWD/$log): install a C compiler and Python's headers (apt-get install build-essential python3-dev)"
  fi
  fail "pip failed, see $PWD/$log"
fi
if [ -n "${DETECTRON2_SPEC:-}" ]; then
  pip install --no-build-isolation "$DETECTRON2_SPEC" >>"$log" 2>&1 \
    || { tail -n 15 "$log" >&2; fail "DETECTRON2_SPEC=$DETECTRON2_SPEC could not be installed, see $PWD/$log"; }
else
  .venv/bin/python tools/install_detectron2.py
fi
# Without dependencies: requirements.txt has them all, with the headless build of OpenCV.
pip install --no-deps --no-build-isolation --editable . >>"$log" 2>&1 \
  || { tail -n 15 "$log" >&2; fail "the package itself could not be installed, see $PWD/$log"; }
.venv/bin/python -W ignore -c 'import wsis_d2' || fail "wsis_d2 was installed but does not import, see above"
printf '%s' "$wanted" >.venv/complete
echo "ready: source .venv/bin/activate"
