//! Feeds one store from the API server: list, then watch, for ever.
//!
//! The loop is that of kube-runtime's `watcher`, on the same `Api::list` and `Api::watch`. It is here because that
//! one keeps to itself what snapshots have to tell: the revision of the list, the bookmarks, and why the API
//! server refuses (an address may only be reused once every agent is *known* to be past a revision, and on a quiet
//! cluster only bookmarks say so).
//!
//! Invariants: lists are quorum reads, so they contain every write that returned before they began. A watch goes
//! on where the last one ended, at the latest bookmark. After a refusal (RBAC, kind unknown) and after "too old"
//! everything is listed again. Never gives up; waits between failures with jitter.

use std::sync::Weak;
use std::time::Duration;

use futures::StreamExt;
use kube::Resource;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::core::DeserializeGuard;
use tokio::time::{sleep, timeout};

use crate::Version;
use crate::client::Settings;
use crate::object::{Object, Wire};
use crate::store::{Condition, Store};

type Watched<K> = Wire<DeserializeGuard<K>>;

/// Objects per page of a list, as in client-go.
const PAGE: u32 = 500;
/// How long after the server should have ended a watch the connection counts as dead.
const IDLE_MARGIN: Duration = Duration::from_secs(5);

/// How long a list that lacks most of what is known waits for the one that confirms or refutes it.
const DOUBT: Duration = Duration::from_secs(5);

/// Why listing or watching ended.
enum Ended {
    /// The server closed the watch, as it does every few minutes.
    Closed,
    /// Another try from the same revision may help.
    Failed(String),
    /// Only a new list helps.
    TooOld(String),
    /// RBAC says no, or there is no such kind.
    Refused(String),
}

impl Ended {
    fn of(action: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::TooOld(status.message.clone()),
            kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404 | 405) => {
                Self::Refused(format!("{action}: {} ({})", status.message.trim(), status.code))
            }
            kube::Error::Api(status) => Self::Failed(format!("{action}: {}", status.message.trim())),
            other => Self::Failed(format!("{action}: {other}")),
        }
    }
}

/// Runs until the store has no reader any more.
pub(crate) async fn feed<K: Object>(store: Weak<Store<K>>, api: Api<Watched<K>>, settings: Settings) {
    let mut waits = Waits::new(settings.retry);
    loop {
        let listed = list(&store, &api, &settings).await;
        let mut revision = match listed {
            Ok(Some(revision)) => revision,
            Ok(None) => return,
            Err(ended) => {
                if !report(&store, ended) {
                    return;
                }
                sleep(waits.next()).await;
                continue;
            }
        };
        waits.reset();
        // Until only a new list helps.
        loop {
            let began = tokio::time::Instant::now();
            let Some(ended) = watch(&store, &api, &settings, &mut revision).await else { return };
            let again = matches!(ended, Ended::TooOld(_) | Ended::Refused(_));
            // A watch that lasted shows that the server is well.
            if began.elapsed() > settings.retry.1 || matches!(ended, Ended::Closed) {
                waits.reset();
            }
            let quiet = matches!(ended, Ended::Closed | Ended::TooOld(_));
            if !report(&store, ended) {
                return;
            }
            if !quiet {
                sleep(waits.next()).await;
            } else if began.elapsed() < settings.retry.0 {
                // A server that closes at once must not be asked in a loop.
                sleep(settings.retry.0).await;
            }
            if again {
                break;
            }
        }
    }
}

/// Lists everything into the store. `None` when the store is gone.
///
/// A list that lacks most of what is known is asked for again before it is believed: what follows from an empty list
/// (nothing is served, nothing is routed) hurts, and a restored or confused API server answers with one. A deletion that
/// the watch shows is never doubted.
async fn list<K: Object>(
    store: &Weak<Store<K>>,
    api: &Api<Watched<K>>,
    settings: &Settings,
) -> Result<Option<Version>, Ended> {
    let Some((began, items, revision)) = pages(store, api, settings).await? else { return Ok(None) };
    let doubted = store.upgrade().is_some_and(|store| store.doubts(&items));
    let (began, items, revision) = if doubted {
        let Some(alive) = store.upgrade() else { return Ok(None) };
        tracing::warn!(
            kind = alive.plural(),
            listed = items.len(),
            "a list lacks more than half of the known objects; it is asked for again before it is believed"
        );
        alive.condition(Condition::Failing("a list lacks more than half of the known objects".to_owned()));
        drop(alive);
        drop(items);
        sleep(DOUBT).await;
        let Some(again) = pages(store, api, settings).await? else { return Ok(None) };
        again
    } else {
        (began, items, revision)
    };
    let Some(store) = store.upgrade() else { return Ok(None) };
    store.listed(items, revision.clone(), began);
    Ok(Some(revision))
}

/// What a list knew of own writes when it began, its objects, its revision.
type Pages<K> = (u64, Vec<DeserializeGuard<K>>, Version);

/// One consistent list, page by page. `None` when the store is gone.
async fn pages<K: Object>(
    store: &Weak<Store<K>>,
    api: &Api<Watched<K>>,
    settings: &Settings,
) -> Result<Option<Pages<K>>, Ended> {
    let Some((began, query)) = store.upgrade().map(|store| (store.entered(), store.query_now())) else {
        return Ok(None);
    };
    let mut params = query.list_params();
    params.limit = Some(PAGE);
    let mut items = Vec::new();
    let revision = loop {
        let page = timeout(settings.call_limit, api.list(&params))
            .await
            .map_err(|_| Ended::Failed(format!("list: no answer within {:?}", settings.call_limit)))?
            .map_err(|error| Ended::of("list", &error))?;
        items.extend(page.items.into_iter().map(|Wire(item)| item));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                let revision = page.metadata.resource_version.filter(|revision| !revision.is_empty());
                break revision
                    .ok_or_else(|| Ended::Failed("list: no resourceVersion in the answer".into()))?;
            }
        }
    };
    let revision = Version::new(revision);
    if let Some(floor) = query.floor()
        && revision.compare(floor) == Some(std::cmp::Ordering::Less)
    {
        return Err(Ended::Failed(format!(
            "list: at revision {revision}, older than {floor}, which was acted on before; was the cluster \
             restored from a backup?"
        )));
    }
    Ok(Some((began, items, revision)))
}

/// Follows one watch to its end, moving `revision` along. `None` when the store is gone.
async fn watch<K: Object>(
    store: &Weak<Store<K>>,
    api: &Api<Watched<K>>,
    settings: &Settings,
    revision: &mut Version,
) -> Option<Ended> {
    let query = store.upgrade()?.query_now();
    let params = WatchParams {
        label_selector: query.label_selector(),
        field_selector: query.field_selector(),
        timeout: Some(u32::try_from(settings.watch_limit.as_secs()).unwrap_or(290).clamp(1, 290)),
        bookmarks: true,
        send_initial_events: false,
    };
    let opened = match timeout(settings.call_limit, api.watch(&params, revision.as_str())).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return Some(Ended::of("watch", &error)),
        Err(_) => return Some(Ended::Failed(format!("watch: no answer within {:?}", settings.call_limit))),
    };
    let mut events = std::pin::pin!(opened);
    store.upgrade()?.condition(Condition::Synced);
    loop {
        let next = match timeout(settings.watch_limit + IDLE_MARGIN, events.next()).await {
            Ok(Some(next)) => next,
            // Ended by the server, or silent for longer than the server would let it be.
            Ok(None) | Err(_) => return Some(Ended::Closed),
        };
        let store = store.upgrade()?;
        match next {
            Ok(WatchEvent::Added(Wire(object)) | WatchEvent::Modified(Wire(object))) => {
                advance(revision, object.meta().resource_version.as_deref());
                store.applied(object);
            }
            Ok(WatchEvent::Deleted(Wire(object))) => {
                advance(revision, object.meta().resource_version.as_deref());
                store.deleted(&object);
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                *revision = Version::new(bookmark.metadata.resource_version);
                store.bookmark(revision.clone());
            }
            Ok(WatchEvent::Error(status)) => {
                return Some(Ended::of("watch", &kube::Error::Api(status)));
            }
            // Something on the stream could not be read at all, not even its metadata: what it was is unknown,
            // so only a list can tell.
            Err(kube::Error::SerdeError(error)) => return Some(Ended::TooOld(format!("watch: {error}"))),
            Err(error) => return Some(Ended::of("watch", &error)),
        }
    }
}

fn advance(revision: &mut Version, seen: Option<&str>) {
    if let Some(seen) = seen {
        *revision = Version::from(seen);
    }
}

/// Tells the store. False when it is gone.
fn report<K: Object>(store: &Weak<Store<K>>, ended: Ended) -> bool {
    let Some(store) = store.upgrade() else { return false };
    let plural = store.plural();
    match ended {
        Ended::Closed => {}
        Ended::TooOld(reason) => tracing::debug!(kind = plural, reason, "listing again"),
        Ended::Failed(reason) => {
            tracing::debug!(kind = plural, reason, "interrupted");
            store.condition(Condition::Failing(reason));
        }
        Ended::Refused(reason) => {
            tracing::warn!(kind = plural, reason, "refused; nothing is concluded from what is not there");
            store.condition(Condition::Refused(reason));
        }
    }
    true
}

/// Doubling waits with jitter.
struct Waits {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Waits {
    fn new((least, most): (Duration, Duration)) -> Self {
        Self { least, most, next: least }
    }

    fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }

    fn reset(&mut self) {
        self.next = self.least;
    }
}
