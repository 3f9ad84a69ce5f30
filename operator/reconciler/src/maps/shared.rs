//! Maps that somebody looks into while a reconciler writes them.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{MapError, Maps, Op};
use crate::layout::Layout;

/// Maps behind a lock, for those in memory: the reconciler owns one handle, whoever looks in has another. The lock is held
/// for one batch or for the reading of one map, so a reader may see a round half done, as programs do.
#[derive(Debug, Default)]
pub struct SharedMaps<M>(Arc<Mutex<M>>);

impl<M> Clone for SharedMaps<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> SharedMaps<M> {
    /// Shares these maps.
    pub fn new(maps: M) -> Self {
        Self(Arc::new(Mutex::new(maps)))
    }

    /// The maps, for as long as the guard lives; the reconciler waits meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, M> {
        self.0.lock()
    }
}

impl<L: Layout, M: Maps<L>> Maps<L> for SharedMaps<M> {
    fn read(&self, map: usize, each: &mut dyn FnMut(L::Key, L::Value)) -> Result<(), MapError> {
        self.lock().read(map, each)
    }

    fn apply(&mut self, map: usize, batch: &[Op<L>], done: &mut dyn FnMut(usize, Result<(), MapError>)) {
        self.lock().apply(map, batch, done);
    }
}
