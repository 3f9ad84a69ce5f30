//! Conditions: `metav1.Condition` with the strict schema that controller-gen gives it.
//!
//! The type of k8s-openapi derives a looser schema (any status, any reason), so EPIC brings its own. Setting a
//! condition is a pure function: the time is passed in, and it moves only when the status changes, so a
//! reconcile that finds nothing new writes nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reason::Reason;
use crate::rest::{Rest, keeps};
use crate::schema;

/// Valid, and its references resolve.
pub const ACCEPTED: &str = "Accepted";
/// What it asks for is in force where it has to be.
pub const PROGRAMMED: &str = "Programmed";
/// It does what it is there for.
pub const READY: &str = "Ready";
/// Endpoint: its tunnel to every EPIC node with a Ready proxy is up.
pub const TUNNEL_UP: &str = "TunnelUp";
/// Endpoint: the proxies find it healthy; absent while none ever found otherwise.
pub const HEALTHY: &str = "Healthy";
/// EPICNode: the agent took its programs, links and pins away.
pub const DETACHED: &str = "Detached";
/// LoadBalancer: its address is announced to the network.
pub const ADVERTISED: &str = "Advertised";
/// LoadBalancer: it has endpoints that can take traffic.
pub const ENDPOINTS: &str = "Endpoints";
/// EPICNode: it owns addresses and its proxies take new flows. The operator's verdict; the agents follow it.
pub const IN_SERVICE: &str = "InService";
/// AddressPool: it shares addresses with an older pool.
pub const OVERLAPS: &str = "Overlaps";
/// AddressPool: it has addresses that can be handed out.
pub const AVAILABLE: &str = "Available";
/// AddressClaim: False while nodes keep an address that its owner has lost from being free. Absent while it is bound.
pub const RELEASED: &str = "Released";
/// AddressClaim: another machine on the network answers for the address. Absent until one was seen.
pub const CONFLICT: &str = "Conflict";
/// AddressClaim: a pool holds the address. Absent until none did.
pub const IN_POOL: &str = "InPool";

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    #[default]
    Unknown,
}

impl ConditionStatus {
    /// The text in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One aspect of the current state of an object, as `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Condition {
    /// Type of the condition, in CamelCase.
    #[serde(rename = "type")]
    #[schemars(
        length(min = 1, max = 316),
        regex(
            pattern = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
        )
    )]
    pub type_: String,
    /// Whether the condition holds: True, False or Unknown.
    pub status: ConditionStatus,
    /// The metadata.generation that the condition was set from. Older than the object's: out of date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// When the status last changed from one value to another.
    #[schemars(with = "schema::Timestamp")]
    pub last_transition_time: Time,
    /// Why the condition is as it is, one of the kind's closed list, in CamelCase.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,
    /// What a person should know or do. May be empty.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

keeps!(Condition);

/// Kinds that carry conditions.
pub trait HasConditions {
    /// The conditions in the status; empty when there is no status.
    fn conditions(&self) -> &[Condition];

    /// The condition of this type.
    fn condition(&self, type_: &str) -> Option<&Condition> {
        find(self.conditions(), type_)
    }

    /// Whether the condition of this type exists and is True.
    fn is_condition_true(&self, type_: &str) -> bool {
        is_true(self.conditions(), type_)
    }
}

macro_rules! has_conditions {
    ($kind:ty) => {
        impl $crate::condition::HasConditions for $kind {
            fn conditions(&self) -> &[$crate::condition::Condition] {
                self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
            }
        }
    };
}
pub(crate) use has_conditions;

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of this type exists and is True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == ConditionStatus::True)
}

/// Sets a condition and says whether that changed anything.
///
/// # Expected flow
/// Start from the conditions of the object that was read, set every condition that this pass decided, and write
/// the status only if a call returned `true` (or something else in the status changed).
///
/// # Guarantees
/// `last_transition_time` becomes `now` only if the status changed or the condition is new. The order of existing
/// conditions stays; a new one goes to the end.
///
/// `generation` is the object's metadata.generation this was decided from. `message` is cut at 32,768 characters.
pub fn set<R: Reason>(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: impl Into<ConditionStatus>,
    reason: R,
    message: impl Into<String>,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    let mut message = message.into();
    if let Some((end, _)) = message.char_indices().nth(32_768) {
        message.truncate(end);
    }
    let mut wanted = Condition {
        type_: type_.to_owned(),
        status: status.into(),
        observed_generation: generation,
        last_transition_time: now.clone(),
        reason: reason.as_str().to_owned(),
        message,
        rest: Rest::default(),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        None => {
            conditions.push(wanted);
            true
        }
        Some(present) => {
            if present.status == wanted.status {
                wanted.last_transition_time = present.last_transition_time.clone();
            }
            wanted.rest = present.rest.clone();
            let changed = *present != wanted;
            *present = wanted;
            changed
        }
    }
}

/// Removes the condition of this type and says whether there was one.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadBalancerReason;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let mut conditions = Vec::new();
        assert!(set(
            &mut conditions,
            READY,
            false,
            LoadBalancerReason::NoReadyProxy,
            "0 of 2",
            Some(1),
            &at(1)
        ));
        assert!(set(
            &mut conditions,
            READY,
            false,
            LoadBalancerReason::NoReadyProxy,
            "1 of 2",
            Some(1),
            &at(2)
        ));
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert!(set(&mut conditions, READY, true, LoadBalancerReason::Ready, "", Some(1), &at(3)));
        assert_eq!(conditions[0].last_transition_time, at(3));
        assert!(is_true(&conditions, READY));
    }

    #[test]
    fn setting_what_is_set_changes_nothing() {
        let mut conditions = Vec::new();
        set(&mut conditions, READY, true, LoadBalancerReason::Ready, "", Some(1), &at(1));
        let before = conditions.clone();
        assert!(!set(&mut conditions, READY, true, LoadBalancerReason::Ready, "", Some(1), &at(9)));
        assert_eq!(conditions, before);
    }

    #[test]
    fn conditions_keep_their_order() {
        let mut conditions = Vec::new();
        set(&mut conditions, ACCEPTED, true, LoadBalancerReason::Accepted, "", None, &at(1));
        set(&mut conditions, READY, true, LoadBalancerReason::Ready, "", None, &at(1));
        set(&mut conditions, ACCEPTED, false, LoadBalancerReason::GroupNotFound, "", None, &at(2));
        assert_eq!(conditions.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), [ACCEPTED, READY]);
        assert!(remove(&mut conditions, ACCEPTED));
        assert!(!remove(&mut conditions, ACCEPTED));
    }

    #[test]
    fn a_message_too_long_for_the_api_is_cut() {
        let mut conditions = Vec::new();
        set(&mut conditions, READY, true, LoadBalancerReason::Ready, "ä".repeat(40_000), None, &at(1));
        assert_eq!(conditions[0].message.chars().count(), 32_768);
    }
}
