//! Tables by name, as text and JSON.

use epic_store::{ListedChange, Query, Schema};

use crate::support::{Backend, BackendKey, TableId, Tables, backend, node, service, store};

#[test]
fn a_table_is_found_by_name() {
    assert_eq!("backends".parse(), Ok(TableId::Backend));
    let error = "backend".parse::<TableId>().unwrap_err().to_string();
    assert_eq!(error, "no table is named \"backend\"; there are services, backends, nodes");
    let names: Vec<&str> = TableId::ALL.iter().map(|table| table.name()).collect();
    assert_eq!(names, ["services", "backends", "nodes"]);
    assert_eq!(Tables::columns_of(TableId::Service), ["name", "id", "ports", "zone"]);
}

#[test]
fn rows_are_listed_by_the_text_of_their_keys() {
    let store = store();
    let mut txn = store.write();
    txn.try_put(service(10, Some(1), &[80, 443], 2)).unwrap();
    txn.try_put(service(9, None, &[], 0)).unwrap();
    txn.commit();
    let snapshot = store.snapshot();
    let listed = |query| snapshot.listing_of(TableId::Service, query);
    assert_eq!(
        listed(Query::All).to_string(),
        "NAME      ID  PORTS   ZONE\nacme/s9   -   -       0\nacme/s10  1   80,443  2\n"
    );
    let keys = |query| listed(query).lines.iter().map(|line| line.key()).collect::<Vec<_>>();
    assert_eq!(keys(Query::Key("acme/s9")), ["acme/s9"]);
    assert_eq!(keys(Query::Key("acme/s")), [""; 0]);
    assert_eq!(keys(Query::Prefix("acme/s1")), ["acme/s10"]);
    assert_eq!(keys(Query::LowerBound("acme/s9")), ["acme/s9", "acme/s10"]);
    assert_eq!(keys(Query::LowerBound("acme/s10")), ["acme/s10"]);
    assert_eq!(
        listed(Query::Key("acme/s10")).to_json().to_string(),
        r#"[{"id":"1","name":"acme/s10","ports":["80","443"],"revision":1,"zone":2}]"#
    );
}

#[test]
fn changes_of_a_table_are_listed() {
    let store = store();
    let mut txn = store.write();
    txn.put(backend(1, 1, 1));
    txn.put(backend(1, 2, 1));
    txn.put(node(1, 1));
    txn.commit();
    let before = store.snapshot();
    let mut txn = store.write();
    txn.put(backend(1, 1, 2));
    txn.remove::<Backend>(BackendKey { service: 1, place: 2 });
    txn.put(backend(1, 3, 1));
    txn.commit();
    let changes = store.snapshot().listed_changes_of(TableId::Backend, &before);
    let shown: Vec<String> = changes
        .iter()
        .map(|change| match change {
            ListedChange::Added(line) => format!("+ {}", line.key()),
            ListedChange::Updated(line) => format!("~ {}", line.key()),
            ListedChange::Removed(line) => format!("- {}", line.key()),
        })
        .collect();
    assert_eq!(shown, ["~ acme/s1:1", "- acme/s1:2", "+ acme/s1:3"]);
    assert!(store.snapshot().listed_changes_of(TableId::Node, &before).is_empty());
}
