//! Addresses, whatever their spelling.
//!
//! One host has one value here: an IPv4-mapped IPv6 address (`::ffff:127.0.0.1`) *is* the IPv4 address, so a rule
//! that refuses `127.0.0.1` refuses every way to write it. Everything after parsing compares values, never text.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The two families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The other family.
    pub fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A text that is no address, network or range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No address.
    #[error("{0:?} is no IP address; write it like 192.0.2.7 or 2001:db8::7, without port, prefix or zone")]
    NotAnAddress(String),
    /// No network.
    #[error("{0:?} is no network; write it like 192.0.2.0/24 or 2001:db8::/64")]
    NotANetwork(String),
    /// A range whose ends are of different families, or the wrong way round.
    #[error("{0:?} is no range; write it like 192.0.2.10-192.0.2.20, first address first")]
    NotARange(String),
}

/// Parses an address and brings IPv4-mapped IPv6 to IPv4.
///
/// # Errors
/// [`AddressError::NotAnAddress`]; leading zeros, ports, prefixes and zones are refused.
pub fn parse(text: &str) -> Result<IpAddr, AddressError> {
    text.parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| AddressError::NotAnAddress(text.to_owned()))
}

/// Parses a network, with the host bits cleared and IPv4-mapped IPv6 brought to IPv4.
///
/// # Errors
/// [`AddressError::NotANetwork`].
pub fn parse_network(text: &str) -> Result<IpNet, AddressError> {
    let wrong = || AddressError::NotANetwork(text.to_owned());
    let network: IpNet = text.parse().map_err(|_| wrong())?;
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
            let address = v6.addr().to_ipv4_mapped().ok_or_else(wrong)?;
            let network = Ipv4Net::new(address, v6.prefix_len() - 96).map_err(|_| wrong())?;
            Ok(IpNet::V4(network.trunc()))
        }
        other => Ok(other.trunc()),
    }
}

/// The network of one host.
pub fn host(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::from(v4)),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::from(v6)),
    }
}

/// Base plus `offset`, if that still lies in the network.
pub fn offset(network: IpNet, offset: u32) -> Option<IpAddr> {
    let address = match network.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).checked_add(offset)?)),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).checked_add(u128::from(offset))?)),
    };
    network.contains(&address).then_some(address)
}

/// The offset of an address from the network's base; `None` outside of the network or beyond 32 bits.
pub fn offset_of(network: IpNet, address: IpAddr) -> Option<u32> {
    if !network.contains(&address) {
        return None;
    }
    match (network.network(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => u32::from(address).checked_sub(u32::from(base)),
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            u32::try_from(u128::from(address).checked_sub(u128::from(base))?).ok()
        }
        _ => None,
    }
}

/// The largest offset that an ID may have in this network: the last address of an IPv4 network is left out, since
/// it may be a broadcast address somewhere. At least 1.
pub fn last_offset(network: IpNet) -> u32 {
    match network {
        IpNet::V4(v4) => {
            let bits = 32 - u32::from(v4.prefix_len());
            (1u64.checked_shl(bits).unwrap_or(u64::MAX)).saturating_sub(2).clamp(1, u64::from(u32::MAX))
                as u32
        }
        IpNet::V6(v6) => {
            let bits = 128 - u32::from(v6.prefix_len());
            if bits >= 32 { u32::MAX } else { ((1u32 << bits) - 1).max(1) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_the_same_value() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        for text in ["127.0.0.1", "::ffff:127.0.0.1", "::FFFF:7f00:1", "0:0:0:0:0:ffff:127.0.0.1"] {
            assert_eq!(parse(text).unwrap(), loopback, "{text}");
        }
        for text in ["127.1", "0177.0.0.1", "127.0.0.1/32", "fe80::1%eth0", " 127.0.0.1", "[::1]", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mapped_network_is_an_ipv4_network() {
        assert_eq!(parse_network("::ffff:10.1.2.3/104").unwrap(), "10.0.0.0/8".parse().unwrap());
        assert_eq!(parse_network("10.1.2.3/8").unwrap(), "10.0.0.0/8".parse().unwrap());
    }

    #[test]
    fn offsets_stay_inside_the_network() {
        let network: IpNet = "100.64.0.0/11".parse().unwrap();
        assert_eq!(offset(network, 1), Some("100.64.0.1".parse().unwrap()));
        assert_eq!(offset(network, last_offset(network)), Some("100.95.255.254".parse().unwrap()));
        assert_eq!(offset(network, 1 << 21), None);
        assert_eq!(offset_of(network, "100.64.1.0".parse().unwrap()), Some(256));
        assert_eq!(offset_of(network, "100.63.1.0".parse().unwrap()), None);
        let v6: IpNet = "fd00::/64".parse().unwrap();
        assert_eq!(offset(v6, 65_536), Some("fd00::1:0".parse().unwrap()));
        assert_eq!(offset_of(v6, "fd00::1:0".parse().unwrap()), Some(65_536));
    }
}
