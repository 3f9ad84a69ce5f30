//! What a target costs: live heap, and CPU time of a probe. Counted, not estimated.
//!
//! Virtual time, a prober that does nothing: what is left is the schedule, the futures, and the clock of the runtime.
//! CPU time is the kernel's count for this thread. What an allocator adds to each piece is not counted. The last lines
//! are of real sockets in real time: nobody accepts at the other end, so the heap is the probes' alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_health::{Check, Checker, Failure, Limits, NetworkProber, Place, Probe, Prober, Settings, Target};
use epic_meter::live;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};

#[global_allocator]
static ALLOCATOR: epic_meter::Counting = epic_meter::Counting;

/// Nanoseconds that this thread has run.
fn cpu() -> u64 {
    epic_meter::of_thread().as_nanos() as u64
}

/// A key of the size of (service, place).
type Key = [u64; 3];

/// Answers after so long.
struct Idle(Duration);

impl Prober for Idle {
    async fn probe(&self, _: &Place, _: &Probe) -> Result<(), Failure> {
        if !self.0.is_zero() {
            sleep(self.0).await;
        }
        Ok(())
    }
}

fn targets(n: u32, check: &Arc<Check>) -> impl Iterator<Item = (Key, Target<u32>)> {
    (0..n).map(|number| {
        let address = SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + number).into(), 80);
        // Ten of a service, fifty of a tenant.
        ([u64::from(number / 10), u64::from(number), 0], Target::new(number / 50, address, Arc::clone(check)))
    })
}

fn runtime(paused: bool) -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(paused).build().expect("a runtime")
}

fn virtual_time(n: u32, answers_after: Duration) {
    let check = Arc::new(Check::new(Probe::Tcp));
    runtime(true).block_on(async {
        let before = live();
        let (checker, driver, mut verdicts) =
            Checker::new(Settings { seed: Some(1), ..Settings::default() });
        tokio::spawn(driver.run(Idle(answers_after)));
        let begun = cpu();
        checker.set(targets(n, &check));
        let added = cpu() - begun;
        while checker.stats().unknown > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        let mut first = 0;
        while first < n as usize {
            first += verdicts.next().await.expect("a driver").len();
        }
        sleep(Duration::from_secs(30)).await;
        let heap = (live() - before) as f64 / f64::from(n);

        let (probes, begun, time) = (checker.stats().probes, cpu(), Instant::now());
        sleep(Duration::from_secs(120)).await;
        let (spent, probes) = (cpu() - begun, checker.stats().probes - probes);
        let of_a_core = spent as f64 / time.elapsed().as_nanos() as f64 * 100.0;
        let each = spent as f64 / probes as f64;
        let added = added as f64 / f64::from(n);

        let begun = cpu();
        checker.set(targets(n, &check));
        let same = (cpu() - begun) as f64 / f64::from(n);
        let (one, begun) = (targets(n, &check).last().expect("targets"), cpu());
        for port in 0..1_000 {
            let (key, mut target) = one.clone();
            target.place.address.set_port(port);
            checker.upsert(key, target);
        }
        let edited = (cpu() - begun) as f64 / 1_000.0;
        let begun = cpu();
        targets(n, &check).for_each(|(key, _)| checker.remove(key));
        let removed = (cpu() - begun) as f64 / f64::from(n);
        println!(
            "{n} targets, answers after {answers_after:?}: heap {heap:.0} B a target; a probe {each:.0} ns, in all \
             {of_a_core:.2} % of a core; to add {added:.0} ns, to set again {same:.0} ns, to edit one {edited:.0} ns, to remove {removed:.0} ns a target"
        );
    });
}

/// Probes of this kind that all wait for an answer.
fn waiting(what: &str, probe: Probe) {
    const AT_ONCE: u32 = 200;
    runtime(false).block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let listener = socket.listen(1_024).expect("a listener");
        let address = listener.local_addr().expect("its address");
        let limits = Limits { at_once: AT_ONCE, of_a_group: AT_ONCE, reserved: 0 };
        let (checker, driver, _verdicts) = Checker::new(Settings { limits, seed: Some(1) });
        tokio::spawn(driver.run(NetworkProber));
        let check = Arc::new(Check { timeout: Duration::from_secs(60), ..Check::new(probe) });
        let before = live();
        checker.set(
            (0..u64::from(AT_ONCE)).map(|key| ([key, 0, 0], Target::new(0, address, Arc::clone(&check)))),
        );
        sleep(Duration::from_millis(500)).await;
        assert_eq!(checker.stats().under_way, AT_ONCE, "all wait");
        let heap = (live() - before) as f64 / f64::from(AT_ONCE);
        println!("{what}: heap {:.1} kB a probe that waits", heap / 1_024.0);
    });
}

/// TCP connections that are accepted by the kernel.
fn sockets() {
    const N: u32 = 10_000;
    runtime(false).block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let listener = socket.listen(1_024).expect("a listener");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            runtime(false).block_on(async move {
                let listener = listener.into_std().expect("a listener");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    drop(stream);
                }
            });
        });
        let (checker, driver, _verdicts) = Checker::new(Settings { seed: Some(1), ..Settings::default() });
        tokio::spawn(driver.run(NetworkProber));
        let check = Arc::new(Check::new(Probe::Tcp));
        let begun = cpu();
        checker.set(
            (0..N).map(|key| ([u64::from(key), 0, 0], Target::new(key / 50, address, Arc::clone(&check)))),
        );
        while checker.stats().unknown > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        let (spent, stats) = (cpu() - begun, checker.stats());
        println!(
            "{N} TCP probes of the loopback: {:.1} µs each, the kernel's part of this thread included",
            spent as f64 / 1_000.0 / stats.probes as f64
        );
    });
}

fn main() {
    for n in [1_000, 10_000, 50_000] {
        virtual_time(n, Duration::ZERO);
    }
    virtual_time(10_000, Duration::from_millis(3));
    waiting(
        "HTTP",
        Probe::Http { path: "/healthz".into(), host: Some("shop.example".into()), statuses: vec![200] },
    );
    waiting("gRPC", Probe::Grpc { service: String::new(), authority: Some("shop".into()) });
    sockets();
}
