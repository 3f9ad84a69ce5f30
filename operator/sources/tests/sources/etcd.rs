//! etcd: the lab's real one on loopback, listed and watched, with restarts, compactions and values that are no service.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use epic_etcd::{Server, free_port};
use epic_lb::{ServiceName, Source, Writer};
use epic_sources::etcd::{Etcd, PAGE, State};
use epic_sources::start;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(60);

/// A way to a server that holds back what the server says until it is opened. Dropped, it ends all connections.
struct Gate {
    open: watch::Sender<bool>,
    said: watch::Sender<Vec<u8>>,
    _tasks: JoinSet<()>,
}

impl Gate {
    async fn closed(port: u16, server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let (open, said) = (watch::Sender::new(false), watch::Sender::new(Vec::new()));
        let (opened, says) = (open.clone(), said.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, server))).await;
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.expect("the server runs").into_split();
                let (chunks, mut held) = mpsc::unbounded_channel::<Vec<u8>>();
                let (mut opened, says) = (opened.subscribe(), says.clone());
                connections.spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                });
                connections.spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
                        says.send_modify(|said| said.extend(&buffer[..bytes]));
                        let _ = chunks.send(buffer[..bytes].to_vec());
                    }
                });
                connections.spawn(async move {
                    while let Some(chunk) = held.recv().await {
                        if opened.wait_for(|open| *open).await.is_err()
                            || to_client.write_all(&chunk).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self { open, said, _tasks: tasks }
    }

    fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until the server said something that has this in it.
    async fn said(&self, text: &str) {
        let mut said = self.said.subscribe();
        let found = said.wait_for(|said| said.windows(text.len()).any(|part| part == text.as_bytes()));
        tokio::time::timeout(LONG, found).await.expect("the server says it").expect("the gate stands");
    }
}

async fn until(state: &mut watch::Receiver<State>, wanted: impl FnMut(&State) -> bool) -> State {
    let found = tokio::time::timeout(LONG, state.wait_for(wanted)).await;
    found.expect("the state comes in time").expect("the source runs").clone()
}

async fn reached(state: &mut watch::Receiver<State>, revision: i64) -> State {
    until(state, |state| state.revision >= Some(revision)).await
}

/// Every service of the source, with where it is reached and its backends.
fn services(writer: &Writer) -> Vec<String> {
    let tables = writer.snapshot();
    let of = |name: &ServiceName| {
        let frontends = tables.frontends.iter().filter(|row| row.service == *name);
        let frontends: BTreeSet<String> = frontends.map(|row| row.key.to_string()).collect();
        let backends = tables.backends.iter().filter(|row| row.service == *name);
        let backends: BTreeSet<String> = backends.map(|row| row.place.to_string()).collect();
        let list = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
        format!("{name}: {} -> {}", list(frontends), list(backends))
    };
    let rows = tables.services.iter().filter(|row| row.source == Source::KeyValue);
    let mut lines: Vec<String> = rows.map(|row| of(&row.name)).collect();
    lines.sort();
    lines
}

fn entry(name: &str, frontend: u8, backend: u8) -> String {
    format!(
        "name: {name}\nfrontends: [{{ address: 192.0.2.{frontend}, port: 80 }}]\n\
         backends: [{{ address: 10.0.0.{backend}, port: 8080 }}]\n"
    )
}

fn line(name: &str, frontend: u8, backend: u8) -> String {
    format!("{name}: 192.0.2.{frontend}:80/TCP -> 10.0.0.{backend}:8080/TCP")
}

#[test]
fn an_address_with_tls_is_refused_in_words() {
    for address in ["https://127.0.0.1:2379", "127.0.0.1:2379", "nowhere"] {
        let refusal = Etcd::new(address, "/epic").unwrap_err().to_string();
        assert!(refusal.contains("write http://HOST:PORT"), "{refusal}");
    }
}

#[tokio::test]
async fn keys_are_listed_then_followed_and_what_is_no_service_holds_nothing_up() {
    let server = Server::started().await;
    server.put("/epic/services/shop/web", entry("shop/web", 1, 1)).await;
    let json = r#"{"name":"shop/api","frontends":[{"address":"192.0.2.2","port":80}],
        "backends":[{"address":"10.0.0.2","port":8080}]}"#;
    server.put("/epic/services/shop/api", json).await;
    server.put("/epic/services/shop/broken", "name: [").await;
    server.put("/epic/services-of-old/shop/old", entry("shop/old", 9, 9)).await;

    let writer = Writer::new();
    let (etcd, mut state) = Etcd::new(&server.address(), "/epic/services").unwrap();
    let stop = CancellationToken::new();
    let task = start(etcd, &writer, stop.clone());
    let said = until(&mut state, |state| state.revision.is_some()).await;
    assert!(writer.snapshot().initialized());
    assert_eq!(services(&writer), [line("shop/api", 2, 2), line("shop/web", 1, 1)]);
    let refused: Vec<&str> = said.refused.keys().map(|key| &**key).collect();
    assert_eq!(refused, ["/epic/services/shop/broken"]);

    // A new service, another backend, and what was broken is understood.
    server.put("/epic/services/shop/new", entry("shop/new", 3, 3)).await;
    server.put("/epic/services/shop/broken", entry("shop/broken", 4, 4)).await;
    let revision = server.put("/epic/services/shop/web", entry("shop/web", 1, 7)).await;
    assert!(reached(&mut state, revision).await.refused.is_empty());
    let all =
        [line("shop/api", 2, 2), line("shop/broken", 4, 4), line("shop/new", 3, 3), line("shop/web", 1, 7)];
    assert_eq!(services(&writer), all);

    // Values that are no service, and those of another service than the key's, leave everything as it was.
    server.put("/epic/services/shop/web", entry("shop/api", 1, 8)).await;
    server.put("/epic/services/shop/api", "name: shop/api\ncolour: red").await;
    server.put("/epic/services/shop/broken", vec![0xff, 0xfe]).await;
    let revision = server.put("/epic/services/alone", entry("shop/alone", 5, 5)).await;
    let said = reached(&mut state, revision).await;
    assert_eq!(services(&writer), all);
    assert_eq!(said.refused.len(), 4, "{said:?}");
    assert!(said.refused["/epic/services/shop/web"].contains("write name: shop/web"), "{said:?}");
    assert!(said.refused["/epic/services/shop/api"].contains("colour"), "{said:?}");

    // A key takes its service with it, also when its value was not understood.
    server.delete("/epic/services/alone").await;
    server.delete("/epic/services/shop/broken").await;
    let revision = server.delete("/epic/services/shop/new").await;
    let said = reached(&mut state, revision).await;
    assert_eq!(services(&writer), [line("shop/api", 2, 2), line("shop/web", 1, 7)]);
    assert_eq!(said.refused.len(), 2, "{said:?}");
    stop.cancel();
    tokio::time::timeout(LONG, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_list_of_several_pages_is_one_transaction_that_completes_the_source() {
    let server = Server::started().await;
    let number = usize::from(PAGE) + 20;
    for index in 0..number {
        server.put(&format!("services/a/s{index}"), format!("name: a/s{index}")).await;
    }
    let writer = Writer::new();
    let mut changes = writer.reader().watch_any();
    let (etcd, _state) = Etcd::new(&server.address(), "services/").unwrap();
    let task = start(etcd, &writer, CancellationToken::new());
    tokio::time::timeout(LONG, async {
        loop {
            changes.mark_unchanged();
            let tables = writer.snapshot();
            assert_eq!(tables.services.len(), if tables.initialized() { number } else { 0 });
            if tables.initialized() {
                return;
            }
            changes.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    task.abort();
}

#[tokio::test]
async fn an_etcd_that_is_away_keeps_what_it_said_and_is_listed_when_it_returns() {
    let mut server = Server::new();
    let writer = Writer::new();
    let (etcd, mut state) = Etcd::new(&server.address(), "/epic").unwrap();
    let task = start(etcd, &writer, CancellationToken::new());
    let said = until(&mut state, |state| state.error.is_some()).await;
    let error = said.error.unwrap();
    assert!(error.contains(&server.address()) && error.contains("refused"), "{error}");
    assert!(!writer.snapshot().initialized());

    server.run().await;
    let revision = server.put("/epic/shop/web", entry("shop/web", 1, 1)).await;
    let said = reached(&mut state, revision).await;
    assert_eq!(said.error, None);
    assert!(writer.snapshot().initialized());

    server.stop().await;
    until(&mut state, |state| state.error.is_some()).await;
    assert_eq!(services(&writer), [line("shop/web", 1, 1)]);

    server.run().await;
    let revision = server.put("/epic/shop/api", entry("shop/api", 2, 2)).await;
    assert_eq!(reached(&mut state, revision).await.error, None);
    assert_eq!(services(&writer), [line("shop/api", 2, 2), line("shop/web", 1, 1)]);
    task.abort();
}

#[tokio::test]
async fn what_was_compacted_unseen_is_listed_again() {
    let server = Server::started().await;
    server.put("/epic/shop/web", entry("shop/web", 1, 1)).await;
    server.put("/epic/shop/api", entry("shop/api", 2, 2)).await;
    let writer = Writer::new();
    let port = free_port();
    let gate = Gate::closed(port, server.port()).await;
    let (etcd, mut state) = Etcd::new(&format!("http://127.0.0.1:{port}"), "/epic").unwrap();
    let task = start(etcd, &writer, CancellationToken::new());

    // The list is on its way when what follows it is compacted: the watch that comes next is cancelled.
    gate.said("shop/api").await;
    server.delete("/epic/shop/api").await;
    let revision = server.put("/epic/shop/web", entry("shop/web", 1, 7)).await;
    server.compact(revision).await;
    gate.open();
    reached(&mut state, revision).await;
    assert_eq!(services(&writer), [line("shop/web", 1, 7)]);

    // The same while there is no connection, with a value that is not understood among the rest.
    drop(gate);
    until(&mut state, |state| state.error.is_some()).await;
    server.put("/epic/shop/new", entry("shop/new", 3, 3)).await;
    server.put("/epic/shop/api", entry("shop/api", 2, 2)).await;
    server.delete("/epic/shop/api").await;
    let revision = server.put("/epic/shop/web", "name: shop/web\nbackends: none").await;
    server.compact(revision).await;
    let gate = Gate::closed(port, server.port()).await;
    gate.open();
    let said = reached(&mut state, revision).await;
    assert_eq!(services(&writer), [line("shop/new", 3, 3), line("shop/web", 1, 7)]);
    assert_eq!(said.refused.keys().map(|key| &**key).collect::<Vec<_>>(), ["/epic/shop/web"]);
    task.abort();
}
