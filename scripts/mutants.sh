#!/bin/bash
# Plants each bug of mutants/*.patch on its own, and shows which test catches it: mutants.sh [NAME...] | check
#
# mutants.sh [NAME...]  all of them, or those named; a table at the end. Fails if one survives, does not build, or does
#                       not apply any more. It works in a tree of its own, with what is committed.
# mutants.sh check      only whether each still applies, to what is here. Quick: `make lint` does it.
#
# A patch begins with `# planted: WHAT` and `# caught by: ARGUMENTS OF cargo test`.
set -eu

cd "$(dirname "$0")/.."
root=$PWD
state=$root/.yiqiu/mutants
tree=$state/tree

say() { printf '%s\n' "$*" >&2; }
field() { sed -n "s/^# $1: //p" "$2" | head -n 1; }

# Whether it says what it plants and applies to the tree in the current directory.
applies() {
    if [ -z "$(field planted "$1")" ] || [ -z "$(field 'caught by' "$1")" ]; then
        say "$1: it has to begin with \`# planted: …\` and \`# caught by: …\`"
        return 1
    fi
    if ! git apply --check "$1"; then
        say "$1 does not apply any more: plant its bug anew (git diff > patch, and keep its first two lines)"
        return 1
    fi
}

if [ "${1:-}" = check ]; then
    bad=0
    for patch in mutants/*.patch; do applies "$patch" || bad=1; done
    exit $bad
fi

patches=()
if [ $# = 0 ]; then
    patches=("$root"/mutants/*.patch)
else
    for name in "$@"; do patches+=("$root/mutants/${name%.patch}.patch"); done
fi
for patch in "${patches[@]}"; do
    [ -f "$patch" ] || { say "there is no mutant $patch; there are: $(cd mutants && echo *.patch)"; exit 2; }
done

clear_away() {
    if [ -n "${started:-}" ]; then scripts/postgres.sh stop "$state/postgres"; fi
    git worktree remove --force "$tree" 2>/dev/null || true
    git worktree prune
}
trap clear_away EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
clear_away

mkdir -p "$state"
git worktree add --quiet --detach "$tree" HEAD
if [ -z "${YIQIU_TEST_POSTGRES:-}" ]; then
    started=yes
    YIQIU_TEST_POSTGRES=$(scripts/postgres.sh start "$state/postgres" "${YIQIU_TEST_POSTGRES_PORT:-54339}")
fi
export YIQIU_TEST_POSTGRES RUST_BACKTRACE=0
# Of a history that failed it is enough to know that it did.
export YIQIU_SHRINK_SECONDS=0
export CARGO_TARGET_DIR=${MUTANTS_TARGET:-$state/target}

table=''
bad=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    log=$state/$name.log
    read -r -a arguments <<<"$(field 'caught by' "$patch")"
    say "$name: $(field planted "$patch")"
    if ! (cd "$tree" && git checkout --quiet . && applies "$patch"); then
        result='DOES NOT APPLY'
    elif ! (cd "$tree" && git apply "$patch" && cargo test --quiet --no-run "${arguments[@]}") >"$log" 2>&1; then
        result="DOES NOT BUILD: see $log"
    elif (cd "$tree" && cargo test "${arguments[@]}") >"$log" 2>&1; then
        result='SURVIVED'
    else
        result=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | paste -sd ' ')
        [ -n "$result" ] || result="NO TEST FAILED: see $log"
    fi
    case $result in [A-Z]*) bad=1 ;; esac
    table+="$name|$(field planted "$patch")|$result"$'\n'
done
printf 'MUTANT|PLANTED|CAUGHT BY\n%s' "$table" | column -t -s '|'
exit $bad
