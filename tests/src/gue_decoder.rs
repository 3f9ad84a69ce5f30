//! The independent GUE decoder, for captures of the whole system's traffic.

pub use epic_testnet::gue::*;
