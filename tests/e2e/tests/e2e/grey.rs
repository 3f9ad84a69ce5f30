//! What fails without Kubernetes noticing: a bootstrap that Envoy refuses, a proxy and a node that reach nobody, a node
//! that clients do not reach. Connections go on, the conditions say why, and all is back by itself.

use std::time::{Duration, Instant};

use epic_e2e::lab::{Lab, load_balancer};
use epic_e2e::stream::Stream;
use epic_traffic::Question;
use serde_json::{Value, json};

const GROUP: &str = "/apis/epic.acnodal.io/v1";
/// The node that fails.
const VICTIM: &str = "node2";
/// Within this time of the failure no new connection fails any more.
const OUT_WITHIN: Duration = Duration::from_secs(60);
/// A proxy that nobody hears is named within this time.
const NAMED_WITHIN: Duration = Duration::from_secs(90);
/// What is tried once the node is out.
const REQUESTS: u64 = 400;
/// Both samples: tenant, namespace, name.
const SAMPLES: [(&str, &str, &str); 2] =
    [("sample", "epic-sample", "sample-acnodal"), ("other", "epic-other", "web")];

/// Status, reason and message of a condition.
fn condition(object: &Value, type_: &str) -> (String, String, String) {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions.into_iter().find(|known| known["type"] == type_).unwrap_or_default();
    let text = |field: &str| known[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

fn in_service(lab: &Lab) -> (String, String) {
    let object = lab.get(&format!("{GROUP}/namespaces/epic/epicnodes/{VICTIM}"));
    let (status, reason, _) = condition(&object, "InService");
    (status, reason)
}

/// `Ready` of a sample's LoadBalancer.
fn ready(lab: &Lab, (_, namespace, name): (&str, &str, &str)) -> (String, String, String) {
    condition(&lab.get(&load_balancer(namespace, name)), "Ready")
}

/// Packets of a host that are dropped or refused from now on, until [`Filter::lift`].
struct Filter<'l> {
    lab: &'l Lab,
    host: &'static str,
}

impl<'l> Filter<'l> {
    /// Each rule is one of nft, for packets that the host sends, receives and forwards.
    fn new(lab: &'l Lab, host: &'static str, rules: &[&str]) -> Self {
        let filter = Self { lab, host };
        filter.nft("add table ip grey");
        for hook in ["input", "output", "forward"] {
            filter.nft(&format!("add chain ip grey {hook} {{ type filter hook {hook} priority -10 ; }}"));
            for rule in rules {
                filter.nft(&format!("add rule ip grey {hook} {rule}"));
            }
        }
        filter
    }

    fn nft(&self, command: &str) {
        let mut words = vec!["run", self.host, "--", "nft"];
        words.extend(command.split_whitespace());
        self.lab.lab(&words);
    }

    fn lift(self) {
        self.nft("delete table ip grey");
    }
}

/// Waits until this time after `begun`.
fn sleep_until(begun: Instant, after: Duration) {
    std::thread::sleep(after.saturating_sub(begun.elapsed()));
}

/// A round of new connections to both samples: what went wrong.
fn round(lab: &Lab) -> Vec<String> {
    let streams =
        SAMPLES.map(|(tenant, namespace, name)| (tenant, Stream::start(lab, lab.vip(namespace, name))));
    let tallies = streams.map(|(tenant, stream)| (tenant, stream.finish(REQUESTS)));
    let wrong = tallies.iter().filter(|(tenant, tally)| !tally.is_right(tenant));
    wrong.map(|(tenant, tally)| format!("tenant {tenant}: {tally}")).collect()
}

/// New connections, of which none may fail.
fn none_fails(lab: &Lab) {
    assert_eq!(round(lab), Vec::<String>::new());
}

/// As [`none_fails`], in a round that begins [`OUT_WITHIN`] after `begun`, or in one before it: once the node is out nothing
/// changes any more, and there is nothing to wait for.
fn none_fails_in_time(lab: &Lab, begun: Instant) {
    loop {
        let at = begun.elapsed();
        let wrong = round(lab);
        if wrong.is_empty() {
            return;
        }
        assert!(at < OUT_WITHIN, "after {at:?}: {wrong:?}");
    }
}

fn until_out(lab: &Lab, reason: &str) {
    lab.until(&format!("{VICTIM} is out of service"), || match in_service(lab) {
        (status, why) if status == "False" && why == reason => Ok(()),
        known => Err(known),
    });
}

fn until_in_service(lab: &Lab) {
    lab.until(&format!("{VICTIM} is in service"), || match in_service(lab) {
        (status, _) if status == "True" => Ok(()),
        known => Err(known),
    });
    lab.stage(&["ready"]);
}

/// A service with one endpoint is down for as long as the endpoint, and not for as long as some verdict on it.
pub(crate) fn the_only_endpoint_is_away_for_a_second_four_times(lab: &Lab) {
    let (tenant, namespace, name) = SAMPLES[1];
    let to = lab.vip(namespace, name);
    let question = Question::new(to).patience(Duration::from_secs(5));
    let ask = || lab.host("internet").run(|| question.ask());
    for _ in 0..4 {
        assert!(ask().is_ok(), "it is there");
        let begun = Instant::now();
        let rule = "ip daddr 10.244.1.5 tcp dport 8080 ct state new reject with tcp reset";
        let away = Filter::new(lab, "client3", &[rule]);
        let mut asked = 0;
        while begun.elapsed() < Duration::from_secs(1) || asked == 0 {
            assert!(ask().is_err(), "it is away");
            asked += 1;
        }
        away.lift();
        let back = Instant::now();
        while ask().is_err() {
            // An ejection would last half a minute, and longer with each one.
            assert!(back.elapsed() < Duration::from_secs(10), "it is back, and {tenant} is still refused");
        }
        println!("one_endpoint_blip_outage_ms {}", begun.elapsed().as_millis());
    }
}

pub(crate) fn a_bootstrap_that_envoy_refuses_costs_no_connection_and_is_told(lab: &Lab) {
    let epic = &format!("{GROUP}/namespaces/epic/epics/epic");
    lab.lab(&["images", "refusing-envoy"]);
    let before = lab.get(epic)["spec"]["envoy-image"].clone();
    let pods = || lab.list("/api/v1/namespaces/epic-sample/pods?labelSelector=epic.acnodal.io/load-balancer");
    let serving: Vec<Value> = pods().iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    let stream = Stream::start(lab, lab.vip("epic-sample", "sample-acnodal"));
    lab.change(epic, &json!({"spec": {"envoy-image": "epic/envoy:refusing"}}));
    for sample in SAMPLES {
        lab.until("the condition says why, in Envoy's words", || match ready(lab, sample) {
            (status, reason, message)
                if status == "True"
                    && reason == "ProxiesMissing"
                    && message.contains("field_of_another_version") =>
            {
                println!("    {message}");
                Ok(())
            }
            known => Err(known),
        });
    }
    let tally = stream.finish(1_000);
    let left = pods();
    lab.change(epic, &json!({"spec": {"envoy-image": before}}));
    assert!(tally.is_right("sample"), "{tally}");
    let stays = |uid: &Value| {
        left.iter()
            .any(|pod| pod["metadata"]["uid"] == *uid && pod["metadata"]["deletionTimestamp"].is_null())
    };
    assert!(serving.iter().all(stays), "an old proxy went before a new one was ready");
    lab.stage(&["ready"]);
}

/// The real sequence: an interface goes down and comes up again, and the routes through it are gone. The node still has
/// its neighbours on the link, among them the API server, so Kubernetes sees nothing.
pub(crate) fn a_node_that_lost_its_routes_is_out_of_service_and_comes_back(lab: &Lab) {
    until_in_service(lab);
    let routes = lab.lab(&["run", VICTIM, "--", "ip", "-4", "route", "show"]);
    let routes: Vec<&str> = routes.lines().filter(|line| line.contains(" via ")).collect();
    assert!(!routes.is_empty(), "{VICTIM} has routes over others");
    let change = |verb: &str| {
        for route in &routes {
            let words = ["run", VICTIM, "--", "ip", "-4", "route", verb].into_iter();
            lab.lab(&words.chain(route.split_whitespace()).collect::<Vec<_>>());
        }
    };
    let begun = Instant::now();
    change("del");
    until_out(lab, "NodeSilent");
    let out = begun.elapsed();
    println!("grey_failure_out_s{{failure=\"routes\"}} {:.1}", out.as_secs_f64());
    none_fails_in_time(lab, begun);
    change("replace");
    assert!(out < OUT_WITHIN, "{VICTIM} was out of service only after {out:?}");
    until_in_service(lab);
}

/// Beside it, on the other node, a proxy is cut off from its operators: it serves on, and is named.
pub(crate) fn a_node_that_clients_do_not_reach_is_out_of_service_and_a_proxy_that_is_cut_off_is_named(
    lab: &Lab,
) {
    until_in_service(lab);
    let address = lab.get(&format!("{GROUP}/namespaces/epic/epicnodes/{VICTIM}"));
    let address = address["status"]["addresses"][0].as_str().expect("a GUE address").to_owned();
    let pods = lab.list("/api/v1/namespaces/epic-sample/pods?labelSelector=epic.acnodal.io/load-balancer");
    let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == "node1").expect("a proxy on node1");
    let pod_address = pod["status"]["podIP"].as_str().expect("an address").to_owned();

    let begun = Instant::now();
    let udp = Filter::new(lab, "router", &[&format!("ip daddr {address} udp dport 6080 drop")]);
    let xds = Filter::new(
        lab,
        "node1",
        &[
            &format!("ip saddr {pod_address} tcp dport 18000 drop"),
            &format!("ip daddr {pod_address} tcp sport 18000 drop"),
        ],
    );
    until_out(lab, "ClientsUnheard");
    let out = begun.elapsed();
    println!("grey_failure_out_s{{failure=\"udp\"}} {:.1}", out.as_secs_f64());
    none_fails_in_time(lab, begun);
    // It comes back while the proxy is on its way to being named.
    udp.lift();
    let name = pod["metadata"]["name"].as_str().expect("a name");
    lab.until("the proxy that is cut off is named", || match ready(lab, SAMPLES[0]) {
        (status, reason, message) if status == "True" && reason == "ProxyStale" && message.contains(name) => {
            Ok(())
        }
        known => Err(known),
    });
    let named = begun.elapsed();
    println!("stale_proxy_named_s {:.1}", named.as_secs_f64());
    xds.lift();
    assert!(out < OUT_WITHIN, "{VICTIM} was out of service only after {out:?}");
    assert!(named < NAMED_WITHIN, "the proxy was named only after {named:?}");
    lab.until("the proxy is not named any more", || match ready(lab, SAMPLES[0]) {
        (_, reason, _) if reason == "Ready" => Ok(()),
        known => Err(known),
    });
    until_in_service(lab);
}

/// Neither agent nor kubelet of the node reach the API server, nor does any pod there.
pub(crate) fn a_node_that_does_not_reach_the_api_server_costs_no_connection(lab: &Lab) {
    until_in_service(lab);
    // Kubernetes notices at some time, and what it does then must cost nothing either.
    let begun = Instant::now();
    let api = Filter::new(lab, VICTIM, &["tcp dport 6443 drop", "tcp sport 6443 drop"]);
    sleep_until(begun, OUT_WITHIN);
    none_fails(lab);
    api.lift();
    until_in_service(lab);
    none_fails(lab);
}
