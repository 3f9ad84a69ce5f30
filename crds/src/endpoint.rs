//! Endpoint: one place at a client site that serves a LoadBalancer.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, has_conditions};
use crate::port::{EndpointPort, Protocol};
use crate::reason::reasons;
use crate::rest::{Rest, carry_keyed, carry_option, keeps, keeps_unknown};
use crate::schema;

/// Where it is and what it serves.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "Endpoint",
    plural = "endpoints",
    singular = "endpoint",
    shortname = "epicep",
    namespaced,
    status = "EndpointStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "Endpoint is an address and port at a client site that serves a LoadBalancer, reached by a GUE tunnel to its client node. It lies in the tenant's namespace.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether traffic reaches it."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why traffic does or does not reach it."
    ),
    printcolumn(
        name = "Load-Balancer",
        type_ = "string",
        json_path = ".spec.load-balancer",
        description = "LoadBalancer that it serves."
    ),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".spec.address",
        description = "Its address at the client site."
    ),
    printcolumn(name = "Port", type_ = "integer", json_path = ".spec.port.port", description = "Its port."),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".spec.node-address",
        description = "Address of its client node.",
        priority = 1
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status",
        description = "Whether proxies send traffic to it.",
        priority = 1
    ),
    printcolumn(
        name = "Tunnel",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"TunnelUp\")].status",
        description = "Whether its tunnels are up.",
        priority = 1
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        description = "Why it is or is not accepted.",
        priority = 1
    ),
    printcolumn(
        name = "Service-ID",
        type_ = "integer",
        json_path = ".status.service-id",
        description = "Service ID of its LoadBalancer.",
        priority = 1
    ),
    printcolumn(
        name = "Tunnel-ID",
        type_ = "integer",
        json_path = ".status.tunnel-id",
        description = "ID of its tunnel to the primary proxy's node.",
        priority = 1
    ),
    printcolumn(
        name = "Alias",
        type_ = "string",
        json_path = ".status.alias-address",
        description = "Address by which Envoy knows it.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointSpec {
    /// Name of the LoadBalancer, in this namespace, that it serves.
    #[schemars(with = "schema::ObjectName")]
    pub load_balancer: String,
    /// Address at the client site. It need not be unique outside of its client node.
    #[schemars(with = "schema::Ip")]
    pub address: String,
    /// Port at that address. It serves the public ports that name it or its number.
    pub port: EndpointPort,
    /// Identity of the client node that it runs on: the address by which that node's agent calls itself. Absent:
    /// no tunnel; EPIC nodes reach the address directly, and it must lie in EPIC's untunnelled-networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Ip>")]
    pub node_address: Option<String>,
    /// Share of the traffic compared with other Endpoints, 1 to 128. 0 drains: no new connections. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub weight: Option<i64>,
    /// Name of the cluster that it runs in, for tenants with several. A node address belongs to one cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ForeignName>")]
    pub cluster: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What was granted. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct EndpointStatus {
    /// Group ID of the Account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub group_id: Option<i64>,
    /// Service ID of the LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub service_id: Option<i64>,
    /// Granted endpoint ID, unique within the Account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub endpoint_id: Option<i64>,
    /// Address by which Envoy knows it: base of EPIC's alias-addresses plus the endpoint ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::GrantedIp>")]
    pub alias_address: Option<String>,
    /// Interface index of the host side of the primary proxy's veth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub proxy_ifindex: Option<i64>,
    /// Address that was accepted last, of an Endpoint without a client node. It is served while an edit is not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub accepted_address: Option<String>,
    /// Port that was accepted with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_port: Option<EndpointPort>,
    /// ID of a tunnel to its client node; it stays until that tunnel is freed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4294967295_i64))]
    pub tunnel_id: Option<i64>,
    /// Proxies that find it unhealthy, by their connections to it or by health checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::ObjectName>", length(max = 128), extend("x-kubernetes-list-type" = "set"))]
    pub unhealthy_in: Vec<String>,
    /// Ready, Accepted, Programmed, TunnelUp and, once a proxy has found it unhealthy, Healthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(Endpoint);

impl Endpoint {
    /// Where proxies reach an Endpoint without a client node: as it was accepted last. An edit counts once it is judged,
    /// whoever looks; until then, as long as nobody leads even, what it replaces goes on. `None` when it is refused, or
    /// has a client node.
    pub fn accepted_target(&self) -> Option<(&str, &EndpointPort)> {
        let accepted = crate::condition::find(&self.status.as_ref()?.conditions, crate::condition::ACCEPTED)?;
        if self.spec.node_address.is_some() || accepted.status != crate::ConditionStatus::True {
            return None;
        }
        if accepted.observed_generation == self.metadata.generation {
            return Some((&self.spec.address, &self.spec.port));
        }
        let status = self.status.as_ref()?;
        Some((status.accepted_address.as_deref()?, status.accepted_port.as_ref()?))
    }
}
keeps_unknown!(Endpoint);
keeps! {
    EndpointSpec,
    EndpointStatus { status, before => {
        carry_option(status.accepted_port.as_mut(), before.accepted_port.as_ref());
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
}

impl EndpointSpec {
    /// Share of the traffic, 1 where nothing is said.
    pub fn weight(&self) -> i64 {
        self.weight.unwrap_or(1)
    }

    /// Fields that are set to something that this version does not do.
    pub fn not_supported_yet(&self) -> Vec<&'static str> {
        [
            ("spec.address of IPv6", self.address.contains(':')),
            ("spec.port.protocol other than TCP", self.port.protocol != Protocol::Tcp),
            ("spec.port.appProtocol", self.port.app_protocol.is_some()),
        ]
        .into_iter()
        .filter_map(|(field, set)| set.then_some(field))
        .collect()
    }
}

/// No rules across fields: an Endpoint asks for no grant.
pub(crate) const RULES: &[(&str, &str)] = &[];

reasons! {
    /// Why a condition or an Event of an Endpoint says what it says.
    EndpointReason {
        #[doc = "The Endpoint is valid and serves a port of its LoadBalancer."]
        Accepted,
        #[doc = "A ready proxy has acknowledged an assignment that holds it."]
        Programmed,
        #[doc = "It lies in a namespace that belongs to no Account, or the Account is not ready."]
        AccountNotReady,
        #[doc = "The LoadBalancer does not exist in this namespace."]
        LoadBalancerNotFound,
        #[doc = "The LoadBalancer is not accepted."]
        LoadBalancerNotAccepted,
        #[doc = "No public port of the LoadBalancer matches its port name, number and protocol."]
        NoMatchingPort,
        #[doc = "The address may not be an Endpoint's: loopback, link-local, multicast, a public, proxy, alias or protected address."]
        AddressRefused,
        #[doc = "It has no node-address, and its address may not be reached without a tunnel."]
        UntunnelledAddressRefused,
        #[doc = "An older Endpoint of the LoadBalancer has the same node address, address, port and protocol."]
        DuplicateEndpoint,
        #[doc = "An older Endpoint says that the node address belongs to another cluster."]
        ClusterConflict,
        #[doc = "The Account has as many Endpoints as it may have."]
        LimitExceeded,
        #[doc = "The LoadBalancer already has as many client nodes as it can have."]
        TooManyClientNodes,
        #[doc = "A counter has come round and every value is taken."]
        IdsExhausted,
        #[doc = "The same ID is granted to several objects; the older grant keeps it."]
        DuplicateGrant,
        #[doc = "A field is set that has no effect in this version."]
        NotSupportedYet,
        #[doc = "Traffic reaches it: it is accepted and programmed, and none of its tunnels is known to be down."]
        Ready,
        #[doc = "Every proxy that found it unhealthy finds it healthy again."]
        Healthy,
        #[doc = "Proxies find it unhealthy: connections to it or health checks fail; the message names them."]
        Unhealthy,
        #[doc = "Its weight is 0: it keeps the connections it has and gets no new ones."]
        Draining,
        #[doc = "It has no alias yet."]
        AliasPending,
        #[doc = "No ready proxy has acknowledged an assignment that holds it."]
        ProxiesPending,
        #[doc = "Its tunnel to every EPIC node with a Ready proxy is up."]
        TunnelUp,
        #[doc = "A tunnel is down: its client node does not say hello to an EPIC node; the message names it."]
        TunnelDown,
        #[doc = "Nobody says whether its tunnel is up: the EPIC node has not reported it, or is silent; the message names it."]
        TunnelNotReported,
        #[doc = "It has no tunnel yet."]
        TunnelPending,
        #[doc = "It needs no tunnel, because it has no node-address."]
        NotTunnelled,
        #[doc = "Objects that could not be read were skipped."]
        UnreadableObject,
    }
}
