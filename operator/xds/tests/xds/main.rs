//! The crate from outside: protocol rules, a model of the protocol, resources, the server over real TLS, and a real
//! Envoy.
//!
//! One binary, so that it is linked once. `envoy` needs the pinned Envoy: `hack/tools/build` provides it, or
//! `EPIC_ENVOY` names it; without it those tests fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod blips;
mod crowds;
mod delta_model;
mod delta_rules;
mod edge;
mod envoy;
mod golden;
mod harness;
mod ops;
mod refusals;
mod resources;
mod rotation;
mod rows;
mod server;
