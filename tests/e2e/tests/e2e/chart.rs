//! The chart: upgrade, uninstallation, and installation on what that kept. That it installs, everything else shows.

use std::net::SocketAddr;

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

/// Tenant, and the address and port of its load balancer.
fn vips(lab: &Lab) -> [(&'static str, SocketAddr); 2] {
    [("sample", lab.vip("epic-sample", "sample-acnodal")), ("other", lab.vip("epic-other", "web"))]
}

pub(crate) fn an_upgrade_costs_no_connection(lab: &Lab) {
    let streams = vips(lab).map(|(tenant, vip)| (tenant, Stream::start(lab, vip)));
    // As an upgrade to another version does, this replaces every pod of the chart, and the agents want other BPF maps.
    lab.stage(&[
        "chart",
        "--set-string",
        "operator.podAnnotations.again=yes",
        "--set",
        "agent.extraEnv[0].name=EPIC_MAX_TUNNELS",
        "--set-string",
        "agent.extraEnv[0].value=32768",
        "--set",
        "agent.extraEnv[1].name=EPIC_MAX_FLOWS",
        "--set-string",
        "agent.extraEnv[1].value=131072",
    ]);
    for node in lab.nodes() {
        lab.until("the maps that serve have the new sizes", || {
            let node = lab.get(&format!("/apis/epic.acnodal.io/v1/namespaces/epic/epicnodes/{node}"));
            let usage = node["status"]["map-usage"].as_array().cloned().unwrap_or_default();
            let tunnels = usage.iter().find(|usage| usage["map"] == "tunnels").cloned();
            if tunnels.as_ref().is_some_and(|tunnels| tunnels["capacity"] == 32_768) {
                Ok(())
            } else {
                Err(tunnels)
            }
        });
    }
    for (tenant, stream) in streams {
        let tally = stream.finish(400);
        assert!(tally.is_right(tenant), "tenant {tenant}: {tally}");
    }
    lab.stage(&["ready"]);
}

/// What shows that somebody was cut off: pods by uid, and what EPIC and the Accounts say of themselves.
fn running(lab: &Lab) -> Vec<String> {
    let pods =
        ["epic", "epic-sample", "epic-other"].map(|namespace| format!("/api/v1/namespaces/{namespace}/pods"));
    let uids = pods.iter().flat_map(|path| lab.list(path)).filter(|pod| {
        // Those of the Jobs come and go, and those that an upgrade replaced are still going.
        let meta = &pod["metadata"];
        meta["ownerReferences"][0]["kind"] != "Job" && meta["deletionTimestamp"].is_null()
    });
    let mut all: Vec<String> = uids.map(|pod| pod["metadata"]["uid"].to_string()).collect();
    let epic = lab.get("/apis/epic.acnodal.io/v1/namespaces/epic/epics/epic");
    all.push(epic["metadata"]["annotations"]["epic.acnodal.io/uninstall"].to_string());
    all.extend(finalizers(lab));
    all.sort();
    all
}

/// Its hooks are ordinary Jobs then. They stay, for the uninstallation that follows to find.
pub(crate) fn the_rendered_chart_applied_while_it_serves_changes_nothing(lab: &Lab) {
    let before = running(lab);
    let streams = vips(lab).map(|(tenant, vip)| (tenant, Stream::start(lab, vip)));
    lab.stage(&["rendered"]);
    for job in ["epic-uninstall", "epic-uninstall-undo"] {
        let job = lab.until(&format!("{job} has ended"), || {
            let job = lab.get(&format!("/apis/batch/v1/namespaces/epic/jobs/{job}"));
            if job["status"]["completionTime"].is_string() { Ok(job) } else { Err(job["status"].to_string()) }
        });
        assert_eq!(job["status"]["succeeded"], 1, "{}", job["status"]);
        let name = job["metadata"]["name"].as_str().unwrap_or_default();
        let said = lab.stage(&["kubectl", "logs", "--namespace", "epic", &format!("job/{name}")]);
        assert!(said.contains("nothing is changed: Helm's record does not say"), "{said}");
    }
    for (tenant, stream) in streams {
        let tally = stream.finish(200);
        assert!(tally.is_right(tenant), "tenant {tenant}: {tally}");
    }
    assert_eq!(running(lab), before);
    lab.stage(&["ready"]);
    // To Helm these are not its own, so they would outlive an uninstallation, for an hour.
    lab.stage(&["kubectl", "delete", "jobs", "--namespace", "epic", "epic-uninstall", "epic-uninstall-undo"]);
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

pub(crate) fn uninstallation_leaves_no_trace_and_an_installation_takes_up_what_it_kept(lab: &Lab) {
    let before = vips(lab);
    uninstall(lab);
    lab.stage(&["chart"]);
    assert_eq!(vips(lab), before, "addresses stay");
    for (tenant, vip) in before {
        // Conditions from before the uninstallation say nothing about now; an answer does.
        lab.stage(&["traffic", "internet", "until", &vip.to_string(), "--limit", "120"]);
        let tally = Stream::start(lab, vip).finish(100);
        assert!(tally.is_right(tenant), "tenant {tenant}: {tally}");
    }
    lab.stage(&["ready"]);
    assert!(!finalizers(lab).is_empty(), "EPIC and the Accounts have their finalizers again");
}

/// Takes the chart off, and looks for what it may have left: pods, finalizers, pins, programs.
fn uninstall(lab: &Lab) {
    assert!(!finalizers(lab).is_empty(), "EPIC and the Accounts have finalizers");
    for node in lab.nodes() {
        let traces = traces(lab, &node);
        assert!(traces.iter().any(|trace| trace.ends_with("epic_ingress-2")), "{node}: {traces:?}");
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
