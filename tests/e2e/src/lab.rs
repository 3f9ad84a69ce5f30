//! The staged lab, as the end-to-end tests use it: hosts, objects, agents, waits.
//!
//! `hack/stage` does everything that can be done from a shell; this adds what a test needs closely: requests sent in a
//! host's network namespace from within the test, the API by a client of its own, conditions awaited with a deadline.
//! Whatever cannot be had panics with a sentence and the evidence; nothing is skipped.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use epic_control_plane::{Answer, Request};
use epic_testnet::Netns;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// How long a change may take to reach everybody on a busy machine. How long it does take is what the bench measures.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// The lab with EPIC and the samples in it.
#[derive(Clone, Debug)]
pub struct Lab {
    top: PathBuf,
    folder: PathBuf,
}

impl Lab {
    /// Brings everything up, or up to date; its progress goes to standard output. With `STAGED` in the environment the
    /// lab is taken as it is.
    pub fn up() -> Self {
        let lab = Self::here();
        if std::env::var_os("STAGED").is_some() {
            return lab;
        }
        let status = lab.command("stage", &["up"]).status();
        assert!(
            status.as_ref().is_ok_and(std::process::ExitStatus::success),
            "the lab cannot be staged ({status:?}); needs root, hack/setup and hack/tools/build"
        );
        lab
    }

    fn here() -> Self {
        let top = PathBuf::from(env!("EPIC_CHECKOUT"));
        let folder = std::env::var_os("EPIC_LAB_DIR").map_or_else(
            || {
                let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
                let home = std::env::var_os("HOME").map(PathBuf::from);
                let cache = cache.or(home.map(|home| home.join(".cache"))).expect("HOME is set");
                cache.join("epic/lab-test")
            },
            PathBuf::from,
        );
        Self { top, folder }
    }

    /// Takes the lab down, and all with it.
    pub fn down(&self) {
        let _ = self.command("stage", &["down"]).status();
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.top.join("hack").join(script));
        // Debug builds: what is tested is the same, and CI has built them already.
        let profile = std::env::var("EPIC_PROFILE").unwrap_or_else(|_| "dev".to_owned());
        command.args(arguments).env("EPIC_LAB_DIR", &self.folder).env("EPIC_PROFILE", profile);
        command.current_dir(&self.top).stdin(Stdio::null());
        command
    }

    fn output(&self, script: &str, arguments: &[&str]) -> Result<String, String> {
        let done =
            self.command(script, arguments).output().map_err(|error| format!("hack/{script}: {error}"))?;
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&done.stderr);
            Err(format!("hack/{script} {} failed: {said}", arguments.join(" ")))
        }
    }

    /// Runs `hack/stage ARGUMENTS` and returns what it prints.
    #[track_caller]
    pub fn stage(&self, arguments: &[&str]) -> String {
        self.output("stage", arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs `hack/lab ARGUMENTS` and returns what it prints.
    #[track_caller]
    pub fn lab(&self, arguments: &[&str]) -> String {
        self.output("lab", arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs `hack/lab ARGUMENTS` and returns what it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn try_lab(&self, arguments: &[&str]) -> Result<String, String> {
        self.output("lab", arguments)
    }

    /// Path of a program of `hack/tools`.
    #[track_caller]
    pub fn tool(&self, name: &str) -> String {
        let folder = self.output("tools/build", &[name]).unwrap_or_else(|error| panic!("{error}"));
        format!("{}/{name}", folder.trim())
    }

    /// What is not as it should be, for a failure.
    pub fn why(&self) -> String {
        self.output("stage", &["why"]).unwrap_or_else(|error| error)
    }

    /// Folder of the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The network of a host.
    #[track_caller]
    pub fn host(&self, name: &str) -> Netns {
        let file = self.folder.join("hosts").join(name).join("pid");
        let pid = std::fs::read_to_string(&file).ok().and_then(|pid| pid.trim().parse().ok());
        Netns::of_process(
            name,
            pid.unwrap_or_else(|| panic!("the lab has no host {name} ({})", file.display())),
        )
    }

    /// Sends a request to the API server as the administrator.
    pub fn send(&self, request: Request) -> Answer {
        let kubeconfig = self.folder.join("kubeconfig");
        self.host("cp").run(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let kubeconfig = Kubeconfig::read_from(&kubeconfig).expect("the lab's kubeconfig");
                let options = KubeConfigOptions::default();
                let config =
                    Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a kubeconfig");
                let client = Client::try_from(config).expect("a client");
                request.send(&client).await
            })
        })
    }

    /// An object or a list by its path; `None` when it does not exist.
    ///
    /// # Panics
    /// When the API server refuses or does not answer.
    #[track_caller]
    pub fn find(&self, path: &str) -> Option<Value> {
        let answer = self.send(Request::get(path));
        if answer.code == 404 { None } else { Some(answer.expect_ok()) }
    }

    /// An object or a list by its path.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.find(path).unwrap_or_else(|| panic!("{path} does not exist"))
    }

    /// The items of a list.
    #[track_caller]
    pub fn list(&self, path: &str) -> Vec<Value> {
        match self.get(path)["items"].take() {
            Value::Array(items) => items,
            other => panic!("{path} is no list: {other}"),
        }
    }

    /// Applies an object.
    #[track_caller]
    pub fn apply(&self, object: &Value) -> Value {
        self.send(Request::apply(object)).expect_ok()
    }

    /// Changes an object by a merge patch.
    #[track_caller]
    pub fn change(&self, path: &str, patch: &Value) -> Value {
        self.send(Request::merge(path, patch)).expect_ok()
    }

    /// Deletes by path what may exist.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        let answer = self.send(Request::delete(path));
        assert!(answer.is_ok() || answer.code == 404, "cannot delete {path}: {}", answer.message());
    }

    /// Deletes what was in use until a moment ago: it is refused until the operator has counted again.
    #[track_caller]
    pub fn delete_after_use(&self, path: &str) {
        self.until(&format!("{path} can be deleted"), || {
            let answer = self.send(Request::delete(path));
            if answer.is_ok() || answer.code == 404 { Ok(()) } else { Err(answer.message().to_owned()) }
        });
    }

    /// Waits until there is an answer; what `ask` says meanwhile is in the failure.
    #[track_caller]
    pub fn until<T, E: Debug>(&self, what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Ok(answer) => return answer,
                Err(last) => {
                    assert!(
                        Instant::now() < deadline,
                        "{what}: not within {PATIENCE:?}; last seen: {last:?}"
                    );
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until an object has these conditions.
    #[track_caller]
    pub fn until_true(&self, path: &str, conditions: &[&str]) -> Value {
        self.until(&format!("{path} is {}", conditions.join(", ")), || {
            let object = self.find(path).ok_or_else(|| "it does not exist".to_owned())?;
            match conditions.iter().find(|condition| !is_true(&object, condition)) {
                None => Ok(object),
                Some(_) => Err(object["status"]["conditions"].to_string()),
            }
        })
    }

    /// `host:port` of a LoadBalancer's first public port.
    #[track_caller]
    pub fn vip(&self, namespace: &str, name: &str) -> SocketAddr {
        let object = self.get(&load_balancer(namespace, name));
        let address =
            object["status"]["public-address"].as_str().expect("an address").parse().expect("an address");
        let port = object["spec"]["public-ports"][0]["port"].as_u64().expect("a port");
        SocketAddr::new(address, u16::try_from(port).expect("a port"))
    }

    /// What `epic-agent tunnels` says on a host, by tunnel id.
    #[track_caller]
    pub fn tunnels(&self, host: &str) -> Vec<Value> {
        let text = self.stage(&["agent", host, "tunnels", "--output", "json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("tunnels of {host}: {error}: {text}"))
    }

    /// Names of the nodes.
    #[track_caller]
    pub fn nodes(&self) -> Vec<String> {
        let nodes = self.list("/api/v1/nodes");
        nodes.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    /// A counter of the agent on a host, all its labels added up that hold `label`.
    #[track_caller]
    pub fn counter(&self, host: &str, name: &str, label: &str) -> u64 {
        let port = if host.starts_with("node") { 9980 } else { 9981 };
        let text = self.host(host).run(|| {
            let to = SocketAddr::from(([127, 0, 0, 1], port));
            let body =
                epic_traffic::Question::new(to).connect().and_then(|mut c| c.exchange("/metrics", true));
            String::from_utf8_lossy(&body.unwrap_or_else(|error| panic!("metrics of {host}: {error}")))
                .into_owned()
        });
        let ours = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }
}

/// Path of a LoadBalancer.
pub fn load_balancer(namespace: &str, name: &str) -> String {
    format!("/apis/epic.acnodal.io/v1/namespaces/{namespace}/loadbalancers/{name}")
}

/// Path of an Endpoint.
pub fn endpoint(namespace: &str, name: &str) -> String {
    format!("/apis/epic.acnodal.io/v1/namespaces/{namespace}/endpoints/{name}")
}

/// Whether an object has a condition with status True.
pub fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == condition && one["status"] == "True"))
}
