//! The table of docs/conditions.md, which people and tests read alike.

use std::collections::BTreeMap;

use epic_crds::Condition;

const TABLE: &str = include_str!("../../../docs/conditions.md");

/// What the table says of a situation: the conditions by type, as `Status Reason`, and what to do.
#[derive(Debug)]
struct Row {
    conditions: BTreeMap<String, String>,
    fix: String,
}

/// The rows below the heading of a kind.
fn rows(kind: &str) -> BTreeMap<String, Row> {
    let heading = format!("## {kind}");
    let section =
        TABLE.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    let mut lines = section.filter(|line| line.starts_with('|')).map(|line| {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        cells.collect::<Vec<String>>()
    });
    let titles = lines.next().unwrap_or_default();
    let row = |cells: Vec<String>| {
        assert_eq!(cells.len(), titles.len(), "a row of {kind} has another number of cells: {cells:?}");
        let conditions = titles.iter().zip(&cells).skip(1).take(titles.len().saturating_sub(2));
        let conditions = conditions.filter(|(_, cell)| *cell != "–");
        let conditions = conditions.map(|(title, cell)| (title.clone(), cell.clone())).collect();
        (cells[0].clone(), Row { conditions, fix: cells.last().cloned().unwrap_or_default() })
    };
    lines.skip(1).map(row).collect()
}

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
        TABLE.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let reasons = names::<epic_crds::LoadBalancerReason>().chain(names::<epic_crds::EndpointReason>());
    let missing: Vec<&str> = reasons.filter(|reason| !words.contains(reason)).collect();
    assert!(missing.is_empty(), "docs/conditions.md does not say when these come: {missing:?}");
}
