//! Requests as somebody in the internet sends them, and what is to be said about the answers.
//!
//! The tenants' web server (hack/web) answers with who it is, so every answer can be counted as the right tenant's or
//! not. Small and blocking on purpose: what is measured is the path, and a test that asks 2,000 times must be able to
//! say of each request whether it was answered, by whom, or why not. The library panics nowhere; a failed request is
//! a value.

pub mod ask;
pub mod load;
pub mod packet;
pub mod tally;

pub use ask::{Answer, Question};
pub use load::{Load, Report};
pub use tally::Tally;
