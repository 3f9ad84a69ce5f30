//! Ports: which listener port a public port has, and which endpoint serves it.
//!
//! Envoy never binds a public port. A public port has a slot, kept in the LoadBalancer's `status.ports`; its listener
//! binds 10000 + slot and the node translates. Invariant: no two ports of a LoadBalancer have one slot, a port keeps
//! its slot, and a slot has a new port only after every proxy acknowledged that the old listener is gone.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The protocol of a port. Kubernetes' spelling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, what an absent protocol means.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// The protocol number in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// A text that names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no protocol; expected TCP, UDP or SCTP")]
pub struct UnknownProtocol(pub String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;
    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "TCP" => Ok(Protocol::Tcp),
            "UDP" => Ok(Protocol::Udp),
            "SCTP" => Ok(Protocol::Sctp),
            _ => Err(UnknownProtocol(text.to_owned())),
        }
    }
}

/// What a public port leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// A port number.
    Number(u16),
    /// The name of an endpoint's port.
    Name(String),
}

/// A public port of a LoadBalancer (a core ServicePort).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicPort {
    /// Its name.
    pub name: Option<String>,
    /// The port on the public address.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it leads; absent means the same number.
    pub target_port: Option<TargetPort>,
}

/// The port of an Endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// An endpoint serves none of the public ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "port {port}/{protocol}{} serves no public port of the load balancer; a public port leads here by its name, or by its targetPort",
    .name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()
)]
pub struct NoMatchingPort {
    /// The endpoint's port number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its name.
    pub name: Option<String>,
}

impl PublicPort {
    /// Whether an endpoint's port serves this one (api.md, "Ports"): the protocols are equal, and the names are
    /// equal, or `targetPort` is the endpoint's number, or its name. An absent `targetPort` is this port's number.
    pub fn is_served_by(&self, endpoint: &EndpointPort) -> bool {
        let by_name = self.name.is_some() && self.name == endpoint.name;
        let by_target = match &self.target_port {
            None => self.port == endpoint.port,
            Some(TargetPort::Number(number)) => *number == endpoint.port,
            Some(TargetPort::Name(name)) => endpoint.name.as_ref() == Some(name),
        };
        self.protocol == endpoint.protocol && (by_name || by_target)
    }
}

/// The public ports that an endpoint serves; at least one.
///
/// # Errors
/// [`NoMatchingPort`] if it serves none.
pub fn served<'p>(
    public: &'p [PublicPort],
    endpoint: &EndpointPort,
) -> Result<Vec<&'p PublicPort>, NoMatchingPort> {
    let served: Vec<&PublicPort> = public.iter().filter(|port| port.is_served_by(endpoint)).collect();
    if served.is_empty() {
        let EndpointPort { name, port, protocol } = endpoint.clone();
        return Err(NoMatchingPort { port, protocol, name });
    }
    Ok(served)
}

/// A public port that is listed twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("public port {port}/{protocol} is listed twice; public ports are unique per address and protocol")]
pub struct DuplicatePort {
    /// The port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Checks that public ports are unique per protocol. An address belongs to one LoadBalancer, so this makes them
/// unique per (address, protocol).
///
/// # Errors
/// [`DuplicatePort`], the first one.
pub fn check_unique(public: &[PublicPort]) -> Result<(), DuplicatePort> {
    let mut seen = BTreeSet::new();
    for PublicPort { port, protocol, .. } in public {
        if !seen.insert((*port, *protocol)) {
            return Err(DuplicatePort { port: *port, protocol: *protocol });
        }
    }
    Ok(())
}

/// The listener port of slot 0.
pub const FIRST_LISTENER_PORT: u16 = 10_000;
/// The number of slots: listener ports end below the pods' `ip_local_port_range` (16384).
pub const SLOTS: u16 = 16_384 - FIRST_LISTENER_PORT;

/// An entry of `status.ports`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSlot {
    /// The public port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its slot.
    pub slot: u16,
}

impl PortSlot {
    /// The port that the proxies' listener binds.
    pub const fn listener_port(&self) -> u16 {
        FIRST_LISTENER_PORT + self.slot
    }
}

/// The new `status.ports`.
///
/// A port that is wanted keeps its slot; a new one takes the lowest slot that is not in the list. A port that is no
/// longer wanted stays in the list, without listener, until `removals_acknowledged`: every proxy that exists has
/// acknowledged a configuration made from the present spec. Only then is its slot free. So what is in the list and
/// not in the spec is a slot on its way out, and an operator needs no memory.
///
/// The result is sorted by slot. Ports beyond the number of slots are left out.
pub fn assign_slots(
    wanted: &[PublicPort],
    current: &[PortSlot],
    removals_acknowledged: bool,
) -> Vec<PortSlot> {
    let is_wanted =
        |slot: &PortSlot| wanted.iter().any(|port| (port.port, port.protocol) == (slot.port, slot.protocol));
    let mut slots: Vec<PortSlot> = Vec::new();
    for slot in current.iter().filter(|slot| slot.slot < SLOTS) {
        let known = slots.iter().any(|known| {
            known.slot == slot.slot || (known.port, known.protocol) == (slot.port, slot.protocol)
        });
        if !known && (is_wanted(slot) || !removals_acknowledged) {
            slots.push(*slot);
        }
    }
    for PublicPort { port, protocol, .. } in wanted {
        if slots.iter().any(|slot| (slot.port, slot.protocol) == (*port, *protocol)) {
            continue;
        }
        let used: BTreeSet<u16> = slots.iter().map(|slot| slot.slot).collect();
        if let Some(slot) = (0..SLOTS).find(|slot| !used.contains(slot)) {
            slots.push(PortSlot { port: *port, protocol: *protocol, slot });
        }
    }
    slots.sort_by_key(|slot| slot.slot);
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(name: &str, port: u16, target: Option<TargetPort>) -> PublicPort {
        let name = (!name.is_empty()).then(|| name.to_owned());
        PublicPort { name, port, protocol: Protocol::Tcp, target_port: target }
    }

    fn endpoint(name: &str, port: u16) -> EndpointPort {
        let name = (!name.is_empty()).then(|| name.to_owned());
        EndpointPort { name, port, protocol: Protocol::Tcp }
    }

    fn slot(port: u16, slot: u16) -> PortSlot {
        PortSlot { port, protocol: Protocol::Tcp, slot }
    }

    #[test]
    fn the_seeds_public_port_is_served_by_its_target_port() {
        let public = public("", 8888, Some(TargetPort::Number(8080)));
        assert!(public.is_served_by(&endpoint("second", 8080)));
        assert!(!public.is_served_by(&endpoint("second", 8888)));
    }

    #[test]
    fn an_absent_target_port_is_the_public_ports_number() {
        assert!(public("", 8080, None).is_served_by(&endpoint("x", 8080)));
        assert!(!public("", 8080, None).is_served_by(&endpoint("x", 8081)));
    }

    #[test]
    fn ports_meet_by_name_whatever_their_numbers() {
        assert!(public("web", 80, Some(TargetPort::Number(1))).is_served_by(&endpoint("web", 8080)));
        let by_target_name = public("", 80, Some(TargetPort::Name("web".into())));
        assert!(by_target_name.is_served_by(&endpoint("web", 8080)));
        assert!(!by_target_name.is_served_by(&endpoint("", 80)));
        assert!(
            !public("", 80, None).is_served_by(&endpoint("", 81)),
            "two absent names are not equal names"
        );
    }

    #[test]
    fn protocols_never_mix() {
        let udp = EndpointPort { protocol: Protocol::Udp, ..endpoint("web", 80) };
        assert!(!public("web", 80, None).is_served_by(&udp));
        assert_eq!(
            served(&[public("web", 80, None)], &udp).unwrap_err().to_string(),
            "port 80/UDP (web) serves no public port of the load balancer; a public port leads here by its name, \
             or by its targetPort"
        );
    }

    #[test]
    fn public_ports_are_unique_per_protocol() {
        let udp = PublicPort { protocol: Protocol::Udp, ..public("b", 80, None) };
        assert!(check_unique(&[public("a", 80, None), udp]).is_ok());
        assert!(check_unique(&[public("a", 80, None), public("b", 80, None)]).is_err());
    }

    #[test]
    fn a_port_keeps_its_slot_and_a_new_one_takes_the_lowest_free_one() {
        let wanted = [public("", 443, None), public("", 80, None), public("", 8080, None)];
        let slots = assign_slots(&wanted, &[slot(80, 0), slot(443, 2)], true);
        assert_eq!(slots, [slot(80, 0), slot(8080, 1), slot(443, 2)]);
        assert_eq!(slots[2].listener_port(), 10_002);
        assert_eq!(assign_slots(&wanted, &slots, false), slots, "nothing changes without a reason");
    }

    #[test]
    fn a_freed_slot_is_not_used_before_every_proxy_acknowledged_its_removal() {
        let wanted = [public("", 443, None)];
        let waiting = assign_slots(&wanted, &[slot(80, 0)], false);
        assert_eq!(waiting, [slot(80, 0), slot(443, 1)]);
        assert_eq!(assign_slots(&wanted, &waiting, true), [slot(443, 1)]);
        assert_eq!(
            assign_slots(&[public("", 80, None)], &waiting, false)[0],
            slot(80, 0),
            "it may come back"
        );
    }
}
