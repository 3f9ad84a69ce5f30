# shellcheck shell=bash
# Runs the named steps of a check one after the other, with the time each took, and says at the end which failed.
#
# A failed step does not keep the following ones from running, unless they need it: `step --needed` ends everything.

steps_failed=()
steps_started=$SECONDS

# step [--needed] NAME COMMAND…
step() {
    local needed=no name started code=0
    [ "$1" != --needed ] || { needed=yes && shift; }
    name=$1 started=$SECONDS
    shift
    echo "==> $name"
    "$@" || code=$?
    if [ $code -eq 0 ]; then
        echo "    $name: passed ($((SECONDS - started)) s)"
        return 0
    fi
    echo "    $name: FAILED ($((SECONDS - started)) s)"
    steps_failed+=("$name")
    [ $needed = no ] || steps_end
}

# Exits, successfully only if every step was.
steps_end() {
    if [ ${#steps_failed[@]} -eq 0 ]; then
        echo "all steps passed ($((SECONDS - steps_started)) s)"
        exit 0
    fi
    printf 'failed step: %s\n' "${steps_failed[@]}"
    exit 1
}
