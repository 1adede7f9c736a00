#!/bin/bash
# The benchmarks, in a release build, with services of their own: bench.sh [SUITE…] [--hosts 200,2000,20000] [--seconds 8]
#
# Suites: limits, cnode_start, claims, memory, scale; all of them if none is named.
#
# Each prints a table, and appends its figures to target/bench/<suite>.jsonl.
set -eu

cd "$(dirname "$0")/.."
state=$PWD/.yiqiu/bench

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
clear_away

YIQIU_TEST_DOCKER=$(scripts/docker.sh start "$state/docker" own)
YIQIU_TEST_POSTGRES=$(scripts/postgres.sh start "$state/postgres" "${YIQIU_TEST_POSTGRES_PORT:-54330}")
export YIQIU_TEST_DOCKER YIQIU_TEST_POSTGRES

# With the benchmark, so that the same features are built; the agent's program is found beside that of the server.
cargo build --release -p yiqiu -p yiqiu-agent --bins --bench figures
cargo bench --quiet -p yiqiu --bench figures -- "$@"
