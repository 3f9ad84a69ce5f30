//! Packets and maps to try the programs with, in the kernel and without.
//!
//! - [`frame`] makes frames, independently of the code under test.
//! - [`scene`] fills the maps of the two hosts that all tests play on.
//! - [`corpus`] names packets of every kind; [`mutate`] makes others of them.
//! - [`native`] runs the core on packets in a process; [`oracle`] judges what becomes of them.

#![expect(
    clippy::unwrap_used,
    missing_docs,
    reason = "what fails here fails the test; names are those of the cast"
)]

pub mod corpus;
pub mod frame;
pub mod mutate;
pub mod native;
pub mod oracle;
pub mod scene;
