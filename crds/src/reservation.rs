//! Reservations: values that a parent has set aside for one write of one child.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rest::{Rest, keeps};
use crate::schema;

/// Most reservations that a parent can hold at a time.
pub const MAX_RESERVATIONS: usize = 256;

/// Which of the parent's counters a value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Counter {
    /// Group IDs of Accounts (in EPIC).
    Group,
    /// Tunnel IDs (in EPIC).
    Tunnel,
    /// Proxy IDs (in EPIC).
    Proxy,
    /// Service IDs of LoadBalancers (in the Account).
    Service,
    /// Endpoint IDs (in the Account).
    Endpoint,
}

/// A value set aside in the parent before it is written to the child. It permits exactly one write: the status of
/// the named object at the named resourceVersion. Written by the operator alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Reservation {
    /// Counter that the value belongs to.
    pub counter: Counter,
    /// The value that is set aside.
    #[schemars(range(min = 1, max = 4294967295_i64))]
    pub value: i64,
    /// Kind of the object it is meant for.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace of the object it is meant for.
    #[schemars(with = "schema::NamespaceName")]
    pub namespace: String,
    /// Name of the object it is meant for.
    #[schemars(with = "schema::ObjectName")]
    pub name: String,
    /// UID of the object it is meant for.
    #[schemars(with = "schema::Uid")]
    pub uid: String,
    /// The one version of the object at which the value may be written.
    #[schemars(with = "schema::ResourceVersion")]
    pub resource_version: String,
    /// Which of several values of the same object this is: `client node/EPIC node` of a tunnel, pod UID of a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub subkey: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

keeps!(Reservation);

impl Reservation {
    /// What makes two entries the same reservation: one for another version of its object is another one.
    pub fn key(&self) -> (Counter, i64, String, String) {
        (self.counter, self.value, self.uid.clone(), self.resource_version.clone())
    }
}
