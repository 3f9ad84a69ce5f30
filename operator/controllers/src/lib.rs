//! Controllers of the EPIC operator.
