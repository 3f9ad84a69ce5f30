//! Interned texts: a name as a number, so that keys are small, `Copy`, and compared without following a pointer.
//!
//! Guarantees: equal texts give equal names, in the whole process and for as long as it lives.
//! Growth: a text is kept until the process ends, once, with 60 to 90 bytes beside it: a million names of 20 bytes are
//! some 100 MB. So intern what objects of an API server name (services, nodes, zones), never what packets or requests
//! carry. Whoever creates and deletes objects under ever new names makes it grow, at the pace of the API server (ten a
//! second: about 80 MB a day); show [`Name::interned`] as a metric.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use parking_lot::RwLock;

/// An interned text.
///
/// Names are ordered by when they were first interned, which differs from run to run: the order is good for trees and
/// groups, not for people. [`Name::cmp_text`] orders by text; listings do so by themselves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u32);

#[derive(Default)]
struct Interned {
    numbers: HashMap<&'static str, u32>,
    texts: Vec<&'static str>,
    bytes: usize,
}

static INTERNED: LazyLock<RwLock<Interned>> = LazyLock::new(RwLock::default);

impl Name {
    /// The name of a text.
    ///
    /// # Panics
    /// Beyond 2³² texts, which no memory holds.
    pub fn new(text: &str) -> Self {
        Self::find(text).unwrap_or_else(|| {
            let mut interned = INTERNED.write();
            // Somebody may have been faster.
            if let Some(number) = interned.numbers.get(text) {
                return Self(*number);
            }
            let number = u32::try_from(interned.texts.len()).expect("fewer than 2^32 names");
            let kept: &'static str = Box::leak(text.into());
            interned.numbers.insert(kept, number);
            interned.texts.push(kept);
            interned.bytes += kept.len();
            Self(number)
        })
    }

    /// The name of a text that was interned before. For questions from outside, which must not grow anything.
    pub fn find(text: &str) -> Option<Self> {
        INTERNED.read().numbers.get(text).copied().map(Self)
    }

    /// Its text.
    pub fn as_str(self) -> &'static str {
        // Names are made here alone, and nothing is ever taken out.
        INTERNED.read().texts[self.0 as usize]
    }

    /// In the order of texts.
    pub fn cmp_text(self, other: Self) -> Ordering {
        if self == other { Ordering::Equal } else { self.as_str().cmp(other.as_str()) }
    }

    /// How many texts this process has interned, and the bytes of them.
    pub fn interned() -> (usize, usize) {
        let interned = INTERNED.read();
        (interned.texts.len(), interned.bytes)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_give_equal_names_from_every_thread() {
        let texts: Vec<String> = (0..200).map(|i| format!("name-test-{i}")).collect();
        let names = |texts: &[String]| texts.iter().map(|text| Name::new(text)).collect::<Vec<_>>();
        let all: Vec<Vec<Name>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| names(&texts))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(all[0].iter().zip(&texts).all(|(name, text)| name.as_str() == text));
        assert!(Name::interned().0 >= 200 && Name::interned().1 >= 200 * 11);
    }

    #[test]
    fn the_order_is_that_of_interning_and_texts_are_compared_on_demand() {
        let (later, earlier) = (Name::new("order-z"), Name::new("order-a"));
        assert!(later < earlier);
        assert_eq!(later.cmp_text(earlier), Ordering::Greater);
        assert_eq!(later.cmp_text(later), Ordering::Equal);
    }

    #[test]
    fn a_question_interns_nothing() {
        assert_eq!(Name::find("never-interned"), None);
        assert_eq!(Name::find("never-interned"), None);
        let name = Name::new("interned-once");
        assert_eq!(Name::find("interned-once"), Some(name));
        assert_eq!(format!("{name:?} {name} {name:>15}"), "interned-once interned-once   interned-once");
    }
}
