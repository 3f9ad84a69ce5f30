//! Restart, crash and upgrade of the agent: maps and links are adopted, traffic does not notice.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use epic_abi::Lb;
use epic_abi::maps::{Remote, Side};
use epic_datapath::dump::{Extent, dump};
use epic_datapath::{Datapath, Error, Maps, Options};
use epic_testnet::Bpffs;

use crate::support::forge::{data, rst};
use crate::support::program::{Epic, GUE_PORT, SERVICE};
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::{Conversation, requests};

fn small(bpffs: &Bpffs, side: Side) -> Options {
    let mut options = Options::new(bpffs.path("epic"), side);
    options.max_entries = [("flows", 64), ("learned_proxies", 64)].map(|(k, v)| (k.to_owned(), v)).into();
    options
}

#[test]
fn twenty_restarts_under_traffic_lose_no_connection_and_no_counter() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]));
    let standing = Conversation::open(&epic.site.internet, scene.tenant.public()).unwrap();
    let before = dump(epic.nodes[0].maps(), Extent::default()).unwrap();
    let (internet, public) = (epic.site.internet.clone(), scene.tenant.public());
    let done = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut failed = Vec::new();
            while !done.load(Ordering::Relaxed) {
                failed.extend(requests(&internet, public, 20, 4, 20_000).into_iter().filter_map(Result::err));
            }
            failed
        });
        let netns = epic.site.nodes[0].netns.clone();
        let options = epic.node_options(0);
        for _ in 0..20 {
            let counted = epic.nodes[0].maps().tunnel_counts().unwrap();
            // A crash: the handle goes, everything pinned stays.
            drop(epic.nodes.remove(0));
            let adopted = netns.run(|| Datapath::open(&options)).expect("adopt");
            assert!(adopted.adopted().maps);
            assert_eq!(adopted.adopted().links.len(), 2, "the interface's and the proxy's");
            assert!(adopted.maps().tunnel_counts().unwrap()[&1].tx_packets >= counted[&1].tx_packets);
            epic.nodes.insert(0, adopted);
        }
        done.store(true, Ordering::Relaxed);
        traffic.join().expect("the client")
    });
    assert!(failed.is_empty(), "{} requests failed, first: {}", failed.len(), failed[0]);
    assert_eq!(standing.finish(10, 10_000).expect("the old connection stands").name, "1e1");
    assert_eq!(dump(epic.nodes[0].maps(), Extent::default()).unwrap(), before, "maps are as they were");
}

#[test]
fn every_frame_during_twenty_replacements_is_counted_once() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let (node, options) = (epic.site.nodes[0].netns.clone(), epic.node_options(0));
    let target = (epic.site.nodes[0].address, GUE_PORT);
    let frame = data(
        scene.tenant.lb,
        scene.tenant.data_key(),
        &rst(
            SocketAddrV4::new(scene.tenant.endpoints[0].address, SERVICE),
            SocketAddrV4::new(scene.tenant.proxies[0].address(), 40_000),
        ),
    );
    let before = epic.nodes[0].maps().tunnel_counts().unwrap()[&1].rx_packets;
    let done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            epic.site.clients[0].netns.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.connect(target).expect("a route to the node");
                let mut sent = 0u64;
                // Refused is what the socket is told of an earlier frame; this one has not been sent then.
                while !done.load(Ordering::Relaxed) {
                    sent += u64::from(socket.send(&frame).is_ok());
                }
                sent
            })
        });
        for _ in 0..20 {
            drop(epic.nodes.remove(0));
            epic.nodes.insert(0, node.run(|| Datapath::open(&options)).expect("adopt"));
        }
        done.store(true, Ordering::Relaxed);
        sender.join().expect("the sender")
    });
    let counted = || epic.nodes[0].maps().tunnel_counts().unwrap()[&1].rx_packets - before;
    crate::support::eventually("the last frame is counted", || counted() >= sent);
    assert_eq!(counted(), sent);
    assert!(sent > 10_000, "only {sent} frames");
}

#[test]
fn traffic_goes_on_while_no_agent_runs() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    drop(epic.nodes.drain(..));
    drop(epic.clients.drain(..));
    for answer in requests(&epic.site.internet, scene.tenant.public(), 20, 4, 5_000) {
        answer.expect("an answer");
    }
}

#[test]
fn removal_leaves_no_pin_and_no_program() {
    let bpffs = Bpffs::new();
    let netns = epic_testnet::Netns::new("host");
    let options = small(&bpffs, Side::Client);
    netns.run(|| {
        let datapath = Datapath::open(&options).unwrap();
        let lo = epic_datapath::Attachment { program: epic_datapath::Program::ClientIngress, ifindex: 1 };
        datapath.attach(lo).unwrap();
        datapath.remove().unwrap();
        assert!(!options.dir.exists());
        assert_eq!(epic_datapath::links(&options.dir).unwrap(), []);
        epic_datapath::remove(&options.dir).expect("removing nothing is fine");
        // Nothing hangs there any more: a new one is the first and only.
        let datapath = Datapath::open(&options).unwrap();
        assert!(!datapath.adopted().maps);
        assert_eq!(datapath.attach(lo).unwrap(), epic_datapath::Attached::Made);
    });
}

#[test]
fn only_one_agent_may_hold_the_pins() {
    let bpffs = Bpffs::new();
    let options = small(&bpffs, Side::Node);
    let first = Datapath::open(&options).unwrap();
    assert!(matches!(Datapath::open(&options).unwrap_err(), Error::Held(_)));
    assert!(matches!(epic_datapath::remove(&options.dir).unwrap_err(), Error::Held(_)));
    let beside = Maps::open(&options.dir).expect("commands read beside it");
    assert_eq!(beside.remotes.count().unwrap(), 0);
    let refused = beside.remotes.set(&1, &Remote::default()).unwrap_err().to_string();
    assert!(refused.contains("not permitted"), "and write nothing: {refused}");
    drop(first);
    Datapath::open(&options).expect("the next one");
}

#[test]
fn a_directory_that_is_no_bpffs_is_refused_with_the_remedy() {
    let options = Options::new("/tmp/epic-is-not-here", Side::Node);
    let refused = Datapath::open(&options).unwrap_err().to_string();
    assert!(refused.contains("mount -t bpf bpf /sys/fs/bpf"), "{refused}");
    assert!(!options.dir.exists());
}

#[test]
fn a_maglev_table_whose_pin_was_lost_reads_as_unknown_and_is_swept() {
    let bpffs = Bpffs::new();
    let options = small(&bpffs, Side::Node);
    let datapath = Datapath::open(&options).unwrap();
    let (kept, lost) = (Lb::new(1, 1), Lb::new(1, 2));
    datapath.maps().maglev.set(kept, &[5; 10]).unwrap();
    datapath.maps().maglev.set(lost, &[6; 10]).unwrap();
    std::fs::remove_file(options.dir.join("current/maglev-tables/1-2")).unwrap();
    assert_eq!(datapath.maps().maglev.get(lost).unwrap(), None);
    assert_eq!(datapath.maps().maglev.keys().unwrap(), [kept, lost]);
    drop(datapath);
    let datapath = Datapath::open(&options).unwrap();
    assert_eq!(datapath.maps().maglev.get(kept).unwrap().unwrap()[9], 5);
    assert!(datapath.maps().maglev.remove(kept).unwrap());
    assert!(!options.dir.join("current/maglev-tables/1-1").exists());
}
