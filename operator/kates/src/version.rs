//! Resource versions, compared only as far as the API promises it.
//!
//! Since Kubernetes 1.35 the resource versions of one resource (one group and plural) are decimal numbers in
//! the order of the writes. Anything else can only be equal or not; a comparison then has no answer.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A `resourceVersion` of an object, a list or a bookmark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// Takes the text as the API server wrote it.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text as the API server wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which of two versions *of the same resource* is the later one; `None` when they are neither equal nor
    /// both decimal numbers without leading zeros.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if self.0 == other.0 {
            return Some(Ordering::Equal);
        }
        // As long as there are no leading zeros, the longer number is the bigger one.
        let (a, b) = (self.decimal()?, other.decimal()?);
        Some(a.len().cmp(&b.len()).then_with(|| a.cmp(b)))
    }

    /// Whether this version is known to be `other` or later.
    pub fn reaches(&self, other: &Self) -> bool {
        matches!(self.compare(other), Some(Ordering::Equal | Ordering::Greater))
    }

    /// The digits, when this version can be ordered at all.
    pub(crate) fn decimal(&self) -> Option<&str> {
        let text = self.as_str();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        (digits && !text.is_empty() && !text.starts_with('0')).then_some(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_versions_are_ordered_as_numbers_of_any_length() {
        let (nine, ten) = (Version::from("9"), Version::from("10"));
        let huge = Version::from("340282366920938463463374607431768211456000");
        assert_eq!(nine.compare(&ten), Some(Ordering::Less));
        assert!(huge.reaches(&ten) && ten.reaches(&ten) && !nine.reaches(&ten));
    }

    #[test]
    fn anything_else_is_only_equal_or_not() {
        let (a, b, padded) = (Version::from("a1"), Version::from("b2"), Version::from("007"));
        assert_eq!(a.compare(&b), None);
        assert_eq!(a.compare(&a), Some(Ordering::Equal));
        assert_eq!(padded.compare(&Version::from("8")), None);
        assert!(!b.reaches(&a));
    }
}
