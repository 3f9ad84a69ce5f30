//! Controllers of the EPIC operator.
//!
//! Each kind has a folder whose files are the steps of a reconcile: dereference (one coherent snapshot), validate
//! (every invariant becomes a type) and build (both pure), apply (the only writes), update_status. IDs are handed out
//! by [`allocation`], addresses by [`claim`]; both carry out plans that `epic_model` makes.

pub mod account;
pub mod address_pool;
pub mod allocation;
pub mod authority;
pub mod certificate;
pub mod claim;
pub mod context;
pub mod endpoint;
pub mod epic;
pub mod event;
pub mod keys;
pub mod leader;
pub mod load_balancer;
pub mod metrics;
pub mod node;
pub mod poison;
pub mod proxy;
pub mod reconcile;
pub mod relations;
pub mod run;
pub mod service_group;
pub mod settings;
#[cfg(test)]
mod situations;
pub mod tenant;
pub mod tunnels;
pub mod uninstall;
pub mod witness;
pub mod xds;
