//! A resource that the client refused by itself, and when it is offered again.
//!
//! Some refusals pass: a port that another socket has for a moment, a limit that is reached. Envoy does not try again,
//! so the server does, each resource alone, after 5 s, twice as long each time, and every 5 minutes in the end. A
//! resource that is bad for good costs 17 responses in its first hour and 12 in each that follows.

use std::time::Duration;

use super::super::exchange::Rejection;

/// Wait before the first offer.
const FIRST: Duration = Duration::from_secs(5);
/// Longest wait between two offers.
const LONGEST: Duration = Duration::from_secs(300);

/// What was refused, and how often.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) rejection: Rejection,
    /// Refusals of this version in a row.
    times: u32,
    offer: Offer,
}

/// How far the next offer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// Not before this time of the session.
    Waits(Duration),
    /// With the next response that has room for it.
    Due,
    /// Sent and not answered.
    Made,
}

impl Refused {
    /// It was refused at `now`, after `before`, which may be about another version.
    pub(super) fn at(now: Duration, rejection: Rejection, before: Option<&Refused>) -> Self {
        let before = before.filter(|before| before.rejection.version == rejection.version);
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        Self { rejection, times, offer: Offer::Waits(now + wait(times)) }
    }

    /// When it is to be offered again, while it waits for that.
    pub(super) fn waits_until(&self) -> Option<Duration> {
        match self.offer {
            Offer::Waits(until) => Some(until),
            Offer::Due | Offer::Made => None,
        }
    }

    /// Whether its time has come with `now`; says so once.
    pub(super) fn comes_due(&mut self, now: Duration) -> bool {
        let due = self.waits_until().is_some_and(|until| until <= now);
        if due {
            self.offer = Offer::Due;
        }
        due
    }

    pub(super) fn is_due(&self) -> bool {
        self.offer == Offer::Due
    }

    /// It was sent once more.
    pub(super) fn offer_made(&mut self) {
        self.offer = Offer::Made;
    }
}

fn wait(times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST.saturating_mul(factor).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_from_five_seconds_to_five_minutes_and_stays_there() {
        let waits: Vec<u64> = (1..=9).map(|times| wait(times).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(wait(u32::MAX), LONGEST);
    }
}
