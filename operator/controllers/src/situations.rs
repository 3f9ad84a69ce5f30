//! What the situations of all kinds are held against: the tables of docs/conditions.md, and the source of the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use epic_control_plane::conditions::{rows, unexplained};
use epic_crds::{
    AccountReason, AddressClaimReason, AddressPoolReason, EPICNodeReason, EndpointReason, EpicReason,
    LoadBalancerReason, Reason, ServiceGroupReason,
};

pub(crate) use epic_control_plane::conditions::check;

#[test]
fn the_table_has_at_least_twenty_five_situations() {
    let count: usize = ["LoadBalancer", "Endpoint", "EPICNode"].map(|kind| rows(kind).len()).iter().sum();
    assert!(count >= 25, "{count}");
}

#[test]
fn every_reason_is_explained() {
    let wrong = [
        unexplained::<EpicReason>("EPIC"),
        unexplained::<EPICNodeReason>("EPICNode"),
        unexplained::<AccountReason>("Account"),
        unexplained::<ServiceGroupReason>("ServiceGroup"),
        unexplained::<AddressPoolReason>("AddressPool"),
        unexplained::<AddressClaimReason>("AddressClaim"),
        unexplained::<LoadBalancerReason>("LoadBalancer"),
        unexplained::<EndpointReason>("Endpoint"),
    ]
    .concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Reasons that code names, by the name of their enum.
type Given = BTreeMap<String, BTreeSet<String>>;

/// Collects the reasons that a file names before its tests, under whatever name it imports their enum.
fn collect(text: &str, given: &mut Given) {
    let mut parts = text.split("#[cfg(test)]\n");
    let first = parts.next().into_iter();
    let is_module = |part: &&str| part.lines().next().is_some_and(|line| line.ends_with('{'));
    let text: String = first.chain(parts.take_while(|part| !is_module(part))).collect();
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let renamed: BTreeMap<&str, &str> = words
        .windows(3)
        .filter(|three| three[1] == "as" && three[0].ends_with("Reason"))
        .map(|three| (three[2], three[0]))
        .collect();
    for (name, variant) in words.iter().filter_map(|word| word.split_once("::")) {
        let of = renamed.get(name).copied().unwrap_or(name);
        if of.ends_with("Reason") {
            given.entry(of.to_owned()).or_default().insert(variant.to_owned());
        }
    }
}

/// The files with code that gives reasons, below a folder. That of commands only explains them.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "benches", "cli"].contains(&name.as_str()) {
            sources(&path, found);
        } else if name.ends_with(".rs") && !["tests.rs", "situations.rs"].contains(&name.as_str()) {
            found.push(path);
        }
    }
}

#[test]
fn every_reason_is_given_by_something() {
    fn missing<R: Reason>(enumeration: &str, given: &Given) -> Vec<String> {
        let given = given.get(enumeration).cloned().unwrap_or_default();
        let reasons = R::ALL.iter().map(|(reason, _)| reason.as_str());
        let missing = reasons.filter(|reason| !given.contains(*reason));
        missing.map(|reason| format!("nothing gives {enumeration}::{reason}")).collect()
    }
    let (mut files, mut given) = (Vec::new(), Given::new());
    sources(&Path::new(env!("EPIC_CHECKOUT")).join("operator"), &mut files);
    for file in files {
        collect(&std::fs::read_to_string(file).unwrap(), &mut given);
    }
    let wrong = [
        missing::<EpicReason>("EpicReason", &given),
        missing::<EPICNodeReason>("EPICNodeReason", &given),
        missing::<AccountReason>("AccountReason", &given),
        missing::<ServiceGroupReason>("ServiceGroupReason", &given),
        missing::<AddressPoolReason>("AddressPoolReason", &given),
        missing::<AddressClaimReason>("AddressClaimReason", &given),
        missing::<LoadBalancerReason>("LoadBalancerReason", &given),
        missing::<EndpointReason>("EndpointReason", &given),
    ]
    .concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
