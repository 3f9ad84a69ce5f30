//! Node and client agents: discovery, tunnels, tables to maps.
//!
//! Expected flow, on both sides: watched objects and netlink → [`desired`] (pure) → Writer → tables → reconciler →
//! maps. Beside it runs [`hello`], which alone writes where the other ends of tunnels are. [`node`] and [`client`]
//! are the two processes, [`inspect`] the commands beside them.

pub mod client;
pub mod connect;
pub mod desired;
pub mod device;
pub mod hello;
pub mod inspect;
pub mod metrics;
pub mod netlink;
pub mod nft;
pub mod node;
pub mod remotes;
