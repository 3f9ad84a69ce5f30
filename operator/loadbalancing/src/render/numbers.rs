//! Numbers for what is named by more than an array has place for: each service's places, or its frontends.
//!
//! Invariants: a number has one holder at a time, and nobody gets the same [`Reference`] twice in a row: numbers are given
//! out in turn, and with each turn the generation changes. So whoever still points to an earlier holder does not point to
//! the next one. Numbers that the maps hold from an earlier run are adopted by the same names.

use std::hash::Hash;

use hashbrown::HashMap;

use crate::maps::{Reference, set_of};
use crate::rows::{ServiceName, ServiceRef};

/// Numbers by service and `P`. A holder is there as long as its row, so its [`ServiceRef`] stays whose it is.
#[derive(Clone, Debug)]
pub(super) struct Numbers<P> {
    /// Numbers from 1 to this.
    room: u32,
    given: HashMap<(ServiceRef, P), Reference>,
    /// What the maps held at start and nobody has asked for, by set.
    adopted: HashMap<(u32, P), Reference>,
    /// A bit a number: given, or adopted.
    used: Vec<u64>,
    last: u32,
    generation: u8,
}

impl<P: Copy + Eq + Hash> Numbers<P> {
    pub(super) fn new(room: u32) -> Self {
        Self {
            room: room.min(Reference::GREATEST),
            given: HashMap::new(),
            adopted: HashMap::new(),
            used: Vec::new(),
            last: 0,
            generation: 1,
        }
    }

    pub(super) fn room(&self) -> u32 {
        self.room
    }

    /// Takes over what the maps hold. Of two with one name the first is it.
    pub(super) fn adopt(&mut self, found: impl Iterator<Item = (u32, P, Reference)>) {
        let mut generations = [false; 256];
        for (set, place, reference) in found {
            generations[usize::from(reference.generation())] = true;
            if reference.number() <= self.room && !self.is_used(reference.number()) {
                self.set_used(reference.number(), true);
                self.adopted.insert((set, place), reference);
            }
        }
        // None that is held comes soon: whoever points to one of these must not meet a new holder.
        let free = |first: usize| (0..255).take_while(|i| !generations[(first - 1 + i) % 255 + 1]).count();
        let first = (1..=255).rev().max_by_key(|first| free(*first)).unwrap_or(1);
        self.generation = first as u8;
    }

    /// Whether there is anything that nobody has asked for yet.
    pub(super) fn is_adopting(&self) -> bool {
        !self.adopted.is_empty()
    }

    /// Whoever was to ask has asked.
    pub(super) fn forget_adopted(&mut self) {
        for (_, reference) in std::mem::take(&mut self.adopted) {
            self.set_used(reference.number(), false);
        }
    }

    /// The number of this place of a service, a new one if it has none; `None` if all are in use.
    pub(super) fn of(&mut self, service: &ServiceName, place: P) -> Option<Reference> {
        let key = (service.id(), place);
        if let Some(reference) = self.given.get(&key) {
            return Some(*reference);
        }
        let adopted = if self.is_adopting() { self.adopted.remove(&(set_of(service), place)) } else { None };
        let reference = match adopted {
            Some(reference) => reference,
            None => self.next()?,
        };
        self.given.insert(key, reference);
        Some(reference)
    }

    /// Whoever had this number is gone; says whether anybody had it.
    pub(super) fn release(&mut self, service: ServiceRef, place: P) -> bool {
        let Some(reference) = self.given.remove(&(service, place)) else { return false };
        self.set_used(reference.number(), false);
        if self.given.capacity() > 1024 && self.given.len() < self.given.capacity() / 8 {
            self.given.shrink_to_fit();
        }
        true
    }

    #[cfg(test)]
    pub(super) fn given(&self) -> usize {
        self.given.len()
    }

    fn next(&mut self) -> Option<Reference> {
        let number = match self.free(self.last + 1, self.room) {
            Some(number) => number,
            None => {
                let number = self.free(1, self.last)?;
                self.generation = self.generation.checked_add(1).unwrap_or(1);
                number
            }
        };
        self.last = number;
        self.set_used(number, true);
        Some(Reference::new(number, self.generation))
    }

    /// The first free number of a range.
    fn free(&self, from: u32, to: u32) -> Option<u32> {
        let mut number = from;
        while number <= to {
            let word = self.used.get(number as usize / 64).copied().unwrap_or(0) >> (number % 64);
            let taken = word.trailing_ones();
            if taken < 64 - number % 64 {
                return Some(number + taken).filter(|number| *number <= to);
            }
            number += 64 - number % 64;
        }
        None
    }

    fn is_used(&self, number: u32) -> bool {
        self.used.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn set_used(&mut self, number: u32, used: bool) {
        let word = number as usize / 64;
        if word >= self.used.len() {
            self.used.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        if used { self.used[word] |= bit } else { self.used[word] &= !bit }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn web() -> ServiceName {
        ServiceName::new("acme", "web")
    }

    #[test]
    fn a_number_comes_back_last_and_in_another_generation() {
        let mut numbers = Numbers::new(3);
        let web = web();
        let first = numbers.of(&web, 'a').unwrap();
        assert_eq!(numbers.of(&web, 'a'), Some(first));
        assert!(numbers.release(web.id(), 'a') && !numbers.release(web.id(), 'a'));
        let next: Vec<u32> = "bc".chars().map(|place| numbers.of(&web, place).unwrap().number()).collect();
        assert_eq!((first.number(), next), (1, vec![2, 3]));
        let again = numbers.of(&web, 'd').unwrap();
        assert_eq!(again.number(), first.number());
        assert_ne!(again, first);
        assert_eq!(numbers.of(&web, 'e'), None, "three numbers are in use");
    }

    #[test]
    fn no_reference_is_given_twice_while_generations_last() {
        let mut numbers = Numbers::new(130);
        let web = web();
        let kept: Vec<Reference> = (0..70).map(|i| numbers.of(&web, i).unwrap()).collect();
        let mut seen: BTreeSet<Reference> = kept.iter().copied().collect();
        for i in 1_000..15_000 {
            let reference = numbers.of(&web, i).unwrap();
            assert!(seen.insert(reference), "{reference} was given before");
            numbers.release(web.id(), i);
        }
        assert_eq!(numbers.given(), 70);
    }

    #[test]
    fn what_the_maps_held_keeps_its_number_and_what_nobody_asks_for_is_free_again() {
        let mut numbers = Numbers::new(2);
        let (web, api) = (web(), ServiceName::new("acme", "api"));
        let held = [(set_of(&web), 'a', Reference::new(2, 1)), (set_of(&api), 'a', Reference::new(1, 3))];
        numbers.adopt(held.into_iter());
        assert_eq!(numbers.of(&web, 'a'), Some(Reference::new(2, 1)));
        assert_eq!(numbers.of(&web, 'b'), None, "the other is still the one of somebody");
        numbers.forget_adopted();
        assert_eq!(numbers.of(&web, 'b'), Some(Reference::new(1, 4)));
    }
}
