//! Another layout or another size: new maps are filled beside those that serve, and the switch loses nothing, whatever ends
//! the agent and whichever version comes next.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use epic_abi::maps::{LAYOUT_VERSION, Remote, Side, SourceKey, TunnelStats, VIP_OWNED, Vip};
use epic_abi::{Ip, Lb};
use epic_datapath::dump::{Extent, dump};
use epic_datapath::{Attached, Attachment, Datapath, Error, Maps, Options, Program, Step};
use epic_testnet::{Bpffs, Netns};

use crate::support::lab::NIC;
use crate::support::program::Epic;
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::{Conversation, requests};

/// Steps of a switch with two links.
const STEPS: usize = 5;

fn options(bpffs: &Bpffs) -> Options {
    let mut options = Options::new(bpffs.path("epic"), Side::Node);
    options.max_entries = [("flows".to_owned(), 64)].into();
    options
}

/// The same with maps of what is learned of other sizes.
fn resized(options: &Options) -> Options {
    let mut resized = options.clone();
    let other = [("flows", 4_096), ("remotes", 1_024), ("sources", 2_048), ("tunnel_stats", 1_024)];
    resized.max_entries.extend(other.map(|(map, entries)| (map.to_owned(), entries)));
    resized
}

/// The same as another version would ask for it.
fn numbered(options: &Options) -> Options {
    Options { layout: LAYOUT_VERSION + 1, ..options.clone() }
}

/// What an agent would write: everything of desired state.
struct Desired {
    maps: Arc<Maps>,
    tables: BTreeMap<Lb, Option<Vec<u32>>>,
}

impl Desired {
    fn of(maps: &Arc<Maps>) -> Self {
        Self { maps: Arc::clone(maps), tables: maps.maglev.entries().unwrap() }
    }

    fn fill(&self, datapath: &Datapath) {
        let (from, to) = (&self.maps, datapath.maps());
        for tunnel in from.tunnels.entries().unwrap().into_keys() {
            to.tunnel_stats.ensure(&tunnel).unwrap();
        }
        for (lb, table) in &self.tables {
            to.maglev.set(*lb, table.as_deref().unwrap()).unwrap();
        }
        macro_rules! fill {
            ($($table:ident)+) => {
                $(for (key, value) in from.$table.entries().unwrap() {
                    to.$table.set(&key, &value).unwrap();
                })+
            };
        }
        fill! {
            config locals nodes keys tunnels endpoint_aliases proxies local_proxies aliases passes listeners services
            vips
        }
    }
}

/// Ends the traffic also when the test fails, which would wait for it otherwise.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Everything below a directory, by path.
fn pins(dir: &Path) -> BTreeSet<String> {
    fn walk(at: &Path, top: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), top, found);
            } else {
                found.insert(entry.path().strip_prefix(top).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(dir, dir, &mut found);
    found
}

fn sum(cpus: &[TunnelStats]) -> u64 {
    cpus.iter().map(|cpu| cpu.tx_packets + cpu.rx_packets).sum()
}

#[test]
fn forth_and_back_under_traffic_loses_nothing_wherever_the_agent_ends() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]));
    let (internet, public) = (epic.site.internet.clone(), scene.tenant.public());
    let standing: Vec<Conversation> =
        (0..50).map(|_| Conversation::open(&internet, public).unwrap()).collect();
    let before = dump(epic.nodes[0].maps(), Extent::default()).unwrap();
    let desired = Desired::of(epic.nodes[0].maps());
    let (first, netns) = (epic.node_options(0), epic.site.nodes[0].netns.clone());
    let versions = [resized(&first), numbered(&first), first.clone(), numbered(&resized(&first))];
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut failed = Vec::new();
            while !done.load(Ordering::Relaxed) {
                for answer in requests(&internet, public, 20, 4, 2_000) {
                    answered.fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
                    failed.extend(answer.err());
                }
            }
            failed
        });
        let ends = Ends(&done);
        let mut counted = 0;
        for (version, ends_after) in versions.iter().flat_map(|v| (0..=STEPS).map(move |n| (v, n))) {
            drop(epic.nodes.remove(0));
            let mut begun = netns.run(|| Datapath::open(version)).expect("open beside what serves");
            if !begun.is_serving() {
                assert_eq!(begun.adopted().links.len(), 2, "the interface's and the proxy's go on");
                desired.fill(&begun);
                for _ in 0..ends_after {
                    netns.run(|| begun.advance()).expect("a step of the switch");
                }
            }
            // A crash: the handle goes, everything pinned stays. Sometimes the next one is of the version before.
            drop(begun);
            let next = if ends_after % 2 == 0 { version } else { &first };
            let mut opened = netns.run(|| Datapath::open(next)).expect("open after a crash");
            if !opened.is_serving() {
                desired.fill(&opened);
                netns.run(|| opened.switch()).expect("switch");
            }
            assert_eq!(dump(opened.maps(), Extent::default()).unwrap(), before, "after {ends_after} steps");
            let links = netns.run(|| opened.links()).unwrap();
            assert!(links.iter().all(|link| link.alive && link.place == Some(0)), "{links:?}");
            let packets = sum(&opened.maps().tunnel_stats.get(&1).unwrap().unwrap());
            assert!(packets >= counted, "{packets} packets after {counted}");
            counted = packets;
            epic.nodes.insert(0, opened);
        }
        drop(ends);
        traffic.join().expect("the client")
    });
    assert!(failed.is_empty(), "{} requests failed, first: {}", failed.len(), failed[0]);
    let answered = answered.into_inner();
    assert!(answered >= 300, "only {answered} requests");
    for conversation in standing {
        conversation.finish(10, 10_000).expect("an old connection stands");
    }
}

#[test]
fn nothing_is_left_of_what_served_before() {
    let (bpffs, host) = (Bpffs::new(), Netns::new("host"));
    let first = options(&bpffs);
    let lo = Attachment { program: Program::FromProxy, ifindex: 1 };
    host.run(|| {
        let datapath = Datapath::open(&first).unwrap();
        datapath.attach(lo).unwrap();
        let fresh = pins(&first.dir);
        drop(datapath);
        let mut datapath = Datapath::open(&resized(&first)).unwrap();
        let steps: Vec<Step> = std::iter::from_fn(|| datapath.advance().unwrap()).collect();
        assert_eq!(steps, [Step::Copied, Step::Current, Step::Moved(lo), Step::Removed]);
        assert!(datapath.is_serving() && datapath.advance().unwrap().is_none());
        drop(datapath);
        let mut datapath = Datapath::open(&first).unwrap();
        datapath.switch().unwrap();
        assert_eq!(pins(&first.dir), fresh, "there and back again");
        datapath.remove().unwrap();
        assert!(!first.dir.exists());
    });
}

#[test]
fn what_is_learned_while_maps_are_filled_reaches_those_that_serve() {
    let bpffs = Bpffs::new();
    let first = options(&bpffs);
    let serving = Datapath::open(&first).unwrap();
    let old = Remote { port: 1, ..Remote::default() };
    serving.maps().remotes.set(&1, &old).unwrap();
    serving.maps().remotes.set(&2, &old).unwrap();
    let former = Arc::clone(serving.maps());
    drop(serving);
    let mut datapath = Datapath::open(&resized(&first)).unwrap();
    let serving = Maps::open(&first.dir).unwrap();
    assert_eq!(datapath.maps().remotes.get(&1).unwrap(), Some(old), "copied at once");
    let new = Remote { port: 2, ..Remote::default() };
    let source = SourceKey { port: 2, lb: Lb::new(1, 1), ..SourceKey::default() };
    datapath.maps().remotes.set(&1, &new).unwrap();
    datapath.maps().sources.set(&source, &1).unwrap();
    assert!(datapath.maps().remotes.remove(&2).unwrap());
    assert_eq!(serving.remotes.entries().unwrap(), [(1, new)].into());
    assert_eq!(serving.sources.get(&source).unwrap(), Some(1));
    // What was forgotten in the new maps alone, as by a hello during the switch, is not brought back either.
    former.remotes.set(&3, &old).unwrap();
    datapath.switch().unwrap();
    assert_eq!(datapath.maps().remotes.entries().unwrap(), [(1, new)].into(), "nothing old came back");
    datapath.maps().remotes.remove(&1).unwrap();
    assert_eq!(serving.remotes.get(&1).unwrap(), Some(new), "that one is not written any more");
    assert_eq!(datapath.maps().remotes.capacity(), 1_024);
}

#[test]
fn what_an_earlier_try_has_copied_is_forgotten() {
    let bpffs = Bpffs::new();
    let first = options(&bpffs);
    let (old, new) = (Remote { port: 1, ..Remote::default() }, Remote { port: 2, ..Remote::default() });
    let serving = Datapath::open(&first).unwrap();
    serving.maps().remotes.set(&1, &old).unwrap();
    serving.maps().remotes.set(&2, &old).unwrap();
    drop(serving);
    // It ends before the switch, another one learns and ends too, and the first maps serve on.
    drop(Datapath::open(&resized(&first)).unwrap());
    let mut third = first.clone();
    third.max_entries.extend([("remotes".to_owned(), 512)]);
    let other = Datapath::open(&third).unwrap();
    other.maps().remotes.set(&1, &new).unwrap();
    other.maps().remotes.remove(&2).unwrap();
    drop(other);
    let mut datapath = Datapath::open(&resized(&first)).unwrap();
    assert_eq!(datapath.maps().remotes.entries().unwrap(), [(1, new)].into());
    datapath.switch().unwrap();
    assert_eq!(datapath.maps().remotes.entries().unwrap(), [(1, new)].into());
}

#[test]
fn layouts_of_one_size_share_what_is_learned_and_nothing_else() {
    let bpffs = Bpffs::new();
    let first = options(&bpffs);
    let serving = Datapath::open(&first).unwrap();
    serving.maps().remotes.set(&1, &Remote::default()).unwrap();
    serving.maps().vips.set(&Ip::from(Ipv4Addr::new(192, 0, 2, 1)), &Vip { flags: VIP_OWNED }).unwrap();
    drop(serving);
    let datapath = Datapath::open(&numbered(&first)).unwrap();
    assert!(!datapath.adopted().maps && !datapath.is_serving());
    assert_eq!(datapath.maps().remotes.count().unwrap(), 1);
    assert_eq!(datapath.maps().vips.count().unwrap(), 0);
    datapath.maps().remotes.remove(&1).unwrap();
    assert_eq!(Maps::open(&first.dir).unwrap().remotes.count().unwrap(), 0, "it is one map");
    let owned: Vec<String> = datapath.serving().unwrap().owned.iter().map(ToString::to_string).collect();
    assert_eq!(owned, ["192.0.2.1"]);
}

#[test]
fn an_interface_that_comes_before_the_switch_gets_the_program_that_serves() {
    let (bpffs, host) = (Bpffs::new(), Netns::new("host"));
    let first = options(&bpffs);
    let lo = Attachment { program: Program::FromProxy, ifindex: 1 };
    host.run(|| {
        drop(Datapath::open(&first).unwrap());
        let mut datapath = Datapath::open(&numbered(&first)).unwrap();
        assert_eq!(datapath.attach(lo).unwrap(), Attached::Made);
        let served = |dir: &str| program_at(&first.dir.join(dir).join("programs/epic_from_proxy"));
        assert_eq!(program_of_link(&first.dir), served("current"));
        datapath.switch().unwrap();
        assert_eq!(program_of_link(&first.dir), served("current"));
        assert_eq!(datapath.attach(lo).unwrap(), Attached::Kept);
    });
}

/// Id of a pinned program.
fn program_at(path: &Path) -> u32 {
    aya::programs::ProgramInfo::from_pin(path).unwrap().id()
}

/// Id of the program that the only link runs.
fn program_of_link(dir: &Path) -> u32 {
    epic_datapath::links(dir).unwrap().first().unwrap().program
}

#[test]
fn pins_of_before_there_were_directories_are_taken_up_under_traffic() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let (internet, public) = (epic.site.internet.clone(), scene.tenant.public());
    let standing = Conversation::open(&internet, public).unwrap();
    let before = dump(epic.nodes[0].maps(), Extent::default()).unwrap();
    let (options, netns) = (epic.node_options(0), epic.site.nodes[0].netns.clone());
    let desired = Desired::of(epic.nodes[0].maps());
    let maps = fs::read_dir(options.dir.join("current/maps")).unwrap().count();
    for moved in [0, maps / 2, maps - 1] {
        drop(epic.nodes.remove(0));
        flatten(&options.dir, moved);
        let datapath = netns.run(|| Datapath::open(&options)).expect("take up flat pins");
        assert!(datapath.adopted().maps && datapath.is_serving());
        assert_eq!(datapath.adopted().links.len(), 2);
        assert_eq!(dump(datapath.maps(), Extent::default()).unwrap(), before);
        epic.nodes.insert(0, datapath);
        requests(&internet, public, 20, 4, 2_000).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    // Of other sizes than are wanted now: there were no programs to attach to what comes meanwhile, and are now.
    drop(epic.nodes.remove(0));
    flatten(&options.dir, 0);
    let mut datapath = netns.run(|| Datapath::open(&resized(&options))).expect("take up flat pins");
    assert!(!datapath.is_serving());
    let nic = epic.site.nodes[0].ifindex(NIC);
    let here = Attachment { program: Program::FromProxy, ifindex: nic };
    assert_eq!(netns.run(|| datapath.attach(here)).unwrap(), Attached::Made);
    assert!(netns.run(|| datapath.detach(here)).unwrap());
    desired.fill(&datapath);
    netns.run(|| datapath.switch()).unwrap();
    assert_eq!(dump(datapath.maps(), Extent::default()).unwrap(), before);
    epic.nodes.insert(0, datapath);
    requests(&internet, public, 20, 4, 2_000).into_iter().for_each(|answer| drop(answer.unwrap()));
    standing.finish(10, 10_000).expect("the old connection stands");
}

/// Lays pins out as the version before directories did, or as one that takes them up leaves them when it ends after
/// `moved` maps.
fn flatten(dir: &Path, moved: usize) {
    let current = dir.join(fs::read_link(dir.join("current")).unwrap());
    let mut maps: Vec<_> = fs::read_dir(current.join("maps")).unwrap().map(Result::unwrap).collect();
    maps.sort_by_key(|map| (map.file_name() == "layout", map.file_name()));
    for map in maps.iter().skip(moved) {
        fs::rename(map.path(), dir.join(map.file_name())).unwrap();
    }
    if moved > 0 {
        return;
    }
    fs::create_dir(dir.join("maglev-tables")).unwrap();
    for table in fs::read_dir(current.join("maglev-tables")).unwrap().map(Result::unwrap) {
        fs::rename(table.path(), dir.join("maglev-tables").join(table.file_name())).unwrap();
    }
    fs::remove_file(dir.join("current")).unwrap();
    for stray in ["learned", current.to_str().unwrap()].map(|name| dir.join(name)) {
        fs::remove_dir_all(stray).unwrap();
    }
}

#[test]
fn flat_pins_of_a_layout_that_never_was_are_refused_and_left_alone() {
    let bpffs = Bpffs::new();
    let options = options(&bpffs);
    let other = numbered(&options);
    drop(Datapath::open(&other).unwrap());
    flatten(&options.dir, 0);
    let before = pins(&options.dir);
    let refused = Datapath::open(&options).unwrap_err().to_string();
    let expected = format!("maps of layout {} are pinned", LAYOUT_VERSION + 1);
    assert!(refused.contains(&expected) && refused.contains("rm -r"), "{refused}");
    assert_eq!(pins(&options.dir), before);
}

#[test]
fn flat_pins_without_a_layout_are_refused() {
    let bpffs = Bpffs::new();
    let options = options(&bpffs);
    drop(Datapath::open(&options).unwrap());
    flatten(&options.dir, 0);
    fs::remove_file(options.dir.join("layout")).unwrap();
    assert!(matches!(Datapath::open(&options).unwrap_err(), Error::Foreign { .. }));
    epic_datapath::remove(&options.dir).unwrap();
    Datapath::open(&options).expect("a fresh start");
}

#[test]
fn a_layout_that_nobody_knows_serves_until_ours_is_filled() {
    let (bpffs, host) = (Bpffs::new(), Netns::new("host"));
    let options = options(&bpffs);
    host.run(|| {
        // A newer version's: more maps and programs, a link of a kind that came later.
        let newer = Datapath::open(&numbered(&options)).unwrap();
        newer.attach(Attachment { program: Program::Ingress, ifindex: 1 }).unwrap();
        drop(newer);
        let (dir, links) = (&options.dir, options.dir.join("links"));
        let serving = fs::read_link(dir.join("current")).unwrap();
        fs::rename(links.join("epic_ingress-1"), links.join("epic_xdp-1")).unwrap();
        fs::rename(dir.join(&serving), dir.join("l9-00000000")).unwrap();
        fs::remove_file(dir.join("current")).unwrap();
        symlink("l9-00000000", dir.join("current")).unwrap();
        fs::rename(dir.join("current/programs/epic_ingress"), dir.join("current/programs/epic_xdp")).unwrap();
        fs::rename(dir.join("current/maps/passes"), dir.join("current/maps/allowances")).unwrap();
        fs::rename(dir.join("learned/flows-1-64"), dir.join("learned/flows-2-64")).unwrap();

        let before = pins(dir);
        assert_eq!(epic_datapath::links(dir).unwrap(), [], "reading takes nothing away");
        assert_eq!(pins(dir), before);
        let mut datapath = Datapath::open(&options).unwrap();
        assert_eq!(datapath.adopted().former.as_deref(), Some("l9-00000000"));
        assert!(pins(dir).is_superset(&before), "what serves is whole");
        let nowhere = Attachment { program: Program::Ingress, ifindex: 1 };
        assert!(matches!(datapath.attach(nowhere), Err(Error::NoProgram(_))), "it has no such program");
        datapath.switch().unwrap();
        assert_eq!(fs::read_dir(&links).unwrap().count(), 0, "and its link is gone");
        assert!(!dir.join("l9-00000000").exists() && !dir.join("learned/flows-2-64").exists());
        assert_eq!(datapath.attach(nowhere).unwrap(), Attached::Made);
    });
}
