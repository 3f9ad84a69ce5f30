//! Nodes that fail without Kubernetes noticing, and proxies that Envoy refuses: new connections go on, the conditions say
//! why, and all is back by itself.

use std::time::{Duration, Instant};

use epic_e2e::lab::{Lab, load_balancer};
use epic_e2e::stream::Stream;
use serde_json::{Value, json};

/// The node that fails.
const VICTIM: &str = "node2";
/// Within this time of the failure no new connection fails any more.
const OUT_WITHIN: Duration = Duration::from_secs(60);
/// What is tried once the node is out.
const REQUESTS: u64 = 500;

fn in_service(lab: &Lab, node: &str) -> (String, String) {
    let object = lab.get(&format!("/apis/epic.acnodal.io/v1/namespaces/epic/epicnodes/{node}"));
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions.into_iter().find(|known| known["type"] == "InService").unwrap_or_default();
    let text = |field: &str| known[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// Breaks the victim, waits for the verdict, tries the VIPs, mends it, and waits until it is back. Prints a figure for
/// the bench.
fn others_take_over(lab: &Lab, name: &str, reason: &str, fail: impl FnOnce(), mend: impl FnOnce()) {
    lab.stage(&["ready"]);
    let begun = Instant::now();
    fail();
    lab.until(&format!("{VICTIM} is out of service"), || match in_service(lab, VICTIM) {
        (status, why) if status == "False" && why == reason => Ok(()),
        known => Err(known),
    });
    let out = begun.elapsed();
    println!("grey_failure_out_s{{failure=\"{name}\"}} {:.1}", out.as_secs_f64());
    assert!(out < OUT_WITHIN, "{VICTIM} was out of service only after {out:?}");
    std::thread::sleep(OUT_WITHIN.saturating_sub(begun.elapsed()).min(Duration::from_secs(5)));
    let streams = [("sample", "epic-sample", "sample-acnodal"), ("other", "epic-other", "web")]
        .map(|(tenant, namespace, name)| (tenant, Stream::start(lab, lab.vip(namespace, name))));
    let tallies = streams.map(|(tenant, stream)| (tenant, stream.finish(REQUESTS)));
    mend();
    for (tenant, tally) in tallies {
        assert!(tally.is_right(tenant), "tenant {tenant}: {tally}");
    }
    lab.until(&format!("{VICTIM} is back in service"), || match in_service(lab, VICTIM) {
        (status, _) if status == "True" => Ok(()),
        known => Err(known),
    });
    lab.stage(&["ready"]);
}

pub(crate) fn a_node_that_lost_its_routes_is_out_of_service_and_comes_back(lab: &Lab) {
    let routes = lab.lab(&["run", VICTIM, "--", "ip", "-4", "route", "show"]);
    let routes: Vec<String> =
        routes.lines().filter(|line| line.contains(" via ")).map(str::to_owned).collect();
    assert!(!routes.is_empty(), "{VICTIM} has routes over others");
    let change = |verb: &str| {
        for route in &routes {
            let words: Vec<&str> = ["run", VICTIM, "--", "ip", "-4", "route", verb]
                .into_iter()
                .chain(route.split_whitespace().filter(|word| *word != "onlink"))
                .collect();
            lab.lab(&words);
        }
    };
    others_take_over(lab, "routes", "NodeSilent", || change("del"), || change("replace"));
}

pub(crate) fn a_node_that_hears_no_client_is_out_of_service_and_comes_back(lab: &Lab) {
    let address = lab.get(&format!("/apis/epic.acnodal.io/v1/namespaces/epic/epicnodes/{VICTIM}"));
    let address = address["status"]["addresses"][0].as_str().expect("a GUE address").to_owned();
    let nft = |command: &str| {
        let mut words = vec!["run", "router", "--", "nft"];
        words.extend(command.split_whitespace());
        lab.lab(&words);
    };
    let block = || {
        nft("add table ip grey");
        nft("add chain ip grey forward { type filter hook forward priority 0 ; }");
        nft(&format!("add rule ip grey forward ip daddr {address} udp dport 6080 drop"));
    };
    others_take_over(lab, "udp", "ClientsUnheard", block, || nft("delete table ip grey"));
}

fn pods(lab: &Lab) -> Vec<Value> {
    lab.list("/api/v1/namespaces/epic-sample/pods?labelSelector=epic.acnodal.io/load-balancer")
}

/// Proxies whose image is no Envoy that would take our configuration never get ready; those that serve go on.
pub(crate) fn a_roll_out_to_proxies_that_do_not_start_stands_still(lab: &Lab) {
    let (epic, path) = (
        "/apis/epic.acnodal.io/v1/namespaces/epic/epics/epic",
        load_balancer("epic-sample", "sample-acnodal"),
    );
    let before = lab.get(epic)["spec"]["envoy-image"].clone();
    let serving: Vec<String> =
        pods(lab).iter().filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect();
    let stream = Stream::start(lab, lab.vip("epic-sample", "sample-acnodal"));
    lab.change(epic, &json!({"spec": {"envoy-image": "epic/not-an-envoy:nowhere"}}));
    lab.until("the condition says why", || {
        let object = lab.get(&path);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|known| known["type"] == "Ready").unwrap_or_default();
        let says = ready["message"].as_str().is_some_and(|text| text.contains("epic/not-an-envoy:nowhere"));
        if ready["status"] == "True" && ready["reason"] == "ProxiesMissing" && says {
            Ok(())
        } else {
            Err(ready)
        }
    });
    let tally = stream.finish(1_000);
    let left = pods(lab);
    lab.change(epic, &json!({"spec": {"envoy-image": before}}));
    assert!(tally.is_right("sample"), "{tally}");
    let stays = |uid: &String| {
        left.iter().any(|pod| {
            pod["metadata"]["uid"].as_str() == Some(uid.as_str())
                && pod["metadata"]["deletionTimestamp"].is_null()
        })
    };
    assert!(serving.iter().all(stays), "an old proxy went before a new one was ready");
    lab.stage(&["ready"]);
}
