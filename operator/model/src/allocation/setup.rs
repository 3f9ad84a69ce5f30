//! What is explored of the protocol for IDs, and which of its rules hold. Tests only.

use super::Counter;
use super::plan::Rules;

/// What is explored, and which rules hold.
#[derive(Clone)]
pub(super) struct Setup {
    pub children: usize,
    pub values: u8,
    /// What children may ask for; 0 is no request.
    pub requests: &'static [u8],
    pub edits: bool,
    pub touches: bool,
    /// Values with a subkey, that are freed while their owner lives.
    pub keyed: bool,
    pub parent_life: bool,
    pub forced_finalizer: bool,
    /// A second parent for the same children may come, and is the one that counts from then on.
    pub namesakes: bool,
    pub late_write: bool,
    pub rules: Rules,
    pub list_after_get: bool,
    pub fresh_list: bool,
    pub parent_by_version: bool,
    pub child_by_version: bool,
    pub finalizer_off_by_version: bool,
    /// Whether its parent counts is asked after the children were listed.
    pub asked: Asked,
    /// Check that everything comes to a good end.
    pub ends: bool,
}

/// When an operator asks whether another parent has taken the place of the one that it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Never: it believes a cache.
    Never,
    /// When it reads the parent.
    WithTheParent,
    /// When it has listed the children.
    AfterTheList,
}

impl Setup {
    pub(super) const FINAL: Setup = Setup {
        children: 2,
        values: 2,
        requests: &[0],
        edits: false,
        touches: false,
        keyed: false,
        parent_life: false,
        forced_finalizer: false,
        namesakes: false,
        late_write: false,
        rules: Rules::ALL,
        list_after_get: true,
        fresh_list: true,
        parent_by_version: true,
        child_by_version: true,
        finalizer_off_by_version: true,
        asked: Asked::AfterTheList,
        ends: true,
    };

    /// The counter whose values are handed out.
    pub(super) fn counter(&self) -> Counter {
        if self.keyed { Counter::Proxy } else { Counter::Service }
    }

    /// Whether no rule of the plan is left out.
    pub(super) fn follows_all_rules(&self) -> bool {
        let Rules { reserve, adopt, tag, flush, finish, fence, finalizer, keep_live, refuse_when_deleting } =
            self.rules;
        let plan = [reserve, adopt, tag, flush, finish, fence, finalizer, keep_live, refuse_when_deleting];
        plan.iter().all(|rule| *rule)
    }
}
