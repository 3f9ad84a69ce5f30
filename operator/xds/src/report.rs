//! What came back from proxies, as rows: one per open stream, latest state only.
//!
//! The operator turns rows into pod conditions (`epic.acnodal.io/configured`) and Endpoint conditions. A row says what
//! one stream of one pod has acknowledged *on this replica*; a pod whose stream moved elsewhere is reported there.
//!
//! Guarantees: a watcher gets every stream that changed since it last looked, once, in its latest form, and the end of
//! every stream it was told about. A slow watcher costs one set of stream numbers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::Progress;
use crate::identity::{Identity, NodeName};
use crate::software::Software;

/// Number of a stream, unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// State of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The stream.
    pub stream: StreamId,
    /// LoadBalancer, as the certificate says.
    pub identity: Identity,
    /// Pod, as the first request says. Check that it is a proxy of `identity` before writing to it.
    pub node: NodeName,
    /// Program and version, as the first request says; shared by all proxies that say the same.
    pub software: Arc<Software>,
    /// False in the last report of a stream. Says nothing about the pod: it may be connected elsewhere.
    pub connected: bool,
    /// When the proxy was heard last, by the clock of this host. A stream whose end was not noticed yet is heard no
    /// more, so this orders the streams of one pod, those of other replicas included.
    pub heard: SystemTime,
    /// What was acknowledged, what is refused, and which Endpoints the proxy has.
    pub progress: Progress,
}

/// All rows.
#[derive(Debug, Default)]
pub struct Reports {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    rows: BTreeMap<StreamId, Report>,
    /// What open streams say of their proxies, and how many of them.
    software: BTreeMap<Arc<Software>, usize>,
    watchers: Vec<std::sync::Weak<Watcher>>,
}

#[derive(Debug, Default)]
struct Watcher {
    changed: Mutex<BTreeMap<StreamId, Option<Report>>>,
    wake: Notify,
}

/// Follows [`Reports`].
#[derive(Debug)]
pub struct ReportWatch {
    reports: Arc<Reports>,
    watcher: Arc<Watcher>,
}

impl Reports {
    /// No rows.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Rows of all open streams that have said who they are.
    pub fn rows(&self) -> Vec<Report> {
        self.inner.lock().rows.values().cloned().collect()
    }

    /// Follows the rows; the first call of [`ReportWatch::changed`] also yields those that are there already.
    pub fn watch(self: &Arc<Self>) -> ReportWatch {
        let watcher = Arc::new(Watcher::default());
        let mut inner = self.inner.lock();
        watcher.changed.lock().extend(inner.rows.keys().map(|id| (*id, None)));
        if !inner.rows.is_empty() {
            watcher.wake.notify_one();
        }
        inner.watchers.retain(|w| w.strong_count() > 0);
        inner.watchers.push(Arc::downgrade(&watcher));
        ReportWatch { reports: Arc::clone(self), watcher }
    }

    /// The row of a new stream. It goes when the returned handle is dropped.
    pub(crate) fn open(
        self: &Arc<Self>,
        identity: Identity,
        node: NodeName,
        software: Software,
    ) -> OpenReport {
        let mut inner = self.inner.lock();
        let known = inner.software.get_key_value(&software).map(|(known, _)| Arc::clone(known));
        let software = known.unwrap_or_else(|| Arc::new(software));
        *inner.software.entry(Arc::clone(&software)).or_default() += 1;
        inner.next += 1;
        let stream = StreamId(inner.next);
        let heard = SystemTime::now();
        let progress = Progress::default();
        let report = Report { stream, identity, node, software, connected: true, heard, progress };
        inner.rows.insert(stream, report);
        inner.tell(stream, None);
        OpenReport { reports: Arc::clone(self), stream }
    }
}

impl Inner {
    fn tell(&self, stream: StreamId, last: Option<&Report>) {
        for watcher in self.watchers.iter().filter_map(std::sync::Weak::upgrade) {
            watcher.changed.lock().insert(stream, last.cloned());
            watcher.wake.notify_one();
        }
    }
}

impl ReportWatch {
    /// The rows that changed since the last look. Never waits.
    pub fn poll(&mut self) -> Vec<Report> {
        let changed = std::mem::take(&mut *self.watcher.changed.lock());
        let reports = self.reports.inner.lock();
        let rows = changed.into_iter();
        rows.filter_map(|(stream, last)| last.or_else(|| reports.rows.get(&stream).cloned())).collect()
    }

    /// Waits for changes and returns the rows that changed. Cancel safe.
    pub async fn changed(&mut self) -> Vec<Report> {
        loop {
            let rows = self.poll();
            if !rows.is_empty() {
                return rows;
            }
            self.watcher.wake.notified().await;
        }
    }
}

/// Write access to the row of one stream.
#[derive(Debug)]
pub(crate) struct OpenReport {
    reports: Arc<Reports>,
    stream: StreamId,
}

impl OpenReport {
    /// The proxy said something.
    pub(crate) fn heard(&self) {
        if let Some(row) = self.reports.inner.lock().rows.get_mut(&self.stream) {
            row.heard = SystemTime::now();
        }
    }

    /// Stores `progress`, if it differs.
    pub(crate) fn update(&self, progress: &Progress) {
        let mut inner = self.reports.inner.lock();
        if let Some(row) = inner.rows.get_mut(&self.stream)
            && row.progress != *progress
        {
            row.progress = progress.clone();
            inner.tell(self.stream, None);
        }
    }
}

impl Drop for OpenReport {
    fn drop(&mut self) {
        let mut inner = self.reports.inner.lock();
        if let Some(mut row) = inner.rows.remove(&self.stream) {
            row.connected = false;
            inner.tell(self.stream, Some(&row));
            if let Some(streams) = inner.software.get_mut(&row.software) {
                *streams -= 1;
                if *streams == 0 {
                    inner.software.remove(&row.software);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Kind, Rejection, Version};

    fn open(reports: &Arc<Reports>, pod: &str) -> OpenReport {
        let software = Software { version: "1.40.0".into(), ..Software::default() };
        reports.open(Identity::new("red", "web", "u"), NodeName { pod: pod.into() }, software)
    }

    fn refusing(message: &str) -> Progress {
        let rejection = Rejection { version: Version::of(b"x"), message: message.into() };
        Progress { rejections: [((Kind::Listener, "a".into()), rejection)].into(), ..Progress::default() }
    }

    #[tokio::test]
    async fn a_watcher_gets_the_latest_form_of_what_changed_once() {
        let reports = Reports::new();
        let first = open(&reports, "web-1");
        let mut watch = reports.watch();
        assert_eq!(watch.changed().await.len(), 1);
        let _second = open(&reports, "web-2");
        first.update(&refusing("one"));
        first.update(&refusing("two"));
        let rows = watch.changed().await;
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].progress, refusing("two"));
        first.update(&refusing("two"));
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), watch.changed()).await;
        assert!(quiet.is_err(), "nothing differed: {quiet:?}");
    }

    #[test]
    fn a_stream_that_is_heard_comes_after_one_that_fell_silent() {
        let reports = Reports::new();
        let (silent, heard) = (open(&reports, "web-1"), open(&reports, "web-1"));
        let at = |stream: &OpenReport| reports.inner.lock().rows[&stream.stream].heard;
        let opened = at(&heard);
        while at(&heard) == opened {
            heard.heard();
        }
        silent.update(&refusing("a view that came after its proxy had gone"));
        assert!(at(&silent) < at(&heard));
    }

    #[test]
    fn what_several_proxies_say_of_themselves_is_kept_once_and_no_longer_than_they_are_there() {
        let reports = Reports::new();
        let streams = ["web-1", "web-2", "web-3"].map(|pod| open(&reports, pod));
        let rows = reports.rows();
        assert!(rows.iter().all(|row| Arc::ptr_eq(&row.software, &rows[0].software)));
        drop((rows, streams));
        assert!(reports.inner.lock().software.is_empty());
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_reported_with_its_last_state() {
        let reports = Reports::new();
        let mut watch = reports.watch();
        let stream = open(&reports, "web-1");
        stream.update(&refusing("no"));
        drop(stream);
        let rows = watch.changed().await;
        assert_eq!(rows.len(), 1);
        assert!(!rows[0].connected);
        assert_eq!(rows[0].progress, refusing("no"));
        assert!(reports.rows().is_empty());
    }
}
