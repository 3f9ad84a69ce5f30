//! Sets of proxy IDs as text: ascending, neighbours as ranges, such as `1-4,9`.

use std::collections::BTreeSet;

/// The text of a set.
pub(super) fn format(ids: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*id) => *last = *id,
            _ => ranges.push((*id, *id)),
        }
    }
    let range = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// Whether a text names an ID. What cannot be read names nothing.
pub(super) fn parse(text: &str) -> impl Iterator<Item = std::ops::RangeInclusive<u32>> + '_ {
    text.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_back_from_its_text() {
        for (ids, text) in [
            (vec![], ""),
            (vec![7], "7"),
            (vec![1, 2, 3, 4, 9, u32::MAX - 1, u32::MAX], "1-4,9,4294967294-4294967295"),
        ] {
            let ids: BTreeSet<u32> = ids.into_iter().collect();
            assert_eq!(format(&ids), text);
            assert_eq!(parse(text).flatten().collect::<BTreeSet<u32>>(), ids);
        }
        assert_eq!(parse("x,3,4-y, 5 ").flatten().collect::<Vec<_>>(), [3, 5]);
    }
}
