//! Every feature of the edge as a golden file: what it adds to the plain cluster and listener, each of them accepted by the
//! pinned Envoy.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap as Config;
use envoy_types::pb::envoy::config::bootstrap::v3::bootstrap::{DynamicResources, StaticResources};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{
    ApiConfigSource, ApiVersion, GrpcService, Node, transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter, listener_filter};
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit as LimitFilter;
use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::google::protobuf::Any;
use epic_model::edge::{
    AccessLog, Check, ConnectionLimit, Edge, Limits, Listen, Passive, Probe, ProxyProtocol, RateLimit, Reach,
};
use epic_xds::engine::{Kind, View};
use prost::Message;

use crate::envoy::binary;
use crate::resources::{build, shown};
use crate::rows::edged;

fn view(edge: &Edge) -> View {
    build(&edged(edge.clone()), &[(80, 0, 8080)], &[])
}

fn cluster(view: &View) -> Cluster {
    Cluster::decode(&view.get(Kind::Cluster, "web-tcp-80").unwrap().body[..]).unwrap()
}

fn listener(view: &View) -> Listener {
    Listener::decode(&view.get(Kind::Listener, "web-tcp-80").unwrap().body[..]).unwrap()
}

/// An encoded message inside of another one.
fn inner(any: &Any) -> String {
    let name = any.type_url.rsplit('.').next().unwrap_or_default();
    let bytes = &any.value[..];
    match name {
        "TcpProxy" => shown(&TcpProxy::decode(bytes).unwrap()),
        "ConnectionLimit" => shown(&LimitFilter::decode(bytes).unwrap()),
        "HttpProtocolOptions" => shown(&HttpProtocolOptions::decode(bytes).unwrap()),
        "LocalRateLimit" => shown(&LocalRateLimit::decode(bytes).unwrap()),
        "ProxyProtocolUpstreamTransport" => shown(&ProxyProtocolUpstreamTransport::decode(bytes).unwrap()),
        _ => format!("{name} of {} bytes", bytes.len()),
    }
}

/// Cluster and listener with all that is inside of them, one field a line.
fn text(edge: &Edge) -> String {
    let view = view(edge);
    let (cluster, listener) = (cluster(&view), listener(&view));
    let mut parts = vec![shown(&cluster), shown(&listener)];
    if let Some(transport_socket::ConfigType::TypedConfig(any)) =
        cluster.transport_socket.and_then(|socket| socket.config_type)
    {
        parts.push(inner(&any));
    }
    let protocols = cluster.typed_extension_protocol_options.values();
    parts.extend(protocols.map(inner));
    for filter in &listener.listener_filters {
        if let Some(listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type {
            parts.push(inner(any));
        }
    }
    for filter in &listener.filter_chains[0].filters {
        if let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type {
            parts.push(inner(any));
        }
    }
    flat(&parts.join("\n"))
}

/// A debug form as one line for each value, with the way to it.
fn flat(text: &str) -> String {
    let mut way: Vec<Option<&str>> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines().map(|line| line.trim().trim_end_matches(',')) {
        let opens = line.ends_with(['{', '[', '(']);
        if line.starts_with(['}', ']', ')']) {
            way.pop();
        } else if opens {
            let (head, variant) = line.split_once(": ").unwrap_or(("", line));
            let variant = variant.trim_end_matches(['{', '[', '(', ' ']);
            let is_named = line.ends_with('(') && variant != "Some";
            way.push(Some(if is_named { variant } else { head }).filter(|part| !part.is_empty()));
            if is_named {
                lines.push(way.iter().flatten().copied().collect::<Vec<_>>().join("."));
            }
        } else {
            let way: Vec<&str> = way.iter().flatten().copied().chain([line]).collect();
            lines.push(way.join("."));
        }
    }
    lines.join("\n")
}

/// Lines of `after` that `before` has not, in their order, and how many it has more.
fn added(before: &str, after: &str) -> String {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for line in before.lines() {
        *known.entry(line.trim_end()).or_default() += 1;
    }
    let mut new = Vec::new();
    for line in after.lines().map(str::trim_end) {
        match known.get_mut(line) {
            Some(left) if *left > 0 => *left -= 1,
            _ => new.push(line),
        }
    }
    let gone: Vec<&str> = known.iter().flat_map(|(line, left)| std::iter::repeat_n(*line, *left)).collect();
    let show =
        |sign: &str, lines: &[&str]| lines.iter().map(|line| format!("{sign} {line}\n")).collect::<String>();
    format!("{}{}", show("-", &gone), show("+", &new))
}

fn listens(listen: Listen) -> Edge {
    Edge { listen, ..Edge::default() }
}

fn reaches(reach: Reach) -> Edge {
    Edge { reach, ..Edge::default() }
}

/// Every feature by itself.
fn cases() -> Vec<(&'static str, Edge)> {
    let plain = Listen::default;
    let check = |probe| reaches(Reach { check: Some(Check::new(probe)), ..Reach::default() });
    let http = Probe::Http { path: "/ok".into(), host: Some("a.example".into()), statuses: vec![200, 204] };
    vec![
        ("timeouts_connect", reaches(Reach { connect: Duration::from_millis(250), ..Reach::default() })),
        ("timeouts_idle", listens(Listen { idle: Some(Duration::from_secs(90)), ..plain() })),
        ("timeouts_idle_never", listens(Listen { idle: None, ..plain() })),
        ("panic_threshold", reaches(Reach { panic_threshold: 0, ..Reach::default() })),
        ("health_check_tcp", check(Probe::Tcp)),
        ("health_check_http", check(http)),
        ("health_check_grpc", check(Probe::Grpc { service: "a.b.C".into() })),
        (
            "health_check_passive",
            reaches(Reach {
                passive: Passive {
                    consecutive_failures: 7,
                    base_ejection: Duration::from_secs(60),
                    max_ejection_percent: 20,
                },
                ..Reach::default()
            }),
        ),
        ("proxy_protocol_v1", reaches(Reach { proxy_protocol: Some(ProxyProtocol::V1), ..Reach::default() })),
        ("proxy_protocol_v2", reaches(Reach { proxy_protocol: Some(ProxyProtocol::V2), ..Reach::default() })),
        (
            "circuit_breaker",
            reaches(Reach {
                limits: Limits { connections: Some(9), pending: Some(8), connections_per_endpoint: Some(7) },
                ..Reach::default()
            }),
        ),
        (
            "client_proxy_protocol",
            listens(Listen {
                trusted_networks: Some(vec![
                    "192.0.2.0/24".parse().unwrap(),
                    "2001:db8::/32".parse().unwrap(),
                ]),
                ..plain()
            }),
        ),
        (
            "client_connection_limit",
            listens(Listen {
                connection_limit: Some(ConnectionLimit { value: 5, close_delay: Duration::from_secs(1) }),
                ..plain()
            }),
        ),
        (
            "client_rate_limit",
            listens(Listen { rate_limit: Some(RateLimit { per_second: 10, burst: 20 }), ..plain() }),
        ),
        ("access_log_disabled", listens(Listen { access_log: AccessLog::Off, ..plain() })),
        ("access_log_failures", listens(Listen { access_log: AccessLog::Sampled(0), ..plain() })),
        ("access_log_sample", listens(Listen { access_log: AccessLog::Sampled(10), ..plain() })),
    ]
}

#[test]
fn every_feature_has_this_form_beside_the_plain_one() {
    let plain = text(&Edge::default());
    for (name, edge) in cases() {
        insta::assert_snapshot!(name, added(&plain, &text(&edge)));
    }
}

#[test]
fn what_concerns_endpoints_leaves_listeners_alone_and_what_concerns_clients_clusters() {
    let plain = view(&Edge::default());
    for (name, edge) in cases() {
        let view = view(&edge);
        let differs =
            |kind| view.get(kind, "web-tcp-80").unwrap().body != plain.get(kind, "web-tcp-80").unwrap().body;
        assert_eq!(
            differs(Kind::Listener),
            edge.listen != Listen::default(),
            "{name}: a changed listener cuts connections"
        );
        assert_eq!(differs(Kind::Cluster), edge.reach != Reach::default(), "{name}");
    }
}

/// One second, as Envoy's configuration has it.
fn one_second() -> Option<envoy_types::pb::google::protobuf::Duration> {
    Some(envoy_types::pb::google::protobuf::Duration { seconds: 1, nanos: 0 })
}

/// One configuration with all cases, as static resources.
fn config() -> Config {
    let mut resources = StaticResources::default();
    for (port, (name, edge)) in (10_000..).zip([("plain", Edge::default())].into_iter().chain(cases())) {
        let view = build(&edged(edge), &[(80, port - 10_000, 8080)], &[]);
        let (mut cluster, mut listener) = (cluster(&view), listener(&view));
        cluster.name = name.to_owned();
        listener.name = name.to_owned();
        resources.clusters.push(cluster);
        resources.listeners.push(listener);
    }
    let xds = Cluster { name: "xds".into(), connect_timeout: one_second(), ..Cluster::default() };
    resources.clusters.push(xds);
    let grpc = EnvoyGrpc { cluster_name: "xds".into(), ..EnvoyGrpc::default() };
    Config {
        node: Some(Node { id: "n".into(), cluster: "c".into(), ..Node::default() }),
        static_resources: Some(resources),
        dynamic_resources: Some(DynamicResources {
            ads_config: Some(ApiConfigSource {
                api_type: ApiType::DeltaGrpc.into(),
                transport_api_version: ApiVersion::V3.into(),
                grpc_services: vec![GrpcService {
                    target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
                    ..GrpcService::default()
                }],
                ..ApiConfigSource::default()
            }),
            ..DynamicResources::default()
        }),
        ..Config::default()
    }
}

#[test]
fn envoy_accepts_every_feature() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.pb");
    std::fs::write(&file, config().encode_to_vec()).unwrap();
    let run = Command::new(binary())
        .arg("-c")
        .arg(&file)
        .args(["--mode", "validate", "--disable-hot-restart"])
        .output();
    let run = run.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{text}");
    for word in ["deprecated", "Deprecated", "Unknown field", "work-in-progress"] {
        assert!(!text.contains(word), "{text}");
    }
}
