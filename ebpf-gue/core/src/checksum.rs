//! Sums of RFC 1071, as the kernel makes them: a checksum that is changed by differences keeps the representation of zero
//! that its helpers give it.

/// Folds a sum of halfwords to 16 bits.
#[inline(always)]
pub(crate) fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xFFFF) + (sum >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// Adds up to four billion words of 32 bits, and folds them to 16.
#[inline(always)]
pub(crate) fn fold_words(sum: u64) -> u16 {
    fold(add(sum))
}

/// A sum of words as one.
#[inline(always)]
fn add(sum: u64) -> u32 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    ((sum & 0xFFFF_FFFF) + (sum >> 32)) as u32
}

/// The difference that turns a checksum over the words `old` into one over `new`.
#[inline(always)]
pub(crate) fn difference<const N: usize>(old: [u32; N], new: [u32; N]) -> u32 {
    let mut sum = 0;
    for (old, new) in old.into_iter().zip(new) {
        sum += !old as u64 + new as u64;
    }
    add(sum)
}

/// `checksum` after a change by `difference` of what it is over (`csum_replace_by_diff` of the kernel).
#[cfg(feature = "std")]
pub(crate) fn replace(checksum: u16, difference: u32) -> u16 {
    !fold(add(difference as u64 + !(checksum as u32) as u64))
}

/// `checksum` after a change of the word `old` to `new` (`csum_replace4` of the kernel).
#[cfg(feature = "std")]
pub(crate) fn replace_word(checksum: u16, old: u32, new: u32) -> u16 {
    let without = add(!(checksum as u32) as u64 + !old as u64);
    !fold(add(without as u64 + new as u64))
}
