//! AddressClaim: the exact allocation of one address. Created, changed and deleted by the operator alone.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, has_conditions};
use crate::reason::reasons;
use crate::rest::{Rest, carry, carry_keyed, keeps, keeps_unknown};
use crate::schema;

/// Which address, from where, for whom.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "AddressClaim",
    plural = "addressclaims",
    singular = "addressclaim",
    shortname = "epicclaim",
    namespaced,
    status = "AddressClaimStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "AddressClaim is the allocation of one public address: it is named after the address, so creating it decides who has it. The operator alone writes it; `epicctl address release` is the manual way.",
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".spec.address",
        description = "The address."
    ),
    printcolumn(
        name = "Namespace",
        type_ = "string",
        json_path = ".spec.owner.namespace",
        description = "Namespace of the owner."
    ),
    printcolumn(
        name = "Owner",
        type_ = "string",
        json_path = ".spec.owner.name",
        description = "The LoadBalancer that has the address."
    ),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "Releasing, or empty while it is bound."
    ),
    printcolumn(
        name = "Conflict",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Conflict\")].status",
        description = "Whether another machine answers for the address."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Pool",
        type_ = "string",
        json_path = ".spec.pool",
        description = "The pool it was taken from.",
        priority = 1
    ),
    printcolumn(
        name = "Release-Revision",
        type_ = "string",
        json_path = ".status.release-revision",
        description = "Revision that every EPICNode must have passed before the address is free.",
        priority = 1
    ),
    printcolumn(
        name = "Waiting-For",
        type_ = "string",
        json_path = ".status.waiting-for",
        description = "Nodes that keep the address from being free.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.address == oldSelf.address",
        "message": "the address of a claim is immutable"
    },
    {
        "rule": "self.owner.kind == oldSelf.owner.kind && self.owner.__namespace__ == oldSelf.owner.__namespace__ && self.owner.name == oldSelf.owner.name && self.owner.uid == oldSelf.owner.uid",
        "message": "the owner of a claim is immutable; only its resource-version may follow the object"
    }
]))]
pub struct AddressClaimSpec {
    /// The address.
    #[schemars(with = "schema::Ip")]
    pub address: String,
    /// Name of the AddressPool that it was taken from. When that pool does not hold the address any more and another
    /// one does, the operator puts that one's name here.
    #[schemars(with = "schema::ObjectName")]
    pub pool: String,
    /// The object that has it.
    pub owner: ClaimOwner,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// The object that a claim was made for, at the version for which it is good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ClaimOwner {
    /// Kind of the owner.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace of the owner.
    #[schemars(with = "schema::NamespaceName")]
    pub namespace: String,
    /// Name of the owner.
    #[schemars(with = "schema::ObjectName")]
    pub name: String,
    /// UID of the owner.
    #[schemars(with = "schema::Uid")]
    pub uid: String,
    /// The one version of the owner at which the address may be written to its status.
    #[schemars(with = "schema::ResourceVersion")]
    pub resource_version: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Whether the address is on its way back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AddressClaimStatus {
    /// Releasing once the owner does not have the address any more, which is final. Absent: bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ClaimPhase>,
    /// resourceVersion of the list of LoadBalancers that showed the owner without the address. The claim goes when
    /// every EPICNode has passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ResourceVersion>")]
    pub release_revision: Option<String>,
    /// Nodes that have not passed `release-revision`: they may still serve the address for its old owner. The address
    /// is free when there is none; a node that is gone for good is waited for until its EPICNode is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::ObjectName>", length(max = 256))]
    pub waiting_for: Vec<String>,
    /// Released, Conflict and InPool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(AddressClaim);

/// Phase of a claim; absent means bound, because a status is dropped on create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ClaimPhase {
    /// The owner does not have the address any more; nodes may still have it in their maps.
    Releasing,
}

keeps_unknown!(AddressClaim);
keeps! {
    AddressClaimSpec { spec, before => carry(&mut spec.owner, &before.owner) },
    AddressClaimStatus { status, before => {
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
    ClaimOwner,
}

impl AddressClaim {
    /// Whether the claim is on its way out and may not be adopted.
    pub fn is_releasing(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase == Some(ClaimPhase::Releasing))
    }
}

/// The name of the claim of an address: `192.0.2.7`, or all eight groups with dashes for IPv6
/// (`2001-0db8-0000-0000-0000-0000-0000-0007`). One address has one name, which is what makes creation exact.
pub fn claim_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            address.segments().iter().map(|group| format!("{group:04x}")).collect::<Vec<_>>().join("-")
        }
    }
}

/// Rules that see spec, status and name together.
pub(crate) const RULES: &[(&str, &str)] = &[
    (
        "!isIP(self.spec.address) || (ip(self.spec.address).family() == 4 ? self.metadata.name == self.spec.address : self.metadata.name.matches('^([0-9a-f]{4}-){7}[0-9a-f]{4}$'))",
        "a claim must be named after its address: 192.0.2.7, or 2001-0db8-0000-0000-0000-0000-0000-0007 for IPv6",
    ),
    (
        "!has(oldSelf.status) || !has(oldSelf.status.phase) || (has(self.status) && has(self.status.phase) && self.status.phase == oldSelf.status.phase)",
        "a claim that is Releasing stays Releasing",
    ),
];

reasons! {
    /// Why a condition or an Event of an AddressClaim says what it says.
    AddressClaimReason {
        #[doc = "The address was claimed for its owner."]
        Claimed,
        #[doc = "The owner does not have the address any more; nodes are asked to let it go."]
        Releasing,
        #[doc = "Nodes have not let the address go yet; status.waiting-for names them."]
        NodesPending,
        #[doc = "Every node has let the address go; it is free."]
        Released,
        #[doc = "A node that has not reported keeps the address from being freed."]
        ReleaseDelayed,
        #[doc = "Another machine on the network answers for the address; EPIC does not take it over."]
        InUseElsewhere,
        #[doc = "No other machine answers for the address any more."]
        NotInUseElsewhere,
        #[doc = "A pool holds the address."]
        PoolFound,
        #[doc = "No AddressPool holds the address any more; it stays with its owner, and nobody announces it."]
        PoolNotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_named_after_its_address() {
        assert_eq!(claim_name("192.0.2.7".parse().unwrap()), "192.0.2.7");
        assert_eq!(claim_name("2001:db8::7".parse().unwrap()), "2001-0db8-0000-0000-0000-0000-0000-0007");
    }
}
