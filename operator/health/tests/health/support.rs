//! Probers that do as they are told, and servers that say what they are given.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_health::{Check, Failure, NetworkProber, Outcome, Place, Probe, Prober};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a target does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Good,
    Refuse,
    Silent,
}

/// A prober without a network: what it answers is up to a function of the address.
pub(crate) struct Fake {
    act: Box<dyn Fn(SocketAddr) -> Act + Send + Sync>,
    pub(crate) log: Arc<Mutex<Log>>,
}

/// What a fake prober was asked.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) asked: Vec<(Instant, SocketAddr)>,
    /// Probes that were dropped before they had a result.
    pub(crate) dropped: Vec<SocketAddr>,
}

impl Fake {
    pub(crate) fn new(act: impl Fn(SocketAddr) -> Act + Send + Sync + 'static) -> Self {
        Self { act: Box::new(act), log: Arc::default() }
    }
}

struct Noted(Arc<Mutex<Log>>, SocketAddr, bool);

impl Drop for Noted {
    fn drop(&mut self) {
        if !self.2 {
            self.0.lock().dropped.push(self.1);
        }
    }
}

impl Prober for Fake {
    async fn probe(&self, place: &Place, _: &Probe) -> Result<(), Failure> {
        self.log.lock().asked.push((Instant::now(), place.address));
        let mut noted = Noted(Arc::clone(&self.log), place.address, false);
        let result = match (self.act)(place.address) {
            Act::Good => Ok(()),
            Act::Refuse => Err(Failure::silent("connection refused")),
            Act::Silent => pending().await,
        };
        noted.2 = true;
        result
    }
}

/// An address that no fake prober dials.
pub(crate) fn address(number: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], number))
}

pub(crate) fn check() -> Arc<Check> {
    Arc::new(Check::new(Probe::Tcp))
}

/// Asks over the network; a probe that hangs fails the test.
pub(crate) async fn ask(address: SocketAddr, probe: Probe) -> Result<(), (Outcome, String)> {
    ask_at(Place { address, origin: None }, probe).await
}

pub(crate) async fn ask_at(place: Place, probe: Probe) -> Result<(), (Outcome, String)> {
    let result = timeout(DEADLINE, NetworkProber.probe(&place, &probe)).await;
    let result = result.expect("the probe has a result");
    result.map_err(|failure| (failure.outcome(), failure.into_reason().into()))
}

/// A server that reads one request head from each connection and writes these bytes.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a scripted server does after it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Close,
    /// Keeps the connection open and says no more.
    Wait,
    /// Writes the letter x until nobody takes it any more.
    Flood,
}

impl Scripted {
    pub(crate) async fn new(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&heads), Arc::<[u8]>::from(answer.into()));
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    seen.lock().push(String::from_utf8_lossy(&head).into_owned());
                    let _ = stream.write_all(&answer).await;
                    match then {
                        Then::Close => {}
                        // Until the peer is gone.
                        Then::Wait => while stream.read_u8().await.is_ok() {},
                        Then::Flood => while stream.write_all(&[b'x'; 4_096]).await.is_ok() {},
                    }
                });
            }
        });
        Self { address, heads, task }
    }
}

/// Waits until it is so; asks again every few milliseconds.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
}
