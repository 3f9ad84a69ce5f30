//! What the programs counted, summed over CPUs.
//!
//! Counters only grow, and live in pinned maps, so they survive the agent. A sum is taken CPU by CPU: packets that
//! pass meanwhile may be in it or not.

use std::collections::BTreeMap;

use epic_abi::drop::DropReason;
use epic_abi::maps::TunnelStats;
use epic_abi::stats::Event;

use crate::error::Error;
use crate::maps::Maps;

impl Maps {
    /// Packets dropped, by reason; every reason is there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn drop_counts(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        let counts = self.drops.entries()?;
        Ok(DropReason::ALL.iter().map(|reason| (*reason, sum(&counts, *reason as u32))).collect())
    }

    /// Packets counted that were not dropped, by event; every event is there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn event_counts(&self) -> Result<BTreeMap<Event, u64>, Error> {
        let counts = self.stats.entries()?;
        Ok(Event::ALL.iter().map(|event| (*event, sum(&counts, *event as u32))).collect())
    }

    /// Traffic by tunnel id.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn tunnel_counts(&self) -> Result<BTreeMap<u32, TunnelStats>, Error> {
        let counts = self.tunnel_stats.entries()?;
        Ok(counts.into_iter().map(|(tunnel, cpus)| (tunnel, total(&cpus))).collect())
    }
}

fn sum(counts: &BTreeMap<u32, Vec<u64>>, index: u32) -> u64 {
    counts.get(&index).map_or(0, |cpus| cpus.iter().fold(0, |sum, count| sum.wrapping_add(*count)))
}

fn total(cpus: &[TunnelStats]) -> TunnelStats {
    cpus.iter().fold(TunnelStats::default(), |sum, cpu| TunnelStats {
        tx_packets: sum.tx_packets.wrapping_add(cpu.tx_packets),
        tx_bytes: sum.tx_bytes.wrapping_add(cpu.tx_bytes),
        rx_packets: sum.rx_packets.wrapping_add(cpu.rx_packets),
        rx_bytes: sum.rx_bytes.wrapping_add(cpu.rx_bytes),
    })
}
