//! What is said over the socket: one JSON object a line, each way.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use epic_lb::{Place, ServiceName};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::file::{Entry, Transport};

/// A line of a client. Each gets one [`Reply`], in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Request {
    /// From now on this connection speaks for a name.
    Register {
        /// The name, see [`ClientName`].
        name: String,
    },
    /// All services of this client, or a part of them: the last part has no `more`. Nothing of a list counts before that.
    List {
        /// Number of the part, from 0; 0 begins a list anew.
        #[serde(default, skip_serializing_if = "is_zero")]
        part: u32,
        /// Services.
        #[serde(default)]
        services: Vec<Entry>,
        /// Whether further parts follow.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    /// Makes a service what is given, whatever it was.
    Put(Box<Entry>),
    /// Deletes the service that is reached at an address, or has a name, with everything that is its own.
    Delete(Key),
    /// Drops a client that is gone, with its services.
    Forget {
        /// Its name.
        name: String,
    },
    /// Asks who is known, and how they stand.
    Status {},
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a service is named by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AnyKey", into = "AnyKey")]
pub enum Key {
    /// One of its addresses.
    Place(Place),
    /// Its name: for those that have no address.
    Name(ServiceName),
}

/// [`Key`] as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AnyKey {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Transport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl TryFrom<AnyKey> for Key {
    type Error = &'static str;

    fn try_from(key: AnyKey) -> Result<Self, Self::Error> {
        match key {
            AnyKey { address: Some(address), port: Some(port), protocol, name: None } => {
                Ok(Key::Place(Place::new(address, port, protocol.unwrap_or_default().into())))
            }
            AnyKey { address: None, port: None, protocol: None, name: Some(name) } => {
                ServiceName::parse(&name).map(Key::Name).ok_or("a name has the form namespace/name")
            }
            _ => Err("give address and port, or for a service without an address its name"),
        }
    }
}

impl From<Key> for AnyKey {
    fn from(key: Key) -> Self {
        match key {
            Key::Name(name) => AnyKey { name: Some(name.to_string()), ..AnyKey::default() },
            Key::Place(place) => AnyKey {
                address: Some(place.address.ip()),
                port: Some(place.port),
                protocol: match place.protocol {
                    epic_lb::Protocol::Udp => Some(Transport::Udp),
                    epic_lb::Protocol::Sctp => Some(Transport::Sctp),
                    _ => None,
                },
                name: None,
            },
        }
    }
}

/// A line of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done: it is in the tables, and outlives the server.
    Ok {
        /// What is not as it should be nevertheless.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
    },
    /// It is not done, and nothing of it.
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// No answer but a request: send your services. It comes after the registration, and whenever something becomes free
    /// that this client was refused.
    List {},
    /// Who is known.
    Status {
        /// Clients by name.
        clients: BTreeMap<ClientName, Standing>,
    },
}

impl Reply {
    /// Done, and nothing to add.
    pub const OK: Self = Reply::Ok { warning: None };

    /// As a line.
    pub(super) fn line(&self) -> Vec<u8> {
        // Its maps have texts for keys: there is nothing that JSON could not say.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// How a client stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Standing {
    /// Whether its services are what it says now.
    pub presence: Presence,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// How many services it has.
    pub services: usize,
    /// Its process, while it is connected and the kernel knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<i32>,
    /// Why what was kept of it cannot be read. Until it lists or is forgotten, nothing is pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// Whether the services of a client are what it says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// It is connected and has listed.
    Listed,
    /// It is connected and was asked; its services are those of before.
    Asked,
    /// It is gone; its services are those of before, until it returns or is forgotten.
    Stale,
}

/// Name of a client: 1–63 of `a–z`, `0–9`, `-` and `.`, with a letter or digit first and last. Also the name of the file
/// that keeps its services.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientName(Arc<str>);

impl ClientName {
    /// A name, if it is possible.
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let possible = matches!(bytes.len(), 1..=63)
            && bytes.iter().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'.'))
            && bytes.first().is_some_and(is_plain)
            && bytes.last().is_some_and(is_plain);
        possible.then(|| Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ClientName {
    type Error = Refusal;

    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text).ok_or(Refusal::NoName(text))
    }
}

impl From<ClientName> for String {
    fn from(name: ClientName) -> Self {
        name.0.as_ref().into()
    }
}
