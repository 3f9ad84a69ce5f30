//! Who asks.

use std::future::Future;

use crate::check::Probe;
use crate::target::Place;
use crate::verdict::Failure;

/// Who asks. The checker ends a probe that takes longer than its timeout, or whose target is removed, by dropping the
/// future; it must let go of everything then.
pub trait Prober: Send + Sync + 'static {
    /// Asks once.
    fn probe(&self, place: &Place, probe: &Probe) -> impl Future<Output = Result<(), Failure>> + Send;
}
