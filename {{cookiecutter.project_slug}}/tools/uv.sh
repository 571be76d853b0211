#!/bin/sh
# Runs uv with the arguments given. Where uv is missing it is installed first, beside the project
# (into .uv, or $UV_HOME), so that nothing else of the machine changes.
set -eu

if uv --version >/dev/null 2>&1; then
    exec uv "$@"
fi
home=${UV_HOME:-$(cd "$(dirname "$0")/.." && pwd)/.uv}
if [ ! -x "$home/bin/uv" ]; then
    echo "uv is not installed; putting it into $home" >&2
    # A virtual environment where Python has the module for it; else pip alone (Debian splits
    # python3-venv off); --target is allowed where the system's own packages are protected.
    if python3 -m venv "$home" >/dev/null 2>&1 &&
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check uv; then
        :
    else
        rm -rf "$home"
        python3 -m pip install --quiet --disable-pip-version-check --target "$home" uv || {
            rm -rf "$home"
            echo "Could not install uv: python3 has neither venv nor pip. Install uv, then try again." >&2
            exit 1
        }
    fi
fi
exec "$home/bin/uv" "$@"
