//! What every EPIC process shows an administrator: readiness, metrics, logs, and an orderly end.
//!
//! Operator and agents do the same few things at their edge: say what they still wait for, answer
//! `/healthz`, `/readyz` and `/metrics`, write structured logs, and stop when asked. They live here once.
//! Nothing in this crate knows Kubernetes or the data plane.

pub mod logging;
pub mod readiness;
pub mod server;
pub mod shutdown;

pub use readiness::Readiness;
pub use server::{Metrics, ServeError, serve};
