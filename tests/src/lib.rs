//! End-to-end scenarios and test support.

pub mod gue_decoder;
