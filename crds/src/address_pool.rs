//! AddressPool: public addresses that EPIC may hand out.

use std::collections::BTreeMap;

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
        name = "Free-v4",
        type_ = "integer",
        json_path = ".status.ipv4.free",
        description = "IPv4 addresses that are left."
    ),
    printcolumn(
        name = "Overlaps",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Overlaps\")].status",
        description = "Whether it shares addresses with an older pool."
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
        name = "Free-v6",
        type_ = "integer",
        json_path = ".status.ipv6.free",
        description = "IPv6 addresses that are left.",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not ready.",
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
    /// Networks (192.0.2.0/24, whose network and broadcast addresses are left out), ranges
    /// (192.0.2.10-192.0.2.20, of which every address counts) and single addresses (192.0.2.7), IPv4 and IPv6.
    /// Taking an address out does not revoke it from a LoadBalancer that has it.
    #[schemars(with = "Vec<schema::CidrOrRange>", length(min = 1, max = 128))]
    pub addresses: Vec<String>,
    /// Accounts that may take addresses from the pool, besides those that `account-selector` selects. Both absent:
    /// all. Empty, and no selector: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<Vec<schema::AccountName>>",
        length(max = 1024),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub accounts: Option<Vec<String>>,
    /// Accounts, by their labels, that may take addresses from the pool, besides those that `accounts` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_selector: Option<AccountSelector>,
    /// Whether an address is taken from the pool for a LoadBalancer that asks for none in particular. False: only one
    /// whose public-address names an address of the pool gets it. Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_assign: Option<bool>,
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

/// Selects Accounts by their labels, as `metav1.LabelSelector` does: all of it must hold, and an empty one selects
/// every Account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct AccountSelector {
    /// Labels that the Account must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, schema::LabelValue>", extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<AccountRequirement>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// One requirement on the labels of an Account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = [{
    "rule": "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0",
    "message": "values are needed by In and NotIn, and have no meaning for Exists and DoesNotExist"
}]))]
pub struct AccountRequirement {
    /// Key of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label must relate to the values.
    pub operator: SelectorOperator,
    /// The values, for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::LabelValue>", length(max = 64))]
    pub values: Vec<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How a label must relate to the values of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum SelectorOperator {
    /// It has one of them.
    In,
    /// It has none of them, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl AccountSelector {
    /// Whether an Account with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal
            && self.match_expressions.iter().all(|required| {
                let value = labels.get(&required.key);
                let is_one = value.is_some_and(|value| required.values.contains(value));
                match required.operator {
                    SelectorOperator::In => is_one,
                    SelectorOperator::NotIn => !is_one,
                    SelectorOperator::Exists => value.is_some(),
                    SelectorOperator::DoesNotExist => value.is_none(),
                }
            })
    }
}

impl AddressPoolSpec {
    /// Whether an Account of this name and these labels may take addresses from the pool.
    pub fn admits(&self, account: &str, labels: &BTreeMap<String, String>) -> bool {
        let named = self.accounts.as_ref().map(|accounts| accounts.iter().any(|name| name == account));
        let selected = self.account_selector.as_ref().map(|selector| selector.selects(labels));
        match (named, selected) {
            (None, None) => true,
            (named, selected) => named == Some(true) || selected == Some(true),
        }
    }
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
    /// Accepted, Ready, Available and Overlaps.
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
    /// Addresses in the pool as a number; 9007199254740991 stands for that many or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub total_count: Option<i64>,
    /// Addresses of the pool that are claimed, as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub used_count: Option<i64>,
    /// Addresses of the pool that nobody has claimed; 9007199254740991 stands for that many or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub free: Option<i64>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(AddressPool);
keeps_unknown!(AddressPool);
keeps! {
    AddressPoolSpec { spec, before => {
        carry_option(spec.account_selector.as_mut(), before.account_selector.as_ref());
    } },
    AddressPoolStatus { status, before => {
        carry_option(status.ipv4.as_mut(), before.ipv4.as_ref());
        carry_option(status.ipv6.as_mut(), before.ipv6.as_ref());
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
    AddressUsage,
    AccountSelector,
    AccountRequirement,
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
        #[doc = "The pool holds the address of a router that a node uses as its default gateway; it gives nothing new."]
        GatewayAddress,
        #[doc = "Some of its addresses can be handed out."]
        AddressesFree,
        #[doc = "It shares addresses with an older pool; each address is handed out once all the same."]
        Overlapping,
        #[doc = "It shares no address with an older pool."]
        NotOverlapping,
        #[doc = "spec.disabled is true."]
        Disabled,
        #[doc = "Every address is in use, as those of a full pool may well be: Ready stays True, Available does not."]
        Exhausted,
        #[doc = "Addresses in use lie outside of spec.addresses since it was edited; they stay in use."]
        AddressesOutOfPool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_selector_selects_as_those_of_kubernetes_do() {
        let red = labels(&[("tier", "gold"), ("region", "north")]);
        let expression = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]});
        for (selector, of_red, of_none) in [
            (json!({}), true, true),
            (json!({"matchLabels": {"tier": "gold"}}), true, false),
            (json!({"matchLabels": {"tier": "gold", "region": "south"}}), false, false),
            (expression("In", &["silver", "gold"]), true, false),
            (expression("NotIn", &["gold"]), false, true),
            (expression("Exists", &[]), true, false),
            (expression("DoesNotExist", &[]), false, true),
        ] {
            let parsed: AccountSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!((parsed.selects(&red), parsed.selects(&labels(&[]))), (of_red, of_none), "{selector}");
        }
    }

    #[test]
    fn a_pool_admits_who_is_named_or_selected_and_everybody_without_either() {
        let admits = |spec: serde_json::Value, account: &str, of: &[(&str, &str)]| {
            let mut spec = spec;
            spec["addresses"] = json!(["192.0.2.7"]);
            let parsed: AddressPoolSpec = serde_json::from_value(spec).unwrap();
            parsed.admits(account, &labels(of))
        };
        let gold = json!({"matchLabels": {"tier": "gold"}});
        assert!(admits(json!({}), "red", &[]));
        assert!(!admits(json!({"accounts": []}), "red", &[("tier", "gold")]));
        assert!(!admits(json!({"account-selector": gold}), "red", &[]));
        assert!(admits(json!({"account-selector": gold}), "red", &[("tier", "gold")]));
        let both = json!({"accounts": ["red"], "account-selector": gold});
        assert!(admits(both.clone(), "red", &[]), "named");
        assert!(admits(both.clone(), "blue", &[("tier", "gold")]), "selected");
        assert!(!admits(both, "blue", &[]));
    }
}
