//! Maps that fail at random, or after so many writes for good (a crash).

use super::{MapError, Maps, Op};
use crate::layout::Layout;
use crate::random::Random;

/// When operations fail.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that a write or removal fails.
    pub probability: f64,
    /// Writes after which every operation fails; `None`: never.
    pub writes_left: Option<u64>,
}

/// Other maps, made unreliable. Operations reach them one by one; reads do not fail.
#[derive(Clone, Debug)]
pub struct FaultyMaps<M> {
    inner: M,
    faults: Faults,
    random: Random,
}

impl<M> FaultyMaps<M> {
    /// Wraps maps; equal seeds fail alike.
    pub fn new(inner: M, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, random: Random(seed) }
    }

    /// Changes when operations fail.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The maps behind.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The maps behind, to change them.
    pub fn inner_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// The maps behind, for good.
    pub fn into_inner(self) -> M {
        self.inner
    }

    fn fails(&mut self) -> Result<(), MapError> {
        if self.faults.writes_left == Some(0) {
            return Err(MapError::Failed("injected crash".to_owned()));
        }
        if self.random.unit() < self.faults.probability {
            return Err(MapError::Failed("injected fault".to_owned()));
        }
        if let Some(left) = &mut self.faults.writes_left {
            *left -= 1;
        }
        Ok(())
    }
}

impl<L: Layout, M: Maps<L>> Maps<L> for FaultyMaps<M> {
    fn read(&self, map: usize, each: &mut dyn FnMut(L::Key, L::Value)) -> Result<(), MapError> {
        self.inner.read(map, each)
    }

    fn apply(&mut self, map: usize, batch: &[Op<L>], done: &mut dyn FnMut(usize, Result<(), MapError>)) {
        for (at, op) in batch.iter().enumerate() {
            match self.fails() {
                Ok(()) => self.inner.apply(map, std::slice::from_ref(op), &mut |_, result| done(at, result)),
                Err(error) => done(at, Err(error)),
            }
        }
    }
}
