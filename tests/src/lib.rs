//! End-to-end scenarios and test support.

pub mod gue_decoder;

pub use epic_control_plane as control_plane;
