//! Services that other processes give through the socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::running::{LONG, Running, StateFile};

/// A client of the socket.
struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects as soon as the socket is there.
    fn connect(path: &Path) -> Self {
        let deadline = Instant::now() + LONG;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LONG)).expect("a timeout");
                    return Self { stream: BufReader::new(stream) };
                }
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn say(&mut self, line: &Value) {
        writeln!(self.stream.get_mut(), "{line}").expect("the socket takes a line");
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the socket answers");
        serde_json::from_str(&line).expect("JSON")
    }

    fn hears(&mut self, wanted: &Value) {
        assert_eq!(self.hear(), *wanted);
    }

    fn register(&mut self, name: &str) {
        self.say(&json!({"register": {"name": name}}));
        self.hears(&json!({"ok": {}}));
        self.hears(&json!({"list": {}}));
    }
}

fn web(backend: &str) -> Value {
    json!({"name": "shop/web", "frontends": [{"address": "192.0.2.7", "port": 80}],
           "backends": [{"address": backend, "port": 8080}]})
}

#[test]
fn who_registers_at_the_socket_is_asked_and_asked_again_after_a_restart() {
    let state = StateFile::new("services: []");
    let path = state.path.with_file_name("services.sock");
    let arguments = ["--services-socket", &*path.to_string_lossy()];
    let mut program = Running::start(&state.path, &arguments);
    let mut client = Client::connect(&path);
    client.register("edge");
    client.say(&json!({"list": {"services": [web("10.0.0.1")]}}));
    client.hears(&json!({"ok": {}}));
    let selects = |backend: &'static str| move |answer: &Value| answer.to_string().contains(backend);
    program.until("selection 192.0.2.7:80", selects("10.0.0.1:8080"));
    client.say(&json!({"put": web("10.0.0.2")}));
    client.hears(&json!({"ok": {}}));
    program.until("selection 192.0.2.7:80", selects("10.0.0.2:8080"));
    let standing = |ok: bool| {
        move |health: &Value| {
            let parts = health["parts"].as_array().expect("parts");
            parts.iter().any(|part| part["name"] == "socket" && part["ok"] == ok)
        }
    };
    program.until("health", standing(true));

    // What was asked before it was there counts as not answered; that it ends is what matters.
    program.end();
    let mut program = Running::start(&state.path, &arguments);
    // What was kept is served before anybody returns, and said to be that.
    program.until("selection 192.0.2.7:80", selects("10.0.0.2:8080"));
    program.until("health", standing(false));
    let mut client = Client::connect(&path);
    client.register("edge");
    client.say(&json!({"list": {"services": []}}));
    client.hears(&json!({"ok": {}}));
    program.until("db prefix services shop/", |rows| *rows == json!([]));
    program.until("health", standing(true));
}

#[test]
fn a_namespace_that_is_given_to_one_client_is_refused_to_others() {
    let state = StateFile::new("services: []");
    let path = state.path.with_file_name("services.sock");
    let arguments = ["--services-socket", &*path.to_string_lossy(), "--services-namespace", "shop=edge"];
    let mut program = Running::start(&state.path, &arguments);
    let mut other = Client::connect(&path);
    other.register("other");
    other.say(&json!({"list": {"services": [web("10.0.0.9")]}}));
    let refused = other.hear();
    assert!(refused["refused"]["why"].to_string().contains("edge"), "{refused}");
    let mut client = Client::connect(&path);
    client.register("edge");
    client.say(&json!({"list": {"services": [web("10.0.0.1")]}}));
    client.hears(&json!({"ok": {}}));
    program.until("selection 192.0.2.7:80", |answer| answer.to_string().contains("10.0.0.1:8080"));
}
