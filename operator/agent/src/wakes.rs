//! What wakes an agent: objects, the kernel, the reconciler, time. Nodes and clients turn on the same.

use std::io;
use std::time::{Duration, Instant};

use epic_lb::{Handle, Progress};
use kates::{Accumulator, Snapshot, Updates};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::netlink::watch::{Changed, Interest, Watch};

/// Between two rounds of what only time changes.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// Between two full passes.
const FULL: Duration = Duration::from_secs(30);
/// Bursts of netlink messages are answered once.
const NETLINK_QUIET: Duration = Duration::from_millis(20);

/// Why an agent has something to do.
pub(crate) enum Wake {
    /// Objects changed.
    Objects(Snapshot),
    /// Interfaces, addresses or routes of this host did.
    Host(Changed),
    /// The reconciler got on.
    Maps,
    /// A second has passed.
    Time,
    /// It was asked to end, or the reconciler has ended.
    End,
}

/// The sources of what wakes one agent.
pub(crate) struct Wakes {
    updates: Updates,
    interest: Interest,
    host: Watch,
    progress: watch::Receiver<Progress>,
    tick: Interval,
    full_at: Instant,
    shutdown: CancellationToken,
}

impl Wakes {
    /// Of these objects and this reconciler, until `shutdown`. A full pass is due at once.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub(crate) fn new(
        accumulator: &Accumulator,
        handle: &Handle,
        interest: Interest,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            updates: accumulator.updates(),
            interest,
            host: Watch::open(interest)?,
            progress: handle.watch(),
            tick,
            full_at: Instant::now(),
            shutdown,
        })
    }

    /// Waits for the next reason. Cancelling the future loses none.
    ///
    /// # Errors
    /// The kernel gives no netlink socket in place of one that broke.
    pub(crate) async fn next(&mut self) -> io::Result<Wake> {
        tokio::select! {
            update = self.updates.next() => Ok(Wake::Objects(update.snapshot)),
            changed = self.host.changed() => {
                if changed.is_err() {
                    self.host = Watch::open(self.interest)?;
                }
                Ok(Wake::Host(changed.unwrap_or(Changed::EVERYTHING)))
            }
            changed = self.progress.changed() => Ok(if changed.is_err() { Wake::End } else { Wake::Maps }),
            _ = self.tick.tick() => Ok(Wake::Time),
            () = self.shutdown.cancelled() => Ok(Wake::End),
        }
    }

    /// Whether a full pass is due; then the next one is half a minute later.
    pub(crate) fn take_full(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.full_at;
        if due {
            self.full_at = now + FULL;
        }
        due
    }
}

/// Lets a burst of changes of the host go by.
pub(crate) async fn quiet() {
    tokio::time::sleep(NETLINK_QUIET).await;
}
