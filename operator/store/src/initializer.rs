//! Who must have said what there is before the absence of a row may mean anything.
//!
//! Guarantees: each registration is one of its own, also of two with one name; it is pending until *it* completes, in a
//! transaction that is committed. A completion in an aborted one leaves it pending and in the caller's hands.
//!
//! One that is dropped before it completed is given back to the store: it stays pending, is shown as abandoned, and the
//! next to register its name takes it over. A source that dies and is started again so leaves nothing behind, and one
//! that stays dead holds back whoever prunes, visibly: to drop its registration would let everything be pruned that it
//! had not listed yet. A source that is switched off on purpose completes instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sources::Sources;

/// One registration, held by its initializer and by the snapshots in which it is pending.
#[derive(Debug)]
pub(crate) struct Registration {
    name: Box<str>,
    sources: Sources,
    abandoned: AtomicBool,
}

impl Registration {
    pub(crate) fn new(name: &str, sources: Sources) -> Self {
        Self { name: name.into(), sources, abandoned: AtomicBool::new(false) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whose absence means nothing while it is pending.
    pub(crate) fn sources(&self) -> Sources {
        self.sources
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Makes it somebody's again, if it is nobody's.
    pub(crate) fn take_over(&self) -> bool {
        self.abandoned.swap(false, Ordering::AcqRel)
    }
}

/// The right and duty to complete one registration, with [`crate::WriteTxn::complete`].
#[derive(Debug)]
#[must_use = "dropped, it stays pending until somebody registers its name again"]
pub struct Initializer {
    registration: Arc<Registration>,
}

impl Initializer {
    pub(crate) fn new(registration: Arc<Registration>) -> Self {
        Self { registration }
    }

    pub(crate) fn registration(&self) -> &Arc<Registration> {
        &self.registration
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.registration.name()
    }
}

impl Drop for Initializer {
    fn drop(&mut self) {
        self.registration.abandoned.store(true, Ordering::Release);
    }
}
