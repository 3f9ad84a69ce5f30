use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use epic_crds::{Account, AddressClaim, AddressPool, EPICNode, Endpoint, LoadBalancer, SourcePorts};
use epic_lb::render::{ClientSide, NodeSide};
use epic_lb::{
    EpicLayout, FakeMaps, Here, Link, Pass, Selection, ServiceId, ServiceRef, Tables, Veth, Writer,
};
use epic_reconciler::{Budget, Reconciler, Render, Settings};
use imbl::{OrdMap, OrdSet};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::de::DeserializeOwned;

use super::client::{self, Facts, FactsError};
use super::keys::{self, Keyring, Master};
use super::node::{self, Decision, Desired, Objects, Place};
use super::{Identity, Rows};

const UID: &str = "1a8522b9-70a4-4a9c-bdd7-ba912a61170a";

fn read<K: DeserializeOwned>(yaml: &str) -> Arc<K> {
    Arc::new(serde_yaml::from_str(yaml).unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn load_balancer() -> Arc<LoadBalancer> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: LoadBalancer
metadata: {{name: web, namespace: epic-red, uid: {UID}, resourceVersion: '7', generation: 1}}
spec:
  service-group: shared
  public-ports: [{{port: 80, protocol: TCP}}]
status:
  group-id: 1
  service-id: 2
  public-address: 192.0.2.7
  key-generation: 1
  ports: [{{port: 80, protocol: TCP, slot: 3}}]
  gue-tunnel-endpoints:
    10.9.0.1:
      epic-address: 198.51.100.1
      epic-port: {{port: 6080, protocol: UDP, appProtocol: gue}}
      tunnel-id: 11
      alternates:
      - {{epic-address: 198.51.100.2, epic-port: {{port: 6080, protocol: UDP}}, tunnel-id: 12}}
  proxies:
  - {{pod: a, pod-uid: ua, node: n1, epic-address: 198.51.100.1, proxy-id: 1, proxy-address: 100.64.0.1, state: Ready}}
  - {{pod: b, pod-uid: ub, node: n2, epic-address: 198.51.100.2, proxy-id: 2, proxy-address: 100.64.0.2, state: Ready}}
"
    ))
}

fn endpoint(name: &str, address: &str, alias: &str) -> Arc<Endpoint> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: Endpoint
metadata: {{name: {name}, namespace: epic-red, generation: 1}}
spec: {{load-balancer: web, address: {address}, node-address: 10.9.0.1, port: {{port: 8080, protocol: TCP}}}}
status: {{alias-address: {alias}}}
"
    ))
}

fn pod(namespace: &str) -> Arc<Pod> {
    read(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: a, namespace: {namespace}, uid: ua}}
status: {{phase: Running, podIP: 10.244.1.5}}
"
    ))
}

fn epic_node(name: &str, address: &str) -> Arc<EPICNode> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: EPICNode
metadata: {{name: {name}, namespace: epic}}
status:
  addresses: [{address}]
  conditions: [{{type: Ready, status: 'True', reason: Ready, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]
"
    ))
}

fn core_node(name: &str) -> Arc<Node> {
    read(&format!(
        "
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
"
    ))
}

fn claim() -> Arc<AddressClaim> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: AddressClaim
metadata: {{name: 192.0.2.7, namespace: epic}}
spec:
  address: 192.0.2.7
  pool: edge
  owner: {{kind: LoadBalancer, namespace: epic-red, name: web, uid: {UID}, resource-version: '1'}}
"
    ))
}

fn pool(advertise: &str) -> Arc<AddressPool> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: AddressPool
metadata: {{name: edge, namespace: epic}}
spec: {{addresses: [192.0.2.0/24]{advertise}}}
"
    ))
}

fn objects() -> Objects {
    Objects {
        load_balancers: vec![load_balancer()],
        endpoints: vec![
            endpoint("e1", "10.244.1.5", "100.127.0.1"),
            endpoint("e2", "10.244.1.6", "100.127.0.2"),
        ],
        claims: vec![claim()],
        pools: vec![pool(", advertise: {l2: {}}")],
        epic_nodes: vec![epic_node("n1", "198.51.100.1"), epic_node("n2", "198.51.100.2")],
        nodes: vec![core_node("n1"), core_node("n2")],
        pods: vec![pod("epic-red")],
        ..Objects::default()
    }
}

fn place(name: &str, address: &str) -> Place {
    Place { name: name.into(), link: Link { ifindex: 2, mtu: 1_500, local: ip(address) } }
}

fn veth(ifindex: u32) -> Veth {
    Veth { ifindex, ifname: "veth0".into(), pod_mac: [0; 6], host_mac: [0; 6], pod_ip: ip("10.244.1.5") }
}

fn keyring() -> Keyring {
    Keyring::new(Master::new(&[7; 32]).unwrap())
}

fn decide(objects: &Objects) -> Desired {
    let veths = BTreeMap::from([(ip("10.244.1.5"), vec![veth(4), veth(9)])]);
    let place = place("n1", "198.51.100.1");
    Decision::new(objects, &place, &mut keyring(), &veths, &BTreeSet::new(), |_, _| true).into_desired()
}

/// What the maps hold after the rows were written, as text.
fn maps_of(rows: Rows, render: impl Render<EpicLayout, Tables = Tables, Scope = ServiceRef>) -> String {
    let writer = Writer::new();
    let initializer = writer.register_initializer("test");
    let mut reconciler =
        Reconciler::new(writer.reader(), FakeMaps::default(), render, Settings::default()).unwrap();
    let (revision, refused) = rows.write(&writer, Some(&initializer));
    assert_eq!(refused, []);
    reconciler.round(Instant::now(), Budget::UNLIMITED);
    assert!(reconciler.progress().covers(revision), "{}", reconciler.progress().health);
    epic_lb::maps::dump(reconciler.maps().content().map(|(key, value)| (*key, value.clone())))
}

/// What the proxies of all LoadBalancers may reach without a tunnel.
fn passes_of(rows: &Rows) -> Vec<&Pass> {
    rows.services.iter().flat_map(|rows| &rows.passes).collect()
}

#[test]
fn an_epic_node_holds_its_proxy_its_tunnels_and_the_way_to_other_nodes() {
    let desired = decide(&objects());
    assert_eq!(desired.left_out().count(), 0);
    assert_eq!(
        desired.directory.tunnels.keys().copied().collect::<Vec<u32>>(),
        [11],
        "of two ends one is here"
    );
    insta::assert_snapshot!(maps_of(desired.rows, NodeSide::new("n1", 1)));
}

#[test]
fn a_client_node_holds_the_way_to_each_proxy_and_its_own_endpoints() {
    let identity = Identity::of(&load_balancer()).unwrap();
    let master = Master::new(&[7; 32]).unwrap();
    let data = (1..=2u32).map(|generation| {
        let subject = epic_abi::keys::Subject {
            lb: identity.lb(),
            uid: *b"\x1a\x85\x22\xb9\x70\xa4\x4a\x9c\xbd\xd7\xba\x91\x2a\x61\x17\x0a",
            generation,
        };
        let bytes = epic_abi::keys::ClientKeys::derive(&[7; 32], &subject).to_bytes();
        (format!("{UID}.{generation}"), ByteString(bytes.to_vec()))
    });
    let secret = Secret { data: Some(data.collect()), ..Secret::default() };
    let objects = client::Objects {
        load_balancers: vec![load_balancer()],
        endpoints: vec![endpoint("e1", "10.244.1.5", "100.127.0.1")],
        keys: Some(Arc::new(secret)),
    };
    let me = ip("10.9.0.1");
    let facts = Facts { proxies: Vec::new(), port: 6080, overhead: 52, source_ports: SourcePorts::Fixed };
    let addresses = client::epic_addresses(&objects, me);
    assert_eq!(addresses, [ip("198.51.100.1"), ip("198.51.100.2")].into());
    let link = Link { ifindex: 3, mtu: 1_400, local: ip("172.16.0.9") };
    let ways = addresses.into_iter().map(|address| (address, Ok(link))).collect();
    let desired = client::desired(&objects, me, &facts, &ways);
    // Both sides come to the same keys, one by derivation, one by reading.
    let (_, hello) = master.keys(&identity).unwrap();
    assert_eq!(desired.wanted[&11].key, hello[&1]);
    assert_eq!(desired.wanted[&12].local.to_string(), "172.16.0.9:6080");
    insta::assert_snapshot!(maps_of(desired.rows, ClientSide));
}

#[test]
fn another_client_node_s_tunnels_and_endpoints_are_none_of_ours() {
    let objects = client::Objects { load_balancers: vec![load_balancer()], ..client::Objects::default() };
    assert!(client::epic_addresses(&objects, ip("10.9.0.2")).is_empty());
}

#[test]
fn without_the_current_key_a_client_does_not_touch_a_load_balancer() {
    let objects = client::Objects {
        load_balancers: vec![load_balancer()],
        keys: Some(Arc::default()),
        ..client::Objects::default()
    };
    let facts = Facts { proxies: Vec::new(), port: 6080, overhead: 52, source_ports: SourcePorts::Fixed };
    let desired = client::desired(&objects, ip("10.9.0.1"), &facts, &BTreeMap::new());
    assert_eq!(desired.rows, Rows::default());
    assert_eq!(desired.left_out, ["epic-red/web: its keys are not in the Secret yet"]);
}

#[test]
fn of_two_veths_with_the_pod_s_address_the_younger_is_the_proxy_s() {
    let desired = decide(&objects());
    assert_eq!(desired.local["ua"].veth.ifindex, 9);
    assert_eq!(desired.local["ua"].clients, BTreeMap::from([(ip("10.9.0.1"), Some(11))]));
}

#[test]
fn a_proxy_without_veth_takes_no_row_and_holds_up_no_other() {
    let mut without = objects();
    without.pods.clear();
    let desired = decide(&without);
    assert_eq!(desired.rows.services[0].proxies.len(), 1);
    let dump = maps_of(desired.rows, NodeSide::new("n1", 1));
    assert!(dump.contains("maglev lb 1/2 -> 2×2039"), "{dump}");
}

#[test]
fn a_pod_of_another_namespace_is_no_proxy_whatever_its_uid() {
    let mut foreign = objects();
    foreign.pods = vec![pod("kube-system")];
    let desired = decide(&foreign);
    assert!(desired.local.is_empty());
    assert_eq!(desired.left_out().collect::<Vec<_>>(), ["proxy 1: its pod lies in another namespace"]);
}

fn account(status: &str) -> Arc<Account> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: Account
metadata: {{name: red, namespace: epic}}
spec: {{client-networks: [10.9.0.0/16]}}
status: {{{status}}}
"
    ))
}

/// A pod of this node, created in this second of a minute, with more metadata.
fn pod_of(uid: &str, namespace: &str, address: &str, second: u8, metadata: &str) -> Arc<Pod> {
    read(&format!(
        "
metadata:
  {{name: {uid}, namespace: {namespace}, uid: {uid}, creationTimestamp: '2026-01-01T00:00:{second:02}Z'{metadata}}}
status: {{phase: Running, podIP: {address}}}
"
    ))
}

fn fences(objects: &Objects) -> (Vec<u32>, Vec<u32>) {
    let desired = decide(objects);
    (desired.fences.into_keys().collect(), desired.others.into_iter().collect())
}

#[test]
fn every_pod_of_a_tenant_is_fenced_whatever_its_labels_and_whether_or_not_it_is_listed() {
    let unlisted = |namespace: &str, metadata: &str| Objects {
        accounts: vec![account("namespace: epic-red")],
        pods: vec![pod_of("unknown", namespace, "10.244.1.5", 1, metadata)],
        ..objects()
    };
    let found = decide(&unlisted("epic-red", ""));
    assert_eq!(found.fences.into_keys().collect::<Vec<_>>(), [9]);
    assert!(found.local.is_empty(), "it is no proxy for that");
    let labels = ", labels: {app.kubernetes.io/name: epic-proxy}";
    assert_eq!(fences(&unlisted("epic-red", labels)), (vec![9], vec![]));
    assert_eq!(fences(&unlisted("kube-system", labels)), (vec![], vec![9]), "labels make no tenant");
    assert_eq!(fences(&objects()), (vec![9], vec![]), "a listed one needs no Account");
}

#[test]
fn an_address_that_was_handed_on_is_the_younger_pod_s_and_no_fence_is_left_around_it() {
    let tenant_s = pod_of("ua", "epic-red", "10.244.1.5", 1, "");
    let heir = pod_of("heir", "default", "10.244.1.5", 2, "");
    for pods in [vec![tenant_s.clone(), heir.clone()], vec![heir, tenant_s]] {
        let objects = Objects { pods, ..objects() };
        assert_eq!(fences(&objects), (vec![], vec![9]));
        assert!(decide(&objects).local.is_empty(), "nor is the heir's veth the proxy's");
    }
    let going = ", deletionTimestamp: '2026-01-01T00:00:09Z'";
    let alone = Objects { pods: vec![pod_of("ua", "epic-red", "10.244.1.5", 1, going)], ..objects() };
    assert_eq!(fences(&alone), (vec![], vec![]), "what comes behind its address now may be of anybody");
    assert_eq!(decide(&alone).local.len(), 1, "it serves until it is gone");
}

#[test]
fn a_pod_of_a_tenant_keeps_its_fence_when_its_account_and_its_load_balancer_are_gone() {
    let going = ", deletionTimestamp: '2026-01-01T00:00:09Z'";
    // The garbage collector reaches a pod only some time after its LoadBalancer went.
    for metadata in ["", going] {
        let left = Objects {
            load_balancers: Vec::new(),
            pods: vec![pod_of("ua", "epic-red", "10.244.1.5", 1, metadata)],
            ..objects()
        };
        // Nothing of an earlier decision is needed for that, so it holds for an agent that has just started.
        assert_eq!(fences(&left), (vec![], vec![]), "the fence that is there stays");
        let mut handed_on = left.clone();
        handed_on.pods.push(pod_of("heir", "default", "10.244.1.5", 2, going));
        assert_eq!(fences(&handed_on), (vec![], vec![9]), "but not around another one's pod");
    }
}

#[test]
fn without_its_account_nobody_may_call_for_a_tenant() {
    let networks = |accounts| {
        let tunnels = decide(&Objects { accounts, ..objects() }).directory.tunnels;
        tunnels[&11].client_networks.as_deref().map(<[ipnet::IpNet]>::len)
    };
    assert_eq!(networks(vec![account("namespace: epic-red")]), Some(1));
    assert_eq!(networks(vec![account("namespace: epic-blue")]), Some(0));
    assert_eq!(networks(vec![]), Some(0));
}

/// Whether the address is owned by n1 and by n2, as each decides.
fn owned(objects: &Objects) -> [bool; 2] {
    ["1", "2"].map(|n| {
        let place = place(&format!("n{n}"), &format!("198.51.100.{n}"));
        let none = (BTreeMap::new(), BTreeSet::new());
        let desired =
            Decision::new(objects, &place, &mut keyring(), &none.0, &none.1, |_, _| true).into_desired();
        assert_eq!(desired.owned.is_empty(), desired.answering.is_empty());
        !desired.owned.is_empty()
    })
}

/// These objects, with the EPICNode of n1 and the Node of n1 as given.
fn with_n1(epic_node: &str, node: &str) -> Objects {
    let mut objects = objects();
    objects.epic_nodes[0] = read(epic_node);
    objects.nodes[0] = read(node);
    objects
}

fn reported(boot: &str, conditions: &str) -> String {
    format!(
        "
metadata: {{name: n1, namespace: epic}}
status:
  addresses: [198.51.100.1]
  boot-id: '{boot}'
  conditions: [{conditions}]
"
    )
}

fn condition(type_: &str, status: &str, reason: &str) -> String {
    format!(
        "{{type: {type_}, status: '{status}', reason: {reason}, message: '', \
         lastTransitionTime: '2026-01-01T00:00:00Z'}}"
    )
}

fn booted(boot: &str) -> String {
    format!(
        "
metadata: {{name: n1}}
status:
  conditions: [{{type: Ready, status: 'True'}}]
  nodeInfo: {{bootID: '{boot}', architecture: '', containerRuntimeVersion: '', kernelVersion: '', kubeProxyVersion: '',
    kubeletVersion: '', machineID: '', operatingSystem: '', osImage: '', systemUUID: ''}}
"
    )
}

/// The proxies that new flows of the LoadBalancer go to, as n1 decides.
fn takes_flows(objects: &Objects) -> Vec<u32> {
    let writer = Writer::new();
    let (_, refused) = decide(objects).rows.write(&writer, None);
    assert_eq!(refused, []);
    let tables = writer.snapshot();
    let frontend = tables.frontends.iter().next().unwrap();
    let selection = Selection::of(&tables, frontend, Here::default());
    let mut ids: Vec<u32> = selection.serving().filter_map(|row| Some(row.proxy_id()?.get())).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_node_that_was_booted_since_its_agent_was_ready_owns_nothing_and_its_proxies_take_no_flows() {
    let ready = reported("first", &condition("Ready", "True", "Ready"));
    assert_eq!(owned(&with_n1(&ready, &booted("first"))), owned(&objects()));
    let rebooted = with_n1(&ready, &booted("second"));
    assert_eq!(owned(&rebooted), [false, true]);
    assert_eq!(takes_flows(&rebooted), [2]);
    let starting = reported("second", &condition("Ready", "False", "Starting"));
    let starting = with_n1(&starting, &booted("second"));
    assert_eq!(
        (owned(&starting), takes_flows(&starting)),
        ([false, true], vec![2]),
        "its gates are not closed yet"
    );
    let back = with_n1(&reported("second", &condition("Ready", "True", "Ready")), &booted("second"));
    assert_eq!(takes_flows(&back), [1, 2]);
    for (then, now) in [("", "second"), ("first", ""), ("unknown", "second")] {
        let unknown = with_n1(&reported(then, &condition("Ready", "True", "Ready")), &booted(now));
        assert_eq!(takes_flows(&unknown), [1, 2], "{then:?} {now:?}: what is not known is no reboot");
    }
}

#[test]
fn a_node_out_of_service_or_cut_off_owns_nothing_and_its_proxies_take_flows_only_if_no_others_do() {
    let out =
        [condition("Ready", "True", "Ready"), condition("InService", "False", "AgentSilent")].join(", ");
    let cut = condition("Ready", "False", "InterfaceDown");
    for conditions in [out, cut] {
        let mut objects = with_n1(&reported("first", &conditions), &booted("first"));
        assert_eq!(owned(&objects), [false, true], "{conditions}");
        assert_eq!(takes_flows(&objects), [2], "{conditions}");
        let mut alone = (*load_balancer()).clone();
        alone.status.as_mut().unwrap().proxies.truncate(1);
        objects.load_balancers = vec![Arc::new(alone)];
        assert_eq!(takes_flows(&objects), [1], "{conditions}");
    }
    let both = [condition("Ready", "True", "Ready"), condition("InService", "True", "InService")].join(", ");
    assert_eq!(takes_flows(&with_n1(&reported("first", &both), &booted("first"))), [1, 2]);
}

#[test]
fn an_address_that_may_not_be_answered_for_is_owned_and_not_answered_for() {
    let mut objects = objects();
    let gateway: EPICNode = serde_yaml::from_str(
        "{metadata: {name: n2, namespace: epic}, status: {addresses: [198.51.100.2], gateways: [192.0.2.7]}}",
    )
    .unwrap();
    objects.epic_nodes[1] = Arc::new(gateway);
    let mut asked = Vec::new();
    let (place, veths, none) = (place("n1", "198.51.100.1"), BTreeMap::new(), BTreeSet::new());
    let decision = Decision::new(&objects, &place, &mut keyring(), &veths, &none, |address, claim| {
        asked.push((address, claim.clone()));
        false
    });
    let desired = decision.into_desired();
    let claim = node::Claim { uid: UID.into(), gateway: true };
    assert_eq!(asked, [(ip("192.0.2.7"), claim.clone())]);
    assert_eq!((desired.owned, desired.answering), (OrdMap::unit(ip("192.0.2.7"), claim), OrdSet::new()));
    assert!(desired.rows.services[0].frontends.iter().all(|frontend| !frontend.announced));
}

#[test]
fn one_node_owns_an_address_and_only_if_its_pool_is_announced() {
    let objects = objects();
    assert_eq!(owned(&objects).iter().filter(|owned| **owned).count(), 1);
    let silent = Objects { pools: vec![pool("")], ..objects.clone() };
    let unclaimed = Objects { claims: Vec::new(), ..objects };
    for quiet in [silent, unclaimed] {
        assert_eq!(owned(&quiet), [false, false]);
    }
}

/// A LoadBalancer of another tenant, without an address, whose one proxy is on this node.
fn neighbour(node: &str, state: &str) -> Arc<LoadBalancer> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: LoadBalancer
metadata: {{name: web, namespace: epic-blue, uid: c7b4d2e0-0c43-4a35-a9a4-3a1f6f1b5a11, resourceVersion: '7', generation: 1}}
spec: {{service-group: shared, public-ports: [{{port: 80, protocol: TCP}}]}}
status:
  group-id: 1
  service-id: 3
  key-generation: 1
  proxies: [{{pod: c, pod-uid: uc, node: {node}, proxy-id: 3, proxy-address: 100.64.0.3, state: {state}}}]
"
    ))
}

#[test]
fn nodes_that_a_proxy_of_any_load_balancer_serves_on_own_addresses_before_others() {
    let on_both = owned(&objects());
    let owner = usize::from(on_both[1]);
    let (name, other) = (format!("n{}", owner + 1), format!("n{}", 2 - owner));
    let mut objects = objects();
    let mut moved = (*load_balancer()).clone();
    moved.status.as_mut().unwrap().proxies.retain(|proxy| proxy.node.as_ref() == Some(&other));
    objects.load_balancers = vec![Arc::new(moved)];
    let elsewhere = on_both.map(|owned| !owned);
    assert_eq!(owned(&objects), elsewhere, "only {other} runs a proxy");

    for (state, expected) in [("Pending", elsewhere), ("Ready", on_both), ("Draining", on_both)] {
        objects.load_balancers.truncate(1);
        objects.load_balancers.push(neighbour(&name, state));
        assert_eq!(owned(&objects), expected, "another tenant's proxy on {name} is {state}");
    }
    for object in &mut objects.load_balancers {
        Arc::make_mut(object).status.as_mut().unwrap().proxies.clear();
    }
    assert_eq!(owned(&objects), on_both, "no node runs one");
}

#[test]
fn an_address_is_announced_by_whatever_pool_holds_it_and_announces() {
    let named = |name: &str, addresses: &str, advertise: &str| {
        let mut pool = (*pool(advertise)).clone();
        pool.metadata.name = Some(name.to_owned());
        pool.spec.addresses = vec![addresses.to_owned()];
        Arc::new(pool)
    };
    let l2 = ", advertise: {l2: {}}";
    let is_owned = |pools: Vec<Arc<AddressPool>>| {
        let (objects, none) = (Objects { pools, ..objects() }, (BTreeMap::new(), BTreeSet::new()));
        let owned = |name: &str, address: &str| {
            let place = place(name, address);
            !Decision::new(&objects, &place, &mut keyring(), &none.0, &none.1, |_, _| true)
                .desired()
                .owned
                .is_empty()
        };
        owned("n1", "198.51.100.1") || owned("n2", "198.51.100.2")
    };
    assert!(is_owned(vec![named("renamed", "192.0.2.0/24", l2)]), "the pool that it was taken from is gone");
    assert!(
        is_owned(vec![named("edge", "192.0.2.0/24", ""), named("wide", "192.0.0.0/16", l2)]),
        "overlapping"
    );
    assert!(is_owned(vec![named("edge", "203.0.113.0/24", l2)]), "taken out of its pool, it stays");
    assert!(!is_owned(vec![named("other", "203.0.113.0/24", l2)]));
    assert!(!is_owned(vec![named("renamed", "192.0.2.0/24", "")]));
}

fn untunnelled(generation: i64, observed: i64, status: &str) -> Arc<Endpoint> {
    read(&format!(
        "
apiVersion: epic.acnodal.io/v1
kind: Endpoint
metadata: {{name: near, namespace: epic-red, generation: {generation}}}
spec: {{load-balancer: web, address: 203.0.113.9, port: {{port: 8080, protocol: TCP}}}}
status:
  conditions:
  - type: Accepted
    status: '{status}'
    observedGeneration: {observed}
    reason: Accepted
    message: ''
    lastTransitionTime: '2026-01-01T00:00:00Z'
"
    ))
}

#[test]
fn an_endpoint_without_a_node_is_passed_to_only_as_it_was_judged() {
    let passes = |endpoint| {
        let mut objects = objects();
        objects.endpoints = vec![endpoint];
        passes_of(&decide(&objects).rows).len()
    };
    assert_eq!(passes(untunnelled(1, 1, "True")), 1);
    assert_eq!(passes(untunnelled(2, 1, "True")), 0, "edited since, and nobody knows from what");
    let mut edited = untunnelled(2, 1, "True");
    let endpoint = Arc::make_mut(&mut edited);
    let status = endpoint.status.as_mut().unwrap();
    status.accepted_address = Some("203.0.113.9".to_owned());
    status.accepted_port = Some(endpoint.spec.port.clone());
    (endpoint.spec.address, endpoint.spec.weight) = ("203.0.113.10".to_owned(), Some(7));
    let mut objects = objects();
    objects.endpoints = vec![edited];
    let rows = decide(&objects).rows;
    let passed: Vec<_> = passes_of(&rows).iter().map(|pass| pass.place.address.to_string()).collect();
    assert_eq!(passed, ["203.0.113.9"], "what was judged last goes on, without anybody who leads");
    assert_eq!(passes(untunnelled(1, 1, "False")), 0);
}

#[test]
fn every_proxy_may_reach_the_xds_of_the_operator() {
    let mut objects = objects();
    objects.xds = Some(read::<Service>(
        "{metadata: {name: epic-xds}, spec: {clusterIPs: [10.96.0.7], ports: [{port: 18000}]}}",
    ));
    let rows = decide(&objects).rows;
    assert_eq!(rows.passes[0].service, None, "those of all LoadBalancers");
    assert_eq!(rows.passes[0].place.to_string(), "10.96.0.7:18000/TCP");
    // Where sockets are balanced the packet names the pod.
    let slice = |endpoints: &str| {
        let text = format!(
            "{{metadata: {{name: epic-xds-1}}, addressType: IPv4, endpoints: {endpoints}, ports: [{{port: 18001}}]}}"
        );
        read::<EndpointSlice>(&text)
    };
    objects.xds_slices = vec![
        slice(
            "[{addresses: [10.244.1.9], conditions: {ready: true}}, {addresses: [10.244.1.8], conditions: {ready: false}}]",
        ),
        slice("[{addresses: [10.244.1.9]}]"),
    ];
    let rows = decide(&objects).rows;
    let places: Vec<String> = rows.passes.iter().map(|pass| pass.place.to_string()).collect();
    assert_eq!(places, ["10.96.0.7:18000/TCP", "10.244.1.9:18001/TCP"]);
}

#[test]
fn an_address_moves_from_one_load_balancer_to_another_in_one_transaction() {
    let writer = Writer::new();
    let desired = decide(&objects());
    let (_, refused) = desired.rows.write(&writer, None);
    assert_eq!(refused, []);
    let mut moved = objects();
    let mut heir = (*load_balancer()).clone();
    heir.metadata.name = Some("heir".to_owned());
    heir.metadata.uid = Some(UID.replace('1', "2"));
    if let Some(status) = &mut heir.status {
        status.service_id = Some(3);
        status.proxies.clear();
        status.gue_tunnel_endpoints.clear();
    }
    let mut left = (*load_balancer()).clone();
    if let Some(status) = &mut left.status {
        status.public_address = None;
    }
    Arc::make_mut(&mut moved.claims[0]).spec.owner.uid = UID.replace('1', "2");
    moved.load_balancers = vec![Arc::new(heir), Arc::new(left)];
    let (_, refused) = decide(&moved).rows.write(&writer, None);
    assert_eq!(refused, []);
    let tables = writer.snapshot();
    let owners: Vec<String> = tables.frontends.iter().map(|f| f.service.to_string()).collect();
    assert_eq!(owners, ["epic-red/heir"]);
}

/// As a restore may leave them: a copy of the LoadBalancer in another namespace, created later.
fn copy(name: &str) -> LoadBalancer {
    let mut copy = (*load_balancer()).clone();
    copy.metadata.name = Some(name.to_owned());
    copy.metadata.uid = Some(UID.replace('1', "2"));
    copy.metadata.creation_timestamp = Some(Time("2030-01-01T00:00:00Z".parse().unwrap()));
    copy
}

#[test]
fn of_two_load_balancers_with_the_same_ids_the_older_is_served_whatever_their_names() {
    let mut objects = objects();
    objects.load_balancers.insert(0, Arc::new(copy("a-copy")));
    let desired = decide(&objects);
    let served: Vec<String> =
        desired.rows.services.iter().map(|rows| rows.service.name.to_string()).collect();
    assert_eq!(served, ["epic-red/web"]);
    assert!(
        desired
            .left_out()
            .all(|why| why.starts_with("epic-red/a-copy: its IDs 1/2 are those of the older epic-red/web"))
    );
}

#[test]
fn a_tunnel_or_proxy_that_two_load_balancers_show_is_the_older_ones() {
    let mut younger = copy("a-copy");
    let status = younger.status.as_mut().unwrap();
    (status.service_id, status.public_address) = (Some(7), None);
    let mut objects = objects();
    objects.load_balancers.insert(0, Arc::new(younger));
    let desired = decide(&objects);
    let [web, copy] = &desired.rows.services[..] else { panic!("{:?}", desired.rows.services) };
    assert_eq!((web.tunnels.len(), web.proxies.len()), (1, 2));
    assert_eq!((copy.tunnels.len(), copy.proxies.len()), (0, 0), "{:?}", desired.left_out);
    assert!(desired.left_out().any(|why| why.starts_with("tunnel 11 of epic-red/a-copy is one of")));
    assert_eq!(desired.local["ua"].service.to_string(), "epic-red/web");
}

#[test]
fn an_address_that_two_load_balancers_show_is_the_one_s_that_its_claim_names() {
    let mut younger = copy("a-copy");
    let uid = younger.metadata.uid.clone().unwrap();
    let status = younger.status.as_mut().unwrap();
    status.service_id = Some(7);
    status.gue_tunnel_endpoints.clear();
    status.proxies.clear();
    let mut objects = objects();
    objects.load_balancers.insert(0, Arc::new(younger));
    let shown = |objects: &Objects| -> Vec<String> {
        let rows = decide(objects).rows;
        rows.services.iter().filter(|r| !r.frontends.is_empty()).map(|r| r.service.name.to_string()).collect()
    };
    assert_eq!(shown(&objects), ["epic-red/web"]);
    Arc::make_mut(&mut objects.claims[0]).spec.owner.uid = uid;
    assert_eq!(shown(&objects), ["epic-red/a-copy"]);
}

#[test]
fn keys_are_of_the_generations_around_the_current_one() {
    let mut object = (*load_balancer()).clone();
    let master = Master::new(&[7; 32]).unwrap();
    let generation = |object: &LoadBalancer| master.keys(&Identity::of(object).unwrap()).unwrap();
    let (first, hello) = generation(&object);
    assert_eq!(hello.keys().copied().collect::<Vec<u32>>(), [1, 2]);
    object.status.as_mut().unwrap().key_generation = Some(2);
    let (second, hello) = generation(&object);
    assert_eq!(hello.keys().copied().collect::<Vec<u32>>(), [1, 2, 3]);
    assert_eq!((first.data[1], first.data[2]), (second.data[0], second.data[1]));
    assert!(Master::new(&[7; 16]).is_none(), "a short master is none");
    assert_eq!(format!("{master:?}"), "Master(..)");
}

#[test]
fn a_keyring_says_what_the_master_says_and_forgets_what_is_over() {
    let identity = |name: &str, generation: u32| {
        let mut object = (*load_balancer()).clone();
        object.metadata.uid = Some(UID.replace('1', name));
        object.status.as_mut().unwrap().key_generation = Some(generation.into());
        Identity::of(&object).unwrap()
    };
    let (first, second) = (Master::new(&[7; 32]).unwrap(), Master::new(&[8; 32]).unwrap());
    let mut keyring = keyring();
    let same = |keyring: &mut Keyring, master: &Master, identity: &Identity| {
        // The second time it is out of memory.
        for _ in 0..2 {
            let (service, hello) = keyring.keys(identity).unwrap();
            assert_eq!(Some((service, (*hello).clone())), master.keys(identity));
        }
    };
    same(&mut keyring, &first, &identity("2", 1));
    same(&mut keyring, &first, &identity("3", 1));
    same(&mut keyring, &first, &identity("2", 2));
    let mut other_service = identity("2", 2);
    other_service.service = ServiceId::new(9).unwrap();
    same(&mut keyring, &first, &other_service);
    keyring.set_master(second.clone());
    same(&mut keyring, &second, &identity("2", 2));
    let before = keyring.keys(&identity("2", 2)).unwrap().1;
    keyring.retain(|uid| uid != UID.replace('1', "2"));
    assert!(!Arc::ptr_eq(&before, &keyring.keys(&identity("2", 2)).unwrap().1), "derived anew");
}

#[test]
fn a_missing_neighbour_is_no_key_of_zeros() {
    let identity = Identity::of(&load_balancer()).unwrap();
    let bytes = [9; 48];
    let current = format!("{UID}.1");
    let (service, _) = keys::from_entries(&identity, |name| (name == current).then_some(&bytes[..])).unwrap();
    assert!(service.data.iter().all(|key| key.0 != [0; 16]));
    assert_eq!(service.node, None);
}

#[test]
fn a_client_refuses_facts_it_does_not_understand() {
    let facts = |entries: &[(&str, &str)]| {
        let data = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Facts::read(&ConfigMap { data: Some(data), ..ConfigMap::default() })
    };
    let good = facts(&[("proxy-addresses.ipv4", "100.64.0.0/11"), ("protocol.versions", "0/1")]).unwrap();
    assert_eq!((good.port, good.overhead, good.source_ports), (6080, 52, SourcePorts::Fixed));
    let flow = facts(&[("proxy-addresses.ipv4", "100.64.0.0/11"), ("gue.source-ports", "Flow")]);
    assert_eq!(flow.unwrap().source_ports, SourcePorts::Flow);
    let other = facts(&[("proxy-addresses.ipv4", "100.64.0.0/11"), ("gue.source-ports", "flow")]);
    assert!(matches!(other, Err(FactsError::Invalid("gue.source-ports", _))));
    assert!(matches!(facts(&[]), Err(FactsError::Missing(_))));
    let newer = facts(&[("proxy-addresses.ipv4", "100.64.0.0/11"), ("protocol.versions", "1/2")]);
    assert!(matches!(newer, Err(FactsError::Version(..))));
    let port = facts(&[("proxy-addresses.ipv4", "100.64.0.0/11"), ("gue.port", "0")]);
    assert!(matches!(port, Err(FactsError::Invalid("gue.port", _))));
}
