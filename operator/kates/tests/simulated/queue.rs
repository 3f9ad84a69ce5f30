//! How many subjects wait for their reconcile.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::ConfigMap;
use kates::{Query, Subject, Waiting};
use kube::runtime::controller::{Action, Config};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;

/// A controller with one reconcile at a time, each of which ends when it is let to.
struct Held {
    server: Server,
    waiting: Waiting,
    /// Triggers it, by name of the config map.
    triggers: mpsc::UnboundedSender<&'static str>,
    /// One permit ends one reconcile.
    end: Arc<Semaphore>,
    /// Reconciles that have begun, by name.
    begun: Arc<Mutex<BTreeMap<String, usize>>>,
    _watched: Accumulator,
}

impl Held {
    fn start(objects: &[&str]) -> Self {
        let server = Server::new();
        for name in objects {
            server.put("configmaps", raw("ConfigMap", "a", name));
        }
        let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
        let (triggers, received) = mpsc::unbounded();
        let received = received.map(|name| Subject::<ConfigMap>::reference(&key("a", name)));
        let queue = watched
            .controller::<ConfigMap>()
            .reconcile_on(received)
            .with(|controller| controller.with_config(Config::default().concurrency(1)));
        let (waiting, end) = (queue.waiting(), Arc::new(Semaphore::new(0)));
        let begun = Arc::new(Mutex::new(BTreeMap::new()));
        let (ends, begins) = (end.clone(), begun.clone());
        let reconcile = move |subject: Arc<Subject<ConfigMap>>, _: Arc<()>| {
            let (ends, begins) = (ends.clone(), begins.clone());
            *begins.lock().entry(subject.key().name().to_owned()).or_insert(0) += 1;
            async move {
                ends.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Action::await_change())
            }
        };
        let runs = queue.run(reconcile, |_, error, _| match *error {}, Arc::new(()));
        tokio::spawn(runs.for_each(|_| futures::future::ready(())));
        Self { server, waiting, triggers, end, begun, _watched: watched }
    }

    /// Waits until so many have begun, and then so many wait.
    async fn until(&self, begun: usize, waiting: usize) {
        let so = || (self.begun.lock().values().sum::<usize>(), self.waiting.count());
        let found = async {
            while so() != (begun, waiting) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // It is no passing state.
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(120), found).await;
        assert_eq!(so(), (begun, waiting));
    }

    fn trigger(&self, name: &'static str) {
        self.triggers.unbounded_send(name).unwrap();
    }

    fn let_end(&self, reconciles: usize) {
        self.end.add_permits(reconciles);
    }
}

#[tokio::test(start_paused = true)]
async fn subjects_wait_from_their_trigger_until_their_reconcile_begins_each_of_them_once() {
    let held = Held::start(&["x", "y", "z"]);
    held.until(1, 2).await;
    // Whatever is triggered again has its place already, but for the one that is under way.
    for name in ["x", "y", "z", "x"] {
        held.trigger(name);
    }
    held.until(1, 3).await;
    held.let_end(1);
    held.until(2, 2).await;
    held.let_end(2);
    held.until(4, 0).await;
    held.let_end(1);
    held.until(4, 0).await;
    assert_eq!(held.begun.lock().values().max(), Some(&2), "the one that was under way ran again");

    held.server.put("configmaps", raw("ConfigMap", "a", "y"));
    held.until(5, 0).await;
    held.server.remove("configmaps", "a", "z");
    held.until(5, 1).await;
    held.let_end(2);
    held.until(6, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_subject_that_there_never_was_does_not_wait_for_ever() {
    let held = Held::start(&["x"]);
    held.until(1, 0).await;
    held.trigger("nobody");
    held.until(1, 1).await;
    held.let_end(1);
    held.until(1, 0).await;
}
