#!/bin/sh
# Installs what is missing on Debian, and says what and why: deps.sh [build] [run] [test]
set -eu

wanted=${*:-build run}
missing=
updated=

say() { printf '%s\n' "$*" >&2; }

# need PACKAGE WHY TEST...: notes the package as missing when the test fails.
need() {
    package=$1 why=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        say "missing: $package ($why)"
        missing="$missing $package"
    fi
}

have() { command -v "$1" || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
c_headers() { [ -e /usr/include/stdlib.h ]; }
certificates() { [ -e /etc/ssl/certs/ca-certificates.crt ]; }
postgres() { ls /usr/lib/postgresql/*/bin/initdb; }
static_busybox() { [ "$(dpkg-query -W -f '${db:Status-Status}' busybox-static)" = installed ]; }

for group in $wanted; do
    case $group in
    build)
        need gcc "the linker, and SQLite is C" have cc
        need libc6-dev "headers for C" c_headers
        need make "runs the Makefile's targets" have make
        ;;
    run)
        need docker.io "nodes of the type cm are Docker containers" have dockerd
        need iproute2 "a Docker daemon of our own gets a network bridge of its own" have ip
        need busybox-static "the demo's and the tests' root file system is made from it" static_busybox
        need curl "the demo fetches pages with it" have curl
        need ca-certificates "cargo fetches crates over TLS" certificates
        ;;
    test)
        need postgresql-15 "the tests run on PostgreSQL too" postgres
        need strace "a test counts the syncs before an answer" have strace
        need bsdutils "a test gives the command line a terminal by script(1)" have script
        ;;
    *)
        say "deps.sh: unknown group '$group': expected build, run or test"
        exit 2
        ;;
    esac
done

if ! command -v cargo >/dev/null 2>&1; then
    say "missing: a Rust toolchain (1.95 or newer). It is not installed from here: see https://rustup.rs"
    exit 1
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null 2>&1; then
    root=sudo
else
    say "these need root to be installed, and there is no sudo: as root, apt-get install --no-install-recommends$missing"
    exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
    say "there is no apt-get here: install these by the means of your system:$missing"
    exit 1
fi

apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >&2; }

# PostgreSQL's package would make and start a cluster of its own; the tests make theirs in a directory.
case $missing in
*postgresql*)
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        $root mkdir -p /etc/postgresql-common
        printf 'create_main_cluster = false\n' | $root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    ;;
esac

say "installing:$missing"
# shellcheck disable=SC2086 # a list of words
if ! apt install -y --no-install-recommends $missing; then
    if [ -z "$updated" ]; then
        say "the package lists may be old: apt-get update"
        apt update
        # shellcheck disable=SC2086
        apt install -y --no-install-recommends $missing
    fi
fi
