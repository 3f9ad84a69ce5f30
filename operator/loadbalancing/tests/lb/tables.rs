//! Tables and Writer.

use std::sync::Arc;

use epic_lb::{
    Backend, BackendState, Change, FrontendKey, FrontendParams, Protocol, Role, Service, Source, TableId,
    TargetPort, WriteError, Writer, debug_dump,
};

use crate::support::{frontend, ip, name, proxy_backend, service, writer};

const WEB: &str = "acme/web";

fn with_service() -> Writer {
    let writer = writer();
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), vec![frontend(WEB, "192.0.2.7", 80, 0)]).unwrap();
    txn.commit();
    writer
}

fn endpoint(address: &str, port: u16) -> Backend {
    Backend::new(name(WEB), ip(address), port, Protocol::Tcp)
}

fn selected(writer: &Writer) -> Vec<(String, Role)> {
    let snapshot = writer.snapshot();
    let frontend = snapshot.frontends_of(&name(WEB)).next().unwrap();
    frontend.backends.iter().map(|s| (s.backend.key.address.to_string(), s.role)).collect()
}

#[test]
fn a_reader_keeps_its_snapshot_while_others_write() {
    let writer = with_service();
    let before = writer.snapshot();
    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name(WEB));
    txn.commit();
    assert_eq!(before.services.len(), 1);
    assert!(writer.snapshot().services.is_empty());
}

#[test]
fn an_aborted_transaction_leaves_no_trace() {
    let writer = with_service();
    let before = writer.snapshot();
    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name(WEB));
    txn.abort();
    assert!(Arc::ptr_eq(&before, &writer.snapshot()));
}

#[test]
fn equal_rows_give_no_new_revision_and_wake_nobody() {
    let writer = with_service();
    let watch = writer.tables().watch_any();
    let before = writer.snapshot().revision();
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), vec![frontend(WEB, "192.0.2.7", 80, 0)]).unwrap();
    assert_eq!(txn.commit(), before);
    assert!(!watch.has_changed().unwrap());
}

#[test]
fn a_watch_wakes_for_its_own_table_only() {
    let writer = with_service();
    let (backends, services) =
        (writer.tables().watch(TableId::Backends), writer.tables().watch(TableId::Services));
    let mut txn = writer.write();
    txn.upsert_backends(&name(WEB), Source::Resource, [endpoint("10.0.0.1", 80)]);
    txn.commit();
    assert!(backends.has_changed().unwrap());
    assert!(!services.has_changed().unwrap());
}

#[test]
fn change_iterators_see_deletions_and_only_the_latest_form() {
    let writer = with_service();
    let mut changes = writer.tables().changes::<Service>(true);
    assert!(matches!(changes.poll().0[..], [Change::Added(_)]));
    assert!(changes.poll().0.is_empty());
    for generation in 2..5 {
        let mut txn = writer.write();
        txn.upsert_service(service(WEB, 1, 1, generation));
        txn.commit();
    }
    let (seen, _) = changes.poll();
    assert!(
        matches!(&seen[..], [Change::Updated { old, new }] if old.key_generation == 1 && new.key_generation == 4)
    );
    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name(WEB));
    txn.commit();
    assert!(matches!(&changes.poll().0[..], [Change::Removed(row)] if row.name == name(WEB)));
}

#[tokio::test]
async fn a_change_iterator_waits_until_there_is_something() {
    let writer = writer();
    let mut changes = writer.tables().changes::<Service>(true);
    let wait = tokio::spawn(async move {
        changes.changed().await;
        changes.poll().0.len()
    });
    let mut txn = writer.write();
    txn.upsert_service(service(WEB, 1, 1, 1));
    txn.commit();
    assert_eq!(wait.await.unwrap(), 1);
}

#[test]
fn a_service_given_with_a_foreign_address_is_not_written_at_all() {
    let writer = with_service();
    let mut txn = writer.write();
    let other = service("acme/other", 1, 2, 1);
    let wanted = vec![frontend("acme/other", "192.0.2.8", 80, 0), frontend("acme/other", "192.0.2.7", 80, 1)];
    let error = txn.upsert_service_and_frontends(other.clone(), wanted.clone()).unwrap_err();
    assert!(matches!(error, WriteError::AddressConflict { .. }));
    assert!(txn.snapshot().services.get(&other.name).is_none());
    txn.delete_service_and_frontends(&name(WEB));
    txn.upsert_service_and_frontends(other, wanted).unwrap();
    txn.commit();
    assert_eq!(writer.snapshot().frontends.len(), 2);
}

#[test]
fn frontends_that_are_not_given_again_go() {
    let writer = with_service();
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), vec![frontend(WEB, "192.0.2.7", 443, 1)])
        .unwrap();
    txn.commit();
    let keys: Vec<FrontendKey> = writer.snapshot().frontends.iter().map(|f| f.params.key).collect();
    assert_eq!(keys, [FrontendKey::new(ip("192.0.2.7"), 443, Protocol::Tcp)]);
}

#[test]
fn a_source_removes_only_its_own_backends() {
    let writer = with_service();
    let mut txn = writer.write();
    txn.set_backends(&name(WEB), Source::Resource, [endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80)]);
    txn.set_backends(&name(WEB), Source::File, [endpoint("10.0.0.3", 80)]);
    txn.set_backends(&name(WEB), Source::Resource, [endpoint("10.0.0.2", 80)]);
    txn.commit();
    let addresses: Vec<String> = selected(&writer).into_iter().map(|(a, _)| a).collect();
    assert_eq!(addresses, ["10.0.0.2", "10.0.0.3"]);
    let mut txn = writer.write();
    assert_eq!(txn.delete_backends_by_source(Source::File), 1);
    assert_eq!(txn.release_backends_from_source(&name(WEB), Source::Resource), 1);
    txn.commit();
    assert!(selected(&writer).is_empty());
}

#[test]
fn services_of_a_source_go_with_it() {
    let writer = with_service();
    let mut txn = writer.write();
    txn.upsert_service(Service { source: Source::File, ..service("acme/file", 1, 2, 1) });
    assert_eq!(txn.delete_services_by_source(Source::Resource), 1);
    txn.commit();
    let names: Vec<String> = writer.snapshot().services.iter().map(|s| s.name.to_string()).collect();
    assert_eq!(names, ["acme/file"]);
}

#[test]
fn a_health_verdict_survives_updates_and_reaches_every_source() {
    let writer = with_service();
    let mut txn = writer.write();
    txn.upsert_backends(&name(WEB), Source::Resource, [endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80)]);
    txn.upsert_backends(&name(WEB), Source::File, [endpoint("10.0.0.1", 80)]);
    assert_eq!(txn.set_backend_health(ip("10.0.0.1"), 80, Protocol::Tcp, false), 2);
    assert_eq!(txn.set_backend_health(ip("10.0.0.1"), 80, Protocol::Tcp, false), 0);
    let heavier = Backend { weight: 9, ..endpoint("10.0.0.1", 80) };
    txn.upsert_backends(&name(WEB), Source::Resource, [heavier]);
    txn.commit();
    assert_eq!(
        selected(&writer),
        [("10.0.0.2".to_owned(), Role::Serving), ("10.0.0.1".to_owned(), Role::ExistingOnly)]
    );
}

#[test]
fn draining_backends_keep_their_flows_and_terminating_ones_serve_when_nothing_else_does() {
    let writer = with_service();
    let set = |states: &[BackendState]| {
        let mut txn = writer.write();
        let backends =
            states.iter().zip(1u32..).map(|(state, id)| Backend { state: *state, ..proxy_backend(WEB, id) });
        txn.set_backends(&name(WEB), Source::Resource, backends);
        txn.commit();
        selected(&writer).into_iter().map(|(_, role)| role).collect::<Vec<_>>()
    };
    use BackendState::{Active, Draining, Maintenance, Terminating};
    use Role::{ExistingOnly, Serving};
    assert_eq!(set(&[Draining, Active, Terminating]), [Serving, ExistingOnly, ExistingOnly]);
    assert_eq!(set(&[Draining, Terminating, Maintenance]), [Serving, ExistingOnly, ExistingOnly]);
    assert_eq!(set(&[Draining, Maintenance]), [ExistingOnly, ExistingOnly]);
}

#[test]
fn endpoints_serve_ports_by_name_by_number_or_by_the_name_of_the_target() {
    let writer = writer();
    let port = |port: u16, port_name: Option<&str>, target: TargetPort| FrontendParams {
        port_name: port_name.map(Into::into),
        target_port: Some(target),
        ..frontend(WEB, "192.0.2.7", port, port)
    };
    let mut txn = writer.write();
    let frontends = vec![
        port(80, Some("web"), TargetPort::Number(1)),
        port(81, None, TargetPort::Number(8080)),
        port(82, None, TargetPort::Name("admin".into())),
    ];
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), frontends).unwrap();
    let named =
        |address, port, name: &str| Backend { port_names: vec![name.into()], ..endpoint(address, port) };
    txn.set_backends(
        &name(WEB),
        Source::Resource,
        [named("10.0.0.1", 8080, "web"), named("10.0.0.2", 9090, "admin"), endpoint("10.0.0.3", 8080)],
    );
    txn.commit();
    let of = |wanted: u16| -> Vec<String> {
        let snapshot = writer.snapshot();
        let frontend =
            snapshot.frontends_of(&name(WEB)).find(|f| f.params.key.port == wanted).unwrap().clone();
        frontend.serving().map(|b| b.key.address.to_string()).collect()
    };
    assert_eq!(of(80), ["10.0.0.1"]);
    assert_eq!(of(81), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(of(82), ["10.0.0.2"]);
}

#[test]
fn pending_initializers_are_named_until_they_complete_and_an_abort_is_no_completion() {
    let writer = writer();
    let (a, b) = (writer.register_initializer("services"), writer.register_initializer("endpoints"));
    let pending = |writer: &Writer| {
        let names = writer.snapshot().pending_initializers();
        names.iter().map(|n| n.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(pending(&writer), ["endpoints", "services"]);
    let mut txn = writer.write();
    a.complete(&mut txn);
    txn.commit();
    assert_eq!(pending(&writer), ["endpoints"]);
    let mut txn = writer.write();
    b.complete(&mut txn);
    txn.abort();
    assert!(!writer.snapshot().initialized());
}

#[test]
fn a_dump_never_shows_a_key() {
    let writer = with_service();
    let mut out = String::new();
    debug_dump(&writer.snapshot(), &mut out).unwrap();
    assert!(out.contains("keys=known"));
    let row = format!("{:?}", writer.snapshot().services.get(&name(WEB)).unwrap());
    assert!(row.contains("Key(..)"), "{row}");
}

#[test]
fn of_many_rows_every_single_change_is_seen() {
    let writer = writer();
    let numbered = |number: u16, generation| service(&format!("acme/s{number}"), 1, number, generation);
    let mut txn = writer.write();
    for number in 1..=500 {
        txn.upsert_service(numbered(number, 1));
    }
    txn.commit();
    let mut changes = writer.tables().changes::<Service>(false);
    for number in 1..=500 {
        let changed = numbered(number, 2);
        let mut txn = writer.write();
        txn.upsert_service(changed.clone());
        txn.commit();
        let seen = changes.poll().0;
        assert!(matches!(&seen[..], [Change::Updated { new, .. }] if **new == changed), "{number}: {seen:?}");
    }
}
