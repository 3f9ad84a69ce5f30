//! Host ports of Pods, followed on an API server in memory.

use std::time::Duration;

use epic_fake_api::Server;
use epic_lb::{Snapshot, Writer};
use epic_sources::kubernetes::{HostPorts, Kubernetes, Scope, State};
use epic_sources::start;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(20);

/// A Pod that is ready, with a host port.
fn pod(name: &str, node: &str, host_port: u16, last: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "web", "ports": [{"containerPort": 8080, "hostPort": host_port}]}],
        },
        "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "hostIP": "198.51.100.1", "podIP": format!("10.244.1.{last}"),
        },
    })
}

/// The tables, and how the source of node n1 stands.
struct Scene {
    writer: Writer,
    state: watch::Receiver<State>,
    stop: CancellationToken,
}

impl Scene {
    fn new(server: &Server, host_ports: HostPorts) -> Self {
        let (writer, stop) = (Writer::new(), CancellationToken::new());
        let client = kates::Client::new(server.client());
        let (source, state) = Kubernetes::new(&client, Scope { host_ports, ..Scope::default() });
        start(source, &writer, stop.clone());
        Self { writer, state, stop }
    }

    /// Where each host port leads, as soon as that is this.
    async fn until(&self, wanted: &[&str]) {
        let leads = |tables: &Snapshot| -> Vec<String> {
            let rows = tables.frontends.iter().flat_map(|frontend| {
                let backends = tables.backends_of(frontend.service.id());
                backends.map(|row| format!("{} -> {} {:?}", frontend.key, row.place, row.state))
            });
            rows.collect()
        };
        let mut any = self.writer.reader().watch_any();
        let wait = async {
            while leads(&self.writer.snapshot()) != wanted {
                any.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(LONG, wait).await;
        assert!(waited.is_ok(), "{:?}, not {wanted:?}", leads(&self.writer.snapshot()));
    }

    async fn until_said(&mut self, wanted: impl FnMut(&State) -> bool) {
        tokio::time::timeout(LONG, self.state.wait_for(wanted)).await.unwrap().unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn host_ports_follow_the_pods_of_the_node() {
    let server = Server::new();
    server.put("pods", pod("web", "n1", 80, 1));
    server.put("pods", pod("other", "n2", 81, 2));
    let scene = Scene::new(&server, HostPorts::Node("n1".to_owned()));
    scene.until(&["198.51.100.1:80/TCP -> 10.244.1.1:8080/TCP Active"]).await;

    let mut leaving = pod("web", "n1", 80, 1);
    leaving["status"]["conditions"][0]["status"] = "False".into();
    server.put("pods", leaving.clone());
    scene.until(&["198.51.100.1:80/TCP -> 10.244.1.1:8080/TCP Quarantined"]).await;
    leaving["status"]["phase"] = "Failed".into();
    server.put("pods", leaving);
    scene.until(&[]).await;

    // Recreated under its name, with other ports: nothing of the former is left.
    server.remove("pods", "shop", "web");
    server.put("pods", pod("web", "n1", 443, 9));
    scene.until(&["198.51.100.1:443/TCP -> 10.244.1.9:8080/TCP Active"]).await;
    server.remove("pods", "shop", "web");
    scene.until(&[]).await;
    assert!(scene.writer.snapshot().services.is_empty());
}

#[tokio::test]
async fn a_port_that_is_had_goes_to_who_waits_when_its_pod_ends() {
    let server = Server::new();
    server.put("pods", pod("a", "n1", 80, 1));
    server.put("pods", pod("b", "n1", 80, 2));
    let scene = Scene::new(&server, HostPorts::Node("n1".to_owned()));
    scene.until(&["198.51.100.1:80/TCP -> 10.244.1.1:8080/TCP Active"]).await;
    assert_eq!(scene.writer.snapshot().wishes.len(), 1);
    server.remove("pods", "shop", "a");
    scene.until(&["198.51.100.1:80/TCP -> 10.244.1.2:8080/TCP Active"]).await;
}

#[tokio::test]
async fn nothing_counts_as_listed_before_the_pods_are() {
    let server = Server::new();
    server.put("pods", pod("web", "n1", 80, 1));
    server.hold_lists("pods");
    let mut scene = Scene::new(&server, HostPorts::Everywhere);
    while server.lists("pods") == 0 || server.watches("services") == 0 {
        tokio::task::yield_now().await;
    }
    assert!(scene.writer.snapshot().is_pending("kubernetes"));
    server.release_lists("pods");
    scene.until_said(|state| state.listed).await;
    assert!(!scene.writer.snapshot().is_pending("kubernetes"));
    scene.until(&["198.51.100.1:80/TCP -> 10.244.1.1:8080/TCP Active"]).await;
}

#[tokio::test]
async fn pods_are_not_read_where_host_ports_are_off() {
    let server = Server::new();
    server.forbid("pods");
    let mut scene = Scene::new(&server, HostPorts::Off);
    scene.until_said(|state| state.listed).await;
    assert_eq!(server.lists("pods"), 0);
}

#[tokio::test]
async fn a_host_ip_that_is_not_of_the_node_is_told_until_it_is_mended() {
    let server = Server::new();
    let mut asks = pod("web", "n1", 80, 1);
    asks["spec"]["containers"][0]["ports"][0]["hostIP"] = "10.96.0.10".into();
    server.put("pods", asks);
    let mut scene = Scene::new(&server, HostPorts::Node("n1".to_owned()));
    let refusal = |state: &State| state.refused.values().any(|why| why.contains("hostIP 10.96.0.10"));
    scene.until_said(refusal).await;
    scene.until(&[]).await;
    server.put("pods", pod("web", "n1", 80, 1));
    scene.until_said(|state| state.refused.is_empty()).await;
    scene.until(&["198.51.100.1:80/TCP -> 10.244.1.1:8080/TCP Active"]).await;
}
