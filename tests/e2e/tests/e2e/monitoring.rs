//! A real Prometheus scrapes every process of EPIC, and has the figures that the chart's alerts are made of.

use std::collections::BTreeSet;
use std::path::Path;

use epic_e2e::lab::Lab;
use serde_json::{Value, json};

/// Where Prometheus listens on each host: on loopback, so it is that host's alone.
const LISTEN: &str = "127.0.0.1:9090";

/// What is declared with the first that is counted: an object that does not parse.
const APPEAR_WITH_THE_FIRST: &str = "epic_unreadable_objects";

/// A Prometheus on one host of the lab.
struct Prometheus<'l> {
    lab: &'l Lab,
    host: &'static str,
}

impl<'l> Prometheus<'l> {
    fn start(lab: &'l Lab, host: &'static str, targets: &Value) -> Self {
        let folder = lab.folder().join("prometheus").join(host);
        std::fs::create_dir_all(&folder).expect("the lab's folder is writable");
        let alerts = Path::new(env!("EPIC_CHECKOUT")).join("charts/epic/files/monitoring/alerts.yaml");
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [alerts],
            "scrape_configs": targets,
        });
        let file = folder.join("prometheus.json");
        std::fs::write(&file, config.to_string()).expect("the lab's folder is writable");
        let program = lab.tool("prometheus");
        lab.lab(&[
            "start",
            host,
            "prometheus",
            "--",
            &program,
            &format!("--config.file={}", file.display()),
            &format!("--storage.tsdb.path={}", folder.join("data").display()),
            &format!("--web.listen-address={LISTEN}"),
        ]);
        Self { lab, host }
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let url = format!("http://{LISTEN}/api/v1/{path}");
        let text = self.lab.try_lab(&["run", self.host, "--", "curl", "-fsS", "--max-time", "5", &url])?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(answer["data"].clone())
    }

    /// Waits until all targets were scraped without error.
    fn until_all_are_up(&self, count: usize) {
        self.lab.until("Prometheus scrapes every target", || {
            let targets = self.ask("targets?state=active")?;
            let targets = targets["activeTargets"].as_array().cloned().unwrap_or_default();
            let down: Vec<String> = targets
                .iter()
                .filter(|target| target["health"] != "up")
                .map(|target| format!("{}: {}", target["scrapeUrl"], target["lastError"]))
                .collect();
            if targets.len() == count && down.is_empty() {
                Ok(())
            } else {
                Err(format!("{} of {count} targets; not up: {down:?}", targets.len()))
            }
        });
    }

    /// Names of all figures, as their processes declare them: one that was not counted yet has a name, too.
    fn declared(&self) -> BTreeSet<String> {
        let rows = self.ask("targets/metadata").expect("metadata");
        let names = rows.as_array().into_iter().flatten().filter_map(|row| row["metric"].as_str());
        names.map(|name| name.trim_end_matches("_total").to_owned()).collect()
    }

    /// Rules that Prometheus could not evaluate.
    fn failing_rules(&self) -> Vec<String> {
        let groups = self.ask("rules").expect("rules");
        let rules = groups["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        rules
            .filter(|rule| rule["health"] == "err")
            .map(|rule| format!("{}: {}", rule["name"], rule["lastError"]))
            .collect()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.lab.try_lab(&["stop", self.host, "prometheus"]);
    }
}

/// Names of EPIC's figures in the chart's alerts, without what a histogram or counter adds to them.
fn in_alerts() -> BTreeSet<String> {
    let text = include_str!("../../../../charts/epic/files/monitoring/alerts.yaml");
    let rules =
        text.lines().filter(|line| !line.trim_start().starts_with(['#', '-']) || line.contains("expr"));
    let words = rules.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words
        .filter(|word| word.starts_with("epic_") && !word.starts_with(APPEAR_WITH_THE_FIRST))
        .map(|word| word.trim_end_matches("_bucket").trim_end_matches("_total").to_owned())
        .collect()
}

/// `address:port` of the pods with a label on some nodes.
fn addresses(lab: &Lab, namespace: &str, label: &str, port: u16, nodes: &[&str]) -> Vec<String> {
    let pods = lab.list(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector={label}"));
    let running = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let running =
        running.filter(|pod| pod["spec"]["nodeName"].as_str().is_some_and(|node| nodes.contains(&node)));
    running.filter_map(|pod| Some(format!("{}:{port}", pod["status"]["podIP"].as_str()?))).collect()
}

pub(crate) fn every_process_is_scraped_and_every_alert_has_its_figures(lab: &Lab) {
    let operators = addresses(lab, "epic", "app.kubernetes.io/name=epic-operator", 8080, &["node1", "node2"]);
    // The fence lets a proxy answer scrapers on its node and in the pod network; the lab's pods of other nodes are reached by
    // the underlay, by which a proxy answers nobody.
    let proxies = addresses(lab, "epic-sample", "epic.acnodal.io/load-balancer", 9901, &["node1"]);
    assert!(!operators.is_empty() && !proxies.is_empty(), "{operators:?} {proxies:?}");
    let job = |name: &str, path: &str, targets: &[String]| json!({"job_name": name, "metrics_path": path, "static_configs": [{"targets": targets}]});
    let agent = ["127.0.0.1:9980".to_owned()];
    let count = operators.len() + proxies.len() + agent.len();
    let of_cluster = Prometheus::start(
        lab,
        "node1",
        &json!([
            job("epic-metrics", "/metrics", &operators),
            job("epic/epic-agent", "/metrics", &agent),
            job("epic/epic-proxies", "/stats/prometheus", &proxies),
        ]),
    );
    let of_client = Prometheus::start(
        lab,
        "client1",
        &json!([job("epic-client", "/metrics", &["127.0.0.1:9981".to_owned()])]),
    );
    of_cluster.until_all_are_up(count);
    of_client.until_all_are_up(1);
    let declared = of_cluster.declared();
    let missing: Vec<String> = in_alerts().into_iter().filter(|name| !declared.contains(name)).collect();
    assert!(missing.is_empty(), "alerts name figures that no process has: {missing:?}");
    assert_eq!(of_cluster.failing_rules(), Vec::<String>::new());
}
