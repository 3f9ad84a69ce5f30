//! Endpoints and proxies that come and go.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::Duration;

use epic_e2e::lab::{Lab, endpoint, load_balancer};
use epic_e2e::stream::Stream;
use epic_testnet::Netns;
use epic_traffic::{Question, Tally};
use serde_json::{Value, json};

use crate::tenants::proxy_pods;

const NAMESPACE: &str = "epic-sample";

/// A LoadBalancer of tenant sample with one proxy that drains quickly, on port 9000 → 8081.
pub(crate) fn make_load_balancer(lab: &Lab, name: &str) -> SocketAddr {
    lab.apply(&json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "ServiceGroup",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"address-pools": ["default"], "envoy-replicas": 1, "timeouts": {"drain": "3s"}},
    }));
    lab.apply(&json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"service-group": name, "public-ports": [{"port": 9000, "protocol": "TCP", "targetPort": 8081}]},
    }));
    lab.until_true(&load_balancer(NAMESPACE, name), &["Accepted", "Programmed", "Ready"]);
    lab.vip(NAMESPACE, name)
}

/// Takes away what [`make_load_balancer`] and [`add`] made, and waits until its proxies are gone.
pub(crate) fn remove_load_balancer(lab: &Lab, name: &str) {
    for object in lab.list(&format!("/apis/epic.acnodal.io/v1/namespaces/{NAMESPACE}/endpoints")) {
        if object["spec"]["load-balancer"] == name {
            lab.delete(&endpoint(NAMESPACE, object["metadata"]["name"].as_str().expect("a name")));
        }
    }
    lab.delete(&load_balancer(NAMESPACE, name));
    lab.delete_after_use(&format!("/apis/epic.acnodal.io/v1/namespaces/{NAMESPACE}/servicegroups/{name}"));
    lab.until(&format!("{name} and its proxies are gone"), || {
        let pods = lab.list(&format!("/api/v1/namespaces/{NAMESPACE}/pods"));
        let prefix = format!("epic-{name}-");
        let left: Vec<&str> = pods
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .filter(|pod| pod.starts_with(&prefix))
            .collect();
        if left.is_empty() && lab.find(&load_balancer(NAMESPACE, name)).is_none() {
            Ok(())
        } else {
            Err(left.join(", "))
        }
    });
}

/// An Endpoint on port 8081 of a pod of tenant sample.
pub(crate) fn add(lab: &Lab, balancer: &str, name: &str, node: &str, address: &str) {
    lab.apply(&json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"load-balancer": balancer, "node-address": node, "address": address,
                 "port": {"port": 8081, "protocol": "TCP"}},
    }));
}

fn ask(lab: &Lab, to: SocketAddr, count: usize) -> Tally {
    let question = Question::new(to).patience(Duration::from_secs(5));
    let mut tally = Tally::default();
    lab.host("internet").run(|| (0..count).for_each(|_| tally.count(&question.ask())));
    tally
}

/// Waits until 30 requests are all answered, by exactly these servers.
fn until_answered_by(lab: &Lab, to: SocketAddr, servers: &[&str]) {
    let expected: BTreeSet<String> = servers.iter().map(|server| format!("sample {server}")).collect();
    lab.until(&format!("{servers:?} and nobody else answer"), || {
        let tally = ask(lab, to, 30);
        let seen: BTreeSet<String> = tally.answered.keys().cloned().collect();
        if tally.failed == 0 && seen == expected { Ok(()) } else { Err(tally.to_string()) }
    });
}

const ONE: (&str, &str, &str) = ("members-1", "192.168.1.16", "10.244.1.5");
const TWO: (&str, &str, &str) = ("members-2", "192.168.1.16", "10.244.1.6");
const THREE: (&str, &str, &str) = ("members-3", "192.168.1.25", "10.244.1.5");

pub(crate) fn traffic_follows_the_endpoints(lab: &Lab) {
    let to = make_load_balancer(lab, "members");
    for (name, node, address) in [ONE, TWO, THREE] {
        add(lab, "members", name, node, address);
    }
    for (name, ..) in [ONE, TWO, THREE] {
        lab.until_true(&endpoint(NAMESPACE, name), &["Programmed", "TunnelUp"]);
    }
    until_answered_by(lab, to, &["client1 10.244.1.5", "client1 10.244.1.6", "client2 10.244.1.5"]);

    for (name, ..) in [ONE, THREE] {
        lab.delete(&endpoint(NAMESPACE, name));
    }
    until_answered_by(lab, to, &["client1 10.244.1.6"]);
    let tally = ask(lab, to, 100);
    assert!(tally.failed == 0 && tally.answered.len() == 1, "nothing reaches the removed ones: {tally}");

    lab.delete(&endpoint(NAMESPACE, TWO.0));
    lab.until("nobody answers", || {
        let tally = ask(lab, to, 1);
        if tally.failed == 1 { Ok(()) } else { Err(tally.to_string()) }
    });
    for _ in 0..20 {
        let error = lab
            .host("internet")
            .run(|| Question::new(to).patience(Duration::from_secs(20)).ask())
            .expect_err("nobody is there");
        assert!(
            matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            "a connection that cannot be served is ended, not left to its patience: {error}"
        );
    }

    for (name, node, address) in [TWO, THREE] {
        add(lab, "members", name, node, address);
    }
    until_answered_by(lab, to, &["client1 10.244.1.6", "client2 10.244.1.5"]);
    remove_load_balancer(lab, "members");
}

/// So many that a table of them has several levels, applied while others of them are being worked on.
pub(crate) fn many_endpoints_at_once_all_come_into_force(lab: &Lab) {
    make_load_balancer(lab, "many");
    for number in 0..300 {
        let address = format!("10.251.{}.{}", number / 250, number % 250 + 1);
        add(lab, "many", &format!("many-{number}"), ONE.1, &address);
    }
    lab.until("all of them are programmed", || {
        let all = lab.list(&format!("/apis/epic.acnodal.io/v1/namespaces/{NAMESPACE}/endpoints"));
        let mine = all.iter().filter(|object| object["spec"]["load-balancer"] == "many");
        let left: Vec<&str> = mine
            .filter(|object| !epic_e2e::lab::is_true(object, "Programmed"))
            .filter_map(|object| object["metadata"]["name"].as_str())
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
    remove_load_balancer(lab, "many");
}

fn ready_proxies(lab: &Lab, name: &str, count: usize) -> Vec<Value> {
    let path = load_balancer(NAMESPACE, name);
    lab.until(&format!("{name} has {count} proxies, ready and programmed"), || {
        let object = lab.get(&path);
        let proxies = object["status"]["proxies"].as_array().cloned().unwrap_or_default();
        let ready = proxies.iter().filter(|proxy| proxy["state"] == "Ready").count();
        if ready == count && proxies.len() == count && epic_e2e::lab::is_true(&object, "Programmed") {
            Ok(proxies)
        } else {
            Err(object["status"].to_string())
        }
    })
}

pub(crate) fn replicas_come_and_go_without_a_failed_request(lab: &Lab) {
    let to = make_load_balancer(lab, "replicas");
    add(lab, "replicas", "replicas-1", ONE.1, ONE.2);
    add(lab, "replicas", "replicas-2", THREE.1, THREE.2);
    until_answered_by(lab, to, &["client1 10.244.1.5", "client2 10.244.1.5"]);
    let group = format!("/apis/epic.acnodal.io/v1/namespaces/{NAMESPACE}/servicegroups/replicas");

    let stream = Stream::start(lab, to);
    lab.change(&group, &json!({"spec": {"envoy-replicas": 2}}));
    let proxies = ready_proxies(lab, "replicas", 2);
    let nodes: BTreeSet<&str> = proxies.iter().filter_map(|proxy| proxy["node"].as_str()).collect();
    assert_eq!(nodes.len(), 2, "the proxies are spread over two nodes: {proxies:?}");
    let tally = ask(lab, to, 200);
    assert_eq!(tally.failed, 0, "{tally}");
    for proxy in &proxies {
        let address = proxy["proxy-address"].as_str().expect("a proxy address");
        let count = tally.peers.get(address).copied().unwrap_or_default();
        assert!(count >= 40, "proxy {address} gets its share of 200 requests: {:?}", tally.peers);
    }

    lab.change(&group, &json!({"spec": {"envoy-replicas": 1}}));
    ready_proxies(lab, "replicas", 1);
    let tally = stream.finish(400);
    assert!(tally.is_right("sample"), "while proxies came and went: {tally}");
    remove_load_balancer(lab, "replicas");
}

/// The network of the proxy pod with this address: the one an Envoy of this lab runs in.
fn network_of(lab: &Lab, address: &str) -> Netns {
    let name = std::fs::read_to_string(lab.folder().join("name")).expect("the lab's name");
    let processes = std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.parse::<u32>().ok()
    });
    for pid in processes {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if read("comm").trim() == "envoy" && read("cgroup").contains(&format!("/{}/", name.trim())) {
            let netns = Netns::of_process("a proxy pod", pid);
            if netns.ip("-4 -oneline address show").contains(&format!(" {address}/")) {
                return netns;
            }
        }
    }
    panic!("no Envoy runs at {address}");
}

pub(crate) fn two_proxies_may_use_the_same_source_port_at_once(lab: &Lab) {
    let object = lab.get(&endpoint(NAMESPACE, "client1-5"));
    let alias = object["status"]["alias-address"].as_str().expect("an alias").parse().expect("an address");
    let to = SocketAddr::new(alias, 8080);
    let pods = proxy_pods(lab, NAMESPACE);
    assert_eq!(pods.len(), 2, "sample-acnodal has two proxies: {pods:?}");
    for port in 15_000..15_010 {
        let barrier = Barrier::new(pods.len());
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> = pods
                .iter()
                .map(|(_, address)| {
                    let from = SocketAddr::new(address.parse().expect("an address"), port);
                    let (barrier, network) = (&barrier, network_of(lab, address));
                    scope.spawn(move || {
                        network.run(|| {
                            barrier.wait();
                            Question::new(to).from(from).path("/wait/200").ask()
                        })
                    })
                })
                .collect();
            asking.into_iter().map(|thread| thread.join().expect("a proxy's request")).collect()
        });
        let peers: BTreeSet<String> = answers
            .into_iter()
            .map(|answer| {
                let answer =
                    answer.unwrap_or_else(|error| panic!("from port {port} of both proxies: {error}"));
                assert_eq!((answer.tenant.as_str(), answer.host.as_str()), ("sample", "client1"));
                answer.peer
            })
            .collect();
        assert_eq!(peers.len(), 2, "the pod saw two proxies: {peers:?}");
        assert!(
            peers.iter().all(|peer| peer.ends_with(&format!(":{port}"))),
            "with the same port: {peers:?}"
        );
    }
}
