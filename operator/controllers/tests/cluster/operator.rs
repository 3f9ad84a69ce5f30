//! The operator as a process.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use epic_control_plane::{eventually, token};
use kube::config::Kubeconfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Cluster;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The operator of this build, or the one that `EPIC_OPERATOR` names: figures are of the program that is shipped.
fn program() -> PathBuf {
    std::env::var_os("EPIC_OPERATOR")
        .map_or_else(|| env!("CARGO_BIN_EXE_epic-operator").into(), PathBuf::from)
}

/// A running operator; dropping it kills it.
pub(crate) struct Operator {
    process: Child,
    ops: SocketAddr,
    xds: SocketAddr,
    log: PathBuf,
    kubeconfig: PathBuf,
}

impl Operator {
    /// Starts one that writes without asking for the Lease, and serves no xDS.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        Self::start_with(cluster, &["--no-xds"]).await
    }

    /// Starts one that writes without asking for the Lease, serves xDS, and lets a second pass between two steps in a
    /// change of the authority.
    pub(crate) async fn start_serving(cluster: &Cluster) -> Self {
        Self::start_with(cluster, &["--authority-settle", "1"]).await
    }

    async fn start_with(cluster: &Cluster, arguments: &[&str]) -> Self {
        let folder = cluster.control_plane.kubeconfig().parent().expect("a folder").to_owned();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let (kubeconfig, log) = (folder.join("operator.json"), folder.join(format!("operator-{number}.log")));
        if !kubeconfig.exists() {
            write_kubeconfig(cluster, &kubeconfig).await;
        }
        let (ops, xds) = {
            let probe = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let (ops, xds) = (probe().await, probe().await);
            (ops.local_addr().expect("its address"), xds.local_addr().expect("its address"))
        };
        let file = std::fs::File::create(&log).expect("a log file");
        let process = Command::new(program())
            .args(["--no-lease", "--ops-address", &ops.to_string(), "--xds-address", &xds.to_string()])
            .args(arguments)
            .args(["--identity", &format!("operator-{number}"), "--kubeconfig"])
            .arg(&kubeconfig)
            .env("EPIC_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the operator starts");
        Self { process, ops, xds, log, kubeconfig }
    }

    /// Waits until `/readyz` says ok.
    pub(crate) async fn ready(&self) {
        eventually("the operator being ready", || async {
            self.get("/readyz").await.filter(|answer| answer.starts_with("HTTP/1.1 200")).map(|_| ())
        })
        .await;
    }

    /// Writes that it has made or tried, by its own count.
    pub(crate) async fn writes(&self) -> u64 {
        self.sum_of("epic_writes_total").await
    }

    /// Passes over objects of a kind that have ended, by its own count.
    pub(crate) async fn passes(&self, kind: &str) -> u64 {
        self.sum_of(&format!("epic_reconciles_total{{kind=\"{kind}\"")).await
    }

    /// What `/readyz` shows, if it says yes.
    pub(crate) async fn notices(&self) -> Option<String> {
        self.get("/readyz").await.filter(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Kinds that the API server refuses to it though it was shown them before, by its own count.
    pub(crate) async fn refused_kinds(&self) -> u64 {
        self.sum_of("epic_refused_kinds{").await
    }

    /// Whether proxies reach its xDS port.
    pub(crate) async fn takes_proxies(&self) -> bool {
        TcpStream::connect(self.xds).await.is_ok()
    }

    async fn sum_of(&self, beginning: &str) -> u64 {
        let text = self.get("/metrics").await.unwrap_or_default();
        let counts = text.lines().filter(|line| line.starts_with(beginning));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// A figure that it shows, by its name and labels.
    pub(crate) async fn figure(&self, row: &str) -> Option<f64> {
        let text = self.get("/metrics").await?;
        text.lines().find_map(|line| line.strip_prefix(row)?.trim().parse().ok())
    }

    /// What its counters say, for a failure's message.
    pub(crate) async fn counters(&self) -> String {
        let text = self.get("/metrics").await.unwrap_or_default();
        let of_interest = |line: &&str| line.starts_with("epic_") && !line.starts_with('#');
        text.lines().filter(of_interest).collect::<Vec<_>>().join("\n")
    }

    /// Runs `epic-operator uninstall` beside it with these arguments, and waits until that has ended well.
    pub(crate) async fn uninstall(&self, arguments: &[&str]) {
        let mut command = tokio::process::Command::new(program());
        command.arg("uninstall").args(arguments).arg("--kubeconfig").arg(&self.kubeconfig);
        let ended = command.stdin(Stdio::null()).output().await.expect("the command runs");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }

    /// What it keeps in memory, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("the operator runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number of kB");
        kib / 1024
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.ops).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            let _ = writeln!(std::io::stderr(), "the operator's last lines:\n{last}");
        }
        self.end();
    }
}

/// The rights of the operator's ServiceAccount, as a pod has them.
async fn write_kubeconfig(cluster: &Cluster, path: &std::path::Path) {
    let token = token(&cluster.admin, "epic", "epic-operator", None)
        .await
        .unwrap_or_else(|answer| panic!("{}", answer.message()));
    let admin =
        Kubeconfig::read_from(cluster.control_plane.kubeconfig()).expect("the administrator's kubeconfig");
    let known = admin.clusters.first().and_then(|named| named.cluster.clone()).expect("a cluster");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "operator",
        "clusters": [{"name": "operator", "cluster": {
            "server": known.server, "certificate-authority-data": known.certificate_authority_data,
        }}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "operator", "context": {"cluster": "operator", "user": "operator"}}],
    });
    std::fs::write(path, config.to_string()).expect("the operator's kubeconfig");
}
