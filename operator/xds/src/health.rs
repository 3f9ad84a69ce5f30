//! Which endpoints proxies find unhealthy.
//!
//! Envoy says it in no message of xDS. Its OpenTelemetry sink says it over the connection that the stream is on: every
//! five seconds a gauge for each endpoint, everything else dropped by the bootstrap. So it comes under the proxy's
//! certificate, needs no way into the pod, costs 78 bytes an endpoint, and each request is the whole state: what one lost
//! the next one has.
//!
//! Guarantees: a row is of a connection whose stream has said which pod it is, and goes with the connection; only what
//! is unhealthy is kept. A proxy can lie about the endpoints of its own LoadBalancer and about nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::identity::{Identity, NodeName};

/// Path of the one call of the sink.
pub(crate) const PATH: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// Longest request, in bytes: some 25,000 endpoints.
const MAX_REQUEST: usize = 2 << 20;

/// Most unhealthy endpoints that are kept of one proxy.
const MAX_UNHEALTHY: usize = 8_192;

/// What one proxy has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// LoadBalancer, as the certificate says.
    pub identity: Identity,
    /// Pod, as its stream says.
    pub node: NodeName,
    /// Addresses that it dials, of the endpoints that it finds unhealthy. All others of its assignment are healthy.
    pub unhealthy: BTreeSet<SocketAddr>,
}

/// What all proxies of this server have found.
#[derive(Debug)]
pub struct Findings {
    rows: Mutex<Rows>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Rows {
    next: u64,
    by_connection: BTreeMap<u64, Arc<Finding>>,
}

impl Findings {
    /// Nothing.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { rows: Mutex::default(), changed: watch::channel(()).0 })
    }

    /// One row a pod that has said anything: of two connections of one the later.
    pub fn rows(&self) -> Vec<Arc<Finding>> {
        let rows = self.rows.lock();
        let latest: BTreeMap<_, _> =
            rows.by_connection.values().map(|row| ((&row.identity, &row.node.pod), row)).collect();
        latest.into_values().map(Arc::clone).collect()
    }

    /// Wakes when a row came, went or differs.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The place of a new connection.
    pub(crate) fn open(self: &Arc<Self>, identity: Identity) -> Arc<Finder> {
        let mut rows = self.rows.lock();
        rows.next += 1;
        Arc::new(Finder {
            findings: Arc::clone(self),
            connection: rows.next,
            identity,
            node: OnceLock::new(),
        })
    }
}

/// The place of one connection.
#[derive(Debug)]
pub(crate) struct Finder {
    findings: Arc<Findings>,
    connection: u64,
    identity: Identity,
    node: OnceLock<NodeName>,
}

impl Finder {
    /// A stream of the connection has said which pod it is.
    pub(crate) fn is_of(&self, node: &NodeName) {
        // One process has one connection, so a second stream says the same.
        let _ = self.node.set(node.clone());
    }

    /// What the proxy finds now. Of one whose pod is not known yet nothing is kept: it says it again soon.
    fn found(&self, unhealthy: BTreeSet<SocketAddr>) {
        let Some(node) = self.node.get() else { return };
        let row = Finding { identity: self.identity.clone(), node: node.clone(), unhealthy };
        let mut rows = self.findings.rows.lock();
        if rows.by_connection.get(&self.connection).is_some_and(|known| **known == row) {
            return;
        }
        rows.by_connection.insert(self.connection, Arc::new(row));
        drop(rows);
        self.findings.changed.send_replace(());
    }

    /// Answers a request of the sink.
    pub(crate) async fn serve<B>(
        self: Arc<Self>,
        request: http::Request<B>,
    ) -> http::Response<tonic::body::Body>
    where
        B: hyper::body::Body + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let codec = ProstCodec::<ExportResponse, ExportRequest>::default();
        Grpc::new(codec)
            .apply_max_message_size_config(Some(MAX_REQUEST), None)
            .unary(Export(self), request)
            .await
    }
}

impl Drop for Finder {
    fn drop(&mut self) {
        if self.findings.rows.lock().by_connection.remove(&self.connection).is_some() {
            self.findings.changed.send_replace(());
        }
    }
}

struct Export(Arc<Finder>);

impl UnaryService<ExportRequest> for Export {
    type Response = ExportResponse;
    type Future = std::future::Ready<Result<Response<ExportResponse>, Status>>;

    fn call(&mut self, request: Request<ExportRequest>) -> Self::Future {
        self.0.found(request.into_inner().unhealthy());
        std::future::ready(Ok(Response::new(ExportResponse {})))
    }
}

/// `opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_metrics: Vec<ResourceMetrics>,
}

/// `ExportMetricsServiceResponse`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct ExportResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceMetrics {
    #[prost(message, repeated, tag = "2")]
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeMetrics {
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "5")]
    gauge: Option<Gauge>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Gauge {
    #[prost(message, repeated, tag = "1")]
    data_points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Point {
    #[prost(double, optional, tag = "4")]
    as_double: Option<f64>,
    #[prost(sfixed64, optional, tag = "6")]
    as_int: Option<i64>,
}

impl Point {
    fn is_zero(self) -> bool {
        self.as_int.unwrap_or_default() == 0 && self.as_double.unwrap_or_default() == 0.0
    }
}

impl ExportRequest {
    /// The endpoints whose gauge is zero; several ports may have one, and one of them is enough.
    fn unhealthy(&self) -> BTreeSet<SocketAddr> {
        let scopes = self.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
        let metrics = scopes.flat_map(|scope| &scope.metrics);
        let unhealthy = metrics.filter(|metric| {
            metric.gauge.iter().flat_map(|gauge| &gauge.data_points).any(|point| point.is_zero())
        });
        unhealthy.filter_map(|metric| endpoint(&metric.name)).take(MAX_UNHEALTHY).collect()
    }
}

/// The address in `cluster.<name>.endpoint.<address>_<port>.healthy`.
fn endpoint(gauge: &str) -> Option<SocketAddr> {
    let (_, endpoint) = gauge.strip_suffix(".healthy")?.rsplit_once(".endpoint.")?;
    let (address, port) = endpoint.rsplit_once('_')?;
    let address: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some(SocketAddr::new(address, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(gauges: &[(&str, i64)]) -> ExportRequest {
        let metric = |(name, value): &(&str, i64)| Metric {
            name: (*name).to_owned(),
            gauge: Some(Gauge { data_points: vec![Point { as_int: Some(*value), as_double: None }] }),
        };
        let metrics = gauges.iter().map(metric).collect();
        ExportRequest {
            resource_metrics: vec![ResourceMetrics { scope_metrics: vec![ScopeMetrics { metrics }] }],
        }
    }

    #[test]
    fn unhealthy_is_what_any_port_finds_so() {
        let found = request(&[
            ("cluster.a.endpoint.b-tcp-80.endpoint.100.127.0.1_8080.healthy", 1),
            ("cluster.web-tcp-80.endpoint.100.127.0.2_8080.healthy", 1),
            ("cluster.web-tcp-81.endpoint.100.127.0.2_8080.healthy", 0),
            ("cluster.web-tcp-80.endpoint.[fd00::1]_8080.healthy", 0),
            ("cluster.web-tcp-80.endpoint.100.127.0.3_99999.healthy", 0),
            ("cluster.web-tcp-80.membership_healthy", 0),
        ])
        .unhealthy();
        let expected = ["100.127.0.2:8080", "[fd00::1]:8080"].map(|text| text.parse().unwrap());
        assert_eq!(found, expected.into());
    }

    #[test]
    fn findings_are_of_a_pod_that_is_known_and_go_with_its_connection() {
        let findings = Findings::new();
        let watch = findings.watch();
        let old = findings.open(Identity::new("red", "web", "u"));
        old.found([].into());
        assert!(findings.rows().is_empty() && !watch.has_changed().unwrap());
        old.is_of(&NodeName { pod: "web-1".into() });
        old.found([].into());
        let new = findings.open(Identity::new("red", "web", "u"));
        new.is_of(&NodeName { pod: "web-1".into() });
        new.found(["100.127.0.1:80".parse().unwrap()].into());
        let rows = findings.rows();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].unhealthy.len(), 1, "the later connection counts");
        drop((old, new));
        assert!(findings.rows().is_empty());
    }
}
