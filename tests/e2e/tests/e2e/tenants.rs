//! Two tenants who use the same addresses.

use epic_e2e::lab::{Lab, endpoint};
use epic_traffic::{Question, Tally};
use serde_json::json;

const REQUESTS: u64 = 2_000;

/// The pod address of a proxy of a LoadBalancer.
pub(crate) fn proxy_pods(lab: &Lab, namespace: &str) -> Vec<(String, String)> {
    let pods =
        lab.list(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector=epic.acnodal.io/load-balancer"));
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter_map(|pod| Some((text(&pod["spec"]["nodeName"])?, text(&pod["status"]["podIP"])?)))
        .collect()
}

pub(crate) fn equal_pod_addresses_of_two_tenants_are_never_confused(lab: &Lab) {
    // Equal to the address of the very proxy that will connect to it. Pods of node1 may have, by chance, the address of a
    // pod that is there already.
    let pods = proxy_pods(lab, "epic-other");
    let (_, address) = pods.into_iter().find(|(node, _)| node == "node2").expect("a proxy of other on node2");
    lab.lab(&["pod", "client3", &address, "--tenant", "other", "--port", "8080"]);
    lab.apply(&json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
        "metadata": {"name": "like-a-proxy", "namespace": "epic-other"},
        "spec": {"load-balancer": "web", "node-address": "203.0.113.16", "address": address,
                 "port": {"name": "http", "port": 8080, "protocol": "TCP"}},
    }));
    let path = endpoint("epic-other", "like-a-proxy");
    lab.until_true(&path, &["Programmed", "TunnelUp"]);

    let questions = [
        ("sample", Question::new(lab.vip("epic-sample", "sample-acnodal"))),
        ("other", Question::new(lab.vip("epic-other", "web"))),
    ];
    // The other proxy may still be about to learn of the new endpoint.
    let seen = lab.until("the endpoint with a proxy's address answers", || {
        let answer = lab.host("internet").run(|| questions[1].1.ask()).map_err(|error| error.to_string())?;
        if answer.address == address { Ok(answer) } else { Err(answer.address) }
    });
    assert_eq!(seen.tenant, "other");

    let mut tallies = [Tally::default(), Tally::default()];
    lab.host("internet").run(|| {
        for turn in 0..REQUESTS {
            let which = (turn % 2) as usize;
            tallies[which].count(&questions[which].1.ask());
        }
    });
    for ((tenant, _), tally) in questions.iter().zip(&tallies) {
        assert!(tally.is_right(tenant), "asked tenant {tenant}: {tally}");
    }
    let by_like_a_proxy: u64 =
        tallies[1].answered.iter().filter(|(who, _)| who.ends_with(&address)).map(|(_, count)| count).sum();
    assert!(by_like_a_proxy > 300, "the endpoint with a proxy's address took part: {}", tallies[1]);

    lab.delete(&path);
    lab.until("it takes no part any more", || {
        let mut tally = Tally::default();
        lab.host("internet").run(|| (0..20).for_each(|_| tally.count(&questions[1].1.ask())));
        if tally.is_right("other") && tally.answered.keys().all(|who| !who.ends_with(&address)) {
            Ok(())
        } else {
            Err(tally.to_string())
        }
    });
    lab.lab(&["pod-remove", "client3", &address]);
}
