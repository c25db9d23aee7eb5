#!/bin/sh
# apt-get install, politely: nothing is asked, no running service is restarted, locks are waited for, the package lists
# are fetched only if the ones at hand are not enough.
set -eu

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1

apt() { apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"; }

install() { apt install -qq -y --no-install-recommends "$@" </dev/null; }

# The lists have a lock of their own, for which apt-get does not wait.
update() {
    for attempt in 1 2 3 4 5 6; do
        if apt update -qq; then return; fi
        [ "$attempt" = 6 ] || sleep 5
    done
    return 1
}

# Two clones at once: the second waits, then finds nothing left to do.
if command -v flock >/dev/null && [ -f /etc/debian_version ]; then exec 8</etc/debian_version; flock 8; fi
if apt install -qq --simulate --no-install-recommends "$@" >/dev/null 2>&1 && install "$@"; then exit 0; fi
update && install "$@"
