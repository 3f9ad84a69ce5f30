//! Says when interfaces, addresses or routes of this namespace changed, so that nobody has to poll for it.
//!
//! A change is a hint to ask again, never the answer: bursts are merged, and when the kernel drops messages because
//! they were not read in time, everything counts as changed. Addresses inside a pod's namespace are not seen from
//! here; they are there before the API shows the pod's address, which is the event to look them up at.

use std::io;

use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Nsid,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// Those before the groups of routes.
const WITHOUT_ROUTES: usize = 4;

/// What somebody wants to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Interfaces and addresses. A host may change its routes without end, so who needs none of them is not woken.
    Interfaces,
    /// Routes too.
    Routes,
}

/// What changed since the last answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// An interface came, went or changed, or a namespace lost its id.
    pub links: bool,
    /// An address of this namespace came or went.
    pub addresses: bool,
    /// A route came or went.
    pub routes: bool,
}

impl Changed {
    /// Nothing is known any more.
    pub const EVERYTHING: Self = Self { links: true, addresses: true, routes: true };

    fn note(&mut self, message: &RouteNetlinkMessage) {
        use RouteNetlinkMessage as M;
        match message {
            M::NewLink(_) | M::DelLink(_) | M::NewNsId(_) | M::DelNsId(_) => self.links = true,
            M::NewAddress(_) | M::DelAddress(_) => self.addresses = true,
            M::NewRoute(_) | M::DelRoute(_) => self.routes = true,
            _ => {}
        }
    }

    fn any(self) -> bool {
        self.links || self.addresses || self.routes
    }
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// A subscription to changes in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Watch {
    messages: Messages,
}

impl Watch {
    /// Subscribes. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The socket could not be opened or bound.
    pub fn open(interest: Interest) -> io::Result<Self> {
        let groups = match interest {
            Interest::Interfaces => &GROUPS[..WITHOUT_ROUTES],
            Interest::Routes => &GROUPS,
        };
        let (connection, _, messages) = rtnetlink::new_multicast_connection(groups)?;
        tokio::spawn(connection);
        Ok(Self { messages })
    }

    /// Waits for the next change and takes what else is already there.
    ///
    /// Cancelling the future loses nothing that was not yet taken.
    ///
    /// # Errors
    /// The kernel closed the socket: open another [`Watch`], and count everything as changed.
    pub async fn changed(&mut self) -> io::Result<Changed> {
        let mut changed = Changed::default();
        while !changed.any() {
            let Some((message, _)) = self.messages.next().await else {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the netlink subscription ended"));
            };
            note(&mut changed, &message);
        }
        while let Ok((message, _)) = self.messages.try_recv() {
            note(&mut changed, &message);
        }
        Ok(changed)
    }
}

fn note(changed: &mut Changed, message: &NetlinkMessage<RouteNetlinkMessage>) {
    match &message.payload {
        NetlinkPayload::InnerMessage(message) => changed.note(message),
        NetlinkPayload::Overrun(_) => *changed = Changed::EVERYTHING,
        _ => {}
    }
}
