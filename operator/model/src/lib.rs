//! The pure domain of EPIC: what is allocated to whom, what things are called, and what state a proxy, a tunnel or
//! an endpoint is in.
//!
//! Every function here is `fn(inputs) -> value`. There is no clock, no random, no IO and no Kubernetes: callers turn
//! custom resources into the input types of this crate, ask for a decision, and execute it. Times, revisions and the
//! answers of nodes are inputs. So every rule can be tested as a value, and the rules that need an order of calls
//! (allocation of IDs, claims of addresses) are explored exhaustively by model checkers in this crate's tests.
//!
//! | module | decides |
//! | --- | --- |
//! | [`id`] | the types of numbers and names, and their ranges |
//! | [`address`] | what an address is, whatever its spelling |
//! | [`name`] | names of namespaces, children, claims |
//! | [`allocation`] | numeric IDs out of a parent's status |
//! | [`claim`] | public addresses out of pools |
//! | [`account`] | accounts, their namespaces and limits |
//! | [`port`] | listener slots, and which endpoint serves which public port |
//! | [`edge`] | how proxies treat clients and endpoints |
//! | [`endpoint`] | which endpoints are accepted, and their aliases |
//! | [`proxy`] | the list of proxies of a LoadBalancer and their states |
//! | [`programmed`] | whether what was written is in force everywhere |
//! | [`tunnel`] | which tunnels are wanted, and how they are shown |
//! | [`owner`] | which node answers for a public address |
//! | [`key`] | which key generations are in force |

pub mod account;
pub mod address;
pub mod allocation;
pub mod claim;
pub mod edge;
pub mod endpoint;
pub mod id;
pub mod in_service;
pub mod key;
pub mod name;
pub mod owner;
pub mod port;
pub mod programmed;
pub mod proxy;
pub mod revision;
pub mod tunnel;

#[cfg(test)]
mod explore;
