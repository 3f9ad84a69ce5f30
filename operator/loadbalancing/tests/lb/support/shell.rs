//! The shell of the script tests: one command a line, the transcript is the result.
//!
//! Rows: `service NAME GROUP/SERVICE [generation=N] [no-keys]`, `frontend NAME VIP:PORT slot=N [owner]`,
//! `proxy NAME ID node=NODE [state=STATE] [no-veth]` (also the backend of that proxy), `tunnel NAME ID client=IP`,
//! `alias NAME ID tunnel=ID real=IP:PORT`, `pass NAME|all IP:PORT`, `node IP NAME`, `delete KIND KEY…`.
//! Between `begin` and `commit` they are one transaction; `abort` drops it.
//! Maps: `round`, `settle`, `confirm`, `fail P`, `room MAP N`, `stray KEY` (a vip nobody wants), `restart`, `refresh`.
//! Output: `tables`, `maps`, `health`, `writes`. `register NAME`, `complete NAME`. `#` begins a comment.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use epic_lb::reconciler::{PruneRequest, Reconciler};
use epic_lb::render::NodeSide;
use epic_lb::{
    AliasKey, BackendState, EpicNode, FakeMaps, Faults, FaultyMaps, FrontendKey, Initializer, LbMaps, MapId,
    MapKey, MapValue, Pass, PassKey, Protocol, ProxyId, ProxyState, Source, TunnelId, WriteTxn, Writer,
    debug_dump,
};

use super::{CheckedMaps, alias, alias_address, frontend, ip, name, node_reconciler, proxy, proxy_backend};
use super::{service, settle, tunnel, writer};

type Maps = FaultyMaps<CheckedMaps>;

pub(crate) struct Shell {
    writer: Writer,
    reconciler: Option<Reconciler<Maps, NodeSide>>,
    now: Instant,
    ask: Option<PruneRequest>,
    writes_seen: u64,
    initializers: BTreeMap<String, Initializer>,
}

/// Runs a script and returns its transcript.
pub(crate) fn run(script: &str) -> String {
    let mut shell = Shell::new();
    let mut out = String::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let command = !line.is_empty() && !line.starts_with('#');
        writeln!(out, "{}{line}", if command { "> " } else { "" }).unwrap();
        if line == "begin" {
            shell.block(&mut lines, &mut out);
        } else if command {
            shell.line(line, &mut out);
        }
    }
    out
}

impl Shell {
    fn new() -> Self {
        let writer = writer();
        let maps = FaultyMaps::new(CheckedMaps(FakeMaps::new()), Faults::default(), 1);
        let reconciler = Some(node_reconciler(&writer, maps));
        Self {
            writer,
            reconciler,
            now: Instant::now(),
            ask: None,
            writes_seen: 0,
            initializers: BTreeMap::new(),
        }
    }

    fn reconciler(&mut self) -> &mut Reconciler<Maps, NodeSide> {
        self.reconciler.as_mut().expect("there is always one between commands")
    }

    fn block<'a>(&mut self, lines: &mut impl Iterator<Item = &'a str>, out: &mut String) {
        let writer = self.writer.clone();
        let mut txn = writer.write();
        for line in lines {
            writeln!(out, "> {line}").unwrap();
            match line {
                "commit" => {
                    txn.commit();
                    return;
                }
                "abort" => return txn.abort(),
                line => row(&mut txn, line, out),
            }
        }
        panic!("a block without commit or abort");
    }

    fn line(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["tables"] => debug_dump(&self.writer.snapshot(), out).unwrap(),
            ["maps"] => out.push_str(&self.reconciler().maps().inner().0.dump()),
            ["health"] => writeln!(out, "{}", self.reconciler().progress().health).unwrap(),
            ["writes"] => {
                let writes = self.reconciler().maps().inner().0.writes();
                writeln!(out, "{}", writes - self.writes_seen).unwrap();
                self.writes_seen = writes;
            }
            ["round"] => {
                let now = self.now;
                let round = self.reconciler().round(now);
                self.ask = round.ask;
                if let Some(ask) = round.ask {
                    writeln!(out, "asks to remove {} of {} entries", ask.removals, ask.entries).unwrap();
                }
                if round.retry_at.is_some() {
                    writeln!(out, "will retry").unwrap();
                }
                self.now += Duration::from_secs(61);
            }
            ["settle"] => {
                let now = self.now;
                self.now = settle(self.reconciler(), now);
            }
            ["confirm"] => {
                let ask = self.ask.take().expect("a question to answer");
                self.reconciler().confirm_prune(ask);
            }
            ["fail", probability] => {
                let faults = Faults { probability: probability.parse().unwrap(), writes_left: None };
                self.reconciler().maps_mut().set_faults(faults);
            }
            ["room", map, entries] => {
                let map = MapId::ALL.into_iter().find(|m| m.name() == map).expect("a map of this name");
                self.change_maps(|maps| maps.set_room(map, entries.parse().unwrap()));
            }
            ["stray", address] => self.change_maps(|maps| {
                let value = MapValue::Vip(epic_abi::maps::Vip { flags: 0 });
                maps.update(&MapKey::Vip(ip(address).into()), &value).unwrap();
            }),
            ["restart"] => self.change_maps(|_| ()),
            ["refresh"] => self.reconciler().refresh().unwrap(),
            ["register", name] => {
                self.initializers.insert(name.to_owned(), self.writer.register_initializer(name));
            }
            ["complete", name] => {
                let initializer = self.initializers.remove(name).expect("registered");
                let mut txn = self.writer.write();
                initializer.complete(&mut txn);
                txn.commit();
            }
            _ => {
                let mut txn = self.writer.write();
                row(&mut txn, line, out);
                txn.commit();
            }
        }
    }

    /// Ends the reconciler, changes its maps behind its back, and starts another one on them.
    fn change_maps(&mut self, change: impl FnOnce(&mut FakeMaps)) {
        let mut maps = self.reconciler.take().expect("there is always one").into_maps().into_inner();
        change(&mut maps.0);
        let maps = FaultyMaps::new(maps, Faults::default(), 1);
        self.reconciler = Some(node_reconciler(&self.writer, maps));
    }
}

fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

fn place(text: &str) -> (std::net::IpAddr, u16) {
    let (address, port) = text.rsplit_once(':').unwrap_or_else(|| panic!("{text:?} is not IP:PORT"));
    (ip(address), port.parse().unwrap())
}

fn row(txn: &mut WriteTxn<'_>, line: &str, out: &mut String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |key: &str, default: u32| option(&words, key).map_or(default, |v| v.parse().unwrap());
    match words[..] {
        ["service", of, ids, ..] => {
            let (group, id) = ids.split_once('/').unwrap();
            let mut row = service(of, group.parse().unwrap(), id.parse().unwrap(), number("generation", 1));
            if words.contains(&"no-keys") {
                row.keys = None;
            }
            txn.upsert_service(row);
        }
        ["frontend", of, at, ..] => {
            let (vip, port) = place(at);
            let mut params = frontend(of, &vip.to_string(), port, number("slot", 0) as u16);
            params.vip_owner = words.contains(&"owner");
            if let Err(error) = txn.upsert_frontend(params) {
                writeln!(out, "{error}").unwrap();
            }
        }
        ["proxy", of, id, ..] => {
            let state = match option(&words, "state") {
                None | Some("Ready") => ProxyState::Ready,
                Some("Draining") => ProxyState::Draining,
                Some("OutOfService") => ProxyState::OutOfService,
                _ => ProxyState::Pending,
            };
            let mut row = proxy(of, id.parse().unwrap(), option(&words, "node").unwrap_or("node1"), state);
            if words.contains(&"no-veth") {
                row.local = None;
            }
            let mut backend = proxy_backend(of, id.parse().unwrap());
            backend.state = match state {
                ProxyState::Ready => BackendState::Active,
                ProxyState::Draining => BackendState::Draining,
                ProxyState::OutOfService => BackendState::Terminating,
                ProxyState::Pending => BackendState::Maintenance,
            };
            txn.upsert_proxy(row);
            txn.upsert_backends(&name(of), Source::Resource, [backend]);
        }
        ["tunnel", of, id, ..] => {
            let client = option(&words, "client").unwrap_or("203.0.113.9");
            txn.upsert_tunnel(tunnel(of, id.parse().unwrap(), client, "node1"));
        }
        ["alias", of, id, ..] => {
            let (real, port) = place(option(&words, "real").unwrap());
            let tunnel = option(&words, "tunnel").map(|t| t.parse().unwrap());
            txn.upsert_alias(alias(of, id.parse().unwrap(), tunnel, &real.to_string(), port));
        }
        ["pass", of, at] => {
            let (address, port) = place(at);
            let service = (of != "all").then(|| name(of));
            let key = PassKey { service, address, port, protocol: Protocol::Tcp };
            txn.upsert_pass(Pass { key, purpose: "test".into() });
        }
        ["node", address, node] => {
            txn.upsert_node(EpicNode { address: ip(address), name: node.into() });
        }
        ["delete", "service", of] => assert!(txn.delete_service_and_frontends(&name(of))),
        ["delete", "frontend", at] => {
            let (vip, port) = place(at);
            txn.delete_frontend(&FrontendKey::new(vip, port, Protocol::Tcp));
        }
        ["delete", "proxy", of, id] => {
            let id: u32 = id.parse().unwrap();
            let backend = proxy_backend(of, id).key;
            txn.delete_proxy(ProxyId::new(id).unwrap());
            txn.release_backend(&name(of), backend.address, backend.port, backend.protocol);
        }
        ["delete", "tunnel", id] => {
            assert!(txn.delete_tunnel(TunnelId::new(id.parse::<u32>().unwrap()).unwrap()))
        }
        ["delete", "alias", of, id] => {
            let address = alias_address(id.parse().unwrap());
            txn.delete_alias(&AliasKey { service: name(of), address });
        }
        ["delete", "node", address] => assert!(txn.delete_node(ip(address))),
        _ => panic!("no such command: {line}"),
    }
}
