//! Controllers of the EPIC operator.

pub mod leader;
