use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_crds::{EPIC, EPICNodeReason, EPICNodeStatus, HasConditions as _, NodeTunnels};
use epic_lb::{ProxyId, ServiceName, Veth};
use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kates::{Client, Key, Version};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::gate::{self, Patience};
use super::judgement::Judgement;
use super::report::{self, Report};
use super::{guard, owner};
use crate::desired::node::Local;
use crate::hello::responder::Responder;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn veth(ifindex: u32) -> Veth {
    Veth { ifindex, ifname: "veth7".into(), pod_mac: [0; 6], host_mac: [0; 6], pod_ip: ip("10.244.1.5") }
}

fn pod(condition: &str, annotations: &str) -> Pod {
    serde_yaml::from_str(&format!(
        "
metadata: {{name: a, namespace: epic-red, uid: ua, annotations: {{{annotations}}}}}
status: {{phase: Running, podIP: 10.244.1.5, conditions: [{condition}]}}
"
    ))
    .unwrap()
}

fn open(boot: &str) -> String {
    format!(
        "{{type: epic.acnodal.io/programmed, status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z', \
         message: 'boot-id {boot}, pod IP 10.244.1.5, ifindex 7'}}"
    )
}

const ANNOTATIONS: &str = "epic.acnodal.io/ifindex: '7', epic.acnodal.io/ifname: veth7";

#[test]
fn a_gate_opens_with_the_place_it_was_opened_for() {
    let patch = gate::patch(&pod("", ""), Some(&veth(7)), "boot", &Ok(()), &at(5)).unwrap();
    let condition = &patch["status"]["conditions"][0];
    assert_eq!(condition["status"], "True");
    assert_eq!(condition["message"], "boot-id boot, pod IP 10.244.1.5, ifindex 7");
    assert_eq!(patch["metadata"]["annotations"]["epic.acnodal.io/ifname"], "veth7");
    assert_eq!(patch["metadata"]["uid"], "ua", "a namesake is refused");
}

#[test]
fn an_open_gate_that_tells_the_truth_is_left_alone() {
    let pod = pod(&open("boot"), ANNOTATIONS);
    assert_eq!(gate::patch(&pod, Some(&veth(7)), "boot", &Ok(()), &at(5)), None);
    let rewriting = Err("tunnel 3: pending".to_owned());
    assert_eq!(gate::patch(&pod, Some(&veth(7)), "boot", &rewriting, &at(5)), None);
}

#[test]
fn a_gate_from_before_a_reboot_is_closed_until_the_maps_are_right_again() {
    let pod = pod(&open("earlier"), ANNOTATIONS);
    let waiting = Err("the proxy is not in the tables yet".to_owned());
    let closed = gate::patch(&pod, Some(&veth(7)), "boot", &waiting, &at(5)).unwrap();
    assert_eq!(closed["status"]["conditions"][0]["status"], "False");
    assert_eq!(closed["status"]["conditions"][0]["reason"], "Stale");
    let opened = gate::patch(&pod, Some(&veth(7)), "boot", &Ok(()), &at(5)).unwrap();
    assert_eq!(opened["status"]["conditions"][0]["message"], gate::message("boot", &veth(7)));
    assert!(gate::patch(&pod, None, "boot", &waiting, &at(5)).is_some(), "nor does a lost veth keep it open");
}

fn configured(status: &str, message: &str) -> String {
    format!("{{type: epic.acnodal.io/configured, status: '{status}', message: '{message}'}}")
}

#[test]
fn a_gate_whose_entries_are_in_stays_closed_until_envoy_has_taken_its_configuration() {
    let judge = |pod: &Pod, boot| gate::configured(pod, &veth(7), boot);
    assert!(judge(&pod("", ""), "boot").unwrap_err().contains("xDS"));
    let refuses = pod(&configured("False", "listener 0: unknown field"), "");
    assert_eq!(
        judge(&refuses, "boot").unwrap_err(),
        "Envoy does not take its configuration: listener 0: unknown field"
    );
    assert_eq!(judge(&pod(&configured("True", "generation 1"), ""), "boot"), Ok(()));
    let after = pod(&[open("earlier"), configured("False", "no")].join(", "), ANNOTATIONS);
    assert!(judge(&after, "boot").is_err(), "a gate of an earlier boot is opened anew");
}

#[test]
fn an_open_gate_stays_open_when_xds_is_lost_or_an_edit_refused() {
    for said in [String::new(), format!(", {}", configured("False", "no"))] {
        let open = pod(&format!("{}{said}", open("boot")), ANNOTATIONS);
        assert_eq!(gate::configured(&open, &veth(7), "boot"), Ok(()));
        assert_eq!(gate::patch(&open, Some(&veth(7)), "boot", &Ok(()), &at(5)), None);
    }
}

#[test]
fn a_pod_that_is_being_deleted_is_left_alone() {
    let mut pod = pod(&open("earlier"), ANNOTATIONS);
    pod.metadata.deletion_timestamp = Some(at(1));
    assert_eq!(gate::patch(&pod, Some(&veth(7)), "boot", &Ok(()), &at(5)), None);
}

fn local() -> Local {
    Local {
        id: ProxyId::new(1).unwrap(),
        service: ServiceName::new("epic-red", "web"),
        pod: Key::namespaced("epic-red", "a"),
        veth: veth(7),
        clients: BTreeMap::from([(ip("10.9.0.1"), Some(11)), (ip("10.9.0.2"), None)]),
    }
}

#[test]
fn a_gate_waits_for_clients_but_not_for_long() {
    let local = local();
    assert_eq!(gate::unheard(&local.clients, |_| true), [ip("10.9.0.2")], "its tunnel is not there yet");
    let unheard = gate::unheard(&local.clients, |_| false);
    assert_eq!(unheard.len(), 2);
    let (mut patience, start) = (Patience::default(), Instant::now());
    assert!(patience.judge(&local, &unheard, start).is_err());
    assert!(patience.judge(&local, &unheard, start + gate::PATIENCE - Duration::from_millis(1)).is_err());
    assert_eq!(patience.judge(&local, &unheard, start + gate::PATIENCE), Ok(()));
    assert_eq!(Patience::default().judge(&local, &[], start), Ok(()));
}

#[test]
fn what_a_pod_waits_for_is_said_when_it_lasts() {
    let (mut patience, start) = (Patience::default(), Instant::now());
    let closed = pod("", "");
    let waiting = |why: &str| Err(why.to_owned());
    assert!(!patience.is_worth_saying(&closed, &waiting("a"), start));
    assert!(!patience.is_worth_saying(&closed, &waiting("b"), start + gate::WORTH_SAYING));
    assert!(patience.is_worth_saying(&closed, &waiting("b"), start + gate::WORTH_SAYING * 2));
    assert!(patience.is_worth_saying(&closed, &Ok(()), start));
    assert!(
        patience.is_worth_saying(&pod(&open("x"), ""), &waiting("c"), start),
        "an open gate closes at once"
    );
}

#[test]
fn a_revision_is_reported_only_to_those_who_wait() {
    let version = |text: &str| Version::from(text);
    let reached = version("20");
    assert_eq!(
        report::revision(None, Some(&reached), [].iter()),
        Some("20".to_owned()),
        "the first time always"
    );
    assert_eq!(report::revision(Some("10"), Some(&reached), [].iter()), None);
    assert_eq!(report::revision(Some("10"), Some(&reached), [version("15")].iter()), Some("20".to_owned()));
    assert_eq!(report::revision(Some("16"), Some(&reached), [version("15")].iter()), None, "has been told");
    assert_eq!(report::revision(Some("30"), Some(&reached), [version("35")].iter()), None, "never backwards");
    assert_eq!(report::revision(Some("10"), None, [version("15")].iter()), None);
}

#[test]
fn a_restarted_agent_calls_a_tunnel_down_only_after_its_client_had_time_to_call() {
    let ids = BTreeSet::from([1, 2]);
    let none = BTreeMap::new();
    let first = report::tunnels(&ids, &none, None, true, 0, (0, &at(1)));
    assert_eq!((first.up, first.down, first.total), (0, 2, 2));
    let again = report::tunnels(&ids, &none, Some(&first), true, 0, (0, &at(9)));
    assert_eq!(again, first, "nothing new is no write");
    // What the agent before learned is in the maps, but has not been heard since.
    let mut responder = Responder::new(epic_abi::keys::CookieSecret::new([9; 32]));
    for id in [1, 2] {
        let port = u16::try_from(id).unwrap();
        let remote = epic_abi::maps::Remote { port, ..epic_abi::maps::Remote::default() };
        responder.adopt(id, epic_abi::Lb::new(1, 1), &remote);
    }
    let (adopted, clock) = (responder.heard().clone(), (1_000 * crate::hello::SECOND, &at(9)));
    let up = NodeTunnels { up: 2, total: 2, ..NodeTunnels::default() };
    let starting = report::tunnels(&ids, &adopted, Some(&up), false, 0, clock);
    assert_eq!((starting.up, starting.down), (2, 0), "those that are not listed were up");
    let one = NodeTunnels { states: first.states[..1].to_vec(), ..up };
    let starting = report::tunnels(&ids, &adopted, Some(&one), false, 0, clock);
    assert_eq!((starting.up, starting.down), (1, 1));
    let cut = NodeTunnels { truncated: true, ..one.clone() };
    let starting = report::tunnels(&ids, &adopted, Some(&cut), false, 0, clock);
    assert_eq!(starting.down, 2, "of those that did not fit nothing is known");
    assert_eq!(report::tunnels(&ids, &adopted, Some(&one), true, 0, clock).down, 2, "time is up");
}

#[test]
fn a_report_of_fifty_thousand_silent_tunnels_and_a_thousand_addresses_is_small() {
    let ids: BTreeSet<u32> = (100_000..150_000).collect();
    let addresses: BTreeSet<IpAddr> = (0..1_000u32).map(|n| IpAddr::V4((0xcb00_7100 + n).into())).collect();
    let tunnels =
        |answers| report::tunnels(&ids, &BTreeMap::new(), None, true, answers, (0, &at(1_800_000_000)));
    let many = tunnels(0);
    assert_eq!((many.up, many.down, many.total), (0, 50_000, 50_000));
    assert_eq!((many.states.len(), many.truncated), (1_000, true));
    let report = Report {
        tunnels: Some(tunnels(addresses.len())),
        answers: Some((addresses.into(), "enp133s0f0np0".to_owned())),
        ..Report::default()
    };
    let status = report::status(&report, &EPICNodeStatus::default(), &at(1_800_000_000));
    assert_eq!((status.answers.len(), status.answers_truncated), (1_000, false));
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(bytes < 100_000, "{bytes} bytes");
}

#[test]
fn all_nodes_together_report_twenty_times_a_second_at_most_and_a_node_that_goes_out_at_once() {
    for nodes in [1, 10, 11, 100, 1_000] {
        let writes = nodes as f64 / report::pause(nodes).as_secs_f64();
        assert!(writes <= 20.0 + f64::EPSILON, "{nodes} nodes: {writes} a second");
        assert!(report::pause(nodes) >= report::BETWEEN);
    }
    let ready =
        |status, reason| Report { ready: Some(Judgement::new(status, reason, "")), ..Report::default() };
    let good = ready(true, EPICNodeReason::Ready);
    let more = Report { revision: Some("7".to_owned()), ..good.clone() };
    assert!(!report::is_urgent(&good, &more));
    assert!(report::is_urgent(&good, &ready(false, EPICNodeReason::InterfaceDown)));
}

#[test]
fn an_answer_keeps_the_time_it_was_reported_first_until_the_interface_or_the_boot_changes() {
    let of = |addresses: &[&str], interface: &str, boot: &str| Report {
        boot_id: boot.to_owned(),
        answers: Some((addresses.iter().map(|text| ip(text)).collect(), interface.to_owned())),
        ..Report::default()
    };
    let first = report::status(&of(&["192.0.2.7"], "eth0", "b"), &EPICNodeStatus::default(), &at(1));
    let since = |status: &EPICNodeStatus| -> Vec<(String, Time)> {
        status.answers.iter().map(|answer| (answer.address.clone(), answer.since.clone())).collect()
    };
    let second = report::status(&of(&["192.0.2.7", "192.0.2.8"], "eth0", "b"), &first, &at(2));
    assert_eq!(since(&second), [("192.0.2.7".to_owned(), at(1)), ("192.0.2.8".to_owned(), at(2))]);
    let moved = report::status(&of(&["192.0.2.7"], "eth1", "b"), &second, &at(3));
    assert_eq!(since(&moved), [("192.0.2.7".to_owned(), at(3))]);
    let rebooted = Report { boot_id: "c".to_owned(), ..Report::default() };
    assert_eq!(report::status(&rebooted, &moved, &at(4)).answers, []);
}

#[test]
fn a_conflict_is_reported_with_who_has_the_address() {
    let conflict = guard::Conflict { mac: Some([2, 0, 0, 0, 0, 0xab]), since: at(3) };
    let found = BTreeMap::from([(ip("192.0.2.7"), conflict)]);
    let report = Report { conflicts: Some((found, "eth0".to_owned())), ..Report::default() };
    let status = report::status(&report, &EPICNodeStatus::default(), &at(9));
    let row = &status.conflicts[0];
    assert_eq!((row.address.as_str(), row.mac.as_deref()), ("192.0.2.7", Some("02:00:00:00:00:ab")));
    assert_eq!((row.interface.as_str(), &row.since), ("eth0", &at(3)));
    let over = Report { conflicts: Some((BTreeMap::new(), "eth0".to_owned())), ..Report::default() };
    assert_eq!(report::status(&over, &status, &at(9)).conflicts, []);
}

#[test]
fn a_report_leaves_the_operator_s_verdict_as_it_is() {
    let verdict: EPICNodeStatus = serde_yaml::from_str(
        "conditions: [{type: InService, status: 'False', reason: AgentSilent, message: m, \
         lastTransitionTime: '2026-01-01T00:00:00Z'}]",
    )
    .unwrap();
    let ready = Judgement::new(true, EPICNodeReason::Ready, "");
    let report = Report { ready: Some(ready), ..Report::default() };
    let after = report::status(&report, &verdict, &at(9));
    assert_eq!(after.conditions[0], verdict.conditions[0]);
    assert_eq!(after.conditions.len(), 2);
}

#[test]
fn a_report_that_says_nothing_new_leaves_the_status_as_it_is() {
    let report = Report {
        addresses: Some(vec![ip("198.51.100.1")]),
        boot_id: "b".to_owned(),
        kernel: "6.6.0".to_owned(),
        ready: Some(Judgement::new(true, EPICNodeReason::Ready, "")),
        revision: Some("5".to_owned()),
        ..Report::default()
    };
    let first = report::status(&report, &EPICNodeStatus::default(), &at(1));
    assert_eq!(report::status(&report, &first, &at(2)), first);
    let silent = report::status(&Report::default(), &first, &at(3));
    assert_eq!(silent, first, "what is not known is not taken back");
    let mut node = epic_crds::EPICNode::new("n", epic_crds::EPICNodeSpec::default());
    node.status = Some(first);
    assert!(node.is_condition_true(epic_crds::condition::READY));
}

fn node(uid: &str) -> Node {
    serde_yaml::from_str(&format!("metadata: {{name: n, uid: {uid}}}")).unwrap()
}

fn epic(annotations: &str) -> EPIC {
    serde_yaml::from_str(&format!("{{metadata: {{name: epic, annotations: {{{annotations}}}}}, spec: {{}}}}"))
        .unwrap()
}

#[test]
fn what_is_missing_or_of_an_earlier_node_is_astray_unless_none_is_to_be() {
    let of = |uid: &str| owner::owner(Some(&epic("")), Some(&node(uid))).unwrap();
    let held = |uid: &str| k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        owner_references: Some(vec![of(uid)]),
        ..Default::default()
    };
    assert!(!owner::is_astray(Some(&held("u1")), Some(&of("u1"))));
    assert!(owner::is_astray(Some(&held("u1")), Some(&of("u2"))), "the Node was made again");
    assert!(owner::is_astray(Some(&Default::default()), Some(&of("u1"))));
    assert!(owner::is_astray(None, Some(&of("u1"))), "somebody deleted it");
    assert!(!owner::is_astray(None, None));

    let leaving = epic("epic.acnodal.io/uninstall: 'true'");
    assert_eq!(owner::owner(Some(&leaving), Some(&node("u1"))), None, "what is detached stays away");
    assert_eq!(owner::owner(Some(&epic("")), None), None, "the collector would take it at once");
    assert_eq!(owner::owner(None, Some(&node("u1"))), Some(of("u1")), "nobody has configured EPIC yet");
}

/// One object behind an API server's address, and what was asked for beside reading it.
#[derive(Clone, Default)]
struct Shelf {
    object: Arc<Mutex<Option<Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Shelf {
    fn client(&self) -> Client {
        let shelf = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let shelf = shelf.clone();
            async move { Ok::<_, Infallible>(shelf.answer(request).await) }
        });
        Client::new(kube::Client::new(service, "default"))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let sent: Option<Value> = serde_json::from_slice(&body.collect_bytes().await.unwrap()).ok();
        let mut held = self.object.lock();
        if head.method != Method::GET {
            let part = if head.uri.path().ends_with("/status") { "status" } else { "object" };
            self.asked.lock().push(format!("{} {part}", head.method));
        }
        match (head.method, sent) {
            (Method::PATCH, Some(sent)) => {
                if let Some(held) = &mut *held {
                    held["metadata"]["ownerReferences"] = sent["metadata"]["ownerReferences"].clone();
                }
            }
            (Method::POST | Method::PUT, Some(mut sent)) => {
                sent["metadata"]["resourceVersion"] = json!("1");
                *held = Some(sent);
            }
            _ => {}
        }
        let nothing = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "not found", "reason": "NotFound", "code": 404, "details": {"name": "n"}});
        let code = if held.is_some() { 200 } else { 404 };
        let answer = serde_json::to_vec(held.as_ref().unwrap_or(&nothing)).unwrap();
        Response::builder().status(code).body(Body::from(answer)).unwrap()
    }

    fn owner(&self) -> Option<String> {
        let held = self.object.lock();
        Some(held.as_ref()?["metadata"]["ownerReferences"][0]["uid"].as_str()?.to_owned())
    }

    fn remove(&self) {
        *self.object.lock() = None;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

fn now<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn an_epic_node_belongs_to_the_node_of_now_and_comes_back_when_it_was_deleted() {
    now(async {
        let shelf = Shelf::default();
        let client = shelf.client();
        let [first, second]: [OwnerReference; 2] = ["u1", "u2"].map(|uid| owner::reference(&node(uid)));
        let said = Report { kernel: "6.6.0".to_owned(), ..Report::default() };
        for _ in 0..2 {
            report::write(&client, "n", Some(&first), &said).await.unwrap();
        }
        assert_eq!(shelf.asked(), ["POST object", "PUT status"], "the second time there is nothing new");
        shelf.remove();
        report::write(&client, "n", Some(&first), &said).await.unwrap();
        assert_eq!(shelf.asked(), ["POST object", "PUT status"], "all of it is said again");
        report::write(&client, "n", Some(&second), &said).await.unwrap();
        assert_eq!((shelf.asked(), shelf.owner()), (vec!["PUT object".to_owned()], Some("u2".to_owned())));
        let more = Report { boot_id: "b".to_owned(), ..said };
        report::write(&client, "n", None, &more).await.unwrap();
        assert_eq!((shelf.asked(), shelf.owner()), (vec!["PUT status".to_owned()], Some("u2".to_owned())));
        shelf.remove();
        report::write(&client, "n", None, &more).await.unwrap();
        assert_eq!(shelf.asked(), Vec::<String>::new(), "none is made without an owner");
    });
}

#[test]
fn a_lease_belongs_to_the_node_of_now() {
    now(async {
        let shelf = Shelf::default();
        let client = shelf.client();
        let of = |uid: &str| Some(owner::reference(&node(uid)));
        super::lease::renew(&client, "n", None).await.unwrap();
        assert_eq!(shelf.asked(), ["PATCH object"], "none is made without an owner");
        super::lease::renew(&client, "n", of("u1")).await.unwrap();
        assert_eq!((shelf.asked().len(), shelf.owner()), (2, Some("u1".to_owned())));
        super::lease::renew(&client, "n", of("u2")).await.unwrap();
        assert_eq!((shelf.asked().len(), shelf.owner()), (1, Some("u2".to_owned())));
    });
}
