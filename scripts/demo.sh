#!/bin/bash
# The main job, step by step, through the public CLI: demo.sh up | down
#
# Everything it makes is in .yiqiu/demo. YIQIU_DEMO_PORT (7070) is the port of the API.
set -eu

cd "$(dirname "$0")/.."
state=$(pwd -P)/.yiqiu/demo
port=${YIQIU_DEMO_PORT:-7070}
host=this-machine
target=${CARGO_TARGET_DIR:-$PWD/target}
yiqiu=$target/debug/yiqiu

bold='' plain=''
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi

step=0
title() {
    step=$((step + 1))
    printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$plain"
}

# Prints a command of the CLI as it is run.
print_command() {
    printf '$ yiqiu'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./:=,%+-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
}

# Prints a command of the CLI and runs it.
show() {
    print_command "$@"
    "$yiqiu" "$@"
}

fail() {
    printf '\nThe demo stopped: %s\n' "$*" >&2
    if [ -s "$state/yiqiu.log" ]; then
        printf 'The end of %s:\n' "$state/yiqiu.log" >&2
        tail -n 15 "$state/yiqiu.log" >&2
    fi
    printf 'make demo-down clears away what was started.\n' >&2
    exit 1
}

# The process that serves our data: whoever started it, it holds the lock of the data directory. Nothing if there is none.
server_pid() {
    find /proc/[0-9]*/fd -lname "$state/data/lock" 2>/dev/null | cut -d / -f 3 | sort -u | head -n 1
}

# The address that a process was told to listen on.
address_of() {
    told=$(tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline" | sed -n '/^--listen$/{n;p};s/^--listen=//p' | head -n 1)
    printf '%s\n' "${told:-127.0.0.1:$port}"
}

# The published addresses of the components, one NAME ADDRESS a line.
pages() {
    "$yiqiu" component list | sed -n 's/^\([^ ]*\) .* \(127\.0\.0\.1:[0-9]*\)->8080.*/\1 \2/p'
}

# Fetches the page of every component that publishes one.
fetch_all() {
    pages >"$state/pages"
    [ -s "$state/pages" ] || fail "no component publishes a port"
    while read -r name address; do
        printf '$ curl http://%s/    # %s\n' "$address" "$name"
        curl -fsS --retry 20 --retry-delay 1 --retry-all-errors -m 5 "http://$address/" || fail "$name does not serve its page"
    done <"$state/pages"
}

up() {
    pid=$(server_pid)
    if [ -n "$pid" ]; then
        echo "The demo runs already: http://$(address_of "$pid") (make demo-down stops it)"
        exit 0
    fi
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        echo "Port $port is taken: YIQIU_DEMO_PORT=7171 make demo takes another" >&2
        exit 1
    fi
    [ ! -e "$state" ] || down # what a demo that failed half-way left
    mkdir -p "$state"

    title "Set up what this machine lacks, and Docker"
    scripts/deps.sh build run
    socket=$(scripts/docker.sh start "$state/docker")
    # If the daemon was here before, only what is new is ours to remove.
    docker_ids >"$state/docker-before"
    echo "Docker answers at $socket"

    title "Build"
    cargo build --quiet -p yiqiu --bin yiqiu || fail "the build failed"
    echo "below, yiqiu is $yiqiu"

    title "Start the platform: every role in one process, on SQLite, with an agent for this machine"
    set -- up --data-dir "$state/data" --listen "127.0.0.1:$port" --host-name "$host" --docker "$socket" --usage-interval 2s
    print_command "$@"
    setsid "$yiqiu" "$@" </dev/null >"$state/yiqiu.log" 2>&1 &
    pid=$!
    export YIQIU_SERVER=http://127.0.0.1:$port
    waited=0
    until "$yiqiu" health >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || fail "yiqiu up ended"
        [ "$waited" -lt 120 ] || fail "yiqiu up is not ready after 60 s"
        sleep 0.5
        waited=$((waited + 1))
    done
    export YIQIU_TOKEN_FILE=$state/data/ops.token
    show health

    title "Ops: a region, a zone, a rack, and this machine in it, cut into containers"
    show region create north
    show zone create north-1 --region north
    show rack create a1 --zone north-1 --units 42
    waited=0
    until "$yiqiu" host get "$host" 2>/dev/null | grep -q online; do
        [ "$waited" -lt 60 ] || fail "the agent of this machine did not join"
        sleep 0.5
        waited=$((waited + 1))
    done
    show host place "$host" --rack a1 --unit 1 --node-type cm

    title "Ops: an image, a root file system made from busybox"
    scripts/rootfs.sh "$state/web.tar"
    show image upload web "$state/web.tar"

    title "Ops: a tenant gets a user, a project and a token"
    show user create alice
    show project create shop
    show project add-member shop alice
    show token create demo --user alice --project shop --save "$state/alice.token"

    title "Tenant: two web servers, spread over hosts if that can be had"
    echo "\$ export YIQIU_TOKEN_FILE=$state/alice.token"
    export YIQIU_TOKEN_FILE=$state/alice.token
    show whoami
    show ccontract create web --image web --count 2 --cpu 0.1 --memory 64MiB --port 8080 --spread host --wait -- /bin/serve

    title "What the scheduler chose, and what the agent started"
    show component list

    title "A page from each"
    fetch_all

    title "Power one off, and on again"
    show component power-off web-0 --wait
    show component power-on web-0 --wait
    fetch_all

    title "A need that no host can meet is refused, with the reason and the smallest change"
    show ccontract create huge --image web --count 1 --cpu 4096 --memory 64MiB --dry-run -- /bin/serve || true

    title "The project's bill: what was reserved, and what was really used"
    sleep 3
    # What was measured arrives every few seconds. The processor time is column 24 of the report.
    waited=0
    until "$yiqiu" usage report --project shop -o csv | awk -F, '$4 == "component" && $24 == 0 { missing = 1 } END { exit missing }'; do
        [ "$waited" -lt 15 ] || break
        sleep 1
        waited=$((waited + 1))
    done
    show usage report --project shop

    cat <<END

${bold}The platform is running.${plain}
  API         http://127.0.0.1:$port/docs   (OpenAPI: /openapi.json, metrics: /metrics, health: /readyz)
  the pages   $(awk '{ printf "%shttp://%s/", separator, $2; separator = "  " }' "$state/pages")
  its log     .yiqiu/demo/yiqiu.log

Try it yourself:
  export YIQIU_SERVER=http://127.0.0.1:$port YIQIU_TOKEN_FILE=$state/data/ops.token
  $yiqiu events --follow

Stop it, and leave nothing behind:
  make demo-down
END
}

docker_ids() {
    [ -r "$state/docker/socket" ] || return 0
    DOCKER_HOST=unix://$(cat "$state/docker/socket")
    export DOCKER_HOST
    docker ps -aq --no-trunc --filter label=yiqiu.host
    docker images -q --no-trunc yiqiu/image
}

# The ids of a noun's list.
ids() { "$yiqiu" "$1" list -o json 2>/dev/null | sed -n 's/^    "id": "\([^"]*\)".*/\1/p'; }

# Releases every contract of the server at this address, and waits until nothing of them is left, for 60 s at most.
release_all() {
    [ -x "$yiqiu" ] && [ -r "$state/data/ops.token" ] || return 0
    export YIQIU_SERVER=http://$1 YIQIU_TOKEN_FILE=$state/data/ops.token
    curl -fsS -m 5 -o /dev/null "$YIQIU_SERVER/healthz" 2>/dev/null || return 0
    deadline=$((SECONDS + 60))
    for noun in ccontract rcontract; do
        for flags in "" --wait; do
            for id in $(ids "$noun"); do
                left=$((deadline - SECONDS))
                [ "$left" -gt 0 ] || return 0
                # What is refused, or does not end in time, is removed below by other means.
                # shellcheck disable=SC2086 # one flag or none
                "$yiqiu" "$noun" delete "$id" $flags --timeout "${left}s" >/dev/null 2>&1 || true
            done
        done
    done
    echo "released the contracts"
}

# Removes the control groups of a node, which has no process any more.
groups_remove() {
    [ -n "$1" ] || return 0
    for group in /sys/fs/cgroup/yiqiu/"$1" /sys/fs/cgroup/*/yiqiu/"$1"; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        rmdir "$(dirname "$group")" 2>/dev/null || true # ours or not, it goes when nobody is in it
    done
}

down() {
    if [ ! -e "$state" ]; then
        echo "no demo is here"
        return 0
    fi
    pid=$(server_pid)
    if [ -n "$pid" ]; then
        release_all "$(address_of "$pid")"
        kill "$pid" 2>/dev/null || true
        waited=0
        while kill -0 "$pid" 2>/dev/null; do
            if [ "$waited" -ge 200 ]; then
                kill -9 "$pid" 2>/dev/null || true
                break
            fi
            sleep 0.1
            waited=$((waited + 1))
        done
        echo "stopped the platform"
    fi
    # What could not be released: of what carries our mark, what is new goes, with its control groups. Our own daemon goes
    # whole after that.
    if [ -r "$state/docker/socket" ] && DOCKER_HOST=unix://$(cat "$state/docker/socket") && export DOCKER_HOST &&
        docker version >/dev/null 2>&1; then
        containers=$(docker ps -aq --no-trunc --filter label=yiqiu.host | new_only)
        for container in $containers; do
            name=$(docker inspect --format '{{.Name}}' "$container" 2>/dev/null) || continue
            docker rm -f "$container" >/dev/null
            groups_remove "${name#/yiqiu-}"
        done
        images=$(docker images -q --no-trunc yiqiu/image | sort -u | new_only)
        # shellcheck disable=SC2086 # a list of words
        [ -z "$images" ] || docker rmi -f $images >/dev/null
    fi
    scripts/docker.sh stop "$state/docker"
    rm -rf "$state"
    rmdir .yiqiu 2>/dev/null || true
    echo "the demo is gone"
}

new_only() {
    if [ -s "$state/docker-before" ]; then grep -vxFf "$state/docker-before" || true; else cat; fi
}

case ${1:-} in
up) up ;;
down) down ;;
*)
    echo "usage: demo.sh up | down" >&2
    exit 2
    ;;
esac
