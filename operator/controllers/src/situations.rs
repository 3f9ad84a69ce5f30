//! What the situations of a kind are held against: the table of docs/conditions.md.

use std::collections::BTreeMap;

use epic_control_plane::conditions::{TEXT, rows};
use epic_crds::Condition;

/// Checks that the table has just these situations of a kind, and says of each what its conditions say.
pub(crate) fn check(kind: &str, found: Vec<(&str, Vec<Condition>)>) {
    let mut rows = rows(kind);
    let mut wrong = Vec::new();
    for (name, conditions) in found {
        let said: BTreeMap<String, String> = conditions
            .iter()
            .map(|known| (known.type_.clone(), format!("{} {}", known.status.as_str(), known.reason)))
            .collect();
        match rows.remove(name) {
            None => wrong.push(format!("docs/conditions.md lacks {kind} {name:?}: {said:?}")),
            Some(row) if row.conditions != said => {
                wrong.push(format!(
                    "{kind} {name:?} is {said:?}, docs/conditions.md says {:?}",
                    row.conditions
                ));
            }
            Some(row) if row.fix.is_empty() => wrong.push(format!("{kind} {name:?}: what is to be done?")),
            Some(_) => {}
        }
    }
    wrong.extend(
        rows.keys().map(|name| format!("docs/conditions.md has {kind} {name:?}, which nothing makes")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_at_least_twenty_five_situations() {
    let count: usize = ["LoadBalancer", "Endpoint", "EPICNode"].map(|kind| rows(kind).len()).iter().sum();
    assert!(count >= 25, "{count}");
}

#[test]
fn every_reason_is_explained() {
    fn names<R: epic_crds::Reason>() -> impl Iterator<Item = &'static str> {
        R::ALL.iter().map(|(reason, _)| reason.as_str())
    }
    let words: std::collections::BTreeSet<&str> =
        TEXT.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let reasons = names::<epic_crds::LoadBalancerReason>().chain(names::<epic_crds::EndpointReason>());
    let missing: Vec<&str> = reasons.filter(|reason| !words.contains(reason)).collect();
    assert!(missing.is_empty(), "docs/conditions.md does not say when these come: {missing:?}");
}
