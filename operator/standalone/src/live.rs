//! What the prompt looks into.

use std::sync::Arc;
use std::time::Duration;

use epic_lb::maps::{DirectKey, DirectMaps, DirectValue};
use epic_lb::{Handle, Progress, Reader, Snapshot};
use epic_reconciler::{MapError, SharedMaps};
use epic_shell::{Direct, Part, Subject};
use epic_sources::health::Checks;
use epic_sources::{Sources, Standing};

/// The running program.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) reader: Reader,
    pub(crate) handle: Handle,
    pub(crate) maps: SharedMaps<DirectMaps>,
    pub(crate) side: Direct,
    pub(crate) sources: Sources,
    pub(crate) checks: Checks,
}

impl Live {
    /// Waits until every source has listed, and every change until then was tried. `Ok` with a note if some of it is not in the
    /// maps.
    ///
    /// # Errors
    /// If that takes longer than `limit`: who or what is waited for, and why.
    pub(crate) async fn wait_until_ready(&self, limit: Duration) -> Result<Option<String>, String> {
        let mut handle = self.handle.clone();
        let ready = async {
            let snapshot = self.sources.listed().await;
            let progress = handle.wait_until_attempted(snapshot.revision()).await;
            (!progress.covers(snapshot.revision())).then(|| format!("the maps: {}", progress.health))
        };
        tokio::time::timeout(limit, ready).await.map_err(|_| self.why_not_ready(limit))
    }

    fn why_not_ready(&self, limit: Duration) -> String {
        let pending: Vec<String> =
            self.reader.snapshot().pending().map(|source| source.to_string()).collect();
        if pending.is_empty() {
            return format!("the maps were not written within {limit:?}: {}", self.progress().health);
        }
        let broken =
            self.sources.standing().into_iter().filter(|source| !source.ok).map(|source| source.says);
        let why: Vec<String> = broken.collect();
        format!("not ready within {limit:?}: waiting for {}; {}", pending.join(", "), why.join("; "))
    }
}

impl Subject for Live {
    type Side = Direct;

    fn tables(&self) -> Arc<Snapshot> {
        self.reader.snapshot()
    }

    fn progress(&self) -> Progress {
        self.handle.progress()
    }

    fn entries(&self) -> Result<Vec<(DirectKey, DirectValue)>, MapError> {
        Ok(self.maps.lock().content().map(|(key, value)| (*key, value.clone())).collect())
    }

    fn side(&self) -> &Direct {
        &self.side
    }

    fn parts(&self) -> Vec<Part> {
        let all = self.sources.standing().into_iter().chain(self.checks.standing());
        all.map(|Standing { name, ok, says }| Part { name: name.to_owned(), ok, says }).collect()
    }
}
