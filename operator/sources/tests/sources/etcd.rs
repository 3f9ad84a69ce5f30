//! etcd: the lab's real one on loopback, listed and watched, with restarts, compactions and values that are no service.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use epic_lb::{ServiceName, Source, Writer};
use epic_sources::etcd::{Etcd, PAGE, State};
use epic_sources::start;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

const LONG: Duration = Duration::from_secs(60);

const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const COMPACT: &str = "/etcdserverpb.KV/Compact";

/// `PutRequest`, and `DeleteRangeRequest` where the value is empty.
#[derive(Clone, PartialEq, prost::Message)]
struct Change {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `CompactionRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Compaction {
    #[prost(int64, tag = "1")]
    revision: i64,
}

/// What all answers begin with.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// The lab's etcd, or a failure that says how to get it.
fn binary() -> PathBuf {
    let output = std::process::Command::new(Path::new(env!("EPIC_CHECKOUT")).join("hack/tools/bin")).output();
    let output = output.expect("hack/tools/bin says where the lab's programs are");
    let path = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("etcd");
    assert!(path.is_file(), "no etcd at {}; run hack/tools/build etcd", path.display());
    path
}

/// A port below the ephemeral range, so that no client has it while etcd restarts. Each call gives another.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time start at different places.
    let start = u16::try_from(std::process::id() % 40).expect("less than 40") * 10;
    let mut ports = (0..400).map(|_| 11_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 400);
    let free = ports.find(|port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.expect("a free port from 11000")
}

/// An etcd of one member; it ends with this.
struct Server {
    folder: tempfile::TempDir,
    port: u16,
    peers: u16,
    child: Option<Child>,
}

impl Server {
    /// One that does not run yet.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, port: free_port(), peers: free_port(), child: None }
    }

    async fn started() -> Self {
        let mut this = Self::new();
        this.run().await;
        this
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn run(&mut self) {
        let (clients, peers) = (self.address(), format!("http://127.0.0.1:{}", self.peers));
        let log = self.folder.path().join("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let child = Command::new(binary())
            .arg(format!("--data-dir={}", self.folder.path().join("data").display()))
            .args([format!("--listen-client-urls={clients}"), format!("--advertise-client-urls={clients}")])
            .args([
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
                format!("--initial-cluster=default={peers}"),
                "--unsafe-no-fsync".to_owned(),
            ])
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.expect("etcd starts"));
        self.put("outside", "").await;
    }

    async fn stop(&mut self) {
        self.child.take().expect("it runs").kill().await.expect("it ends");
    }

    /// Carries out a request as soon as the server does; says at which revision.
    async fn call<T: prost::Message + Clone + 'static>(&self, path: &'static str, request: T) -> i64 {
        let attempt = async || {
            let channel = Channel::from_shared(self.address()).ok()?.connect().await.ok()?;
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.ok()?;
            let codec = ProstCodec::<T, Answer>::default();
            let request = tonic::Request::new(request.clone());
            let answer = client.unary(request, PathAndQuery::from_static(path), codec).await;
            Some(answer.ok()?.into_inner().header?.revision)
        };
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            match tokio::time::timeout_at(deadline, attempt()).await {
                Ok(Some(revision)) => return revision,
                Ok(None) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => {
                    let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                    panic!("etcd did not carry out {path} within {LONG:?}. It says:\n{log}")
                }
            }
        }
    }

    async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        self.call(PUT, Change { key: key.to_owned(), value: value.into() }).await
    }

    async fn delete(&self, key: &str) -> i64 {
        self.call(DELETE, Change { key: key.to_owned(), value: Vec::new() }).await
    }

    async fn compact(&self, revision: i64) {
        self.call(COMPACT, Compaction { revision }).await;
    }
}

/// A way to a server that holds back what the server says until it is opened. Dropped, it ends all connections.
struct Gate {
    open: watch::Sender<bool>,
    said: watch::Sender<Vec<u8>>,
    _tasks: JoinSet<()>,
}

impl Gate {
    async fn closed(port: u16, server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let (open, said) = (watch::Sender::new(false), watch::Sender::new(Vec::new()));
        let (opened, says) = (open.clone(), said.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, server))).await;
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.expect("the server runs").into_split();
                let (chunks, mut held) = mpsc::unbounded_channel::<Vec<u8>>();
                let (mut opened, says) = (opened.subscribe(), says.clone());
                connections.spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                });
                connections.spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
                        says.send_modify(|said| said.extend(&buffer[..bytes]));
                        let _ = chunks.send(buffer[..bytes].to_vec());
                    }
                });
                connections.spawn(async move {
                    while let Some(chunk) = held.recv().await {
                        if opened.wait_for(|open| *open).await.is_err()
                            || to_client.write_all(&chunk).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self { open, said, _tasks: tasks }
    }

    fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until the server said something that has this in it.
    async fn said(&self, text: &str) {
        let mut said = self.said.subscribe();
        let found = said.wait_for(|said| said.windows(text.len()).any(|part| part == text.as_bytes()));
        tokio::time::timeout(LONG, found).await.expect("the server says it").expect("the gate stands");
    }
}

async fn until(state: &mut watch::Receiver<State>, wanted: impl FnMut(&State) -> bool) -> State {
    let found = tokio::time::timeout(LONG, state.wait_for(wanted)).await;
    found.expect("the state comes in time").expect("the source runs").clone()
}

async fn reached(state: &mut watch::Receiver<State>, revision: i64) -> State {
    until(state, |state| state.revision >= Some(revision)).await
}

/// Every service of the source, with where it is reached and its backends.
fn services(writer: &Writer) -> Vec<String> {
    let tables = writer.snapshot();
    let of = |name: &ServiceName| {
        let frontends = tables.frontends.iter().filter(|row| row.service == *name);
        let frontends: BTreeSet<String> = frontends.map(|row| row.key.to_string()).collect();
        let backends = tables.backends.iter().filter(|row| row.service == *name);
        let backends: BTreeSet<String> = backends.map(|row| row.place.to_string()).collect();
        let list = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
        format!("{name}: {} -> {}", list(frontends), list(backends))
    };
    let rows = tables.services.iter().filter(|row| row.source == Source::KeyValue);
    let mut lines: Vec<String> = rows.map(|row| of(&row.name)).collect();
    lines.sort();
    lines
}

fn entry(name: &str, frontend: u8, backend: u8) -> String {
    format!(
        "name: {name}\nfrontends: [{{ address: 192.0.2.{frontend}, port: 80 }}]\n\
         backends: [{{ address: 10.0.0.{backend}, port: 8080 }}]\n"
    )
}

fn line(name: &str, frontend: u8, backend: u8) -> String {
    format!("{name}: 192.0.2.{frontend}:80/TCP -> 10.0.0.{backend}:8080/TCP")
}

#[test]
fn an_address_with_tls_is_refused_in_words() {
    for address in ["https://127.0.0.1:2379", "127.0.0.1:2379", "nowhere"] {
        let refusal = Etcd::new(address, "/epic").unwrap_err().to_string();
        assert!(refusal.contains("write http://HOST:PORT"), "{refusal}");
    }
}

#[tokio::test]
async fn keys_are_listed_then_followed_and_what_is_no_service_holds_nothing_up() {
    let server = Server::started().await;
    server.put("/epic/services/shop/web", entry("shop/web", 1, 1)).await;
    let json = r#"{"name":"shop/api","frontends":[{"address":"192.0.2.2","port":80}],
        "backends":[{"address":"10.0.0.2","port":8080}]}"#;
    server.put("/epic/services/shop/api", json).await;
    server.put("/epic/services/shop/broken", "name: [").await;
    server.put("/epic/services-of-old/shop/old", entry("shop/old", 9, 9)).await;

    let writer = Writer::new();
    let (etcd, mut state) = Etcd::new(&server.address(), "/epic/services").unwrap();
    let stop = CancellationToken::new();
    let task = start(etcd, &writer, stop.clone());
    let said = until(&mut state, |state| state.revision.is_some()).await;
    assert!(writer.snapshot().initialized());
    assert_eq!(services(&writer), [line("shop/api", 2, 2), line("shop/web", 1, 1)]);
    let refused: Vec<&str> = said.refused.keys().map(|key| &**key).collect();
    assert_eq!(refused, ["/epic/services/shop/broken"]);

    // A new service, another backend, and what was broken is understood.
    server.put("/epic/services/shop/new", entry("shop/new", 3, 3)).await;
    server.put("/epic/services/shop/broken", entry("shop/broken", 4, 4)).await;
    let revision = server.put("/epic/services/shop/web", entry("shop/web", 1, 7)).await;
    assert!(reached(&mut state, revision).await.refused.is_empty());
    let all =
        [line("shop/api", 2, 2), line("shop/broken", 4, 4), line("shop/new", 3, 3), line("shop/web", 1, 7)];
    assert_eq!(services(&writer), all);

    // Values that are no service, and those of another service than the key's, leave everything as it was.
    server.put("/epic/services/shop/web", entry("shop/api", 1, 8)).await;
    server.put("/epic/services/shop/api", "name: shop/api\ncolour: red").await;
    server.put("/epic/services/shop/broken", vec![0xff, 0xfe]).await;
    let revision = server.put("/epic/services/alone", entry("shop/alone", 5, 5)).await;
    let said = reached(&mut state, revision).await;
    assert_eq!(services(&writer), all);
    assert_eq!(said.refused.len(), 4, "{said:?}");
    assert!(said.refused["/epic/services/shop/web"].contains("write name: shop/web"), "{said:?}");
    assert!(said.refused["/epic/services/shop/api"].contains("colour"), "{said:?}");

    // A key takes its service with it, also when its value was not understood.
    server.delete("/epic/services/alone").await;
    server.delete("/epic/services/shop/broken").await;
    let revision = server.delete("/epic/services/shop/new").await;
    let said = reached(&mut state, revision).await;
    assert_eq!(services(&writer), [line("shop/api", 2, 2), line("shop/web", 1, 7)]);
    assert_eq!(said.refused.len(), 2, "{said:?}");
    stop.cancel();
    tokio::time::timeout(LONG, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_list_of_several_pages_is_one_transaction_that_completes_the_source() {
    let server = Server::started().await;
    let number = usize::from(PAGE) + 20;
    for index in 0..number {
        server.put(&format!("services/a/s{index}"), format!("name: a/s{index}")).await;
    }
    let writer = Writer::new();
    let mut changes = writer.reader().watch_any();
    let (etcd, _state) = Etcd::new(&server.address(), "services/").unwrap();
    let task = start(etcd, &writer, CancellationToken::new());
    tokio::time::timeout(LONG, async {
        loop {
            changes.mark_unchanged();
            let tables = writer.snapshot();
            assert_eq!(tables.services.len(), if tables.initialized() { number } else { 0 });
            if tables.initialized() {
                return;
            }
            changes.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    task.abort();
}

#[tokio::test]
async fn an_etcd_that_is_away_keeps_what_it_said_and_is_listed_when_it_returns() {
    let mut server = Server::new();
    let writer = Writer::new();
    let (etcd, mut state) = Etcd::new(&server.address(), "/epic").unwrap();
    let task = start(etcd, &writer, CancellationToken::new());
    let said = until(&mut state, |state| state.error.is_some()).await;
    let error = said.error.unwrap();
    assert!(error.contains(&server.address()) && error.contains("refused"), "{error}");
    assert!(!writer.snapshot().initialized());

    server.run().await;
    let revision = server.put("/epic/shop/web", entry("shop/web", 1, 1)).await;
    let said = reached(&mut state, revision).await;
    assert_eq!(said.error, None);
    assert!(writer.snapshot().initialized());

    server.stop().await;
    until(&mut state, |state| state.error.is_some()).await;
    assert_eq!(services(&writer), [line("shop/web", 1, 1)]);

    server.run().await;
    let revision = server.put("/epic/shop/api", entry("shop/api", 2, 2)).await;
    assert_eq!(reached(&mut state, revision).await.error, None);
    assert_eq!(services(&writer), [line("shop/api", 2, 2), line("shop/web", 1, 1)]);
    task.abort();
}

#[tokio::test]
async fn what_was_compacted_unseen_is_listed_again() {
    let server = Server::started().await;
    server.put("/epic/shop/web", entry("shop/web", 1, 1)).await;
    server.put("/epic/shop/api", entry("shop/api", 2, 2)).await;
    let writer = Writer::new();
    let port = free_port();
    let gate = Gate::closed(port, server.port).await;
    let (etcd, mut state) = Etcd::new(&format!("http://127.0.0.1:{port}"), "/epic").unwrap();
    let task = start(etcd, &writer, CancellationToken::new());

    // The list is on its way when what follows it is compacted: the watch that comes next is cancelled.
    gate.said("shop/api").await;
    server.delete("/epic/shop/api").await;
    let revision = server.put("/epic/shop/web", entry("shop/web", 1, 7)).await;
    server.compact(revision).await;
    gate.open();
    reached(&mut state, revision).await;
    assert_eq!(services(&writer), [line("shop/web", 1, 7)]);

    // The same while there is no connection, with a value that is not understood among the rest.
    drop(gate);
    until(&mut state, |state| state.error.is_some()).await;
    server.put("/epic/shop/new", entry("shop/new", 3, 3)).await;
    server.put("/epic/shop/api", entry("shop/api", 2, 2)).await;
    server.delete("/epic/shop/api").await;
    let revision = server.put("/epic/shop/web", "name: shop/web\nbackends: none").await;
    server.compact(revision).await;
    let gate = Gate::closed(port, server.port).await;
    gate.open();
    let said = reached(&mut state, revision).await;
    assert_eq!(services(&writer), [line("shop/new", 3, 3), line("shop/web", 1, 7)]);
    assert_eq!(said.refused.keys().map(|key| &**key).collect::<Vec<_>>(), ["/epic/shop/web"]);
    task.abort();
}
