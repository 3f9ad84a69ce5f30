//! Node and client agents: discovery, tunnels, tables to maps.

pub mod device;
pub mod hello;
pub mod netlink;
pub mod nft;
