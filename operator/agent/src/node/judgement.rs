//! What the conditions `Ready` and `Detached` of an EPICNode say, made of what an agent found. Pure.

use epic_crds::EPICNodeReason;

use super::interfaces;

/// A condition before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: EPICNodeReason,
    /// For people.
    pub message: String,
}

impl Judgement {
    /// A condition of these parts.
    pub fn new(status: bool, reason: EPICNodeReason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }

    /// The machine was started, and nothing is programmed yet.
    pub(super) fn starting() -> Self {
        Self::new(false, EPICNodeReason::Starting, "the agent has not finished its first full pass")
    }

    /// There is nothing to do for an EPIC that is not there.
    pub(super) fn without_epic(why: &str) -> Self {
        Self::new(false, EPICNodeReason::Starting, why)
    }

    /// Without the master key there are no keys of tunnels.
    pub(super) fn without_key(why: &str) -> Self {
        Self::new(false, EPICNodeReason::KeysUnavailable, why)
    }

    /// The interfaces are not known.
    pub(super) fn without_interfaces(error: &interfaces::Error) -> Self {
        Self::new(false, error.reason(), error.to_string())
    }

    /// Programs and maps cannot be had.
    pub(super) fn without_datapath(error: &epic_datapath::Error) -> Self {
        use epic_datapath::Error as E;
        let reason = match error {
            E::Kernel(_) => EPICNodeReason::KernelNotSupported,
            E::Layout { .. } | E::Foreign { .. } | E::Shape { .. } => EPICNodeReason::LayoutNotSupported,
            _ => EPICNodeReason::ProgramsNotAttached,
        };
        Self::new(false, reason, error.to_string())
    }

    /// What the maps hold is in force, unless its interfaces are down, programs could not be attached, or maps not be
    /// written. `None` while nothing new can be said: rows are on their way.
    pub(super) fn of_maps(
        down: Option<String>,
        refused_attachment: Option<&str>,
        errors: &[String],
        complete: bool,
    ) -> Option<Self> {
        if let Some(why) = down {
            return Some(Self::new(false, EPICNodeReason::InterfaceDown, why));
        }
        if let Some(why) = refused_attachment {
            return Some(Self::new(false, EPICNodeReason::ProgramsNotAttached, why));
        }
        if !errors.is_empty() {
            let full = errors.iter().any(|error| error.contains("the map is full"));
            let reason = if full { EPICNodeReason::MapFull } else { EPICNodeReason::MapsNotProgrammed };
            return Some(Self::new(false, reason, errors.join("; ")));
        }
        complete.then(|| Self::new(true, EPICNodeReason::Ready, ""))
    }
}
