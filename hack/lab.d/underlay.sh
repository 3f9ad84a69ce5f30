# shellcheck shell=bash
# Who is connected to whom, and every address of the lab.
#
#   switch   the layer 2 that EPIC's nodes, the control plane, the internet and the router share: 192.168.77.0/24
#   .2-.99   for address pools          .100  cp, the API server      .101…  node1…
#   .200     internet                   .254  router
#   router   192.168.1.1    192.168.1.0/24    client1 is 192.168.1.16
#            198.51.100.1   198.51.100.0/24   nat is 198.51.100.2; behind it 192.168.1.0/24 again: client2 is 192.168.1.25
#            203.0.113.1    203.0.113.0/24    client3 is 203.0.113.16
#   10.244.N.0/24  pods of nodeN           10.96.0.0/16  Services, DNS at 10.96.0.10
#
# The tenants' pods (pod.sh) have addresses out of 10.244.0.0/16 too, on purpose: nothing routes to them but the
# client host they are on. Nothing routes to EPIC's pods either, but its own nodes and the API server.
# Expects $lab; needs host.sh.

underlay_clients=(client1 client2 client3)
underlay_others=(switch router nat cp internet)
dns_address=10.96.0.10

node_address() { echo "192.168.77.$((100 + ${1#node}))"; }
node_pods() { echo "10.244.${1#node}.0/24"; }

host_address() {
    case $1 in
    cp) echo 192.168.77.100 ;;
    node*) node_address "$1" ;;
    internet) echo 192.168.77.200 ;;
    router) echo 192.168.77.254 ;;
    nat) echo 198.51.100.2 ;;
    client1) echo 192.168.1.16 ;;
    client2) echo 192.168.1.25 ;;
    client3) echo 203.0.113.16 ;;
    esac
}

# cable HOST DEVICE OTHER DEVICE: a veth pair between two hosts, made inside the first one.
cable() {
    local other
    other=$(host_pid "$3")
    printf 'link add %s type veth peer name %s netns %s\nlink set %s up\n' "$2" "$4" "$other" "$2" | host_batch "$1"
    echo "link set $4 up" | host_batch "$3"
}

# Each host is wired by itself, so that all can be wired at once.
underlay_host() {
    local host=$1 node
    case $host in
    router | nat) return 0 ;;
    esac
    shift
    {
        case $host in
        client1) echo "address add 192.168.1.16/24 dev eth0" && echo "route add default via 192.168.1.1" ;;
        client2) echo "address add 192.168.1.25/24 dev eth0" && echo "route add default via 192.168.1.1" ;;
        client3) echo "address add 203.0.113.16/24 dev eth0" && echo "route add default via 203.0.113.1" ;;
        *) echo "address add $(host_address "$host")/24 dev eth0" && echo "route add default via 192.168.77.254" ;;
        esac
        case $host in
        cp | node*)
            for node; do
                [ "$node" = "$host" ] || echo "route add $(node_pods "$node") via $(node_address "$node")"
            done
            ;;
        esac
    } | host_batch "$host"
}

# underlay_make NODE…
underlay_make() {
    local host
    for host in "${underlay_others[@]}" "${underlay_clients[@]}" "$@"; do echo "link set lo up" | host_batch "$host"; done
    echo "link add br0 type bridge
link set br0 up" | host_batch switch
    # Bridged frames are none of netfilter's business here.
    host_sysctl switch net/bridge/bridge-nf-call-iptables=0
    for host in cp internet router "$@"; do
        cable switch "to-$host" "$host" eth0
        echo "link set to-$host master br0" | host_batch switch
    done
    cable router site1 client1 eth0
    cable router site2 nat eth0
    cable router site3 client3 eth0
    cable nat inside client2 eth0
    echo "address add 192.168.77.254/24 dev eth0
address add 192.168.1.1/24 dev site1
address add 198.51.100.1/24 dev site2
address add 203.0.113.1/24 dev site3" | host_batch router
    echo "address add 198.51.100.2/24 dev eth0
address add 192.168.1.1/24 dev inside
route add default via 198.51.100.1" | host_batch nat
    underlay_translate
    for host in cp internet "${underlay_clients[@]}" "$@"; do underlay_host "$host" "$@"; done
    for host in router nat "${underlay_clients[@]}" "$@"; do host_sysctl "$host" net/ipv4/ip_forward=1; done
}

# An ordinary home router: what comes in must have been asked for, and UDP never keeps its source port.
underlay_translate() {
    local enter
    host_enter nat
    "${enter[@]}" nft -f - <<'NFT'
table ip lab {
    chain forward {
        type filter hook forward priority filter; policy drop;
        iifname "inside" accept
        ct state established,related accept
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "eth0" meta l4proto udp masquerade to :20000-29999
        oifname "eth0" masquerade
    }
}
NFT
}

# host_sysctl HOST NAME=VALUE…: of the host's network namespace; one the kernel does not have is passed over.
host_sysctl() {
    local enter
    host_enter "$1"
    shift
    "${enter[@]}" sh -c 'for s; do [ ! -e "/proc/sys/${s%=*}" ] || echo "${s#*=}" >"/proc/sys/${s%=*}"; done' sh "$@"
}
