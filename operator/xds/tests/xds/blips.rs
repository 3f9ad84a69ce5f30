//! Endpoints that are away for a moment, behind the pinned Envoy: what its verdicts about them cost clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::envoy::{Scene, answer, endpoints, scene};
use crate::harness::DEADLINE;
use crate::rows::Ep;

/// How long an endpoint is away.
const AWAY: Duration = Duration::from_secs(1);
/// Time between two connects.
const PACE: Duration = Duration::from_millis(25);
/// Longest time from the return of an endpoint to the first success: an ejection lasts 5 s at least, and the machine may be
/// busy. `make bench` has the figure.
const BACK: Duration = Duration::from_secs(2);

/// A server that says `one`, on the same address and port whenever it is there.
struct Blinking {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Blinking {
    async fn new() -> Self {
        Self::at((Ipv4Addr::new(127, 0, 0, 11), 0).into()).await
    }

    async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.write_all(b"one").await;
            }
        });
        Self { address, task }
    }

    /// Takes the server away: connects are refused from here on.
    async fn away(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }

    fn endpoint(&self) -> Ep {
        Ep::new("one", [127, 0, 0, 11], [10, 0, 0, 11], self.address.port())
    }
}

/// Connects at a steady pace while the endpoint is away, four times, and each time until the first success after it is
/// back; the longest time from its return to that.
async fn longest_outage(scene: &Scene, mut server: Blinking) -> Duration {
    let mut longest = Duration::ZERO;
    let mut pace = tokio::time::interval(PACE);
    for round in 1..=4 {
        assert_eq!(answer(scene.port).await.as_deref(), Some("one"), "before round {round}");
        let address = server.away().await;
        let gone = Instant::now();
        while gone.elapsed() < AWAY {
            pace.tick().await;
            assert_eq!(answer(scene.port).await, None, "nobody is there in round {round}");
        }
        server = Blinking::at(address).await;
        let back = Instant::now();
        while answer(scene.port).await.is_none() {
            assert!(back.elapsed() < DEADLINE, "refused for {DEADLINE:?} after its return in round {round}");
            pace.tick().await;
        }
        longest = longest.max(back.elapsed());
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_one_endpoint_is_away_as_long_as_the_endpoint() {
    let server = Blinking::new().await;
    let scene = scene(&[server.endpoint()]).await;
    let outage = longest_outage(&scene, server).await;
    assert!(outage < BACK, "refused for {outage:?} after its return");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_drains_does_not_make_the_other_one_go_away_for_longer() {
    let server = Blinking::new().await;
    let draining = Ep::new("two", [127, 0, 0, 12], [10, 0, 0, 12], server.address.port()).weighing(0);
    let scene = scene(&[server.endpoint(), draining]).await;
    let outage = longest_outage(&scene, server).await;
    assert!(outage < BACK, "refused for {outage:?} after its return");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_endpoint_of_two_fails_nobody() {
    let mut all = endpoints(&["one"]).await;
    // Nobody listens there.
    all.push(Ep::new("dead", [127, 0, 0, 12], [10, 0, 0, 12], all[0].port));
    let scene = scene(&all).await;
    for n in 0..200 {
        assert_eq!(answer(scene.port).await.as_deref(), Some("one"), "connection {n}");
    }
    assert_eq!(scene.proxy.stat("cluster.web-tcp-80.outlier_detection.ejections_active").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_established_connection_outlives_the_drain_of_its_endpoint() {
    use tokio::io::AsyncReadExt;
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 11), 0)).await.unwrap();
    let endpoint = Ep::new("echo", [127, 0, 0, 11], [10, 0, 0, 11], listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let scene = scene(std::slice::from_ref(&endpoint)).await;
    let mut client = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, scene.port)).await.unwrap();
    let mut byte = [0];
    client.write_all(b"a").await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    let before = scene.proxy.stat("cluster.web-tcp-80.update_success").await;
    scene.world.endpoints("web", &[endpoint.weighing(0)]);
    crate::envoy::eventually("the endpoint has left the assignment", || async {
        (scene.proxy.stat("cluster.web-tcp-80.update_success").await > before).then_some(())
    })
    .await;
    client.write_all(b"b").await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!(byte, *b"b");
    assert_eq!(answer(scene.port).await, None, "nothing new goes there");
}
