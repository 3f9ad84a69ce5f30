//! API types of the group `epic.acnodal.io/v1` and everything generated from them.
//!
//! One file per kind holds its spec, its status, its printer columns, its cross-field rules and the closed list
//! of reasons that its conditions, Events and metrics use. What several kinds share (conditions, durations,
//! ports, reservations) has a file of its own.
//!
//! Invariants:
//! - Field names are frozen from the first release: there is no conversion webhook, so only additions are
//!   possible.
//! - Numbers are `i64` with a range, addresses are strings with a CEL rule, and every list, map and string has a
//!   maximum: API servers warn about formats they do not know and refuse rules whose cost they cannot bound.
//! - What this version does not know is kept ([`Rest`] in every spec, status and row), so that a write of it does not
//!   erase fields of a newer one.
//! - Defaults are documented here and applied by the reader (`AccountSpec::proxy_limit()` and its like), not by
//!   the API server, so what a user applied is what is stored. The one exception is `protocol`, which is a list
//!   key.
//!
//! It does not judge what crosses objects (that is the controllers' work), and it does not talk to an API server.
//! Use [`definitions`] for the CustomResourceDefinitions, not `Kind::crd()`, which lacks the finishing touches.

#![allow(clippy::duplicated_attributes, reason = "kube's derive takes one printcolumn(...) for each column")]

pub mod condition;
pub mod duration;
pub mod manifest;
pub mod port;
pub mod reason;
pub mod reservation;
pub mod rest;
pub mod schema;
pub mod well_known;

mod account;
mod address_claim;
mod address_pool;
mod definition;
mod endpoint;
mod epic;
mod epic_node;
mod load_balancer;
mod proxies;
mod service_group;

pub use account::{Account, AccountReason, AccountSpec, AccountStatus, AccountUsage, Subject, SubjectKind};
pub use address_claim::{
    AddressClaim, AddressClaimReason, AddressClaimSpec, AddressClaimStatus, ClaimOwner, ClaimPhase,
    claim_name,
};
pub use address_pool::{
    AccountRequirement, AccountSelector, AddressPool, AddressPoolReason, AddressPoolSpec, AddressPoolStatus,
    AddressUsage, Advertise, AdvertiseL2, SelectorOperator,
};
pub use condition::{Condition, ConditionStatus, HasConditions};
pub use definition::definitions;
pub use duration::{Duration, DurationError};
pub use endpoint::{Endpoint, EndpointReason, EndpointSpec, EndpointStatus};
pub use epic::{
    AddressRanges, EPIC, EPICSpec, EPICStatus, EpicReason, Gue, GueInterfaces, InterfaceMatch, SourcePorts,
};
pub use epic_node::{
    EPICNode, EPICNodeReason, EPICNodeSpec, EPICNodeStatus, MapUsage, NodeAnswer, NodeBehind, NodeConflict,
    NodeProgram, NodeTunnel, NodeTunnels,
};
pub use load_balancer::{
    AdvertisedBy, Backup, EndpointCounts, FIRST_LISTENER_PORT, GueTunnelEndpoint, GueTunnelLeg, LoadBalancer,
    LoadBalancerReason, LoadBalancerSpec, LoadBalancerStatus, MAX_ALTERNATES, MAX_CLIENT_NODES, PortSlot,
    Proxy, ProxyState, Summary,
};
pub use port::{EndpointPort, Protocol, PublicPort};
pub use proxies::{
    MemoryError, ProxyResources, ProxySettings, ProxyToleration, TaintEffect, TolerationOperator,
};
pub use reason::Reason;
pub use reservation::{Counter, Reservation};
pub use rest::{KeepsUnknown, Rest};
pub use service_group::{
    AccessLog, AccessLogFilter, CircuitBreaker, ClientProxyProtocol, ClientSettings, ConnectionLimit,
    EndpointCircuitBreaker, Forwarding, GrpcHealthCheck, HealthCheck, HttpHealthCheck, LbPolicy,
    MetricsLevel, MetricsTelemetry, PassiveHealthCheck, ProxyProtocol, ProxyProtocolVersion, RateLimit,
    ServiceGroup, ServiceGroupReason, ServiceGroupSpec, ServiceGroupStatus, SessionAffinity, TcpHealthCheck,
    Telemetry, Timeouts,
};
