//! Claims, pools and nodes as the model sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use epic_crds::well_known::{EPIC_NAMESPACE, TENANT_NAMESPACE_PREFIX, node_lease_name};
use epic_crds::{Account, AddressClaim, AddressPool, ClaimPhase, EPICNode, EPICNodeStatus, LoadBalancer};
use epic_model::address::{self, AddressError};
use epic_model::claim::{Claim, Phase, Pool};
use epic_model::id::{AccountName, Kind, ObjectVersion, Seconds};
use epic_model::revision::NodeRevision;
use k8s_openapi::api::coordination::v1::Lease;
use kates::{Key, Snapshot};
use kube::ResourceExt;

/// A pool whose addresses do not parse; its condition says so, and it hands out nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAPool(#[from] AddressError);

/// A claim; `None` for one whose spec does not parse, which holds its name all the same.
pub fn claim(object: &AddressClaim) -> Option<Claim> {
    let owner = &object.spec.owner;
    let status = object.status.clone().unwrap_or_default();
    let phase = match status.phase {
        None => Phase::Bound,
        Some(ClaimPhase::Releasing) => Phase::Releasing {
            release_revision: status.release_revision.and_then(|revision| revision.parse().ok()),
        },
    };
    Some(Claim {
        name: object.name_any().into(),
        uid: object.uid()?.into(),
        resource_version: object.resource_version()?.into(),
        address: address::parse(&object.spec.address).ok()?,
        pool: object.spec.pool.as_str().into(),
        owner: ObjectVersion {
            kind: owner.kind.parse().unwrap_or(Kind::LoadBalancer),
            namespace: owner.namespace.as_str().into(),
            name: owner.name.as_str().into(),
            uid: owner.uid.as_str().into(),
            resource_version: owner.resource_version.as_str().into(),
        },
        phase,
        waiting_for: status.waiting_for.iter().map(|node| node.as_str().into()).collect(),
    })
}

/// The claims of a snapshot.
pub fn claims(snapshot: &Snapshot) -> Vec<Claim> {
    snapshot.list::<AddressClaim>().filter_map(|object| claim(object)).collect()
}

/// A pool, for the Accounts that it names. Those that it selects by their labels are known to [`pools`] alone.
///
/// # Errors
/// [`NotAPool`] with what is wrong with its addresses.
pub fn pool(object: &AddressPool) -> Result<Pool, NotAPool> {
    let mut pool = Pool::parse(object.name_any(), object.spec.addresses.iter().map(String::as_str))?;
    pool.created = Seconds(object.creation_timestamp().map_or(0, |time| time.0.as_second()));
    let spec = &object.spec;
    let is_open = spec.accounts.is_none() && spec.account_selector.is_none();
    // A name that is none admits nobody: better too few than too many.
    pool.accounts = (!is_open).then(|| {
        let named = spec.accounts.iter().flatten();
        named.filter_map(|name| AccountName::parse(name).ok()).collect::<BTreeSet<_>>()
    });
    pool.disabled = spec.disabled.unwrap_or(false);
    pool.auto_assign = spec.auto_assign.unwrap_or(true);
    Ok(pool)
}

/// The pools of a snapshot, as they are written. What they may give says [`crate::address_pool::judged`].
pub fn pools(snapshot: &Snapshot) -> Vec<Pool> {
    let alive = |pool: &&std::sync::Arc<AddressPool>| pool.metadata.deletion_timestamp.is_none();
    let objects: Vec<_> = snapshot.list::<AddressPool>().filter(alive).collect();
    let selects = objects.iter().any(|pool| pool.spec.account_selector.is_some());
    let accounts =
        if selects { labels(snapshot.list::<Account>().map(AsRef::as_ref)) } else { BTreeMap::new() };
    objects.into_iter().filter_map(|object| Some(selecting(pool(object).ok()?, object, &accounts))).collect()
}

/// Labels of Accounts by name. Of two of one name the one in `epic` counts.
fn labels<'a>(accounts: impl Iterator<Item = &'a Account>) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for account in accounts {
        let (name, namespace) = (account.name_any(), account.namespace().unwrap_or_default());
        let labels = || account.metadata.labels.clone().unwrap_or_default();
        if namespace == EPIC_NAMESPACE {
            found.insert(name, labels());
        } else if namespace.strip_prefix(TENANT_NAMESPACE_PREFIX) == Some(&name) {
            found.entry(name).or_insert_with(labels);
        }
    }
    found
}

/// The pool, also for the Accounts that its object selects.
fn selecting(
    mut pool: Pool,
    object: &AddressPool,
    accounts: &BTreeMap<String, BTreeMap<String, String>>,
) -> Pool {
    if let (Some(selector), Some(admitted)) = (&object.spec.account_selector, &mut pool.accounts) {
        let selected = accounts.iter().filter(|(_, labels)| selector.selects(labels));
        admitted.extend(selected.filter_map(|(name, _)| AccountName::parse(name).ok()));
    }
    pool
}

/// A LoadBalancer at the version that was read.
pub fn balancer_version(balancer: &LoadBalancer) -> Option<ObjectVersion> {
    Some(ObjectVersion {
        kind: Kind::LoadBalancer,
        namespace: balancer.namespace()?.into(),
        name: balancer.name_any().into(),
        uid: balancer.uid()?.into(),
        resource_version: balancer.resource_version()?.into(),
    })
}

/// The addresses that a LoadBalancer's status shows.
pub fn shown(balancer: &LoadBalancer) -> BTreeSet<IpAddr> {
    let status = balancer.status.iter();
    let addresses = status.flat_map(|status| status.public_address.iter().chain(&status.alt_address));
    addresses.filter_map(|text| address::parse(text).ok()).collect()
}

/// Whose entries in the maps a question is about.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// Those of one LoadBalancer, there or deleted.
    Balancer {
        /// Its namespace.
        namespace: &'a str,
        /// Its uid.
        uid: &'a str,
    },
    /// Those of all LoadBalancers of a namespace; `None`: of every one.
    Namespace(Option<&'a str>),
}

impl Of<'_> {
    fn is_behind(self, status: &EPICNodeStatus) -> bool {
        match self {
            Of::Balancer { namespace, uid } => status.behind(namespace, uid).is_some(),
            Of::Namespace(namespace) => status.is_behind_in(namespace),
        }
    }
}

/// How far every EPICNode has come, dead ones included. One whose maps do not hold these LoadBalancers as they should says
/// nothing about them, whatever revision it has reached for the others.
pub fn node_revisions(snapshot: &Snapshot, now: Seconds, of: Of<'_>) -> Vec<NodeRevision> {
    let live = live_nodes(snapshot, now);
    let reached = |status: &EPICNodeStatus| status.load_balancers_revision.as_deref()?.parse().ok();
    snapshot
        .list::<EPICNode>()
        .map(|node| {
            let status = node.status.as_ref().filter(|status| !of.is_behind(status));
            NodeRevision {
                node: node.name_any().into(),
                revision: status.and_then(reached),
                live: live.contains(&node.name_any()),
            }
        })
        .collect()
}

/// Names of the EPIC nodes whose agents renewed their Lease lately.
pub fn live_nodes(snapshot: &Snapshot, now: Seconds) -> BTreeSet<String> {
    snapshot
        .list::<EPICNode>()
        .filter(|node| {
            let key =
                Key::namespaced(node.namespace().unwrap_or_default(), node_lease_name(&node.name_any()));
            snapshot.get::<Lease>(&key).is_some_and(|lease| is_fresh(lease, now))
        })
        .map(|node| node.name_any())
        .collect()
}

/// Whether a Lease was renewed within its duration. A holder whose clock is ahead of ours counts as fresh.
fn is_fresh(lease: &Lease, now: Seconds) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let duration = i64::from(spec.lease_duration_seconds.unwrap_or(40));
    spec.renew_time.as_ref().is_some_and(|time| now.since(Seconds(time.0.as_second())) <= duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn object<K: DeserializeOwned>(kind: &str, spec: Value, status: Value) -> K {
        let meta = json!({"name": "192.0.2.1", "namespace": "epic", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:10Z"});
        let version = "epic.acnodal.io/v1";
        serde_json::from_value(
            json!({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn claim_of(address: &str, status: Value) -> AddressClaim {
        let owner = json!({"kind": "LoadBalancer", "namespace": "epic-red", "name": "web", "uid": "w",
            "resource-version": "3"});
        object("AddressClaim", json!({"address": address, "pool": "default", "owner": owner}), status)
    }

    #[test]
    fn a_claim_is_bound_until_its_status_says_otherwise() {
        let bound = claim(&claim_of("192.0.2.1", json!(null))).unwrap();
        assert_eq!((bound.phase, bound.owner.uid.as_str()), (Phase::Bound, "w"));
        assert_eq!(bound.owner.resource_version.as_str(), "3");
        let releasing = json!({"phase": "Releasing", "release-revision": "40"});
        let releasing = claim(&claim_of("192.0.2.1", releasing)).unwrap().phase;
        assert_eq!(releasing, Phase::Releasing { release_revision: "40".parse().ok() });
        let marked_by_hand = claim(&claim_of("192.0.2.1", json!({"phase": "Releasing"}))).unwrap().phase;
        assert_eq!(marked_by_hand, Phase::Releasing { release_revision: None });
    }

    #[test]
    fn a_claim_of_what_is_no_address_or_that_was_never_read_is_none() {
        assert!(claim(&claim_of("nonsense", json!(null))).is_none());
        let mut unread = claim_of("192.0.2.1", json!(null));
        unread.metadata.resource_version = None;
        assert!(claim(&unread).is_none());
    }

    #[test]
    fn a_pool_names_its_accounts_and_one_that_cannot_be_a_name_admits_nobody() {
        let spec = json!({"addresses": ["192.0.2.0/29"], "accounts": ["red", "No Name"], "disabled": true});
        let read = pool(&object("AddressPool", spec, json!(null))).unwrap();
        assert_eq!((read.created, read.disabled), (Seconds(1_767_225_610), true));
        assert_eq!(read.accounts, Some([AccountName::parse("red").unwrap()].into()));
        let open = pool(&object("AddressPool", json!({"addresses": ["192.0.2.0/29"]}), json!(null))).unwrap();
        assert_eq!((open.accounts, open.disabled), (None, false));
        assert!(
            pool(&object("AddressPool", json!({"addresses": ["192.0.2.9-192.0.2.1"]}), json!(null))).is_err()
        );
    }

    #[test]
    fn a_pool_admits_the_accounts_whose_labels_it_selects() {
        let account = |namespace: &str, name: &str, tier: &str| -> Account {
            serde_json::from_value(json!({"apiVersion": "epic.acnodal.io/v1", "kind": "Account", "spec": {},
                "metadata": {"name": name, "namespace": namespace, "labels": {"tier": tier}}}))
            .unwrap()
        };
        let accounts = [
            account("epic-red", "red", "silver"),
            account("epic", "red", "gold"),
            account("epic-blue", "blue", "silver"),
            account("epic-blue", "not-its-namespace", "gold"),
        ];
        let selector = json!({"matchLabels": {"tier": "gold"}});
        let spec = json!({"addresses": ["192.0.2.7"], "account-selector": selector, "accounts": ["green"]});
        let object: AddressPool = object("AddressPool", spec, json!(null));
        let read = selecting(pool(&object).unwrap(), &object, &labels(accounts.iter()));
        let admitted: Vec<String> =
            read.accounts.iter().flatten().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(admitted, ["green", "red"]);
    }

    #[test]
    fn a_load_balancer_shows_the_addresses_of_its_status_and_not_that_of_its_spec() {
        let spec =
            json!({"public-ports": [{"port": 80}], "service-group": "g", "public-address": "192.0.2.9"});
        let status = json!({"public-address": "192.0.2.1", "alt-address": "2001:db8::1"});
        let read = shown(&object("LoadBalancer", spec, status));
        let expected = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(read, BTreeSet::from(expected));
    }

    #[test]
    fn a_lease_is_fresh_for_its_duration_and_ahead_of_our_clock() {
        let renewed = Seconds(1_767_225_600);
        let lease: Lease = serde_json::from_value(json!({
            "metadata": {}, "spec": {"leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
        }))
        .unwrap();
        for (seconds, fresh) in [(-5, true), (40, true), (41, false)] {
            assert_eq!(is_fresh(&lease, Seconds(renewed.0 + seconds)), fresh, "{seconds}");
        }
        assert!(!is_fresh(&Lease::default(), renewed));
    }
}
