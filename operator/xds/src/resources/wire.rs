//! The few Envoy messages that hold maps, with maps that keep their order.
//!
//! The generated types hold hash maps, whose order differs from one encoding to the next, and with it the bytes and
//! the version. These have the same fields and numbers, as far as we set them; tests read them back as the generated
//! types.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
use envoy_types::pb::google::protobuf::UInt32Value;

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ClusterLoadAssignment {
    #[prost(string, tag = "1")]
    pub(super) cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) endpoints: Vec<LocalityLbEndpoints>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LocalityLbEndpoints {
    #[prost(message, repeated, tag = "2")]
    pub(super) lb_endpoints: Vec<LbEndpoint>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    pub(super) endpoint: Option<Endpoint>,
    #[prost(enumeration = "envoy_types::pb::envoy::config::core::v3::HealthStatus", tag = "2")]
    pub(super) health_status: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    pub(super) load_balancing_weight: Option<UInt32Value>,
}

/// `envoy.config.core.v3.Metadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, Struct>,
}

/// `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StdoutAccessLog {
    #[prost(message, optional, tag = "1")]
    pub(super) log_format: Option<SubstitutionFormatString>,
}

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubstitutionFormatString {
    #[prost(message, optional, tag = "2")]
    pub(super) json_format: Option<Struct>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`, strings only.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    // Optional, so that an empty string is written and the value keeps its kind.
    #[prost(string, optional, tag = "3")]
    string_value: Option<String>,
}

impl Struct {
    pub(super) fn of<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let fields = fields.into_iter();
        Self {
            fields: fields.map(|(k, v)| (k.to_owned(), Value { string_value: Some(v.to_owned()) })).collect(),
        }
    }
}

impl Metadata {
    pub(super) fn of<'a>(key: &str, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self { filter_metadata: BTreeMap::from([(key.to_owned(), Struct::of(fields))]) }
    }
}
