//! Services of a cluster beside a state file. The API server is one in memory, behind a port of loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use epic_fake_api::Server;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::running::{Backend, Running, StateFile};

/// An API server that a kubeconfig leads to.
struct Cluster {
    api: Server,
    address: SocketAddr,
    // Dropped last: it ends the tasks.
    _runtime: Runtime,
}

impl Cluster {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (runtime, api) = (runtime.expect("a runtime"), Server::new());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("a bound address");
        let client = {
            let _entered = runtime.enter();
            api.client()
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let client = client.clone();
                let service = hyper::service::service_fn(move |request| answer(client.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { api, address, _runtime: runtime }
    }

    fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let path = folder.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&path, text.to_string()).expect("a kubeconfig");
        path
    }

    /// Service shop/web with this annotation of its health check.
    fn put_checked(&self, check: &str) {
        let mut service = self.api.object("services", "shop", "web").expect("it was put");
        service["metadata"]["annotations"] = json!({"epic.acnodal.io/health-check": check});
        self.api.put("services", service);
    }

    /// Service shop/web, and the one backend it has.
    fn put(&self, last: u8) {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": [format!("192.0.2.{last}")]}],
        });
        self.api.put("endpointslices", slice);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
        });
        self.api.put("services", service);
    }
}

async fn answer(client: kube::Client, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let answer = client.send(Request::from_parts(parts, Body::from(bytes))).await;
    Ok(answer.unwrap_or_else(|error| {
        let mut answer = Response::new(Body::from(error.to_string().into_bytes()));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    }))
}

const FILE: &str = "
services:
- name: kube-system/api
  frontends: [{ address: 192.0.2.10, port: 6443 }]
  backends: [{ address: 192.0.2.11, port: 6443 }]
";

fn serves(answer: &Value, text: &str) -> bool {
    let backends = answer[0]["backends"].as_array();
    let serving = backends.into_iter().flatten().filter(|backend| backend["role"] == "serving");
    serving.count() == 1 && answer.to_string().contains(text)
}

#[test]
fn services_of_a_cluster_and_of_a_file_are_served_side_by_side() {
    let (cluster, state) = (Cluster::new(), StateFile::new(FILE));
    cluster.put(101);
    let kubeconfig = cluster.kubeconfig(state.path.parent().expect("a folder"));
    let mut program = Running::start(&state.path, &["--kubeconfig", &kubeconfig.to_string_lossy()]);
    program.until("selection 10.96.0.7:80", |answer| serves(answer, "192.0.2.101:8080"));
    program.until("selection 192.0.2.10:6443", |answer| serves(answer, "192.0.2.11:6443"));
    let health = program.until("health", |health| health["reconciled"] == true);
    let parts = health["parts"].as_array().expect("parts");
    for name in ["file", "kubernetes"] {
        assert!(parts.iter().any(|part| part["name"] == name && part["ok"] == true), "{health:#}");
    }
    assert!(program.ask("lb-maps dump 10.96.0.7").contains("192.0.2.101:8080/TCP"));

    cluster.put(102);
    program.until("selection 10.96.0.7:80", |answer| serves(answer, "192.0.2.102:8080"));
    // What the one source says is no matter of the other's.
    state.replace("services: []");
    program.until("db prefix services kube-system/", |rows| *rows == json!([]));
    assert!(program.ask("db show services").contains("shop/web (kubernetes)"));
}

#[test]
fn a_cluster_that_refuses_is_waited_for_and_named_and_the_file_is_served() {
    let (cluster, state) = (Cluster::new(), StateFile::new(FILE));
    cluster.api.forbid("services");
    let kubeconfig = cluster.kubeconfig(state.path.parent().expect("a folder"));
    let arguments = ["--kubeconfig", &*kubeconfig.to_string_lossy(), "--wait", "1s"];
    let output = crate::running::run(&state.path, &[&arguments[..], &["--run", "health"]].concat());
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("waiting for kubernetes"), "{said}");
    assert!(said.contains("see the warnings in the log"), "{said}");

    let mut program = Running::start(&state.path, &arguments);
    program.until("selection 192.0.2.10:6443", |answer| serves(answer, "192.0.2.11:6443"));
    let waits = program.ask("db initialized");
    assert!(waits.contains("waiting for kubernetes"), "{waits}");
    cluster.put(101);
    cluster.api.allow("services");
    program.until("selection 10.96.0.7:80", |answer| serves(answer, "192.0.2.101:8080"));
}

#[test]
fn a_service_is_probed_as_its_annotation_says_and_served_if_that_is_not_understood() {
    let (cluster, state) = (Cluster::new(), StateFile::new(FILE));
    let mut backend = Backend::new(7);
    cluster.put(101);
    let kubeconfig = cluster.kubeconfig(state.path.parent().expect("a folder"));
    let mut program = Running::start(&state.path, &["--kubeconfig", &kubeconfig.to_string_lossy()]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 53, "protocol": "TCP"}],
        "endpoints": [{"addresses": [backend.address.ip()]}],
    });
    cluster.api.put("endpointslices", slice);
    let verdict = |healthy: bool| move |rows: &Value| rows[0]["healthy"] == healthy;
    let check =
        |more: &str| format!("{{tcp: {{}}, port: {}, interval: 100ms{more}}}", backend.address.port());
    cluster.put_checked(&check(""));
    program.until("db prefix verdicts shop/web", verdict(true));
    let broken = check(", colour: red");
    let mended = check(", unhealthy-threshold: 1");
    backend.die();
    program.until("db prefix verdicts shop/web", verdict(false));

    // Without a check that can be understood it counts as healthy, and that is told.
    cluster.put_checked(&broken);
    program.until("db prefix verdicts shop/web", |rows| *rows == json!([]));
    program.until("selection 10.96.0.7:80", |answer| serves(answer, &backend.address.ip().to_string()));
    let health = program.until("health", |health| health["parts"].to_string().contains("colour"));
    let parts = health["parts"].as_array().expect("parts");
    assert!(parts.iter().any(|part| part["name"] == "kubernetes" && part["ok"] == false), "{health:#}");
    program.logs("colour");
    cluster.put_checked(&mended);
    program.until("db prefix verdicts shop/web", verdict(false));
    let ok = |health: &Value| !health["parts"].to_string().contains("colour");
    program.until("health", ok);
}
