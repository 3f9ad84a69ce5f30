//! The HTTP probe.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_health::{Check, Checker, NetworkProber, Outcome, Place, Probe, Prober, Settings, Target};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::support::{DEADLINE, Scripted, Then, ask};

fn get(path: &str, host: Option<&str>, statuses: &[u16]) -> Probe {
    Probe::Http { path: path.into(), host: host.map(Into::into), statuses: statuses.to_vec() }
}

fn plain() -> Probe {
    get("/", None, &[])
}

async fn is_still_waiting(address: SocketAddr, probe: &Probe) -> bool {
    let place = Place { address, origin: None };
    timeout(Duration::from_millis(300), NetworkProber.probe(&place, probe)).await.is_err()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn two_hundred_is_good() {
    let server = Scripted::new(OK, Then::Close).await;
    assert_eq!(ask(server.address, plain()).await, Ok(()));
}

#[tokio::test]
async fn a_request_names_path_host_and_who_asks_and_wants_no_second_one() {
    let server = Scripted::new(OK, Then::Wait).await;
    assert_eq!(ask(server.address, get("/healthz?deep=1", Some("shop.example"), &[])).await, Ok(()));
    assert_eq!(ask(server.address, plain()).await, Ok(()));
    let heads = server.heads.lock();
    assert!(heads[0].starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{}", heads[0]);
    for line in ["host: shop.example\r\n", "user-agent: epic-health/", "connection: close\r\n"] {
        assert!(heads[0].contains(line), "{line:?} in {}", heads[0]);
    }
    assert!(heads[1].contains(&format!("host: {}\r\n", server.address)), "{}", heads[1]);
}

#[tokio::test]
async fn a_status_is_good_if_it_is_listed_and_only_then() {
    let server = Scripted::new("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", Then::Close).await;
    assert_eq!(
        ask(server.address, plain()).await,
        Err((Outcome::Wrong, "answers 500, wanted is 200".into()))
    );
    assert_eq!(
        ask(server.address, get("/", None, &[200, 204])).await,
        Err((Outcome::Wrong, "answers 500, wanted is 200 or 204".into()))
    );
    assert_eq!(ask(server.address, get("/", None, &[200, 500])).await, Ok(()));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Scripted::new(OK, Then::Close).await;
    let location =
        format!("HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", elsewhere.address);
    let server = Scripted::new(location, Then::Close).await;
    assert_eq!(
        ask(server.address, plain()).await,
        Err((Outcome::Wrong, "answers 302, wanted is 200".into()))
    );
    assert_eq!(ask(server.address, get("/", None, &[302])).await, Ok(()));
    assert!(elsewhere.heads.lock().is_empty());
}

#[tokio::test]
async fn a_head_that_does_not_come_and_a_body_that_gets_stuck_are_waited_for() {
    let nothing = Scripted::new("", Then::Wait).await;
    assert!(is_still_waiting(nothing.address, &plain()).await);
    let half = Scripted::new("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", Then::Wait).await;
    assert!(is_still_waiting(half.address, &plain()).await);
}

#[tokio::test]
async fn of_a_body_without_end_a_bounded_part_is_read() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
    let server = Scripted::new(head, Then::Flood).await;
    assert_eq!(ask(server.address, plain()).await, Ok(()));
    // Without a length the end of the connection is the end of the body.
    let server = Scripted::new("HTTP/1.0 200 OK\r\n\r\n", Then::Flood).await;
    assert_eq!(ask(server.address, plain()).await, Ok(()));
}

#[tokio::test]
async fn a_head_without_end_is_given_up() {
    let server = Scripted::new("HTTP/1.1 200 OK\r\nx: ", Then::Flood).await;
    let (outcome, reason) = ask(server.address, plain()).await.expect_err("no head");
    assert_eq!(outcome, Outcome::Wrong, "{reason}");
    assert!(reason.starts_with("does not answer by HTTP/1.1: "), "{reason}");
}

#[tokio::test]
async fn who_closes_in_the_middle_has_not_answered() {
    let server = Scripted::new("", Then::Close).await;
    assert_eq!(
        ask(server.address, plain()).await,
        Err((Outcome::Silent, "closes the connection before it has answered".into()))
    );
    let server = Scripted::new("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", Then::Close).await;
    let (outcome, reason) = ask(server.address, plain()).await.expect_err("half an answer");
    assert_eq!(outcome, Outcome::Silent, "{reason}");
}

#[tokio::test]
async fn who_speaks_something_else_is_told_so() {
    let server = Scripted::new("SSH-2.0-OpenSSH_9.9\r\n", Then::Close).await;
    let (outcome, reason) = ask(server.address, plain()).await.expect_err("no HTTP");
    assert_eq!(outcome, Outcome::Wrong);
    assert!(reason.starts_with("does not answer by HTTP/1.1: "), "{reason}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_held_against_the_target() {
    let server = Scripted::new(OK, Then::Close).await;
    let (outcome, reason) =
        ask(server.address, get("/", Some("two\nlines"), &[])).await.expect_err("no such header");
    assert_eq!(outcome, Outcome::NotMade);
    assert!(reason.ends_with("correct the check"), "{reason}");
}

#[tokio::test]
async fn a_target_removed_while_it_is_asked_sees_its_connection_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (checker, driver, _verdicts) = Checker::new(Settings::default());
    let driver = tokio::spawn(driver.run(NetworkProber));
    let check = Check { timeout: Duration::from_secs(600), ..Check::new(plain()) };
    checker.upsert(1, Target::new((), address, Arc::new(check)));
    let (mut stream, _) = timeout(DEADLINE, listener.accept()).await.expect("asked").expect("accepted");
    let mut head = [0; 16];
    timeout(DEADLINE, stream.read_exact(&mut head)).await.expect("asked").expect("a request");
    checker.remove(1);
    let end = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("it ends");
    assert_eq!(end.expect_err("in the middle").kind(), std::io::ErrorKind::ConnectionReset);
    driver.abort();
}
