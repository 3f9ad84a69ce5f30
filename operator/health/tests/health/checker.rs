//! The checker in virtual time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use epic_health::{
    Check, Checker, Failure, Health, Limits, Place, Probe, Prober, Settings, Target, Verdict, Verdicts,
};
use parking_lot::Mutex;
use tokio::time::{Instant, advance, sleep, timeout};

use super::support::{Act, Fake, Log, address, check};

type Found = Verdicts<u32, u8>;

fn start(settings: Settings, fake: Fake) -> (Checker<u32, u8>, Found, Arc<Mutex<Log>>) {
    let (checker, driver, verdicts) = Checker::new(settings);
    let log = Arc::clone(&fake.log);
    tokio::spawn(driver.run(fake));
    (checker, verdicts, log)
}

fn settings() -> Settings {
    Settings { seed: Some(7), ..Settings::default() }
}

async fn next(verdicts: &mut Found) -> Vec<Verdict<u32>> {
    let next = timeout(Duration::from_secs(3_600), verdicts.next()).await;
    next.expect("a verdict within the hour").expect("a driver")
}

/// Whether nothing is found for so long.
async fn quiet(verdicts: &mut Found, time: Duration) -> bool {
    timeout(time, verdicts.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn the_first_result_is_a_verdict_at_once() {
    let (checker, mut verdicts, _) = start(
        settings(),
        Fake::new(|address| match address.port() {
            1 => Act::Good,
            _ => Act::Refuse,
        }),
    );
    let began = Instant::now();
    checker.set([(1, Target::new(0, address(1), check())), (2, Target::new(0, address(2), check()))]);
    let batch = next(&mut verdicts).await;
    assert_eq!(
        batch,
        [
            Verdict { key: 1, healthy: true, since: began, reason: "".into() },
            Verdict { key: 2, healthy: false, since: began, reason: "connection refused".into() },
        ]
    );
    assert_eq!(Instant::now(), began);
    assert_eq!((checker.health(1), checker.health(2)), (Some(Health::Healthy), Some(Health::Unhealthy)));
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_failure_when_the_timeout_is_over() {
    let (checker, mut verdicts, log) = start(settings(), Fake::new(|_| Act::Silent));
    let began = Instant::now();
    checker.upsert(1, Target::new(0, address(1), check()));
    let batch = next(&mut verdicts).await;
    assert_eq!(&*batch[0].reason, "no answer within 2s");
    assert_eq!(batch[0].since, began + Duration::from_secs(2));
    assert_eq!(log.lock().dropped, [address(1)], "the probe let go of its socket");
}

#[tokio::test(start_paused = true)]
async fn a_flapping_target_changes_its_verdict_by_thresholds_only() {
    // Good, then one failure in three, then three in a row, then good ones.
    let script = "G F G F F G F F F F G F G G G G";
    let script: Vec<char> = script.chars().filter(|one| *one != ' ').collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let fake = Fake::new(move |_| match script.get(count.fetch_add(1, Ordering::Relaxed)) {
        Some('F') => Act::Refuse,
        _ => Act::Good,
    });
    let (checker, mut verdicts, log) = start(settings(), fake);
    let check = Arc::new(Check { healthy_threshold: 2, ..Check::new(Probe::Tcp) });
    checker.upsert(1, Target::new(0, address(1), check));
    let mut found = Vec::new();
    for _ in 0..3 {
        let batch = next(&mut verdicts).await;
        let results = log.lock().asked.len();
        found.push((results, batch[0].healthy));
    }
    assert_eq!(found, [(1, true), (9, false), (14, true)]);
    assert!(quiet(&mut verdicts, Duration::from_secs(600)).await);
}

#[tokio::test(start_paused = true)]
async fn a_target_removed_while_it_is_asked_is_never_heard_of_again() {
    let (checker, mut verdicts, log) = start(settings(), Fake::new(|_| Act::Silent));
    checker.upsert(1, Target::new(0, address(1), check()));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(checker.stats().under_way, 1);
    checker.remove(1);
    assert!(quiet(&mut verdicts, Duration::from_secs(600)).await);
    assert_eq!(log.lock().dropped, [address(1)], "its probe was ended");
    assert_eq!(log.lock().asked.len(), 1, "it is asked no more");
    assert_eq!((checker.health(1), checker.stats().under_way), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_nobody_took_goes_with_its_target() {
    let (checker, mut verdicts, _) = start(settings(), Fake::new(|_| Act::Refuse));
    checker.set((1..=3).map(|key| (key, Target::new(0, address(1), check()))));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(checker.stats().unknown, 0);
    checker.remove(2);
    let keys: Vec<u32> = next(&mut verdicts).await.iter().map(|verdict| verdict.key).collect();
    assert_eq!(keys, [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_target_redefined_while_it_is_asked_is_judged_by_the_new_definition() {
    let (checker, mut verdicts, log) = start(
        settings(),
        Fake::new(|address| match address.port() {
            1 => Act::Silent,
            _ => Act::Good,
        }),
    );
    checker.upsert(1, Target::new(0, address(1), check()));
    sleep(Duration::from_secs(1)).await;
    checker.upsert(1, Target::new(0, address(2), check()));
    let batch = next(&mut verdicts).await;
    assert!(batch[0].healthy);
    assert_eq!(log.lock().dropped, [address(1)]);
    assert!(quiet(&mut verdicts, Duration::from_secs(600)).await, "nothing is said of the old address");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_silent_targets_of_one_tenant_delay_nobody_else() {
    let (checker, mut verdicts, log) = start(
        settings(),
        Fake::new(|address| match address.port() {
            0..1_000 => Act::Silent,
            _ => Act::Good,
        }),
    );
    let patient = Arc::new(Check { timeout: Duration::from_secs(60), ..Check::new(Probe::Tcp) });
    checker
        .set((0..1_000_u16).map(|port| (port.into(), Target::new(0, address(port), Arc::clone(&patient)))));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(checker.stats().under_way, Limits::default().of_a_group);

    let began = Instant::now();
    for port in 2_000..2_010 {
        checker.upsert(port.into(), Target::new(1, address(port), check()));
    }
    let batch = next(&mut verdicts).await;
    assert_eq!(batch.len(), 10);
    assert_eq!(Instant::now(), began, "the other tenant's targets are asked at once");

    sleep(Duration::from_secs(600)).await;
    let mut times: BTreeMap<SocketAddr, Vec<Instant>> = BTreeMap::new();
    for (time, address) in &log.lock().asked {
        if address.port() >= 2_000 {
            times.entry(*address).or_default().push(*time);
        }
    }
    assert_eq!(times.len(), 10);
    for asked in times.values() {
        assert!(asked.len() > 100, "{}", asked.len());
        for pair in asked.windows(2) {
            assert!(pair[1] - pair[0] <= Duration::from_millis(5_501), "asked late: {:?}", pair[1] - pair[0]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn targets_that_were_added_together_are_not_asked_together_later() {
    let (checker, _verdicts, log) = start(settings(), Fake::new(|_| Act::Good));
    checker.set((0..2_000_u16).map(|port| (port.into(), Target::new(0, address(port), check()))));
    let began = Instant::now();
    sleep(Duration::from_secs(60)).await;
    let mut windows: BTreeMap<u128, usize> = BTreeMap::new();
    for (time, _) in &log.lock().asked {
        *windows.entry((*time - began).as_millis() / 500).or_default() += 1;
    }
    let first = windows.remove(&0).expect("the first round");
    assert!(first >= 2_000, "all are asked at once at first");
    // 2,000 a 5.25 s are 190 a half second.
    let busiest = windows.values().max().copied().unwrap_or_default();
    assert!(busiest < 350, "{busiest} of 2,000 within half a second");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_last_word_of_each_target_once() {
    let down = Arc::new(AtomicUsize::new(0));
    let now_down = Arc::clone(&down);
    let fake =
        Fake::new(move |_| if now_down.load(Ordering::Relaxed) == 1 { Act::Refuse } else { Act::Good });
    let (checker, mut verdicts, _) = start(settings(), fake);
    checker.set((0..100).map(|key| (key, Target::new(0, address(1), check()))));
    sleep(Duration::from_secs(1)).await;
    down.store(1, Ordering::Relaxed);
    sleep(Duration::from_secs(60)).await;
    let batch = next(&mut verdicts).await;
    assert_eq!(batch.len(), 100);
    assert!(batch.iter().all(|verdict| !verdict.healthy));
    assert!(quiet(&mut verdicts, Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_sockets_keeps_its_verdicts_and_says_so() {
    struct Exhausted(AtomicUsize);
    impl Prober for Exhausted {
        async fn probe(&self, _: &Place, _: &Probe) -> Result<(), Failure> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err(Failure::not_made("this node cannot open a socket: too many open files")),
            }
        }
    }
    let (checker, driver, mut verdicts) = Checker::new(settings());
    tokio::spawn(driver.run(Exhausted(AtomicUsize::new(0))));
    checker.upsert(1, Target::new(0, address(1), check()));
    assert!(next(&mut verdicts).await[0].healthy);
    assert!(quiet(&mut verdicts, Duration::from_secs(600)).await);
    assert_eq!(checker.health(1), Some(Health::Healthy));
    let stats = checker.stats();
    assert!(stats.not_made > 100, "{stats:?}");
    assert_eq!(stats.trouble.as_deref(), Some("this node cannot open a socket: too many open files"));
}

#[tokio::test(start_paused = true)]
async fn what_was_found_before_the_driver_ended_can_be_taken_and_then_there_is_no_more() {
    let (checker, driver, mut verdicts) = Checker::<u32, u8>::new(settings());
    let driver = tokio::spawn(driver.run(Fake::new(|_| Act::Good)));
    checker.upsert(1, Target::new(0, address(1), check()));
    advance(Duration::from_millis(10)).await;
    sleep(Duration::from_millis(10)).await;
    driver.abort();
    assert!(driver.await.expect_err("it was ended").is_cancelled());
    assert_eq!(next(&mut verdicts).await.len(), 1);
    assert_eq!(verdicts.next().await, None);
    checker.upsert(2, Target::new(0, address(1), check()));
    assert_eq!(verdicts.next().await, None, "nobody asks any more");
}
