//! What the xDS server counts. Every label has a closed set of values; no tenant, pod or resource name is a label.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use parking_lot::Mutex;

use crate::engine;
use crate::software::Software;

/// Versions of proxies that have a label of their own at one time; a proxy may say what it likes.
const MAX_VERSIONS: usize = 16;

/// Resource type, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Kind {
    Cluster,
    Assignment,
    Listener,
}

impl From<engine::Kind> for Kind {
    fn from(kind: engine::Kind) -> Self {
        match kind {
            engine::Kind::Cluster => Kind::Cluster,
            engine::Kind::Assignment => Kind::Assignment,
            engine::Kind::Listener => Kind::Listener,
        }
    }
}

/// Answer of a client, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Verdict {
    Acknowledged,
    Rejected,
    Stale,
}

impl From<engine::Verdict> for Verdict {
    fn from(verdict: engine::Verdict) -> Self {
        match verdict {
            engine::Verdict::Acknowledged => Verdict::Acknowledged,
            engine::Verdict::Rejected => Verdict::Rejected,
            engine::Verdict::Stale => Verdict::Stale,
        }
    }
}

/// Why a connection or stream was refused or ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Ended {
    /// The TLS handshake failed: no or no trusted certificate, or another protocol.
    Handshake,
    /// Too many handshakes at once, in all or from one address.
    Busy,
    /// The certificate is trusted but names no LoadBalancer.
    Identity,
    /// The node does not agree with the certificate.
    Node,
    /// The proxies of its LoadBalancer have too many connections, or take too much memory.
    Crowded,
    /// The client opened no stream in time.
    Idle,
    /// The client broke the protocol.
    Protocol,
    /// The client ended the stream.
    Client,
    /// The connection reached its age.
    Age,
    /// The server stops.
    Shutdown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByKind {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByVerdict {
    kind: Kind,
    verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByReason {
    reason: Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct ByVersion {
    version: String,
}

/// Counters of one server.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) streams: Gauge,
    responses: Family<ByKind, Counter>,
    resources: Family<ByKind, Counter>,
    answers: Family<ByVerdict, Counter>,
    ends: Family<ByReason, Counter>,
    offers: Family<ByKind, Counter>,
    unknown_types: Counter,
    waiting: Gauge,
    proxies: Family<ByVersion, Gauge>,
    versions: Arc<Mutex<BTreeSet<ByVersion>>>,
    convergence: Histogram,
    assignment_convergence: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            streams: Gauge::default(),
            responses: Family::default(),
            resources: Family::default(),
            answers: Family::default(),
            ends: Family::default(),
            offers: Family::default(),
            unknown_types: Counter::default(),
            waiting: Gauge::default(),
            proxies: Family::default(),
            versions: Arc::default(),
            convergence: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            assignment_convergence: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
        }
    }
}

impl Metrics {
    /// Counters that are registered under `xds_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.show(registry);
        metrics
    }

    /// Shows these counters in a registry, under `xds_…`.
    pub fn show(&self, registry: &mut Registry) {
        let metrics = self;
        let registry = registry.sub_registry_with_prefix("xds");
        registry.register("streams", "Open streams", metrics.streams.clone());
        registry.register("responses", "Responses sent, by resource type", metrics.responses.clone());
        registry.register(
            "resources",
            "Resources sent, added or changed or removed, by resource type",
            metrics.resources.clone(),
        );
        registry.register("answers", "What clients said about responses", metrics.answers.clone());
        registry.register(
            "ended",
            "Connections and streams refused or ended, by reason",
            metrics.ends.clone(),
        );
        registry.register(
            "offers",
            "Refused resources that were offered again unchanged, by resource type",
            metrics.offers.clone(),
        );
        registry.register(
            "unknown_types",
            "Requests for resource types that are not served; ignored",
            metrics.unknown_types.clone(),
        );
        registry.register(
            "waiting_streams",
            "Streams that wait for their turn to get their first responses",
            metrics.waiting.clone(),
        );
        registry.register(
            "proxies",
            "Open streams, by the version of their proxies",
            metrics.proxies.clone(),
        );
        registry.register(
            "convergence_seconds",
            "From the publication of a view to the acknowledgement of all its clusters and listeners by one proxy \
             whose stream was open before",
            metrics.convergence.clone(),
        );
        registry.register(
            "assignment_convergence_seconds",
            "From the publication of a view to the acknowledgement of all its assignments by one proxy whose \
             stream was open before",
            metrics.assignment_convergence.clone(),
        );
    }

    pub(crate) fn sent(&self, response: &engine::DeltaResponse) {
        let label = ByKind { kind: response.kind.into() };
        let count = response.resources.len() + response.removed.len();
        self.responses.get_or_create(&label).inc();
        if response.again {
            self.offers.get_or_create(&label).inc();
        }
        self.resources.get_or_create(&label).inc_by(count as u64);
    }

    pub(crate) fn answered(&self, event: &engine::Event) {
        let label = ByVerdict { kind: event.kind.into(), verdict: event.verdict.into() };
        self.answers.get_or_create(&label).inc();
    }

    pub(crate) fn ended(&self, reason: Ended) {
        self.ends.get_or_create(&ByReason { reason }).inc();
    }

    pub(crate) fn unknown_type(&self) {
        self.unknown_types.inc();
    }

    pub(crate) fn converged(&self, after: Duration) {
        self.convergence.observe(after.as_secs_f64());
    }

    pub(crate) fn assigned(&self, after: Duration) {
        self.assignment_convergence.observe(after.as_secs_f64());
    }

    /// A stream waits for its turn until the result is dropped.
    pub(crate) fn waits(&self) -> Counting {
        self.waiting.inc();
        let waiting = self.waiting.clone();
        Counting(Some(Box::new(move || {
            waiting.dec();
        })))
    }

    /// A stream of a proxy of this version is open until the result is dropped.
    pub(crate) fn opened(&self, software: &Software) -> Counting {
        let mut versions = self.versions.lock();
        let said = if software.version.is_empty() { "unknown" } else { &software.version };
        let own = ByVersion { version: said.to_owned() };
        let known = versions.contains(&own) || versions.len() < MAX_VERSIONS;
        let label = if known { own } else { ByVersion { version: "other".to_owned() } };
        versions.insert(label.clone());
        self.proxies.get_or_create(&label).inc();
        drop(versions);
        let metrics = self.clone();
        Counting(Some(Box::new(move || {
            let mut versions = metrics.versions.lock();
            let left = metrics.proxies.get_or_create(&label).dec() - 1;
            if left == 0 {
                metrics.proxies.remove(&label);
                versions.remove(&label);
            }
        })))
    }
}

/// Something that is counted for as long as this lives.
pub(crate) struct Counting(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut registry = Registry::default();
        metrics.show(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn proxies_that_say_anything_as_their_version_make_a_bounded_number_of_series() {
        let metrics = Metrics::default();
        let say =
            |version: &str| metrics.opened(&Software { version: version.into(), ..Software::default() });
        let usual = [say("1.40.0"), say("1.40.0")];
        let strange: Vec<Counting> = (0..100).map(|n| say(&format!("x{n}"))).collect();
        let all = text(&metrics);
        assert!(all.contains("xds_proxies{version=\"1.40.0\"} 2"), "{all}");
        assert!(all.contains("xds_proxies{version=\"other\"} 85"), "{all}");
        assert_eq!(all.matches("xds_proxies{").count(), MAX_VERSIONS + 1);
        drop(strange);
        let left = text(&metrics);
        assert_eq!(left.matches("xds_proxies{").count(), 1, "{left}");
        drop(usual);
        assert!(!text(&metrics).contains("xds_proxies{"));
    }
}
