//! AddressPool: public addresses that EPIC may hand out.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, has_conditions};
use crate::reason::reasons;
use crate::rest::{Rest, carry_keyed, carry_option, keeps, keeps_unknown};
use crate::schema;

/// Which addresses, for whom, and how the network learns of them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "AddressPool",
    plural = "addresspools",
    singular = "addresspool",
    shortname = "epicpool",
    namespaced,
    status = "AddressPoolStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "AddressPool holds public addresses for LoadBalancers. It lies in namespace epic; ServiceGroups name it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether its addresses are in force; reason Exhausted says that none is left to be taken."
    ),
    printcolumn(
        name = "Used-v4",
        type_ = "string",
        json_path = ".status.ipv4.used",
        description = "IPv4 addresses in use."
    ),
    printcolumn(
        name = "Total-v4",
        type_ = "string",
        json_path = ".status.ipv4.total",
        description = "IPv4 addresses in the pool."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Used-v6",
        type_ = "string",
        json_path = ".status.ipv6.used",
        description = "IPv6 addresses in use.",
        priority = 1
    ),
    printcolumn(
        name = "Total-v6",
        type_ = "string",
        json_path = ".status.ipv6.total",
        description = "IPv6 addresses in the pool.",
        priority = 1
    ),
    printcolumn(
        name = "Overlaps",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Overlaps\")].status",
        description = "Whether it shares addresses with an older pool.",
        priority = 1
    ),
    printcolumn(
        name = "Addresses",
        type_ = "string",
        json_path = ".spec.addresses",
        description = "Networks and ranges of the pool.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
pub struct AddressPoolSpec {
    /// Networks (192.0.2.0/24, whose network and broadcast addresses are left out) and ranges
    /// (192.0.2.10-192.0.2.20, of which every address counts), IPv4 and IPv6. Taking an address out does not
    /// revoke it from a LoadBalancer that has it.
    #[schemars(with = "Vec<schema::CidrOrRange>", length(min = 1, max = 128))]
    pub addresses: Vec<String>,
    /// Accounts that may take addresses from the pool. Absent: all. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<Vec<schema::AccountName>>",
        length(max = 1024),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub accounts: Option<Vec<String>>,
    /// How the network learns which node has an address. Absent: EPIC does not announce, you route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Advertise>,
    /// No new address is taken from the pool while this is true; what is in use stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How the network learns which node has an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Advertise {
    /// One EPIC node answers ARP for each address, on its public interface. The addresses must lie in the network
    /// of that interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2: Option<AdvertiseL2>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Settings of layer 2 advertisement; none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AdvertiseL2 {
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How full the pool is. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AddressPoolStatus {
    /// Use of the IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<AddressUsage>,
    /// Use of the IPv6 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<AddressUsage>,
    /// Accepted, Ready and Overlaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Use of the addresses of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AddressUsage {
    /// Addresses in the pool.
    #[schemars(with = "schema::CountText")]
    pub total: String,
    /// Addresses of the pool that are claimed.
    #[schemars(with = "schema::CountText")]
    pub used: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(AddressPool);
keeps_unknown!(AddressPool);
keeps! {
    AddressPoolSpec,
    AddressPoolStatus { status, before => {
        carry_option(status.ipv4.as_mut(), before.ipv4.as_ref());
        carry_option(status.ipv6.as_mut(), before.ipv6.as_ref());
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
    AddressUsage,
}

/// No rules across fields.
pub(crate) const RULES: &[(&str, &str)] = &[];

reasons! {
    /// Why a condition or an Event of an AddressPool says what it says.
    AddressPoolReason {
        #[doc = "The pool is valid."]
        Accepted,
        #[doc = "Its addresses are in force, and some are left."]
        Ready,
        #[doc = "An entry of spec.addresses is not a network or range of one family."]
        InvalidAddress,
        #[doc = "The pool holds addresses that EPIC protects, such as those of nodes, pods, Services or proxies; it gives nothing new."]
        ProtectedAddress,
        #[doc = "It shares addresses with an older pool; each address is handed out once all the same."]
        Overlapping,
        #[doc = "It shares no address with an older pool."]
        NotOverlapping,
        #[doc = "spec.disabled is true."]
        Disabled,
        #[doc = "Every address is in use, as those of a full pool may well be: the condition stays True."]
        Exhausted,
        #[doc = "Addresses in use lie outside of spec.addresses since it was edited; they stay in use."]
        AddressesOutOfPool,
        #[doc = "A field is set that has no effect in this version."]
        NotSupportedYet,
    }
}
