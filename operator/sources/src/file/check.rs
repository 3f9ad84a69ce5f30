//! How the backends of a service are probed, in the words of a ServiceGroup's `health-check`: field `health-check` of a service
//! in a state file, and the value of annotation `epic.acnodal.io/health-check` of a Kubernetes Service.

use std::sync::Arc;
use std::time::Duration;

use epic_model::edge::{self, Edge, Reach};
use jiff::fmt::friendly::{SpanParser, SpanPrinter};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Least time between two probes, and least timeout.
const LEAST: Duration = Duration::from_millis(100);
/// Longest time between two probes.
const LONGEST: Duration = Duration::from_secs(600);
/// Most results in a row that a verdict may take.
const MOST: u32 = 100;

/// An active check of the backends. Exactly one of `tcp`, `http` and `grpc` is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HealthCheck {
    /// From a result to the next probe, 100ms to 10m; absent: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// For connection, request and answer together, 100ms to 10m; absent: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Good results in a row until healthy, 1 – 100; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_threshold: Option<u32>,
    /// Failures in a row until unhealthy, 1 – 100; absent: 3. The first result decides alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_threshold: Option<u32>,
    /// Port that is asked, by TCP; absent: the backend's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether a connection is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// What an HTTP/1.1 request is answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// What the gRPC health protocol says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
}

/// A check by a TCP connection: `tcp: {}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcp {}

/// A check by an HTTP/1.1 request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Http {
    /// Path that is asked for.
    pub path: String,
    /// Host header; absent: the name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Good statuses; absent: 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
}

/// A check by the gRPC health protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grpc {
    /// Service that is asked about; absent: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A length of time, written `250ms`, `5s` or `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&SpanPrinter::new().unsigned_duration_to_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Reads a length of time: `250ms`, `5s`, `1m 30s`.
///
/// # Errors
/// With what to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let read = SpanParser::new().parse_unsigned_duration(text);
    read.map_err(|_| format!("{text:?} is no length of time; write for example 250ms, 5s or 1m"))
}

/// Why a health check is refused.
#[derive(Debug, thiserror::Error)]
pub enum HealthCheckError {
    /// It is no YAML of this form.
    #[error("it is not understood: {0}; write for example {{http: {{path: /healthz}}, interval: 5s}}")]
    Form(#[from] serde_yaml::Error),
    /// A value cannot be; the text tells what to write instead.
    #[error("{0}")]
    Value(String),
}

impl HealthCheck {
    /// Reads one that stands for itself, YAML or JSON, and checks what its form does not say.
    ///
    /// # Errors
    /// [`HealthCheckError`].
    pub fn parse(text: &str) -> Result<Self, HealthCheckError> {
        let check: Self = serde_yaml::from_str(text)?;
        check.check().map_err(HealthCheckError::Value)?;
        Ok(check)
    }

    /// What its form does not say; the text tells what to write instead.
    pub(super) fn check(&self) -> Result<(), String> {
        let named = [self.tcp.is_some(), self.http.is_some(), self.grpc.is_some()];
        if named.into_iter().filter(|named| *named).count() != 1 {
            return Err("health-check names exactly one of tcp, http and grpc".to_owned());
        }
        for (name, span) in [("interval", self.interval), ("timeout", self.timeout)] {
            if span.is_some_and(|Span(span)| span < LEAST || span > LONGEST) {
                return Err(format!("health-check: {name} is from 100ms to 10m"));
            }
        }
        let thresholds = [
            ("healthy-threshold", self.healthy_threshold),
            ("unhealthy-threshold", self.unhealthy_threshold),
        ];
        for (name, threshold) in thresholds {
            if threshold.is_some_and(|threshold| threshold == 0 || threshold > MOST) {
                return Err(format!("health-check: {name} is from 1 to {MOST}"));
            }
        }
        if self.port == Some(0) {
            return Err("health-check: port 0 is no port; ports are 1 – 65535".to_owned());
        }
        let Some(http) = &self.http else { return Ok(()) };
        if !http.path.starts_with('/') {
            return Err(format!("health-check: path {:?} does not begin with /", http.path));
        }
        match http.statuses.iter().find(|status| !(100..600).contains(*status)) {
            Some(status) => Err(format!("health-check: {status} is no HTTP status; they are 100 – 599")),
            None => Ok(()),
        }
    }

    /// As it stands in the row of a service.
    pub(crate) fn edge(&self) -> Arc<Edge> {
        let reach = Reach { check: self.in_force(), ..Reach::default() };
        Arc::new(Edge { reach, ..Edge::default() })
    }

    /// The check with every default in force; `None` if it names no probe.
    fn in_force(&self) -> Option<edge::Check> {
        let probe = match (&self.tcp, &self.http, &self.grpc) {
            (Some(Tcp {}), _, _) => edge::Probe::Tcp,
            (_, Some(Http { path, host, statuses }), _) => edge::Probe::Http {
                path: path.clone(),
                host: host.clone(),
                statuses: if statuses.is_empty() { vec![200] } else { statuses.clone() },
            },
            (_, _, Some(Grpc { service })) => {
                edge::Probe::Grpc { service: service.clone().unwrap_or_default() }
            }
            (None, None, None) => return None,
        };
        let default = edge::Check::new(probe);
        Some(edge::Check {
            interval: self.interval.map_or(default.interval, |Span(span)| span),
            timeout: self.timeout.map_or(default.timeout, |Span(span)| span),
            healthy_threshold: self.healthy_threshold.unwrap_or(default.healthy_threshold),
            unhealthy_threshold: self.unhealthy_threshold.unwrap_or(default.unhealthy_threshold),
            port: self.port,
            probe: default.probe,
        })
    }
}
