# What `pierhead fleet check --ssh` runs on a node, as `sh -s [ROOT]`: it sends what K3s and RKE2 know of registries.
#
# It reads only; nothing is written on the node, not even a temporary file. Passwords stand in registries.yaml, which is
# sent whole; of config.yaml and the systemd units only four settings leave the node, so no token does, and of the files
# named as ca_file and cert_file only the certificates, so no private key does.
#
# POSIX sh with base64 (or openssl), awk, grep, head, sed and tr, as busybox has them. What it writes, line by line:
#   pierhead-node 1            the first line that counts: a login may print anything before it
#   file BASE64-OF-PATH        then the bytes as lines of base64, then a line with a dot
#   directory|missing|unreadable BASE64-OF-PATH
#   end
set -u
LC_ALL=C
export LC_ALL
root=${1-}
limit=8388609 # one byte more than is taken, so that it shows
files=512
settings='disable-default-registry-endpoint|embedded-registry|private-registry|data-dir'

echo 'pierhead-node 1'
if command -v base64 >/dev/null 2>&1; then
    encode() { base64; }
elif command -v openssl >/dev/null 2>&1; then
    encode() { openssl base64; }
else
    echo 'the node has neither base64 nor openssl' >&2
    exit 3
fi

say() { # WORD PATH
    printf '%s %s\n' "$1" "$(printf %s "$2" | encode | tr -d '\n')"
}

content() { # PATH; standard input is what it holds
    say file "$1"
    head -c "$limit" | encode
    echo .
}

state() { # PATH: whether it is a file that can be read; says so if not
    if [ -f "$root$1" ] && [ -r "$root$1" ]; then return 0; fi
    if [ -e "$root$1" ] || hidden "$1"; then say unreadable "$1"; else say missing "$1"; fi
    return 1
}

hidden() { # PATH: whether a folder above it may not be entered
    above=$root$1
    while above=${above%/*} && [ -n "$above" ]; do
        if [ -d "$above" ]; then
            if [ -x "$above" ]; then return 1; else return 0; fi
        fi
    done
    return 1
}

words() { # the settings on command lines, one a line
    sed "s/[\"'\\\\]/ /g" | awk '{
        for (i = 1; i <= NF; i++) {
            if (take != "") { print take "=" $i; take = ""; continue }
            if ($i ~ /^--?(private-registry|data-dir)$/) take = $i
            else if ($i ~ /^--?('"$settings"')(=.*)?$/) print $i
        }
    }'
}

setting() { # NAME: its value, from the command line, else from config.yaml
    printf '%s\n' "$arguments" | sed -n "s/^--*$1=//p" | tail -n 1 | grep . ||
        printf '%s\n' "$configured" | sed -n "s/^[\"']\{0,1\}$1[\"']\{0,1\}[[:space:]]*:[[:space:]]*//p" |
        sed -e 's/[[:space:]]#.*$//' -e 's/[[:space:]]*$//' -e "s/^[\"']//" -e "s/[\"']\$//" | tail -n 1
}

certificates_in() { # FILE: the absolute paths after ca_file and cert_file, one a line
    grep -oE "(ca_file|cert_file)[\"']?[[:space:]]*:[[:space:]]*(\"[^\"]*\"|'[^']*'|/[^,}#]*)" "$1" |
        sed -e 's/^[^:]*:[[:space:]]*//' -e 's/[[:space:]]*$//' -e "s/^[\"']//" -e "s/[\"']\$//" |
        grep '^/' | sort -u | head -n 64
}

program=k3s
for name in k3s rke2; do
    if [ -d "$root/etc/rancher/$name" ] || [ -d "$root/var/lib/rancher/$name" ]; then
        program=$name
        break
    fi
done
say directory "/etc/rancher/$program"

for binary in /usr/local/bin /opt/bin /usr/bin "/opt/$program/bin" "/var/lib/rancher/$program/bin"; do
    if [ -x "$root$binary/$program" ]; then
        "$root$binary/$program" --version </dev/null 2>/dev/null | head -n 1 | content k3s-version
        break
    fi
done

arguments=
seen=no
for unit in k3s k3s-agent rke2-server rke2-agent; do
    for folder in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system; do
        if [ -f "$root$folder/$unit.service" ] && [ -r "$root$folder/$unit.service" ]; then
            seen=yes
            arguments="$arguments
$(words <"$root$folder/$unit.service")"
            break
        fi
    done
done
if [ "$seen" = yes ]; then printf '%s\n' "$arguments" | content k3s-args; fi

configured=
for file in "/etc/rancher/$program/config.yaml" "$root/etc/rancher/$program/config.yaml.d"/*.yaml; do
    file=${file#"$root"}
    if [ -f "$root$file" ] && [ -r "$root$file" ]; then
        lines=$(grep -E "^[\"']?($settings)[\"']?[[:space:]]*:" "$root$file")
        printf '%s\n' "$lines" | content "$file"
        configured="$configured
$lines"
    fi
done

registries=$(setting private-registry)
registries=${registries:-/etc/rancher/$program/registries.yaml}
if state "$registries"; then
    content "$registries" <"$root$registries"
    certificates_in "$root$registries" | while IFS= read -r path; do
        if state "$path"; then
            sed -n '/-----BEGIN CERTIFICATE-----/,/-----END CERTIFICATE-----/p' "$root$path" | content "$path"
        fi
    done
fi

data=$(setting data-dir)
certs=${data:-/var/lib/rancher/$program}/agent/etc/containerd/certs.d
if [ -d "$root$certs" ] && [ -r "$root$certs" ] && [ -x "$root$certs" ]; then
    say directory "$certs"
    count=0
    for file in "$root$certs"/*/hosts.toml "$root$certs"/*/*/hosts.toml; do
        if [ ! -f "$file" ]; then continue; fi
        count=$((count + 1))
        if [ "$count" -gt "$files" ]; then
            echo "more than $files directories are below $certs" >&2
            exit 3
        fi
        path=${file#"$root"}
        if state "$path"; then content "$path" <"$file"; fi
    done
elif [ -e "$root$certs" ] || hidden "$certs"; then
    say unreadable "$certs"
else
    say missing "$certs"
fi
echo end
