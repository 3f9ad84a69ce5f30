//! Services from a real etcd, beside a state file.

use epic_etcd::Server;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::running::{Running, StateFile};

/// An etcd, and what its client runs on.
struct Etcd {
    server: Server,
    // Dropped last: it waits for the process.
    runtime: Runtime,
}

impl Etcd {
    /// One that is away.
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self { server: Server::new(), runtime: runtime.expect("a runtime") }
    }

    fn run(&mut self) {
        self.runtime.block_on(self.server.run());
    }

    fn stop(&mut self) {
        self.runtime.block_on(self.server.stop());
    }

    fn put(&self, key: &str, value: &Value) {
        self.runtime.block_on(self.server.put(key, value.to_string()));
    }

    fn delete(&self, key: &str) {
        self.runtime.block_on(self.server.delete(key));
    }
}

fn web(backend: &str) -> Value {
    json!({"name": "shop/web", "frontends": [{"address": "192.0.2.7", "port": 80}],
           "backends": [{"address": backend, "port": 8080}]})
}

/// Whether part `etcd` of `health` is as wanted and says this.
fn says(ok: bool, text: &str) -> impl Fn(&Value) -> bool {
    move |health| {
        let parts = health["parts"].as_array().expect("parts");
        let says = |part: &Value| part["says"].as_str().is_some_and(|says| says.contains(text));
        parts.iter().any(|part| part["name"] == "etcd" && part["ok"] == ok && says(part))
    }
}

fn selects(backend: &str) -> impl Fn(&Value) -> bool {
    move |answer| answer.to_string().contains(backend)
}

#[test]
fn services_of_an_etcd_are_followed_and_kept_while_it_is_away() {
    let mut etcd = Etcd::new();
    let state = StateFile::new("services: []");
    let address = etcd.server.address();
    let arguments = ["--etcd", &address, "--etcd-prefix", "/services", "--wait", "1s"];
    let mut program = Running::start(&state.path, &arguments);
    program.until("health", says(false, "is not followed"));
    let waits = program.ask("db initialized");
    assert!(waits.contains(&format!("waiting for etcd {address}")), "{waits}");

    etcd.run();
    etcd.put("/services/shop/web", &web("10.0.0.1"));
    program.until("selection 192.0.2.7:80", selects("10.0.0.1:8080"));
    program.until("health", says(true, "in force as of revision"));
    etcd.put("/services/shop/web", &web("10.0.0.2"));
    program.until("selection 192.0.2.7:80", selects("10.0.0.2:8080"));
    assert!(program.ask("db show services").contains("shop/web (key-value)"));

    // What is not understood is named and changes nothing; so does an etcd that is away.
    etcd.put("/services/shop/web", &json!({"name": "shop/web", "colour": "red"}));
    program.until("health", says(false, "/services/shop/web"));
    etcd.stop();
    program.until("health", says(false, "is not followed"));
    program.until("selection 192.0.2.7:80", selects("10.0.0.2:8080"));

    etcd.run();
    etcd.delete("/services/shop/web");
    program.until("db prefix services shop/", |rows| *rows == json!([]));
    program.until("health", says(true, "in force as of revision"));
}
