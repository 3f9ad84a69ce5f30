//! Another cluster's Services: two API servers in memory, one of the own cluster and one of the other.

use std::fmt::Write as _;
use std::time::Duration;

use epic_fake_api::Server;
use epic_lb::{Here, Place, Selection, ServiceName, Snapshot, Writer};
use epic_sources::kubernetes::cluster::Cluster;
use epic_sources::kubernetes::{Kubernetes, Scope};
use epic_sources::start;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(20);

/// A Service; `annotations` are those of EPIC, without the prefix.
fn service(name: &str, annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<String, Value> = annotations
        .iter()
        .map(|(key, value)| (format!("epic.acnodal.io/{key}"), Value::from(*value)))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": name, "annotations": annotations},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
    })
}

/// A slice of a Service with these addresses.
fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "nodeName": "n1", "zone": "a"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "shop", "name": format!("{service}-1"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints,
    })
}

const GLOBAL: &[(&str, &str)] = &[("global", "true")];

/// Tables, and the sources that write them.
struct Meshed {
    writer: Writer,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Meshed {
    fn new() -> Self {
        Self { writer: Writer::new(), stop: CancellationToken::new(), tasks: Vec::new() }
    }

    fn own(&mut self, server: &Server) {
        let client = kates::Client::new(server.client());
        let (own, _state) = Kubernetes::new(&client, Scope::default());
        self.tasks.push(start(own, &self.writer, self.stop.clone()));
    }

    fn other(&mut self, name: &str, server: &Server) {
        let other = Cluster::new(name, &kates::Client::new(server.client()));
        self.tasks.push(start(other, &self.writer, self.stop.clone()));
    }

    async fn until(&self, wanted: impl Fn(&Snapshot) -> bool) {
        let mut any = self.writer.reader().watch_any();
        let wait = async {
            while !wanted(&self.writer.snapshot()) {
                any.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(LONG, wait).await;
        assert!(waited.is_ok(), "{:?}", self.writer.snapshot().backends);
    }

    /// Waits until a service has these backends.
    async fn until_backends(&self, service: &str, addresses: &[&str]) {
        let wanted: Vec<Place> = places(addresses);
        let name = ServiceName::new("shop", service);
        self.until(|tables| tables.backends_of(name.id()).map(|row| row.place).eq(wanted.iter().copied()))
            .await;
    }

    /// Who serves each frontend, in the cluster of this name.
    fn serving(&self, cluster: Option<&str>) -> String {
        let tables = self.writer.snapshot();
        let here = Here { node: Some("n1"), zone: Some("a"), cluster };
        let mut out = String::new();
        for frontend in tables.frontends.iter() {
            let selection = Selection::of(&tables, frontend, here);
            let serving: Vec<String> = selection.serving().map(|row| row.place.address.to_string()).collect();
            writeln!(out, "{} {}", frontend.service, serving.join(" ")).unwrap();
        }
        out
    }

    async fn stop(self) -> Writer {
        self.stop.cancel();
        for task in self.tasks {
            tokio::time::timeout(LONG, task).await.unwrap().unwrap();
        }
        self.writer
    }
}

fn places(addresses: &[&str]) -> Vec<Place> {
    let place = |address: &&str| Place::new(address.parse().unwrap(), 8080, epic_lb::Protocol::Tcp);
    addresses.iter().map(place).collect()
}

#[tokio::test]
async fn a_service_that_is_global_on_both_sides_has_the_backends_of_both() {
    let (own, west) = (Server::new(), Server::new());
    own.put("services", service("web", GLOBAL));
    own.put("endpointslices", slice("web", &["10.1.0.1"]));
    // What only one side calls global, and what the other keeps to itself.
    own.put("services", service("mine", &[]));
    own.put("services", service("kept", GLOBAL));
    own.put("services", service("theirs", GLOBAL));
    west.put("services", service("web", GLOBAL));
    west.put("services", service("mine", GLOBAL));
    west.put("services", service("kept", &[("global", "true"), ("shared", "false")]));
    west.put("services", service("theirs", &[]));
    west.put("services", service("unknown", GLOBAL));
    for (number, name) in ["web", "mine", "kept", "theirs", "unknown"].iter().enumerate() {
        west.put("endpointslices", slice(name, &[&format!("10.2.0.{number}")]));
    }
    let mut mesh = Meshed::new();
    mesh.own(&own);
    mesh.other("west", &west);
    assert_eq!(mesh.writer.snapshot().pending().count(), 2);
    mesh.until(|tables| tables.initialized()).await;
    mesh.until_backends("web", &["10.1.0.1", "10.2.0.0"]).await;
    let tables = mesh.writer.snapshot();
    assert_eq!(tables.backends.len(), 2, "{:?}", tables.backends);
    // Its nodes are not ours, whatever they are called.
    let far = tables.backends.iter().find(|row| row.locality.cluster.is_some()).unwrap();
    assert_eq!((far.locality.cluster.as_deref(), &far.locality.node), (Some("west"), &None));

    // It is undone from either side, and comes back.
    west.put("services", service("web", &[]));
    mesh.until_backends("web", &["10.1.0.1"]).await;
    west.put("services", service("web", GLOBAL));
    mesh.until_backends("web", &["10.1.0.1", "10.2.0.0"]).await;
    own.put("services", service("web", &[]));
    mesh.until_backends("web", &["10.1.0.1"]).await;
    own.put("services", service("web", GLOBAL));
    mesh.until_backends("web", &["10.1.0.1", "10.2.0.0"]).await;
    west.put("endpointslices", slice("web", &["10.2.0.8", "10.2.0.9"]));
    mesh.until_backends("web", &["10.1.0.1", "10.2.0.8", "10.2.0.9"]).await;
    own.remove("services", "shop", "web");
    mesh.until(|tables| tables.backends.is_empty()).await;
    mesh.stop().await;
}

#[tokio::test]
async fn affinity_says_which_cluster_serves_and_the_other_takes_over() {
    let (own, west) = (Server::new(), Server::new());
    own.put("services", service("web", &[("global", "true"), ("cluster-affinity", "local")]));
    own.put("endpointslices", slice("web", &["10.1.0.1"]));
    west.put("services", service("web", GLOBAL));
    west.put("endpointslices", slice("web", &["10.2.0.1"]));
    let mut mesh = Meshed::new();
    mesh.own(&own);
    mesh.other("west", &west);
    mesh.until_backends("web", &["10.1.0.1", "10.2.0.1"]).await;
    // Whether the own cluster has a name or none.
    for cluster in [None, Some("east")] {
        assert_eq!(mesh.serving(cluster), "shop/web 10.1.0.1\n");
    }
    own.put("endpointslices", slice("web", &[]));
    mesh.until_backends("web", &["10.2.0.1"]).await;
    assert_eq!(mesh.serving(Some("east")), "shop/web 10.2.0.1\n");
    own.put("endpointslices", slice("web", &["10.1.0.1"]));
    own.put("services", service("web", &[("global", "true"), ("cluster-affinity", "remote")]));
    mesh.until_backends("web", &["10.1.0.1", "10.2.0.1"]).await;
    mesh.until(|_| mesh.serving(Some("east")) == "shop/web 10.2.0.1\n").await;
    west.put("endpointslices", slice("web", &[]));
    mesh.until_backends("web", &["10.1.0.1"]).await;
    assert_eq!(mesh.serving(Some("east")), "shop/web 10.1.0.1\n");
    mesh.stop().await;
}

#[tokio::test]
async fn clusters_touch_their_own_backends_alone() {
    let (own, west, north) = (Server::new(), Server::new(), Server::new());
    own.put("services", service("web", GLOBAL));
    for (server, addresses) in [(&west, ["10.2.0.1", "10.9.0.1"]), (&north, ["10.3.0.1", "10.9.0.1"])] {
        server.put("services", service("web", GLOBAL));
        server.put("endpointslices", slice("web", &addresses));
    }
    let mut mesh = Meshed::new();
    mesh.own(&own);
    mesh.other("west", &west);
    mesh.until_backends("web", &["10.2.0.1", "10.9.0.1"]).await;
    // One address that two clusters have stays with the first.
    mesh.other("north", &north);
    mesh.until_backends("web", &["10.2.0.1", "10.3.0.1", "10.9.0.1"]).await;
    let holder = |tables: &Snapshot| {
        let row = tables.backends.iter().find(|row| row.place == places(&["10.9.0.1"])[0]);
        row.and_then(|row| row.locality.cluster.as_deref().map(str::to_owned))
    };
    assert_eq!(holder(&mesh.writer.snapshot()).as_deref(), Some("west"));
    west.remove("services", "shop", "web");
    mesh.until(|tables| !tables.backends.iter().any(|row| row.locality.cluster.as_deref() == Some("west")))
        .await;
    north.put("endpointslices", slice("web", &["10.3.0.2", "10.9.0.1"]));
    mesh.until_backends("web", &["10.3.0.2", "10.9.0.1"]).await;
    assert_eq!(holder(&mesh.writer.snapshot()).as_deref(), Some("north"));
    mesh.stop().await;
}

#[tokio::test]
async fn what_is_left_of_a_former_run_is_gone_when_the_cluster_counts_as_listed() {
    let (own, west) = (Server::new(), Server::new());
    own.put("services", service("web", GLOBAL));
    west.put("services", service("web", GLOBAL));
    west.put("endpointslices", slice("web", &["10.2.0.1", "10.2.0.2"]));
    own.put("services", service("old", GLOBAL));
    west.put("services", service("old", GLOBAL));
    west.put("endpointslices", slice("old", &["10.2.0.7"]));
    let mut mesh = Meshed::new();
    mesh.own(&own);
    mesh.other("west", &west);
    mesh.until_backends("web", &["10.2.0.1", "10.2.0.2"]).await;
    mesh.until_backends("old", &["10.2.0.7"]).await;
    let writer = mesh.stop().await;

    // While nobody looks one of them goes, and all of another service.
    west.remove("services", "shop", "old");
    west.remove("endpointslices", "shop", "old-1");
    // The own cluster is late.
    west.put("endpointslices", slice("web", &["10.2.0.2"]));
    own.hold_lists("services");
    let mut mesh = Meshed { writer, stop: CancellationToken::new(), tasks: Vec::new() };
    mesh.own(&own);
    mesh.other("west", &west);
    mesh.until_backends("web", &["10.2.0.2"]).await;
    mesh.until_backends("old", &[]).await;
    // Which Services are global here only the own cluster knows: until then it does not count as listed.
    let pending: Vec<String> =
        mesh.writer.snapshot().pending().map(|pending| pending.name.to_owned()).collect();
    assert_eq!(pending, ["cluster west", "kubernetes"]);
    own.release_lists("services");
    mesh.until(|tables| tables.initialized()).await;
    mesh.until_backends("web", &["10.2.0.2"]).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_cluster_that_cannot_be_reached_keeps_what_it_gave_and_at_a_start_holds_back_the_prune() {
    let (own, west) = (Server::new(), Server::new());
    own.put("services", service("web", GLOBAL));
    own.put("endpointslices", slice("web", &["10.1.0.1"]));
    west.put("services", service("web", GLOBAL));
    west.put("endpointslices", slice("web", &["10.2.0.1"]));
    let mut mesh = Meshed::new();
    mesh.own(&own);
    mesh.other("west", &west);
    mesh.until_backends("web", &["10.1.0.1", "10.2.0.1"]).await;
    west.go_down();
    own.put("endpointslices", slice("web", &["10.1.0.2"]));
    mesh.until_backends("web", &["10.1.0.2", "10.2.0.1"]).await;
    mesh.stop().await;

    let mut mesh = Meshed::new();
    mesh.own(&own);
    mesh.other("west", &west);
    mesh.until_backends("web", &["10.1.0.2"]).await;
    assert!(mesh.writer.snapshot().is_pending("cluster west"));
    west.come_up();
    mesh.until(|tables| tables.initialized()).await;
    mesh.until_backends("web", &["10.1.0.2", "10.2.0.1"]).await;
    mesh.stop().await;
}
