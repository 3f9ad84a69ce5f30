//! What is deleted leaves nothing behind: in the API, in the maps, in the pool.

use epic_e2e::lab::{Lab, load_balancer};
use serde_json::Value;

const GROUP: &str = "/apis/epic.acnodal.io/v1";

/// Entries of maps that belong to some tenant; what is left without any is the configuration.
const TENANTS: [&str; 14] = [
    "keys",
    "tunnel",
    "remote",
    "source",
    "vip",
    "service",
    "maglev",
    "proxy",
    "local-proxy",
    "listener",
    "alias",
    "endpoint-alias",
    "endpoint",
    "route",
];

fn names(lab: &Lab, path: &str) -> Vec<String> {
    let name =
        |object: &Value| format!("{path}: {}", object["metadata"]["name"].as_str().unwrap_or_default());
    lab.list(path).iter().map(name).collect()
}

/// Waits until nothing is left, and says what is otherwise.
fn until_none(lab: &Lab, what: &str, left: impl Fn() -> Vec<String>) {
    lab.until(&format!("no {what} is left"), || {
        let left = left();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn tenants_entries(lab: &Lab, hosts: &[&str]) -> Vec<String> {
    let of_tenants = |line: &str| TENANTS.contains(&line.split(' ').next().unwrap_or_default());
    hosts
        .iter()
        .flat_map(|host| {
            let dump = lab.stage(&["agent", host, "maps", "dump"]);
            dump.lines()
                .filter(|line| of_tenants(line))
                .map(|line| format!("{host}: {line}"))
                .collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) fn deleted_objects_leave_nothing_behind(lab: &Lab) {
    let hosts = ["node1", "node2", "client1", "client2", "client3"];
    assert!(tenants_entries(lab, &hosts).len() > 50, "there is something to be left behind");

    for (namespace, name) in [("epic-sample", "sample-acnodal"), ("epic-other", "web")] {
        lab.delete(&load_balancer(namespace, name));
    }
    for namespace in ["epic-sample", "epic-other"] {
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        until_none(lab, "proxy", || names(lab, &pods));
    }
    until_none(lab, "claim", || names(lab, &format!("{GROUP}/addressclaims")));
    until_none(lab, "entry of a tenant in a map", || tenants_entries(lab, &hosts));
    lab.until("the pool has all its addresses again", || {
        let pool = lab.get(&format!("{GROUP}/namespaces/epic/addresspools/default"));
        let used = &pool["status"]["ipv4"]["used"];
        if used == "0" { Ok(()) } else { Err(pool["status"].to_string()) }
    });

    for account in ["sample", "other"] {
        lab.delete_after_use(&format!("{GROUP}/namespaces/epic/accounts/{account}"));
    }
    until_none(lab, "Account", || names(lab, &format!("{GROUP}/accounts")));
    until_none(lab, "tenant namespace", || {
        names(lab, "/api/v1/namespaces?labelSelector=epic.acnodal.io/account")
    });

    for kind in ["addresspools", "servicegroups", "epics"] {
        lab.delete_after_use(&format!("{GROUP}/namespaces/epic/{kind}"));
    }
    for kind in
        ["accounts", "addressclaims", "addresspools", "endpoints", "epics", "loadbalancers", "servicegroups"]
    {
        until_none(lab, kind, || names(lab, &format!("{GROUP}/{kind}")));
    }
    until_none(lab, "object of a tenant", || {
        [
            "/apis/apps/v1/deployments",
            "/apis/policy/v1/poddisruptionbudgets",
            "/api/v1/pods",
            "/api/v1/configmaps",
        ]
        .iter()
        .flat_map(|path| names(lab, &format!("{path}?labelSelector=epic.acnodal.io/account")))
        .collect()
    });
}
