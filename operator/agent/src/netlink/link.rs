//! Interfaces of this namespace: which exist, and which one holds an address.

use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, Prop};

use super::{Error, Netlink, one};

/// An interface as far as the agent cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Index, unique within the namespace for as long as the interface lives.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Hardware address; zero for interfaces without one (tun, for example).
    pub mac: [u8; 6],
    /// Largest packet in bytes, without the link-layer header.
    pub mtu: u32,
    /// Alternative names.
    pub altnames: Vec<String>,
    /// Administratively up.
    pub up: bool,
    /// It has a carrier: a cable, a peer that is up, an active member.
    pub carrier: bool,
    /// Index of the bond or bridge that it is a member of.
    pub controller: Option<u32>,
    /// It is the loopback interface.
    pub loopback: bool,
    /// Its frames begin with an Ethernet header, which the programs read. Those of tun, WireGuard or PPP do not.
    pub ethernet: bool,
}

impl Link {
    pub(super) fn of(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            altnames: Vec::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            controller: None,
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ethernet: matches!(
                message.header.link_layer_type,
                // The kernel puts an Ethernet header before what it sends to itself.
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.controller = (*index != 0).then_some(*index),
                LinkAttribute::PropList(properties) => {
                    link.altnames = properties.iter().filter_map(altname).collect();
                }
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or([0; 6]),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

fn altname(property: &Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name.clone()),
        _ => None,
    }
}

impl Netlink {
    /// All interfaces of this namespace.
    ///
    /// # Errors
    /// The kernel refused the dump.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        Ok(self.link_messages().await?.iter().filter_map(Link::of).collect())
    }

    /// All interfaces, in the kernel's words.
    pub(super) async fn link_messages(&self) -> Result<Vec<LinkMessage>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let link = |message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        };
        Ok(self.dump("list interfaces", request).await?.into_iter().filter_map(link).collect())
    }

    /// The addresses that a request asks for, in the kernel's words.
    pub(super) async fn address_messages(
        &self,
        action: &str,
        request: AddressMessage,
    ) -> Result<Vec<AddressMessage>, Error> {
        let address = |message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        };
        let answers = self.dump(action, RouteNetlinkMessage::GetAddress(request)).await?;
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// The interface with this index.
    ///
    /// # Errors
    /// [`Error::is_absent`] when there is none.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Link, Error> {
        let action = format!("read interface {ifindex}");
        let message = one(&action, self.handle().link().get().match_index(ifindex).execute()).await?;
        Link::of(&message).ok_or_else(|| Error::answer(action, "the interface has no name"))
    }

    /// The interface with this name, which may be an alternative one.
    ///
    /// # Errors
    /// [`Error::is_absent`] when there is none.
    pub async fn link_by_name(&self, name: &str) -> Result<Link, Error> {
        let action = format!("read interface {name}");
        let message = one(&action, self.handle().link().get().match_name(name).execute()).await?;
        Link::of(&message).ok_or_else(|| Error::answer(action, "the interface has no name"))
    }

    /// The interface that holds `address`, for example a node's InternalIP.
    ///
    /// # Errors
    /// The kernel refused the dump.
    pub async fn link_with_address(&self, address: IpAddr) -> Result<Option<Link>, Error> {
        let found = self.addresses().await?.into_iter().find(|(_, held)| *held == address);
        match found {
            Some((ifindex, _)) => self.link_by_index(ifindex).await.map(Some),
            None => Ok(None),
        }
    }

    /// Creates an interface.
    ///
    /// # Errors
    /// [`Error::errno`] is `EOPNOTSUPP` when the kernel has no such kind, `EEXIST` when the name is taken.
    pub async fn add_link(&self, name: &str, request: LinkMessage) -> Result<(), Error> {
        let added = self.handle().link().add(request).execute().await;
        added.map_err(|source| Error::new(format!("create interface {name}"), source))
    }

    /// Changes flags or attributes of an interface.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn change_link(&self, name: &str, request: LinkMessage) -> Result<(), Error> {
        let changed = self.handle().link().set(request).execute().await;
        changed.map_err(|source| Error::new(format!("change interface {name}"), source))
    }

    /// Removes an interface. One that is gone already is fine.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn delete_link(&self, name: &str, ifindex: u32) -> Result<(), Error> {
        match self.handle().link().del(ifindex).execute().await {
            Ok(()) => Ok(()),
            Err(source) => {
                let error = Error::new(format!("remove interface {name}"), source);
                if error.is_absent() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// All addresses of this namespace with the index of the interface that holds them.
    ///
    /// # Errors
    /// The kernel refused the dump.
    pub async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, Error> {
        let messages = self.address_messages("list addresses", AddressMessage::default()).await?;
        Ok(messages
            .iter()
            .filter_map(|message| Some((message.header.index, own_address(&message.attributes)?)))
            .collect())
    }
}

/// The interface's own address. On point-to-point links `IFA_ADDRESS` is the other end's, so `IFA_LOCAL` wins.
pub(super) fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}
