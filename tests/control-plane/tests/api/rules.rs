//! What the definitions refuse beyond types: each rule with what it must let through.

use epic_control_plane::{Identity, Request};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{admin, client, endpoint, load_balancer, namespace, object};

/// Held by tests that store the singleton.
pub(crate) static SINGLETON: Mutex<()> = Mutex::const_new(());

/// Sets a field (JSON pointer) of an object.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    let parent = parent.split('/').skip(1).fold(&mut object, |at, key| {
        if at[key].is_null() {
            at[key] = json!({});
        }
        &mut at[key]
    });
    parent[field] = value;
    object
}

/// Creates without storing: `None` must be accepted, `Some(text)` must be refused with that text.
async fn judge(object: &Value, refusal: Option<&str>) {
    let answer = Request::create(object).dry_run().send(&admin().await).await;
    assert_eq!(answer.warnings, Vec::<String>::new());
    match refusal {
        None => assert!(answer.is_ok(), "{object} is refused: {}", answer.message()),
        Some(text) => {
            assert!(!answer.is_ok(), "{object} is accepted");
            assert!(
                answer.message().contains(text),
                "{object} is refused with {} and not {text}",
                answer.message()
            );
        }
    }
}

/// Judges many values of one field.
async fn judge_field(of: &Value, pointer: &str, good: &[Value], bad: &[Value], text: &str) {
    for value in good {
        judge(&with(of.clone(), pointer, value.clone()), None).await;
    }
    for value in bad {
        judge(&with(of.clone(), pointer, value.clone()), Some(text)).await;
    }
}

#[tokio::test]
async fn addresses_are_canonical() {
    namespace("epic-rules", true).await;
    let good = [json!("10.0.0.1"), json!("2001:db8::1"), json!("fe80::1")];
    let bad = [
        json!("10.0.0.01"),
        json!("10.0.0"),
        json!("10.0.0.1/32"),
        json!("2001:DB8::1"),
        json!("2001:db8:0::1"),
        json!("::ffff:10.0.0.1"),
        json!("fe80::1%eth0"),
        json!("host"),
        json!(""),
    ];
    let of = endpoint("epic-rules", "e");
    judge_field(&of, "/spec/address", &good, &bad, "canonical form").await;
    judge_field(&of, "/spec/node-address", &good, &bad, "canonical form").await;
    let of = load_balancer("epic-rules", "l");
    judge_field(&of, "/spec/public-address", &good, &bad, "canonical form").await;
    judge_field(&of, "/spec/alt-address", &good, &bad, "canonical form").await;
}

#[tokio::test]
async fn networks_are_canonical_and_have_no_host_bits() {
    let _singleton = SINGLETON.lock().await;
    namespace("epic-rules", true).await;
    let list = |text: &str| json!([text]);
    let good = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/64", "0.0.0.0/0"].map(list);
    let bad =
        ["10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "2001:DB8::/64", "2001:db8::1/64", "10.0.0.0/08"].map(list);
    let text = "canonical CIDR form";
    judge_field(&load_balancer("epic-rules", "l"), "/spec/source-ranges", &good, &bad, text).await;
    judge_field(&object("Account", "epic", "a", json!({})), "/spec/client-networks", &good, &bad, text).await;
    let epic = object("EPIC", "epic", "epic", json!({}));
    judge_field(&epic, "/spec/untunnelled-networks", &good, &bad, text).await;
    judge_field(&epic, "/spec/scraper-networks", &good, &bad, text).await;
    let protected = ["10.0.0.0/8", "10.0.0.1", "2001:db8::1"].map(list);
    let unusable = ["10.0.0.1/8", "10.0.0.01", "host"].map(list);
    judge_field(&epic, "/spec/protected-addresses", &protected, &unusable, "an IP address or a network")
        .await;
    for range in ["proxy-addresses", "alias-addresses"] {
        let (v4, v6) = (format!("/spec/{range}/ipv4"), format!("/spec/{range}/ipv6"));
        judge_field(
            &epic,
            &v4,
            &[json!("100.64.0.0/11")],
            &[json!("fd00::/64"), json!("100.64.0.1/11")],
            "IPv4",
        )
        .await;
        judge_field(
            &epic,
            &v6,
            &[json!("fd00::/64")],
            &[json!("100.64.0.0/11"), json!("fd00::1/64")],
            "IPv6",
        )
        .await;
    }
}

#[tokio::test]
async fn proxies_are_placed_and_sized_within_bounds() {
    let _singleton = SINGLETON.lock().await;
    let of = object("EPIC", "epic", "epic", json!({ "proxies": {} }));
    let field = |name: &str| format!("/spec/proxies/{name}");
    let texts = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<_>>();
    judge_field(
        &of,
        &field("resources/memory"),
        &texts(&["128Mi", "256Mi", "1G", "64Gi", "268435456"]),
        &texts(&["127Mi", "65Gi", "1"]),
        "must be from 128Mi to 64Gi",
    )
    .await;
    for unit in ["1.5Gi", "256 Mi", "0", "-1Gi", "1Ti"] {
        judge(
            &with(of.clone(), &field("resources/memory"), json!(unit)),
            Some("spec.proxies.resources.memory"),
        )
        .await;
    }
    for cpu in ["cpu", "cpu-limit"] {
        let at = field(&format!("resources/{cpu}"));
        judge_field(
            &of,
            &at,
            &texts(&["20m", "2", "0.5", "64"]),
            &texts(&["65", "64001m"]),
            "must be at most 64",
        )
        .await;
        judge_field(&of, &at, &[], &texts(&["0", "0m", "1e3", ""]), &format!("resources.{cpu}")).await;
    }
    let label = |key: &str| json!({ key: "x" });
    let foreign = ["team", "example.com/team", "sidecar.istio.io/inject"].map(label);
    let ours =
        ["app.kubernetes.io/name", "kubernetes.io/os", "node.k8s.io/x", "epic.acnodal.io/account"].map(label);
    for field in ["/spec/proxies/pod-labels", "/spec/proxies/pod-annotations"] {
        judge_field(&of, field, &foreign, &ours, "belong to Kubernetes and EPIC").await;
    }
    judge_field(
        &of,
        &field("node-selector"),
        &["edge", "kubernetes.io/arch"].map(label),
        &["epic.acnodal.io/node"].map(label),
        "leave it out",
    )
    .await;
    let toleration = |toleration: Value| json!([toleration]);
    let at = field("tolerations");
    judge_field(
        &of,
        &at,
        &[
            toleration(json!({ "key": "edge", "operator": "Exists" })),
            toleration(
                json!({ "key": "edge", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 30 }),
            ),
        ],
        &[toleration(json!({ "operator": "Exists" }))],
        "tolerations[0].key",
    )
    .await;
    judge(
        &with(of.clone(), &at, toleration(json!({ "key": "a", "operator": "Exists", "value": "b" }))),
        Some("has no value"),
    )
    .await;
    judge(
        &with(of.clone(), &at, toleration(json!({ "key": "a", "tolerationSeconds": 1 }))),
        Some("NoExecute"),
    )
    .await;
    judge_field(&of, &field("concurrency"), &[json!(1), json!(64)], &[json!(0), json!(65)], "concurrency")
        .await;
}

#[tokio::test]
async fn a_pool_holds_networks_ranges_of_one_family_and_single_addresses() {
    let pool = object("AddressPool", "epic", "p", json!({}));
    let list = |text: &str| json!([text]);
    judge_field(
        &pool,
        "/spec/addresses",
        &[
            "192.0.2.0/24",
            "192.0.2.7-192.0.2.9",
            "192.0.2.7",
            "2001:db8::/64",
            "2001:db8::1-2001:db8::ff",
            "2001:db8::7",
        ]
        .map(list),
        &[
            "192.0.2.1/24",
            "192.0.2.07",
            "2001:0db8::7",
            "router",
            "192.0.2.7-",
            "192.0.2.7-192.0.2.8-192.0.2.9",
            "192.0.2.7-2001:db8::1",
            "192.0.2.07-192.0.2.9",
            "192.0.2.7 - 192.0.2.9",
        ]
        .map(list),
        "range of addresses of one family",
    )
    .await;
    judge_field(&pool, "/spec/addresses", &[], &[json!([])], "should have at least 1 items").await;
    let pool = with(pool, "/spec/addresses", json!(["192.0.2.0/24"]));
    let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]});
    judge_field(
        &pool,
        "/spec/account-selector",
        &[json!({}), json!({"matchLabels": {"tier": "gold"}}), expression("In", json!(["gold"]))],
        &[expression("In", json!([])), expression("Exists", json!(["gold"]))],
        "values are needed by In and NotIn",
    )
    .await;
    judge_field(&pool, "/spec/auto-assign", &[json!(true), json!(false)], &[json!("no")], "boolean").await;
    let good = [json!([]), json!(["a", "b-1"])];
    judge_field(
        &pool,
        "/spec/accounts",
        &good,
        &[json!(["A"]), json!([""]), json!(["a".repeat(59)])],
        "accounts",
    )
    .await;
    judge_field(&pool, "/spec/advertise", &[json!({}), json!({ "l2": {} })], &[json!({ "l3": {} })], "l3")
        .await;
}

#[tokio::test]
async fn an_account_has_a_name_that_fits_a_namespace() {
    for (name, refusal) in [
        ("a".to_owned(), None),
        ("a".repeat(58), None),
        ("a".repeat(59), Some("at most 58 characters")),
        ("a.b".to_owned(), Some("DNS label")),
    ] {
        judge(&object("Account", "epic", &name, json!({})), refusal).await;
    }
}

#[tokio::test]
async fn subjects_are_those_of_a_role_binding() {
    let account = object("Account", "epic", "a", json!({}));
    judge_field(
        &account,
        "/spec/subjects",
        &[
            json!([{ "kind": "User", "name": "alice" }]),
            json!([{ "kind": "Group", "name": "g", "apiGroup": "rbac.authorization.k8s.io" }]),
            json!([{ "kind": "ServiceAccount", "name": "s", "namespace": "n", "apiGroup": "" }]),
        ],
        &[],
        "",
    )
    .await;
    let bad = [
        json!([{ "kind": "ServiceAccount", "name": "s" }]),
        json!([{ "kind": "User", "name": "u", "namespace": "n" }]),
    ];
    judge_field(&account, "/spec/subjects", &[], &bad, "namespace is required").await;
    let bad = [json!([{ "kind": "User", "name": "u", "apiGroup": "" }])];
    judge_field(&account, "/spec/subjects", &[], &bad, "apiGroup must be absent").await;
}

#[tokio::test]
async fn numbers_keep_to_their_ranges() {
    let _singleton = SINGLETON.lock().await;
    namespace("epic-rules", true).await;
    let account = object("Account", "epic", "a", json!({}));
    judge_field(&account, "/spec/group-id", &[json!(1), json!(65535)], &[json!(0), json!(65536)], "group-id")
        .await;
    let balancer = load_balancer("epic-rules", "l");
    judge_field(
        &balancer,
        "/spec/service-id",
        &[json!(1), json!(65535)],
        &[json!(0), json!(65536)],
        "service-id",
    )
    .await;
    let of = endpoint("epic-rules", "e");
    judge_field(&of, "/spec/weight", &[json!(0), json!(1), json!(128)], &[json!(-1), json!(129)], "weight")
        .await;
    judge_field(&of, "/spec/port/port", &[json!(1), json!(65535)], &[json!(0), json!(65536)], "port").await;
    let group = object("ServiceGroup", "epic", "g", json!({}));
    judge_field(
        &group,
        "/spec/envoy-replicas",
        &[json!(1), json!(100)],
        &[json!(0), json!(101)],
        "envoy-replicas",
    )
    .await;
    let epic = object("EPIC", "epic", "epic", json!({}));
    judge_field(&epic, "/spec/gue/port", &[json!(6080)], &[json!(0), json!(65536)], "port").await;
}

#[tokio::test]
async fn durations_are_those_of_the_gateway_api() {
    let group = object("ServiceGroup", "epic", "g", json!({}));
    let good = [json!("5s"), json!("29m30s"), json!("300ms")];
    let bad = [json!("5"), json!("1.5s"), json!("5d"), json!("-1s"), json!("")];
    judge_field(&group, "/spec/timeouts/drain", &good, &bad, "should match").await;
    judge_field(&group, "/spec/timeouts/idle", &good[..2], &bad, "should match").await;
    judge_field(&group, "/spec/timeouts/connect", &[json!("5s"), json!("300ms")], &bad, "should match").await;
}

#[tokio::test]
async fn what_a_group_says_to_envoy_is_bounded() {
    let group = object("ServiceGroup", "epic", "g", json!({}));
    let texts = |list: &[&str]| list.iter().map(|text| json!(text)).collect::<Vec<_>>();
    let numbers = |list: &[i64]| list.iter().map(|number| json!(number)).collect::<Vec<_>>();
    let with_probe = object("ServiceGroup", "epic", "g", json!({"health-check": {"tcp": {}}}));
    for (of, pointer, good, bad, text) in [
        (
            &group,
            "timeouts/connect",
            &["10ms", "1m", "59s1000ms"][..],
            &["0s", "9ms", "61s"][..],
            "10ms to 1m",
        ),
        (&group, "timeouts/idle", &["0s", "0h0m", "1s", "720h"], &["999ms", "720h1ms"], "0s for never"),
        (&with_probe, "health-check/interval", &["1s", "10m"], &["0s", "999ms", "11m"], "1s to 10m"),
        (&with_probe, "health-check/timeout", &["100ms", "1m"], &["99ms", "61s"], "100ms to 1m"),
        (&group, "health-check/passive/base-ejection-time", &["1s", "1h"], &["0s", "61m"], "1s to 1h"),
    ] {
        judge_field(of, &format!("/spec/{pointer}"), &texts(good), &texts(bad), text).await;
    }
    let limited = object("ServiceGroup", "epic", "g", json!({"client": {"connection-limit": {"value": 1}}}));
    let delays = (texts(&["0s", "10s"]), texts(&["10001ms"]));
    judge_field(&limited, "/spec/client/connection-limit/close-delay", &delays.0, &delays.1, "at most 10s")
        .await;
    for (of, pointer, good, bad) in [
        (&group, "panic-threshold", &[0, 100][..], &[-1, 101][..]),
        (&with_probe, "health-check/healthy-threshold", &[1, 100], &[0, 101]),
        (&with_probe, "health-check/unhealthy-threshold", &[1, 100], &[0, 101]),
        (&group, "health-check/passive/consecutive-failures", &[1, 100], &[0, 101]),
        (&group, "health-check/passive/max-ejection-percent", &[0, 100], &[-1, 101]),
        (&group, "client/connection-limit/value", &[1, 1_000_000], &[0, 1_000_001]),
        (&group, "client/rate-limit/connections-per-second", &[1, 1_000_000], &[0, 1_000_001]),
        (&group, "circuit-breaker/max-connections", &[1, 1_000_000], &[0, 1_000_001]),
        (&group, "circuit-breaker/max-pending-requests", &[1, 1_000_000], &[0, 1_000_001]),
        (&group, "circuit-breaker/per-endpoint/max-connections", &[1, 1_000_000], &[0, 1_000_001]),
        (&group, "telemetry/access-log/sample-percent", &[1, 100], &[0, 101]),
    ] {
        let field = pointer.rsplit('/').next().unwrap_or_default();
        judge_field(of, &format!("/spec/{pointer}"), &numbers(good), &numbers(bad), field).await;
    }
    let http = object("ServiceGroup", "epic", "g", json!({"health-check": {"http": {"path": "/"}}}));
    let statuses = [json!([99]), json!([600]), json!([]), json!([200, 200])];
    judge_field(&http, "/spec/health-check/http/statuses", &[json!([100, 599])], &statuses, "statuses").await;
    let networks = [json!([]), json!(["10.0.0.1/8"]), json!(["10.0.0.1"])];
    let pointer = "/spec/client/proxy-protocol/trusted-networks";
    judge_field(&group, pointer, &[json!(["10.0.0.0/8", "2001:db8::/32"])], &networks, "trusted-networks")
        .await;
}

#[tokio::test]
async fn fields_of_a_group_that_contradict_each_other_are_refused_at_the_door() {
    let group = |spec| object("ServiceGroup", "epic", "g", spec);
    for (spec, refused) in [
        (
            json!({"health-check": {"tcp": {}, "http": {"path": "/"}}}),
            Some("at most one of tcp, http and grpc"),
        ),
        (json!({"health-check": {"interval": "5s"}}), Some("name one of tcp, http and grpc")),
        (
            json!({"health-check": {"unhealthy-threshold": 2, "passive": {}}}),
            Some("name one of tcp, http and grpc"),
        ),
        (json!({"health-check": {"grpc": {}, "interval": "5s", "passive": {}}}), None),
        (json!({"health-check": {"passive": {}}}), None),
        (
            json!({"client": {"rate-limit": {"connections-per-second": 10, "burst": 9}}}),
            Some("burst must be at least connections-per-second"),
        ),
        (json!({"client": {"rate-limit": {"connections-per-second": 10, "burst": 10}}}), None),
        (
            json!({"telemetry": {"access-log": {"disabled": true, "filter": "All"}}}),
            Some("neither filter nor sample-percent"),
        ),
        (
            json!({"telemetry": {"access-log": {"filter": "Failures", "sample-percent": 5}}}),
            Some("leave one of them out"),
        ),
        (json!({"telemetry": {"access-log": {"filter": "All", "sample-percent": 5}}}), None),
        (json!({"telemetry": {"metrics": {"level": "Some"}}}), Some("Unsupported value")),
        (json!({"telemetry": {"metrics": {"level": "Full"}}}), None),
    ] {
        judge(&group(spec), refused).await;
    }
}

#[tokio::test]
async fn nobody_drains_for_longer_than_an_hour() {
    let group = object("ServiceGroup", "epic", "g", json!({}));
    let good = [json!("0s"), json!("1h"), json!("59m60s"), json!("3600s")];
    let bad = [json!("1h1ms"), json!("2h"), json!("99999h"), json!("30m31m")];
    judge_field(&group, "/spec/timeouts/drain", &good, &bad, "at most 1h").await;
}

#[tokio::test]
async fn texts_hold_nothing_that_a_terminal_or_a_proxy_obeys() {
    namespace("epic-rules", true).await;
    let of = load_balancer("epic-rules", "l");
    let good = [json!("My site, Köln"), json!("x".repeat(256))];
    let bad = [json!("a\u{1b}[2J"), json!("a\nb"), json!("a\u{9b}b"), json!(""), json!("x".repeat(257))];
    judge_field(&of, "/spec/display-name", &good, &bad, "display-name").await;
    let of = endpoint("epic-rules", "e");
    judge_field(
        &of,
        "/spec/cluster",
        &[json!("prod-1.eu_A")],
        &[json!("a b"), json!("-a"), json!("")],
        "cluster",
    )
    .await;
    let group = object("ServiceGroup", "epic", "g", json!({}));
    let bad = [json!("health"), json!("/a b"), json!("/a\r\nHost: x")];
    judge_field(&group, "/spec/health-check/http/path", &[json!("/"), json!("/health?x=1")], &bad, "path")
        .await;
}

#[tokio::test]
async fn a_load_balancer_has_a_name_that_fits_a_label() {
    namespace("epic-rules", true).await;
    judge(&load_balancer("epic-rules", &"l".repeat(63)), None).await;
    judge(&load_balancer("epic-rules", &"l".repeat(64)), Some("at most 63 characters")).await;
}

#[tokio::test]
async fn enums_are_closed_and_unknown_fields_refused() {
    let group = object("ServiceGroup", "epic", "g", json!({}));
    let good = ["RoundRobin", "LeastRequest", "Random", "RingHash", "Maglev"].map(|policy| json!(policy));
    judge_field(&group, "/spec/lb-policy", &good, &[json!("roundRobin"), json!("")], "lb-policy").await;
    judge_field(
        &group,
        "/spec/forwarding",
        &[json!("Proxy"), json!("Direct")],
        &[json!("DSR")],
        "forwarding",
    )
    .await;
    judge_field(&group, "/spec/surprise", &[], &[json!(1)], "unknown field").await;
}

#[tokio::test]
async fn a_backup_is_another_load_balancer() {
    namespace("epic-rules", true).await;
    let of = load_balancer("epic-rules", "l");
    let names = |name: &str| json!({"load-balancer": name});
    judge_field(&of, "/spec/backup", &[names("sorry")], &[names("l")], "must name another LoadBalancer")
        .await;
    judge_field(&of, "/spec/backup", &[], &[names("No"), json!({})], "spec.backup").await;
}

#[tokio::test]
async fn public_ports_are_unique_by_number_and_name() {
    namespace("epic-rules", true).await;
    let of = load_balancer("epic-rules", "l");
    let good = [
        json!([{ "port": 53, "protocol": "TCP" }, { "port": 53, "protocol": "UDP" }]),
        json!([{ "port": 80, "name": "a" }, { "port": 81, "name": "b" }, { "port": 82 }, { "port": 83 }]),
    ];
    judge_field(&of, "/spec/public-ports", &good, &[], "").await;
    let twice = [json!([{ "port": 80 }, { "port": 80, "protocol": "TCP" }])];
    judge_field(&of, "/spec/public-ports", &[], &twice, "Duplicate value").await;
    let same_name = [json!([{ "port": 80, "name": "a" }, { "port": 81, "name": "a" }])];
    judge_field(&of, "/spec/public-ports", &[], &same_name, "names of public ports must be unique").await;
    judge_field(&of, "/spec/public-ports", &[], &[json!([])], "at least 1 items").await;
    let port = |target: Value| json!([{ "port": 80, "targetPort": target }]);
    judge_field(
        &of,
        "/spec/public-ports",
        &[port(json!(8080)), port(json!("http"))],
        &[port(json!(0)), port(json!(65536)), port(json!("HTTP")), port(json!(""))],
        "port number from 1 to 65535 or the name of a port",
    )
    .await;
    let many = |count: i64| json!((1..=count).map(|port| json!({ "port": port })).collect::<Vec<_>>());
    judge_field(&of, "/spec/public-ports", &[many(100)], &[many(101)], "at most 100 items").await;
}

#[tokio::test]
async fn the_alternative_address_is_of_the_other_family() {
    namespace("epic-rules", true).await;
    let of = with(load_balancer("epic-rules", "l"), "/spec/public-address", json!("192.0.2.1"));
    let text = "of the other family";
    judge_field(&of, "/spec/alt-address", &[json!("2001:db8::1")], &[json!("192.0.2.2")], text).await;
}

#[tokio::test]
async fn epic_is_called_epic() {
    let _singleton = SINGLETON.lock().await;
    judge(&object("EPIC", "epic", "epic", json!({})), None).await;
    judge(&object("EPIC", "epic", "other", json!({})), Some("there is one EPIC object")).await;
}

#[tokio::test]
async fn a_granted_value_stays_in_the_spec_or_is_left_out() {
    namespace("epic-grants", true).await;
    let client = admin().await;
    let cases = [
        (object("Account", "epic", "grants", json!({})), "group-id", json!(7), json!(8)),
        (load_balancer("epic-grants", "id"), "service-id", json!(7), json!(8)),
        (load_balancer("epic-grants", "address"), "public-address", json!("192.0.2.7"), json!("192.0.2.8")),
        (load_balancer("epic-grants", "alt"), "alt-address", json!("2001:db8::7"), json!("2001:db8::8")),
    ];
    for (object, field, granted, other) in cases {
        let path = Request::path_of(&object);
        let spec = |value: &Value| json!({ "spec": { field: value } });
        Request::create(&object).send(&client).await.expect_ok();
        // A request may be corrected until it is granted.
        Request::merge(&path, &spec(&other)).send(&client).await.expect_ok();
        Request::merge(&path, &spec(&granted)).send(&client).await.expect_ok();
        Request::merge(&path, &spec(&other)).send(&client).await.expect_ok();
        // A grant that is not what the spec asks for is refused.
        let status = format!("{path}/status");
        let grant = json!({ "status": { field: granted } });
        Request::merge(&status, &grant).send(&client).await.expect_refused("absent or equal");
        Request::merge(&path, &spec(&Value::Null)).send(&client).await.expect_ok();
        Request::merge(&status, &grant).send(&client).await.expect_ok();
        Request::merge(&path, &spec(&other))
            .send(&client)
            .await
            .expect_refused("absent or equal to the granted");
        Request::merge(&path, &spec(&granted)).send(&client).await.expect_ok();
        // Leaving it out stays legal, or whoever applies without it could never write again.
        Request::merge(&path, &spec(&Value::Null)).send(&client).await.expect_ok();
        Request::delete(&path).send(&client).await.expect_ok();
    }
}

#[tokio::test]
async fn ranges_are_immutable_once_used() {
    let _singleton = SINGLETON.lock().await;
    let client = admin().await;
    let epic = object("EPIC", "epic", "epic", json!({}));
    let path = Request::path_of(&epic);
    let status = format!("{path}/status");
    Request::create(&epic).send(&client).await.expect_ok();
    for (field, counter, default) in [
        ("proxy-addresses", "current-proxy-id", "100.64.0.0/11"),
        ("alias-addresses", "current-group-id", "100.127.0.0/16"),
    ] {
        let spec = |ipv4: Value, ipv6: Value| json!({ "spec": { field: { "ipv4": ipv4, "ipv6": ipv6 } } });
        let in_force = json!({ "status": { field: { "ipv4": default, "ipv6": "fd00:1::/64" } } });
        Request::merge(&status, &in_force).send(&client).await.expect_ok();
        let change = spec(json!("10.0.0.0/16"), Value::Null);
        Request::merge(&path, &change).send(&client).await.expect_ok();
        Request::merge(&path, &spec(Value::Null, Value::Null)).send(&client).await.expect_ok();

        Request::merge(&status, &json!({ "status": { counter: 1 } })).send(&client).await.expect_ok();
        Request::merge(&path, &change).send(&client).await.expect_refused("ipv4 is immutable");
        let change = spec(Value::Null, json!("fd00:2::/64"));
        Request::merge(&path, &change).send(&client).await.expect_refused("ipv6 is immutable");
        Request::merge(&path, &spec(json!(default), json!("fd00:1::/64"))).send(&client).await.expect_ok();
        Request::merge(&path, &spec(Value::Null, Value::Null)).send(&client).await.expect_ok();
    }
    Request::delete(&path).send(&client).await.expect_ok();
}

fn claim(name: &str, address: &str) -> Value {
    let owner = json!({
        "kind": "LoadBalancer", "namespace": "epic-a", "name": "l", "uid": "u", "resource-version": "1",
    });
    object("AddressClaim", "epic", name, json!({ "address": address, "pool": "default", "owner": owner }))
}

#[tokio::test]
async fn a_claim_is_named_after_its_address() {
    judge(&claim("192.0.2.7", "192.0.2.7"), None).await;
    judge(&claim("2001-0db8-0000-0000-0000-0000-0000-0007", "2001:db8::7"), None).await;
    for (name, address) in
        [("192.0.2.8", "192.0.2.7"), ("default-192.0.2.7", "192.0.2.7"), ("2001-db8--7", "2001:db8::7")]
    {
        judge(&claim(name, address), Some("named after its address")).await;
    }
}

#[tokio::test]
async fn a_claim_follows_its_owner_and_its_pool_and_nothing_else_of_it_changes() {
    // As the operator, who is the one to do it.
    let client = client(Identity::operator()).await;
    let claim = claim("192.0.2.99", "192.0.2.99");
    let path = Request::path_of(&claim);
    Request::create(&claim).send(&client).await.expect_ok();
    let owner = |field: &str, value: &str| json!({ "spec": { "owner": { field: value } } });
    Request::merge(&path, &owner("resource-version", "2")).send(&client).await.expect_ok();
    for field in ["kind", "namespace", "name", "uid"] {
        let patch = owner(field, "other");
        Request::merge(&path, &patch).send(&client).await.expect_refused("owner of a claim is immutable");
    }
    let other = json!({ "spec": { "address": "192.0.2.98" } });
    Request::merge(&path, &other).send(&client).await.expect_refused("immutable");
    let renamed = json!({ "spec": { "pool": "other" } });
    Request::merge(&path, &renamed).send(&client).await.expect_ok();
    let status = format!("{path}/status");
    let phase = |phase: Value| json!({ "status": { "phase": phase, "release-revision": "5" } });
    Request::merge(&status, &phase(json!("Bound"))).send(&client).await.expect_refused("Unsupported value");
    Request::merge(&status, &phase(json!("Releasing"))).send(&client).await.expect_ok();
    Request::merge(&status, &phase(Value::Null)).send(&client).await.expect_refused("stays Releasing");
    let gone = json!({ "status": null });
    Request::merge(&status, &gone).send(&client).await.expect_refused("stays Releasing");
    Request::delete(&path).send(&client).await.expect_ok();
}

#[tokio::test]
async fn no_value_is_reserved_twice() {
    let client = admin().await;
    let account = object("Account", "epic", "reserved", json!({}));
    let path = Request::path_of(&account);
    Request::create(&account).send(&client).await.expect_ok();
    let reservation = |counter: &str, value: i64, name: &str| {
        json!({
            "counter": counter, "value": value, "kind": "LoadBalancer", "namespace": "epic-a", "name": name,
            "uid": name, "resource-version": "1",
        })
    };
    let status = |list: Value| json!({ "status": { "reservations": list } });
    let send = |list: Value| Request::merge(&format!("{path}/status"), &status(list)).send(&client);
    send(json!([
        reservation("Service", 1, "a"),
        reservation("Endpoint", 1, "a"),
        reservation("Service", 2, "b")
    ]))
    .await
    .expect_ok();
    send(json!([reservation("Service", 1, "a"), reservation("Service", 1, "b")]))
        .await
        .expect_refused("Duplicate value");
    let many = |count: i64| (1..=count).map(|value| reservation("Service", value, "a")).collect::<Value>();
    send(many(256)).await.expect_ok();
    send(many(257)).await.expect_refused("at most 256 items");
    Request::delete(&path).send(&client).await.expect_ok();
}

#[tokio::test]
async fn conditions_are_strict() {
    namespace("epic-conditions", true).await;
    let client = admin().await;
    let balancer = load_balancer("epic-conditions", "l");
    let path = format!("{}/status", Request::path_of(&balancer));
    Request::create(&balancer).send(&client).await.expect_ok();
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
    });
    let send = |conditions: Value| {
        Request::merge(&path, &json!({ "status": { "conditions": conditions } })).send(&client)
    };
    send(json!([condition])).await.expect_ok();
    send(json!([condition, condition])).await.expect_refused("Duplicate value");
    for (field, value) in [
        ("status", json!("yes")),
        ("reason", json!("")),
        ("reason", json!("not camel")),
        ("type", json!("a b")),
        ("lastTransitionTime", json!("today")),
        ("observedGeneration", json!(-1)),
        ("message", json!("m".repeat(32_769))),
    ] {
        let mut wrong = condition.clone();
        wrong[field] = value;
        send(json!([wrong])).await.expect_refused(field);
    }
}

#[tokio::test]
async fn tunnels_are_keyed_by_addresses_and_bounded() {
    namespace("epic-tunnels", true).await;
    let client = admin().await;
    let balancer = load_balancer("epic-tunnels", "l");
    let path = format!("{}/status", Request::path_of(&balancer));
    Request::create(&balancer).send(&client).await.expect_ok();
    let leg = json!({
        "epic-address": "192.168.77.101", "tunnel-id": 1,
        "epic-port": { "appProtocol": "gue", "port": 6080, "protocol": "UDP" },
    });
    let send = |tunnels: Value| {
        Request::merge(&path, &json!({ "status": { "gue-tunnel-endpoints": tunnels } })).send(&client)
    };
    send(json!({ "client": leg })).await.expect_refused("addresses of client nodes");
    let mut full = leg.clone();
    full["alternates"] = std::iter::repeat_n(leg.clone(), 8).collect();
    let all: serde_json::Map<String, Value> =
        (0..250).map(|node| (format!("10.0.{}.{}", node / 250, node), full.clone())).collect();
    send(json!(all)).await.expect_ok();
    send(json!({ "10.1.0.1": leg })).await.expect_refused("at most 250 items");
    full["alternates"] = std::iter::repeat_n(leg, 9).collect();
    send(json!({ "10.0.0.0": full })).await.expect_refused("at most 8 items");
}

#[tokio::test]
async fn a_status_sent_with_a_new_object_is_dropped() {
    namespace("epic-dropped", true).await;
    let client = admin().await;
    let balancer = with(load_balancer("epic-dropped", "l"), "/status/service-id", json!(9));
    let stored = Request::create(&balancer).send(&client).await.expect_ok();
    assert!(stored.get("status").is_none());
}
