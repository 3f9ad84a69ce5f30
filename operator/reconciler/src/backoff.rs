//! When a failed map operation is tried again: exponentially later, with jitter, between two bounds, or when there is room.
//!
//! The cost of a failure, a success and a retry is logarithmic in the number of failures, never linear.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::maps::MapError;
use crate::random::Random;
use crate::slab::Slot;

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
    /// Delay after this many failures: doubled each time, then cut to between half and all of it by `random` (0 to 1).
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doubled =
            self.min.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let half = doubled.min(self.max) / 2;
        half + half.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[derive(Debug)]
struct Failure {
    attempts: u32,
    due: Instant,
    error: MapError,
    map: usize,
    /// Place in the line of those that wait for room.
    place: u64,
}

/// Operations that failed, by the entry they were for.
#[derive(Debug)]
pub(crate) struct Retries {
    failures: HashMap<Slot, Failure>,
    due: BTreeSet<(Instant, Slot)>,
    /// Per map, those that found it full, longest waiting first.
    full: Vec<BTreeSet<(u64, Slot)>>,
    places: u64,
    random: Random,
}

impl Retries {
    pub(crate) fn new(maps: usize) -> Self {
        Self {
            failures: HashMap::new(),
            due: BTreeSet::new(),
            full: vec![BTreeSet::new(); maps],
            places: 0,
            random: Random::default(),
        }
    }

    pub(crate) fn failed(&mut self, slot: Slot, map: usize, error: MapError, now: Instant, backoff: Backoff) {
        let attempts = self.clear(slot) + 1;
        let due = now + backoff.delay(attempts, self.random.unit());
        self.places += 1;
        self.due.insert((due, slot));
        if error == MapError::Full {
            self.full[map].insert((self.places, slot));
        }
        self.failures.insert(slot, Failure { attempts, due, error, map, place: self.places });
    }

    /// Forgets a failure; says how many attempts there were.
    pub(crate) fn clear(&mut self, slot: Slot) -> u32 {
        let Some(failure) = self.failures.remove(&slot) else { return 0 };
        self.due.remove(&(failure.due, slot));
        self.full[failure.map].remove(&(failure.place, slot));
        failure.attempts
    }

    /// The next failure whose time has come. It comes again only after another failure.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Slot> {
        let (due, slot) = *self.due.first()?;
        (due <= now).then(|| {
            self.due.pop_first();
            slot
        })
    }

    /// There is room for one more in a map: for whom of those that found it full.
    pub(crate) fn take_waiting(&mut self, map: usize) -> Option<Slot> {
        let (_, slot) = self.full[map].pop_first()?;
        if let Some(failure) = self.failures.get(&slot) {
            self.due.remove(&(failure.due, slot));
        }
        Some(slot)
    }

    pub(crate) fn error(&self, slot: Slot) -> Option<&MapError> {
        self.failures.get(&slot).map(|failure| &failure.error)
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(crate) fn len(&self) -> usize {
        self.failures.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { min: Duration::from_millis(50), max: Duration::from_secs(60) };

    #[test]
    fn delays_double_up_to_the_maximum_and_are_cut_by_at_most_half() {
        for (failures, whole) in [(1, 50), (2, 100), (5, 800), (11, 51_200), (12, 60_000), (400, 60_000)] {
            let whole = Duration::from_millis(whole);
            for random in [0.0, 0.1, 0.5, 0.999] {
                let delay = BACKOFF.delay(failures, random);
                assert!(delay >= whole / 2 && delay <= whole, "{failures} failures: {delay:?} of {whole:?}");
            }
        }
    }

    #[test]
    fn retries_come_by_time_and_a_success_forgets_them() {
        let (now, mut retries) = (Instant::now(), Retries::new(1));
        let failed = || MapError::Failed("no".to_owned());
        retries.failed(1, 0, failed(), now, BACKOFF);
        retries.failed(2, 0, failed(), now, BACKOFF);
        retries.failed(2, 0, failed(), now, BACKOFF);
        retries.failed(3, 0, failed(), now, BACKOFF);
        assert_eq!(retries.clear(3), 1);
        assert_eq!(retries.take_due(now), None);
        let later = now + Duration::from_secs(1);
        let first = retries.take_due(later).unwrap();
        let second = retries.take_due(later).unwrap();
        assert_eq!((first.min(second), first.max(second)), (1, 2));
        assert_eq!((retries.take_due(later), retries.len()), (None, 2));
        assert_eq!((retries.clear(1), retries.clear(2), retries.len()), (1, 2, 0));
    }

    #[test]
    fn room_is_given_to_one_at_a_time_in_the_order_of_their_failures() {
        let (now, mut retries) = (Instant::now(), Retries::new(2));
        retries.failed(5, 1, MapError::Full, now, BACKOFF);
        retries.failed(4, 1, MapError::Full, now, BACKOFF);
        retries.failed(6, 0, MapError::Full, now, BACKOFF);
        assert_eq!((retries.take_waiting(1), retries.take_waiting(1)), (Some(5), Some(4)));
        assert_eq!(retries.take_waiting(1), None);
        assert_eq!(retries.take_due(now + Duration::from_secs(1)), Some(6));
    }
}
