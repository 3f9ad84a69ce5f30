//! LoadBalancer: a tenant's public address, its ports, and everything that was granted for it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, has_conditions};
use crate::port::{EndpointPort, Protocol, PublicPort};
use crate::reason::reasons;
use crate::rest::{Rest, carry, carry_keyed, carry_option, keeps, keeps_unknown};
use crate::schema;

/// Most client nodes of one LoadBalancer (the keys of status.gue-tunnel-endpoints).
pub const MAX_CLIENT_NODES: usize = 250;
/// Most further EPIC nodes of one client node (the alternates).
pub const MAX_ALTERNATES: usize = 8;
/// Listener ports of proxies are this plus the slot of the public port.
pub const FIRST_LISTENER_PORT: u16 = 10_000;

/// What the tenant asks for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "LoadBalancer",
    plural = "loadbalancers",
    singular = "loadbalancer",
    shortname = "epiclb",
    namespaced,
    status = "LoadBalancerStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "LoadBalancer is a public address of a tenant with proxies of its own. It lies in the tenant's namespace; Endpoints there name it.",
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.public-address",
        description = "Granted public address."
    ),
    printcolumn(
        name = "Ports",
        type_ = "string",
        json_path = ".spec.public-ports[*].port",
        description = "Public ports."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it takes traffic."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it does or does not take traffic."
    ),
    printcolumn(
        name = "Proxies",
        type_ = "string",
        json_path = ".status.summary.proxies",
        description = "Proxies that are ready, and those that are wanted."
    ),
    printcolumn(
        name = "Endpoints",
        type_ = "string",
        json_path = ".status.summary.endpoints",
        description = "Endpoints that can be reached, and those that name it."
    ),
    printcolumn(
        name = "Group",
        type_ = "string",
        json_path = ".spec.service-group",
        description = "ServiceGroup that says how it is served."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status",
        description = "Whether every proxy and node has what it asks for.",
        priority = 1
    ),
    printcolumn(
        name = "Group-ID",
        type_ = "integer",
        json_path = ".status.group-id",
        description = "Group ID of its Account.",
        priority = 1
    ),
    printcolumn(
        name = "Service-ID",
        type_ = "integer",
        json_path = ".status.service-id",
        description = "Granted service ID.",
        priority = 1
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.advertised-by.node",
        description = "EPIC node that answers for the address.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.public__dash__address) || !has(self.alt__dash__address) || !isIP(self.public__dash__address) || !isIP(self.alt__dash__address) || ip(self.public__dash__address).family() != ip(self.alt__dash__address).family()",
    "message": "alt-address must be of the other family than public-address"
}]))]
pub struct LoadBalancerSpec {
    /// Service ID that is asked for. Absent: the next free one of the Account; the operator then fills it in. Once
    /// granted it must be absent or equal to status.service-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub service_id: Option<i64>,
    /// Public address that is asked for; it must lie in a pool of the group and be free. Absent: any free one of
    /// the pools. Once granted it must be absent or equal to status.public-address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Ip>")]
    pub public_address: Option<String>,
    /// Second public address, of the other family. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Ip>")]
    pub alt_address: Option<String>,
    /// Ports at the public address.
    #[schemars(
        length(min = 1, max = 100),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["port", "protocol"],
            "x-kubernetes-validations" = [{
                "rule": "self.all(p, !has(p.name) || self.exists_one(q, has(q.name) && q.name == p.name))",
                "message": "names of public ports must be unique"
            }]
        )
    )]
    pub public_ports: Vec<PublicPort>,
    /// Name of the ServiceGroup that says how it is served, looked up in this namespace, then in namespace epic.
    #[schemars(with = "schema::ObjectName")]
    pub service_group: String,
    /// Networks that may connect. Not supported yet. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::Cidr>", length(max = 256))]
    pub source_ranges: Vec<String>,
    /// Where traffic goes while nothing of this LoadBalancer serves; it comes back by itself. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// Name for people; it has no other effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Line>")]
    pub display_name: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What takes the traffic of a LoadBalancer that has nothing that serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Backup {
    /// Name of another LoadBalancer in the same namespace. It need not exist.
    #[schemars(with = "schema::ObjectName")]
    pub load_balancer: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What was granted, and what is in force where. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct LoadBalancerStatus {
    /// Group ID of the Account, repeated here so that a client agent finds the whole GUE header in one object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub group_id: Option<i64>,
    /// Granted service ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub service_id: Option<i64>,
    /// Granted public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::GrantedIp>")]
    pub public_address: Option<String>,
    /// Granted second public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::GrantedIp>")]
    pub alt_address: Option<String>,
    /// For each client node (its node-address) the EPIC end of its tunnels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 250))]
    pub gue_tunnel_endpoints: BTreeMap<String, GueTunnelEndpoint>,
    /// The proxies, by pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod-uid"]))]
    pub proxies: Vec<Proxy>,
    /// The slot of each public port; proxies listen at 10000 plus the slot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port", "protocol"])
    )]
    pub ports: Vec<PortSlot>,
    /// Interface index of the host side of the primary proxy's veth. The primary is the proxy with the lowest ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub proxy_ifindex: Option<i64>,
    /// Interface name of the host side of the primary proxy's veth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::InterfaceName>")]
    pub proxy_ifname: Option<String>,
    /// Generation of the tunnel keys that senders use; receivers accept one less and one more as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4294967295_i64))]
    pub key_generation: Option<i64>,
    /// The EPIC node that answers for the address, as it says itself. Absent: none says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised_by: Option<AdvertisedBy>,
    /// How many Endpoints name it, and how far they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointCounts>,
    /// Proxies that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub proxies_ready: Option<i64>,
    /// The counts as `kubectl get` shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Accepted, Programmed, Ready, Advertised and Endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// The EPIC node that answers for an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AdvertisedBy {
    /// Name of the node.
    #[schemars(with = "schema::ObjectName")]
    pub node: String,
    /// Its interface at which it answers.
    #[schemars(with = "schema::InterfaceName")]
    pub interface: String,
    /// Since when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Timestamp>")]
    pub since: Option<Time>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How many Endpoints name a LoadBalancer, and how far they are. Each count is part of the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct EndpointCounts {
    /// Those that name it.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub total: i64,
    /// Those that are accepted.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub accepted: i64,
    /// Those that proxies send traffic to.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub programmed: i64,
    /// Those of which no tunnel is known to be down.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub reachable: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Counts as `kubectl get` shows them; programs read the numbers instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Summary {
    /// Proxies that are ready, and those that are wanted, such as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub proxies: Option<String>,
    /// Endpoints that can be reached, and those that name it, such as `3/5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub endpoints: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// The EPIC end of a client node's tunnels: the node of the primary proxy, and the further EPIC nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct GueTunnelEndpoint {
    /// Address of the EPIC node.
    #[schemars(with = "schema::GrantedIp")]
    pub epic_address: String,
    /// Port of the EPIC node.
    pub epic_port: EndpointPort,
    /// ID of the tunnel between the client node and this EPIC node.
    #[schemars(range(min = 1, max = 4294967295_i64))]
    pub tunnel_id: i64,
    /// Tunnels of the client node to further EPIC nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub alternates: Vec<GueTunnelLeg>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// The EPIC end of one tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct GueTunnelLeg {
    /// Address of the EPIC node.
    #[schemars(with = "schema::GrantedIp")]
    pub epic_address: String,
    /// Port of the EPIC node.
    pub epic_port: EndpointPort,
    /// ID of the tunnel between the client node and this EPIC node.
    #[schemars(range(min = 1, max = 4294967295_i64))]
    pub tunnel_id: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

impl GueTunnelEndpoint {
    /// All tunnels of the client node, the main one first.
    pub fn legs(&self) -> impl Iterator<Item = GueTunnelLeg> + '_ {
        let main = GueTunnelLeg {
            epic_address: self.epic_address.clone(),
            epic_port: self.epic_port.clone(),
            tunnel_id: self.tunnel_id,
            ..Default::default()
        };
        std::iter::once(main).chain(self.alternates.iter().cloned())
    }
}

/// A proxy pod of the LoadBalancer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Proxy {
    /// Name of the pod.
    #[schemars(with = "schema::ObjectName")]
    pub pod: String,
    /// UID of the pod; what makes a pod a proxy is that its UID stands here.
    #[schemars(with = "schema::Uid")]
    pub pod_uid: String,
    /// Name of the EPIC node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ObjectName>")]
    pub node: Option<String>,
    /// Address at which that node receives GUE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::GrantedIp>")]
    pub epic_address: Option<String>,
    /// Granted proxy ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4294967295_i64))]
    pub proxy_id: Option<i64>,
    /// Its address inside the tunnels: base of EPIC's proxy-addresses plus the proxy ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::GrantedIp>")]
    pub proxy_address: Option<String>,
    /// Whether it takes new connections.
    #[serde(default)]
    pub state: ProxyState,
    /// Interface index of the host side of its veth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub ifindex: Option<i64>,
    /// Interface name of the host side of its veth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::InterfaceName>")]
    pub ifname: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Whether a proxy takes new connections.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum ProxyState {
    /// Not yet.
    #[default]
    Pending,
    /// Yes.
    Ready,
    /// No more; it keeps those that it has until the drain time is over.
    Draining,
}

/// The slot of a public port, and what of the port is served: a spec that is refused changes nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct PortSlot {
    /// Number of the public port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// Transport protocol of the public port.
    #[serde(default)]
    pub protocol: Protocol,
    /// Slot; proxies listen at 10000 plus the slot. A freed slot is handed out again only after every proxy has
    /// acknowledged its removal.
    #[schemars(range(min = 0, max = 6383))]
    pub slot: i64,
    /// Name of the public port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::PortName>")]
    pub name: Option<String>,
    /// Target port of the public port. Absent: the port is served no more, and its slot is about to be freed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::IntOrString>")]
    pub target_port: Option<IntOrString>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

impl PortSlot {
    /// The port at which proxies listen for this public port; `None` when the slot is out of range.
    pub fn listener_port(&self) -> Option<u16> {
        u16::try_from(self.slot).ok().filter(|slot| *slot <= 6383).map(|slot| FIRST_LISTENER_PORT + slot)
    }
}

has_conditions!(LoadBalancer);
keeps_unknown!(LoadBalancer);
keeps! {
    LoadBalancerSpec,
    LoadBalancerStatus { status, before => {
        for (client, entry) in &mut status.gue_tunnel_endpoints {
            carry_option(Some(entry), before.gue_tunnel_endpoints.get(client));
        }
        carry_keyed(&mut status.proxies, &before.proxies, |row| row.pod_uid.clone());
        carry_keyed(&mut status.ports, &before.ports, |row| (row.port, row.protocol));
        carry_option(status.advertised_by.as_mut(), before.advertised_by.as_ref());
        carry_option(status.endpoints.as_mut(), before.endpoints.as_ref());
        carry_option(status.summary.as_mut(), before.summary.as_ref());
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
    AdvertisedBy,
    EndpointCounts,
    Summary,
    GueTunnelEndpoint { entry, before => {
        carry(&mut entry.epic_port, &before.epic_port);
        for leg in &mut entry.alternates {
            let known = before.alternates.iter().find(|known| known.tunnel_id == leg.tunnel_id);
            carry_option(Some(leg), known);
        }
    } },
    GueTunnelLeg { leg, before => carry(&mut leg.epic_port, &before.epic_port) },
    Proxy,
    PortSlot,
}

impl LoadBalancerSpec {
    /// Fields that are set to something that this version does not do.
    pub fn not_supported_yet(&self) -> Vec<&'static str> {
        let v6 = |address: &Option<String>| address.as_deref().is_some_and(|address| address.contains(':'));
        [
            ("spec.alt-address", self.alt_address.is_some()),
            ("spec.source-ranges", !self.source_ranges.is_empty()),
            ("spec.backup", self.backup.is_some()),
            ("spec.public-address of IPv6", v6(&self.public_address)),
            (
                "spec.public-ports of another protocol than TCP",
                self.public_ports.iter().any(|port| port.protocol != Protocol::Tcp),
            ),
            (
                "spec.public-ports[].appProtocol",
                self.public_ports.iter().any(|port| port.app_protocol.is_some()),
            ),
        ]
        .into_iter()
        .filter_map(|(field, set)| set.then_some(field))
        .collect()
    }
}

/// Rules that see spec, status and name together.
pub(crate) const RULES: &[(&str, &str)] = &[
    (
        "self.metadata.name.size() <= 63",
        "the name of a LoadBalancer has at most 63 characters, because it becomes the value of a label",
    ),
    (
        "!has(self.status) || !has(self.status.service__dash__id) || !has(self.spec.service__dash__id) || self.spec.service__dash__id == self.status.service__dash__id",
        "spec.service-id must be absent or equal to the granted status.service-id",
    ),
    (
        "!has(self.status) || !has(self.status.public__dash__address) || !has(self.spec.public__dash__address) || self.spec.public__dash__address == self.status.public__dash__address",
        "spec.public-address must be absent or equal to the granted status.public-address",
    ),
    (
        "!has(self.status) || !has(self.status.alt__dash__address) || !has(self.spec.alt__dash__address) || self.spec.alt__dash__address == self.status.alt__dash__address",
        "spec.alt-address must be absent or equal to the granted status.alt-address",
    ),
    (
        "!has(self.spec.backup) || self.spec.backup.load__dash__balancer != self.metadata.name",
        "spec.backup must name another LoadBalancer",
    ),
];

/// Rule of the keys of status.gue-tunnel-endpoints, which a derive cannot reach.
pub(crate) const TUNNEL_KEY_RULE: (&str, &str) =
    ("self.all(node, isIP(node))", "the keys are addresses of client nodes");

reasons! {
    /// Why a condition or an Event of a LoadBalancer says what it says.
    LoadBalancerReason {
        #[doc = "The LoadBalancer is valid and everything that it names exists."]
        Accepted,
        #[doc = "At least one proxy takes traffic."]
        Ready,
        #[doc = "Every Ready proxy and every live EPIC node has what it asks for."]
        Programmed,
        #[doc = "The operator has not got to it yet, or waits for something named in the message."]
        Pending,
        #[doc = "It lies in a namespace that belongs to no Account, or the Account is not ready."]
        AccountNotReady,
        #[doc = "The ServiceGroup exists neither here nor in namespace epic."]
        GroupNotFound,
        #[doc = "The shared ServiceGroup does not admit the Account."]
        GroupNotAdmitted,
        #[doc = "The ServiceGroup is not accepted."]
        GroupNotAccepted,
        #[doc = "No AddressPool of the group exists, is accepted and admits the Account."]
        PoolNotFound,
        #[doc = "The address asked for lies in no pool of the group that can be used."]
        AddressNotInPool,
        #[doc = "The address asked for is in use by another LoadBalancer."]
        AddressTaken,
        #[doc = "The granted address lies in no pool of the group any more; it stays granted."]
        AddressOutOfPool,
        #[doc = "The pools of the group have no free address."]
        PoolExhausted,
        #[doc = "The service ID asked for is granted to another LoadBalancer of the Account."]
        ServiceIdTaken,
        #[doc = "A counter has come round and every value is taken."]
        IdsExhausted,
        #[doc = "The same ID or address is granted to several objects; the older grant keeps it."]
        DuplicateGrant,
        #[doc = "The Account has as many LoadBalancers as it may have."]
        LimitExceeded,
        #[doc = "Its replicas would exceed the Account's proxy limit."]
        ProxyLimitExceeded,
        #[doc = "A field is set that has no effect in this version."]
        NotSupportedYet,
        #[doc = "A public port is out of range, or stands there twice."]
        InvalidPort,
        #[doc = "No proxy takes traffic."]
        NoReadyProxy,
        #[doc = "Proxies have not acknowledged their configuration yet."]
        ProxiesPending,
        #[doc = "A proxy rejected its configuration; the message quotes it."]
        ProxyRejected,
        #[doc = "A proxy takes traffic, but no operator replica has heard it lately: it serves what it knew last; the message names it."]
        ProxyStale,
        #[doc = "Fewer proxies than wanted are ready; the message says what keeps the others away."]
        ProxiesMissing,
        #[doc = "EPIC nodes have not programmed it yet; the message names them."]
        NodesPending,
        #[doc = "EPIC nodes announce the address."]
        Announced,
        #[doc = "The pool does not say how to announce the address; route it to the EPIC nodes yourself."]
        NotAnnounced,
        #[doc = "No EPIC node is there to announce the address."]
        NoNodeToAnnounce,
        #[doc = "No EPIC node says yet that it answers for the address."]
        AnnouncementPending,
        #[doc = "The EPIC node that answered for the address is silent; the message names it."]
        AnnouncerSilent,
        #[doc = "Another machine answers for the address; the message names its MAC."]
        AddressConflict,
        #[doc = "Endpoints can take traffic."]
        EndpointsReady,
        #[doc = "No Endpoint can take traffic."]
        NoneReady,
        #[doc = "Endpoints are programmed, but the tunnels to all of them are down."]
        NoneReachable,
        #[doc = "An object of ours for it could not be written."]
        ApplyFailed,
        #[doc = "An ID or address was handed out."]
        Allocated,
        #[doc = "A proxy was added, became ready, or drains."]
        ProxyChanged,
        #[doc = "Objects that could not be read were skipped."]
        UnreadableObject,
    }
}
