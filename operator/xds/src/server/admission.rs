//! Who gets his first responses when.
//!
//! After a restart of a replica all its proxies come at once, and each that kept nothing gets everything. Made at the same
//! time these responses take the memory and the processor that streams in service need. So first responses are let go at
//! a steady rate, in the order of arrival, by number and by bytes; a stream that has nothing to be sent, as one that
//! comes back to the same view, is not held up, and neither is one that has had its first responses.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A rate with a burst, as one point in time: how far what was let go would reach at the steady rate.
#[derive(Debug)]
pub(super) struct Admissions {
    booked: Mutex<Instant>,
    each: Duration,
    bytes_per_second: f64,
}

/// What may go at once after a pause, as time at the steady rate.
const BURST: Duration = Duration::from_secs(1);

impl Admissions {
    /// So many streams and so many bytes of first responses a second.
    pub(super) fn new(streams_per_second: u32, bytes_per_second: usize, now: Instant) -> Self {
        Self {
            booked: Mutex::new(now),
            each: Duration::from_secs(1) / streams_per_second.max(1),
            bytes_per_second: f64::from(u32::try_from(bytes_per_second).unwrap_or(u32::MAX).max(1)),
        }
    }

    /// When the next stream may have its first responses: its turn is taken with that.
    pub(super) fn reserve(&self, now: Instant) -> Instant {
        let mut booked = self.booked.lock();
        let turn = booked.checked_sub(BURST).map_or(now, |turn| turn.max(now));
        *booked = (*booked).max(now) + self.each;
        turn
    }

    /// First responses of so many bytes are sent: those who come later wait for them.
    pub(super) fn sent(&self, bytes: usize, now: Instant) {
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        let mut booked = self.booked.lock();
        *booked = (*booked).max(now) + Duration::from_secs_f64(bytes / self.bytes_per_second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(admissions: &Admissions, now: Instant, streams: usize) -> Vec<u128> {
        (0..streams).map(|_| admissions.reserve(now).duration_since(now).as_millis()).collect()
    }

    #[test]
    fn a_burst_goes_at_once_and_what_follows_in_turn() {
        let now = Instant::now();
        let admissions = Admissions::new(4, 1_000, now);
        assert_eq!(waits(&admissions, now, 8), [0, 0, 0, 0, 0, 250, 500, 750]);
        // All have had their turn, and as much time has passed again.
        assert_eq!(waits(&admissions, now + 3 * BURST, 5), [0, 0, 0, 0, 0]);
    }

    #[test]
    fn large_responses_keep_those_who_come_later_waiting_and_idle_time_is_not_saved_up() {
        let now = Instant::now();
        let admissions = Admissions::new(1_000, 1_000, now);
        admissions.sent(3_000, now);
        assert_eq!(waits(&admissions, now, 1), [2_000]);
        let later = now + 100 * BURST;
        admissions.sent(3_000, later);
        assert_eq!(waits(&admissions, later, 1), [2_000]);
    }
}
