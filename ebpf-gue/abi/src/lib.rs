//! Wire formats and map layouts shared by the BPF programs, the loader, the agent and the tests.
//!
//! Everything that two parties have to agree on to the byte lives here and nowhere else: the GUE header, the
//! hello messages by which clients call home, the derivation of keys, and every key and value of every BPF map.
//! The crate is `no_std` and without dependencies by default, so that the programs can use it as it is.
//!
//! Conventions: integers in map keys and values are in host byte order, integers on the wire are big-endian,
//! addresses are [`Ip`] (16 bytes, IPv4 as v4-mapped) everywhere. No struct of a map has padding.
//!
//! What it does not do: no maps are opened and no packets are touched here.

#![no_std]

pub mod drop;
pub mod flow;
pub mod gue;
pub mod hello;
mod ip;
#[cfg(feature = "keys")]
pub mod keys;
pub mod maps;
pub mod stats;

pub use ip::{Ip, IpRange};

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;

/// Identity of a LoadBalancer in packets and maps: the group id of its account and its service id therein.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lb {
    /// Group id of the account, from 1.
    pub group: u16,
    /// Service id of the LoadBalancer within the account, from 1.
    pub service: u16,
}

impl Lb {
    /// The LoadBalancer `service` of account `group`.
    pub const fn new(group: u16, service: u16) -> Self {
        Self { group, service }
    }
}
