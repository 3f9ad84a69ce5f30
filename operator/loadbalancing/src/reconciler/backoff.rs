//! When a failed map operation is tried again: exponentially later, with jitter, between two bounds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::maps::{MapError, MapId, MapKey};

/// Bounds of the delay between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt.
    pub min: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min: Duration::from_millis(50), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// Delay after this many failures: doubled each time, then cut to between half and all of it by `random`.
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        let doubled =
            self.min.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let whole = doubled.min(self.max);
        let half = whole / 2;
        half + half.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[derive(Clone, Debug)]
struct Failure {
    attempts: u32,
    due: Instant,
    error: MapError,
}

/// Operations that failed, by the entry they were for.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failures: BTreeMap<MapKey, Failure>,
    random: u64,
}

impl Retries {
    pub(super) fn failed(&mut self, key: &MapKey, error: MapError, now: Instant, backoff: Backoff) {
        // A Weyl sequence through a mixer: delays only need to differ, not to be unpredictable.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let random = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let attempts = self.failures.get(key).map_or(0, |f| f.attempts) + 1;
        let due = now + backoff.delay(attempts, random);
        self.failures.insert(*key, Failure { attempts, due, error });
    }

    pub(super) fn clear(&mut self, key: &MapKey) {
        self.failures.remove(key);
    }

    pub(super) fn waits(&self, key: &MapKey, now: Instant) -> bool {
        self.failures.get(key).is_some_and(|f| f.due > now)
    }

    pub(super) fn error(&self, key: &MapKey) -> Option<&MapError> {
        self.failures.get(key).map(|f| &f.error)
    }

    /// Room was made in a map: what found it full is due now.
    pub(super) fn room_in(&mut self, map: MapId, now: Instant) {
        for (key, failure) in &mut self.failures {
            if key.map() == map && failure.error == MapError::Full {
                failure.due = now;
            }
        }
    }

    /// The next retry to wake for. What is due already was tried in this round, or waits for something else.
    pub(super) fn next_after(&self, now: Instant) -> Option<Instant> {
        self.failures.values().map(|f| f.due).filter(|due| *due > now).min()
    }

    pub(super) fn errors(&self) -> impl Iterator<Item = (&MapKey, &MapError)> {
        self.failures.iter().map(|(k, f)| (k, &f.error))
    }

    pub(super) fn len(&self) -> usize {
        self.failures.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_are_cut_by_at_most_half() {
        let backoff = Backoff { min: Duration::from_millis(50), max: Duration::from_secs(60) };
        for (failures, whole) in [(1, 50), (2, 100), (5, 800), (11, 51_200), (12, 60_000), (400, 60_000)] {
            let whole = Duration::from_millis(whole);
            for random in [0, 1 << 40, u64::MAX / 3, u64::MAX] {
                let delay = backoff.delay(failures, random);
                assert!(delay >= whole / 2 && delay <= whole, "{failures} failures: {delay:?} of {whole:?}");
            }
        }
    }
}
