#!/usr/bin/env bash
# Make a virtual environment from a lock:
#   bash tools/make_venv.sh FOLDER           Python 3.10 and requirements.lock, the default stack
#   bash tools/make_venv.sh FOLDER modern    Python 3.12 and requirements-modern.lock, where
#                                            Detectron2 has no compiled operators
#   bash tools/make_venv.sh --find modern    only print which Python that would be
# A Python is looked for in $PYTHON310 or $PYTHON312, on PATH and under pyenv, then asked of uv.
# Exit status 2: there is no such Python.
set -euo pipefail

usage="usage: make_venv.sh FOLDER|--find [pinned|modern]"
venv=${1:?$usage}
stack=${2:-pinned}
cd "$(dirname "$0")/.."
case $stack in
    pinned) version=3.10 lock=requirements.lock ;;
    modern) version=3.12 lock=requirements-modern.lock ;;
    *) echo "$usage" >&2; exit 1 ;;
esac
variable=PYTHON${version/./}

# A shim can exist and fail, so every candidate is run.
is_wanted() {
    "$1" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" \
        >/dev/null 2>&1
}

has_uv() {
    command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in "${!variable:-}" "python$version" \
        "$HOME"/.pyenv/versions/"$version".*/bin/"python$version" python3; do
        if [ -n "$candidate" ] && is_wanted "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    if has_uv && uv python install --quiet "$version" >/dev/null 2>&1; then
        candidate=$(uv python find "$version" 2>/dev/null) && is_wanted "$candidate" && {
            echo "$candidate"
            return 0
        }
    fi
    return 1
}

python=$(find_python) || {
    echo "make_venv.sh: no Python $version found: install one (for example" \
        "'uv python install $version') or name one with $variable=/path/to/python$version" >&2
    exit 2
}
if [ "$venv" = --find ]; then
    echo "$python"
    exit 0
fi

install() {
    if has_uv; then
        uv pip install --quiet --python "$venv/bin/python" "$@"
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    fi
}

# The lines of requirements.lock about a package: its version and its hashes.
pin() {
    sed -n "/^$1==/,/^ *#/p" requirements.lock
}

# What the modern lock cannot hold, as pinned in the other one. Detectron2's wheel is for Python
# 3.10 only because of its operators; panopticapi-lite asks for numpy 1 and runs on numpy 2.
install_without_bounds() {
    local work
    work=$(mktemp -d)
    # Expanded now: the variable is local, and gone when the trap runs.
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    pin sal-detectron2 >"$work/detectron2.txt"
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --python-version 3.10 --implementation cp --require-hashes \
        --dest "$work" -r "$work/detectron2.txt"
    "$venv/bin/python" tools/stack/repack_detectron2.py "$work"/sal_detectron2-*.whl "$work/new" \
        >/dev/null
    install --no-deps "$work"/new/*.whl
    pin panopticapi-lite >"$work/panopticapi.txt"
    install --no-deps --require-hashes -r "$work/panopticapi.txt"
}

rm -rf "$venv"
if has_uv; then
    uv venv --quiet --python "$python" "$venv"
else
    "$python" -m venv "$venv"
fi
install --require-hashes -r "$lock"
if [ "$stack" = modern ]; then
    install_without_bounds
fi
install --no-deps --no-build-isolation -e .
# Last, so that an installation that was interrupted is made again.
touch "$venv/.complete"
