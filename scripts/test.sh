#!/bin/bash
# Every test, on SQLite and on PostgreSQL, with real containers: test.sh [arguments of cargo test]
#
# The services are its own, in .yiqiu/test, and are stopped at the end however it ends.
set -eu

cd "$(dirname "$0")/.."
state=$PWD/.yiqiu/test

scripts/deps.sh build run test

clear_away() {
    scripts/postgres.sh stop "$state/postgres"
    scripts/docker.sh stop "$state/docker"
    rm -rf "$state"
    rmdir .yiqiu 2>/dev/null || true
}
trap clear_away EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
clear_away # what a run that was killed left

# Its own Docker even if one answers: tests restart and kill it.
YIQIU_TEST_DOCKER=$(scripts/docker.sh start "$state/docker" own)
YIQIU_TEST_POSTGRES=$(scripts/postgres.sh start "$state/postgres" "${YIQIU_TEST_POSTGRES_PORT:-54329}")
export YIQIU_TEST_DOCKER YIQIU_TEST_POSTGRES

cargo test --workspace --quiet "$@"
