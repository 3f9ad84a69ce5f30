//! Maglev: which backend takes a new flow, the same on every node.
//!
//! Pure. A cell of the table is chosen by a flow's hash; every backend fills cells in an order of its own, which depends
//! on nothing but the shared seed and its id. So nodes agree without talking, and a change of the set moves few flows
//! besides those that must move.
//!
//! Invariants: the result depends on the *set* of members, not on their order; every member with a weight has at least
//! one cell as long as there are as many cells as members; cells are in proportion to weights.

use std::num::NonZeroU64;

/// What a cell that nobody has yet holds.
const FREE: u32 = 0;

/// A member of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// What the cells hold. Unique, and not 0.
    pub id: u32,
    /// Share of the cells; 0 takes none.
    pub weight: u16,
}

/// A table of `size` cells, each the id of a member; empty when no member has a weight.
///
/// `size` must be a prime: only then does every member's order visit every cell. Cost: about `size` · ln `size` steps of an
/// addition each.
pub fn table(members: &[Member], size: u32, seed: u64) -> Vec<u32> {
    let mut members: Vec<Member> = members.iter().copied().filter(|m| m.weight > 0 && m.id != FREE).collect();
    members.sort_unstable();
    members.dedup_by_key(|m| m.id);
    let fillers = members.iter().map(|m| Filler::new(m.id, m.weight, u64::from(m.id), size, seed)).collect();
    fill(fillers, size)
}

/// Fills a table; of two members that are equally due the first is served first.
fn fill(mut fillers: Vec<Filler>, size: u32) -> Vec<u32> {
    if fillers.is_empty() || size == 0 {
        return Vec::new();
    }
    let heaviest = fillers.iter().map(|filler| filler.weight).max().unwrap_or(1);
    let mut cells: Vec<u32> = vec![FREE; size as usize];
    let mut free = size;
    // In turn `n` a member whose weight is a w-th of the heaviest takes part every w-th time.
    for turn in 1u64.. {
        for filler in &mut fillers {
            if turn * filler.weight < filler.due {
                continue;
            }
            filler.due += heaviest;
            let cell = filler.next_free(&cells, size);
            cells[cell] = filler.id;
            free -= 1;
            if free == 0 {
                return cells;
            }
        }
    }
    Vec::new()
}

/// A table with its members, so that whoever asks for them need not look through the cells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MaglevTable {
    cells: Box<[u32]>,
    members: Box<[u32]>,
    digest: NonZeroU64,
}

impl MaglevTable {
    /// A table of cells that hold an id or 0.
    pub fn new(cells: impl Into<Box<[u32]>>) -> Self {
        let cells = cells.into();
        let mut members: Vec<u32> = cells.iter().copied().filter(|id| *id != FREE).collect();
        members.sort_unstable();
        members.dedup();
        let digest = epic_reconciler::digest_of(&cells);
        Self { cells, members: members.into(), digest }
    }

    /// The table of these members, see [`table`].
    pub fn of(members: &[Member], size: u32, seed: u64) -> Self {
        let cells: Box<[u32]> = table(members, size, seed).into();
        // As many cells as members, and each has one; with fewer cells the slow way tells who has none.
        if members.len() > cells.len() {
            return Self::new(cells);
        }
        let mut ids: Vec<u32> = members.iter().filter(|m| m.weight > 0).map(|m| m.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let digest = epic_reconciler::digest_of(&cells);
        Self { cells, members: ids.into(), digest }
    }

    /// The table of members whose ids differ from node to node: they are in an order, and each with a number for its own
    /// order of cells, that are the same on all nodes. Each has a weight and another id, which is not 0.
    pub fn ordered(members: &[(Member, u64)], size: u32, seed: u64) -> Self {
        let filler = |(m, order): &(Member, u64)| Filler::new(m.id, m.weight, *order, size, seed);
        let cells: Box<[u32]> = fill(members.iter().map(filler).collect(), size).into();
        if members.len() > cells.len() {
            return Self::new(cells);
        }
        let mut ids: Box<[u32]> = members.iter().map(|(m, _)| m.id).collect();
        ids.sort_unstable();
        let digest = epic_reconciler::digest_of(&cells);
        Self { cells, members: ids, digest }
    }

    /// What each cell holds: an id, 0 for none.
    pub fn cells(&self) -> &[u32] {
        &self.cells
    }

    /// Ids that have a cell, sorted.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// Equal for equal cells.
    pub fn digest(&self) -> NonZeroU64 {
        self.digest
    }
}

struct Filler {
    id: u32,
    weight: u64,
    due: u64,
    cell: u32,
    skip: u32,
}

impl Filler {
    fn new(id: u32, weight: u16, order: u64, size: u32, seed: u64) -> Self {
        let first = mix(seed ^ mix(order));
        let second = mix(first ^ 0x9e37_79b9_7f4a_7c15);
        let cell = (first % u64::from(size)) as u32;
        let skip = if size > 1 { (second % u64::from(size - 1)) as u32 + 1 } else { 0 };
        let weight = u64::from(weight);
        Self { id, weight, due: weight.min(1), cell, skip }
    }

    /// The next cell of this member's order that nobody has; there is one.
    fn next_free(&mut self, cells: &[u32], size: u32) -> usize {
        loop {
            let cell = self.cell;
            // Both are below `size`, so one subtraction is the remainder.
            let left = size - self.skip;
            self.cell = if cell >= left { cell - left } else { cell + self.skip };
            if cells[cell as usize] == FREE {
                return cell as usize;
            }
        }
    }
}

/// A 64-bit mixer in which every input bit reaches every output bit (the finalizer of splitmix64).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u32 = 1021;
    const SEED: u64 = 0x6570_6963;

    fn equal(ids: impl IntoIterator<Item = u32>) -> Vec<Member> {
        ids.into_iter().map(|id| Member { id, weight: 1 }).collect()
    }

    fn shares(cells: &[u32]) -> BTreeMap<u32, usize> {
        let mut out = BTreeMap::new();
        for id in cells {
            *out.entry(*id).or_default() += 1;
        }
        out
    }

    #[test]
    fn no_member_with_a_weight_makes_an_empty_table() {
        assert!(table(&[], SIZE, SEED).is_empty());
        assert!(table(&[Member { id: 1, weight: 0 }], SIZE, SEED).is_empty());
    }

    #[test]
    fn the_first_cells_are_pinned_so_that_no_two_versions_disagree() {
        let cells = table(&equal([1, 2, 3]), 31, SEED);
        let text: String = cells.iter().map(|c| c.to_string()).collect();
        insta::assert_snapshot!(text, @"2321313123221321123211213331213");
    }

    #[test]
    fn the_busiest_of_ten_members_has_little_more_than_its_share() {
        let shares = shares(&table(&equal(1..=10), SIZE, SEED));
        assert_eq!(shares.len(), 10);
        let max = shares.values().max().copied().unwrap_or_default() as f64;
        assert!(max / (f64::from(SIZE) / 10.0) < 1.02, "{shares:?}");
    }

    #[test]
    fn weights_are_honoured() {
        let members = [(1, 1), (2, 2), (3, 5)].map(|(id, weight)| Member { id, weight });
        let shares = shares(&table(&members, 16_381, SEED));
        for m in members {
            let wanted = 16_381.0 * f64::from(m.weight) / 8.0;
            let got = shares[&m.id] as f64;
            assert!((got / wanted - 1.0).abs() < 0.02, "{m:?} has {got} cells, wanted {wanted}");
        }
    }

    #[test]
    fn losing_one_of_ten_members_moves_few_flows_of_the_others() {
        let (mut sum, mut worst) = (0.0, 0.0f64);
        for round in 0..100u32 {
            let ids: Vec<u32> =
                (0..10).map(|i| (mix(u64::from(round * 10 + i)) % 100_000) as u32 + 1).collect();
            let before = table(&equal(ids.iter().copied()), SIZE, SEED);
            let after = table(&equal(ids.iter().copied().skip(1)), SIZE, SEED);
            let needless = before.iter().zip(&after).filter(|(b, a)| **b != ids[0] && b != a).count();
            let share = needless as f64 / f64::from(SIZE);
            sum += share;
            worst = worst.max(share);
        }
        assert!(sum / 100.0 < 0.03, "on average {}", sum / 100.0);
        assert!(worst < 0.10, "at worst {worst}");
    }

    #[test]
    fn what_the_cells_hold_does_not_decide_who_has_them() {
        let here: Vec<(Member, u64)> = equal(1..=20).into_iter().map(|m| (m, mix(m.id.into()))).collect();
        let there: Vec<(Member, u64)> =
            here.iter().map(|(m, order)| (Member { id: 1000 - m.id, ..*m }, *order)).collect();
        let here = MaglevTable::ordered(&here, SIZE, SEED);
        let there = MaglevTable::ordered(&there, SIZE, SEED);
        assert!(here.cells().iter().zip(there.cells()).all(|(here, there)| *here == 1000 - there));
        assert_eq!(here, MaglevTable::new(here.cells()));
    }

    proptest! {
        #[test]
        fn the_order_of_members_does_not_matter(ids in prop::collection::btree_set(1u32..5000, 1..40)) {
            let forward = equal(ids.iter().copied());
            let mut backward = forward.clone();
            backward.reverse();
            prop_assert_eq!(table(&forward, SIZE, SEED), table(&backward, SIZE, SEED));
        }

        #[test]
        fn every_member_has_a_cell(
            members in prop::collection::btree_map(1u32..100_000, 1u16..=128, 1..=64),
        ) {
            let members: Vec<Member> = members.into_iter().map(|(id, weight)| Member { id, weight }).collect();
            let shares = shares(&table(&members, SIZE, SEED));
            prop_assert_eq!(shares.len(), members.len());
        }
    }
}
