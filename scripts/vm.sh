#!/usr/bin/env bash
# Boots a Debian kernel in qemu, with systemd as PID 1 and unified cgroups, and runs end-to-end suites there:
#
#   vm.sh SERIES CHAPERONE E2E SUITE...      SERIES: 5.10, 6.1, 6.12, ... or `newest`
#
# `cargo xtask vm` builds the two programs and calls this. Everything runs from memory (an initramfs), nothing needs
# modules or a disk, and qemu interprets: hardware virtualisation is not there on every machine this runs on. What is
# made once (root file system, kernels) is kept in ~/.cache/chaperone/vm.
set -euo pipefail

series=$1 chaperone=$2 e2e=$3
shift 3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/chaperone/vm
mkdir -p "$cache"
work=$(mktemp -d "${TMPDIR:-/tmp}/chaperone-vm.XXXXXX")
trap 'rm -rf "$work"' EXIT
release=$(. /etc/os-release && echo "${VERSION_CODENAME:?this needs Debian}")

need=()
for pair in qemu-system-x86_64=qemu-system-x86 mmdebstrap=mmdebstrap cpio=cpio depmod=kmod; do
    command -v "${pair%%=*}" >/dev/null || need+=("${pair##*=}")
done
if [ ${#need[@]} -gt 0 ]; then
    echo "installing ${need[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${need[@]}"
fi

# The newest kernel of the series that the configured suites have. What no current one has comes from other suites of the
# same archive: 5.10 from the oldest that is still kept, newer ones than the release's from the backports of the next.
kernel_package() {
    local pattern='^linux-image-[0-9][^ ]*-cloud-amd64$' names
    names=$("${apt_cache[@]}" search --names-only "$pattern" | cut -d' ' -f1 | grep -E '^linux-image-[0-9.]+[-+].*[0-9]')
    if [ "$series" != newest ]; then
        names=$(grep -E "^linux-image-${series//./\\.}[.+]" <<<"$names" || true)
    fi
    sort -V <<<"$names" | tail -1
}
apt_cache=(apt-cache)
apt_get=(apt-get)
package=
[ "$series" = newest ] || package=$(kernel_package)
if [ -z "$package" ]; then
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 'debian$')
    mkdir -p "$work"/apt/{lists/partial,cache/archives/partial}
    suites=(trixie-backports)
    [ "$series" != 5.10 ] || suites=(bullseye bullseye-security)
    for suite in "${suites[@]}"; do
        site=$mirror
        [[ $suite != *-security ]] || site=$mirror-security
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main"
    done >"$work/apt/sources.list"
    private=(-o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache")
    apt_cache=(apt-cache "${private[@]}")
    apt_get=(apt-get "${private[@]}")
    "${apt_get[@]}" -q update
    package=$(kernel_package)
fi
[ -n "$package" ] || { echo "no kernel of series $series is offered" >&2; exit 1; }
kernel=$cache/$package
if [ ! -e "$kernel/vmlinuz" ]; then
    echo "fetching $package"
    # Newer packages only depend on those with the image and the modules.
    version=${package#linux-image-}
    mapfile -t parts < <("${apt_cache[@]}" depends "$package" |
        grep -oE "linux-(base|binary|modules)-${version//[+.]/.}\$" | sort -u)
    (cd "$work" && "${apt_get[@]}" -q download "$package" "${parts[@]}")
    rm -rf "$kernel.new"
    for deb in "$work"/linux-*.deb; do dpkg-deb -x "$deb" "$kernel.new"; done
    if [ ! -d "$kernel.new/lib/modules" ]; then
        mv "$kernel.new/usr/lib" "$kernel.new/lib"
    fi
    depmod -b "$kernel.new" "$(ls "$kernel.new/lib/modules")"
    find "$kernel.new" -type f -name 'vmlinuz*' -exec mv {} "$kernel.new/vmlinuz" \;
    mv "$kernel.new" "$kernel"
fi

root=$cache/root-$release-4.cpio
if [ ! -e "$root" ]; then
    echo "making the root file system"
    mmdebstrap --quiet --variant=minbase --skip=cleanup/apt \
        --include=systemd,systemd-sysv,dbus,kmod,iproute2,nftables,procps,util-linux,openssl,postgresql-15 \
        --include=python3,python3-psycopg,python3-psycopg2,python3-asyncpg,python3-sqlalchemy,python3-django \
        --include=runc,gcc,libc6-dev,perl,openssh-server,openssh-client,rsync,git \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/llvm-*' \
        --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/lib/postgresql/15' \
        --customize-hook='chroot "$1" systemctl mask postgresql.service systemd-timesyncd.service apt-daily.timer' \
        --customize-hook='ln -s /lib/systemd/systemd "$1"/init' \
        "$release" "$work/root.tar"
    mkdir "$work/root"
    tar -C "$work/root" -xf "$work/root.tar"
    (cd "$work/root" && find . | cpio --quiet -o -H newc) >"$root.new"
    mv "$root.new" "$root"
    rm -rf "$work/root" "$work/root.tar"
fi

# What differs from run to run: modules, programs, and the service that runs the suites.
extra=$work/extra
mkdir -p "$extra"/{lib,opt/chaperone,etc/systemd/system/multi-user.target.wants}
mkdir -p "$extra/usr/lib/modules"
cp -r "$kernel/lib/modules/." "$extra/usr/lib/modules/"
rm -rf "$extra"/usr/lib/modules/*/kernel/drivers/{gpu,scsi,md,infiniband,nvme,ata,hv,xen} \
    "$extra"/usr/lib/modules/*/kernel/fs/{xfs,btrfs,ceph,nfs,cifs,f2fs,ocfs2,gfs2}
rmdir "$extra/lib"
cp "$chaperone" "$extra/opt/chaperone/chaperone"
cp "$e2e" "$extra/opt/chaperone/e2e"
strip --strip-debug "$extra"/opt/chaperone/*
cat >"$extra/opt/chaperone/run" <<SCRIPT
#!/bin/bash
export CHAPERONE_BIN=/opt/chaperone/chaperone CHAPERONE_ROOT=/opt/chaperone HOME=/root CHAPERONE_E2E_SLOWNESS=10
# Fewer of the many connects at once: each takes long here.
export CHAPERONE_E2E_STORM=2000
ip link set lo up
uname -r
if [ "\$(uname -r | cut -d. -f1-2)" = 5.10 ]; then
    mkdir -p /etc/chaperone/policy
    printf '@id("none")\nforbid(principal, action, resource);\n' >/etc/chaperone/policy/none.cedar
    : >/etc/chaperone/chaperone.toml
    \$CHAPERONE_BIN run; echo "VM: run ended with status \$?"
    \$CHAPERONE_BIN doctor
    echo "VM: failed:"
    exit
fi
\$CHAPERONE_BIN --config /nonexistent doctor
failed=
for suite in $*; do
    # A suite, or suite/word for the cases whose names hold the word.
    /opt/chaperone/e2e suite \${suite/\// } || failed="\$failed \$suite"
done
echo "VM: failed:\$failed"
SCRIPT
chmod +x "$extra/opt/chaperone/run"
cat >"$extra/etc/systemd/system/suites.service" <<'UNIT'
[Unit]
Description=Chaperone's end-to-end suites
After=multi-user.target
[Service]
Type=oneshot
# The suites play the operator, whose shell is here; the rest of the host is governed.
Slice=user.slice
ExecStart=/opt/chaperone/run
ExecStopPost=/bin/systemctl poweroff --force --force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
UNIT
# The first root file system cannot be left, which runc wants to do for a container. So systemd starts in another one.
cat >"$extra/init" <<'SCRIPT'
#!/bin/sh
mount -t tmpfs -o size=90%,mode=0755 root /mnt
cp -ax /bin /sbin /lib /lib64 /etc /usr /opt /root /var /mnt
mkdir -p /mnt/proc /mnt/sys /mnt/dev /mnt/run /mnt/tmp /mnt/mnt /mnt/home
chmod 1777 /mnt/tmp
exec switch_root /mnt /lib/systemd/systemd
SCRIPT
chmod +x "$extra/init"
ln -s ../suites.service "$extra/etc/systemd/system/multi-user.target.wants/suites.service"
sed -i 's/^After=multi-user.target$/After=basic.target/' "$extra/etc/systemd/system/suites.service"
(cd "$extra" && find . | cpio --quiet -o -H newc) >"$work/extra.cpio"
cat "$root" "$work/extra.cpio" >"$work/initrd"

echo "booting $package"
timeout "${VM_TIMEOUT:-3000}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "${VM_MEMORY:-2900}" \
    -kernel "$kernel/vmlinuz" -initrd "$work/initrd" -nographic -no-reboot -nic none \
    -append 'console=ttyS0 panic=-1 quiet loglevel=4 systemd.show_status=no systemd.unified_cgroup_hierarchy=1' \
    </dev/null | stdbuf -oL tr -d '\r' | tee "$work/console"
result=$(grep -a '^VM: failed:' "$work/console" || true)
[ -n "$result" ] || { echo "the suites did not come to their end" >&2; exit 1; }
if [ "$series" = 5.10 ]; then
    grep -aq 'older than 5.15' "$work/console" && grep -aqE 'VM: run ended with status [12]' "$work/console" ||
        { echo "5.10 was not refused as it should be" >&2; exit 1; }
    echo "refused, as it should be"
elif [ "$result" != 'VM: failed:' ]; then
    echo "$result" >&2
    exit 1
fi
