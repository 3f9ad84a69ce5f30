# shellcheck shell=bash
# A Kubernetes node: containerd, the bridge CNI, kubelet and kube-proxy in one host of the lab.
#
# Two halves: what needs no API server (containerd, images) starts with the control plane, the rest after it.
# Expects $lab, $lab_name, $tools, $pki, $cp_address, $cp_port; needs host.sh, underlay.sh, pki.sh.

node_container_runtime() {
    local node=$1 path
    path=$(host_path "$node")
    mkdir -p "$path/cni" "$path/opt" "$path/var/lib/containerd" "$path/var/lib/kubelet" "$path/var/log/pods"
    cat >"$path/cni/10-lab.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(node_pods "$node")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
JSON
    cat >"$path/containerd.toml" <<TOML
version = 4
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.image-verifier.v1.bindir', 'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.zfs']
[plugins.'io.containerd.internal.v1.opt']
  path = '$path/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'epic/pause:dev'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
  BinaryName = '$(command -v runc)'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['$tools']
  conf_dir = '$path/cni'
TOML
    host_start "$node" containerd "$tools/containerd" -c "$path/containerd.toml"
    wait_until 30 "containerd on $node (see $lab/log/$node-containerd.log)" node_ctr "$node" version
}

node_ctr() {
    local node=$1
    shift
    "$tools/ctr" -a "$(host_path "$node")/run/containerd/containerd.sock" -n k8s.io "$@"
}

# node_images NODE TAR…: imports what the node does not have yet; a tar's name says its content.
node_images() {
    local node=$1 known tar
    known=$(host_path "$node")/images
    shift
    touch "$known"
    for tar; do
        ! grep -qxF "$tar" "$known" || continue
        node_ctr "$node" images import --local "$tar" >>"$lab/log/$node-images.log" 2>&1 || {
            echo "$node cannot import $tar:" >&2
            tail -n 3 "$lab/log/$node-images.log" >&2
            return 1
        }
        echo "$tar" >>"$known"
    done
}

# The certificates a node needs can be made before the API server runs.
node_pki() {
    local node=$1
    pki_issue "$node" "system:node:$node" system:nodes "DNS:$node,IP:$(node_address "$node")"
    pki_kubeconfig "$node" "https://$cp_address:$cp_port" "$pki/$node.kubeconfig"
}

# kubelet's defaults are kept wherever they matter to what is tested: lease duration, status frequency, timeouts.
node_kubelet() {
    local node=$1 path
    path=$(host_path "$node")
    cat >"$path/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_address "$node")
healthzBindAddress: 127.0.0.1
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$lab_name/$node
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
resolvConf: ""
clusterDNS: [$dns_address]
clusterDomain: cluster.local
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/$node.crt
tlsPrivateKeyFile: $pki/$node.key
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
volumePluginDir: /var/lib/kubelet/volumeplugins
YAML
    host_start "$node" kubelet "$tools/kubelet" --config="$path/kubelet.yaml" --kubeconfig="$pki/$node.kubeconfig" \
        --hostname-override="$node" --node-ip="$(node_address "$node")"
}

# A short minSyncPeriod: a Service answers at once instead of up to a second late.
node_proxy() {
    local node=$1 path
    path=$(host_path "$node")
    cat >"$path/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $pki/proxy.kubeconfig}
hostnameOverride: $node
clusterCIDR: 10.244.0.0/16
nftables: {minSyncPeriod: 100ms}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: [primary]
YAML
    host_start "$node" kube-proxy "$tools/kube-proxy" --config="$path/proxy.yaml"
}
