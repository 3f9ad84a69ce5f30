//! Maps that fail at random, or after so many writes for good (a crash).

use super::entry::{MapKey, MapValue};
use super::{LbMaps, MapError};

/// When operations fail.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that an update or deletion fails.
    pub probability: f64,
    /// Writes after which every operation fails; `None`: never.
    pub writes_left: Option<u64>,
}

/// Other maps, made unreliable. Reads do not fail unless the writes are used up.
#[derive(Clone, Debug)]
pub struct FaultyMaps<M> {
    inner: M,
    faults: Faults,
    random: u64,
}

impl<M> FaultyMaps<M> {
    /// Wraps maps; equal seeds fail alike.
    pub fn new(inner: M, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, random: seed }
    }

    /// Changes when operations fail.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The maps behind.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The maps behind, for good.
    pub fn into_inner(self) -> M {
        self.inner
    }

    fn fails(&mut self) -> Result<(), MapError> {
        if self.faults.writes_left == Some(0) {
            return Err(MapError::Failed("injected crash".to_owned()));
        }
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        if ((x >> 11) as f64 / (1u64 << 53) as f64) < self.faults.probability {
            return Err(MapError::Failed("injected fault".to_owned()));
        }
        if let Some(left) = &mut self.faults.writes_left {
            *left -= 1;
        }
        Ok(())
    }
}

impl<M: LbMaps> LbMaps for FaultyMaps<M> {
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        self.inner.entries()
    }

    fn update(&mut self, key: &MapKey, value: &MapValue) -> Result<(), MapError> {
        self.fails()?;
        self.inner.update(key, value)
    }

    fn delete(&mut self, key: &MapKey) -> Result<(), MapError> {
        self.fails()?;
        self.inner.delete(key)
    }
}
