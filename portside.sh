#!/bin/sh
# Runs the portside command from this checkout. On the first call, and after a change of
# pyproject.toml, it makes .venv with the package's dependencies, and as root on Debian and
# Ubuntu installs the system packages that are missing.
here=$(dirname "$0")
case $0 in */*) [ ! -L "$0" ] || here=$(dirname "$(readlink -f "$0")") ;; *) here=$(dirname "$(command -v "$0")") ;; esac
case $here in /*) ;; *) here=$PWD/$here ;; esac
if [ "$here/.venv/ready" -nt "$here/pyproject.toml" ]; then
    PORTSIDE_CALLED=$0 exec "$here/.venv/bin/python" -I -S "$here/portside/__main__.py" "$@"
fi
. "$here/setup.sh" && setup_portside || exit
PORTSIDE_CALLED=$0 exec "$here/.venv/bin/python" -I -S "$here/portside/__main__.py" "$@"
