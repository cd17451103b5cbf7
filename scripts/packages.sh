#!/usr/bin/env bash
# Installs the servers and clients that demo, suites and benchmark run, where they are missing. Nothing is started.
# What building needs is prereqs.sh's business.
set -euo pipefail

packages=(
    postgresql-15 haproxy pgbouncer openssl
    python3 python3-psycopg python3-psycopg2 python3-asyncpg
)

missing=()
for package in "${packages[@]}"; do
    if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$'; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "missing: ${missing[*]}" >&2
    echo "install them (root and Debian's apt-get would have done it here), or their counterparts of your system" >&2
    exit 1
fi

echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Debian starts a server as it installs it, unless this file says no.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
