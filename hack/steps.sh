# shellcheck shell=bash
# Runs the named steps of a check one after the other, with the time each took, and says at the end which failed.
#
# A failed step does not keep the following ones from running, unless they need it: `step --needed` ends everything.

steps_done=()
steps_failed=()
steps_started=$SECONDS

# step [--needed] NAME COMMAND…
step() {
    local needed=no name started code=0 verdict=passed
    [ "$1" != --needed ] || { needed=yes && shift; }
    name=$1 started=$SECONDS
    shift
    echo "==> $name"
    "$@" || code=$?
    if [ $code -ne 0 ]; then
        verdict=FAILED
        steps_failed+=("$name")
    fi
    echo "    $name: $verdict ($((SECONDS - started)) s)"
    steps_done+=("$(printf '%6d s  %-6s  %s' $((SECONDS - started)) "$verdict" "$name")")
    [ $code -eq 0 ] || [ $needed = no ] || steps_end
}

# Exits, successfully only if every step was. A script may have `steps_last` say the last word.
steps_end() {
    echo "==> $((SECONDS - steps_started)) s in all"
    printf '%s\n' "${steps_done[@]}"
    ! declare -F steps_last >/dev/null || steps_last
    [ ${#steps_failed[@]} -eq 0 ]
    exit
}
