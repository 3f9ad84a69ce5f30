//! Accounts: which of two namesakes counts, whether a namespace may be taken, and what fits into the limits.

use std::collections::BTreeSet;
use std::fmt;

use crate::id::{AccountName, AccountNameError, Namespace, ObjectName, Seconds, Uid};
use crate::name::SYSTEM_NAMESPACE;

/// An Account object, wherever it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ObjectName,
    /// Its uid.
    pub uid: Uid,
}

/// Why an Account is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its name is no account name.
    #[error(transparent)]
    Name(#[from] AccountNameError),
    /// It lies in a namespace that is neither `epic` nor its own.
    #[error("account {name} lies in namespace {namespace}; an account lies in epic or in epic-{name}")]
    Misplaced {
        /// Its name.
        name: ObjectName,
        /// Where it lies.
        namespace: Namespace,
    },
    /// The same account exists in `epic`, which wins.
    #[error("account {0} exists in namespace epic, too, and that one counts; delete this one")]
    Namesake(ObjectName),
}

/// Decides whether an Account counts, among all that exist: X in `epic`, or X in `epic-X`; if both exist the one in
/// `epic` wins (api.md).
///
/// # Errors
/// [`Refusal`] if it does not.
pub fn resolve(account: &Account, all: &[Account]) -> Result<AccountName, Refusal> {
    let name = AccountName::parse(account.name.as_str())?;
    if account.namespace.as_str() == SYSTEM_NAMESPACE {
        return Ok(name);
    }
    if account.namespace != *name.namespace().as_namespace() {
        return Err(Refusal::Misplaced { name: account.name.clone(), namespace: account.namespace.clone() });
    }
    let is_namesake =
        |other: &Account| other.namespace.as_str() == SYSTEM_NAMESPACE && other.name == account.name;
    if all.iter().any(is_namesake) {
        return Err(Refusal::Namesake(account.name.clone()));
    }
    Ok(name)
}

/// What is seen of a tenant namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSeen {
    /// The value of its label `epic.acnodal.io/account`.
    pub account_label: Option<String>,
    /// Whether it is known to be this account's whatever its label says: it was created for the account, or taken
    /// before. Labels are anybody's, and get lost.
    pub ours: bool,
    /// Whether it has a deletionTimestamp.
    pub terminating: bool,
    /// Workloads, Secrets and RoleBindings in it that are not EPIC's and not Kubernetes' own, as `Kind name`.
    pub foreign: Vec<String>,
}

/// What to do about a tenant namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceStep {
    /// It does not exist: create it with the label, and remember that we did.
    Create,
    /// It is this account's. Its label is put back if it got lost.
    Ready,
    /// It exists and holds nothing of others: label it. It is not deleted with the account.
    Adopt,
    /// It is on its way out: wait until it is gone.
    Wait,
    /// It belongs to somebody else.
    Refuse(NamespaceRefusal),
}

/// Why a namespace is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceRefusal {
    /// It is labelled for another account.
    #[error("the namespace is labelled for account {0:?}")]
    OtherAccount(String),
    /// It holds objects of others. A tenant would get rights over them.
    #[error(
        "the namespace holds objects of others ({}); remove them and wait a few minutes, or label it epic.acnodal.io/account=<account> to have it adopted",
        listed(.0)
    )]
    InUse(Vec<String>),
}

fn listed(objects: &[String]) -> String {
    let shown = objects.iter().take(3).cloned().collect::<Vec<String>>().join(", ");
    if objects.len() > 3 { format!("{shown} and {} more", objects.len() - 3) } else { shown }
}

/// Decides about the tenant namespace of an account; `None` if it does not exist.
pub fn namespace_step(account: &AccountName, seen: Option<&NamespaceSeen>) -> NamespaceStep {
    let Some(seen) = seen else { return NamespaceStep::Create };
    if seen.terminating {
        return NamespaceStep::Wait;
    }
    if seen.ours {
        return NamespaceStep::Ready;
    }
    match &seen.account_label {
        Some(label) if label == account.as_str() => NamespaceStep::Ready,
        Some(label) => NamespaceStep::Refuse(NamespaceRefusal::OtherAccount(label.clone())),
        None if seen.foreign.is_empty() => NamespaceStep::Adopt,
        None => NamespaceStep::Refuse(NamespaceRefusal::InUse(seen.foreign.clone())),
    }
}

/// What an account's limits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// `proxy-limit`: the proxies that are there or are to be, draining ones included.
    Proxies,
    /// `load-balancer-limit`.
    LoadBalancers,
    /// `endpoint-limit`.
    Endpoints,
}

impl Limit {
    /// The limit when the Account names none (api.md).
    pub const fn default_value(self) -> u64 {
        match self {
            Limit::Proxies => 250,
            Limit::LoadBalancers => 100,
            Limit::Endpoints => 5_000,
        }
    }

    /// The field of the Account's spec.
    pub const fn field(self) -> &'static str {
        match self {
            Limit::Proxies => "proxy-limit",
            Limit::LoadBalancers => "load-balancer-limit",
            Limit::Endpoints => "endpoint-limit",
        }
    }
}

/// Something that counts against a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Its uid.
    pub uid: Uid,
    /// When it was created.
    pub created: Seconds,
    /// How much it counts.
    pub amount: u64,
}

/// How far a limit is used, and who does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What those that fit amount to.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// Those that do not fit.
    pub refused: BTreeSet<Uid>,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.used, self.limit)
    }
}

/// Fits objects into a limit, oldest first; one that does not fit is refused and does not block smaller ones. So a
/// new object never takes the place of an old one, and every operator decides the same.
pub fn fit(objects: &[Counted], limit: u64) -> Usage {
    let mut by_age: Vec<&Counted> = objects.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
    let mut usage = Usage { limit, ..Usage::default() };
    for object in by_age {
        match usage.used.checked_add(object.amount).filter(|used| *used <= limit) {
            Some(used) => usage.used = used,
            None => {
                usage.refused.insert(object.uid.clone());
            }
        }
    }
    usage
}

/// A LoadBalancer as far as `proxy-limit` is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// Its uid.
    pub uid: Uid,
    /// Whether it is served already.
    pub served: bool,
    /// When it was created.
    pub created: Seconds,
    /// Replicas that it asks for.
    pub wanted: u64,
    /// Replicas that its Deployment has.
    pub granted: u64,
    /// Its pods that live and are not on their way out, the surge of a rolling update included.
    pub running: u64,
}

impl Proxied {
    fn holds(&self) -> u64 {
        self.granted.max(self.running)
    }
}

/// Fits proxies into `proxy-limit`. All that is there counts first, and `draining` pods as well: they take room on
/// nodes until they are gone. Only LoadBalancers that ask for more than their Deployment has compete for what is left,
/// those that are served first, then the oldest. One that does not grow is never refused, however full it is.
///
/// Of one that grows, pods beyond its Deployment count beside what it asks for: it was made smaller, and they are about
/// to drain.
pub fn fit_proxies(balancers: &[Proxied], draining: u64, limit: u64) -> Usage {
    let used = balancers.iter().map(Proxied::holds).fold(draining, u64::saturating_add);
    let mut usage = Usage { used, limit, refused: BTreeSet::new() };
    let mut growing: Vec<(u64, &Proxied)> = balancers
        .iter()
        .filter_map(|balancer| Some((balancer.wanted.checked_sub(balancer.granted)?, balancer)))
        .filter(|(more, _)| *more > 0)
        .collect();
    growing.sort_by_key(|(_, balancer)| (!balancer.served, balancer.created, &balancer.uid));
    for (more, balancer) in growing {
        match usage.used.checked_add(more).filter(|used| *used <= limit) {
            Some(used) => usage.used = used,
            None => {
                usage.refused.insert(balancer.uid.clone());
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: &str) -> Account {
        Account { namespace: namespace.into(), name: name.into(), uid: format!("{namespace}/{name}").into() }
    }

    #[test]
    fn an_account_in_epic_wins_over_its_namesake() {
        let (system, own) = (account("epic", "sample"), account("epic-sample", "sample"));
        let both = [own.clone(), system.clone()];
        assert!(resolve(&system, &both).is_ok());
        assert_eq!(resolve(&own, &both), Err(Refusal::Namesake("sample".into())));
        assert_eq!(resolve(&own, std::slice::from_ref(&own)).unwrap().as_str(), "sample");
    }

    #[test]
    fn an_account_elsewhere_is_misplaced() {
        let stray = account("epic-other", "sample");
        assert_eq!(
            resolve(&stray, &[]).unwrap_err().to_string(),
            "account sample lies in namespace epic-other; an account lies in epic or in epic-sample"
        );
        assert!(matches!(resolve(&account("epic", "a.b"), &[]), Err(Refusal::Name(_))));
    }

    #[test]
    fn a_namespace_is_adopted_only_if_it_holds_nothing_of_others() {
        let sample = AccountName::parse("sample").unwrap();
        let step = |seen: NamespaceSeen| namespace_step(&sample, Some(&seen));
        let empty = NamespaceSeen::default();
        assert_eq!(namespace_step(&sample, None), NamespaceStep::Create);
        assert_eq!(step(empty.clone()), NamespaceStep::Adopt);
        let foreign: Vec<String> = (1..=5).map(|number| format!("Secret s{number}")).collect();
        let NamespaceStep::Refuse(refusal) =
            step(NamespaceSeen { foreign: foreign.clone(), ..empty.clone() })
        else {
            panic!("a namespace in use was taken")
        };
        assert!(refusal.to_string().contains("(Secret s1, Secret s2, Secret s3 and 2 more)"), "{refusal}");
        let labelled = |label: &str| NamespaceSeen {
            account_label: Some(label.into()),
            foreign: foreign.clone(),
            ..NamespaceSeen::default()
        };
        assert_eq!(step(labelled("sample")), NamespaceStep::Ready);
        assert!(matches!(step(labelled("other")), NamespaceStep::Refuse(_)));
        assert_eq!(step(NamespaceSeen { terminating: true, ..labelled("sample") }), NamespaceStep::Wait);
    }

    #[test]
    fn a_namespace_that_was_taken_stays_the_accounts_though_its_label_is_lost_or_wrong() {
        let sample = AccountName::parse("sample").unwrap();
        for account_label in [None, Some("other".to_owned())] {
            // What others have put into it since changes nothing.
            let foreign = vec!["Secret theirs".to_owned()];
            let seen = NamespaceSeen { account_label, ours: true, foreign, terminating: false };
            assert_eq!(namespace_step(&sample, Some(&seen)), NamespaceStep::Ready);
            let going = NamespaceSeen { terminating: true, ..seen };
            assert_eq!(namespace_step(&sample, Some(&going)), NamespaceStep::Wait);
        }
    }

    #[test]
    fn limits_are_filled_oldest_first() {
        let counted =
            |uid: &str, created, amount| Counted { uid: uid.into(), created: Seconds(created), amount };
        let usage = fit(&[counted("new", 3, 1), counted("big", 2, 5), counted("old", 1, 2)], 3);
        assert_eq!(usage.refused, ["big".into()].into());
        assert_eq!(usage.to_string(), "3 of 3");
    }

    /// A LoadBalancer that is served with as many pods as its Deployment has.
    fn proxied(uid: &str, wanted: u64, granted: u64) -> Proxied {
        let (uid, created) = (uid.into(), Seconds(0));
        Proxied { uid, served: true, created, wanted, granted, running: granted }
    }

    #[test]
    fn what_runs_goes_before_what_grows_whatever_its_uid() {
        let usage = fit_proxies(&[proxied("a", 20, 1), proxied("b", 19, 19)], 0, 20);
        assert_eq!((usage.refused, usage.used), (["a".into()].into(), 20));
    }

    #[test]
    fn draining_pods_take_room_until_they_are_gone() {
        let again = |draining| fit_proxies(&[proxied("a", 20, 1)], draining, 20);
        assert_eq!(again(19).refused, ["a".into()].into());
        assert_eq!(again(19).to_string(), "20 of 20");
        assert_eq!(again(1).refused, ["a".into()].into(), "one is one too many");
        assert!(again(0).refused.is_empty());
        // The Deployment is small already, its pods are not told yet.
        let told_soon = Proxied { running: 20, ..proxied("a", 20, 1) };
        assert_eq!(fit_proxies(&[told_soon], 0, 20).refused, ["a".into()].into());
        // Those of a LoadBalancer that is gone are there as well.
        let fresh = Proxied { served: false, ..proxied("b", 1, 0) };
        assert_eq!(fit_proxies(&[fresh], 20, 20).refused, ["b".into()].into());
    }

    #[test]
    fn what_does_not_grow_is_never_refused() {
        let surge = Proxied { running: 21, ..proxied("a", 20, 20) };
        for limit in [0, 1, 20] {
            let rolling = fit_proxies(std::slice::from_ref(&surge), 20, limit);
            assert!(rolling.refused.is_empty(), "a rolling update at limit {limit}");
            assert_eq!(rolling.used, 41, "and says what there is");
            let shrinking = fit_proxies(&[proxied("a", 1, 20), proxied("b", 0, 3)], 7, limit);
            assert!(shrinking.refused.is_empty(), "a shrink at limit {limit}");
            assert_eq!(shrinking.used, 30, "what is to go is there until it is gone");
        }
    }

    #[test]
    fn growth_goes_to_the_served_then_to_the_oldest_and_one_too_big_blocks_no_smaller_one() {
        let aged = |uid: &str, created, served, wanted| Proxied {
            created: Seconds(created),
            served,
            ..proxied(uid, wanted, 0)
        };
        let all = [aged("c", 1, false, 2), aged("b", 3, true, 2), aged("a", 4, true, 2)];
        assert_eq!(fit_proxies(&all, 0, 4).refused, ["c".into()].into());
        assert_eq!(fit_proxies(&all, 0, 2).refused, ["a".into(), "c".into()].into());
        let all = [aged("big", 1, true, 9), aged("small", 2, true, 2)];
        assert_eq!(fit_proxies(&all, 0, 4).refused, ["big".into()].into());
        assert_eq!(fit_proxies(&[aged("huge", 1, true, u64::MAX)], 1, u64::MAX).refused.len(), 1);
    }
}
