//! State files, good and broken, and commands that are run once.

use std::path::Path;

use serde_json::{Value, json};

use crate::running::{Running, StateFile, run};

const TWO: &str = "
services:
- name: shop/web
  frontends: [{ address: 192.0.2.7, port: 80 }]
  backends: [{ address: 192.0.2.101, port: 8080 }, { address: 192.0.2.102, port: 8080, weight: 3 }]
  session-affinity-seconds: 60
- name: shop/api
  frontends: [{ address: 192.0.2.8, port: 443 }, { address: 192.0.2.7, port: 80 }]
  backends: [{ address: 192.0.2.103, port: 8443 }]
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_command_is_run_once_the_maps_hold_what_the_file_says() {
    let state = StateFile::new(TWO);
    let output = run(&state.path, &["--run", "selection 192.0.2.7:80", "-o", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let one = &answer[0];
    assert_eq!((&one["frontend"], &one["status"]), (&json!("192.0.2.7:80/TCP"), &json!("in the maps")));
    // Of two that want the address the one has it that precedes, and the other waits.
    assert_eq!((&one["service"], &one["waiting"]), (&json!("shop/api"), &json!(["shop/web"])));

    let output = run(&state.path, &["--run", "health", "--output", "json"]);
    let health: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!((&health["ok"], &health["reconciled"]), (&json!(true), &json!(true)), "{health:#}");
    assert_eq!(health["waiting-for"], json!([]));
    let parts = health["parts"].as_array().expect("parts");
    assert!(parts.iter().all(|part| part["ok"] == true), "{health:#}");
}

#[test]
fn several_commands_are_answered_in_turn_and_as_text() {
    let state = StateFile::new(TWO);
    let output =
        run(&state.path, &["--run", "db initialized", "--run", "lb-maps check", "--run", "db show backends"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("every source has listed"));
    assert_eq!(lines.next(), Some("9 entries, all as the rows want them"));
    assert!(said.contains("shop/web 192.0.2.102:8080/TCP (file)"), "{said}");
}

#[test]
fn a_command_that_is_not_understood_or_has_no_answer_fails_in_words() {
    let state = StateFile::new(TWO);
    let output = run(&state.path, &["--run", "selection 192.0.2.99:80"]);
    assert!(!output.status.success());
    assert!(text(&output.stdout).contains("error: no service has 192.0.2.99:80; type: db prefix frontends"));
    let output = run(&state.path, &["--run", "db show nothing", "--run", "db initialized"]);
    assert!(!output.status.success());
    assert!(text(&output.stdout).contains("every source has listed"), "the next one is answered");
}

#[test]
fn a_file_that_is_broken_or_missing_from_the_start_is_named_with_the_reason() {
    let state = StateFile::new("services: [{ name: web }]");
    let output = run(&state.path, &["--run", "db show services", "--wait", "1s"]);
    assert!(!output.status.success());
    let said = text(&output.stderr);
    assert!(said.contains("services.yaml: service web: a name has the form namespace/name"), "{said}");
    assert!(output.stdout.is_empty(), "nothing is answered of tables that are not there yet");

    let output = run(Path::new("/nonexistent/services.yaml"), &["--run", "health", "--wait", "1s"]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("cannot read /nonexistent/services.yaml"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_named() {
    let state = StateFile::new(TWO);
    let output = run(&state.path, &["--kubeconfig", "/nonexistent/kubeconfig", "--run", "health"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("cannot use the kubeconfig /nonexistent/kubeconfig"));
}

#[test]
fn a_file_that_breaks_keeps_the_services_of_before_and_is_named_until_it_is_mended() {
    let state = StateFile::new(TWO);
    let mut program = Running::start(&state.path, &[]);
    let file = |health: &Value| {
        let mut parts = health["parts"].as_array().expect("parts").iter();
        parts.find(|part| part["name"] == "file").cloned().expect("the file")
    };
    let good = program.until("health", |health| health["reconciled"] == true);
    assert_eq!(file(&good)["ok"], json!(true), "{good:#}");
    let (rows, entries) = (program.ask("db show backends"), program.ask("lb-maps dump"));

    state.replace("services: [{ name: shop/web, frontends: [");
    let broken = program.until("health", |health| file(health)["ok"] == false);
    let says = file(&broken)["says"].to_string();
    assert!(says.contains("services: 2") && says.contains("it is not understood"), "{says}");
    program.logs("the state file is not in force");
    assert_eq!((program.ask("db show backends"), program.ask("lb-maps dump")), (rows.clone(), entries));

    state.replace(TWO);
    program.until("health", |health| file(health)["ok"] == true);
    assert_eq!(program.ask("db show backends"), rows);

    // An empty state is a state, and takes the maps down to nothing.
    state.replace("services: []");
    program.until("db tables", |tables| {
        let tables = tables.as_array().expect("tables");
        tables.iter().all(|table| table["rows"] == 0)
    });
    program.until("health", |health| health["reconciled"] == true && health["entries"] == 0);
    assert!(!program.end(), "a line that is no command was among those that came through the pipe");
}

#[test]
fn a_watch_tells_each_change_until_the_next_command() {
    let state = StateFile::new(TWO);
    let mut program = Running::start(&state.path, &[]);
    program.watch("db watch backends");
    program.prints(&["+ ", "shop/web 192.0.2.101:8080/TCP"]);
    state.replace(&TWO.replace("weight: 3", "weight: 5"));
    program.prints(&["~ ", "shop/web 192.0.2.102:8080/TCP", " 5"]);
    state.replace("services: []");
    program.prints(&["- ", "shop/api 192.0.2.103:8443/TCP"]);
    assert!(program.ask("db initialized").contains("every source has listed"));
}

#[test]
fn maps_that_have_no_room_say_what_is_behind() {
    let state = StateFile::new(TWO);
    let output = run(&state.path, &["--room", "2", "--run", "reconciler status", "-o", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let behind: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let reasons = behind.to_string();
    assert!(reasons.contains("the maps have room for 2 backends, and all are in use"), "{behind:#}");
    assert!(text(&output.stderr).contains("epic-lb: the maps: degraded"), "{}", text(&output.stderr));
}
