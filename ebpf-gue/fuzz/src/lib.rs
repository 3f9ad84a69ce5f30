//! Packets and maps to try the programs with, in the kernel and without.
//!
//! - [`frame`] makes frames, independently of the code under test.
//! - [`scene`] fills the maps of the two hosts that all tests play on.

#![expect(
    clippy::unwrap_used,
    missing_docs,
    reason = "what fails here fails the test; names are those of the cast"
)]

pub mod frame;
pub mod scene;
