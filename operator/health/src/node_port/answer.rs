//! What is answered: the words of kube-proxy for services, the same manner for VIPs.
//!
//! Source of the first: `pkg/proxy/healthcheck/service_health.go` of Kubernetes. Load balancers of clouds read its
//! status and its weight, people and tests its body, so the bytes are the same.

use std::net::IpAddr;

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// How many local endpoints serve, for load balancers that weigh nodes by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Where VIPs are asked for.
const VIP: &str = "/vip/";

/// What the server is asked about.
pub trait Answers: Send + Sync + 'static {
    /// Whether this node serves the address; `None`: it does not know it.
    fn vip(&self, address: IpAddr) -> Option<VipHealth>;

    /// The service that has this port as its `healthCheckNodePort`; `None`: none has.
    fn service(&self, port: u16) -> Option<ServiceHealth>;
}

/// Whether this node serves an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipHealth {
    /// Whether clients should be sent here.
    pub served: bool,
    /// Backends that serve it.
    pub backends: usize,
    /// Why not, for people; empty otherwise.
    pub reason: String,
}

/// Whether this node serves a service with traffic policy Local.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceHealth {
    /// Namespace of the service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Endpoints of it that serve on this node.
    pub local_endpoints: usize,
    /// Whether what forwards to them works.
    pub proxy_healthy: bool,
}

#[derive(Serialize)]
struct VipBody {
    vip: IpAddr,
    served: bool,
    backends: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

#[derive(Serialize)]
struct ServiceBody {
    service: ServiceName,
    #[serde(rename = "localEndpoints")]
    local_endpoints: usize,
    #[serde(rename = "serviceProxyHealthy")]
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceName {
    namespace: String,
    name: String,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// All VIPs, by path.
    Vips,
    /// The service that has this port, whatever the path.
    Service(u16),
}

/// The answer to a request.
pub(super) fn answer(
    answers: &impl Answers,
    subject: Subject,
    method: &Method,
    path: &str,
) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "ask with GET or HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match subject {
        Subject::Vips => vip(answers, path),
        Subject::Service(port) => service(answers, port),
    }
}

fn vip(answers: &impl Answers, path: &str) -> Response<Full<Bytes>> {
    let Some(asked) = path.strip_prefix(VIP) else {
        return text(StatusCode::NOT_FOUND, format!("nothing is here; ask for {VIP}<address>\n"));
    };
    // Some clients escape the colons of an IPv6 address.
    let asked = asked.replace("%3A", ":").replace("%3a", ":");
    let Ok(address) = asked.parse::<IpAddr>() else {
        return text(
            StatusCode::BAD_REQUEST,
            format!("{asked:?} is no IP address; ask for {VIP}<address>\n"),
        );
    };
    let vip = address.to_canonical();
    let VipHealth { served, backends, reason } = answers.vip(vip).unwrap_or_else(|| VipHealth {
        reason: "no load balancer of this node has this address".to_owned(),
        ..VipHealth::default()
    });
    json(served, &VipBody { vip, served, backends, reason })
}

fn service(answers: &impl Answers, port: u16) -> Response<Full<Bytes>> {
    let Some(ServiceHealth { namespace, name, local_endpoints, proxy_healthy }) = answers.service(port)
    else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no service has {port} as its healthCheckNodePort any more\n"),
        );
    };
    let body = ServiceBody {
        service: ServiceName { namespace, name },
        local_endpoints,
        service_proxy_healthy: proxy_healthy,
    };
    let mut response = json(local_endpoints != 0 && proxy_healthy, &body);
    response.headers_mut().insert(WEIGHT, HeaderValue::from(local_endpoints));
    response
}

fn json(good: bool, body: &impl Serialize) -> Response<Full<Bytes>> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    // Structs of texts, numbers and booleans, written to memory: neither can fail.
    let _ = body.serialize(&mut serializer);
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, "application/json", text.into())
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
