# shellcheck shell=bash
# The flags of etcd, the API server and its two companions, and how to see that they are ready.
#
# Shared by `hack/lab` (control plane in the namespace of host cp, with nodes) and `hack/control-plane` (on loopback,
# without nodes, for controller tests). Starts nothing itself: the callers differ in where processes run.
# Expects: $pki, $cp_dir (etcd's folder lies below it), $cp_address (the API server's address), $cp_port,
# $cp_etcd_port, $cp_peer_port, $cp_services (the range of Service addresses).

control_plane_pki() {
    local first_service="${cp_services%.*}.1"
    pki_start
    pki_issue apiserver kube-apiserver "" \
        "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$cp_address,IP:$first_service" &
    pki_issue admin admin system:masters &
    pki_issue apiserver-kubelet-client kube-apiserver-kubelet-client system:masters &
    pki_issue front-proxy-client front-proxy-client &
    pki_issue controller-manager system:kube-controller-manager &
    pki_issue scheduler system:kube-scheduler &
    wait
    local server="https://$cp_address:$cp_port" client
    for client in admin controller-manager scheduler; do pki_kubeconfig "$client" "$server" "$pki/$client.kubeconfig"; done
}

# Each prints its flags one a line; values hold no white space.
etcd_flags() {
    cat <<FLAGS
--data-dir=$cp_dir/etcd
--name=m
--listen-client-urls=http://127.0.0.1:$cp_etcd_port
--advertise-client-urls=http://127.0.0.1:$cp_etcd_port
--listen-peer-urls=http://127.0.0.1:$cp_peer_port
--initial-advertise-peer-urls=http://127.0.0.1:$cp_peer_port
--initial-cluster=m=http://127.0.0.1:$cp_peer_port
--unsafe-no-fsync
--log-level=warn
FLAGS
}

# Priority and fairness is off, since a lab has nobody to be fair to; aggregator routing makes webhooks reach pod addresses.
apiserver_flags() {
    cat <<FLAGS
--etcd-servers=http://127.0.0.1:$cp_etcd_port
--secure-port=$cp_port
--bind-address=$cp_bind
--advertise-address=$cp_address
--tls-cert-file=$pki/apiserver.crt
--tls-private-key-file=$pki/apiserver.key
--client-ca-file=$pki/ca.crt
--service-account-issuer=https://kubernetes.default.svc.cluster.local
--service-account-key-file=$pki/sa.pub
--service-account-signing-key-file=$pki/sa.key
--authorization-mode=Node,RBAC
--enable-admission-plugins=NodeRestriction
--allow-privileged=true
--service-cluster-ip-range=$cp_services
--kubelet-client-certificate=$pki/apiserver-kubelet-client.crt
--kubelet-client-key=$pki/apiserver-kubelet-client.key
--kubelet-certificate-authority=$pki/ca.crt
--kubelet-preferred-address-types=InternalIP,Hostname
--requestheader-client-ca-file=$pki/ca.crt
--requestheader-allowed-names=front-proxy-client
--requestheader-username-headers=X-Remote-User
--requestheader-group-headers=X-Remote-Group
--requestheader-extra-headers-prefix=X-Remote-Extra-
--proxy-client-cert-file=$pki/front-proxy-client.crt
--proxy-client-key-file=$pki/front-proxy-client.key
--enable-aggregator-routing=true
--enable-priority-and-fairness=false
--profiling=false
FLAGS
}

# The rate limit is raised because at the default the first ServiceAccount takes six seconds instead of one.
# Node monitoring stays at its defaults: what a test says about a dead node has to hold for ordinary clusters.
controller_manager_flags() {
    cat <<FLAGS
--kubeconfig=$pki/controller-manager.kubeconfig
--authentication-kubeconfig=$pki/controller-manager.kubeconfig
--authorization-kubeconfig=$pki/controller-manager.kubeconfig
--secure-port=0
--leader-elect=false
--use-service-account-credentials=true
--service-account-private-key-file=$pki/sa.key
--root-ca-file=$pki/ca.crt
--cluster-signing-cert-file=$pki/ca.crt
--cluster-signing-key-file=$pki/ca.key
--service-cluster-ip-range=$cp_services
--allocate-node-cidrs=false
--kube-api-qps=200
--kube-api-burst=400
FLAGS
}

scheduler_flags() {
    cat <<FLAGS
--kubeconfig=$pki/scheduler.kubeconfig
--authentication-kubeconfig=$pki/scheduler.kubeconfig
--authorization-kubeconfig=$pki/scheduler.kubeconfig
--secure-port=0
--leader-elect=false
FLAGS
}

# api_get PATH: asks the API server as the administrator. `cp_enter` (an array) gets there; it may be empty.
api_get() {
    "${cp_enter[@]}" curl --silent --show-error --fail --max-time 5 --cacert "$pki/ca.crt" --cert "$pki/admin.crt" \
        --key "$pki/admin.key" "https://$cp_address:$cp_port$1"
}

# wait_until SECONDS WHAT COMMAND…: repeats the command until it succeeds; says what was missing when it never does.
wait_until() {
    local deadline=$(($(date +%s) + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || {
            echo "waited too long for: $what" >&2
            return 1
        }
        sleep 0.05
    done
}

api_is_ready() { api_get /readyz; }
service_accounts_are_made() { api_get /api/v1/namespaces/default/serviceaccounts/default; }
