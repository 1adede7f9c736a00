#!/bin/bash
# A PostgreSQL server in a directory of its own: postgres.sh start DIR [PORT] | stop DIR | url DIR
#
# start  makes the cluster on 127.0.0.1:PORT (54329; the next free one if it is taken), durable as in production, with a
#        random password; prints the URL of its maintenance database.
# stop   stops it and removes DIR.
set -eu

say() { printf '%s\n' "$*" >&2; }

usage() {
    say "usage: postgres.sh start DIR [PORT] | stop DIR | url DIR"
    exit 2
}

bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)

# PostgreSQL refuses to run as root. `cd /`: the user may not enter the current directory.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid postgres --regid postgres --init-groups env -i PATH="$PATH" LC_ALL=C.UTF-8 "$@")
    else
        LC_ALL=C.UTF-8 "$@"
    fi
}

running() { [ -e "$1/data/postmaster.pid" ] && as_postgres "$bin/pg_ctl" -D "$1/data" status >/dev/null 2>&1; }

taken() { ss -ltnH "sport = :$1" 2>/dev/null | grep -q . || (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start() {
    dir=$1 port=$2
    [ -n "$bin" ] || { say "PostgreSQL: it is not installed: apt-get install postgresql-15"; exit 1; }
    if [ -d "$dir/data" ] && running "$dir"; then
        cat "$dir/url"
        return
    fi
    mkdir -p "$dir"
    # The user postgres must be able to reach the directory; the checkout may be private.
    home=$(mktemp -d /tmp/yiqiu-postgres.XXXXXX)
    chmod 700 "$home"
    rm -rf "$dir/data"
    [ "$(id -u)" != 0 ] || chown postgres "$home"
    printf '%s\n' "$home" >"$dir/home"
    ln -sfn "$home/data" "$dir/data"
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s\n' "$password" >"$home/password"
    [ "$(id -u)" != 0 ] || chown postgres "$home/password"
    as_postgres "$bin/initdb" -D "$home/data" -U yiqiu -A scram-sha-256 --pwfile "$home/password" -E UTF8 \
        --no-locale >"$dir/log" 2>&1 || { say "PostgreSQL: initdb failed:"; tail -n 15 "$dir/log" >&2; exit 1; }
    tries=0
    while :; do
        while taken "$port"; do port=$((port + 1)); done
        if as_postgres "$bin/pg_ctl" -D "$home/data" -w -t 30 -l "$home/log" start \
            -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=on -c max_connections=300" \
            >>"$dir/log" 2>&1; then
            break
        fi
        tries=$((tries + 1))
        if [ "$tries" -ge 3 ]; then
            say "PostgreSQL: the server did not start; the end of its log:"
            tail -n 15 "$home/log" >&2
            exit 1
        fi
        port=$((port + 1))
    done
    (umask 077 && printf 'postgres://yiqiu:%s@127.0.0.1:%s/postgres\n' "$password" "$port" >"$dir/url")
    say "PostgreSQL: started on 127.0.0.1:$port"
    cat "$dir/url"
}

stop() {
    dir=$1
    [ -d "$dir" ] || return 0
    if running "$dir"; then
        as_postgres "$bin/pg_ctl" -D "$dir/data" -m fast -w -t 30 stop >/dev/null 2>&1 ||
            as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate -w -t 30 stop >/dev/null 2>&1 || true
        say "PostgreSQL: stopped"
    fi
    if [ -r "$dir/home" ]; then
        home=$(cat "$dir/home")
        case $home in /tmp/yiqiu-postgres.*) rm -rf "$home" ;; esac
    fi
    rm -rf "$dir"
}

[ $# -ge 2 ] || usage
# Absolute: the server's user runs in another directory.
case $2 in /*) dir=$2 ;; *) dir=$PWD/$2 ;; esac
case $1 in
start) start "$dir" "${3:-54329}" ;;
stop) stop "$dir" ;;
url) cat "$dir/url" ;;
*) usage ;;
esac
