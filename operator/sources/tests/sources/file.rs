//! The state file: what it says, what it refuses, and how it is followed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use epic_lb::{Here, Source, Writer};
use epic_model::edge;
use epic_sources::file::{Document, State, StateFile, apply};
use epic_sources::start;
use proptest::prelude::*;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::tables;

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_state_file_becomes_services_with_backups_and_preferences() {
    let text = "
services:
- name: kube-system/api-server
  frontends:
  - { address: 192.0.2.10, port: 6443, target: https }
  - { address: 192.0.2.10, port: 443, target: 6443 }
  backends:
  - { address: 10.0.0.1, port: 6443, port-names: [https], node: n1, zone: a }
  - { address: 10.0.0.2, port: 6443, port-names: [https], node: n2, zone: b, state: Maintenance }
  - { address: 10.0.0.3, port: 6443, port-names: [https], weight: 0 }
  distribution: SameZone
  session-affinity-seconds: 600
  source-ranges: [198.51.100.0/24]
  panic-threshold: 30
  health-check: { http: { path: /livez, statuses: [200, 204] }, interval: 2s, healthy-threshold: 2 }
  health-check-node-port: 30100
- name: shop/web
  frontends: [{ address: 192.0.2.11, port: 80 }]
  backup: shop/sorry
- name: shop/sorry
  backends: [{ address: 10.0.0.9, port: 8080 }]
";
    let writer = Writer::new().for_source(Source::File);
    let mut txn = writer.write();
    apply(&mut txn, Document::parse(text).unwrap());
    txn.commit();
    let here = Here { node: Some("n1"), zone: Some("a"), cluster: None };
    insta::assert_snapshot!(tables(&writer, here));
}

#[test]
fn a_health_check_has_the_defaults_of_a_service_group() {
    let text =
        "services: [{ name: a/b, health-check: { grpc: { service: shop }, timeout: 500ms, port: 9000 } }]";
    let document = Document::parse(text).unwrap();
    let check = document.rows()[0].service.edge.reach.check.clone();
    let default = edge::Check::new(edge::Probe::Grpc { service: "shop".to_owned() });
    assert_eq!(check, Some(edge::Check { timeout: Duration::from_millis(500), port: Some(9000), ..default }));
    assert_eq!(Document::parse(&document.to_yaml().unwrap()).unwrap(), document);
    let without = Document::parse("services: [{ name: a/b }]").unwrap();
    assert_eq!(without.rows()[0].service.edge.reach.check, None, "nobody is probed who was not asked for");
}

#[test]
fn what_cannot_be_is_refused_as_a_whole_with_the_service_and_what_to_write_instead() {
    let refusals: Vec<String> = [
        "services: [{ name: web }]",
        "services: [{ name: a/b }, { name: a/b }]",
        "services: [{ name: a/b, frontends: [{ address: 192.0.2.1, port: 0 }] }]",
        "services: [{ name: a/b, backends: [{ address: 192.0.2.1, port: 80, weight: 129 }] }]",
        "services: [{ name: a/b, backends: [{ address: 0.0.0.0, port: 80 }] }]",
        "services: [{ name: a/b, backup: a/b }]",
        "services: [{ name: a/b, panic-threshold: 101 }]",
        "services: [{ name: a/b, colour: red }]",
        "services: [{ name: a/b, health-check: {} }]",
        "services: [{ name: a/b, health-check: { tcp: {}, grpc: {} } }]",
        "services: [{ name: a/b, health-check: { tcp: {}, interval: 1ms } }]",
        "services: [{ name: a/b, health-check: { tcp: {}, timeout: soon } }]",
        "services: [{ name: a/b, health-check: { tcp: {}, unhealthy-threshold: 0 } }]",
        "services: [{ name: a/b, health-check: { tcp: {}, port: 0 } }]",
        "services: [{ name: a/b, health-check: { http: { path: livez } } }]",
        "services: [{ name: a/b, health-check: { http: { path: /, statuses: [7] } } }]",
        "services: [{ name: a/b, health-check-node-port: 0 }]",
        "services: [{ name: a/b, health-check-node-port: 80 }, { name: a/c, health-check-node-port: 80 }]",
        "services: [{ name: a/b, frontends: [{ address: nowhere, port: 80 }] }]",
        "services: {",
    ]
    .iter()
    .map(|text| Document::parse(text).unwrap_err().to_string())
    .collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

/// Replaces a file as a whole.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("next");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

async fn until(state: &mut watch::Receiver<State>, wanted: impl FnMut(&State) -> bool) -> State {
    tokio::time::timeout(LONG, state.wait_for(wanted)).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn a_broken_file_keeps_the_state_of_before_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.yaml");
    let writer = Writer::new();
    let (file, mut state) = StateFile::new(&path);
    let stop = CancellationToken::new();
    let task = start(file, &writer, stop.clone());
    // A file that is not there yet is no empty one: nothing may be pruned for want of it.
    let said = until(&mut state, |state| state.error.is_some()).await;
    assert!(said.error.unwrap().contains("services.yaml"));
    assert!(!writer.snapshot().initialized());

    replace(&path, "services: [{ name: a/b, frontends: [{ address: 192.0.2.1, port: 80 }] }]");
    until(&mut state, |state| state.services == Some(1) && state.error.is_none()).await;
    assert!(writer.snapshot().initialized());
    assert_eq!(writer.snapshot().frontends.len(), 1);

    replace(&path, "services: [{ name: a/b, frontends: [");
    until(&mut state, |state| state.error.is_some()).await;
    assert_eq!(writer.snapshot().frontends.len(), 1);

    replace(&path, "services: []");
    until(&mut state, |state| state.services == Some(0) && state.error.is_none()).await;
    assert!(writer.snapshot().services.is_empty());
    fs::remove_file(&path).unwrap();
    until(&mut state, |state| state.error.is_some()).await;
    stop.cancel();
    tokio::time::timeout(LONG, task).await.unwrap().unwrap();
}

fn name() -> impl Strategy<Value = String> {
    "[a-z]{1,5}/[a-z]{1,5}"
}

fn document() -> impl Strategy<Value = String> {
    let backend = (any::<u8>(), 1u16.., 0u16..129, prop::option::of("[a-z]{1,4}"));
    let backend = backend.prop_map(|(last, port, weight, zone)| {
        let zone = zone.map(|zone| format!(", zone: z{zone}")).unwrap_or_default();
        format!("{{ address: 10.0.0.{last}, port: {port}, weight: {weight}{zone} }}")
    });
    let service = (name(), prop::collection::vec(backend, 0..5), 0u8..101);
    let service = service.prop_map(|(name, backends, panic)| {
        format!("- name: {name}\n  panic-threshold: {panic}\n  backends: [{}]\n", backends.join(", "))
    });
    prop::collection::vec(service, 0..4).prop_map(|services| format!("services:\n{}", services.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = Document::parse(&text);
        let _ = Document::parse(&format!("services:\n- name: {text}"));
    }

    #[test]
    fn a_document_is_the_same_after_it_was_written_and_read(text in document()) {
        // Names or places that stand there twice are refused.
        if let Ok(document) = Document::parse(&text) {
            let again = Document::parse(&document.to_yaml().unwrap()).unwrap();
            prop_assert_eq!(&again, &document);
            prop_assert_eq!(again.rows(), document.rows());
        }
    }
}
