//! Any sequence of what clients do, with restarts in between, against a model that has no socket.

use std::collections::{BTreeMap, BTreeSet};

use epic_lb::{Source, Writer};
use epic_sources::file::{Document, apply};
use epic_sources::socket::{Reply, Request, Settings};
use proptest::prelude::*;

use super::host::{Client, Host};

/// What one of three clients does. Services and addresses are few, so that they meet.
#[derive(Clone, Debug)]
enum Act {
    Register(usize),
    List(usize, Vec<(usize, u8, u8)>),
    Put(usize, (usize, u8, u8)),
    Delete(usize, u8),
    DeleteName(usize, usize),
    Close(usize),
    Forget(usize),
    Restart,
    Noise(usize),
}

/// A service, the last byte of its address (0: it has none) and of its backend.
fn service() -> impl Strategy<Value = (usize, u8, u8)> {
    (0usize..4, 0u8..4, 0u8..3)
}

fn act() -> impl Strategy<Value = Act> {
    let client = 0usize..3;
    prop_oneof![
        4 => client.clone().prop_map(Act::Register),
        4 => (client.clone(), prop::collection::vec(service(), 0..4)).prop_map(|(c, list)| Act::List(c, list)),
        6 => (client.clone(), service()).prop_map(|(c, one)| Act::Put(c, one)),
        3 => (client.clone(), 1u8..4).prop_map(|(c, address)| Act::Delete(c, address)),
        1 => (client.clone(), 0usize..4).prop_map(|(c, name)| Act::DeleteName(c, name)),
        2 => client.clone().prop_map(Act::Close),
        1 => client.clone().prop_map(Act::Forget),
        1 => Just(Act::Restart),
        1 => client.prop_map(Act::Noise),
    ]
}

fn name(service: usize) -> String {
    format!("shop/s{service}")
}

fn text((service, address, backend): (usize, u8, u8)) -> String {
    let frontends = match address {
        0 => "[]".to_owned(),
        last => format!(r#"[{{"address":"192.0.2.{last}","port":80}}]"#),
    };
    let backends = format!(r#"[{{"address":"10.0.0.{}","port":8080}}]"#, backend + 1);
    format!(r#"{{"name":"{}","frontends":{frontends},"backends":{backends}}}"#, name(service))
}

#[derive(Default)]
struct Known {
    /// Address and backend by service.
    services: BTreeMap<usize, (u8, u8)>,
    connected: bool,
    listed: bool,
    ever: bool,
}

/// Clients by number; what is refused changes nothing.
#[derive(Default)]
struct Model([Known; 3]);

impl Model {
    fn free(&self, client: usize, (service, address, _): (usize, u8, u8)) -> bool {
        let others = self.0.iter().enumerate().filter(|(other, _)| *other != client);
        others
            .flat_map(|(_, known)| &known.services)
            .all(|(name, (taken, _))| *name != service && (address == 0 || *taken != address))
    }

    fn list(&mut self, client: usize, list: &[(usize, u8, u8)]) -> bool {
        let names: BTreeSet<usize> = list.iter().map(|one| one.0).collect();
        let addresses: Vec<u8> = list.iter().map(|one| one.1).filter(|address| *address != 0).collect();
        let distinct: BTreeSet<u8> = addresses.iter().copied().collect();
        let possible = names.len() == list.len()
            && distinct.len() == addresses.len()
            && list.iter().all(|one| self.free(client, *one));
        let known = &mut self.0[client];
        if !known.connected || !possible {
            return false;
        }
        known.services = list.iter().map(|(name, address, backend)| (*name, (*address, *backend))).collect();
        (known.listed, known.ever) = (true, true);
        true
    }

    fn put(&mut self, client: usize, one: (usize, u8, u8)) -> bool {
        let own = self.0[client].services.iter();
        let own =
            own.filter(|(name, (address, _))| **name != one.0 && one.1 != 0 && *address == one.1).count();
        let possible = self.0[client].listed && own == 0 && self.free(client, one);
        if possible {
            self.0[client].services.insert(one.0, (one.1, one.2));
        }
        possible
    }

    fn delete(&mut self, client: usize, which: impl Fn(usize, u8) -> bool) -> bool {
        let known = &mut self.0[client];
        let before = known.services.len();
        if known.listed {
            known.services.retain(|name, (address, _)| !which(*name, *address));
        }
        known.services.len() < before
    }

    fn leave(&mut self, client: usize) {
        (self.0[client].connected, self.0[client].listed) = (false, false);
    }

    /// The tables that all of it makes. What the services say of their clients is left out.
    fn tables(&self) -> (Vec<String>, Vec<String>) {
        let all = self.0.iter().flat_map(|known| &known.services);
        let mut document = Document::default();
        for (name, (address, backend)) in all {
            let yaml = format!("services: [{}]", text((*name, *address, *backend)));
            document.services.extend(Document::parse(&yaml).unwrap().services);
        }
        let writer = Writer::new().for_source(Source::Api);
        let mut txn = writer.write();
        apply(&mut txn, document);
        txn.commit();
        tables(&writer)
    }
}

fn tables(writer: &Writer) -> (Vec<String>, Vec<String>) {
    let snapshot = writer.snapshot();
    assert!(snapshot.wishes.is_empty());
    let frontends = snapshot.frontends.iter().map(|row| format!("{:?}", row.row));
    let mut rows: Vec<String> =
        frontends.chain(snapshot.backends.iter().map(|row| format!("{:?}", row.row))).collect();
    rows.sort();
    let mut services: Vec<String> =
        snapshot.services.iter().map(|row| format!("{} {}", row.name, row.source)).collect();
    services.sort();
    (services, rows)
}

/// Says something, and whether it was done. Requests to list are passed over.
async fn done(client: &mut Client, line: &str) -> bool {
    client.send(line).await;
    loop {
        match serde_json::from_str(&client.hear().await).unwrap() {
            Reply::List {} => {}
            Reply::Ok { warning } => return warning.is_none(),
            Reply::Refused { .. } => return false,
            Reply::Status { .. } => panic!("nobody asked"),
        }
    }
}

async fn run(acts: Vec<Act>) {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(Settings::new(folder.path().join("services"))).await;
    let mut model = Model::default();
    let mut clients: [Option<Client>; 3] = [const { None }; 3];
    for act in acts {
        let (at, line, wanted) = match &act {
            Act::Restart => {
                clients = [const { None }; 3];
                (0..3).for_each(|client| model.leave(client));
                host = host.restart().await;
                assert!(host.writer.snapshot().initialized());
                assert_eq!(tables(&host.writer), model.tables(), "{act:?}");
                continue;
            }
            Act::Close(at) => {
                if clients[*at].take().is_some() && model.0[*at].connected {
                    let presence = if model.0[*at].ever { "stale" } else { "gone" };
                    host.until(&format!("c{at}"), presence).await;
                }
                model.leave(*at);
                continue;
            }
            Act::Register(at) => {
                let wanted = !std::mem::replace(&mut model.0[*at].connected, true);
                (*at, format!(r#"{{"register":{{"name":"c{at}"}}}}"#), wanted)
            }
            Act::List(at, list) => {
                let services: Vec<String> = list.iter().map(|one| text(*one)).collect();
                let line = format!(r#"{{"list":{{"services":[{}]}}}}"#, services.join(","));
                (*at, line, model.list(*at, list))
            }
            Act::Put(at, one) => (*at, format!(r#"{{"put":{}}}"#, text(*one)), model.put(*at, *one)),
            Act::Delete(at, last) => {
                let line = format!(r#"{{"delete":{{"address":"192.0.2.{last}","port":80}}}}"#);
                (*at, line, model.delete(*at, |_, address| address == *last))
            }
            Act::DeleteName(at, service) => {
                let line = format!(r#"{{"delete":{{"name":"{}"}}}}"#, name(*service));
                (*at, line, model.delete(*at, |name, _| name == *service))
            }
            Act::Forget(other) => {
                // By a connection that is nobody.
                let mut somebody = Client::connect(&host.settings.path).await;
                let known = &mut model.0[*other];
                let wanted = !known.connected && known.ever;
                if wanted {
                    *known = Known::default();
                }
                let line = format!(r#"{{"forget":{{"name":"c{other}"}}}}"#);
                assert_eq!(done(&mut somebody, &line).await, wanted, "{act:?}");
                continue;
            }
            Act::Noise(at) => (*at, r#"{"put":{"name":"#.to_owned(), false),
        };
        if clients[at].is_none() {
            clients[at] = Some(Client::connect(&host.settings.path).await);
        }
        let client = clients[at].as_mut().unwrap();
        assert_eq!(done(client, &line).await, wanted, "{act:?}: {line}");
        assert_eq!(tables(&host.writer), model.tables(), "{act:?}");
    }
    host.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_do_the_tables_are_what_was_acknowledged(acts in prop::collection::vec(act(), 1..40)) {
        // Everybody is there at first: else most acts would be refused.
        let begin = (0..3).flat_map(|client| [Act::Register(client), Act::List(client, Vec::new())]);
        let acts = begin.chain(acts).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts));
    }

    #[test]
    fn no_line_makes_the_parser_panic_and_requests_stay_what_they_are(noise in "\\PC{0,100}", one in service()) {
        let _ = serde_json::from_str::<Request>(&noise);
        let _ = serde_json::from_str::<Request>(&format!("{{\"put\":{noise}}}"));
        let request: Request = serde_json::from_str(&format!("{{\"put\":{}}}", text(one))).unwrap();
        let again: Request = serde_json::from_str(&serde_json::to_string(&request).unwrap()).unwrap();
        prop_assert_eq!(again, request);
    }
}
