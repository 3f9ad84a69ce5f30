//! Real traffic on the wire, read by the independent decoder.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use epic_e2e::lab::{Lab, PATIENCE, load_balancer};
use epic_testnet::{Capture, Frame, Offloads, gue, set_offloads};
use epic_traffic::{Question, Tally};
use serde_json::json;

const REQUESTS: u64 = 60;
const EPIC: &str = "/apis/epic.acnodal.io/v1/namespaces/epic/epics/epic";

/// Ids and present data key of a LoadBalancer, as a client is given them.
pub(crate) fn key(lab: &Lab, namespace: &str, name: &str) -> (u16, u16, [u8; 16], [u8; 32]) {
    let object = lab.get(&load_balancer(namespace, name));
    let id =
        |field: &str| object["status"][field].as_u64().and_then(|id| u16::try_from(id).ok()).expect("an id");
    let uid = object["metadata"]["uid"].as_str().expect("a uid");
    let generation = object["status"]["key-generation"].as_u64().expect("a key generation");
    let secret = lab.get(&format!("/api/v1/namespaces/{namespace}/secrets/epic-gue-keys"));
    let entry = secret["data"][format!("{uid}.{generation}")].as_str().expect("an entry of the Secret");
    let bytes = base64::engine::general_purpose::STANDARD.decode(entry).expect("base64");
    let (data, hello) = bytes.split_at(16);
    (
        id("group-id"),
        id("service-id"),
        data.try_into().expect("16 bytes"),
        hello.try_into().expect("32 bytes"),
    )
}

const HOSTS: [&str; 5] = ["node1", "node2", "client1", "client2", "client3"];

fn leave_to_devices(lab: &Lab, offloads: Offloads) {
    HOSTS.iter().for_each(|host| set_offloads(&lab.host(host), "eth0", offloads));
}

pub(crate) fn tunnelled_packets_are_what_the_draft_says(lab: &Lab) {
    // Otherwise checksums are left to a device that never computes them, for a veth is none.
    leave_to_devices(lab, Offloads::Off);
    let keys: BTreeMap<(u16, u16), [u8; 16]> = [("epic-sample", "sample-acnodal"), ("epic-other", "web")]
        .iter()
        .map(|(namespace, name)| {
            let (group, service, data, _) = key(lab, namespace, name);
            ((group, service), data)
        })
        .collect();
    // As in front of hosts in clouds: client3 may call, and what belongs to a call may come.
    let router = lab.host("router");
    router.feed(
        "nft",
        &["-f", "-"],
        "table ip guarded {\n chain forward {\n type filter hook forward priority 0; policy accept;\n \
         oifname site3 ct state established,related accept\n oifname site3 drop\n }\n}\n",
    );
    let web = Question::new(lab.vip("epic-other", "web"));
    lab.until("hellos of both nodes' tunnels let requests through the firewall", || {
        lab.host("internet").run(|| (0..12).try_for_each(|_| web.ask().map(drop)))
    });
    let seen = traffic(lab, &keys);
    router.command("nft", &["delete", "table", "ip", "guarded"]);
    assert!(seen.tunnelled >= 4 * 2 * REQUESTS, "only {} tunnelled packets were seen", seen.tunnelled);
    assert_eq!(seen.services, keys.keys().copied().collect(), "both tenants' traffic was seen");
    assert_eq!(
        seen.ports,
        [6080].into(),
        "firewalls that follow connections know these ports from the hellos"
    );
    assert!(seen.control > 0, "hello messages were seen");
    // In force on both sides with the next hello.
    lab.change(EPIC, &json!({"spec": {"gue": {"source-ports": "Flow"}}}));
    lab.until("UDP source ports follow the inner flow", || {
        let ports = traffic(lab, &keys).ports;
        if ports.len() >= 20 { Ok(()) } else { Err(ports) }
    });
    lab.change(EPIC, &json!({"spec": {"gue": {"source-ports": null}}}));
    lab.until("UDP source ports are those of the hellos again", || {
        let ports = traffic(lab, &keys).ports;
        if ports == [6080].into() { Ok(()) } else { Err(ports) }
    });
    leave_to_devices(lab, Offloads::On);
}

/// Asks both tenants, and reads what EPIC nodes send and receive meanwhile.
fn traffic(lab: &Lab, keys: &BTreeMap<(u16, u16), [u8; 16]>) -> Seen {
    let captures: Vec<(String, Capture)> = lab
        .nodes()
        .into_iter()
        .map(|node| (node.clone(), Capture::start(&lab.host(&node), "eth0")))
        .collect();
    for (namespace, name, tenant) in
        [("epic-sample", "sample-acnodal", "sample"), ("epic-other", "web", "other")]
    {
        let question = Question::new(lab.vip(namespace, name));
        let mut tally = Tally::default();
        lab.host("internet").run(|| (0..REQUESTS).for_each(|_| tally.count(&question.ask())));
        assert!(tally.is_right(tenant), "{tally}");
    }
    let mut seen = Seen::default();
    for (node, mut capture) in captures {
        let is_hello = |frame: &Frame| {
            let read = frame.ipv4().and_then(|packet| gue::decode(packet, 6080).unwrap_or_default());
            read.is_some_and(|read| read.gue.control)
        };
        capture.wait(PATIENCE, "hello message", |frames| frames.iter().any(is_hello));
        for frame in capture.finish() {
            seen.read(&node, &frame, keys);
        }
    }
    seen
}

#[derive(Default)]
struct Seen {
    tunnelled: u64,
    control: u64,
    services: BTreeSet<(u16, u16)>,
    ports: BTreeSet<u16>,
}

impl Seen {
    fn read(&mut self, node: &str, frame: &Frame, keys: &BTreeMap<(u16, u16), [u8; 16]>) {
        let Some(packet) = frame.ipv4() else { return };
        let side = if frame.outgoing { "sent" } else { "received" };
        let read =
            gue::decode(packet, 6080).unwrap_or_else(|fault| panic!("{node} {side} {packet:02x?}: {fault}"));
        let Some(read) = read else { return };
        if read.gue.control {
            self.control += 1;
            return;
        }
        let (group, service) = (read.gue.group().expect("a group"), read.gue.service().expect("a service"));
        assert_eq!(packet[28..32], [0x05, 0x04, 0xa0, 0x00], "{node} {side} another GUE header");
        assert!(read.gue.private.is_empty(), "{node} {side} private data");
        assert!(read.outer.dont_fragment, "{node} {side} a packet without DF");
        let inner = read.inner.expect("a packet inside");
        assert_eq!(
            inner.transport_checksum_holds(),
            Some(true),
            "{node} {side} a segment with a wrong checksum"
        );
        assert_eq!(read.outer.total_length, inner.total_length + 52, "{node} {side}: 52 bytes of overhead");
        // Between two EPIC nodes another key is used, which tenants never have.
        let between_nodes = read.outer.source.octets()[..3] == read.outer.destination.octets()[..3];
        let expected = keys.get(&(group, service)).unwrap_or_else(|| panic!("a service {group}/{service}"));
        assert_eq!(
            read.gue.key() == Some(*expected),
            !between_nodes,
            "{node} {side} with key {:02x?}",
            read.gue.key()
        );
        self.tunnelled += 1;
        self.services.insert((group, service));
        if !between_nodes && frame.outgoing {
            self.ports.insert(read.source_port);
        }
    }
}
