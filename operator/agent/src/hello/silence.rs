//! Which tunnels have been silent for so long that the address of their other end may be somebody else's by now: packets to it
//! would bring a stranger the key and what is in them.
//!
//! A tunnel is silent while neither a hello nor a packet that passed key and source comes. Looks are counted, not time:
//! while the host sleeps or its clock jumps, nobody listens, and silence says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Nanos;
use super::responder::Heard;

/// Between two looks.
pub const BETWEEN_LOOKS: Duration = Duration::from_secs(10);
/// Silent looks after which a tunnel's other end is forgotten: a minute, and before that the [`super::SILENT_PERIODS`] until a
/// tunnel is down.
const LOOKS: u32 = 6;

/// What was found at looks before.
#[derive(Debug, Default)]
pub struct Silence {
    /// Of tunnels that are down: silent looks, and packets at the first of them.
    tunnels: BTreeMap<u32, (u32, u64)>,
}

impl Silence {
    /// The socket was opened: what nobody could have heard counts for nothing.
    pub fn begin(&mut self) {
        self.tunnels.clear();
    }

    /// Looks again, [`BETWEEN_LOOKS`] after the last time. `packets` says how many packets came through a tunnel; it is asked about
    /// silent ones alone. Returns the tunnels whose other end is to be forgotten.
    pub fn look(
        &mut self,
        heard: &BTreeMap<u32, Heard>,
        now: Nanos,
        mut packets: impl FnMut(u32) -> Option<u64>,
    ) -> Vec<u32> {
        let is_silent = |heard: &Heard| !heard.is_forgotten() && !heard.is_up(now);
        self.tunnels.retain(|id, _| heard.get(id).is_some_and(is_silent));
        let mut forgotten = Vec::new();
        for id in heard.iter().filter(|(_, heard)| is_silent(heard)).map(|(id, _)| *id) {
            // What cannot be read may have counted.
            let Some(packets) = packets(id) else {
                self.tunnels.remove(&id);
                continue;
            };
            let (looks, at_first) = self.tunnels.entry(id).or_insert((0, packets));
            if *at_first != packets {
                (*looks, *at_first) = (0, packets);
                continue;
            }
            *looks += 1;
            if *looks > LOOKS {
                forgotten.push(id);
            }
        }
        forgotten
    }
}
