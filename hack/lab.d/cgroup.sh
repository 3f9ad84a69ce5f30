# shellcheck shell=bash
# Where the lab's processes and containers are counted and, above all, how they are ended: one cgroup tree per lab.
#
# Two layouts are known: cgroup v2 alone (the unified tree at /sys/fs/cgroup) and v1 hierarchies with a unified mount
# beside them. In both, everything the lab starts sits below $lab_name in the unified tree, so cgroup.kill ends it all,
# container shims included, without hunting for process ids.
# Expects $lab_name.

cgroup_unified=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)

# The v1 hierarchies, by mount point; empty on cgroup v2 alone.
mapfile -t cgroup_v1 < <(awk '$3 == "cgroup" { print $2 }' /proc/self/mounts | sort -u)

cgroup_layout() {
    if [ -z "$cgroup_unified" ]; then
        echo "none"
    elif [ ${#cgroup_v1[@]} -eq 0 ]; then
        echo "v2 alone ($cgroup_unified)"
    else
        echo "v1 with a unified mount ($cgroup_unified)"
    fi
}

# cgroup_make [NODE…]: the tree of the lab: `host` for processes, one folder per node for its containers.
cgroup_make() {
    local root child value
    for root in "${cgroup_v1[@]}"; do
        for child in "$lab_name" "$lab_name/host" "${@/#/$lab_name/}"; do
            mkdir -p "$root/$child"
            # A new cpuset is empty and takes no process until it is told what it may use.
            for value in cpuset.cpus cpuset.mems; do
                [ ! -e "$root/$child/$value" ] || cat "$root/$value" >"$root/$child/$value"
            done
        done
    done
    for child in "$lab_name" "$lab_name/host" "${@/#/$lab_name/}"; do mkdir -p "$cgroup_unified/$child"; done
    [ ${#cgroup_v1[@]} -gt 0 ] || cgroup_delegate "$@"
}

# On v2 alone a controller reaches a cgroup only when every one above passes it on.
cgroup_delegate() {
    local controllers child
    controllers=$(sed 's/[^ ]\+/+&/g' "$cgroup_unified/cgroup.controllers")
    for child in . "$lab_name" "${@/#/$lab_name/}"; do
        echo "$controllers" >"$cgroup_unified/$child/cgroup.subtree_control" || {
            echo "cgroup controllers cannot be passed on at $cgroup_unified/$child; does it hold processes itself?" >&2
            return 1
        }
    done
}

# Moves the calling shell into the lab's cgroups, with what it will start.
cgroup_join() {
    local root
    echo "$BASHPID" >"$cgroup_unified/$lab_name/host/cgroup.procs"
    for root in "${cgroup_v1[@]}"; do
        case ${root##*/} in
        memory | pids) echo "$BASHPID" >"$root/$lab_name/host/cgroup.procs" ;;
        esac
    done
}

cgroup_is_empty() { grep -q '^populated 0' "$cgroup_unified/$lab_name/cgroup.events"; }

# Ends every process and removes the tree.
cgroup_remove() {
    local root
    if [ -d "$cgroup_unified/$lab_name" ]; then
        echo 1 >"$cgroup_unified/$lab_name/cgroup.kill"
        wait_until 30 "the end of the lab's processes" cgroup_is_empty
    fi
    for root in "$cgroup_unified" "${cgroup_v1[@]}"; do
        [ ! -d "$root/$lab_name" ] || wait_until 30 "the end of $root/$lab_name" cgroup_prune "$root/$lab_name"
    done
}

cgroup_prune() {
    find "$1" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ ! -d "$1" ]
}
