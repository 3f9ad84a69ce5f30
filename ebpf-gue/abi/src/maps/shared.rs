//! Maps that both agents use: configuration, tunnels with their ends and keys, counters.

use super::layout;
use crate::{Ip, IpRange, Lb, gue::Key};

/// Entries of `locals`.
pub const MAX_LOCALS: usize = 64;
/// Entries of `nodes`.
pub const MAX_NODES: usize = 4_096;
/// Entries of maps with one entry a LoadBalancer.
pub const MAX_LBS: usize = 16_384;
/// Entries of maps with one entry a tunnel.
pub const MAX_TUNNELS: usize = 65_536;

/// The only key of `config`.
pub const CONFIG_KEY: u32 = 0;

layout! {
    /// What all programs of a host have to know. Written as a whole.
    pub struct Config {
        /// UDP port of GUE, [`crate::gue::DEFAULT_PORT`].
        pub gue_port: u16,
        /// TCP port of a proxy's readiness and stats listener (node), 9901.
        pub ops_port: u16,
        /// Interface to the internet (node): ARP is answered here, replies leave here.
        pub public_ifindex: u32,
        /// Interface to other EPIC nodes (node); may be the public one.
        pub underlay_ifindex: u32,
        /// Smallest MTU of the way to other EPIC nodes in bytes (node).
        pub underlay_mtu: u32,
        /// Interface `epic0` (client).
        pub device_ifindex: u32,
        /// Flows a CPU may enter into `flows` within a second (node); 0 = no cap.
        pub new_flows_per_second: u32,
        /// Seed of flow hashes; the same on all nodes, and a secret.
        pub maglev_seed: u32,
        /// Seconds a learned proxy address lasts (client).
        pub learned_seconds: u32,
        /// MAC address of the public interface (node), of `epic0` (client).
        pub mac: [u8; 6],
        /// Zero.
        pub _reserved: u16,
        /// `proxy-addresses`: base + proxy id. IPv4, or empty.
        pub proxies_v4: IpRange,
        /// The same for IPv6.
        pub proxies_v6: IpRange,
        /// `alias-addresses`: base + endpoint id (node). IPv4, or empty.
        pub aliases_v4: IpRange,
        /// The same for IPv6.
        pub aliases_v6: IpRange,
        /// GUE address of this node towards other nodes: outer source of legs between nodes (node).
        pub underlay: Ip,
    }

    /// An address of this host that GUE packets may be sent to.
    pub struct Local {
        /// Interface that has the address; informational.
        pub ifindex: u32,
    }

    /// An EPIC node.
    pub struct Node {
        /// None defined.
        pub flags: u32,
    }

    /// A key of one generation. Generation 0: none.
    pub struct KeySlot {
        /// Generation, from 1.
        pub generation: u32,
        /// The key.
        pub key: Key,
    }

    /// Keys that are accepted for a LoadBalancer: generations n−1, n, n+1 in any order.
    pub struct LbKeys {
        /// Keys between EPIC nodes and clients.
        pub data: [KeySlot; 3],
        /// Keys between EPIC nodes; all of generation 0 on a client.
        pub node: [KeySlot; 3],
        /// Index in `node` of the key that this host sends with.
        pub node_current: u32,
    }

    /// A tunnel, without its far end.
    pub struct Tunnel {
        /// The LoadBalancer it belongs to.
        pub lb: Lb,
        /// None defined. One bit is kept for the keyed tag.
        pub flags: u32,
        /// Interface that leads to the far end.
        pub ifindex: u32,
        /// Bytes an outer IP packet may have on the way; the agent lowers it when the underlay says so.
        pub mtu: u32,
        /// Generation of `key`; informational.
        pub generation: u32,
        /// Data key to send with.
        pub key: Key,
        /// Outer source address.
        pub local: Ip,
    }

    /// The far end of a tunnel, as learned.
    pub struct Remote {
        /// Outer destination address.
        pub address: Ip,
        /// UDP destination port.
        pub port: u16,
        /// [`REMOTE_NAT`], [`REMOTE_FIXED_PORT`].
        pub flags: u16,
        /// Sequence of the hello it was learned from; for the hello handler.
        pub sequence: u32,
        /// Session of that hello; for the hello handler.
        pub session: u64,
        /// When that was, nanoseconds of CLOCK_BOOTTIME; for the hello handler and for reports.
        pub learned_nanos: u64,
    }

    /// Which tunnel an outer source stands for.
    pub struct SourceKey {
        /// Outer source address.
        pub address: Ip,
        /// UDP source port where the ports are fixed (behind NAT), else 0 = any. The exact one is looked up first.
        pub port: u16,
        /// Zero.
        pub _reserved: u16,
        /// The LoadBalancer in the GUE header.
        pub lb: Lb,
    }

    /// Traffic of a tunnel, as inner IP packets on the wire (a super-packet counts as its segments).
    pub struct TunnelStats {
        /// Packets sent into the tunnel.
        pub tx_packets: u64,
        /// Bytes of them.
        pub tx_bytes: u64,
        /// Packets taken from the tunnel.
        pub rx_packets: u64,
        /// Bytes of them.
        pub rx_bytes: u64,
    }
}

impl Remote {
    /// The source that packets of this far end have, for a tunnel of `lb`.
    pub const fn source(&self, lb: Lb) -> SourceKey {
        let port = if self.flags & REMOTE_NAT == 0 { 0 } else { self.port };
        SourceKey { address: self.address, port, _reserved: 0, lb }
    }
}

/// The far end is behind a NAT: both UDP ports are the ones of its hello messages; the source port is the GUE port.
pub const REMOTE_NAT: u16 = 1;
/// Packets are sent from the GUE port, from which the far end was called or answered: a firewall in between that follows
/// connections lets those pass that belong to one. Without this and [`REMOTE_NAT`] the port follows from the flow.
pub const REMOTE_FIXED_PORT: u16 = 2;
