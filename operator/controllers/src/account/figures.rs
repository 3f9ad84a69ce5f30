//! When mere figures are written: late, together, and never in the way of an allocation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use epic_model::id::Uid;
use parking_lot::Mutex;

/// How long a figure that differs waits for others, and for a write that takes it along.
const LATE: Duration = Duration::from_secs(10);

/// Since when the figures of Accounts differ from what their status says.
#[derive(Debug, Default)]
pub struct Figures {
    since: Mutex<BTreeMap<Uid, Instant>>,
}

impl Figures {
    /// How much longer the figures of an Account, and nothing else of it, wait to be written; `None`: not any more.
    pub fn wait(&self, account: &Uid, now: Instant) -> Option<Duration> {
        let mut since = self.since.lock();
        let began = *since.entry(account.clone()).or_insert(now);
        let left = LATE.saturating_sub(now.saturating_duration_since(began));
        if left.is_zero() {
            since.remove(account);
            return None;
        }
        Some(left)
    }

    /// What is written is what there is, or the Account is gone.
    pub fn current(&self, account: &Uid) {
        self.since.lock().remove(account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_change_all_the_time_are_written_once_in_ten_seconds() {
        let (figures, red, start) = (Figures::default(), Uid::from("red"), Instant::now());
        let mut written = 0;
        for tick in 0..3_000 {
            // Fifty changes a second for a minute.
            if figures.wait(&red, start + Duration::from_millis(20) * tick).is_none() {
                written += 1;
            }
        }
        assert_eq!(written, 5);
    }

    #[test]
    fn figures_that_another_write_took_along_begin_a_new_wait() {
        let (figures, red, start) = (Figures::default(), Uid::from("red"), Instant::now());
        assert_eq!(figures.wait(&red, start), Some(LATE));
        figures.current(&red);
        assert_eq!(figures.wait(&red, start + LATE), Some(LATE));
        assert_eq!(figures.wait(&red, start + LATE + LATE), None);
    }
}
