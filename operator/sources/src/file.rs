//! A state file: services that must not depend on an API server, such as the VIP of the API server itself.
//!
//! The file is YAML, see [`Document`]. It is to be replaced as a whole (written beside and renamed); it is looked at every
//! second. A file that is missing, too large or not understood keeps the state of before and says why ([`State`]); at a start
//! it holds back the completion of the source, so that nothing is pruned for want of a file.

mod check;
mod document;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use epic_lb::{Initializer, ServiceName, Source, WriteTxn, Writer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use check::{Grpc, HealthCheck, HealthCheckError, Http, Span, Tcp, parse as parse_span};
pub use document::{Document, DocumentError, Entry, Member, Port, Transport};

use crate::Origin;

/// How often the file is looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// Greatest file, in bytes.
pub const GREATEST: u64 = 16 << 20;

/// How the file stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Services of the last file that was understood; `None` before the first.
    pub services: Option<usize>,
    /// Why the file as it is now is not in force.
    pub error: Option<Arc<str>>,
}

/// Why a file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {path}: {source}; the services of before are served on", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is too large.
    #[error("{path} has {bytes} bytes, {GREATEST} are read; split its services over fewer, larger backends' lists", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is not understood.
    #[error("{path}: {source}; the services of before are served on", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DocumentError,
    },
}

/// What tells one file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// Follows a state file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    state: watch::Sender<State>,
}

impl StateFile {
    /// Of this path; the receiver tells how it stands.
    pub fn new(path: impl Into<PathBuf>) -> (Self, watch::Receiver<State>) {
        let (state, receiver) = watch::channel(State::default());
        (Self { path: path.into(), state }, receiver)
    }

    fn say(&self, services: Option<usize>, error: Option<&Error>) {
        let error: Option<Arc<str>> = error.map(|error| error.to_string().into());
        self.state.send_if_modified(|state| {
            let next = State { services: services.or(state.services), error };
            if let (Some(error), true) = (&next.error, next.error != state.error) {
                tracing::warn!(%error, "the state file is not in force");
            }
            let changed = *state != next;
            *state = next;
            changed
        });
    }
}

impl Origin for StateFile {
    const SOURCE: Source = Source::File;

    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }

    async fn run(self, writer: Writer, listed: Initializer, stop: CancellationToken) {
        let mut initializer = Some(listed);
        let mut seen = None;
        loop {
            let mark = mark(&self.path).await;
            if mark.is_none() || mark != seen {
                match read(&self.path).await {
                    Ok(document) => {
                        let services = document.services.len();
                        let mut txn = writer.write();
                        apply(&mut txn, document);
                        if let Some(initializer) = initializer.take() {
                            txn.complete(&initializer);
                        }
                        txn.commit();
                        tracing::info!(path = %self.path.display(), services, "the state file is in force");
                        self.say(Some(services), None);
                    }
                    Err(error) => self.say(None, Some(&error)),
                }
                // Whatever it said, it is said again only when the file is another.
                seen = mark;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn mark(path: &Path) -> Option<Mark> {
    use std::os::unix::fs::MetadataExt as _;
    let found = tokio::fs::metadata(path).await.ok()?;
    Some(Mark { modified: found.modified().ok(), bytes: found.len(), inode: found.ino() })
}

async fn read(path: &Path) -> Result<Document, Error> {
    let of = |source| Error::Read { path: path.to_owned(), source };
    let bytes = tokio::fs::metadata(path).await.map_err(of)?.len();
    if bytes > GREATEST {
        return Err(Error::TooLarge { path: path.to_owned(), bytes });
    }
    let text = tokio::fs::read_to_string(path).await.map_err(of)?;
    Document::parse(&text).map_err(|source| Error::Document { path: path.to_owned(), source })
}

/// Makes the document all that this source says.
pub fn apply(txn: &mut WriteTxn<'_>, document: Document) {
    let rows = document.rows();
    let keep: std::collections::BTreeSet<ServiceName> =
        rows.iter().map(|rows| rows.service.name.clone()).collect();
    txn.retain_services(|name| keep.contains(name));
    for rows in rows {
        rows.write(txn);
    }
}
