//! HealthCheckNodePort. Each test has an address of the loopback of its own, so ports are free for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_health::node_port::{Answers, NodePorts, ServiceHealth, Settings, VipHealth};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::support::{DEADLINE, until};

const VIPS: u16 = 31_000;

#[derive(Debug, Default)]
struct Node {
    vips: Mutex<BTreeMap<IpAddr, VipHealth>>,
    services: Mutex<BTreeMap<u16, ServiceHealth>>,
}

impl Answers for Node {
    fn vip(&self, address: IpAddr) -> Option<VipHealth> {
        self.vips.lock().get(&address).cloned()
    }

    fn service(&self, port: u16) -> Option<ServiceHealth> {
        self.services.lock().get(&port).cloned()
    }
}

struct Served {
    node: Arc<Node>,
    ports: NodePorts,
    address: IpAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    fn new(last: u8) -> Self {
        Self::with(last, |settings| settings)
    }

    fn with(last: u8, change: impl FnOnce(Settings) -> Settings) -> Self {
        let address = IpAddr::from(Ipv4Addr::new(127, 88, 0, last));
        let settings = Settings {
            addresses: vec![address],
            vip_port: Some(VIPS),
            retry: Duration::from_millis(20),
            ..Settings::default()
        };
        let node = Arc::new(Node::default());
        let (ports, server) = NodePorts::new(Arc::clone(&node), change(settings));
        Self { node, ports, address, task: tokio::spawn(server.run()) }
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    fn service(&self, port: u16, local_endpoints: usize, proxy_healthy: bool) {
        let health =
            ServiceHealth { namespace: "prod".into(), name: "web".into(), local_endpoints, proxy_healthy };
        self.node.services.lock().insert(port, health);
    }

    async fn get(&self, port: u16, path: &str) -> Answer {
        self.ask(port, "GET", path).await
    }

    async fn ask(&self, port: u16, method: &str, path: &str) -> Answer {
        let mut stream = connect(self.at(port)).await;
        let request = format!("{method} {path} HTTP/1.1\r\nhost: node\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        let reading = stream.read_to_string(&mut text);
        timeout(DEADLINE, reading).await.expect("answered").expect("read");
        Answer::parse(&text)
    }
}

/// Waits until somebody listens.
async fn connect(address: SocketAddr) -> TcpStream {
    let connecting = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(DEADLINE, connecting).await.expect("somebody listens")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Self { status: status.expect("a status"), headers, body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

#[tokio::test]
async fn a_vip_that_is_served_here_is_two_hundred() {
    let served = Served::new(1);
    let vip = IpAddr::from([192, 0, 2, 1]);
    served.node.vips.lock().insert(vip, VipHealth { served: true, backends: 3, reason: String::new() });
    let answer = served.get(VIPS, "/vip/192.0.2.1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.json(), json!({ "vip": "192.0.2.1", "served": true, "backends": 3 }));
    let mapped = served.get(VIPS, "/vip/::ffff:192.0.2.1").await;
    assert_eq!(mapped.status, 200, "the same address in its longer form");
}

#[tokio::test]
async fn a_vip_that_is_not_is_five_hundred_and_three_with_the_reason() {
    let served = Served::new(2);
    let vip = IpAddr::from([192, 0, 2, 1]);
    let reason = "all backends are unhealthy".to_owned();
    served.node.vips.lock().insert(vip, VipHealth { served: false, backends: 0, reason });
    let answer = served.get(VIPS, "/vip/192.0.2.1").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.json(),
        json!({ "vip": "192.0.2.1", "served": false, "backends": 0, "reason": "all backends are unhealthy" })
    );
    let unknown = served.get(VIPS, "/vip/192.0.2.2").await;
    assert_eq!(unknown.status, 503);
    assert_eq!(unknown.json()["reason"], "no load balancer of this node has this address");
}

#[tokio::test]
async fn a_vip_of_ipv6_is_asked_for_as_it_is_or_escaped() {
    let served = Served::new(3);
    let vip: IpAddr = "2001:db8::1".parse().expect("an address");
    served.node.vips.lock().insert(vip, VipHealth { served: true, backends: 1, reason: String::new() });
    for path in ["/vip/2001:db8::1", "/vip/2001%3Adb8%3a%3A1"] {
        assert_eq!(served.get(VIPS, path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn what_is_no_vip_and_what_is_no_question_are_told_apart() {
    let served = Served::new(4);
    assert_eq!(served.get(VIPS, "/vip/web").await.status, 400);
    assert_eq!(served.get(VIPS, "/").await.status, 404);
    let post = served.ask(VIPS, "POST", "/vip/192.0.2.1").await;
    assert_eq!((post.status, &*post.headers["allow"]), (405, "GET, HEAD"));
}

#[tokio::test]
async fn a_service_is_answered_for_as_kube_proxy_does() {
    let served = Served::new(5);
    served.service(30_100, 2, true);
    served.ports.set([30_100]);
    let answer = served.get(30_100, "/healthz").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["x-load-balancing-endpoint-weight"], "2");
    // The bytes of pkg/proxy/healthcheck/service_health.go.
    assert_eq!(
        answer.body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"prod\",\n\t\t\"name\": \"web\"\n\t},\n\
         \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
    );

    let head = served.ask(30_100, "HEAD", "/").await;
    assert_eq!((head.status, &*head.body), (200, ""));
    assert_eq!(head.headers["x-load-balancing-endpoint-weight"], "2");

    served.service(30_100, 0, true);
    let none = served.get(30_100, "/").await;
    assert_eq!((none.status, &*none.headers["x-load-balancing-endpoint-weight"]), (503, "0"));
    served.service(30_100, 2, false);
    let broken = served.get(30_100, "/").await;
    assert_eq!(broken.status, 503);
    assert_eq!(broken.json()["serviceProxyHealthy"], false);
}

#[tokio::test]
async fn listeners_come_and_go_with_the_ports() {
    let served = Served::new(6);
    for port in [30_001, 30_002, 30_003] {
        served.service(port, 1, true);
    }
    served.ports.set([30_001, 30_002]);
    assert_eq!(served.get(30_001, "/").await.status, 200);
    assert_eq!(served.get(30_002, "/").await.status, 200);
    served.ports.set([30_002, 30_003]);
    assert_eq!(served.get(30_003, "/").await.status, 200);
    assert_eq!(served.get(30_002, "/").await.status, 200);
    let gone = TcpListener::bind(served.at(30_001)).await;
    assert!(gone.is_ok(), "the port was closed before the next was opened");
    assert_eq!(served.get(VIPS, "/vip/192.0.2.1").await.status, 503, "that one stays");
}

#[tokio::test]
async fn a_port_in_use_is_named_and_had_as_soon_as_it_is_free() {
    let served = Served::new(7);
    let other = TcpListener::bind(served.at(30_001)).await.expect("the port is free");
    served.service(30_001, 1, true);
    served.service(30_002, 1, true);
    served.ports.set([30_001, 30_002]);
    until("the port is named", || !served.ports.problems().is_empty()).await;
    let problems = served.ports.problems();
    assert_eq!(problems.keys().collect::<Vec<_>>(), [&30_001]);
    let text = &problems[&30_001];
    assert!(text.starts_with("cannot listen on 127.88.0.7:30001") && text.contains("ss -ltnp"), "{text}");
    assert_eq!(served.get(30_002, "/").await.status, 200, "others are served");

    let mut watch = served.ports.watch_problems();
    drop(other);
    timeout(DEADLINE, watch.wait_for(BTreeMap::is_empty)).await.expect("had").expect("a server");
    assert_eq!(served.get(30_001, "/").await.status, 200);
}

#[tokio::test]
async fn a_service_does_not_take_the_port_of_the_vips() {
    let served = Served::new(8);
    served.service(VIPS, 1, true);
    served.ports.set([VIPS]);
    until("the port is named", || served.ports.problems().contains_key(&VIPS)).await;
    assert!(served.ports.problems()[&VIPS].contains("give the service or the VIPs another port"));
    assert_eq!(served.get(VIPS, "/vip/192.0.2.1").await.json()["served"], false);
}

#[tokio::test]
async fn connections_held_open_do_not_keep_a_health_check_out() {
    let patient = Duration::from_secs(3_600);
    let served = Served::with(9, |settings| Settings { connections: 8, header_timeout: patient, ..settings });
    served.service(30_001, 1, true);
    served.ports.set([30_001]);
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut stream = connect(served.at(30_001)).await;
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.expect("sent");
        held.push(stream);
    }
    assert_eq!(served.get(30_001, "/").await.status, 200);
    let mut first = held.remove(0);
    let mut byte = [0];
    let end = timeout(DEADLINE, first.read(&mut byte)).await.expect("the oldest was closed");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_request_that_does_not_come_ends_its_connection() {
    let short = |settings| Settings { header_timeout: Duration::from_millis(100), ..settings };
    let served = Served::with(10, short);
    let body_missing = "GET /vip/192.0.2.1 HTTP/1.1\r\nhost: node\r\ncontent-length: 1000000\r\n\r\n";
    for part in ["", "GET /vip/192.0.2.1 HTTP/1.1\r\n", body_missing] {
        let mut stream = connect(served.at(VIPS)).await;
        stream.write_all(part.as_bytes()).await.expect("sent");
        let mut text = String::new();
        let end = timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("the connection ended");
        assert!(end.is_err() || !text.contains(" 200 "), "{text}");
    }
}

#[tokio::test]
async fn all_addresses_are_those_of_both_families() {
    let served = Served::with(11, |settings| Settings {
        addresses: vec![Ipv6Addr::UNSPECIFIED.into()],
        vip_port: None,
        ..settings
    });
    served.service(31_987, 1, true);
    served.ports.set([31_987]);
    assert_eq!(served.get(31_987, "/").await.status, 200);
    let mut stream = connect(SocketAddr::from((Ipv6Addr::LOCALHOST, 31_987))).await;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("answered");
    assert_eq!(Answer::parse(&text).status, 200);
}
