//! Which layout in which size: what two sets of maps must have in common to be one.
//!
//! The name of a layout's directory holds the number of the layout and eight digits of a digest over every map's kind, key,
//! value and number of entries. Whoever opens with another layout or other sizes finds another name, and maps are made
//! beside those that serve; nothing is ever adopted that does not fit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use epic_abi::maps::{Home, MAPS, MapSpec};
use sha2::{Digest as _, Sha256};

use crate::maps::kind_number;

/// A layout with its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    layout: u32,
    entries: BTreeMap<&'static str, u32>,
}

impl Identity {
    /// Of layout `layout` with so many entries in each map.
    pub(crate) fn new(layout: u32, entries: impl Fn(&MapSpec) -> u32) -> Self {
        Self { layout, entries: MAPS.iter().map(|spec| (spec.name, entries(spec))).collect() }
    }

    pub(crate) fn layout(&self) -> u32 {
        self.layout
    }

    pub(crate) fn entries(&self, spec: &MapSpec) -> u32 {
        self.entries.get(spec.name).copied().unwrap_or(spec.max_entries)
    }

    /// Name of the directory.
    pub(crate) fn name(&self) -> String {
        let mut text = String::new();
        for spec in MAPS {
            let (kind, entries) = (kind_number(spec.kind), self.entries(spec));
            let _ = writeln!(text, "{} {kind} {} {} {entries}", spec.name, spec.key_size, spec.value_size);
        }
        let digest = Sha256::digest(text);
        let [a, b, c, d] = [digest[0], digest[1], digest[2], digest[3]];
        format!("l{}-{a:02x}{b:02x}{c:02x}{d:02x}", self.layout)
    }

    /// The maps of what is learned, with the names that layouts share them by.
    pub(crate) fn learned(&self) -> impl Iterator<Item = (&'static MapSpec, String)> {
        MAPS.iter().filter_map(|spec| match spec.home {
            Home::Desired => None,
            Home::Learned { version } => {
                Some((spec, format!("{}-{version}-{}", spec.name, self.entries(spec))))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use epic_abi::maps::FLOWS;

    use super::*;

    fn of(layout: u32, flows: u32) -> Identity {
        Identity::new(layout, |spec| if spec.name == FLOWS.name { flows } else { spec.max_entries })
    }

    #[test]
    fn a_name_says_the_layout_and_differs_by_every_size() {
        let name = of(1, 64).name();
        assert_eq!(name, of(1, 64).name());
        assert!(name.starts_with("l1-") && name.len() == 11, "{name}");
        assert_ne!(name, of(1, 65).name());
        assert_eq!(of(2, 64).name(), name.replace("l1-", "l2-"));
    }

    #[test]
    fn what_is_learned_is_shared_by_name_version_and_size() {
        let learned: Vec<String> = of(1, 64).learned().map(|(_, name)| name).collect();
        assert!(learned.contains(&"flows-1-64".to_owned()), "{learned:?}");
        assert!(learned.contains(&"remotes-1-65536".to_owned()), "{learned:?}");
        assert!(!learned.iter().any(|name| name.starts_with("vips")), "{learned:?}");
        assert!(learned.iter().all(|name| !name.contains('.')), "bpffs refuses dots: {learned:?}");
    }
}
