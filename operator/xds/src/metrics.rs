//! What the xDS server counts. Every label has a closed set of values; no tenant, pod or resource name is a label.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::engine;

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
    /// Too many handshakes at once.
    Busy,
    /// The certificate is trusted but names no LoadBalancer.
    Identity,
    /// The node does not agree with the certificate.
    Node,
    /// The proxies of its LoadBalancer have too many connections, or take too much memory.
    Crowded,
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

/// Counters of one server.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) streams: Gauge,
    responses: Family<ByKind, Counter>,
    resources: Family<ByKind, Counter>,
    answers: Family<ByVerdict, Counter>,
    ends: Family<ByReason, Counter>,
    convergence: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            streams: Gauge::default(),
            responses: Family::default(),
            resources: Family::default(),
            answers: Family::default(),
            ends: Family::default(),
            convergence: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
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
            "convergence_seconds",
            "From the publication of a view to the acknowledgement of all its clusters and listeners by one proxy",
            metrics.convergence.clone(),
        );
    }

    pub(crate) fn sent(&self, response: &engine::DeltaResponse) {
        let label = ByKind { kind: response.kind.into() };
        let count = response.resources.len() + response.removed.len();
        self.responses.get_or_create(&label).inc();
        self.resources.get_or_create(&label).inc_by(count as u64);
    }

    pub(crate) fn answered(&self, event: &engine::Event) {
        let label = ByVerdict { kind: event.kind.into(), verdict: event.verdict.into() };
        self.answers.get_or_create(&label).inc();
    }

    pub(crate) fn ended(&self, reason: Ended) {
        self.ends.get_or_create(&ByReason { reason }).inc();
    }

    pub(crate) fn converged(&self, after: Duration) {
        self.convergence.observe(after.as_secs_f64());
    }
}
