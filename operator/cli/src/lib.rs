//! `epicctl`: what an administrator of EPIC does besides `kubectl apply`.
//!
//! Four commands. `account kubeconfig` makes the file with which a tenant's client agents connect; `address release`
//! lets go of an address by hand when a node that is gone keeps it; `restart` has proxies made anew; `get` shows everything on one screen, and what is
//! wrong with it. What they decide and print is pure ([`kubeconfig`], [`release::verdict`], [`overview::judge`],
//! [`overview::render`]); reading and writing happens around it.
//!
//! It works with the rights of whoever calls it, and says which one is missing. It is no second operator: it never
//! hands anything out and changes no status.

pub mod account;
pub mod api;
pub mod authority;
pub mod command;
pub mod kubeconfig;
pub mod overview;
pub mod release;
pub mod restart;
