#!/bin/sh
# Makes .venv hold exactly what pyproject.toml and constraints.txt ask for, or finds that it does and is done at once.
#
#   tools/setup.sh run    what `pierhead` needs
#   tools/setup.sh dev    that, and what tests and checks need
#
# PYTHON names the interpreter; without it the .venv that is there stays, else the newest suitable Python is taken.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Debian keeps ensurepip, without which a virtual environment has no pip, in a package of its own.
makes_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

choose_python() {
    first=
    for candidate in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
        suits "$candidate" || continue
        : "${first:=$candidate}"
        if makes_venv "$candidate"; then echo "$candidate"; return; fi
    done
    if [ -z "$first" ]; then
        say "No suitable Python: ${PYTHON:-python3} is missing or older than 3.11. Name one: make PYTHON=/path/to/python3.12"
        exit 1
    fi
    install_venv_for "$first"
    echo "$first"
}

install_venv_for() {
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "$1 cannot make virtual environments yet: installing $package"
        tools/apt-install.sh "$package" >/dev/null || true
    fi
    if ! makes_venv "$1"; then
        say "$1 cannot make virtual environments: sudo apt-get install $package"
        exit 1
    fi
}

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null || true; }

# A .venv that was made in another place or by another interpreter is made anew: its programs name both.
make_venv() {
    if suits .venv/bin/python && grep -qsF "$(pwd -P)/.venv/bin/python" .venv/bin/pip; then
        if [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of .venv/bin/python)" ]; then return; fi
    fi
    python=$(choose_python)
    say "Setting up .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
}

wanted() { cat pyproject.toml constraints.txt tools/setup.sh | sha256sum; version_of .venv/bin/python; }

is_set_up() { [ -f ".venv/.$1-is" ] && [ "$(cat ".venv/.$1-is")" = "$(wanted)" ]; }

pip_install() { .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt "$@"; }

# The build backend comes from constraints.txt too, so it is installed beside the rest and not fetched afresh by pip.
install() {
    say "Installing the pinned dependencies ($1)"
    rm -f .venv/.run-is .venv/.dev-is
    pip_install hatchling editables
    case $1 in
        run) pip_install --no-build-isolation -e . ;;
        dev) pip_install --no-build-isolation -e '.[dev]'; wanted > .venv/.dev-is ;;
    esac
    # Python writes these itself, unless the environment forbids it; every command starts faster with them.
    .venv/bin/python -m compileall -q src
    wanted > .venv/.run-is
}

kind=${1:?run or dev}
# Two `make` of one clone at once: the second waits for the first and then finds everything done.
if command -v flock >/dev/null; then exec 9<.; flock 9; fi
make_venv
is_set_up "$kind" || install "$kind"
