//! EPICNode: what the agent of an EPIC node reports. Created and written by that agent alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, ConditionStatus, HasConditions as _, IN_SERVICE, has_conditions};
use crate::reason::reasons;
use crate::rest::{Rest, carry_keyed, carry_option, keeps, keeps_unknown};
use crate::schema;

/// An EPICNode has no spec: nobody asks anything of it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "EPICNode",
    plural = "epicnodes",
    singular = "epicnode",
    shortname = "epicnode",
    namespaced,
    no_spec,
    status = "EPICNodeStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "EPICNode is the report of one EPIC node's agent, in namespace epic and named like the Node that owns it. Only that agent writes it.",
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.addresses[0]",
        description = "Address at which the node receives GUE."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the node carries traffic."
    ),
    printcolumn(
        name = "In-Service",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"InService\")].status",
        description = "Whether it owns addresses and its proxies take new flows."
    ),
    printcolumn(
        name = "Tunnels-Up",
        type_ = "integer",
        json_path = ".status.tunnels.up",
        description = "Tunnels whose client answers."
    ),
    printcolumn(
        name = "Tunnels",
        type_ = "integer",
        json_path = ".status.tunnels.total",
        description = "Tunnels that end at this node."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Kernel",
        type_ = "string",
        json_path = ".status.kernel",
        description = "Kernel release.",
        priority = 1
    ),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".status.load-balancers-revision",
        description = "resourceVersion of LoadBalancers up to which the maps are complete.",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not ready.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
pub struct EPICNodeSpec {
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What the agent of the node sees and does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct EPICNodeStatus {
    /// Addresses at which the node receives GUE, at most one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::GrantedIp>", length(max = 8))]
    pub addresses: Vec<String>,
    /// Boot ID of the kernel; a new one means that maps and programs were lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// Kernel release, as `uname -r` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel: Option<String>,
    /// BPF programs that are attached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub programs: Vec<NodeProgram>,
    /// resourceVersion of LoadBalancers up to which the maps are complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ResourceVersion>")]
    pub load_balancers_revision: Option<String>,
    /// LoadBalancers of that revision that are *not* in the maps as they should be, and hold up nobody but themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub behind: Vec<NodeBehind>,
    /// Whether more are behind than are listed. Of one that is not listed nothing is known then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind_truncated: bool,
    /// Hardware addresses by which the node answers for public addresses: ARP that comes from one of these is EPIC's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::MacAddress>", length(max = 8))]
    pub hardware_addresses: Vec<String>,
    /// Gateways of the node's default routes. No node answers for such an address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::GrantedIp>", length(max = 64))]
    pub gateways: Vec<String>,
    /// Public addresses that the node answers for: it owns them, and its programs and maps are in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8192))]
    pub answers: Vec<NodeAnswer>,
    /// Whether the node answers for more addresses than are listed. Of one that is not listed nothing is known then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answers_truncated: bool,
    /// Public addresses of this node that somebody else answers for, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub conflicts: Vec<NodeConflict>,
    /// Tunnels that end at this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<NodeTunnels>,
    /// How full the BPF maps are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["map"]))]
    pub map_usage: Vec<MapUsage>,
    /// Ready and Detached, by the node's agent; InService, by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

impl EPICNode {
    /// Revision of LoadBalancers up to which its maps hold this one as they should; `None` if they do not, or nobody knows.
    pub fn reached_for(&self, namespace: &str, uid: &str) -> Option<&str> {
        let status = self.status.as_ref().filter(|status| status.behind(namespace, uid).is_none())?;
        status.load_balancers_revision.as_deref()
    }

    /// What the operator says of why the node is out of service; `None` for one that is in service, or not judged.
    pub fn out_of_service(&self) -> Option<&Condition> {
        self.condition(IN_SERVICE).filter(|known| known.status == ConditionStatus::False)
    }
}

impl EPICNodeStatus {
    /// Most of [`EPICNodeStatus::behind`] that are listed.
    pub const MOST_BEHIND: usize = 256;

    /// Why the maps do not hold a LoadBalancer of `load-balancers-revision` as they should; `None` if they do.
    pub fn behind(&self, namespace: &str, uid: &str) -> Option<&str> {
        let concerns = |row: &&NodeBehind| {
            row.namespace == namespace && row.uid.as_deref().is_none_or(|listed| listed == uid)
        };
        match self.behind.iter().find(concerns) {
            Some(row) => Some(&row.message),
            None => self.behind_truncated.then_some("more LoadBalancers are behind than the node can list"),
        }
    }

    /// Whether the maps may not hold some LoadBalancer of a namespace as they should; of any without one.
    pub fn is_behind_in(&self, namespace: Option<&str>) -> bool {
        let concerns = |row: &NodeBehind| namespace.is_none_or(|namespace| row.namespace == namespace);
        self.behind_truncated || self.behind.iter().any(concerns)
    }
}

/// A LoadBalancer that is not in the maps as it should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct NodeBehind {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name; absent: so many of the namespace are behind that they are not listed one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Its uid; absent with the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
    /// What is wrong.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A BPF program that is attached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct NodeProgram {
    /// Where it is attached: program and interface, such as `epic_ingress eth0`.
    #[schemars(length(max = 128))]
    pub hook: String,
    /// How it is attached, such as `tcx`.
    #[schemars(length(max = 32))]
    pub mode: String,
    /// Tag of the program, a hash of its instructions.
    #[schemars(length(max = 64))]
    pub tag: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Tunnels that end at a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct NodeTunnels {
    /// How many have a client that answers.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub up: i64,
    /// How many have none.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub down: i64,
    /// How many there are.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub total: i64,
    /// Tunnels that are down, written when that changes. One that is not listed is up, unless `truncated` is set. (Agents
    /// of earlier releases list those that are up as well.)
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8192))]
    pub states: Vec<NodeTunnel>,
    /// Whether more tunnels are down than are listed, at most 1,000. Of one that is not listed nothing is known then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A public address that a node answers for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct NodeAnswer {
    /// The address.
    #[schemars(with = "schema::GrantedIp")]
    pub address: String,
    /// Name of the network interface on which it answers.
    #[schemars(with = "schema::InterfaceName")]
    pub interface: String,
    /// Since when.
    #[schemars(with = "schema::Timestamp")]
    pub since: Time,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A public address that somebody answers for who is no EPIC node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct NodeConflict {
    /// The address.
    #[schemars(with = "schema::GrantedIp")]
    pub address: String,
    /// Hardware address of who answers. Absent: a default gateway of an EPIC node, which was not heard yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::MacAddress>")]
    pub mac: Option<String>,
    /// Name of the network interface on which it was heard.
    #[schemars(with = "schema::InterfaceName")]
    pub interface: String,
    /// Since when.
    #[schemars(with = "schema::Timestamp")]
    pub since: Time,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// State of one tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct NodeTunnel {
    /// ID of the tunnel.
    #[schemars(range(min = 1, max = 4294967295_i64))]
    pub tunnel_id: i64,
    /// Whether the client has said hello lately.
    pub up: bool,
    /// Whether the client is behind a NAT: its address or port is not the one it sends from.
    pub nat: bool,
    /// Since when `up` is as it is.
    #[schemars(with = "schema::Timestamp")]
    pub since: Time,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How full a BPF map is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct MapUsage {
    /// Name of the map.
    #[schemars(length(min = 1, max = 64))]
    pub map: String,
    /// Entries in it.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub entries: i64,
    /// Entries that fit.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub capacity: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(EPICNode);
keeps_unknown!(EPICNode);
keeps! {
    EPICNodeSpec,
    EPICNodeStatus { status, before => {
        carry_keyed(&mut status.programs, &before.programs, |row| row.hook.clone());
        carry_keyed(&mut status.answers, &before.answers, |row| row.address.clone());
        carry_keyed(&mut status.conflicts, &before.conflicts, |row| row.address.clone());
        carry_keyed(&mut status.behind, &before.behind, |row| (row.namespace.clone(), row.uid.clone()));
        carry_option(status.tunnels.as_mut(), before.tunnels.as_ref());
        carry_keyed(&mut status.map_usage, &before.map_usage, |row| row.map.clone());
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
    NodeAnswer,
    NodeBehind,
    NodeConflict,
    NodeProgram,
    NodeTunnels { tunnels, before => carry_keyed(&mut tunnels.states, &before.states, |row| row.tunnel_id) },
    NodeTunnel,
    MapUsage,
}

/// No rules across fields: the agent is the only writer.
pub(crate) const RULES: &[(&str, &str)] = &[];

reasons! {
    /// Why a condition or an Event of an EPICNode says what it says.
    EPICNodeReason {
        #[doc = "Programs are attached and maps are complete."]
        Ready,
        #[doc = "The agent has not finished its first full pass."]
        Starting,
        #[doc = "The kernel is older than 6.6 or lacks a feature that the programs need."]
        KernelNotSupported,
        #[doc = "A network interface that EPIC names does not exist on this node."]
        InterfaceNotFound,
        #[doc = "Several network interfaces of this node match what EPIC names."]
        InterfaceAmbiguous,
        #[doc = "A network interface of EPIC's is administratively down or has no carrier; other nodes take its addresses."]
        InterfaceDown,
        #[doc = "The node has no IPv4 address for tunnels."]
        NoTunnelAddress,
        #[doc = "A network interface that EPIC is to use carries no Ethernet frames."]
        InterfaceNotSupported,
        #[doc = "A program could not be loaded or attached."]
        ProgramsNotAttached,
        #[doc = "Pinned maps of another layout version could not be taken over."]
        LayoutNotSupported,
        #[doc = "A map is full; new entries cannot be programmed."]
        MapFull,
        #[doc = "Writing the maps fails; it is tried again."]
        MapsNotProgrammed,
        #[doc = "The Secret with the master key cannot be read."]
        KeysUnavailable,
        #[doc = "Objects that could not be read were skipped."]
        UnreadableObject,
        #[doc = "Somebody who is no EPIC node answers for a public address of this node."]
        AddressConflict,
        #[doc = "Nobody else answers for the public address any more."]
        AddressConflictEnded,
        #[doc = "Programs and pins are in place."]
        Attached,
        #[doc = "Programs, links and pins were removed because EPIC or its agents are being uninstalled."]
        Detached,
        #[doc = "Programs, links or pins could not be removed."]
        DetachFailed,
        #[doc = "Nothing speaks against the node: it owns addresses, and its proxies take new flows."]
        InService,
        #[doc = "Its agent is silent and none of its proxies is heard, so other nodes took over its addresses and new flows."]
        NodeSilent,
        #[doc = "It hears none of the clients that other nodes hear, so those took over its addresses and new flows."]
        ClientsUnheard,
        #[doc = "Something speaks against the node, but no other node serves, so it stays in service."]
        NoOtherNode,
    }
}
