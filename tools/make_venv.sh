#!/usr/bin/env bash
# Make a virtual environment from a lock:
#   bash tools/make_venv.sh FOLDER           Python 3.10 and requirements.lock, the default stack
#   bash tools/make_venv.sh FOLDER modern    Python 3.12 and requirements-modern.lock, where
#                                            Detectron2 has no compiled operators
#   bash tools/make_venv.sh --find modern    only print which Python that would be
# A Python is looked for in $PYTHON310 or $PYTHON312, on PATH and under pyenv, then asked of uv.
# Exit status 2: there is no such Python, or FOLDER holds something else than an environment.
set -euo pipefail

usage="usage: make_venv.sh FOLDER|--find [pinned|modern]"
fail() {
    echo "make_venv.sh: $*" >&2
    exit 2
}

case ${1:-} in
    -h | --help)
        echo "$usage
FOLDER: the virtual environment; one that is there is made anew, another folder is refused
--find: only print which Python it would have
pinned: Python 3.10 and requirements.lock (default)
modern: Python 3.12 and requirements-modern.lock"
        exit 0
        ;;
    '' | -*) [ "${1:-}" = --find ] || fail "$usage" ;;
esac
[ $# -le 2 ] || fail "$usage"
venv=$1
stack=${2:-pinned}
case $stack in
    pinned) version=3.10 lock=requirements.lock ;;
    modern) version=3.12 lock=requirements-modern.lock ;;
    *) fail "$usage" ;;
esac
variable=PYTHON${version/./}

# It is removed below: it must be an environment, or nothing yet. Relative to where the caller is.
repository=$(cd "$(dirname "$0")/.." && pwd -P)
if [ "$venv" != --find ]; then
    case $venv in
        /*) ;;
        *) venv=$PWD/$venv ;;
    esac
    if [ -d "$venv" ]; then
        # Without . and .., which rm refuses.
        venv=$(cd "$venv" && pwd)
        shopt -s nullglob dotglob
        content=("$venv"/*)
        shopt -u nullglob dotglob
        if [ "${#content[@]}" -gt 0 ] && [ ! -f "$venv/pyvenv.cfg" ]; then
            fail "$venv: is no virtual environment (no pyvenv.cfg), expected one, or a new folder"
        fi
        case $repository/ in
            "$(cd "$venv" && pwd -P)"/*) fail "$venv: holds this repository, expected a new folder" ;;
        esac
    elif [ -e "$venv" ]; then
        fail "$venv: is no folder, expected a virtual environment, or a new folder"
    fi
fi
cd "$repository"

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

python=$(find_python) || fail "no Python $version found: install one (for example" \
    "'uv python install $version') or name one with $variable=/path/to/python$version"
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
