//! Links: where programs hang, in which order, and how they come and go.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use epic_abi::maps::Side;
use epic_datapath::{Attached, Attachment, Datapath, Options, Program};
use epic_testnet::{Bpffs, Netns, veth};

use crate::support::lab::ifindex;

fn host() -> (Netns, Netns, Bpffs) {
    let (host, other) = (Netns::new("host"), Netns::new("other"));
    veth(&host, "nic0", &other, "nic0");
    (host, other, Bpffs::new())
}

fn open(bpffs: &Bpffs) -> Datapath {
    Datapath::open(&options(bpffs, "epic")).expect("open the data plane")
}

fn options(bpffs: &Bpffs, name: &str) -> Options {
    let mut options = Options::new(bpffs.path(name), Side::Node);
    options.max_entries = [("flows", 64)].map(|(k, v)| (k.to_owned(), v)).into();
    options
}

#[test]
fn attaching_twice_keeps_the_link_and_another_program_s_place_is_taken_back() {
    let (host, _other, bpffs) = host();
    let (ours, theirs) = (open(&bpffs), Datapath::open(&options(&bpffs, "foreign")).unwrap());
    let here = Attachment { program: Program::Ingress, ifindex: ifindex(&host, "nic0") };
    host.run(|| {
        assert_eq!(ours.attach(here).unwrap(), Attached::Made);
        assert_eq!(ours.attach(here).unwrap(), Attached::Kept);
        theirs.attach(here).unwrap();
        assert_eq!(ours.links().unwrap()[0].place, Some(1), "somebody came before us");
        assert_eq!(ours.attach(here).unwrap(), Attached::First);
        assert_eq!(ours.links().unwrap()[0].place, Some(0));
        assert_eq!(theirs.links().unwrap()[0].place, Some(1), "and is still there");
    });
}

#[test]
fn a_link_whose_interface_went_is_made_anew_when_the_index_comes_back() {
    let (host, _other, bpffs) = host();
    let datapath = open(&bpffs);
    let index = ifindex(&host, "nic0");
    let here = Attachment { program: Program::FromProxy, ifindex: index };
    host.run(|| datapath.attach(here)).unwrap();
    host.ip("link del nic0");
    host.run(|| {
        assert!(!datapath.links().unwrap()[0].alive);
        assert!(datapath.attach(here).unwrap_err().is_absent());
    });
    host.ip(&format!("link add nic0 index {index} type veth peer name nic1"));
    host.run(|| {
        let attached = datapath.attach(here).unwrap();
        assert!(matches!(attached, Attached::Renewed | Attached::Made), "{attached:?}");
        assert!(datapath.links().unwrap()[0].alive);
    });
}

#[test]
fn a_full_pass_attaches_what_is_missing_and_detaches_what_is_not_wanted() {
    let (host, _other, bpffs) = host();
    let datapath = open(&bpffs);
    let nic = Attachment { program: Program::Ingress, ifindex: ifindex(&host, "nic0") };
    let stray = Attachment { program: Program::FromProxy, ifindex: ifindex(&host, "lo") };
    let gone = Attachment { program: Program::FromProxy, ifindex: 4_711 };
    host.run(|| {
        datapath.attach(stray).unwrap();
        let kept = datapath.keep_only(&BTreeSet::from([nic, gone])).unwrap();
        assert_eq!(kept.done, [(nic, Attached::Made)].into());
        assert!(kept.refused.is_empty(), "an interface that is gone is no error: {:?}", kept.refused);
        let left: Vec<_> = datapath.links().unwrap().iter().map(|link| link.attachment).collect();
        assert_eq!(left, [nic]);
    });
}

#[test]
fn what_is_refused_at_one_interface_keeps_nothing_from_the_others() {
    let (host, _other, bpffs) = host();
    let datapath = open(&bpffs);
    let nic = ifindex(&host, "nic0");
    let good = Attachment { program: Program::FromProxy, ifindex: nic };
    // This side has no such program.
    let bad = Attachment { program: Program::ClientEgress, ifindex: nic };
    let stray = Attachment { program: Program::Ingress, ifindex: ifindex(&host, "lo") };
    host.run(|| {
        datapath.attach(stray).unwrap();
        let kept = datapath.keep_only(&BTreeSet::from([bad, good])).unwrap();
        assert_eq!(kept.done, [(good, Attached::Made)].into());
        assert_eq!(kept.refused.keys().collect::<Vec<_>>(), [&bad]);
        let left: Vec<_> = datapath.links().unwrap().iter().map(|link| link.attachment).collect();
        assert_eq!(left, [good], "the stray is gone");
    });
}

#[test]
fn interfaces_that_go_while_links_are_read_are_no_error() {
    let (host, _other, bpffs) = host();
    let datapath = open(&bpffs);
    let (reads, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            host.run(|| {
                while !done.load(Ordering::Relaxed) {
                    reads.fetch_add(1, Ordering::Relaxed);
                    let links = datapath.links().unwrap();
                    assert!(links.iter().all(|link| link.alive == link.place.is_some()), "{links:?}");
                }
            });
        });
        for _ in 0..150 {
            host.ip("link add short0 type veth peer name short1");
            let here = Attachment { program: Program::FromProxy, ifindex: ifindex(&host, "short0") };
            host.run(|| datapath.attach(here)).unwrap();
            host.ip("link del short0");
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert!(reads.into_inner() > 150, "they were read meanwhile");
}

#[test]
fn programs_of_the_other_side_are_not_attached() {
    let (host, _other, bpffs) = host();
    let datapath = open(&bpffs);
    let wrong = Attachment { program: Program::ClientEgress, ifindex: ifindex(&host, "nic0") };
    assert!(host.run(|| datapath.attach(wrong)).is_err());
}

#[test]
fn four_capabilities_are_enough() {
    let (host, _other, bpffs) = host();
    let dir = bpffs.path("epic");
    let here = Attachment { program: Program::Ingress, ifindex: ifindex(&host, "nic0") };
    // The agent's container is given a directory it may write, and these capabilities.
    std::fs::create_dir(&dir).unwrap();
    let options = options(&bpffs, "epic");
    host.run(|| {
        keep_capabilities(&[CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF]);
        for round in 0..2 {
            let datapath = Datapath::open(&options).expect("open with four capabilities");
            assert_eq!(datapath.adopted().maps, round == 1);
            datapath.attach(here).expect("attach with four capabilities");
            assert_eq!(datapath.links().unwrap()[0].place, Some(0));
            datapath.maps().maglev.set(epic_abi::Lb::new(1, 1), &[1, 2, 3]).expect("write a table");
            let table = datapath.maps().maglev.get(epic_abi::Lb::new(1, 1)).unwrap().expect("read it back");
            assert_eq!(table[..4], [1, 2, 3, 0]);
        }
    });
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Gives up all other capabilities of this thread.
fn keep_capabilities(kept: &[u32]) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Set {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut sets = [Set { effective: 0, permitted: 0, inheritable: 0 }; 2];
    for capability in kept {
        let set = &mut sets[*capability as usize / 32];
        set.effective |= 1 << (capability % 32);
        set.permitted |= 1 << (capability % 32);
    }
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    // SAFETY: version 3 of the header takes two sets.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    assert_eq!(done, 0, "capset: {}", std::io::Error::last_os_error());
}
