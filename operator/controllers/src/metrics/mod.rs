//! What the operator counts. Labels come from closed sets; object names are in logs and Events only.

mod queues;
mod state;

use std::time::Instant;

use epic_ops::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

pub use queues::Queues;
pub(crate) use state::StateCollector;

/// The kind something happened to.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    /// Kind, in CamelCase.
    pub kind: &'static str,
}

/// The outcome of a reconcile.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// Kind, in CamelCase.
    pub kind: &'static str,
    /// Category of the error, or `ok`.
    pub outcome: &'static str,
}

/// What is watched, as the API server names it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WatchLabel {
    /// Plural of the kind.
    pub kind: String,
}

/// A kind and one of its reasons.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Kind, in CamelCase.
    pub kind: String,
    /// Reason out of the kind's closed list.
    pub reason: String,
}

/// From a millisecond to half a minute.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// The operator's counters and gauges.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Reconciles by kind and outcome.
    pub reconciles: Family<OutcomeLabel, Counter>,
    /// How long reconciles take, by kind.
    pub durations: Family<KindLabel, Histogram, fn() -> Histogram>,
    /// Reconciles under way by kind.
    pub running: Family<KindLabel, Gauge>,
    /// Those that wait for their turn.
    pub queues: Queues,
    /// Writes to the API server by kind of the object written.
    pub writes: Family<KindLabel, Counter>,
    /// Rounds of allocation by kind of the parent and outcome.
    pub allocations: Family<OutcomeLabel, Counter>,
    /// Events published by kind and reason.
    pub events: Family<ReasonLabel, Counter>,
    /// Objects that could not be read, by kind.
    pub poisoned: Family<KindLabel, Counter>,
    /// 1 for each kind that is refused though it was listed before.
    pub refused: Family<WatchLabel, Gauge>,
    /// 1 while this replica writes.
    pub leads: Gauge,
    /// Proxies that take traffic and are connected to no replica.
    pub stale_proxies: Gauge,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            durations: Family::new_with_constructor(durations as fn() -> Histogram),
            running: Family::default(),
            queues: Queues::default(),
            writes: Family::default(),
            allocations: Family::default(),
            events: Family::default(),
            poisoned: Family::default(),
            refused: Family::default(),
            leads: Gauge::default(),
            stale_proxies: Gauge::default(),
        }
    }
}

/// A reconcile under way; counted as such until it is dropped, also when it is cancelled.
#[derive(Debug)]
pub struct Running {
    counters: Counters,
    label: KindLabel,
    began: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.counters.running.get_or_create(&self.label).dec();
        self.counters.durations.get_or_create(&self.label).observe(self.began.elapsed().as_secs_f64());
    }
}

impl Counters {
    /// A reconcile of this kind begins.
    pub fn begins(&self, kind: &'static str) -> Running {
        let label = KindLabel { kind };
        self.running.get_or_create(&label).inc();
        Running { counters: self.clone(), label, began: Instant::now() }
    }

    /// Registers all of them.
    pub fn register(metrics: &Metrics) -> Self {
        let counters = Self::default();
        metrics.register(|registry| {
            registry.register("reconciles", "Reconciles by kind and outcome", counters.reconciles.clone());
            registry.register(
                "reconcile_duration_seconds",
                "How long reconciles take, by kind",
                counters.durations.clone(),
            );
            registry.register(
                "reconciles_running",
                "Reconciles under way, by kind",
                counters.running.clone(),
            );
            registry.register_collector(Box::new(counters.queues.clone()));
            registry.register("writes", "Writes to the API server by kind", counters.writes.clone());
            registry.register(
                "allocation_rounds",
                "Rounds of allocation by kind of the parent and outcome",
                counters.allocations.clone(),
            );
            registry.register("events", "Events published by kind and reason", counters.events.clone());
            registry.register(
                "unreadable_objects",
                "Objects that could not be read, by kind",
                counters.poisoned.clone(),
            );
            registry.register(
                "refused_kinds",
                "1 for each kind that the API server refuses to this replica though it was listed before",
                counters.refused.clone(),
            );
            registry.register("leads", "1 while this replica writes", counters.leads.clone());
            registry.register(
                "stale_proxies",
                "Proxies that take traffic and have been connected to no operator replica for a while",
                counters.stale_proxies.clone(),
            );
        });
        counters
    }

    /// One more write to an object of this kind.
    pub fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&KindLabel { kind }).inc();
    }
}
