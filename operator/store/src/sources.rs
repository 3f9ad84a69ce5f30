//! Which sources something is of: a small set of numbers.
//!
//! What a source is, and which number it has, is the affair of whoever declares tables. An initializer says whose absence
//! it stands for ([`crate::Store::register_initializer_of`]), so that what is of others need not wait for it.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of sources.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Sources(u16);

impl Sources {
    /// None.
    pub const NONE: Self = Self(0);
    /// All of them, those that nobody has thought of yet included.
    pub const ALL: Self = Self(u16::MAX);
    /// Numbers are less than this.
    pub const COUNT: u8 = u16::BITS as u8;

    /// The source of this number.
    ///
    /// # Panics
    /// If there is no such number: it is not less than [`Sources::COUNT`].
    pub const fn one(number: u8) -> Self {
        assert!(number < Self::COUNT, "sources have numbers below 16");
        Self(1 << number)
    }

    /// Those whose bit is set, the first source the lowest.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// A bit for each, the first source the lowest.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any is in both.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of the other's are in this one.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Sources {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Sources {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl FromIterator<Sources> for Sources {
    fn from_iter<I: IntoIterator<Item = Sources>>(sources: I) -> Self {
        sources.into_iter().fold(Self::NONE, Self::bitor)
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all sources"),
            Self(bits) => f.debug_set().entries((0..Self::COUNT).filter(|n| bits >> n & 1 == 1)).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let both = Sources::one(0) | Sources::one(15);
        assert_eq!(both, [Sources::one(15), Sources::one(0)].into_iter().collect());
        assert!(both.intersects(Sources::one(0)) && !both.intersects(Sources::one(1)));
        assert!(both.contains(Sources::one(15)) && !Sources::one(15).contains(both));
        assert!(Sources::ALL.contains(both) && Sources::NONE.is_empty() && !both.is_empty());
        assert_eq!(format!("{both:?} {:?}", Sources::ALL), "{0, 15} all sources");
        assert_eq!(Sources::from_bits(both.bits()), both);
    }
}
