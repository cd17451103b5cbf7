#!/usr/bin/env bash
# Installs what building needs, where it is missing: a C compiler, libelf, zlib, libclang, bpf-linker, and a Rust
# compiler with a core library for BPF. Which of the ways to the last was chosen is written to ebpf.env in the tools
# directory ($CHAPERONE_TOOLS, else ${XDG_CACHE_HOME:-$HOME/.cache}/chaperone); `cargo xtask build` reads it there.
#
# Shell, because a bare machine has no linker and so cannot build xtask. What is there already is left alone: a second
# run takes well under a second. Servers for the tests are packages.sh's business.
set -euo pipefail
cd "$(dirname "$0")/.."

# The last version that uses the compiler's own LLVM; later ones want LLVM's development files.
LINKER_VERSION=0.10.3
# LLVM of the compilers this linker can read the output of.
LLVM_MAJOR=22
TARGET=bpfel-unknown-none

TOOLS=${CHAPERONE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/chaperone}
ENV_FILE=$TOOLS/ebpf.env

say() { echo "prereqs: $*" >&2; }
die() {
    say "$*"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# --- packages ---------------------------------------------------------------------------------------------------

can_apt() { have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

APT_READY=
apt_install() {
    if [ -z "$APT_READY" ]; then
        as_root apt-get update -q >&2 || say "apt-get update failed; trying with the lists that are there"
        APT_READY=1
    fi
    say "installing $*"
    # --no-remove: never trade away a compiler somebody chose.
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends --no-remove "$@" >&2
}

# need CHECK PACKAGE: installs Debian's PACKAGE when CHECK fails, and says so where that is not possible.
MISSING=()
need() {
    local check=$1
    shift
    if eval "$check" >/dev/null 2>&1; then return; fi
    if can_apt && apt_install "$@" && eval "$check" >/dev/null 2>&1; then return; fi
    MISSING+=("$*")
}

header() { echo "#include <$1>" | cc -E - >/dev/null; }

base() {
    need 'have cc' gcc libc6-dev
    need 'have make' make
    need 'have pkg-config' pkg-config
    need 'header libelf.h' libelf-dev
    need 'header zlib.h' zlib1g-dev
    need 'has_libclang' libclang1
    # Which compiler's headers depends on which libclang that was.
    need 'has_clang_headers' "libclang-common-$(clang_major)-dev"
    if [ ${#MISSING[@]} -gt 0 ]; then
        die "please install these Debian packages, or their counterparts of your system: ${MISSING[*]}"
    fi
    have cargo || die "please install Rust with rustup (https://rustup.rs); rust-toolchain.toml names the version"
}

# Not libclang-cpp, which comes with the compiler and has another interface.
libclangs() { compgen -G '/usr/lib/llvm-*/lib/libclang.so*' || compgen -G '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*'; }

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || ldconfig -p | grep -qE 'libclang(-[0-9.]+)?\.so' || libclangs
}

clang_major() {
    local newest
    newest=$(libclangs | sort -V | tail -n 1) || true
    newest=${newest#/usr/lib/llvm-}
    echo "${newest%%/*}"
}

# Its own stddef.h and the like: bindings are generated from C headers.
has_clang_headers() {
    [ -n "${LIBCLANG_PATH:-}" ] || have clang || compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h'
}

# --- bpf-linker -------------------------------------------------------------------------------------------------

linker_is() { "$1" --version 2>/dev/null | grep -qx "bpf-linker $LINKER_VERSION"; }

linker() {
    if linker_is "$TOOLS/bin/bpf-linker"; then return; fi
    mkdir -p "$TOOLS/bin"
    if have bpf-linker && linker_is bpf-linker; then
        cp "$(command -v bpf-linker)" "$TOOLS/bin/bpf-linker"
        return
    fi
    say "building bpf-linker $LINKER_VERSION (a minute or two)"
    cargo install --quiet --locked --root "$TOOLS" "bpf-linker@$LINKER_VERSION" >&2
}

# --- a compiler with a core library for BPF ---------------------------------------------------------------------

llvm_major() { "$1" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p'; }

# The shared LLVM that a compiler runs with.
llvm_of() { ldd "$1" | awk '/libLLVM/ { print $3; exit }'; }

# The compiler that rustup would run here, not its proxy.
active_rustc() {
    if have rustup; then rustup which rustc; else command -v rustc; fi
}

# A precompiled core library, as Debian has it.
precompiled_works() {
    [ -x "$1" ] && [ "$(llvm_major "$1")" = "$LLVM_MAJOR" ] &&
        echo '#![no_std]' | "$1" --crate-type lib --emit metadata --target "$TARGET" -o /dev/null - 2>/dev/null
}

# The source of the core library, to be compiled along.
source_works() {
    [ -e "$("$1" --print sysroot)/lib/rustlib/src/rust/library/core/src/lib.rs" ] &&
        [ "$(llvm_major "$1")" = "$LLVM_MAJOR" ]
}

record() {
    local mode=$1 rustc=$2 llvm
    llvm=$(llvm_of "$rustc")
    [ -n "$llvm" ] || die "$rustc does not use a shared LLVM; bpf-linker needs one"
    # The linker opens the first libLLVM* it meets: give it a directory with exactly one.
    rm -rf "$TOOLS/llvm"
    mkdir -p "$TOOLS/llvm"
    ln -s "$llvm" "$TOOLS/llvm/$(basename "$llvm")"
    cat >"$ENV_FILE" <<EOF
# Written by scripts/prereqs.sh; remove it to choose again.
CHAPERONE_BPF_MODE=$mode
CHAPERONE_BPF_RUSTC=$rustc
CHAPERONE_BPF_VERSION=$("$rustc" -V)
CHAPERONE_BPF_LINKER_DIR=$TOOLS/bin
CHAPERONE_BPF_LLVM_DIR=$TOOLS/llvm
EOF
    say "kernel programs will be built with $("$rustc" -V) ($mode)"
}

recorded_works() {
    [ -e "$ENV_FILE" ] || return 1
    local mode rustc version
    mode=$(sed -n 's/^CHAPERONE_BPF_MODE=//p' "$ENV_FILE")
    rustc=$(sed -n 's/^CHAPERONE_BPF_RUSTC=//p' "$ENV_FILE")
    version=$(sed -n 's/^CHAPERONE_BPF_VERSION=//p' "$ENV_FILE")
    [ -x "$rustc" ] && [ "$("$rustc" -V)" = "$version" ] &&
        [ "$(find -L "$TOOLS/llvm" -type f -name 'libLLVM*' 2>/dev/null | wc -l)" = 1 ] || return 1
    case $mode in
        precompiled) precompiled_works "$rustc" ;;
        # The active toolchain may have changed since.
        build-std) [ "$rustc" = "$(active_rustc)" ] && source_works "$rustc" ;;
        *) return 1 ;;
    esac
}

compiler() {
    if recorded_works; then return; fi
    local active
    active=$(active_rustc)
    if source_works "$active" ||
        { have rustup && rustup component add rust-src >/dev/null 2>&1 && source_works "$active"; }; then
        record build-std "$active"
        return
    fi
    if precompiled_works /usr/bin/rustc || debian_compiler; then
        record precompiled /usr/bin/rustc
        return
    fi
    if debian_source "$active" && source_works "$active"; then
        record build-std "$active"
        return
    fi
    die "no core library for BPF: install the component rust-src of the active Rust toolchain (rustup component add" \
        "rust-src), or Debian's rustc-web and libstd-rust-web-dev-bpf, or rustc and libstd-rust-dev-bpf"
}

# Debian has the core library precompiled: beside the compiler that its browsers are built with, or its newest one.
debian_compiler() {
    can_apt || return 1
    local pair
    for pair in 'rustc-web libstd-rust-web-dev-bpf' 'rustc libstd-rust-dev-bpf'; do
        # shellcheck disable=SC2086 # a pair is two words
        if apt_install $pair && precompiled_works /usr/bin/rustc; then return; fi
    done
    return 1
}

# The source of exactly the active compiler's core library out of a newer Debian, unpacked beside the compiler. Uses
# the mirror that is configured, but none of the system's own lists.
debian_source() {
    can_apt && [ -w "$("$1" --print sysroot)/lib/rustlib" ] || return 1
    local version mirror dir suite found
    version=$("$1" -V | awk '{ print $2 }')
    # shellcheck disable=SC2016 # apt's own variable
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
    [ -n "$mirror" ] || return 1
    dir=$(mktemp -d)
    # shellcheck disable=SC2064 # the directory is known now
    trap "rm -rf '$dir'" RETURN
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/empty"
    for suite in trixie-backports forky sid experimental; do
        say "looking for rust-src $version in Debian's $suite"
        echo "deb $mirror $suite main" >"$dir/sources.list"
        local private=(-o "Dir::Etc::sourcelist=$dir/sources.list" -o "Dir::Etc::sourceparts=$dir/empty"
            -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o "APT::Get::List-Cleanup=0")
        apt-get "${private[@]}" update -q >&2 || continue
        found=$(apt-cache "${private[@]}" madison rust-src | awk -v v="$version" 'index($3, v) == 1 { print $3; exit }')
        [ -n "$found" ] || continue
        (cd "$dir" && apt-get "${private[@]}" download -q "rust-src=$found" >&2 && dpkg-deb -x rust-src_*.deb unpacked) ||
            continue
        mkdir -p "$("$1" --print sysroot)/lib/rustlib/src/rust"
        cp -r "$dir/unpacked/usr/src/rustc-$version/library" "$("$1" --print sysroot)/lib/rustlib/src/rust/"
        return 0
    done
    return 1
}

base
mkdir -p "$TOOLS"
linker
compiler
