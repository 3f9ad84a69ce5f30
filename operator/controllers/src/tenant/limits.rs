//! What a tenant may have: a ResourceQuota that bounds how many objects it can create at all, and a ConfigMap in which it
//! reads its limits, what it uses of them, and what it may name.
//!
//! What is beyond a limit is refused by a condition, object by object, which is dear: each object is looked at. The quota
//! stands before that. It leaves room for replacing objects, so it is met only by who goes on against refusals.

use std::collections::BTreeMap;

use epic_crds::well_known::{CONFIG_MAP_LIMITS, GROUP, QUOTA_LIMITS};
use epic_crds::{Account, AccountUsage};
use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};

use super::metadata;
use super::namespace::Tenant;
use crate::account::{endpoint_limit, load_balancer_limit};

/// A group that a tenant may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Pools that addresses come from, in this order.
    pub pools: Vec<String>,
    /// Proxies of each LoadBalancer.
    pub replicas: i64,
}

/// What a tenant may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// How many groups of its own it has.
    pub own_groups: usize,
    /// Groups by name.
    pub groups: BTreeMap<String, Offered>,
    /// Networks and ranges of pools, by name.
    pub pools: BTreeMap<String, Vec<String>>,
}

/// How many objects may exist where this many count.
fn with_room(limit: u64) -> u64 {
    limit + limit / 10 + 10
}

fn group_limit(account: &Account) -> u64 {
    u64::try_from(account.spec.service_group_limit()).unwrap_or(0)
}

/// The most objects of each kind, as the quota names them.
fn hard(account: &Account) -> BTreeMap<String, String> {
    [
        ("loadbalancers", load_balancer_limit(account)),
        ("endpoints", endpoint_limit(account)),
        ("servicegroups", group_limit(account)),
    ]
    .into_iter()
    .map(|(kind, limit)| (format!("count/{kind}.{GROUP}"), with_room(limit).to_string()))
    .collect()
}

/// The ResourceQuota.
pub fn quota(tenant: &Tenant, account: &Account) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": metadata(&tenant.account, &tenant.namespace, QUOTA_LIMITS),
        "spec": {"hard": hard(account)},
    })
}

/// Whether the quota acts as it should: the API server refuses by what is counted, not by what is written.
pub fn is_counted(live: &ResourceQuota, account: &Account) -> bool {
    let Some(status) = &live.status else { return false };
    let (Some(counted), Some(used)) = (&status.hard, &status.used) else { return false };
    hard(account).iter().all(|(kind, most)| {
        counted.get(kind).is_some_and(|known| known.0 == *most) && used.contains_key(kind)
    })
}

/// The ConfigMap. `usage` is what the Account's status says.
pub fn limits_config(tenant: &Tenant, account: &Account, usage: &AccountUsage, offer: &Offer) -> Value {
    let of = |used: i64, limit: u64| format!("{used} of {limit}");
    let lines = |lines: Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let groups = offer.groups.iter().map(|(name, group)| {
        format!("{name}: {} proxies, addresses of {}", group.replicas, group.pools.join(", "))
    });
    let pools = offer.pools.iter().map(|(name, addresses)| format!("{name}: {}", addresses.join(", ")));
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(&tenant.account, &tenant.namespace, CONFIG_MAP_LIMITS),
        "data": {
            "load-balancers": of(usage.load_balancers, load_balancer_limit(account)),
            "endpoints": of(usage.endpoints, endpoint_limit(account)),
            "proxies": of(usage.proxies, u64::try_from(account.spec.proxy_limit()).unwrap_or(0)),
            "own-service-groups": of(i64::try_from(offer.own_groups).unwrap_or(i64::MAX), group_limit(account)),
            "service-groups": lines(groups.collect()),
            "address-pools": lines(pools.collect()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_crds::AccountSpec;

    fn account(load_balancers: i64) -> Account {
        let spec = AccountSpec { load_balancer_limit: Some(load_balancers), ..AccountSpec::default() };
        Account::new("red", spec)
    }

    fn tenant() -> Tenant {
        Tenant {
            account: "red".into(),
            namespace: "epic-red".into(),
            created: None,
            subjects: Vec::new(),
            system: "epic".into(),
        }
    }

    fn live(account: &Account, counted: bool) -> ResourceQuota {
        let mut quota = quota(&tenant(), account);
        if counted {
            let used: BTreeMap<String, String> =
                hard(account).into_keys().map(|kind| (kind, "0".to_owned())).collect();
            quota["status"] = json!({"hard": hard(account), "used": used});
        }
        serde_json::from_value(quota).unwrap()
    }

    #[test]
    fn the_quota_leaves_a_tenth_and_ten_to_replace_objects_with() {
        let hard = hard(&account(100));
        assert_eq!(hard["count/loadbalancers.epic.acnodal.io"], "120");
        assert_eq!(hard["count/endpoints.epic.acnodal.io"], "5510");
        assert_eq!(hard["count/servicegroups.epic.acnodal.io"], "32");
    }

    #[test]
    fn a_quota_acts_when_what_is_counted_is_what_is_written() {
        let (small, large) = (account(100), account(200));
        assert!(!is_counted(&live(&small, false), &small));
        assert!(is_counted(&live(&small, true), &small));
        assert!(!is_counted(&live(&small, true), &large), "the limit was raised");
        let mut uncounted = live(&small, true);
        uncounted.status.as_mut().unwrap().used.as_mut().unwrap().remove("count/endpoints.epic.acnodal.io");
        assert!(!is_counted(&uncounted, &small), "the kind is not known to the controller yet");
    }

    #[test]
    fn a_tenant_reads_its_limits_and_what_it_may_name() {
        let offer = Offer {
            own_groups: 1,
            groups: [("gold".to_owned(), Offered { pools: vec!["a".into(), "b".into()], replicas: 2 })]
                .into(),
            pools: [("a".to_owned(), vec!["192.0.2.0/29".to_owned()])].into(),
        };
        let usage = AccountUsage { load_balancers: 3, ..AccountUsage::default() };
        let data = limits_config(&tenant(), &account(100), &usage, &offer)["data"].clone();
        assert_eq!(data["load-balancers"], "3 of 100");
        assert_eq!(data["proxies"], "0 of 250");
        assert_eq!(data["own-service-groups"], "1 of 20");
        assert_eq!(data["service-groups"], "gold: 2 proxies, addresses of a, b\n");
        assert_eq!(data["address-pools"], "a: 192.0.2.0/29\n");
    }
}
