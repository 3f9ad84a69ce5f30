//! Backends that die and come back: verdicts, selection, maps, health check node ports.

use serde_json::Value;

use crate::running::{Backend, Running, StateFile, free_port, get, get_until};

const CHECK: &str = "health-check: { tcp: {}, interval: 100ms, timeout: 2s, unhealthy-threshold: 2 }";

/// Backends that take new flows of a frontend, by `selection`.
fn serving(answer: &Value) -> Vec<String> {
    let backends = answer[0]["backends"].as_array().expect("backends");
    let serving = backends.iter().filter(|backend| backend["role"] == "serving");
    serving.map(|backend| backend["backend"].as_str().expect("a key").to_owned()).collect()
}

/// How many members the maps have for a public port.
fn members(program: &mut Running, vip: &str) -> u64 {
    let dump = program.ask_json(&format!("lb-maps dump {vip}"));
    let entries = dump.as_array().expect("entries");
    let service =
        entries.iter().find(|entry| entry["map"] == "services").expect("an entry of the public port");
    let value = service["value"].as_str().expect("a value");
    let count = value.split("members ").nth(1).and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).expect("a number of members")
}

/// Verdicts of a service: backends that are healthy, and those that are not.
fn verdicts(answer: &Value) -> (usize, usize) {
    let rows = answer.as_array().expect("rows");
    let healthy = rows.iter().filter(|row| row["healthy"] == true).count();
    (healthy, rows.len() - healthy)
}

#[test]
fn a_backend_that_dies_is_no_longer_selected_and_comes_back() {
    let (mut first, second, other) = (Backend::new(1), Backend::new(2), Backend::new(3));
    let state = StateFile::new(&format!(
        "
services:
- name: shop/web
  frontends: [{{ address: 192.0.2.7, port: 80 }}]
  backends: [{}, {}]
  {CHECK}
- name: shop/api
  frontends: [{{ address: 192.0.2.8, port: 443 }}]
  backends: [{}]
  {CHECK}
",
        first.member(""),
        second.member(""),
        other.member("")
    ));
    let mut program = Running::start(&state.path, &[]);
    program.until("db prefix verdicts shop/", |rows| verdicts(rows) == (3, 0));
    program.until("selection 192.0.2.7:80", |answer| serving(answer).len() == 2);
    assert_eq!(members(&mut program, "192.0.2.7:80"), 2);

    first.die();
    let verdict = program.until("db prefix verdicts shop/web", |rows| verdicts(rows) == (1, 1));
    assert!(verdict.to_string().contains("connection refused"), "{verdict:#}");
    let left = program.until("selection 192.0.2.7:80", |answer| serving(answer).len() == 1);
    assert!(serving(&left)[0].contains(&second.address.to_string()), "{left:#}");
    assert!(left.to_string().contains("connection refused"), "the reason is told: {left:#}");
    program.until("health", |health| health["reconciled"] == true);
    assert_eq!(members(&mut program, "192.0.2.7:80"), 1);
    let check = program.until("lb-maps check", |check| check["reconciled"] == true);
    assert_eq!(check["findings"], Value::Array(Vec::new()), "{check:#}");
    // The other service has nothing to do with it.
    assert_eq!(serving(&program.ask_json("selection 192.0.2.8:443")).len(), 1);

    first.come_back();
    program.until("selection 192.0.2.7:80", |answer| serving(answer).len() == 2);
    program.until("health", |health| health["reconciled"] == true);
    assert_eq!(members(&mut program, "192.0.2.7:80"), 2);
    program.until("db prefix verdicts shop/", |rows| verdicts(rows) == (3, 0));
}

#[test]
fn verdicts_follow_what_the_file_says_of_probing() {
    let mut backend = Backend::new(4);
    backend.die();
    let text = |state: &str, check: &str| {
        let member = backend.member(state);
        format!(
            "services:\n- name: shop/web\n  frontends: [{{ address: 192.0.2.7, port: 80 }}]\n  backends: [{member}]\n  {check}\n"
        )
    };
    let state = StateFile::new(&text("", CHECK));
    let mut program = Running::start(&state.path, &[]);
    program.until("db show verdicts", |rows| verdicts(rows) == (0, 1));

    // An administrator has it in hand: it is not probed, and nothing is known of it.
    state.replace(&text(", state: Maintenance", CHECK));
    program.until("db show verdicts", |rows| verdicts(rows) == (0, 0));
    state.replace(&text("", CHECK));
    program.until("db show verdicts", |rows| verdicts(rows) == (0, 1));

    // Without a check it counts as healthy.
    state.replace(&text("", ""));
    program.until("db show verdicts", |rows| verdicts(rows) == (0, 0));
    program.until("selection 192.0.2.7:80", |answer| serving(answer).len() == 1);

    // What cannot be probed is said in words.
    state.replace(&text(", protocol: UDP", CHECK));
    let health = program.until("health", |health| health["parts"].to_string().contains("is not TCP"));
    let parts = health["parts"].as_array().expect("parts");
    assert!(parts.iter().any(|part| part["name"] == "checks" && part["ok"] == false), "{health:#}");
    program.logs("is not TCP");
    assert_eq!(verdicts(&program.ask_json("db show verdicts")), (0, 0));
}

#[test]
fn a_health_check_node_port_says_what_this_node_serves() {
    let (mut here, there) = (Backend::new(5), Backend::new(6));
    let (port, vips) = (free_port(), free_port());
    let text = |port: u16| {
        format!(
            "
services:
- name: shop/web
  frontends: [{{ address: 192.0.2.7, port: 80 }}]
  external-traffic-policy: Local
  health-check-node-port: {port}
  backends: [{}, {}]
  {CHECK}
",
            here.member(", node: n1"),
            there.member(", node: n2")
        )
    };
    let state = StateFile::new(&text(port));
    let vip_port = vips.to_string();
    let mut program = Running::start(&state.path, &["--node", "n1", "--vip-port", &vip_port]);
    let body: Value = serde_json::from_str(&get_until(port, "/", 200)).expect("JSON");
    assert_eq!(body["service"], serde_json::json!({"namespace": "shop", "name": "web"}));
    assert_eq!((&body["localEndpoints"], &body["serviceProxyHealthy"]), (&1.into(), &true.into()));
    let body: Value = serde_json::from_str(&get_until(vips, "/vip/192.0.2.7", 200)).expect("JSON");
    assert_eq!((&body["served"], &body["backends"]), (&true.into(), &1.into()));
    assert!(get_until(vips, "/vip/192.0.2.99", 503).contains("no load balancer of this node"));

    let moved = text(free_port());
    here.die();
    let body = get_until(port, "/", 503);
    assert!(body.contains("\"localEndpoints\": 0"), "{body}");
    assert!(get_until(vips, "/vip/192.0.2.7", 503).contains("nothing of shop/web serves 192.0.2.7:80/TCP"));
    here.come_back();
    get_until(port, "/", 200);
    get_until(vips, "/vip/192.0.2.7", 200);

    // The port of before is closed.
    state.replace(&moved);
    let deadline = std::time::Instant::now() + crate::running::LONG;
    while get(port, "/").is_some() {
        assert!(std::time::Instant::now() < deadline, "the port is still open");
    }
    let health = program.ask_json("health");
    assert!(health["parts"].to_string().contains("every health check node port is served"), "{health:#}");
}
