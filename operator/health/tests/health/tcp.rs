//! The TCP probe, the checker on real sockets, and from where is dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_health::{Check, Checker, NetworkProber, Origin, Outcome, Place, Probe, Settings, Target, Verdict};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::support::{DEADLINE, ask, ask_at};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

#[tokio::test]
async fn a_port_that_accepts_is_good() {
    let (_listener, address) = listener().await;
    assert_eq!(ask(address, Probe::Tcp).await, Ok(()));
}

#[tokio::test]
async fn a_port_that_refuses_is_not() {
    let (listener, address) = listener().await;
    drop(listener);
    assert_eq!(ask(address, Probe::Tcp).await, Err((Outcome::Silent, "connection refused".into())));
}

#[tokio::test]
async fn a_probe_ends_with_a_reset_and_leaves_nothing_behind() {
    let (listener, address) = listener().await;
    assert_eq!(ask(address, Probe::Tcp).await, Ok(()));
    let (mut stream, _) = listener.accept().await.expect("the connection of the probe");
    let read = timeout(DEADLINE, stream.read_u8()).await.expect("the connection ends");
    assert_eq!(read.expect_err("without a word").kind(), std::io::ErrorKind::ConnectionReset);
}

/// A listener that takes no more connections: what dials it is not answered.
async fn silent() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.expect("accepted or not answered"));
        assert!(waiting.len() < 100, "the queue of accepted connections never gets full");
    }
    (listener, address, waiting)
}

#[tokio::test]
async fn a_checker_tells_who_accepts_who_refuses_and_who_is_silent_and_when_that_changes() {
    let (_open, accepts) = listener().await;
    let (closed, refuses) = listener().await;
    drop(closed);
    let (_full, silent, _waiting) = silent().await;

    let (checker, driver, mut verdicts) = Checker::new(Settings::default());
    let driver = tokio::spawn(driver.run(NetworkProber));
    let check = Arc::new(Check {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(300),
        ..Check::new(Probe::Tcp)
    });
    let targets = [("accepts", accepts), ("refuses", refuses), ("silent", silent)];
    checker.set(targets.map(|(key, address)| (key, Target::new((), address, Arc::clone(&check)))));
    let mut found: Vec<Verdict<&str>> = Vec::new();
    while found.len() < 3 {
        let batch = timeout(DEADLINE, verdicts.next()).await.expect("a verdict").expect("a driver");
        found.extend(batch);
    }
    found.sort_by_key(|verdict| verdict.key);
    let said: Vec<_> = found.iter().map(|verdict| (verdict.key, verdict.healthy, &*verdict.reason)).collect();
    assert_eq!(
        said,
        [
            ("accepts", true, ""),
            ("refuses", false, "connection refused"),
            ("silent", false, "no answer within 300ms"),
        ]
    );

    let _open_now = TcpListener::bind(refuses).await.expect("the port is free");
    let batch = timeout(DEADLINE, verdicts.next()).await.expect("a verdict").expect("a driver");
    assert_eq!(
        batch.iter().map(|verdict| (verdict.key, verdict.healthy)).collect::<Vec<_>>(),
        [("refuses", true)]
    );
    driver.abort();
}

fn origin(source: impl Into<IpAddr>) -> Option<Arc<Origin>> {
    Some(Arc::new(Origin { source: Some(source.into()), interface: None }))
}

#[tokio::test]
async fn a_probe_comes_from_the_address_and_the_interface_that_it_should() {
    let (listener, address) = listener().await;
    let source = Ipv4Addr::new(127, 9, 8, 7);
    let from = Origin { source: Some(source.into()), interface: Some("lo".into()) };
    let place = Place { address, origin: Some(Arc::new(from)) };
    assert_eq!(ask_at(place, Probe::Tcp).await, Ok(()));
    let (_, peer) = listener.accept().await.expect("the connection of the probe");
    assert_eq!(peer.ip(), IpAddr::from(source));
}

#[tokio::test]
async fn a_probe_of_ipv6_comes_from_its_source_too() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("IPv6 on the loopback");
    let address = listener.local_addr().expect("its address");
    let place = Place { address, origin: origin(Ipv6Addr::LOCALHOST) };
    assert_eq!(ask_at(place, Probe::Tcp).await, Ok(()));
}

#[tokio::test]
async fn a_source_that_this_node_does_not_have_says_nothing_of_the_target() {
    let (_listener, address) = listener().await;
    let place = Place { address, origin: origin(Ipv4Addr::new(192, 0, 2, 77)) };
    let (outcome, reason) = ask_at(place, Probe::Tcp).await.expect_err("not made");
    assert_eq!(outcome, Outcome::NotMade);
    assert!(reason.starts_with("this node cannot use source address 192.0.2.77"), "{reason}");

    let place = Place { address, origin: origin(Ipv6Addr::LOCALHOST) };
    let (outcome, reason) = ask_at(place, Probe::Tcp).await.expect_err("not made");
    assert_eq!(outcome, Outcome::NotMade);
    assert!(reason.contains("of the other family"), "{reason}");

    let nowhere = Origin { source: None, interface: Some("no-such-link".into()) };
    let (outcome, reason) =
        ask_at(Place { address, origin: Some(Arc::new(nowhere)) }, Probe::Tcp).await.expect_err("not made");
    assert_eq!(outcome, Outcome::NotMade);
    assert!(reason.starts_with("this node cannot use interface \"no-such-link\""), "{reason}");
}
