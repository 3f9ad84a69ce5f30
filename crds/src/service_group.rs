//! ServiceGroup: how the LoadBalancers of a group are served.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod edge;

pub use edge::{
    AccessLog, AccessLogFilter, CircuitBreaker, ClientProxyProtocol, ClientSettings, ConnectionLimit,
    EndpointCircuitBreaker, GrpcHealthCheck, HealthCheck, HttpHealthCheck, MetricsLevel, MetricsTelemetry,
    PassiveHealthCheck, RateLimit, TcpHealthCheck, Telemetry, Timeouts,
};

use crate::condition::{Condition, has_conditions};
use crate::duration::Duration;
use crate::proxies::ProxySettings;
use crate::reason::reasons;
use crate::rest::{Rest, carry_keyed, keeps, keeps_unknown};
use crate::schema;

/// How the LoadBalancers of the group are served. All is optional.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "ServiceGroup",
    plural = "servicegroups",
    singular = "servicegroup",
    shortname = "epicsg",
    namespaced,
    status = "ServiceGroupStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "ServiceGroup says how LoadBalancers that name it are served: from which pools their addresses come, how many proxies they have, how requests are spread. Groups in namespace epic are shared; a group in a tenant namespace is private and wins over a shared one of the same name.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether LoadBalancers can use it."
    ),
    printcolumn(
        name = "Pools",
        type_ = "string",
        json_path = ".spec.address-pools",
        description = "Pools that addresses come from."
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".spec.envoy-replicas",
        description = "Proxies of each LoadBalancer; 2 where empty."
    ),
    printcolumn(
        name = "Load-Balancers",
        type_ = "integer",
        json_path = ".status.load-balancers",
        description = "LoadBalancers in the group."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Policy",
        type_ = "string",
        json_path = ".spec.lb-policy",
        description = "How requests are spread over Endpoints.",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        description = "Why it is or is not accepted.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceGroupSpec {
    /// Names of the AddressPools that addresses come from, tried in this order. Absent: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<schema::ObjectName>>", length(min = 1, max = 16))]
    pub address_pools: Option<Vec<String>>,
    /// Accounts that may use this shared group. Absent: all. Empty: none. Without meaning in a private group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<Vec<schema::AccountName>>",
        length(max = 1024),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub accounts: Option<Vec<String>>,
    /// Image of the group's Envoy proxies, only in namespace epic. Absent: the one of the EPIC object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Image>")]
    pub envoy_image: Option<String>,
    /// Where the group's proxies run, and with what; only in namespace epic. Wins over EPIC.spec.proxies field by
    /// field. An edit rolls out all proxies of the group at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxySettings>,
    /// Proxies of each LoadBalancer. Absent: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub envoy_replicas: Option<i64>,
    /// How requests are spread over Endpoints. Absent: RoundRobin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lb_policy: Option<LbPolicy>,
    /// How proxies find out which Endpoints work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Percent of healthy Endpoints below which all of them are tried, healthy or not; 0: never. Edits cut no connection.
    /// Absent: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: Option<i64>,
    /// How much is asked of Endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How those who connect are treated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientSettings>,
    /// What is logged and counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// How long proxies wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Tell Endpoints the client's address by a PROXY header, which every Endpoint must then read. Edits cut no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Keep a client at the Endpoint that it had. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
    /// Whether traffic goes through proxies (Proxy, the default) or straight to Endpoints (Direct, not supported
    /// yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How requests are spread over Endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum LbPolicy {
    /// One after the other, by weight.
    #[default]
    RoundRobin,
    /// The one with fewer open requests out of two random ones.
    LeastRequest,
    /// Any.
    Random,
    /// By consistent hash of the client's address, as a ring.
    RingHash,
    /// By consistent hash of the client's address, as a Maglev table.
    Maglev,
}

/// The PROXY protocol towards Endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ProxyProtocol {
    /// Version of the header.
    pub version: ProxyProtocolVersion,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ProxyProtocolVersion {
    /// Text.
    V1,
    /// Binary.
    #[default]
    V2,
}

/// Keep a client at the Endpoint that it had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct SessionAffinity {
    /// For how long after its last connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Whether traffic goes through proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Forwarding {
    /// Through Envoy proxies.
    #[default]
    Proxy,
    /// Straight to Endpoints, on layer 4.
    Direct,
}

/// Who uses the group. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ServiceGroupStatus {
    /// LoadBalancers in the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub load_balancers: Option<i64>,
    /// Proxies that they want.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub proxies: Option<i64>,
    /// Accepted and Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(ServiceGroup);
keeps_unknown!(ServiceGroup);
keeps! {
    ServiceGroupSpec,
    ServiceGroupStatus { status, before => carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone()) },
}

impl ServiceGroupSpec {
    /// Name of the pool where none is named.
    pub const DEFAULT_POOL: &'static str = "default";
    /// Drain time where none is given.
    pub const DEFAULT_DRAIN: std::time::Duration = std::time::Duration::from_secs(300);

    /// Names of the pools that addresses come from.
    pub fn address_pools(&self) -> Vec<&str> {
        match &self.address_pools {
            Some(pools) => pools.iter().map(String::as_str).collect(),
            None => vec![Self::DEFAULT_POOL],
        }
    }

    /// Proxies of each LoadBalancer.
    pub fn envoy_replicas(&self) -> i64 {
        self.envoy_replicas.unwrap_or(2)
    }

    /// How requests are spread over Endpoints.
    pub fn lb_policy(&self) -> LbPolicy {
        self.lb_policy.unwrap_or_default()
    }

    /// How long a proxy that is taken away keeps its connections; the default where the text is no duration.
    pub fn drain(&self) -> std::time::Duration {
        let text = self.timeouts.as_ref().and_then(|timeouts| timeouts.drain.as_ref());
        text.and_then(|text| text.parse().ok()).unwrap_or(Self::DEFAULT_DRAIN)
    }

    /// How much proxies count.
    pub fn metrics_level(&self) -> MetricsLevel {
        let metrics = self.telemetry.as_ref().and_then(|telemetry| telemetry.metrics.as_ref());
        metrics.and_then(|metrics| metrics.level).unwrap_or_default()
    }

    /// Fields that are set to something that this version does not do.
    pub fn not_supported_yet(&self) -> Vec<&'static str> {
        [
            ("spec.session-affinity", self.session_affinity.is_some()),
            ("spec.forwarding", self.forwarding.is_some_and(|forwarding| forwarding != Forwarding::Proxy)),
        ]
        .into_iter()
        .filter_map(|(field, set)| set.then_some(field))
        .collect()
    }
}

/// No rules across fields.
pub(crate) const RULES: &[(&str, &str)] = &[];

reasons! {
    /// Why a condition or an Event of a ServiceGroup says what it says.
    ServiceGroupReason {
        #[doc = "The group is valid."]
        Accepted,
        #[doc = "LoadBalancers can use it."]
        Ready,
        #[doc = "A field is set that has no effect in this version."]
        NotSupportedYet,
        #[doc = "An AddressPool that it names does not exist."]
        PoolNotFound,
        #[doc = "An AddressPool that it names does not admit the Account."]
        PoolNotAdmitted,
        #[doc = "None of its AddressPools is ready."]
        PoolNotReady,
        #[doc = "envoy-image is set in a private group; only shared groups may name an image."]
        ImageNotAllowed,
        #[doc = "proxies is set in a private group; only shared groups may say where proxies run and with what."]
        ProxiesNotAllowed,
        #[doc = "A Secret of spec.proxies.image-pull-secrets does not exist in namespace epic, or is of another type."]
        PullSecretNotFound,
        #[doc = "It lies in a namespace that belongs to no Account."]
        AccountNotReady,
    }
}
