//! Where traffic arrives or is sent to, in the form that keys have.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use epic_abi::Ip;

/// An address of either family in 16 bytes, IPv4 v4-mapped. Ordered as addresses are, IPv4 before IPv6 but for `::`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 16]);

impl Address {
    /// Not greater than any other: where a range begins.
    pub const LEAST: Self = Self([0; 16]);

    /// As an IPv6 address, IPv4 v4-mapped.
    pub fn octets(self) -> [u8; 16] {
        self.0
    }

    /// As the standard library has it.
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for Ip {
    fn from(address: Address) -> Self {
        Ip::v6(address.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.ip(), f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Transport protocol. [`Protocol::Any`] stands for every protocol and appears in backends only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Every protocol: a proxy pod as the backend of a VIP.
    Any,
}

impl Protocol {
    /// IANA number; 0 for [`Protocol::Any`].
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Any => 0,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
            Protocol::Any => "ANY",
        })
    }
}

/// An address with port and protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Address.
    pub address: Address,
    /// Port; 0 for every port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl Place {
    /// Not greater than any other: where a range begins.
    pub const LEAST: Self = Self { address: Address::LEAST, port: 0, protocol: Protocol::Tcp };

    /// A place of its parts.
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self { address: address.into(), port, protocol }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.ip() {
            IpAddr::V4(address) => write!(f, "{address}:{}/{}", self.port, self.protocol),
            IpAddr::V6(address) => write!(f, "[{address}]:{}/{}", self.port, self.protocol),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_keep_their_value_and_their_order() {
        let sorted = ["0.0.0.1", "9.0.0.0", "10.0.0.9", "192.0.2.7", "2001:db8::7", "fe80::1"];
        let parsed: Vec<IpAddr> = sorted.iter().map(|text| text.parse().unwrap()).collect();
        let keys: Vec<Address> = parsed.iter().map(|address| Address::from(*address)).collect();
        assert!(keys.is_sorted() && keys.iter().all(|key| *key >= Address::LEAST));
        assert_eq!(keys.iter().map(|key| key.ip()).collect::<Vec<_>>(), parsed);
        assert!(keys.iter().zip(&parsed).all(|(key, address)| Ip::from(*key) == Ip::from(*address)));
        assert_eq!(Place::new(parsed[4], 80, Protocol::Udp).to_string(), "[2001:db8::7]:80/UDP");
    }
}
