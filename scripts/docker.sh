#!/bin/bash
# A Docker daemon: docker.sh start DIR [own [FLAG…]] | stop DIR | socket DIR
#
# start   uses the daemon that answers at DOCKER_HOST or /var/run/docker.sock, else (always, with `own`) starts one with
#         everything it has in DIR; prints the socket's path. FLAGs are dockerd's.
#         That daemon keeps to itself: a bridge of its own, no rule of the firewall, no forwarding. So it can run beside
#         another Docker, and leaves the machine's network as it was. Ports published on 127.0.0.1 work (docker-proxy);
#         its containers reach nothing beyond this machine.
# stop    stops the daemon if start started it, and removes DIR.
# socket  prints the path of the socket that start found or made.
set -eu

PATH=$PATH:/usr/sbin:/sbin
ready_s=30
stop_s=30

say() { printf '%s\n' "$*" >&2; }

usage() {
    say "usage: docker.sh start DIR [own [FLAG…]] | stop DIR | socket DIR"
    exit 2
}

answers() { [ -S "$1" ] && curl -fsS -m 5 -o /dev/null --unix-socket "$1" http://docker/_ping 2>/dev/null; }

# The daemon that is there already, if one answers.
found() {
    case ${DOCKER_HOST:-} in
    unix://*) set -- "${DOCKER_HOST#unix://}" /var/run/docker.sock ;;
    *) set -- /var/run/docker.sock ;;
    esac
    for socket in "$@"; do
        if answers "$socket"; then
            printf '%s\n' "$socket"
            return 0
        fi
    done
    return 1
}

# Whether DIR/pid names a daemon that start started: a pid alone may be someone else's by now.
ours() {
    [ -r "$1/pid" ] && pid=$(cat "$1/pid") && [ -n "$pid" ] &&
        tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$1/docker.sock"
}

# A bridge for one daemon, in a network that nothing here uses: bridge_up NAME
bridge_up() {
    ip link show "$1" >/dev/null 2>&1 || ip link add name "$1" type bridge
    if ! ip -o -4 addr show dev "$1" | grep -q inet; then
        for octet in $(seq 1 254); do
            network=10.213.$octet
            if ! { ip -o -4 addr; ip -4 route; } | grep -qF " $network."; then
                ip addr add "$network.1/24" dev "$1"
                break
            fi
        done
    fi
    ip link set "$1" up
}

# An interface's name has at most 15 characters.
bridge_name() { printf 'yq%s\n' "$(printf '%s' "$1" | cksum | cut -d ' ' -f 1)"; }

start() {
    dir=$1 own=${2:-}
    shift $(($# < 2 ? $# : 2))
    mkdir -p "$dir"
    if ours "$dir" && answers "$dir/docker.sock"; then
        printf '%s\n' "$dir/docker.sock" | tee "$dir/socket"
        return
    fi
    if [ -z "$own" ] && socket=$(found); then
        say "Docker: the daemon at $socket answers"
        printf '%s\n' "$socket" | tee "$dir/socket"
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        say "Docker: no daemon answers, and starting one needs root. Start it (sudo service docker start), or run as root"
        exit 1
    fi
    command -v dockerd >/dev/null || { say "Docker: there is no dockerd: apt-get install docker.io"; exit 1; }
    # A unix socket's path has at most 107 bytes.
    if [ "${#dir}" -gt 90 ]; then
        say "Docker: the path $dir is too long for a socket in it"
        exit 1
    fi
    rm -f "$dir/pid" "$dir/docker.sock"
    # Docker takes a containerd that was killed, and that nobody collected, for one that runs, and waits for it in vain.
    containerd=$dir/exec/containerd/containerd.pid
    if [ -r "$containerd" ] && ! grep -q . "/proc/$(cat "$containerd")/cmdline" 2>/dev/null; then rm -f "$containerd"; fi
    # A larger limit of open files is refused in some sandboxes, and takes containers long to walk.
    open=$(ulimit -n)
    if [ "$open" = unlimited ] || [ "$open" -gt 20000 ]; then ulimit -n 20000; fi
    bridge=$(bridge_name "$dir")
    bridge_up "$bridge"
    setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" -H "unix://$dir/docker.sock" \
        --bridge "$bridge" --iptables=false --ip-forward=false --ip-masq=false --pidfile "$dir/pid" "$@" </dev/null >"$dir/log" 2>&1 &
    daemon=$!
    waited=0
    until answers "$dir/docker.sock"; do
        if ! kill -0 "$daemon" 2>/dev/null || [ "$waited" -ge $((ready_s * 10)) ]; then
            say "Docker: the daemon did not come up; the end of $dir/log:"
            tail -n 15 "$dir/log" >&2
            kill "$daemon" 2>/dev/null || true
            exit 1
        fi
        sleep 0.1
        waited=$((waited + 1))
    done
    say "Docker: started a daemon in $dir"
    printf '%s\n' "$dir/docker.sock" | tee "$dir/socket"
}

stop() {
    dir=$1
    [ -d "$dir" ] || return 0
    if ours "$dir"; then
        pid=$(cat "$dir/pid")
        # Its containers go with it: nothing else knows them.
        if answers "$dir/docker.sock"; then
            containers=$(DOCKER_HOST=unix://$dir/docker.sock docker ps -aq 2>/dev/null || true)
            # shellcheck disable=SC2086 # a list of words
            [ -z "$containers" ] || DOCKER_HOST=unix://$dir/docker.sock docker rm -f $containers >/dev/null 2>&1 || true
        fi
        kill "$pid" 2>/dev/null || true
        waited=0
        while kill -0 "$pid" 2>/dev/null; do
            if [ "$waited" -ge $((stop_s * 10)) ]; then
                kill -9 "$pid" 2>/dev/null || true
                break
            fi
            sleep 0.1
            waited=$((waited + 1))
        done
        say "Docker: stopped the daemon in $dir"
    fi
    # What a killed daemon leaves: its containerd, and mounts. Found by our paths, never by a name alone.
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qE "^(containerd|containerd-shim|docker-proxy|/usr/[^ ]*/containerd[^ ]*) .*$dir/exec"; then
            kill -9 "${process#/proc/}" 2>/dev/null || true
        fi
    done
    ip link delete "$(bridge_name "$dir")" 2>/dev/null || true
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
        umount -l "$mount" 2>/dev/null || true
    done
    if ! rm -rf "$dir" 2>/dev/null; then
        sleep 1
        rm -rf "$dir"
    fi
}

absolute() {
    mkdir -p "$(dirname "$1")"
    printf '%s/%s\n' "$(cd "$(dirname "$1")" && pwd -P)" "$(basename "$1")"
}

[ $# -ge 2 ] || usage
case $1 in
start)
    dir=$(absolute "$2")
    shift 2
    start "$dir" "$@"
    ;;
stop) stop "$(absolute "$2")" ;;
socket) cat "$2/socket" ;;
*) usage ;;
esac
