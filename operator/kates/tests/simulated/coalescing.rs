//! When a reader is told: at once when quiet, capped under load, never starved.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kates::Query;
use tokio::time::{Instant, sleep, timeout};

use super::*;

const INTERVAL: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn one_change_after_quiet_is_told_at_once() {
    let server = Server::new();
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).interval(INTERVAL).start();
    let mut updates = watched.updates();
    assert!(updates.next().await.before.is_none());
    for number in 0..3 {
        sleep(INTERVAL * 2).await;
        let began = Instant::now();
        server.put("configmaps", raw("ConfigMap", "a", &format!("x{number}")));
        let update = updates.next().await;
        assert_eq!(update.changes::<ConfigMap>().len(), 1);
        assert!(began.elapsed() < Duration::from_millis(5), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn constant_changes_are_told_once_per_interval_and_none_is_lost() {
    let server = Server::new();
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).interval(INTERVAL).start();
    let mut updates = watched.updates();
    updates.next().await;
    let writer = tokio::spawn({
        let server = server.clone();
        async move {
            for number in 0..1000 {
                server.put("configmaps", raw("ConfigMap", "a", &format!("x{number}")));
                sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let began = Instant::now();
    let (mut told, mut seen) = (0, 0);
    while seen < 1000 {
        seen += updates.next().await.changes::<ConfigMap>().len();
        told += 1;
    }
    writer.await.unwrap();
    // Ten seconds of changes every 10 ms, told every 500 ms.
    assert!((19..=23).contains(&told), "{told} signals");
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_sleeps_holds_up_nobody_and_then_sees_the_newest_state() {
    let server = Server::new();
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    let (mut slow, mut fast) = (watched.updates(), watched.updates());
    slow.next().await;
    fast.next().await;
    let mut stream = Box::pin(watched.changes::<ConfigMap>());
    futures::StreamExt::next(&mut stream).await.unwrap();
    for number in 0..100 {
        server.put("configmaps", raw("ConfigMap", "a", &format!("x{}", number % 10)));
        timeout(Duration::from_secs(1), fast.next()).await.unwrap();
    }
    assert_eq!(slow.next().await.changes::<ConfigMap>().len(), 10);
    assert_eq!(futures::StreamExt::next(&mut stream).await.unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn nothing_new_is_not_told() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    let mut updates = watched.updates();
    updates.next().await;
    server.bookmark("configmaps");
    server.cut();
    server.compact();
    // Hours of watches that end and begin, and one relist: no change.
    assert!(timeout(Duration::from_secs(3 * 3600), updates.changed()).await.is_err());
    assert!(updates.update().is_none());
}
