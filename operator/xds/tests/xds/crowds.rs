//! Crowds: more connections than anybody has a use for, and readers that stop reading, at the server and at a proxy.
//!
//! `EPIC_CROWD` says how many connections (`make test-full`: 20,000). The bounds are those that the operator and a pod of
//! that size have; what is asserted holds for every number.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use epic_xds::bootstrap::{Level, Sizes};
use epic_xds::engine::Kind;
use epic_xds::{Limits, sync};
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::envoy::{Proxy, answers, endpoints, free_port};
use crate::harness::{Client, Site, channel, node};
use crate::ops::sized;
use crate::rows::{Ep, World, identity, service};

/// Connections; without `EPIC_CROWD` as many as cost a second.
const CROWD: usize = 2_000;
/// As long as a machine that is busy with other things may need.
const PATIENCE: Duration = Duration::from_secs(120);

fn crowd() -> usize {
    std::env::var("EPIC_CROWD").ok().and_then(|text| text.parse().ok()).unwrap_or(CROWD)
}

/// One crowd at a time: they share what a process may have open.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Lets this process, and what it starts, have as many files open as it may. Fewer than 20,000 are not enough for crowds.
fn open_files() {
    let pid = std::process::id().to_string();
    let prlimit =
        |arguments: &[&str]| Command::new("prlimit").args(["--pid", &pid]).args(arguments).output().unwrap();
    let most = prlimit(&["--nofile", "--noheadings", "--raw", "--output", "HARD"]).stdout;
    let most = String::from_utf8(most).unwrap().trim().to_owned();
    assert!(
        most.parse().is_ok_and(|most: usize| most >= 20_000) || most == "unlimited",
        "{most} open files are too few for these tests: raise the limit to 20000 (ulimit -n)"
    );
    assert!(prlimit(&[&format!("--nofile={most}:{most}")]).status.success());
}

/// A figure in KiB of `/proc/<pid>/status`, in bytes.
fn memory(pid: u32, name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    let holds = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(address).await
}

/// Subscribes to all of a LoadBalancer that others serve.
async fn subscribe(site: &Site, address: SocketAddr, load_balancer: &str) -> Client {
    let certificate = site.client_certificate(&identity(load_balancer));
    let channel = channel(address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    let node = node("epic-red/pod-1", &format!("epic-red/{load_balancer}"));
    let mut client = Client::open(channel, node).await.unwrap();
    client.ask(Kind::Assignment, &[&format!("{load_balancer}-tcp-80")]).await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_silent_crowd_nor_readers_that_stop_keep_a_proxy_from_being_served() {
    const SOURCES: usize = 20;
    const STALLED: usize = 500;
    const ROUNDS: u8 = 50;
    let _turn = TURN.lock().await;
    let crowd = crowd();
    open_files();
    let (site, world) = (Site::new(), World::new());
    let all = endpoints(&["one", "two"]).await;
    let port = free_port(10_400);
    world.load_balancer(&service("web"), &[(80, port - 10_000, all[0].port)]);
    world.load_balancer(&service("neighbour"), &[(80, 0, 8080)]);
    world.endpoints("web", &all[..1]);
    tokio::spawn(sync::run(world.tables.clone(), site.views.clone()));
    // The silent ones stay for as long as the test takes, so they can be counted.
    let limits = Limits { handshake_timeout: 10 * PATIENCE, ..Limits::default() };
    let places = SOURCES * limits.max_source_handshakes;
    let room = limits.max_identity_bytes;
    let server = site.serve(limits, 0).await;
    let address = server.address;
    let before = memory(std::process::id(), "VmRSS");

    // Processes that are stopped: a runtime that nobody drives any more answers nothing, not even a ping.
    let (readers, site) = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let readers =
            stream::iter(0..STALLED).map(|_| subscribe(&site, address, "neighbour")).buffer_unordered(4);
        let readers: Vec<Client> = runtime.block_on(readers.collect());
        ((runtime, readers), site)
    })
    .await
    .unwrap();
    let stalled = || {
        site.reports
            .rows()
            .iter()
            .filter(|row| row.connected && row.identity == identity("neighbour"))
            .count()
    };
    let mut reader = subscribe(&site, address, "neighbour").await;
    for round in 1..=ROUNDS {
        let many = |n: u8| Ep::new(&format!("e{round}-{n}"), [100, 127, round, n], [10, 0, round, n], 8080);
        world.endpoints("neighbour", &(0..200).map(many).collect::<Vec<_>>());
        assert_eq!(reader.take().await, "assignment +neighbour-tcp-80");
    }
    let grown = memory(std::process::id(), "VmRSS").saturating_sub(before);
    println!("{} of {STALLED} stalled readers after {ROUNDS} updates: {} MiB", stalled(), grown >> 20);
    assert!(grown < 2 * room, "{STALLED} readers that stopped and their server take {} MiB", grown >> 20);

    let turned_away = || site.metric("xds_ended_total{reason=\"Busy\"}");
    let mut silent: Vec<TcpStream> = Vec::new();
    for n in 0..crowd {
        let source = Ipv4Addr::new(127, 0, 8, 1 + u8::try_from(n % SOURCES).unwrap());
        let mut socket = connect_from(source, address).await.unwrap();
        // Every other one begins to shake hands. Most are closed by then.
        if (n / SOURCES).is_multiple_of(2) {
            let _ = socket.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
        }
        silent.push(socket);
        if silent.len() > 2_000 {
            silent.retain(
                |socket| matches!(socket.try_read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock),
            );
        }
    }
    let expected = f64::from(u32::try_from(crowd - places).unwrap());
    eventually("the crowd is turned away", || turned_away() >= expected).await;

    let proxy = Proxy::start(&site, address, "web");
    eventually("the proxy is configured", || {
        site.reports
            .rows()
            .iter()
            .any(|row| row.identity == identity("web") && row.progress.configured.is_some())
    })
    .await;
    proxy.ready().await;
    assert_eq!(answers(port, 3).await, ["one"]);
    world.endpoints("web", &all[1..]);
    site.report("the other endpoint", |row| {
        row.progress.endpoints.iter().any(|e| &*e.object == "epic-red/two")
    })
    .await;
    assert_eq!(answers(port, 3).await, ["two"]);
    assert!(
        (turned_away() - expected).abs() < 0.5,
        "{places} of {SOURCES} addresses may try, and nobody else is turned away: {} of {crowd}",
        turned_away()
    );
    drop(reader);
    eventually("connections of stopped processes end", || stalled() == 0).await;
    drop(silent);
    // Nothing of it may be waited for here.
    readers.0.shutdown_background();
}

/// A server that says one byte, and then all that it can to whoever asks for it.
async fn generous() -> Ep {
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel holds for one that does not read is not what is tested.
    socket.set_send_buffer_size(32 << 10).unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 11), 0).into()).unwrap();
    let listener = socket.listen(4_096).unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0];
                socket.write_all(b"x").await?;
                while socket.read_exact(&mut asked).await.is_ok() {
                    while socket.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ep::new("generous", [127, 0, 0, 11], [10, 0, 0, 11], port)
}

/// A connection that has reached its endpoint, unless the proxy has closed it.
async fn reached(port: u16) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut socket = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, socket.read_exact(&mut byte)).await;
    read.expect("a byte or the end").ok().map(|_| socket)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_more_connections_reach_than_it_can_hold_stays_ready_within_its_memory() {
    let _turn = TURN.lock().await;
    let crowd = crowd();
    open_files();
    // One that cannot hold them all, with or without those that stall: as large as a proxy is by default, or small.
    let sizes = if crowd >= 20_000 { Sizes::default() } else { Sizes { memory: 64 << 20, concurrency: 2 } };
    let most = usize::try_from(sizes.max_connections()).unwrap();
    assert!(most < crowd, "{most} connections fit: take a larger EPIC_CROWD");
    let (_site, _world, _server, proxy, port) = sized(Level::Basic, sizes, &[generous().await]).await;

    let mut stalled = Vec::new();
    for _ in 0..crowd / 40 {
        let mut socket = reached(port).await.expect("there is room");
        socket.write_all(b"all").await.unwrap();
        stalled.push(socket);
    }
    let attempts = stream::iter(0..crowd).map(|_| reached(port)).buffer_unordered(64);
    let mut open: Vec<TcpStream> = attempts.filter_map(std::future::ready).collect().await;
    proxy.ready().await;
    let taken = memory(proxy.id(), "RssAnon");
    println!(
        "{} of {crowd} connections and {} stalled readers: {} MiB of {}",
        open.len(),
        stalled.len(),
        taken >> 20,
        sizes.memory >> 20
    );
    assert!(open.len() + stalled.len() <= most, "{} connections are open", open.len());
    assert!(open.len() > most / 2, "{} of {most} connections are open", open.len());
    // The kernel counts sockets, too.
    assert!(taken < usize::try_from(sizes.memory).unwrap() / 8 * 7, "{} MiB", taken >> 20);

    // Who has a connection keeps it, and one that goes makes room.
    let mut kept = open.swap_remove(0);
    kept.write_all(b"more").await.unwrap();
    let mut some = [0; 4 << 10];
    tokio::time::timeout(PATIENCE, kept.read_exact(&mut some)).await.expect("it is served").unwrap();
    drop((open, stalled));
    let room = async { while reached(port).await.is_none() {} };
    tokio::time::timeout(PATIENCE, room).await.expect("there is room again");
    proxy.ready().await;
}
