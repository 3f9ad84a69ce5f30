//! Carries out the allocation plans of [`epic_model::allocation`] against the API server.
//!
//! The order of calls is the protocol: GET the parent, then LIST the children, plan, PUT the parent, PUT the
//! children. All reads here are quorum reads, never a cache; what a LoadBalancer needs (pods, Endpoints, nodes) may
//! come from a snapshot, since a need that is seen late only costs a round.

pub mod child;
pub mod execute;
pub mod facts;
pub mod need;
pub mod parent;
pub mod run;
pub mod touched;
pub mod verdict;
