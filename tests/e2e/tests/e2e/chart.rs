//! The chart: upgrade and uninstallation. That it installs, everything else shows.

use epic_e2e::lab::Lab;
use epic_e2e::stream::Stream;
use serde_json::Value;

const KINDS: [&str; 8] = [
    "accounts",
    "addressclaims",
    "addresspools",
    "endpoints",
    "epicnodes",
    "epics",
    "loadbalancers",
    "servicegroups",
];

pub(crate) fn an_upgrade_costs_no_connection(lab: &Lab) {
    let streams = [("sample", "epic-sample", "sample-acnodal"), ("other", "epic-other", "web")]
        .map(|(tenant, namespace, name)| (tenant, Stream::start(lab, lab.vip(namespace, name))));
    // As an upgrade to another version does, this replaces every pod of the chart.
    lab.stage(&[
        "chart",
        "--set-string",
        "operator.podAnnotations.again=yes",
        "--set-string",
        "agent.podAnnotations.again=yes",
    ]);
    lab.stage(&["kubectl", "rollout", "status", "-n", "epic", "daemonset/epic-agent", "--timeout=120s"]);
    for (tenant, stream) in streams {
        let tally = stream.finish(400);
        assert!(tally.is_right(tenant), "tenant {tenant}: {tally}");
    }
    lab.stage(&["ready"]);
}

fn finalizers(lab: &Lab) -> Vec<String> {
    let of = |kind: &str| {
        let objects = lab.list(&format!("/apis/epic.acnodal.io/v1/{kind}"));
        let with =
            |object: &Value| object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let names =
            objects.into_iter().filter(with).map(|object| format!("{kind}/{}", object["metadata"]["name"]));
        names.collect::<Vec<_>>()
    };
    KINDS.iter().flat_map(|kind| of(kind)).collect()
}

/// Pins and BPF programs at the interfaces of a node.
fn traces(lab: &Lab, node: &str) -> Vec<String> {
    let pins = lab.lab(&["run", node, "--", "find", "/sys/fs/bpf", "-mindepth", "1", "-path", "*epic*"]);
    let links = lab.lab(&["run", node, "--", "bpftool", "--json", "net"]);
    pins.lines().map(str::to_owned).chain(links.contains("epic_").then_some(links)).collect()
}

pub(crate) fn uninstallation_leaves_no_pod_pin_link_or_finalizer(lab: &Lab) {
    lab.stage(&["platform"]);
    assert!(!finalizers(lab).is_empty(), "EPIC and the Accounts have finalizers");
    for node in lab.nodes() {
        lab.until("the agent has attached its programs again", || {
            let traces = traces(lab, &node);
            if traces.iter().any(|trace| trace.ends_with("epic_ingress-2")) { Ok(()) } else { Err(traces) }
        });
    }

    lab.stage(&["helm", "uninstall", "epic", "--namespace", "epic", "--timeout", "4m"]);
    lab.until("no pod is left in namespace epic", || {
        let pods = lab.list("/api/v1/namespaces/epic/pods");
        if pods.is_empty() { Ok(()) } else { Err(pods.len()) }
    });
    assert_eq!(finalizers(lab), Vec::<String>::new(), "no finalizer is left");
    for node in lab.nodes() {
        assert_eq!(traces(lab, &node), Vec::<String>::new(), "nothing is left on {node}");
    }
    for kind in KINDS {
        let definition =
            format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.epic.acnodal.io");
        assert!(lab.find(&definition).is_some(), "the definition of {kind} stays");
    }
}
