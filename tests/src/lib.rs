//! End-to-end scenarios and test support.
