# Sourced by ./portside and ./test, with $here set to the checkout: prepares a machine.
#
# setup_portside   .venv with the package and its dependencies, system packages it needs
# setup_tests      the same for the tests
#
# As root on Debian and Ubuntu missing packages are installed; elsewhere they are named.
# Both are quick when there is nothing to do, and safe to be called twice at once.

say() { printf '%s\n' "$*" >&2; }

has_library() { # soname
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -q -F "$1 "
}

has_command() { # name
    PATH=$PATH:/sbin:/usr/sbin command -v "$1" >/dev/null 2>&1
}

# Root's environment is for every user of the checkout, so its interpreter must not lie where
# they cannot enter (/root/.pyenv). Status 1: too old or incomplete, 2: not for others.
check_python='
import os, sys, venv, ensurepip
if sys.version_info < (3, 11): sys.exit(1)
def closed(path):
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 1: return True
ours = [os.path.realpath(sys.executable), os.path.realpath(os.__file__)]
sys.exit(2 if not os.geteuid() and not closed(sys.argv[1] + "/x") and any(map(closed, ours)) else 0)
'

find_python() { # sets $python to an interpreter that is new enough and can make environments
    for accepted in 0 2; do
        for python in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
            # in a condition: ./package has set -e
            if "$python" -c "$check_python" "$here" 2>/dev/null; then found=0; else found=$?; fi
            [ "$found" -ne "$accepted" ] || return 0
        done
    done
    return 1
}

python_packages() { # what Debian and Ubuntu call an interpreter of 3.11 or newer
    if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        ! has_command apt-get; then
        echo python3 python3-venv
        return
    fi
    version=$(apt-cache policy python3 2>/dev/null | sed -n 's/ *Candidate: \([0-9]*\.[0-9]*\).*/\1/p')
    case $version in
    3.[0-9] | 3.10) echo python3.11 python3.11-venv ;;
    *) echo python3 python3-venv ;;
    esac
}

missing_for_portside() {
    find_python || python_packages
    [ -x /bin/busybox ] || [ -x /usr/bin/busybox ] || echo busybox-static
    [ -x /usr/bin/docker-init ] || [ -x /usr/bin/tini-static ] || echo tini
    has_library libseccomp.so.2 || echo libseccomp2
    ! grep -q Y /sys/module/apparmor/parameters/enabled 2>/dev/null ||
        has_command apparmor_parser || echo apparmor
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] ||
        echo ca-certificates
}

missing_for_tests() {
    has_command dockerd || echo docker.io
    if ! has_command docker && ! has_command dockerd &&
        apt-cache show docker-cli >/dev/null 2>&1; then
        echo docker-cli # a package of its own from Debian 13 on
    fi
    has_command runc || echo runc
    has_command crun || echo crun
    has_command skopeo || echo skopeo
    has_command podman || echo podman
    has_command docker-registry || echo docker-registry
    has_command mmdebstrap || echo mmdebstrap
    has_command nft || echo nftables
    has_command ip || echo iproute2
    has_command htpasswd || echo apache2-utils
    has_command openssl || echo openssl
    has_command mkfs.ext4 || echo e2fsprogs
    has_command unshare && has_command nsenter || echo util-linux
    has_command newuidmap || echo uidmap
    has_command pasta || has_command slirp4netns || echo passt
    [ -x /lib/systemd/systemd ] || echo systemd
    [ -e /usr/lib/systemd/user/dbus.socket ] || echo dbus-user-session
    if ! has_command chromium || ! has_command chromedriver; then
        # Debian's; Ubuntu has another way to get it
        apt-cache show chromium-driver >/dev/null 2>&1 && echo chromium chromium-driver
    fi
}

# Runs a command quietly: what it says goes to a file, of which the errors of apt-get or, without
# these, the end is shown when it fails.
quietly() { # command...
    said=$(mktemp) || return 1
    "$@" </dev/null >"$said" 2>&1
    status=$?
    [ $status -eq 0 ] || { grep '^E: ' "$said" | head -n 3 | grep . || tail -n 20 "$said"; } >&2
    rm -f "$said"
    return $status
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 --no-install-recommends "$@"
}

# No service may start because its package came: others may use this machine.
without_services() { # command...
    policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
    "$@"
    status=$?
    rm -f $policy
    return $status
}

install_packages() { # names...; returns 1 when it cannot
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! has_command apt-get; then
        say "These packages are missing: $*"
        if has_command apt-get; then
            say "Install them with:  sudo apt-get install $*"
        else
            say "(their names on Debian; install what your system calls them)"
        fi
        return 1
    fi
    say "portside: installing packages: $*"
    quietly without_services apt install "$@" 2>/dev/null || {
        say "portside: updating the list of packages"
        quietly apt update && quietly without_services apt install "$@"
    }
}

pip_install() { # what...; one line when the package index cannot be reached
    said=$(mktemp) || return 1
    PIP_RETRIES=${PIP_RETRIES:-2} "$here/.venv/bin/python" -m pip install -q \
        --disable-pip-version-check "$@" </dev/null >"$said" 2>&1
    status=$?
    if [ $status -ne 0 ] && grep -q 'connection broken by' "$said"; then
        say "portside: the Python package index cannot be reached: check the network, or name" \
            "another index in PIP_INDEX_URL"
    elif [ $status -ne 0 ]; then
        tail -n 20 "$said" >&2
    fi
    rm -f "$said"
    return $status
}

make_environment() { # extra, stamp
    (
        [ "$(id -u)" -ne 0 ] || umask 022 # for every user of the checkout
        mkdir -p "$here/.venv" || exit 1
        exec 9>"$here/.venv/lock"
        ! has_command flock || flock 9
        # Another call may have done it while this one waited for the lock.
        if [ "$here/.venv/$2" -nt "$here/pyproject.toml" ]; then exit 0; fi
        find_python || { say "Python 3.11 or newer is needed."; exit 1; }
        say "portside: installing Python packages in $here/.venv"
        "$here/.venv/bin/python" -m pip --version >/dev/null 2>&1 ||
            "$python" -m venv --clear "$here/.venv" || exit 1
        pip_install -e "$here$1" || exit 1
        touch "$here/.venv/$2"
    )
}

setup_portside() {
    say "portside: preparing for the first call (about a minute)"
    # shellcheck disable=SC2046 # names of packages, one word each
    install_packages $(missing_for_portside) && make_environment "" ready || {
        say "portside: not ready: see the messages above, then call it again"
        return 1
    }
}

portside_is_ready() { # as it is, or made so
    [ "$here/.venv/ready" -nt "$here/pyproject.toml" ] || setup_portside
}

setup_tests() {
    portside_is_ready || return 1
    # shellcheck disable=SC2046
    install_packages $(missing_for_tests) ||
        say "Tests that need a missing program say so and are skipped."
    [ "$here/.venv/ready-tests" -nt "$here/pyproject.toml" ] ||
        make_environment "[test]" ready-tests
}
