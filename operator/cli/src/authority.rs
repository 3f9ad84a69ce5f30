//! `authority rotate`: asks the operator for another xDS authority, and tells how far it is.
//!
//! The operator makes the change; it goes on when this command is interrupted, and called again the command follows the
//! change under way. Only the Secret's metadata is read: the keys in it stay where they are.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use epic_crds::well_known::{
    ANNOTATION_AUTHORITY_PROGRESS, ANNOTATION_AUTHORITY_ROTATED, ANNOTATION_ROTATE_AUTHORITY, EPIC_NAMESPACE,
    SECRET_XDS_AUTHORITY,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::api;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Flags of `authority rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArguments {
    /// Asks and returns, without waiting for the end.
    #[arg(long)]
    pub no_wait: bool,
    /// How many seconds to wait for the end. The change goes on after that.
    #[arg(long, default_value_t = 1_800)]
    pub timeout: u64,
}

/// Why the end was not seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// It takes longer.
    #[error(
        "the change is not complete after {seconds} s; it goes on without this command: {progress}. Call it again to follow it; \
         if nothing moves, look at the log of the operator that leads"
    )]
    Late {
        /// How long was waited.
        seconds: u64,
        /// What stood there last.
        progress: String,
    },
}

/// How far a change is, by what stands on the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is asked for or under way; when the last change was complete.
    Idle(Option<String>),
    /// It is asked for, and no operator has begun.
    Asked,
    /// It is under way, in the operator's words.
    UnderWay(String),
}

fn state(annotations: &BTreeMap<String, String>) -> State {
    if let Some(progress) = annotations.get(ANNOTATION_AUTHORITY_PROGRESS) {
        return State::UnderWay(progress.clone());
    }
    if annotations.contains_key(ANNOTATION_ROTATE_AUTHORITY) {
        return State::Asked;
    }
    State::Idle(annotations.get(ANNOTATION_AUTHORITY_ROTATED).cloned())
}

/// Asks, unless a change is under way, and follows it; each news goes to `print`.
///
/// # Errors
/// [`Error`].
pub async fn rotate(
    client: &Client,
    arguments: &RotateArguments,
    mut print: impl FnMut(&str),
) -> Result<(), Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), EPIC_NAMESPACE);
    let read = || async {
        let found = secrets.get_metadata(SECRET_XDS_AUTHORITY).await;
        let what = format!("read Secret {SECRET_XDS_AUTHORITY} in {EPIC_NAMESPACE}");
        let found = found.map_err(|source| api::Error::call(what, source))?;
        Ok::<_, Error>(state(&found.metadata.annotations.unwrap_or_default()))
    };
    if let State::Idle(_) = read().await? {
        let asked =
            json!({"metadata": {"annotations": {ANNOTATION_ROTATE_AUTHORITY: Timestamp::now().to_string()}}});
        let patched =
            secrets.patch_metadata(SECRET_XDS_AUTHORITY, &PatchParams::default(), &Patch::Merge(asked)).await;
        patched
            .map_err(|source| api::Error::call(format!("annotate Secret {SECRET_XDS_AUTHORITY}"), source))?;
        print(
            "asked for another authority; proxies keep their streams, and new connections work at every step",
        );
    } else {
        print("a change of the authority is under way already");
    }
    if arguments.no_wait {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let mut last = String::new();
    loop {
        let progress = match read().await? {
            State::Idle(at) => {
                print(&format!("complete at {}", at.unwrap_or_else(|| "an unknown time".to_owned())));
                return Ok(());
            }
            State::Asked => "waiting for an operator to begin".to_owned(),
            State::UnderWay(progress) => progress,
        };
        if progress != last {
            print(&progress);
        }
        last = progress;
        if Instant::now() >= deadline {
            return Err(Error::Late { seconds: arguments.timeout, progress: last });
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotations_say_how_far_a_change_is() {
        let of = |entries: &[(&str, &str)]| {
            state(&entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
        };
        assert_eq!(of(&[]), State::Idle(None));
        assert_eq!(of(&[(ANNOTATION_ROTATE_AUTHORITY, "t")]), State::Asked);
        let progress = (ANNOTATION_AUTHORITY_PROGRESS, "step 1 of 3");
        assert_eq!(
            of(&[progress, (ANNOTATION_AUTHORITY_ROTATED, "t")]),
            State::UnderWay("step 1 of 3".into())
        );
        assert_eq!(of(&[(ANNOTATION_AUTHORITY_ROTATED, "t")]), State::Idle(Some("t".into())));
    }
}
