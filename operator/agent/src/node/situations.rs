//! The situations of an EPICNode of which its agent speaks, as docs/conditions.md lists them, each made as a value.

use epic_control_plane::conditions::check;
use epic_crds::{Condition, EPICNodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::interfaces::Error as NoInterface;
use super::judgement::Judgement;
use super::report::{Report, status};
use super::{first_report, host, without_programs};

/// The conditions after a report on a node that has carried traffic before.
fn conditions(report: &Report) -> Vec<Condition> {
    let now = Time(Timestamp::UNIX_EPOCH);
    let before = Report { ready: Judgement::of_maps(None, None, &[], true), ..first_report(None) };
    let before = status(&before, &EPICNodeStatus::default(), &now);
    status(report, &before, &now).conditions
}

#[test]
fn the_table_says_what_an_agent_says_of_its_node() {
    let first = || first_report(None);
    let judged = |ready: Judgement| Report { ready: Some(ready), ..first() };
    let of_maps = |down: Option<&str>, refused: Option<&str>, errors: &[&str]| {
        let errors: Vec<String> = errors.iter().map(|error| (*error).to_owned()).collect();
        judged(Judgement::of_maps(down.map(str::to_owned), refused, &errors, true).unwrap())
    };
    let kernel = epic_datapath::kernel::KernelError::Unknown("6".to_owned());
    let layout = epic_datapath::Error::Layout { dir: "/sys/fs/bpf/epic".into(), found: 1, known: 2 };
    let no_interface = |error: NoInterface| judged(Judgement::without_interfaces(&error));
    let named = || "eth1".to_owned();
    let held = || epic_datapath::Error::Held("/sys/fs/bpf/epic".into());
    let reports = [
        ("carries traffic", of_maps(None, None, &[])),
        ("its agent was restarted", first_report(Some(&host::boot_id()))),
        ("the machine was restarted", first_report(Some("of an earlier boot"))),
        ("there is no EPIC object", judged(Judgement::without_epic("there is none"))),
        ("the kernel will not do", judged(Judgement::without_datapath(&kernel.into()))),
        ("pins are there that no version of EPIC has made so", judged(Judgement::without_datapath(&layout))),
        ("the programs cannot be loaded", judged(Judgement::without_datapath(&held()))),
        ("a program cannot be attached", of_maps(None, Some("no"), &[])),
        ("Secret epic-gue-master has no usable key", judged(Judgement::without_key("none"))),
        ("an interface that EPIC names does not exist", no_interface(NoInterface::NotFound(named()))),
        (
            "several interfaces match",
            no_interface(NoInterface::Ambiguous { field: "public-match", found: vec![named()] }),
        ),
        ("its interface carries no Ethernet frames", no_interface(NoInterface::NotEthernet(named()))),
        ("it has no IPv4 address for tunnels", no_interface(NoInterface::NoAddress(named()))),
        ("an interface is down, or without carrier", of_maps(Some("eth1 is down"), None, &[])),
        ("a map that the whole node needs is full", of_maps(None, None, &["services: the map is full"])),
        ("a map that the whole node needs cannot be written", of_maps(None, None, &["services: no"])),
        ("EPIC or its agents are being uninstalled", without_programs(first(), Ok(()), "it is asked for")),
        ("the same, and something stays", without_programs(first(), Err(held()), "it is asked for")),
    ];
    check("EPICNode: its agent", reports.map(|(name, report)| (name, conditions(&report))).into());
}
