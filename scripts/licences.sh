#!/bin/sh
# Checks the licence of every crate that is built, tested or benchmarked here: licences.sh
#
# Prints how many crates come under which licence expression. Fails, and names the crates, if an expression cannot be
# met with the licences of the list below, or a crate states none.
set -eu

cd "$(dirname "$0")/.."

# What Apache-2.0 code may depend on without passing further duties on to its users. docs/licences.md says why.
allowed='Apache-2.0
BSD-3-Clause
CDLA-Permissive-2.0
ISC
MIT
Unicode-3.0
Zlib'

list=$(mktemp)
trap 'rm -f "$list"' EXIT
# Every platform and every feature, so that nobody meets a licence that was not checked.
cargo tree --locked --workspace --all-features --target all --edges normal,build,dev \
    --prefix none --no-dedupe --format '{p}|{l}' | sort -u >"$list"
[ -s "$list" ] || { echo "cargo tree lists nothing" >&2; exit 1; }

ALLOWED=$allowed awk -F '|' '
# An SPDX expression: AND binds tighter than OR; the old "/" means OR. Sets at and tokens for the functions below.
function met(expression,    words, n, i) {
    gsub(/\//, " OR ", expression)
    gsub(/\(/, " ( ", expression)
    gsub(/\)/, " ) ", expression)
    n = split(expression, words, " ")
    count = 0
    for (i = 1; i <= n; i++) {
        if (words[i] == "WITH" && count > 0 && i < n) { tokens[count] = tokens[count] " WITH " words[++i] }
        else { tokens[++count] = words[i] }
    }
    at = 1
    i = any()
    return i && at > count
}
function any(    good) {
    good = all()
    while (at <= count && tokens[at] == "OR") { at++; good = all() || good }
    return good
}
function all(    good) {
    good = one()
    while (at <= count && tokens[at] == "AND") { at++; good = one() && good }
    return good
}
function one(    good) {
    if (at > count) return 0
    if (tokens[at] == "(") { at++; good = any(); at++; return good }
    return tokens[at++] in allow
}
BEGIN {
    n = split(ENVIRON["ALLOWED"], names, "\n")
    for (i = 1; i <= n; i++) allow[names[i]] = 1
}
NF == 2 { # not the empty lines between members
    split($1, package, " ")
    if (package[1] ~ /^yiqiu(-|$)/) { next }
    name = package[1] " " package[2]
    if (name in seen) { next }
    seen[name] = 1
    crates++
    expressions[$2 == "" ? "(none stated)" : $2]++
    if (!met($2)) { refused = refused "\n  " name ": " ($2 == "" ? "it states no licence" : $2) }
}
END {
    for (expression in expressions) printf "%5d  %s\n", expressions[expression], expression | "sort -k1,1nr -k2"
    close("sort -k1,1nr -k2")
    printf "%5d  crates\n", crates
    if (refused != "") { printf "not on the list of allowed licences:%s\n", refused > "/dev/stderr"; exit 1 }
}' "$list"
