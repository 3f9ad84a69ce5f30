# shellcheck shell=bash
# A host of the lab: a network, mount and host-name namespace that lives as long as its holder process.
#
# No namespace is given a name in the file system, so nothing is left when the processes are gone. Each host has its own
# /run and /sys/fs/bpf; nodes and clients also their own /var/lib, nodes their own /var/log, so that default paths work
# as on a machine of their own and mounts and pins vanish with the host.
# Expects $lab, $lab_name, $tools; needs cgroup.sh.

host_path() { echo "$lab/hosts/$1"; }

host_pid() {
    local pid
    pid=$(cat "$(host_path "$1")/pid" 2>/dev/null) && in_lab "$pid" || {
        echo "no host $1 in this lab (hack/lab status lists them)" >&2
        return 1
    }
    echo "$pid"
}

# A process id alone could be somebody else's by now: it counts only while it is in the lab's cgroup.
in_lab() { grep -q "/$lab_name/" "/proc/$1/cgroup" 2>/dev/null; }

# host_make NAME [FOLDER…]: the folders (such as var/lib) become the host's own.
host_make() {
    local name=$1 path folder
    path=$(host_path "$name")
    shift
    mkdir -p "$path/run"
    for folder; do mkdir -p "$path/$folder"; done
    (
        cgroup_join
        exec setsid unshare --net --mount --uts --propagation private "$BASH" -ec '
            path=$1 name=$2
            shift 2
            mount --make-rshared /
            hostname "$name"
            for folder in run "$@"; do mount --bind "$path/$folder" "/$folder"; done
            mount -t bpf bpf /sys/fs/bpf
            # What kubelet would write into the sysctls of the whole machine, it finds written already.
            for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
                file=$path/sysctl-$(basename "${setting%=*}")
                echo "${setting#*=}" >"$file"
                mount --bind "$file" "/proc/sys/${setting%=*}"
            done
            echo $$ >"$path/pid.partial"
            mv "$path/pid.partial" "$path/pid"
            exec -a "epic-lab-$name" sleep infinity' "$lab_name" "$path" "$name" "$@"
    ) >"$lab/log/$name.log" 2>&1 </dev/null &
}

hosts_are_made() {
    local name
    for name; do [ -e "$(host_path "$name")/pid" ] || return 1; done
}

# Sets the array `enter` to the words that run a command in a host.
host_enter() {
    local pid
    pid=$(host_pid "$1")
    enter=(nsenter "--net=/proc/$pid/ns/net" "--mount=/proc/$pid/ns/mnt" "--uts=/proc/$pid/ns/uts")
}

# host_batch NAME: `ip` commands from standard input, all or nothing told.
host_batch() {
    local enter
    host_enter "$1"
    "${enter[@]}" ip -batch -
}

# host_run NAME COMMAND…: in the foreground, in this working directory, counted to the lab.
host_run() {
    local enter
    host_enter "$1"
    shift
    cgroup_join
    PATH="$tools:$PATH" exec "${enter[@]}" sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}

# host_start HOST NAME COMMAND…: in the background; its output goes to log/HOST-NAME.log.
host_start() {
    local enter id="$1-$2"
    host_enter "$1"
    shift 2
    ! host_service_runs "$id" || { echo "$id runs already" >&2 && return 1; }
    printf '%s\0' "$@" >"$lab/command/$id"
    (
        cgroup_join
        PATH="$tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" exec setsid "${enter[@]}" "$@"
    ) >>"$lab/log/$id.log" 2>&1 </dev/null &
    echo "$!" >"$lab/pid/$id"
}

# The words of the last host_start, each ended by a zero byte.
host_last_command() { cat "$lab/command/$1-$2" 2>/dev/null || true; }

host_service_runs() {
    local pid
    pid=$(cat "$lab/pid/$1" 2>/dev/null) && in_lab "$pid" &&
        ! grep -q '^State:.[ZX]' "/proc/$pid/status" 2>/dev/null
}
host_service_is_gone() { ! host_service_runs "$1"; }

# host_stop HOST NAME [SIGNAL]
host_stop() {
    local id="$1-$2" signal=${3:-TERM} pid
    host_service_runs "$id" || return 0
    pid=$(cat "$lab/pid/$id")
    kill "-$signal" -- "-$pid"
    wait_until 30 "the end of $id" host_service_is_gone "$id"
    rm -f "$lab/pid/$id"
}
