//! The reconciler as a task, and its statuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use epic_lb::reconciler::{Backoff, Limits, PruneRequest, Reconciler, run};
use epic_lb::render::{Entries, NodeSide, Render, Unready};
use epic_lb::{
    FakeMaps, Faults, FaultyMaps, LbMaps, ProxyState, RowKey, Snapshot, Source, StatusKind, Writer,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::{
    CheckedMaps, NODE, SEED, frontend, name, node_reconciler, proxy, proxy_backend, service, tunnel, writer,
};

const WEB: &str = "acme/web";
const LONG: Duration = Duration::from_secs(30);

fn fill(writer: &Writer) -> u64 {
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(service(WEB, 1, 1, 1), vec![frontend(WEB, "192.0.2.7", 80, 0)]).unwrap();
    txn.upsert_proxy(proxy(WEB, 1, NODE, ProxyState::Ready));
    txn.upsert_backends(&name(WEB), Source::Resource, [proxy_backend(WEB, 1)]);
    txn.upsert_tunnel(tunnel(WEB, 5, "203.0.113.9", NODE));
    txn.commit()
}

fn quick() -> Backoff {
    Backoff { min: Duration::from_millis(1), max: Duration::from_millis(5) }
}

#[tokio::test]
async fn who_waits_for_a_revision_is_woken_when_the_maps_hold_it() {
    let writer = writer();
    let (_stop, stopped) = watch::channel(false);
    let reconciler = node_reconciler(&writer, CheckedMaps(FakeMaps::new()));
    let (mut handle, _task) =
        run(reconciler, Arc::clone(writer.tables()), |_| true, Limits::default(), stopped);
    let revision = fill(&writer);
    let progress = timeout(LONG, handle.wait_until_reconciled(revision)).await.unwrap();
    assert!(progress.covers(revision) && progress.health.is_ok(), "{}", progress.health);
    assert!(writer.snapshot().frontends.entries().all(|(_, e)| e.status.is_done()));
}

#[tokio::test]
async fn failures_are_retried_until_they_succeed() {
    let writer = writer();
    let (stop, stopped) = watch::channel(false);
    let faults = Faults { probability: 0.7, writes_left: None };
    let maps = FaultyMaps::new(CheckedMaps(FakeMaps::new()), faults, 3);
    let reconciler = Reconciler::new(writer.clone(), maps, NodeSide::new(NODE, SEED), quick()).unwrap();
    let (mut handle, task) =
        run(reconciler, Arc::clone(writer.tables()), |_| true, Limits::default(), stopped);
    let revision = fill(&writer);
    timeout(LONG, handle.wait_until_reconciled(revision)).await.unwrap();
    stop.send(true).unwrap();
    assert_eq!(timeout(LONG, task).await.unwrap().unwrap().inner().0.content().len(), 9);
}

#[tokio::test]
async fn a_big_removal_waits_until_it_is_confirmed() {
    let writer = writer();
    let (_stop, stopped) = watch::channel(false);
    let allowed = Arc::new(AtomicBool::new(false));
    let (asked, mut questions) = watch::channel(None);
    let confirm = {
        let allowed = Arc::clone(&allowed);
        move |request: PruneRequest| {
            asked.send_replace(Some(request));
            allowed.load(Ordering::SeqCst)
        }
    };
    let limits = Limits { ask_again: Duration::from_millis(1), ..Limits::default() };
    let reconciler = node_reconciler(&writer, CheckedMaps(FakeMaps::new()));
    let (mut handle, _task) = run(reconciler, Arc::clone(writer.tables()), confirm, limits, stopped);
    let revision = fill(&writer);
    timeout(LONG, handle.wait_until_reconciled(revision)).await.unwrap();

    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name(WEB));
    txn.set_proxies([]);
    txn.set_tunnels([]);
    let revision = txn.commit();
    let request = *timeout(LONG, questions.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_eq!(request, Some(PruneRequest { removals: 9, entries: 9, revision }));
    assert_eq!(timeout(LONG, handle.wait_until_attempted(revision)).await.unwrap().health.entries, 9);

    allowed.store(true, Ordering::SeqCst);
    let progress = timeout(LONG, handle.wait_until_reconciled(revision)).await.unwrap();
    assert_eq!(progress.health.entries, 0);
}

#[tokio::test]
async fn a_full_pass_puts_back_what_somebody_else_removed() {
    let writer = writer();
    let revision = fill(&writer);
    let mut reconciler = node_reconciler(&writer, CheckedMaps(FakeMaps::new()));
    reconciler.round(Instant::now());
    assert!(reconciler.progress().covers(revision));
    let vip = *reconciler.maps().0.content().keys().next_back().unwrap();
    reconciler.maps_mut().0.delete(&vip).unwrap();
    assert_eq!(reconciler.round(Instant::now()).writes, 0);
    reconciler.refresh().unwrap();
    assert_eq!(reconciler.round(Instant::now()).writes, 1);
}

/// Renders like a node, and lets a source write in the middle of it.
struct Interrupted {
    side: NodeSide,
    writer: Writer,
    done: bool,
}

impl Render for Interrupted {
    fn render(&mut self, snapshot: &Snapshot, row: &RowKey) -> Result<Entries, Unready> {
        if !self.done {
            self.done = true;
            let mut txn = self.writer.write();
            txn.upsert_service(service(WEB, 1, 1, 2));
            txn.commit();
        }
        self.side.render(snapshot, row)
    }
}

#[test]
fn done_never_overwrites_a_newer_pending() {
    let writer = writer();
    fill(&writer);
    let render = Interrupted { side: NodeSide::new(NODE, SEED), writer: writer.clone(), done: false };
    let maps = CheckedMaps(FakeMaps::new());
    let mut reconciler = Reconciler::new(writer.clone(), maps, render, Backoff::default()).unwrap();
    let status = |writer: &Writer| writer.snapshot().services.entry(&name(WEB)).unwrap().status.kind.clone();
    reconciler.round(Instant::now());
    assert_eq!(status(&writer), StatusKind::Pending, "the round saw the row before it was written again");
    reconciler.round(Instant::now());
    assert_eq!(status(&writer), StatusKind::Done);
}
