//! EPIC: the singleton `epic/epic` with the settings of the installation and the counters of global IDs.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, has_conditions};
use crate::proxies::ProxySettings;
use crate::reason::reasons;
use crate::reservation::Reservation;
use crate::rest::{Rest, carry_keyed, carry_option, keeps, keeps_unknown};
use crate::schema;

/// Settings of the installation. All are optional: `spec: {}` works.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "EPIC",
    plural = "epics",
    singular = "epic",
    namespaced,
    status = "EPICStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "EPIC is the singleton epic/epic: the settings of the installation, and the counters from which group, tunnel and proxy IDs are handed out.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether EPIC can serve Accounts."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not ready."
    ),
    printcolumn(
        name = "Accounts",
        type_ = "integer",
        json_path = ".status.accounts",
        description = "Accounts that have their IDs from it."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Group-ID",
        type_ = "integer",
        json_path = ".status.current-group-id",
        description = "Group ID last handed out.",
        priority = 1
    ),
    printcolumn(
        name = "Tunnel-ID",
        type_ = "integer",
        json_path = ".status.current-tunnel-id",
        description = "Tunnel ID last handed out.",
        priority = 1
    ),
    printcolumn(
        name = "Proxy-ID",
        type_ = "integer",
        json_path = ".status.current-proxy-id",
        description = "Proxy ID last handed out.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
pub struct EPICSpec {
    /// Image of the Envoy proxies where no ServiceGroup names another. Absent: the one that the operator was
    /// installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Image>")]
    pub envoy_image: Option<String>,
    /// How GUE tunnels reach the EPIC nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gue: Option<Gue>,
    /// Ranges out of which each proxy pod gets an address of its own inside the tunnels. Absent: 100.64.0.0/11
    /// and a generated IPv6 range. Immutable once a proxy ID has been handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_addresses: Option<AddressRanges>,
    /// Ranges out of which each Endpoint gets the alias that Envoy dials. Absent: 100.127.0.0/16 and a generated
    /// IPv6 range. Immutable once a group ID has been handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_addresses: Option<AddressRanges>,
    /// Networks in which Endpoints without a node-address, so without a tunnel, may lie. Absent: nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::Cidr>", length(max = 256))]
    pub untunnelled_networks: Vec<String>,
    /// Addresses and networks that no Endpoint may have and no client may call from, added to what EPIC protects
    /// anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::CidrOrIp>", length(max = 256))]
    pub protected_addresses: Vec<String>,
    /// Networks from which readiness and statistics of proxies are read, beside the addresses and pod networks that Nodes
    /// name. For pods whose CNI takes their addresses from somewhere else. Absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::Cidr>", length(max = 64))]
    pub scraper_networks: Vec<String>,
    /// Where proxies run, and with what. An edit rolls out all proxies that it concerns at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxySettings>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How GUE tunnels reach the EPIC nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Gue {
    /// Network interfaces of EPIC nodes. Absent: the one that has the node's InternalIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<GueInterfaces>,
    /// UDP port at which EPIC nodes and client nodes receive GUE. Absent: 6080.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
    /// UDP source ports of packets in tunnels. Absent: `Fixed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<SourcePorts>,
    /// Bytes that an IP packet may have on its way from an EPIC node to other nodes and to clients, where something on the
    /// way is narrower than the node's interface. Absent, or more than that: the MTU of the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 65535))]
    pub underlay_mtu: Option<i64>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// UDP source ports of packets in tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum SourcePorts {
    /// The GUE port, as of the messages by which clients call home. Firewalls between clients and EPIC nodes that let pass
    /// what belongs to a connection let packets pass.
    #[default]
    Fixed,
    /// Ports that follow from the connection inside, so that routers and network cards spread packets over paths and
    /// queues. For networks without such firewalls; behind a NAT the port stays fixed.
    Flow,
}

/// Network interfaces of EPIC nodes: by a name that is the same on all of them, or by what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct GueInterfaces {
    /// Where public addresses are reached: a name, or an alternative name (`ip link property add dev … altname …`).
    /// Absent: what `public-match` says, else the interface that has the node's InternalIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::InterfaceName>")]
    pub public: Option<String>,
    /// Where tunnels leave and arrive: a name, or an alternative name. Absent: what `underlay-match` says, else the
    /// interface that has the node's InternalIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::InterfaceName>")]
    pub underlay: Option<String>,
    /// Where public addresses are reached on nodes whose interfaces have different names. `public` wins over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_match: Option<InterfaceMatch>,
    /// Where tunnels leave and arrive on nodes whose interfaces have different names. `underlay` wins over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay_match: Option<InterfaceMatch>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What a network interface must have; of two lists both must fit. Members of a bond or a bridge never match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct InterfaceMatch {
    /// Patterns of names and alternative names, such as `enp*s0`: `*` stands for any characters, `?` for one. The first
    /// pattern that fits any interface decides. Absent: any name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::InterfacePattern>", length(max = 16))]
    pub names: Vec<String>,
    /// Networks in one of which the interface has an address. Absent: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::Cidr>", length(max = 16))]
    pub subnets: Vec<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// One range of each address family.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AddressRanges {
    /// IPv4 network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::CidrV4>")]
    pub ipv4: Option<String>,
    /// IPv6 network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::CidrV6>")]
    pub ipv6: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What has been handed out, and the ranges in force. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct EPICStatus {
    /// Group ID last handed out to an Account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub current_group_id: Option<i64>,
    /// Tunnel ID last handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub current_tunnel_id: Option<i64>,
    /// Proxy ID last handed out to a proxy pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub current_proxy_id: Option<i64>,
    /// Values set aside for one write of one object each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["counter", "value"])
    )]
    pub reservations: Vec<Reservation>,
    /// Accounts that have a group ID, those that are being deleted included. EPIC is deleted after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub accounts: Option<i64>,
    /// Ranges in force for proxies. The IPv6 range is generated once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_addresses: Option<AddressRanges>,
    /// Ranges in force for aliases. The IPv6 range is generated once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_addresses: Option<AddressRanges>,
    /// Accepted and Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(EPIC);
keeps_unknown!(EPIC);
keeps! {
    EPICSpec,
    EPICStatus { status, before => {
        carry_keyed(&mut status.reservations, &before.reservations, Reservation::key);
        carry_option(status.proxy_addresses.as_mut(), before.proxy_addresses.as_ref());
        carry_option(status.alias_addresses.as_mut(), before.alias_addresses.as_ref());
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
    AddressRanges,
}

impl EPICSpec {
    /// UDP port of GUE where none is given.
    pub const DEFAULT_GUE_PORT: u16 = 6080;
    /// IPv4 range of proxies where none is given.
    pub const DEFAULT_PROXY_IPV4: &'static str = "100.64.0.0/11";
    /// IPv4 range of aliases where none is given.
    pub const DEFAULT_ALIAS_IPV4: &'static str = "100.127.0.0/16";

    /// UDP port at which GUE is received.
    pub fn gue_port(&self) -> u16 {
        let port = self.gue.as_ref().and_then(|gue| gue.port);
        port.and_then(|port| u16::try_from(port).ok()).unwrap_or(Self::DEFAULT_GUE_PORT)
    }

    /// UDP source ports of packets in tunnels.
    pub fn source_ports(&self) -> SourcePorts {
        self.gue.as_ref().and_then(|gue| gue.source_ports).unwrap_or_default()
    }

    /// MTU of the way to other nodes and clients: what the interface has, or less if the object says so.
    pub fn underlay_mtu(&self, interface: u32) -> u32 {
        let said = self.gue.as_ref().and_then(|gue| gue.underlay_mtu);
        said.and_then(|mtu| u32::try_from(mtu).ok()).map_or(interface, |mtu| mtu.min(interface))
    }

    /// Named interface towards the internet, if one is given.
    pub fn public_interface(&self) -> Option<&str> {
        self.gue.as_ref()?.interfaces.as_ref()?.public.as_deref()
    }

    /// Named interface towards the clients, if one is given.
    pub fn underlay_interface(&self) -> Option<&str> {
        self.gue.as_ref()?.interfaces.as_ref()?.underlay.as_deref()
    }

    /// What the interface towards the internet is known by where it is not named.
    pub fn public_match(&self) -> Option<&InterfaceMatch> {
        self.gue.as_ref()?.interfaces.as_ref()?.public_match.as_ref()
    }

    /// What the interface towards the clients is known by where it is not named.
    pub fn underlay_match(&self) -> Option<&InterfaceMatch> {
        self.gue.as_ref()?.interfaces.as_ref()?.underlay_match.as_ref()
    }

    /// IPv4 range of proxies.
    pub fn proxy_ipv4(&self) -> &str {
        self.proxy_addresses
            .as_ref()
            .and_then(|ranges| ranges.ipv4.as_deref())
            .unwrap_or(Self::DEFAULT_PROXY_IPV4)
    }

    /// IPv4 range of aliases.
    pub fn alias_ipv4(&self) -> &str {
        self.alias_addresses
            .as_ref()
            .and_then(|ranges| ranges.ipv4.as_deref())
            .unwrap_or(Self::DEFAULT_ALIAS_IPV4)
    }
}

/// Rules that see spec, status and name together.
pub(crate) const RULES: &[(&str, &str)] = &[
    ("self.metadata.name == 'epic'", "there is one EPIC object; call it epic, in namespace epic"),
    (
        "!has(self.status) || !has(self.status.current__dash__proxy__dash__id) || self.status.current__dash__proxy__dash__id == 0 || !has(self.status.proxy__dash__addresses) || !has(self.status.proxy__dash__addresses.ipv4) || (has(self.spec.proxy__dash__addresses) && has(self.spec.proxy__dash__addresses.ipv4) ? self.spec.proxy__dash__addresses.ipv4 : '100.64.0.0/11') == self.status.proxy__dash__addresses.ipv4",
        "proxy-addresses.ipv4 is immutable once a proxy ID has been handed out; put back what status.proxy-addresses says",
    ),
    (
        "!has(self.status) || !has(self.status.current__dash__proxy__dash__id) || self.status.current__dash__proxy__dash__id == 0 || !has(self.status.proxy__dash__addresses) || !has(self.status.proxy__dash__addresses.ipv6) || !has(self.spec.proxy__dash__addresses) || !has(self.spec.proxy__dash__addresses.ipv6) || self.spec.proxy__dash__addresses.ipv6 == self.status.proxy__dash__addresses.ipv6",
        "proxy-addresses.ipv6 is immutable once a proxy ID has been handed out; put back what status.proxy-addresses says",
    ),
    (
        "!has(self.status) || !has(self.status.current__dash__group__dash__id) || self.status.current__dash__group__dash__id == 0 || !has(self.status.alias__dash__addresses) || !has(self.status.alias__dash__addresses.ipv4) || (has(self.spec.alias__dash__addresses) && has(self.spec.alias__dash__addresses.ipv4) ? self.spec.alias__dash__addresses.ipv4 : '100.127.0.0/16') == self.status.alias__dash__addresses.ipv4",
        "alias-addresses.ipv4 is immutable once a group ID has been handed out; put back what status.alias-addresses says",
    ),
    (
        "!has(self.status) || !has(self.status.current__dash__group__dash__id) || self.status.current__dash__group__dash__id == 0 || !has(self.status.alias__dash__addresses) || !has(self.status.alias__dash__addresses.ipv6) || !has(self.spec.alias__dash__addresses) || !has(self.spec.alias__dash__addresses.ipv6) || self.spec.alias__dash__addresses.ipv6 == self.status.alias__dash__addresses.ipv6",
        "alias-addresses.ipv6 is immutable once a group ID has been handed out; put back what status.alias-addresses says",
    ),
];

reasons! {
    /// Why a condition or an Event of EPIC says what it says.
    EpicReason {
        #[doc = "The settings are valid."]
        Accepted,
        #[doc = "EPIC serves Accounts."]
        Ready,
        #[doc = "The API server refuses a kind to the operator that it could list before; what was read before is gone on with."]
        KindRefused,
        #[doc = "An address range cannot be used: too small, not a network, or of the wrong family."]
        InvalidRange,
        #[doc = "Two address ranges, or a range and something that EPIC protects, share addresses."]
        RangesOverlap,
        #[doc = "The same ID is granted to several objects; the older grant keeps it."]
        DuplicateGrant,
        #[doc = "A counter has come round and every value is taken."]
        IdsExhausted,
        #[doc = "A Secret of spec.proxies.image-pull-secrets does not exist in namespace epic, or is of another type."]
        PullSecretNotFound,
        #[doc = "Objects that could not be read were skipped."]
        UnreadableObject,
        #[doc = "EPIC is being taken off the cluster."]
        Uninstalling,
    }
}
