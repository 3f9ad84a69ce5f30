//! Key generations: which are in force, and when the next one begins.
//!
//! Keys are derived from a master (`epic-abi`, feature `keys`); here are only the numbers. Senders use generation n =
//! `status.key-generation`, receivers accept n−1, n and n+1, and a tenant's Secret holds those three. So a step to
//! n+1 needs no order among senders and receivers, provided that everybody has made one step before the next.

use crate::id::{Seconds, Uid};

/// The first generation.
pub const FIRST_GENERATION: u32 = 1;
/// The shortest time between two generations, in seconds: every receiver must have read the previous one.
pub const SHORTEST_PERIOD: i64 = 600;

/// The generations that receivers accept, oldest first: n−1, n, n+1 without those that do not exist.
pub fn accepted(generation: u32) -> impl Iterator<Item = u32> {
    let first = generation.saturating_sub(1).max(FIRST_GENERATION);
    first..=generation.saturating_add(1)
}

/// Whether a receiver at generation `own` accepts a packet of generation `seen`.
pub fn is_accepted(own: u32, seen: u32) -> bool {
    seen >= FIRST_GENERATION && own.abs_diff(seen) <= 1
}

/// The name of an entry of a tenant's Secret: `<LoadBalancer uid>.<generation>`.
pub fn entry(load_balancer: &Uid, generation: u32) -> String {
    format!("{load_balancer}.{generation}")
}

/// The uid and the generation of an entry.
pub fn parse_entry(entry: &str) -> Option<(Uid, u32)> {
    let (uid, generation) = entry.rsplit_once('.')?;
    let number: u32 = generation.parse().ok()?;
    let plain = number.to_string() == generation && number >= FIRST_GENERATION && !uid.is_empty();
    plain.then(|| (uid.into(), number))
}

/// The generation that should be in force.
///
/// `current` is `status.key-generation` (absent: the first), `began` when it began, `period` how long a generation
/// lasts in seconds; without a period keys are not rotated. One step at a time, however late.
pub fn generation(current: Option<u32>, began: Seconds, now: Seconds, period: Option<i64>) -> u32 {
    let Some(current) = current.filter(|current| *current >= FIRST_GENERATION) else {
        return FIRST_GENERATION;
    };
    match period {
        Some(period) if now.since(began) >= period.max(SHORTEST_PERIOD) => current.saturating_add(1),
        _ => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_accept_the_neighbours_of_their_generation() {
        assert_eq!(accepted(1).collect::<Vec<u32>>(), [1, 2]);
        assert_eq!(accepted(5).collect::<Vec<u32>>(), [4, 5, 6]);
        for own in 1..6 {
            for seen in 0..8 {
                assert_eq!(is_accepted(own, seen), accepted(own).any(|known| known == seen), "{own} {seen}");
            }
        }
    }

    #[test]
    fn a_generation_lasts_its_period_and_goes_one_step_at_a_time() {
        let at = |now| generation(Some(4), Seconds(0), Seconds(now), Some(86_400));
        assert_eq!((at(86_399), at(86_400), at(10 * 86_400)), (4, 5, 5));
        assert_eq!(
            generation(Some(4), Seconds(0), Seconds(100), Some(1)),
            4,
            "never faster than receivers read"
        );
        assert_eq!(generation(None, Seconds(0), Seconds(0), None), 1);
        assert_eq!(generation(Some(4), Seconds(0), Seconds(i64::MAX), None), 4);
    }

    #[test]
    fn an_entry_names_load_balancer_and_generation() {
        let uid = Uid::new("1a8522b9-70a4-4a9c-bdd7-ba912a61170a");
        assert_eq!(parse_entry(&entry(&uid, 3)), Some((uid, 3)));
        for wrong in ["x", "x.", "x.0", "x.03", ".3", "x.-1"] {
            assert_eq!(parse_entry(wrong), None, "{wrong}");
        }
    }
}
