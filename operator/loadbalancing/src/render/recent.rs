//! Maglev tables that were made last: the ports of one service have the same one, and a row that is rendered again mostly
//! finds its table made. Few are kept, whatever the number of services; what a table is made of decides whether it is used.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::maglev::MaglevTable;

/// So many tables are kept.
const KEPT: usize = 4;

/// Tables made last, each with its members.
#[derive(Clone, Debug)]
pub(super) struct Recent<M>(VecDeque<(Vec<M>, Arc<MaglevTable>)>);

impl<M> Default for Recent<M> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<M: PartialEq> Recent<M> {
    /// The table of these members; it is made if it is not there.
    pub(super) fn table(
        &mut self,
        members: Vec<M>,
        make: impl FnOnce(&[M]) -> MaglevTable,
    ) -> Arc<MaglevTable> {
        if let Some((_, table)) = self.0.iter().find(|(of, _)| *of == members) {
            return Arc::clone(table);
        }
        let table = Arc::new(make(&members));
        self.0.truncate(KEPT - 1);
        self.0.push_front((members, Arc::clone(&table)));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_made_once_as_long_as_few_others_come_between() {
        let mut recent = Recent::default();
        let mut made = 0;
        let mut ask = |member: u32| {
            recent.table(vec![member], |members| {
                made += 1;
                MaglevTable::new(vec![members[0]])
            })
        };
        let first = ask(1);
        assert!(Arc::ptr_eq(&first, &ask(1)));
        (2..=10).for_each(|member| drop(ask(member)));
        assert_eq!(*ask(1), *first);
        assert_eq!((made, recent.0.len()), (11, KEPT));
        assert_eq!(Arc::strong_count(&first), 1, "the first one is not kept any more");
    }
}
