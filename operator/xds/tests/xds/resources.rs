//! Resources as values: the form proved with Envoy, written down, and what it depends on.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use epic_lb::{Here, LbPolicy, Service};
use epic_xds::engine::{Kind, View};
use epic_xds::resources;
use prost::Message;

use crate::rows::{Ep, World, service};

/// The view of LoadBalancer `web` with port 80 on slot 0.
fn web(endpoints: &[Ep]) -> View {
    build(&service("web"), &[(80, 0, 8080)], endpoints)
}

pub(crate) fn build(service: &Service, ports: &[(u16, u16, u16)], endpoints: &[Ep]) -> View {
    let world = World::new();
    world.load_balancer(service, ports);
    world.endpoints(service.name.name(), endpoints);
    let snapshot = world.tables.snapshot();
    resources::build(&snapshot, service, Here::default())
}

fn body(view: &View, kind: Kind, name: &str) -> Vec<u8> {
    view.get(kind, name).unwrap_or_else(|| panic!("no {kind} {name}")).body.to_vec()
}

fn listener(view: &View, name: &str) -> (Listener, TcpProxy) {
    let listener = Listener::decode(&body(view, Kind::Listener, name)[..]).unwrap();
    let filter::ConfigType::TypedConfig(any) =
        listener.filter_chains[0].filters[0].config_type.clone().unwrap()
    else {
        panic!("not a typed filter")
    };
    assert_eq!(any.type_url, "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy");
    (listener, TcpProxy::decode(&any.value[..]).unwrap())
}

/// The debug form of a message without what is not set, one field a line.
pub(crate) fn shown(message: &impl std::fmt::Debug) -> String {
    let unset = [": None,", ": [],", ": \"\",", ": 0,", ": false,", ": {},"];
    let text = format!("{message:#?}");
    let lines =
        text.lines().filter(|line| !unset.iter().any(|end| line.ends_with(end)) || line.contains("Value"));
    // Encoded messages inside of others are shown on their own.
    let lines = lines.filter(|line| {
        line.trim().parse::<u8>().is_err() && line.trim().trim_end_matches(',').parse::<u8>().is_err()
    });
    lines.map(str::to_owned).collect::<Vec<_>>().join("\n")
}

fn three() -> [Ep; 3] {
    [
        Ep::new("web-1", [100, 127, 0, 1], [192, 168, 10, 11], 8080),
        Ep::new("web-2", [100, 127, 0, 2], [192, 168, 10, 11], 8080).weighing(3),
        Ep::new("web-3", [100, 127, 0, 3], [192, 168, 10, 13], 8080).weighing(0),
    ]
}

#[test]
fn a_cluster_has_this_form() {
    insta::assert_snapshot!(shown(
        &Cluster::decode(&body(&web(&three()), Kind::Cluster, "web-tcp-80")[..]).unwrap()
    ));
}

#[test]
fn an_assignment_has_this_form() {
    let mut text = String::new();
    let view = web(&three());
    let assignment = ClusterLoadAssignment::decode(&body(&view, Kind::Assignment, "web-tcp-80")[..]).unwrap();
    for endpoint in &assignment.endpoints[0].lb_endpoints {
        let mut plain = endpoint.clone();
        let metadata = plain.metadata.take().unwrap();
        text.push_str(&shown(&plain));
        // The generated type has an unordered map here.
        let fields: BTreeMap<_, _> = metadata.filter_metadata["epic"].fields.iter().collect();
        text.push_str(&format!("\nmetadata epic: {}\n", shown(&fields)));
    }
    assert_eq!(assignment.cluster_name, "web-tcp-80");
    insta::assert_snapshot!(text);
}

#[test]
fn a_listener_has_this_form() {
    let (listener, mut proxy) = listener(&web(&[]), "web-tcp-80");
    let log = proxy.access_log[0].config_type.take().unwrap();
    insta::assert_snapshot!(format!("{}\n{}", shown(&listener), shown(&proxy)));
    let envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType::TypedConfig(log) = log;
    assert_eq!(log.type_url, "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog");
    let log = StdoutAccessLog::decode(&log.value[..]).unwrap();
    let text = format!("{log:?}");
    for field in ["%DOWNSTREAM_REMOTE_ADDRESS%", "%UPSTREAM_METADATA(epic:address)%", "JsonFormat"] {
        assert!(text.contains(field), "{field} in {text}");
    }
}

#[test]
fn a_listener_binds_the_port_of_its_slot_and_names_its_cluster() {
    let view = build(&service("web"), &[(80, 0, 8080), (443, 7, 8443)], &[]);
    for (name, port) in [("web-tcp-80", 10_000), ("web-tcp-443", 10_007)] {
        let (listener, proxy) = listener(&view, name);
        let address = format!("{:?}", listener.address.unwrap());
        assert!(address.contains(&format!("PortValue({port})")) && address.contains("0.0.0.0"), "{address}");
        assert!(format!("{:?}", proxy.cluster_specifier).contains(&format!("Cluster(\"{name}\")")));
    }
}

#[test]
fn equal_rows_give_equal_bytes_in_any_order() {
    let forward = web(&three());
    let mut reversed = three();
    reversed.reverse();
    assert_eq!(forward, web(&reversed));
    for _ in 0..50 {
        // Maps with a random order would differ sooner or later.
        assert_eq!(forward, web(&three()));
    }
}

#[test]
fn a_port_without_endpoints_has_an_empty_assignment() {
    let view = web(&[]);
    let assignment = ClusterLoadAssignment::decode(&body(&view, Kind::Assignment, "web-tcp-80")[..]).unwrap();
    assert_eq!(assignment.cluster_name, "web-tcp-80");
    assert!(assignment.endpoints.is_empty());
}

#[test]
fn every_cluster_names_an_assignment_of_the_same_view() {
    let view = build(&service("web"), &[(80, 0, 8080), (443, 1, 8443)], &three());
    for cluster in view.of(Kind::Cluster) {
        assert!(view.get(Kind::Assignment, cluster.assignment.as_deref().unwrap()).is_some());
    }
    assert_eq!(view.of(Kind::Listener).count(), 2);
}

#[test]
fn endpoints_go_to_the_ports_they_serve() {
    let view = build(&service("web"), &[(80, 0, 8080), (443, 1, 8443)], &three());
    let endpoints = |name: &str| view.get(Kind::Assignment, name).unwrap().endpoints.len();
    assert_eq!(endpoints("web-tcp-80"), 3);
    assert_eq!(endpoints("web-tcp-443"), 0);
}

#[test]
fn a_change_of_endpoints_touches_nothing_but_the_assignment() {
    let (before, after) = (web(&three()), web(&three()[..1]));
    assert_eq!(before.revision(), after.revision());
    assert_ne!(before.get(Kind::Assignment, "web-tcp-80"), after.get(Kind::Assignment, "web-tcp-80"));
}

#[test]
fn the_policy_of_the_group_becomes_the_cluster_s() {
    for (policy, number) in [
        (LbPolicy::RoundRobin, 0),
        (LbPolicy::LeastRequest, 1),
        (LbPolicy::Random, 3),
        (LbPolicy::RingHash, 2),
        (LbPolicy::Maglev, 5),
    ] {
        let view = build(&Service { lb_policy: policy, ..service("web") }, &[(80, 0, 8080)], &[]);
        let cluster = Cluster::decode(&body(&view, Kind::Cluster, "web-tcp-80")[..]).unwrap();
        assert_eq!(cluster.lb_policy, number, "{policy:?}");
        assert_eq!(cluster.outlier_detection.unwrap().always_eject_one_host, None);
    }
}

/// SHA-256 of the listener of LoadBalancer `web`, port 80, slot 0, of a group that says nothing.
const PLAIN_LISTENER: &str = "5ead7ed2f417440b6fd0c00d0b7a44c2fdec0892d9cfa59e92621b56806e8160";

#[test]
fn the_bytes_of_a_plain_listener_stay_what_they_are_from_release_to_release() {
    use sha2::Digest;
    let bytes = body(&web(&three()), Kind::Listener, "web-tcp-80");
    let digest: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        digest, PLAIN_LISTENER,
        "the bytes of every tenant's listener have changed. A release with this cuts all tenants' connections an hour \
         after the upgrade: Envoy replaces the listener, and what is open on the old one ends with the drain time of \
         3,600 s. Let a new feature appear only in listeners that use it; `a_listener_has_this_form` shows what differs"
    );
}

#[test]
fn what_does_not_concern_a_listener_leaves_its_bytes_alone() {
    let plain = body(&web(&[]), Kind::Listener, "web-tcp-80");
    let policies = [
        LbPolicy::RoundRobin,
        LbPolicy::LeastRequest,
        LbPolicy::Random,
        LbPolicy::RingHash,
        LbPolicy::Maglev,
    ];
    for policy in policies {
        let other = Service { lb_policy: policy, generation: 9, key_generation: 3, ..service("web") };
        // Another port beside it, another target, and endpoints of all kinds.
        let view = build(&other, &[(80, 0, 8081), (443, 1, 8443)], &three());
        assert!(
            body(&view, Kind::Listener, "web-tcp-80") == plain,
            "{policy:?}: this change cuts the LoadBalancer's connections after the drain time"
        );
    }
}

#[test]
fn an_endpoint_that_drains_is_held_and_not_sent() {
    let view = web(&three());
    let held = view.get(Kind::Assignment, "web-tcp-80").unwrap();
    let assignment = ClusterLoadAssignment::decode(&held.body[..]).unwrap();
    assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 2);
    let objects: Vec<&str> = held.endpoints.iter().map(|endpoint| &*endpoint.object).collect();
    assert_eq!(objects, ["epic-red/web-1", "epic-red/web-2", "epic-red/web-3"]);
}
