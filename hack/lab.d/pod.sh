# shellcheck shell=bash
# The tenants' pods on client hosts: a network namespace with a pod address and the web server of hack/web in it.
#
# The pod hangs on a routed veth (gateway 169.254.1.1, as some CNI plugins do), so any address can be given to it,
# also one that a pod of EPIC or of another client has.
# Expects $lab, $hack; needs host.sh.

pod_name() { echo "pod-${1//[.:]/-}"; }

# pod_add HOST ADDRESS TENANT PORT…
pod_add() {
    local host=$1 address=$2 tenant=$3 name device pid port ports=()
    shift 3
    for port; do ports+=(-port "$port"); done
    name=$(pod_name "$address")
    device=$(pod_device "$address")
    host_start "$host" "$name" unshare --net "$("$hack/lab.d/web")" -host "$host" -address "$address" -tenant "$tenant" "${ports[@]}"
    pid=$(cat "$lab/pid/$host-$name")
    wait_until 10 "the namespace of $host $name" pod_has_namespace "$host" "$pid"
    echo "link add $device type veth peer name eth0 netns $pid
address add 169.254.1.1/32 dev $device
link set $device up
route add $address/32 dev $device src $(host_address "$host")" | host_batch "$host"
    nsenter "--net=/proc/$pid/ns/net" ip -batch - <<IP
link set lo up
address add $address/32 dev eth0
link set eth0 up
route add 169.254.1.1 dev eth0
route add default via 169.254.1.1
IP
}

pod_has_namespace() {
    [ "$(readlink "/proc/$2/ns/net")" != "$(readlink "/proc/$(host_pid "$1")/ns/net")" ] &&
        [ "$(readlink "/proc/$2/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

pod_device() { printf 'p%02x%02x%02x%02x' ${1//./ }; }

# The device goes at once, not when the kernel comes to clear the namespace: the address may be wanted again.
pod_remove() {
    host_stop "$1" "$(pod_name "$2")"
    echo "link delete $(pod_device "$2")" | host_batch "$1" 2>/dev/null || true
}

# pod_run HOST ADDRESS COMMAND…: in the network namespace of a pod.
pod_run() {
    local id pid
    id="$1-$(pod_name "$2")"
    host_service_runs "$id" || { echo "no pod $2 on $1" >&2 && return 1; }
    pid=$(cat "$lab/pid/$id")
    shift 2
    cgroup_join
    PATH="$tools:$PATH" exec nsenter "--net=/proc/$pid/ns/net" "--mount=/proc/$pid/ns/mnt" sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}
