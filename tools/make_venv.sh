#!/usr/bin/env bash
# Make a virtual environment from requirements.lock: bash tools/make_venv.sh FOLDER
# Python 3.10 is looked for in $PYTHON310, on PATH and under pyenv, then asked of uv.
set -euo pipefail

venv=${1:?usage: make_venv.sh FOLDER}
cd "$(dirname "$0")/.."

# A shim can exist and fail, so every candidate is run.
is_python310() {
    "$1" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1
}

find_python310() {
    local candidate
    for candidate in "${PYTHON310:-}" python3.10 "$HOME"/.pyenv/versions/3.10.*/bin/python3.10 \
        python3; do
        if [ -n "$candidate" ] && is_python310 "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    if command -v uv >/dev/null 2>&1 && uv python install --quiet 3.10 >/dev/null 2>&1; then
        candidate=$(uv python find 3.10 2>/dev/null) && is_python310 "$candidate" && {
            echo "$candidate"
            return 0
        }
    fi
    return 1
}

python=$(find_python310) || {
    echo "make_venv.sh: no Python 3.10 found: install one (for example 'uv python install 3.10')" \
        "or name one with PYTHON310=/path/to/python3.10" >&2
    exit 2
}

rm -rf "$venv"
if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then
    uv venv --quiet --python "$python" "$venv"
    uv pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements.lock
    uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
else
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r requirements.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation -e .
fi
# Last, so that an installation that was interrupted is made again.
touch "$venv/.complete"
