//! The store: what may be written to.

use std::ops::Deref;
use std::sync::Arc;

use crate::initializer::{Initializer, Registration};
use crate::reader::Reader;
use crate::schema::Schema;
use crate::sources::Sources;
use crate::txn::WriteTxn;

/// Tables that may be written; for reading it derefs to [`Reader`]. Cloning gives another handle to the same store.
///
/// Keep it where rows are made and hand out [`Store::reader`].
#[derive(Debug)]
pub struct Store<S: Schema> {
    reader: Reader<S>,
}

impl<S: Schema> Clone for Store<S> {
    fn clone(&self) -> Self {
        Self { reader: self.reader.clone() }
    }
}

impl<S: Schema> Default for Store<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Schema> Deref for Store<S> {
    type Target = Reader<S>;

    fn deref(&self) -> &Reader<S> {
        &self.reader
    }
}

impl<S: Schema> Store<S> {
    /// Empty tables at revision 0.
    pub fn new() -> Self {
        Self { reader: Reader::empty() }
    }

    /// For whoever may not write.
    pub fn reader(&self) -> Reader<S> {
        self.reader.clone()
    }

    /// Begins a transaction over all tables; waits for the one that is open, so never begin a second one inside one.
    pub fn write(&self) -> WriteTxn<'_, S> {
        WriteTxn::new(self.reader.shared())
    }

    /// Registers a source that must have said what there is before the absence of a row may mean anything.
    ///
    /// Takes over an abandoned registration of the same name; otherwise it is one of its own, also beside others of that
    /// name. Not to be called inside a transaction: it is one.
    pub fn register_initializer(&self, name: &str) -> Initializer {
        self.register_initializer_of(Sources::ALL, name)
    }

    /// The same for somebody who speaks of the rows of these sources alone: the absence of others' may mean something
    /// before.
    pub fn register_initializer_of(&self, sources: Sources, name: &str) -> Initializer {
        let mut txn = self.write();
        let mut same =
            txn.next.pending.iter().filter(|pending| pending.name() == name && pending.sources() == sources);
        let taken_over = same.find(|pending| pending.take_over());
        if let Some(registration) = taken_over.cloned() {
            return Initializer::new(registration);
        }
        let registration = Arc::new(Registration::new(name, sources));
        let pending = Arc::make_mut(&mut txn.next.pending);
        let at = pending.partition_point(|pending| pending.name() <= name);
        pending.insert(at, Arc::clone(&registration));
        txn.changed = true;
        txn.commit();
        Initializer::new(registration)
    }
}
