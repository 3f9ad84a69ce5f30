//! Maps of a client node: which proxies may send here, to which endpoints, and the way back.

use super::layout;
use crate::{Ip, Lb};

/// Entries of `routes` and `learned_proxies`.
pub const MAX_ROUTES: usize = 16_384;
/// Entries of `endpoints`.
pub const MAX_CLIENT_ENDPOINTS: usize = 16_384;

layout! {
    /// The way to a proxy.
    pub struct Route {
        /// Tunnel to the proxy's EPIC node.
        pub tunnel: u32,
        /// The LoadBalancer it serves.
        pub lb: Lb,
    }

    /// The way to a proxy, as its packets showed it.
    pub struct LearnedProxy {
        /// Tunnel its packets came through.
        pub tunnel: u32,
        /// The LoadBalancer of that tunnel.
        pub lb: Lb,
        /// Until when it counts, nanoseconds of CLOCK_MONOTONIC.
        pub expires_nanos: u64,
    }

    /// An endpoint that packets of a service may be delivered to.
    pub struct EndpointKey {
        /// The LoadBalancer.
        pub lb: Lb,
        /// Address of the endpoint.
        pub address: Ip,
        /// Port of the endpoint.
        pub port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub _reserved: u8,
    }

    /// That they may.
    pub struct Endpoint {
        /// None defined.
        pub flags: u32,
    }
}
