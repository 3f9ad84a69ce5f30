//! Random histories: own and others' writes of two kinds, lag, cuts, forgotten history, bookmarks.
//!
//! After every own write the snapshot must contain it; when everything has calmed down it must equal the server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kates::{Accumulator, Client, Deletion, Query};
use kube::ResourceExt;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    OwnUpsert(Kind, u8, bool),
    OwnStatus(Kind, u8),
    OwnDelete(Kind, u8),
    OtherPut(Kind, u8),
    OtherRemove(Kind, u8),
    Lag(Kind),
    CatchUp(Kind),
    HoldLists(Kind),
    ReleaseLists(Kind),
    Cut,
    Compact,
    Bookmark(Kind),
    /// Lets the watches run for so many turns of the scheduler.
    Run(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ConfigMap,
    Service,
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Service => "services",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
        }
    }
}

/// What own writes have made certain about one object.
#[derive(Default)]
struct Certain {
    /// At least this version of this uid must be shown, unless a later one of it or another uid is.
    least: Option<(String, u64)>,
    /// Uids that must never be shown again.
    gone: Vec<String>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![Just(Kind::ConfigMap), Just(Kind::Service)];
    let step = (kind, 0u8..3, any::<bool>(), 0u8..12).prop_flat_map(|(kind, name, flag, turns)| {
        prop_oneof![
            6 => Just(Step::OwnUpsert(kind, name, flag)),
            3 => Just(Step::OwnStatus(kind, name)),
            4 => Just(Step::OwnDelete(kind, name)),
            3 => Just(Step::OtherPut(kind, name)),
            2 => Just(Step::OtherRemove(kind, name)),
            3 => Just(Step::Lag(kind)),
            3 => Just(Step::CatchUp(kind)),
            1 => Just(Step::HoldLists(kind)),
            1 => Just(Step::ReleaseLists(kind)),
            1 => Just(Step::Cut),
            1 => Just(Step::Compact),
            1 => Just(Step::Bookmark(kind)),
            6 => Just(Step::Run(turns)),
        ]
    });
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn snapshots_contain_own_writes_and_converge(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(steps));
    }
}

async fn play(steps: Vec<Step>) {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).watch::<Service>(Query::all()).start();
    watched.synced().await;
    let mut certain: BTreeMap<(Kind, u8), Certain> = BTreeMap::new();
    for step in &steps {
        match *step {
            Step::OwnUpsert(kind, name, held) => {
                own(&client, &server, kind, name, &mut certain, Own::Upsert(held)).await;
            }
            Step::OwnStatus(kind, name) => own(&client, &server, kind, name, &mut certain, Own::Status).await,
            Step::OwnDelete(kind, name) => own(&client, &server, kind, name, &mut certain, Own::Delete).await,
            Step::OtherPut(kind, name) => {
                server.put(kind.plural(), raw(kind.name(), "a", &format!("x{name}")));
            }
            Step::OtherRemove(kind, name) => server.remove(kind.plural(), "a", &format!("x{name}")),
            Step::Lag(kind) => server.lag(kind.plural()),
            Step::CatchUp(kind) => server.catch_up(kind.plural()),
            Step::HoldLists(kind) => server.hold_lists(kind.plural()),
            Step::ReleaseLists(kind) => server.release_lists(kind.plural()),
            Step::Cut => server.cut(),
            Step::Compact => server.compact(),
            Step::Bookmark(kind) => {
                server.bookmark(kind.plural());
            }
            Step::Run(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                    check(&watched, &server, &certain, &steps);
                }
            }
        }
        check(&watched, &server, &certain, &steps);
    }
    for kind in [Kind::ConfigMap, Kind::Service] {
        server.catch_up(kind.plural());
        server.release_lists(kind.plural());
        server.bookmark(kind.plural());
    }
    eventually(&watched, &format!("{steps:?} converges"), |watched| {
        let snapshot = watched.snapshot().unwrap();
        check(watched, &server, &certain, &steps);
        shown::<ConfigMap>(&snapshot) == server.state("configmaps")
            && shown::<Service>(&snapshot) == server.state("services")
            && watched.status().values().all(|status| status.ahead == 0)
    })
    .await;
}

enum Own {
    Upsert(bool),
    Status,
    Delete,
}

async fn own(
    client: &Client,
    server: &Server,
    kind: Kind,
    name: u8,
    certain: &mut BTreeMap<(Kind, u8), Certain>,
    own: Own,
) {
    let certain = certain.entry((kind, name)).or_default();
    // Nobody else acts while an own call is under way, so this is the uid that a deletion hits.
    let at = format!("a/x{name}");
    let stored =
        server.state(kind.plural()).into_iter().find(|(name, ..)| *name == at).map(|(_, uid, _)| uid);
    match kind {
        Kind::ConfigMap => act::<ConfigMap>(client, stored, kind, name, certain, own).await,
        Kind::Service => act::<Service>(client, stored, kind, name, certain, own).await,
    }
}

async fn act<K: Object<DynamicType = ()>>(
    client: &Client,
    stored: Option<String>,
    kind: Kind,
    name: u8,
    certain: &mut Certain,
    own: Own,
) {
    let at = key("a", &format!("x{name}"));
    let mut object: K = serde_json::from_value(raw(kind.name(), at.namespace().unwrap(), at.name())).unwrap();
    let done = match own {
        Own::Upsert(held) => {
            if held {
                object.finalizers_mut().push("example.com/hold".into());
            }
            client.upsert(&mut object).await.map(|()| Some(object))
        }
        Own::Status => match client.get_opt::<K>(&at).await {
            Ok(Some(mut object)) => client.update_status(&mut object).await.map(|()| Some(object)),
            _ => return,
        },
        Own::Delete => client.delete::<K>(&at).await.map(|deletion| match deletion {
            Deletion::Gone => None,
            Deletion::Terminating(object) => Some(*object),
        }),
    };
    match done {
        Ok(Some(object)) => {
            let uid = object.uid().unwrap();
            // The write that takes the last finalizer off an object being deleted removes it.
            if object.meta().deletion_timestamp.is_some() && object.finalizers().is_empty() {
                certain.gone.push(uid);
                certain.least = None;
            } else {
                certain.least = Some((uid, object.resource_version().unwrap().parse().unwrap()));
            }
        }
        Ok(None) => {
            certain.least = None;
            certain.gone.extend(stored);
        }
        Err(error) => assert!(error.is_not_found() || error.is_conflict(), "{error:?}"),
    }
}

fn check(watched: &Accumulator, server: &Server, certain: &BTreeMap<(Kind, u8), Certain>, steps: &[Step]) {
    let snapshot = watched.snapshot().expect("a snapshot stays");
    for ((kind, name), certain) in certain {
        let name = format!("a/x{name}");
        let all = match kind {
            Kind::ConfigMap => shown::<ConfigMap>(&snapshot),
            Kind::Service => shown::<Service>(&snapshot),
        };
        let found = all.iter().find(|(found, ..)| *found == name);
        if let Some((own, _)) = &certain.least
            && server.state(kind.plural()).iter().any(|(_, uid, _)| uid == own)
        {
            assert!(found.is_some_and(|(_, uid, _)| uid == own), "{name} is not shown as written: {steps:?}");
        }
        if let Some((_, uid, version)) = found {
            assert!(!certain.gone.contains(uid), "{name} is shown after its deletion: {steps:?}");
            if let Some((own, least)) = &certain.least
                && own == uid
            {
                assert!(
                    version.parse::<u64>().unwrap() >= *least,
                    "{name} is older than an own write: {steps:?}"
                );
            }
        }
    }
}
