//! Tables and Writer: who has what, whatever order it was said in.

use std::collections::BTreeMap;

use epic_lb::{
    Backend, BackendState, Claimed, Frontend, FrontendKey, Locality, Name, Place, Protocol, Role, Selection,
    Service, Since, Source, TableId, TargetPort, Traffic, WriteError, Writer,
};
use epic_store::{Query, Schema as _};
use proptest::prelude::*;

use crate::support::{frontend, ip, name, proxy_backend, service};

const WEB: &str = "acme/web";

fn with_service() -> Writer {
    let writer = Writer::new();
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
    let frontend = snapshot.frontends_of(name(WEB).id()).next().unwrap();
    let selection = Selection::of(&snapshot, frontend, epic_lb::Here::default());
    selection.iter().map(|s| (s.backend.place.address.to_string(), s.role)).collect()
}

fn serving(writer: &Writer) -> Vec<String> {
    selected(writer).into_iter().filter(|(_, role)| *role == Role::Serving).map(|(a, _)| a).collect()
}

#[test]
fn an_aborted_transaction_leaves_no_trace_and_equal_rows_no_new_revision() {
    let writer = with_service();
    let before = writer.snapshot().revision();
    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name(WEB));
    txn.abort();
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), vec![frontend(WEB, "192.0.2.7", 80, 0)]).unwrap();
    assert_eq!(txn.commit(), before);
}

#[test]
fn a_frontend_needs_its_service_and_is_given_with_its_own() {
    let writer = Writer::new();
    let mut txn = writer.write();
    let error = txn.upsert_frontend(frontend(WEB, "192.0.2.7", 80, 0)).unwrap_err();
    assert!(matches!(&error, WriteError::ServiceNotFound { .. }));
    assert!(error.to_string().ends_with("upsert the service first"), "{error}");
    let foreign = vec![frontend("acme/other", "192.0.2.7", 80, 0)];
    let error = txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), foreign).unwrap_err();
    assert!(matches!(error, WriteError::ForeignFrontend { .. }));
    assert!(txn.tables().services.is_empty(), "all or nothing");
}

#[test]
fn frontends_that_are_not_given_again_go() {
    let writer = with_service();
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), vec![frontend(WEB, "192.0.2.7", 443, 1)])
        .unwrap();
    txn.commit();
    let keys: Vec<FrontendKey> = writer.snapshot().frontends.iter().map(|row| row.key).collect();
    assert_eq!(keys, [FrontendKey::new(ip("192.0.2.7"), 443, Protocol::Tcp)]);
}

#[test]
fn a_newcomer_waits_for_an_address_and_gets_it_when_the_holder_leaves() {
    let writer = Writer::new();
    let vip = |of: &str| frontend(of, "192.0.2.7", 80, 0);
    let born = |of: &str, id, since| Service { since: Since(since), ..service(of, 1, id, 1) };
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(born("acme/zoo", 1, 10), vec![vip("acme/zoo")]).unwrap();
    txn.upsert_service(born("acme/art", 2, 20));
    assert_eq!(txn.upsert_frontend(vip("acme/art")).unwrap(), Claimed::Waits(name("acme/zoo")));
    // Recreated, it is the younger one.
    txn.upsert_service_and_frontends(born("acme/zoo", 1, 30), vec![vip("acme/zoo")]).unwrap();
    let holder = |txn: &epic_lb::WriteTxn<'_>| {
        txn.tables().frontends.iter().map(|row| row.service.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(holder(&txn), ["acme/art"]);
    assert_eq!(txn.tables().wishes.len(), 1);
    txn.delete_service_and_frontends(&name("acme/art"));
    assert_eq!(holder(&txn), ["acme/zoo"]);
    assert!(txn.tables().wishes.is_empty());
}

#[test]
fn a_source_removes_only_its_own_rows() {
    let writer = with_service();
    let file = writer.for_source(Source::File);
    let mut txn = writer.write();
    txn.set_backends(&name(WEB), [endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80)]);
    txn.commit();
    let mut txn = file.write();
    txn.set_backends(&name(WEB), [endpoint("10.0.0.3", 80)]);
    txn.upsert_service(service(WEB, 9, 9, 9));
    assert!(!txn.release_backend(&name(WEB), endpoint("10.0.0.1", 80).place), "it is another source's");
    txn.commit();
    let ids =
        |writer: &Writer| writer.snapshot().service(name(WEB).id()).map(|row| row.ids.unwrap().to_string());
    assert_eq!(ids(&writer).as_deref(), Some("1/1"), "objects come before files");
    let mut txn = writer.write();
    txn.set_backends(&name(WEB), [endpoint("10.0.0.2", 80)]);
    txn.commit();
    assert_eq!(serving(&writer), ["10.0.0.2", "10.0.0.3"]);
    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name(WEB));
    txn.commit();
    assert_eq!(ids(&writer).as_deref(), Some("9/9"));
    assert_eq!(writer.snapshot().backends.len(), 1);
    let mut txn = file.write();
    assert_eq!((txn.delete_services(), txn.delete_backends()), (1, 0));
    txn.commit();
    assert!(TableId::ALL.iter().all(|table| writer.snapshot().len_of(*table) == 0));
}

#[test]
fn a_verdict_is_of_a_service_and_a_place_and_survives_its_sources() {
    let writer = with_service();
    let place = Place::new(ip("10.0.0.1"), 80, Protocol::Tcp);
    let mut txn = writer.write();
    txn.upsert_backends(&name(WEB), [endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80)]);
    txn.upsert_backends(&name("other/api"), [endpoint("10.0.0.1", 80)]);
    assert!(txn.set_backend_health(&name(WEB), place, false, Some("refused".into())));
    assert!(!txn.set_backend_health(&name(WEB), place, false, Some("refused".into())));
    txn.upsert_backends(&name(WEB), [Backend { weight: 9, ..endpoint("10.0.0.1", 80) }]);
    assert!(txn.tables().is_healthy(name("other/api").id(), place), "the same address of another service");
    txn.commit();
    // Another source names it too: it is as dead as before.
    let file = writer.for_source(Source::Local);
    let mut txn = file.write();
    txn.upsert_backends(&name(WEB), [endpoint("10.0.0.1", 80)]);
    txn.commit();
    assert_eq!(serving(&writer), ["10.0.0.2"]);
    let mut txn = writer.write();
    txn.release_backends(&name(WEB));
    txn.commit();
    assert_eq!(writer.snapshot().verdicts.len(), 1, "the file names it still");
    let mut txn = file.write();
    txn.release_backends(&name(WEB));
    assert!(!txn.set_backend_health(&name(WEB), place, true, None), "nobody would take it back");
    txn.commit();
    assert!(writer.snapshot().verdicts.is_empty());
}

#[test]
fn draining_backends_keep_their_flows_and_terminating_ones_serve_when_nothing_else_does() {
    let writer = with_service();
    let set = |states: &[BackendState]| {
        let mut txn = writer.write();
        let backends =
            states.iter().zip(1u32..).map(|(state, id)| Backend { state: *state, ..proxy_backend(WEB, id) });
        txn.set_backends(&name(WEB), backends);
        txn.commit();
        selected(&writer).into_iter().map(|(_, role)| role).collect::<Vec<_>>()
    };
    use BackendState::{Active, Draining, Maintenance, Quarantined, Terminating, TerminatingNotServing};
    use Role::{ExistingOnly, Serving};
    assert_eq!(set(&[Draining, Active, Terminating]), [ExistingOnly, Serving, ExistingOnly]);
    assert_eq!(set(&[Draining, Terminating, Maintenance]), [ExistingOnly, Serving, ExistingOnly]);
    assert_eq!(
        set(&[Quarantined, TerminatingNotServing, Terminating]),
        [ExistingOnly, ExistingOnly, Serving]
    );
    assert_eq!(set(&[Draining, Maintenance]), [ExistingOnly, ExistingOnly]);
}

#[test]
fn a_source_that_lost_sight_of_a_backend_does_not_hide_it_from_one_that_sees_it() {
    let writer = with_service();
    let mut txn = writer.write();
    txn.upsert_backends(
        &name(WEB),
        [Backend { state: BackendState::Quarantined, ..endpoint("10.0.0.1", 80) }],
    );
    txn.commit();
    assert!(serving(&writer).is_empty());
    let file = writer.for_source(Source::File);
    let mut txn = file.write();
    txn.upsert_backends(&name(WEB), [endpoint("10.0.0.1", 80)]);
    txn.commit();
    assert_eq!(serving(&writer), ["10.0.0.1"]);
}

#[test]
fn below_the_panic_threshold_verdicts_are_ignored() {
    let writer = with_service();
    let traffic = Traffic { panic_threshold: 50, ..Traffic::default() };
    let mut txn = writer.write();
    txn.upsert_service(Service { traffic: Some(traffic.into()), ..service(WEB, 1, 1, 1) });
    let all: Vec<Backend> = (1..=4).map(|i| endpoint(&format!("10.0.0.{i}"), 80)).collect();
    txn.set_backends(&name(WEB), all.clone());
    txn.set_backend_health(&name(WEB), all[0].place, false, None);
    txn.set_backend_health(&name(WEB), all[1].place, false, None);
    txn.commit();
    assert_eq!(serving(&writer), ["10.0.0.3", "10.0.0.4"], "half of them is enough");
    let mut txn = writer.write();
    txn.set_backend_health(&name(WEB), all[2].place, false, None);
    txn.commit();
    assert_eq!(serving(&writer).len(), 4);
}

#[test]
fn endpoints_serve_ports_by_name_by_number_or_by_the_name_of_the_target() {
    let writer = Writer::new();
    let port = |port: u16, port_name: Option<&str>, target: TargetPort| Frontend {
        port_name: port_name.map(Name::new),
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
    let named = |address, port, name: &str| Backend {
        port_names: Some([Name::new(name)].into()),
        ..endpoint(address, port)
    };
    txn.set_backends(
        &name(WEB),
        [named("10.0.0.1", 8080, "web"), named("10.0.0.2", 9090, "admin"), endpoint("10.0.0.3", 8080)],
    );
    txn.commit();
    let of = |wanted: u16| -> Vec<String> {
        let snapshot = writer.snapshot();
        let mut rows = snapshot.frontends_of(name(WEB).id());
        let frontend = rows.find(|row| row.key.port == wanted).unwrap();
        let selection = Selection::of(&snapshot, frontend, epic_lb::Here::default());
        selection.serving().map(|b| b.place.address.to_string()).collect()
    };
    assert_eq!(of(80), ["10.0.0.1"]);
    assert_eq!(of(81), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(of(82), ["10.0.0.2"]);
}

#[test]
fn a_frontend_without_a_proxy_reaches_its_own_family_unless_the_service_lets_it_change() {
    let writer = Writer::new();
    let mut txn = writer.write();
    let key = FrontendKey::new(ip("192.0.2.7"), 80, Protocol::Tcp);
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), vec![Frontend::direct(key, name(WEB))]).unwrap();
    txn.set_backends(&name(WEB), [endpoint("10.0.0.1", 80), endpoint("2001:db8::1", 80)]);
    txn.commit();
    assert_eq!(serving(&writer), ["10.0.0.1"]);
    let mut txn = writer.write();
    let traffic = Traffic { nat: epic_lb::rows::NatPolicy::Nat46, ..Traffic::default() };
    txn.upsert_service(Service { traffic: Some(traffic.into()), ..service(WEB, 1, 1, 1) });
    txn.commit();
    assert_eq!(serving(&writer).len(), 2);
}

#[test]
fn no_listing_and_no_debug_text_shows_a_key() {
    let writer = with_service();
    let snapshot = writer.snapshot();
    let service: TableId = "services".parse().unwrap();
    let json = snapshot.listing_of(service, Query::All).to_json();
    assert_eq!(json[0]["keys"], 1, "the generation alone");
    let row = format!("{:?}", snapshot.service(name(WEB).id()).unwrap());
    assert!(row.contains("Key(..)"), "{row}");
}

/// What happens to the frontends of five services over three addresses, from two sources.
#[derive(Clone, Debug)]
enum Step {
    Want { of: u16, source: bool, since: u32, vips: Vec<u8> },
    Delete { of: u16, source: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u16..6, any::<bool>(), 0u32..3, prop::collection::vec(0u8..3, 0..3))
            .prop_map(|(of, source, since, vips)| Step::Want { of, source, since, vips }),
        1 => (1u16..6, any::<bool>()).prop_map(|(of, source)| Step::Delete { of, source }),
    ]
}

/// Last words of each service and source.
type Wanted = BTreeMap<(u16, bool), (u32, Vec<u8>)>;

fn service_name(of: u16) -> String {
    format!("acme/s{of}")
}

fn apply(writer: &Writer, step: &Step) {
    let source = |file: bool| writer.for_source(if file { Source::File } else { Source::Resource });
    match step {
        Step::Want { of, source: file, since, vips } => {
            let text = service_name(*of);
            let row = Service { since: Since(*since), ..service(&text, 1, *of, 1) };
            let frontends = vips.iter().map(|vip| frontend(&text, &format!("192.0.2.{vip}"), 80, 0));
            let writer = source(*file);
            let mut txn = writer.write();
            txn.upsert_service_and_frontends(row, frontends.collect()).unwrap();
            txn.commit();
        }
        Step::Delete { of, source: file } => {
            let writer = source(*file);
            let mut txn = writer.write();
            txn.delete_service_and_frontends(&name(&service_name(*of)));
            txn.commit();
        }
    }
}

/// For each address who has it and who waits, first come first.
fn owners(writer: &Writer) -> BTreeMap<String, (String, Vec<String>)> {
    let snapshot = writer.snapshot();
    let owners = snapshot.frontends.iter().map(|row| {
        let waits =
            snapshot.wishes.prefix(row.key).map(|wish| format!("{} {}", wish.0.service, wish.0.source));
        let mut waits: Vec<String> = waits.collect();
        waits.sort();
        (row.key.to_string(), (format!("{} {}", row.service, row.source), waits))
    });
    owners.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_has_an_address_follows_from_what_is_wanted_and_not_from_the_order_it_was_said_in(
        steps in prop::collection::vec(step(), 1..40),
        shuffle in any::<u64>(),
    ) {
        let writer = Writer::new();
        let mut wanted = Wanted::new();
        for step in &steps {
            apply(&writer, step);
            match step {
                Step::Want { of, source, since, vips } => {
                    wanted.insert((*of, *source), (*since, vips.clone()));
                }
                Step::Delete { of, source } => drop(wanted.remove(&(*of, *source))),
            }
        }
        // The same, said once each in another order.
        let again = Writer::new();
        let mut order: Vec<_> = wanted.iter().collect();
        order.sort_by_key(|((of, source), _)| {
            (u64::from(*of) * 2 + u64::from(*source)).wrapping_mul(shuffle | 1).rotate_left(17)
        });
        for ((of, source), (since, vips)) in order {
            apply(&again, &Step::Want { of: *of, source: *source, since: *since, vips: vips.clone() });
        }
        prop_assert_eq!(owners(&writer), owners(&again));
        // And as a model has it.
        let mut model: BTreeMap<String, Vec<(bool, u32, String)>> = BTreeMap::new();
        for ((of, source), (since, vips)) in &wanted {
            for vip in vips.iter().collect::<std::collections::BTreeSet<_>>() {
                let claim = (*source, *since, service_name(*of));
                model.entry(format!("192.0.2.{vip}:80/TCP")).or_default().push(claim);
            }
        }
        let first = |claims: Vec<(bool, u32, String)>| claims.into_iter().min().map(|claim| claim.2);
        let model: BTreeMap<String, Option<String>> =
            model.into_iter().map(|(vip, claims)| (vip, first(claims))).collect();
        let held = owners(&writer).into_iter();
        let held: BTreeMap<String, Option<String>> =
            held.map(|(vip, (owner, _))| (vip, owner.split(' ').next().map(str::to_owned))).collect();
        prop_assert_eq!(held, model);
    }
}

#[test]
fn preferences_by_place_hold_while_the_preferred_serve() {
    let writer = with_service();
    let at = |address: &str, node: &str, zone: &str| Backend {
        locality: Locality { node: Some(Name::new(node)), zone: Some(Name::new(zone)), cluster: None },
        ..endpoint(address, 80)
    };
    let all = [at("10.0.0.1", "n1", "z1"), at("10.0.0.2", "n2", "z1"), at("10.0.0.3", "n3", "z2")];
    let traffic = Traffic { distribution: epic_lb::rows::Distribution::SameNode, ..Traffic::default() };
    let mut txn = writer.write();
    txn.upsert_service(Service { traffic: Some(traffic.into()), ..service(WEB, 1, 1, 1) });
    txn.set_backends(&name(WEB), all.clone());
    txn.commit();
    let here = epic_lb::Here { node: Some("n1"), zone: Some("z1"), cluster: None };
    let serving = || -> Vec<String> {
        let snapshot = writer.snapshot();
        let frontend = snapshot.frontends_of(name(WEB).id()).next().unwrap();
        Selection::of(&snapshot, frontend, here).serving().map(|b| b.place.address.to_string()).collect()
    };
    let mut left = vec![serving()];
    for gone in &all {
        let mut txn = writer.write();
        txn.set_backend_health(&name(WEB), gone.place, false, None);
        txn.commit();
        left.push(serving());
    }
    assert_eq!(left, [vec!["10.0.0.1"], vec!["10.0.0.2"], vec!["10.0.0.3"], vec![]]);
}
