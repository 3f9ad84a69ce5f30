//! `epicctl`: what an administrator of EPIC does besides `kubectl apply`.
//!
//! `account kubeconfig` makes the file with which a tenant's client agents connect; `address release` lets go of an
//! address by hand when a node that is gone keeps it; `restart` has proxies made anew; `authority rotate` replaces the
//! xDS authority; `get` shows everything on one screen, and what is wrong with it; `explain` says the one thing to fix
//! for one LoadBalancer; `preflight` judges a cluster before EPIC is installed; `node shell` says how to look into a
//! node. What they decide and print is pure ([`kubeconfig`], [`release::verdict`], [`overview::judge`],
//! [`overview::render`], [`explain::explain`], [`preflight::judge`]); reading and writing happens around it.
//!
//! It works with the rights of whoever calls it, and says which one is missing. It is no second operator: it never
//! hands anything out and changes no status.

pub mod account;
pub mod api;
pub mod authority;
pub mod command;
pub mod explain;
pub mod kubeconfig;
pub mod node;
pub mod overview;
pub mod preflight;
pub mod release;
pub mod restart;
