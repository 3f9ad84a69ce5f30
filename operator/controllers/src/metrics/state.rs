//! What is there and in which state, counted from the snapshot when somebody scrapes.
//!
//! Alerts are made of these figures: how many objects of a kind are ready, how full the pools are, and for how long the
//! oldest object has been waiting for what the operator owes it. Every replica shows them, since every one has the whole
//! snapshot; alerts take the maximum. A scrape costs one visit of each object and no call to the API server. When
//! certificates end stands in no snapshot: it is what was read of them when they were made or looked at last.
//!
//! Before every kind has been listed nothing is shown: no figure is better than a wrong one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Weak;
use std::time::{SystemTime, UNIX_EPOCH};

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY, RELEASED};
use epic_crds::well_known::node_lease_name;
use epic_crds::{
    Account, AddressClaim, AddressPool, AddressUsage, ConditionStatus, EPICNode, Endpoint, HasConditions,
    LoadBalancer, ProxyState, ServiceGroup,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kates::{Key, Object, Snapshot};
use kube::ResourceExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::certificate::Ends;
use crate::context::Context;

/// Counts the objects of the present snapshot at every scrape.
pub(crate) struct StateCollector {
    context: Weak<Context>,
}

impl StateCollector {
    /// Of what this operator watches. The registry is older than the context, so it must not keep it alive.
    pub(crate) fn new(context: Weak<Context>) -> Self {
        Self { context }
    }
}

impl fmt::Debug for StateCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StateCollector")
    }
}

impl Collector for StateCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(context) = self.context.upgrade() else { return Ok(()) };
        let Ok(snapshot) = context.snapshot() else { return Ok(()) };
        let ends = context.certificates.ends(context.leadership.leads());
        encode(encoder, &Figures::of(&snapshot, ends, Timestamp::now()))
    }
}

/// A label of two values, and how many there are.
type Pairs = BTreeMap<(String, &'static str), f64>;

/// What is shown. Pure in the snapshot, what is known of certificates, and the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Objects by kind and state.
    objects: Pairs,
    /// Proxies by state, as the LoadBalancers' status has them.
    proxies: BTreeMap<&'static str, f64>,
    /// EPIC nodes by state.
    nodes: BTreeMap<&'static str, f64>,
    /// Tunnels by whether their client answers, as the nodes report them.
    tunnels: BTreeMap<&'static str, f64>,
    /// How full the fullest map of each name is, 0 to 1.
    maps: BTreeMap<String, f64>,
    /// Addresses by pool, family and whether they are free.
    pools: BTreeMap<(String, &'static str, &'static str), f64>,
    /// Seconds that the oldest object has waited, by what it waits for.
    oldest: BTreeMap<&'static str, f64>,
    /// Unix time at which the first certificate ends, by what it is for.
    certificates: BTreeMap<&'static str, f64>,
}

impl Figures {
    /// Counts.
    pub(crate) fn of(snapshot: &Snapshot, ends: Ends, now: Timestamp) -> Self {
        let mut figures = Self {
            // Shown when nothing waits, too: an alert on a figure that vanishes never ends.
            oldest: ["service_id", "address", "programmed", "alias", "release"]
                .map(|what| (what, 0.0))
                .into(),
            proxies: ["pending", "ready", "draining"].map(|state| (state, 0.0)).into(),
            tunnels: ["up", "down"].map(|state| (state, 0.0)).into(),
            nodes: ["ready", "not_ready", "silent", "out_of_service"].map(|state| (state, 0.0)).into(),
            certificates: certificates(ends),
            ..Self::default()
        };
        figures.kind::<Account>(snapshot);
        figures.kind::<AddressPool>(snapshot);
        figures.kind::<ServiceGroup>(snapshot);
        figures.kind::<LoadBalancer>(snapshot);
        figures.kind::<Endpoint>(snapshot);
        snapshot.list::<LoadBalancer>().for_each(|balancer| figures.balancer(balancer, now));
        snapshot.list::<Endpoint>().for_each(|endpoint| figures.endpoint(endpoint, now));
        snapshot.list::<AddressPool>().for_each(|pool| figures.pool(pool));
        for claim in snapshot.list::<AddressClaim>() {
            let state = if claim.is_releasing() { "releasing" } else { "bound" };
            *figures.objects.entry(("AddressClaim".to_owned(), state)).or_default() += 1.0;
            if claim.is_releasing() {
                figures.waits("release", since(claim.as_ref(), RELEASED), now);
            }
        }
        for node in snapshot.list::<EPICNode>() {
            let lease =
                Key::namespaced(node.namespace().unwrap_or_default(), node_lease_name(&node.name_any()));
            let state = node_state(node, snapshot.get::<Lease>(&lease).map(AsRef::as_ref), now);
            *figures.nodes.entry(state).or_default() += 1.0;
            figures.reported(node);
        }
        figures
    }

    /// What a node's agent has reported of tunnels and maps.
    fn reported(&mut self, node: &EPICNode) {
        let Some(status) = &node.status else { return };
        if let Some(tunnels) = &status.tunnels {
            *self.tunnels.entry("up").or_default() += count(tunnels.up);
            *self.tunnels.entry("down").or_default() += count(tunnels.down);
        }
        for usage in status.map_usage.iter().filter(|usage| usage.capacity > 0) {
            let fullest = self.maps.entry(usage.map.clone()).or_default();
            *fullest = fullest.max(count(usage.entries) / count(usage.capacity));
        }
    }

    fn kind<K: Object<DynamicType = ()> + HasConditions>(&mut self, snapshot: &Snapshot) {
        let kind = K::kind(&()).into_owned();
        for state in ["ready", "pending", "refused", "deleting"] {
            self.objects.insert((kind.clone(), state), 0.0);
        }
        for object in snapshot.list::<K>() {
            *self.objects.entry((kind.clone(), state(object.as_ref()))).or_default() += 1.0;
        }
    }

    fn balancer(&mut self, balancer: &LoadBalancer, now: Timestamp) {
        let status = balancer.status.as_ref();
        for proxy in status.iter().flat_map(|status| &status.proxies) {
            let state = match proxy.state {
                ProxyState::Pending => "pending",
                ProxyState::Ready => "ready",
                ProxyState::Draining => "draining",
            };
            *self.proxies.entry(state).or_default() += 1.0;
        }
        if balancer.metadata.deletion_timestamp.is_some() || !balancer.is_condition_true(ACCEPTED) {
            return;
        }
        let accepted = since(balancer, ACCEPTED);
        if status.is_none_or(|status| status.service_id.is_none()) {
            self.waits("service_id", accepted.or_else(|| created(&balancer.metadata)), now);
        } else if status.is_none_or(|status| status.public_address.is_none()) {
            self.waits("address", accepted, now);
        } else if !balancer.is_condition_true(PROGRAMMED) {
            self.waits("programmed", since(balancer, PROGRAMMED), now);
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint, now: Timestamp) {
        let has_alias = endpoint.status.as_ref().is_some_and(|status| status.alias_address.is_some());
        let is_waiting = endpoint.metadata.deletion_timestamp.is_none()
            && endpoint.is_condition_true(ACCEPTED)
            && endpoint.spec.node_address.is_some()
            && !has_alias;
        if is_waiting {
            self.waits("alias", since(endpoint, ACCEPTED), now);
        }
    }

    fn pool(&mut self, pool: &AddressPool) {
        let Some(status) = &pool.status else { return };
        for (family, usage) in [("ipv4", &status.ipv4), ("ipv6", &status.ipv6)] {
            let Some(usage) = usage else { continue };
            let (used, free) = shares(usage);
            self.pools.insert((pool.name_any(), family, "used"), used);
            self.pools.insert((pool.name_any(), family, "free"), free);
        }
    }

    /// An object that waits, since then. A clock that was ahead when it began makes no wait of less than nothing.
    fn waits(&mut self, what: &'static str, since: Option<Timestamp>, now: Timestamp) {
        let waited = since.map_or(0.0, |since| (now - since).total(jiff::Unit::Second).unwrap_or(0.0));
        let oldest = self.oldest.entry(what).or_default();
        *oldest = oldest.max(waited);
    }
}

/// The state of an object, out of its conditions.
fn state<K: HasConditions + ResourceExt>(object: &K) -> &'static str {
    if object.meta().deletion_timestamp.is_some() {
        return "deleting";
    }
    // An edit that is refused takes nothing from what is served: such an object is ready, and its edit is not.
    if object.is_condition_true(READY) {
        return "ready";
    }
    match object.condition(ACCEPTED).map(|known| known.status) {
        Some(ConditionStatus::False) => "refused",
        _ => "pending",
    }
}

/// The state of a node. That it is out of service is the operator's verdict, and stands while its agent is silent; what
/// the agent itself said does not.
fn node_state(node: &EPICNode, lease: Option<&Lease>, now: Timestamp) -> &'static str {
    if node.out_of_service().is_some() {
        return "out_of_service";
    }
    match (lease.is_some_and(|lease| is_live(lease, now)), node.is_condition_true(READY)) {
        (false, _) => "silent",
        (true, true) => "ready",
        (true, false) => "not_ready",
    }
}

fn is_live(lease: &Lease, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let (Some(renewed), Some(seconds)) = (&spec.renew_time, spec.lease_duration_seconds) else {
        return false;
    };
    (now - renewed.0).total(jiff::Unit::Second).is_ok_and(|age| age <= f64::from(seconds))
}

fn certificates(ends: Ends) -> BTreeMap<&'static str, f64> {
    let unix = |end: SystemTime| end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let all = [("authority", ends.authority), ("proxies", ends.proxies)];
    all.into_iter().filter_map(|(what, end)| Some((what, unix(end?)))).collect()
}

fn since<K: HasConditions>(object: &K, type_: &str) -> Option<Timestamp> {
    object.condition(type_).map(|known| known.last_transition_time.0)
}

fn created(meta: &ObjectMeta) -> Option<Timestamp> {
    meta.creation_timestamp.as_ref().map(|Time(at)| *at)
}

/// A count of the API as a figure.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn count(value: i64) -> f64 {
    value as f64
}

/// Used and free addresses. The counts are texts, since an IPv6 network has more than any number of the API.
fn shares(usage: &AddressUsage) -> (f64, f64) {
    let count = |text: &str| text.parse::<f64>().unwrap_or(0.0);
    let (total, used) = (count(&usage.total), count(&usage.used));
    (used, (total - used).max(0.0))
}

fn encode(mut encoder: DescriptorEncoder, figures: &Figures) -> Result<(), fmt::Error> {
    let mut gauges = |name: &str, help: &str, rows: Vec<(Vec<(&'static str, &str)>, f64)>| {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok::<(), fmt::Error>(())
    };
    let by = |label: &'static str, figures: &BTreeMap<&'static str, f64>| {
        figures.iter().map(|(value, count)| (vec![(label, *value)], *count)).collect()
    };
    let objects = figures.objects.iter();
    let objects =
        objects.map(|((kind, state), count)| (vec![("kind", kind.as_str()), ("state", *state)], *count));
    gauges("objects", "Objects by kind and state.", objects.collect())?;
    gauges("proxies", "Proxies by state.", by("state", &figures.proxies))?;
    gauges("nodes", "EPIC nodes by state.", by("state", &figures.nodes))?;
    gauges(
        "tunnels",
        "Tunnels by whether their client answers, over all nodes.",
        by("state", &figures.tunnels),
    )?;
    let maps = figures.maps.iter().map(|(map, ratio)| (vec![("map", map.as_str())], *ratio));
    gauges(
        "map_usage_ratio",
        "How full the fullest BPF map of this name is, 0 to 1, over all nodes.",
        maps.collect(),
    )?;
    let pools = figures.pools.iter().map(|((pool, family, state), count)| {
        (vec![("pool", pool.as_str()), ("family", *family), ("state", *state)], *count)
    });
    gauges("pool_addresses", "Addresses of a pool by family, used and free.", pools.collect())?;
    gauges(
        "oldest_pending_seconds",
        "For how long the object that has waited longest has been waiting, by what it waits for.",
        by("what", &figures.oldest),
    )?;
    gauges(
        "certificate_expiry_timestamp_seconds",
        "Unix time at which the first certificate ends: of the proxies' (told by the replica that leads), and of the authority that signs them.",
        by("what", &figures.certificates),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).expect("an object of its kind")
    }

    fn condition(type_: &str, status: &str) -> Value {
        json!({"type": type_, "status": status, "reason": "X", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn balancer(status: Value) -> LoadBalancer {
        object(json!({
            "metadata": {"name": "web", "namespace": "epic-red", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"service-group": "shared", "public-ports": [{"port": 80, "protocol": "TCP"}]},
            "status": status,
        }))
    }

    fn at(seconds: i64) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::from_secs(seconds)
    }

    fn of(balancer: &LoadBalancer, now: Timestamp) -> Figures {
        let mut figures = Figures::default();
        figures.balancer(balancer, now);
        figures
    }

    #[test]
    fn the_oldest_wait_names_the_first_thing_that_is_missing() {
        let accepted = [condition("Accepted", "True")];
        let without_id = balancer(json!({"conditions": accepted}));
        assert_eq!(of(&without_id, at(90)).oldest, BTreeMap::from([("service_id", 90.0)]));
        let without_address = balancer(json!({"conditions": accepted, "service-id": 7}));
        assert_eq!(of(&without_address, at(60)).oldest, BTreeMap::from([("address", 60.0)]));
        let conditions = [condition("Accepted", "True"), condition("Programmed", "False")];
        let unprogrammed =
            balancer(json!({"conditions": conditions, "service-id": 7, "public-address": "192.0.2.7"}));
        assert_eq!(of(&unprogrammed, at(30)).oldest, BTreeMap::from([("programmed", 30.0)]));
    }

    #[test]
    fn what_is_refused_or_served_waits_for_nothing() {
        let refused = balancer(json!({"conditions": [condition("Accepted", "False")]}));
        assert_eq!(of(&refused, at(900)).oldest, BTreeMap::new());
        let conditions = [condition("Accepted", "True"), condition("Programmed", "True")];
        let served =
            balancer(json!({"conditions": conditions, "service-id": 7, "public-address": "192.0.2.7"}));
        assert_eq!(of(&served, at(900)).oldest, BTreeMap::new());
    }

    #[test]
    fn a_clock_that_went_back_makes_no_wait_below_nothing() {
        let waiting = balancer(json!({"conditions": [condition("Accepted", "True")]}));
        assert_eq!(of(&waiting, at(-3600)).oldest, BTreeMap::from([("service_id", 0.0)]));
    }

    #[test]
    fn an_object_whose_edit_is_refused_counts_as_ready_while_it_serves() {
        let both =
            balancer(json!({"conditions": [condition("Accepted", "False"), condition("Ready", "True")]}));
        assert_eq!(state(&both), "ready");
        assert_eq!(state(&balancer(json!({"conditions": [condition("Accepted", "False")]}))), "refused");
        assert_eq!(state(&balancer(json!({}))), "pending");
    }

    #[test]
    fn a_node_is_silent_whatever_it_said_before_its_lease_ran_out() {
        let node = |conditions: &[Value]| -> EPICNode {
            object(json!({"metadata": {"name": "a"}, "status": {"conditions": conditions}}))
        };
        let lease: Lease = object(json!({"metadata": {}, "spec": {
            "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 40,
        }}));
        let ready = node(&[condition("Ready", "True")]);
        assert_eq!(node_state(&ready, Some(&lease), at(20)), "ready");
        assert_eq!(node_state(&ready, Some(&lease), at(41)), "silent");
        assert_eq!(node_state(&ready, None, at(0)), "silent");
        let out = node(&[condition("Ready", "True"), condition("InService", "False")]);
        // That is the operator's word, not the agent's.
        assert_eq!(node_state(&out, Some(&lease), at(41)), "out_of_service");
        assert_eq!(node_state(&out, Some(&lease), at(20)), "out_of_service");
    }

    /// Shows these figures.
    #[derive(Debug)]
    struct Shown(Figures);

    impl Collector for Shown {
        fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
            encode(encoder, &self.0)
        }
    }

    #[test]
    fn certificates_are_shown_by_the_unix_time_of_their_end_and_unknown_ones_are_not() {
        let second = |seconds| Some(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let shown = |ends| {
            let mut registry = prometheus_client::registry::Registry::with_prefix("epic");
            let figures = Figures { certificates: certificates(ends), ..Figures::default() };
            registry.register_collector(Box::new(Shown(figures)));
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("a text");
            let rows = text.lines().filter(|line| line.starts_with("epic_certificate_"));
            rows.map(str::to_owned).collect::<Vec<String>>()
        };
        let row = |what: &str, value: &str| {
            format!("epic_certificate_expiry_timestamp_seconds{{what=\"{what}\"}} {value}")
        };
        let both = Ends { authority: second(2_082_844_800), proxies: second(1_767_312_000) };
        assert_eq!(shown(both), [row("authority", "2082844800.0"), row("proxies", "1767312000.0")]);
        assert_eq!(shown(Ends { proxies: None, ..both }), [row("authority", "2082844800.0")]);
    }

    #[test]
    fn a_pool_larger_than_any_number_of_the_api_has_a_figure() {
        let usage = AddressUsage {
            total: "18446744073709551616".to_owned(),
            used: "1".to_owned(),
            ..AddressUsage::default()
        };
        let (used, free) = shares(&usage);
        assert!(used == 1.0 && free > 1.8e19, "{used} {free}");
    }
}
