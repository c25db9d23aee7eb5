#!/bin/sh
# Installs the real programs that tests run against (the table is tests/components.py), if this is Debian or Ubuntu and
# we are root. Elsewhere it does nothing: the tests then say what they miss.
#
# Some of these packages bring a service (a registry on port 5000, nginx on port 80, containerd) and start it. Tests
# start their own, as ordinary processes on free loopback ports, so the service of a package that was not here before
# is kept from starting now and from starting with the machine. One that was here before is left exactly as it is.
set -eu
cd "$(dirname "$0")/.."

missing() { .venv/bin/python tests/components.py; }

packages=$(missing)
[ -n "$packages" ] || exit 0
[ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null || exit 0

# Asked of the disk, not of systemctl, which says yes to everything where systemd does not run.
is_known() {
    for folder in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
        if [ -e "$folder/$1" ]; then return; fi
    done
    return 1
}

# The units of packages that are about to come; a unit that exists belongs to somebody else.
new_units() {
    for unit in docker-registry.service nginx.service containerd.service podman.service podman.socket \
        podman-restart.service podman-auto-update.service podman-auto-update.timer; do
        case " $(echo $packages) " in
            *" ${unit%%[.-]*}"*) is_known "$unit" || echo "$unit" ;;
        esac
    done
}

units=
if command -v systemctl >/dev/null; then units=$(new_units); fi

# Where systemd runs, a runtime mask keeps it from starting them; that is gone with the next boot, whatever happens here.
hold() {
    if [ -n "$units" ] && [ -d /run/systemd/system ]; then systemctl --runtime mask $units >/dev/null 2>&1 || true; fi
}

release() {
    [ -n "$units" ] || return 0
    systemctl --runtime unmask $units >/dev/null 2>&1 || true
    systemctl disable $units >/dev/null 2>&1 || true
}

trap release EXIT
hold
echo "Installing for the tests:" $packages >&2
# RUNLEVEL=1 tells System V's start-up scripts that this is no time to start a service.
RUNLEVEL=1 tools/apt-install.sh $packages >/dev/null || true
packages=$(missing)
if [ -n "$packages" ]; then echo "Could not be installed:" $packages >&2; fi
