//! The screen of `epicctl get`, golden: from objects in YAML to what is printed.

use epic_crds::well_known::GROUP;
use epicctl::overview::{Found, judge::judge, render};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// The objects of a file, each where its kind belongs.
fn found(text: &str) -> Found {
    let mut found = Found::default();
    for object in text.split("\n---\n") {
        let object: Value = serde_yaml::from_str(object).unwrap_or_else(|error| panic!("{error}: {object}"));
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        assert!(kind == "Lease" || object["apiVersion"].as_str().is_some_and(|v| v.starts_with(GROUP)));
        macro_rules! sort {
            ($($kind:literal => $list:ident),*) => {
                match kind.as_str() {
                    $($kind => found.$list.items.push(serde_json::from_value(object).expect($kind)),)*
                    other => panic!("{other} has no place"),
                }
            };
        }
        sort!(
            "EPIC" => epics, "EPICNode" => nodes, "Lease" => leases, "Account" => accounts, "AddressPool" => pools,
            "AddressClaim" => claims, "ServiceGroup" => groups, "LoadBalancer" => balancers, "Endpoint" => endpoints
        );
    }
    found
}

fn screen(text: &str) -> String {
    let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
    render::render(&judge(&found(text), now))
}

#[test]
fn everything_that_is_well_fits_on_a_screen() {
    insta::assert_snapshot!(screen(include_str!("well.yaml")));
}

#[test]
fn what_is_wrong_stands_below_what_it_is_wrong_with() {
    insta::assert_snapshot!(screen(include_str!("wrong.yaml")));
}

#[test]
fn a_cluster_without_epic_is_told_what_is_missing() {
    let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    insta::assert_snapshot!(render::render(&judge(&Found::default(), now)));
}

#[test]
fn kinds_that_may_not_be_listed_are_named_and_nothing_is_said_about_them() {
    let forbidden = ["epics", "epicnodes", "leases"].map(str::to_owned).to_vec();
    let found = Found { forbidden, ..Found::default() };
    let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    insta::assert_snapshot!(render::render(&judge(&found, now)));
}

#[test]
fn programs_get_the_same_as_json() {
    let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let text = render::json(&judge(&found(include_str!("wrong.yaml")), now));
    insta::assert_snapshot!(text);
}
