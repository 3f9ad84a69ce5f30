//! A real etcd of one member on loopback, for tests: the lab's program, in a folder of its own, without TLS.
//!
//! Tests write, delete and compact; they end it and start it again with what it stores. All that waits has a deadline, and what
//! does not come in time fails with the log of etcd.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// As long may a request take on a busy machine, the start of etcd included.
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
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time start at different places.
    let start = u16::try_from(std::process::id() % 40).expect("less than 40") * 10;
    let mut ports = (0..400).map(|_| 11_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 400);
    let free = ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.expect("a free port from 11000")
}

/// An etcd of one member; it ends with this.
#[derive(Debug)]
pub struct Server {
    folder: tempfile::TempDir,
    port: u16,
    peers: u16,
    child: Option<Child>,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// One that does not run yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, port: free_port(), peers: free_port(), child: None }
    }

    /// One that carries out requests.
    pub async fn started() -> Self {
        let mut this = Self::new();
        this.run().await;
        this
    }

    /// What a client is given.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, with what it stored before. It carries out requests when this returns.
    pub async fn run(&mut self) {
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

    /// Ends it at once; what it stores stays.
    pub async fn stop(&mut self) {
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

    /// Writes a key; says at which revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        self.call(PUT, Change { key: key.to_owned(), value: value.into() }).await
    }

    /// Deletes a key; says at which revision.
    pub async fn delete(&self, key: &str) -> i64 {
        self.call(DELETE, Change { key: key.to_owned(), value: Vec::new() }).await
    }

    /// Forgets what was before a revision.
    pub async fn compact(&self, revision: i64) {
        self.call(COMPACT, Compaction { revision }).await;
    }
}
