# shellcheck shell=bash
# Which programs the lab and the checks need, where each comes from, and where they are kept.
#
# The versions are in <tool>/go.mod (exact sums in go.sum) and envoy/requirements.txt; checks that are written here lie
# beside theirs. A program is kept under a key made of its folder, so a changed pin or source never meets an old binary and
# builds again only what it concerns. All of them together make the key of the folder in which the programs of one checkout
# are found.
# Sourced by `build` and `bin`; does nothing by itself.

tools_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Raised when the way of building changes, so that binaries built the old way are not used.
tools_recipe=1

# Prints the version of module $2 as pinned in tool $1.
pinned() { sed -nE "s#^(require )?[[:space:]]*$2 (v[^[:space:]]+).*#\2#p" "$tools_dir/$1/go.mod" | head -n 1; }

# One line per binary, in the order of building: what other work waits for comes first.
#   name   folder of its pin   main package
tools_list() {
    cat <<'LIST'
etcd                     etcd        go.etcd.io/etcd/server/v3
kube-apiserver           kubernetes  k8s.io/kubernetes/cmd/kube-apiserver
kube-controller-manager  kubernetes  k8s.io/kubernetes/cmd/kube-controller-manager
kubectl                  kubernetes  k8s.io/kubernetes/cmd/kubectl
kube-scheduler           kubernetes  k8s.io/kubernetes/cmd/kube-scheduler
kubelet                  kubernetes  k8s.io/kubernetes/cmd/kubelet
kube-proxy               kubernetes  k8s.io/kubernetes/cmd/kube-proxy
containerd               containerd  github.com/containerd/containerd/v2/cmd/containerd
containerd-shim-runc-v2  containerd  github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
ctr                      containerd  github.com/containerd/containerd/v2/cmd/ctr
bridge                   cni         github.com/containernetworking/plugins/plugins/main/bridge
loopback                 cni         github.com/containernetworking/plugins/plugins/main/loopback
host-local               cni         github.com/containernetworking/plugins/plugins/ipam/host-local
portmap                  cni         github.com/containernetworking/plugins/plugins/meta/portmap
envoy                    envoy       -
coredns                  coredns     github.com/coredns/coredns
helm                     helm        helm.sh/helm/v3/cmd/helm
promtool                 prometheus  github.com/prometheus/prometheus/cmd/promtool
prometheus               prometheus  github.com/prometheus/prometheus/cmd/prometheus
epic-health              health      .
epic-policies            policies    .
LIST
}

tools_key() {
    (cd "$tools_dir" && { echo "$tools_recipe"; cat ./*/go.mod ./*/go.sum ./*/*.go envoy/requirements.txt; } | sha256sum | cut -c1-16)
}

# Key of the pin in folder $1.
pin_key() {
    (cd "$tools_dir/$1" && { echo "$tools_recipe"; cat ./*; } | sha256sum | cut -c1-16)
}

tools_home="${XDG_CACHE_HOME:-$HOME/.cache}/epic/tools"
tools_kept="$tools_home/kept"
tools_bin="$tools_home/$(tools_key)/bin"
