//! How many reconciles wait for their turn, counted at every scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kates::Waiting;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::KindLabel;

/// The queues of all controllers, by kind.
#[derive(Clone, Debug, Default)]
pub struct Queues(Arc<Mutex<BTreeMap<&'static str, Waiting>>>);

impl Queues {
    /// Counts what waits in the controller of this kind.
    pub fn watch(&self, kind: &'static str, waiting: Waiting) {
        self.0.lock().insert(kind, waiting);
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Objects that were triggered and whose reconcile has not begun, by kind.";
        let mut family = encoder.encode_descriptor("reconciles_waiting", help, None, MetricType::Gauge)?;
        for (kind, waiting) in self.0.lock().iter() {
            let count = i64::try_from(waiting.count()).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&KindLabel { kind })?)?;
        }
        Ok(())
    }
}
