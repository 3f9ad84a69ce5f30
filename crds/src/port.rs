//! Ports: the public ones of a LoadBalancer, and the one of an Endpoint or a tunnel end.
//!
//! They are core Kubernetes' `ServicePort` and `EndpointPort` in spelling and meaning, with ranges in the schema
//! and `i64` numbers.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rest::{Rest, keeps};
use crate::schema;

/// Transport protocol of a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The text in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port that a LoadBalancer offers to the world, spelled as a core ServicePort.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct PublicPort {
    /// Name of the port, unique in the LoadBalancer. An Endpoint whose port has the same name serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::PortName>")]
    pub name: Option<String>,
    /// Number of the port at the public address.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// Transport protocol. Only TCP acts in this version.
    #[serde(default)]
    pub protocol: Protocol,
    /// Which Endpoints serve an unnamed port: those with this port number, or with this port name. Absent means
    /// the number in `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::IntOrString>")]
    pub target_port: Option<IntOrString>,
    /// Information only: the node port of the Service this was made from. It has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub node_port: Option<i64>,
    /// Application protocol, as in a core ServicePort. It has no effect yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::AppProtocol>")]
    pub app_protocol: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A port at which something listens, spelled as a core EndpointPort.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct EndpointPort {
    /// Name of the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::PortName>")]
    pub name: Option<String>,
    /// Number of the port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Application protocol, as in a core EndpointPort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::AppProtocol>")]
    pub app_protocol: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

keeps!(EndpointPort);

impl EndpointPort {
    /// Where GUE is received: `port`/UDP with appProtocol `gue`.
    pub fn gue(port: u16) -> Self {
        Self {
            port: port.into(),
            protocol: Protocol::Udp,
            app_protocol: Some("gue".to_owned()),
            ..Default::default()
        }
    }
}
