//! `epicctl preflight`: a cluster that is fit, and one trap at a time.

use epicctl::preflight::{Check, Facts, Verdict, judge, node, passes, render};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of its kind")
}

fn node_with(name: &str, changes: &[(&str, Value)]) -> Node {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.10"}],
            "allocatable": {"pods": "110", "memory": "65536Mi"},
            "nodeInfo": {"kernelVersion": "6.12.0-1-cloud", "architecture": "amd64", "bootID": "", "machineID": "",
                "systemUUID": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
                "kubeProxyVersion": "", "operatingSystem": "linux"},
        },
    });
    for (pointer, change) in changes {
        *value.pointer_mut(pointer).expect("a place") = change.clone();
    }
    object(value)
}

fn well() -> Facts {
    Facts {
        version: "v1.36.0".to_owned(),
        nodes: Some(vec![node_with("a", &[]), node_with("b", &[])]),
        pods: Some(Vec::new()),
        service_networks: vec!["10.96.0.0/16".to_owned()],
        namespace: Some(object::<Namespace>(json!({"metadata": {"name": "epic", "labels": {
            "pod-security.kubernetes.io/enforce": "privileged",
        }}}))),
        load_balancers: 50,
        replicas: 2,
        plugins: vec!["flannel".to_owned()],
        ..Facts::default()
    }
}

fn check<'c>(checks: &'c [Check], name: &str) -> &'c Check {
    checks.iter().find(|check| check.name == name && check.verdict != Verdict::Ok).unwrap_or_else(|| {
        panic!("{name} is in order:\n{}", render(checks));
    })
}

#[test]
fn a_cluster_that_is_fit_passes_without_a_word_of_advice() {
    let checks = judge(&well());
    assert!(
        passes(&checks) && checks.iter().all(|check| check.verdict == Verdict::Ok),
        "{}",
        render(&checks)
    );
    insta::assert_snapshot!(render(&checks));
}

#[test]
fn each_trap_is_named_with_what_to_do() {
    type Case = (&'static str, fn(&mut Facts), &'static str, Verdict, &'static str);
    let cilium = |entries: &[(&str, &str)]| {
        Some(entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    let cases: &[Case] = &[
        (
            "old Kubernetes",
            |f| f.version = "v1.32.4".to_owned(),
            "Kubernetes",
            Verdict::Fail,
            "upgrade the cluster",
        ),
        (
            "no namespace",
            |f| f.namespace = None,
            "PodSecurity",
            Verdict::Warn,
            "kubectl create namespace epic",
        ),
        (
            "a namespace of another level",
            |f| {
                f.namespace = Some(object(
                    json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}),
                ))
            },
            "PodSecurity",
            Verdict::Fail,
            "pod-security.kubernetes.io/enforce=privileged",
        ),
        (
            "an old kernel on one node",
            |f| {
                f.nodes = Some(vec![
                    node_with("a", &[]),
                    node_with("b", &[("/status/nodeInfo/kernelVersion", json!("5.15.0"))]),
                ])
            },
            "kernels",
            Verdict::Warn,
            "b (5.15.0)",
        ),
        (
            "old kernels everywhere",
            |f| {
                f.nodes =
                    Some(vec![node_with("a", &[("/status/nodeInfo/kernelVersion", json!("6.1.0-30-amd64"))])])
            },
            "kernels",
            Verdict::Fail,
            "upgrade the kernel",
        ),
        (
            "a node of another architecture",
            |f| {
                f.nodes = Some(vec![
                    node_with("a", &[]),
                    node_with("b", &[("/metadata/labels/kubernetes.io~1arch", json!("arm64"))]),
                ])
            },
            "architecture",
            Verdict::Warn,
            "b (arm64)",
        ),
        (
            "an IPv6-only node",
            |f| {
                f.nodes = Some(vec![node_with("a", &[("/status/addresses/0/address", json!("2001:db8::1"))])])
            },
            "addresses",
            Verdict::Fail,
            "tunnels are IPv4",
        ),
        (
            "pods in the range of proxies",
            |f| f.nodes = Some(vec![node_with("a", &[("/spec/podCIDRs/0", json!("100.64.0.0/16"))])]),
            "ranges",
            Verdict::Fail,
            "spec.proxy-addresses.ipv4",
        ),
        (
            "Services in the range of aliases",
            |f| f.service_networks = vec!["100.127.0.0/20".to_owned()],
            "ranges",
            Verdict::Fail,
            "Services",
        ),
        (
            "a range that was set does not collide any more",
            |f| {
                f.epic = Some(object(json!({"alias-addresses": {"ipv4": "10.96.4.0/24"}})));
                f.service_networks = vec!["10.96.0.0/16".to_owned()];
            },
            "ranges",
            Verdict::Fail,
            "10.96.4.0/24 (aliases)",
        ),
        ("too many load balancers", |f| f.load_balancers = 5000, "capacity", Verdict::Warn, "10000 proxies"),
        (
            "somebody has the GUE port",
            |f| {
                f.pods = Some(vec![object::<Pod>(
                    json!({"metadata": {"name": "x", "namespace": "games"}, "spec": {"containers": [
                        {"name": "c", "ports": [{"containerPort": 6080, "hostPort": 6080, "protocol": "UDP"}]},
                    ]}}),
                )]);
            },
            "ports",
            Verdict::Fail,
            "6080/UDP by games/x",
        ),
        ("Calico's eBPF", |f| f.calico_bpf = true, "network", Verdict::Warn, "standard data plane"),
    ];
    for (situation, break_it, name, verdict, needle) in cases {
        let mut facts = well();
        break_it(&mut facts);
        let checks = judge(&facts);
        let check = check(&checks, name);
        assert_eq!(check.verdict, *verdict, "{situation}:\n{}", render(&checks));
        assert!(render(std::slice::from_ref(check)).contains(needle), "{situation}:\n{}", render(&checks));
        assert_eq!(passes(&checks), *verdict != Verdict::Fail, "{situation}");
    }
    let socket = Facts { cilium: cilium(&[("kube-proxy-replacement", "true")]), ..well() };
    assert!(check(&judge(&socket), "network").remedy.contains("bpf-lb-sock-hostns-only"));
    let spared = Facts {
        cilium: cilium(&[("kube-proxy-replacement", "true"), ("bpf-lb-sock-hostns-only", "true")]),
        ..well()
    };
    assert!(passes(&judge(&spared)));
    let netkit = Facts { cilium: cilium(&[("datapath-mode", "netkit")]), ..well() };
    assert!(check(&judge(&netkit), "network").remedy.contains("veth"));
}

#[test]
fn what_may_not_be_read_is_unknown_and_not_well() {
    let blind = Facts { nodes: None, pods: None, ..well() };
    let unknown = judge(&blind).into_iter().filter(|check| check.verdict == Verdict::Unknown).count();
    assert_eq!(unknown, 2);
}

#[test]
fn a_node_is_judged_by_its_own_files() {
    let well = node::Facts {
        kernel: "6.12.0-1-cloud".to_owned(),
        mounts: "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0".to_owned(),
        routes: "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t01020304\t0003\t0\t0\t0\t00000000".to_owned(),
        has_btf: true,
        interfaces: vec![("eth0".to_owned(), "1".to_owned(), "up".to_owned())],
        port_taken: None,
        port: 6080,
    };
    assert!(
        node::judge(&well).iter().all(|check| check.verdict == Verdict::Ok),
        "{}",
        render(&node::judge(&well))
    );
    let broken: [(node::Facts, &str, Verdict); 6] = [
        (node::Facts { kernel: "6.1.0".to_owned(), ..well.clone() }, "kernel", Verdict::Fail),
        (node::Facts { mounts: String::new(), ..well.clone() }, "bpffs", Verdict::Fail),
        (node::Facts { has_btf: false, ..well.clone() }, "BTF", Verdict::Warn),
        (
            node::Facts {
                interfaces: vec![("eth0".to_owned(), "65534".to_owned(), "up".to_owned())],
                ..well.clone()
            },
            "uplink",
            Verdict::Fail,
        ),
        (
            node::Facts {
                interfaces: vec![("eth0".to_owned(), "1".to_owned(), "down".to_owned())],
                ..well.clone()
            },
            "uplink",
            Verdict::Fail,
        ),
        (node::Facts { port_taken: Some("address in use".to_owned()), ..well }, "GUE port", Verdict::Warn),
    ];
    for (facts, name, verdict) in broken {
        assert_eq!(check(&node::judge(&facts), name).verdict, verdict, "{facts:?}");
    }
}

#[test]
fn this_machine_can_be_read() {
    let facts = node::gather(0);
    assert!(!facts.kernel.is_empty() && !facts.interfaces.is_empty(), "{facts:?}");
    assert_eq!(node::judge(&facts).len(), 5);
}
