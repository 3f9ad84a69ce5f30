//! Controllers of the EPIC operator.

pub mod leader;
pub mod proxy;
pub mod tenant;
