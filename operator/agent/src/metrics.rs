//! What both agents count: the programs' counters out of the maps, and how the reconciler fares.

use std::sync::Arc;

use epic_datapath::Maps;
use epic_lb::Handle;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the maps at every scrape.
#[derive(Debug)]
pub struct MapsCollector {
    maps: Arc<Maps>,
}

impl MapsCollector {
    /// Of these maps.
    pub fn new(maps: Arc<Maps>) -> Self {
        Self { maps }
    }
}

fn family(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = (String, u64)>,
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        let labels = [(label, value)];
        ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for MapsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        // A map that cannot be read is left out of this scrape; the agent's log says why elsewhere.
        if let Ok(drops) = self.maps.drop_counts() {
            let values = drops.into_iter().map(|(reason, count)| (reason.name().to_owned(), count));
            family(&mut encoder, "drops", "Packets dropped by the programs.", "reason", values)?;
        }
        if let Ok(events) = self.maps.event_counts() {
            let values = events.into_iter().map(|(event, count)| (event.name().to_owned(), count));
            family(&mut encoder, "packets", "Packets counted by the programs.", "event", values)?;
        }
        if let Ok(tunnels) = self.maps.tunnel_counts() {
            type Pick = fn(&epic_abi::maps::TunnelStats) -> u64;
            let columns: [(&str, &str, Pick); 4] = [
                ("tunnel_transmitted_packets", "Inner packets sent into the tunnel.", |s| s.tx_packets),
                ("tunnel_transmitted_bytes", "Bytes of inner packets sent into the tunnel.", |s| s.tx_bytes),
                ("tunnel_received_packets", "Inner packets taken from the tunnel.", |s| s.rx_packets),
                ("tunnel_received_bytes", "Bytes of inner packets taken from the tunnel.", |s| s.rx_bytes),
            ];
            for (name, help, pick) in columns {
                let values = tunnels.iter().map(|(id, stats)| (id.to_string(), pick(stats)));
                family(&mut encoder, name, help, "tunnel", values)?;
            }
        }
        Ok(())
    }
}

/// How the reconciler fares; filled when there is one.
#[derive(Clone, Debug, Default)]
pub struct ReconcilerCollector {
    handle: Arc<Mutex<Option<Handle>>>,
}

impl ReconcilerCollector {
    /// From now on of this reconciler.
    pub fn watch(&self, handle: Handle) {
        *self.handle.lock() = Some(handle);
    }
}

impl Collector for ReconcilerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(progress) = self.handle.lock().as_ref().map(Handle::progress) else {
            return Ok(());
        };
        let writes = ConstCounter::new(progress.writes);
        let help = "Writes to maps by the reconciler.";
        writes.encode(encoder.encode_descriptor("reconciler_writes", help, None, MetricType::Counter)?)?;
        let health = &progress.health;
        let failing = [&health.node, &health.scopes].map(|of| of.named.len() + of.more).iter().sum::<usize>();
        let gauges = [
            ("reconciler_entries", "Entries that the maps hold.", progress.health.entries),
            ("reconciler_failing", "Entries and rows that are not as they should be.", failing),
            (
                "reconciler_unconfirmed_removals",
                "Entries whose removal waits for confirmation.",
                progress.health.unconfirmed,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// An error with its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // kube prints the whole answer of the API server behind its message.
        let cause_text = match cause.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => status.message.clone(),
            _ => cause.to_string(),
        };
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = match is_answer(cause) {
            true => None,
            false => cause.source(),
        };
    }
    text
}

/// Whether this is an answer of the API server, whose source says the same once more.
fn is_answer(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref::<kube::Error>(), Some(kube::Error::Api(_)))
}
