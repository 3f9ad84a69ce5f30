//! HealthCheckNodePort: tells routers and load balancers upstream what this node serves.
//!
//! ```text
//! GET http://<node>:<vip port>/vip/192.0.2.1         200 or 503: does this node serve the address?
//! GET http://<node>:<healthCheckNodePort>/           200 or 503: has the service endpoints on this node?
//! ```
//!
//! The second is what kube-proxy answers for a Kubernetes service with `externalTrafficPolicy: Local`: each such service
//! has a port of its own, and listeners come and go with the set of ports.
//!
//! Guarantees: a port that cannot be had is named in [`NodePorts::problems`] and tried again, all others are served; a
//! port that is no longer wanted is free when the next one is opened; connections are bounded in number and time, and
//! the oldest makes room. What it does not do: TLS, keep-alive, anything but GET and HEAD.

mod answer;
mod connections;
mod listen;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, warn};

use self::answer::Subject;
pub use self::answer::{Answers, ServiceHealth, VipHealth};
use self::connections::Connections;

/// How node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses to listen on; `::` is every address of both families.
    pub addresses: Vec<IpAddr>,
    /// Port on which VIPs are asked for; `None`: nowhere.
    pub vip_port: Option<u16>,
    /// Connections at once, to all ports together.
    pub connections: usize,
    /// For a request to come in. The answer fits into the kernel's buffer, so nobody can make it wait.
    pub header_timeout: Duration,
    /// From one attempt to have a port to the next.
    pub retry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addresses: vec![Ipv6Addr::UNSPECIFIED.into()],
            vip_port: None,
            connections: 256,
            header_timeout: Duration::from_secs(5),
            retry: Duration::from_secs(5),
        }
    }
}

/// Handle: which ports there should be, and which there are not.
#[derive(Clone, Debug)]
pub struct NodePorts {
    wanted: watch::Sender<BTreeSet<u16>>,
    problems: watch::Receiver<BTreeMap<u16, String>>,
}

/// What serves. Without somebody who polls [`Server::run`] nothing listens.
#[derive(Debug)]
#[must_use = "nothing listens unless `run` is polled"]
pub struct Server<A> {
    settings: Settings,
    connections: Arc<Connections<A>>,
    wanted: watch::Sender<BTreeSet<u16>>,
    problems: watch::Sender<BTreeMap<u16, String>>,
}

impl NodePorts {
    /// No service ports yet.
    pub fn new<A: Answers>(answers: Arc<A>, settings: Settings) -> (Self, Server<A>) {
        let connections = Connections::new(answers, settings.connections, settings.header_timeout);
        let (wanted, _) = watch::channel(BTreeSet::new());
        let (problems, seen) = watch::channel(BTreeMap::new());
        let server =
            Server { settings, connections: Arc::new(connections), wanted: wanted.clone(), problems };
        (Self { wanted, problems: seen }, server)
    }

    /// These `healthCheckNodePort`s and no others.
    pub fn set(&self, ports: impl IntoIterator<Item = u16>) {
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != ports;
            *wanted = ports;
            differs
        });
    }

    /// Ports that nobody can be answered on, each with what to do about it.
    pub fn problems(&self) -> BTreeMap<u16, String> {
        self.problems.borrow().clone()
    }

    /// Wakes when the problems differ.
    pub fn watch_problems(&self) -> watch::Receiver<BTreeMap<u16, String>> {
        self.problems.clone()
    }
}

impl<A: Answers> Server<A> {
    /// Serves until it is dropped.
    pub async fn run(self) {
        let mut wanted = self.wanted.subscribe();
        let mut open: BTreeMap<u16, JoinSet<()>> = BTreeMap::new();
        loop {
            let services = wanted.borrow_and_update().clone();
            let ports = self.subjects(&services);
            let closed: Vec<u16> = open.keys().filter(|port| !ports.contains_key(*port)).copied().collect();
            for port in closed {
                debug!(port, "closing a health check port");
                if let Some(mut listeners) = open.remove(&port) {
                    listeners.shutdown().await;
                }
            }
            let taken = self.settings.vip_port.filter(|port| services.contains(port));
            let mut problems: BTreeMap<_, _> = taken
                .map(|port| {
                    let text = "is where VIPs are asked for; give the service or the VIPs another port";
                    (port, format!("healthCheckNodePort {port} {text}"))
                })
                .into_iter()
                .collect();
            for (port, subject) in ports {
                if open.contains_key(&port) {
                    continue;
                }
                match self.open(port, subject) {
                    Ok(listeners) => {
                        debug!(port, "opened a health check port");
                        open.insert(port, listeners);
                    }
                    Err(problem) => {
                        problems.insert(port, problem);
                    }
                }
            }
            let failed = problems.keys().any(|port| !open.contains_key(port));
            self.report(problems);
            tokio::select! {
                _ = wanted.changed() => {}
                () = sleep(self.settings.retry), if failed => {}
            }
        }
    }

    /// What each port is for. A service that names the port of VIPs does not take it from them.
    fn subjects(&self, services: &BTreeSet<u16>) -> BTreeMap<u16, Subject> {
        let services = services.iter().map(|port| (*port, Subject::Service(*port)));
        services.chain(self.settings.vip_port.map(|port| (port, Subject::Vips))).collect()
    }

    fn open(&self, port: u16, subject: Subject) -> Result<JoinSet<()>, String> {
        let mut tasks = JoinSet::new();
        for listener in listen::listen(&self.settings.addresses, port, self.settings.retry)? {
            tasks.spawn(accept(listener, subject, Arc::clone(&self.connections)));
        }
        Ok(tasks)
    }

    fn report(&self, problems: BTreeMap<u16, String>) {
        self.problems.send_if_modified(|known| {
            for (_, problem) in problems.iter().filter(|(port, problem)| known.get(port) != Some(*problem)) {
                warn!("{problem}");
            }
            let differs = *known != problems;
            *known = problems;
            differs
        });
    }
}

async fn accept<A: Answers>(listener: TcpListener, subject: Subject, connections: Arc<Connections<A>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.serve(stream, subject),
            // Out of sockets, most likely: asking again at once would find the same.
            Err(error) => {
                warn!("cannot accept a health check: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
