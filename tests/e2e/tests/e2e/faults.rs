//! What fails without a connection failing.

use std::time::Duration;

use epic_e2e::lab::Lab;
use epic_e2e::stream::Stream;
use serde_json::Value;

const REQUESTS: u64 = 1_000;

/// 1,000 new connections, to each tenant's VIP by turns of two clients, while `fault` goes on.
fn no_connection_fails_while(lab: &Lab, fault: impl FnOnce()) {
    let streams = [("sample", "epic-sample", "sample-acnodal"), ("other", "epic-other", "web")]
        .map(|(tenant, namespace, name)| (tenant, Stream::start(lab, lab.vip(namespace, name))));
    fault();
    for (tenant, stream) in streams {
        let tally = stream.finish(REQUESTS);
        assert!(tally.is_right(tenant), "tenant {tenant}: {tally}");
    }
    lab.stage(&["ready"]);
}

fn pods(lab: &Lab, component: &str) -> Vec<Value> {
    lab.list(&format!("/api/v1/namespaces/epic/pods?labelSelector=app.kubernetes.io/name=epic-{component}"))
}

fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && epic_e2e::lab::is_true(pod, "Ready")
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0)
}

pub(crate) fn no_connection_fails_while_operators_are_killed(lab: &Lab) {
    no_connection_fails_while(lab, || {
        let before: Vec<String> =
            pods(lab, "operator").iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
        assert_eq!(before.len(), 2, "two operators run");
        lab.stage(&[
            "kubectl",
            "delete",
            "pods",
            "-n",
            "epic",
            "-l",
            "app.kubernetes.io/name=epic-operator",
            "--force",
            "--grace-period=0",
        ]);
        lab.until("two new operators are ready", || {
            let pods = pods(lab, "operator");
            let new = pods.iter().filter(|pod| !before.contains(&pod["metadata"]["uid"].to_string()));
            if new.filter(|pod| is_ready(pod)).count() == 2 { Ok(()) } else { Err(pods.len()) }
        });
    });
}

/// Processes of this lab with these words on their command lines.
fn processes(lab: &Lab, words: [&str; 2]) -> Vec<u32> {
    let name = std::fs::read_to_string(lab.folder().join("name")).expect("the lab's name");
    let all = std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.parse::<u32>().ok()
    });
    all.filter(|pid| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = read("cmdline");
        let mut arguments = command.split('\0');
        arguments.next().is_some_and(|program| program.ends_with(words[0]))
            && arguments.next() == Some(words[1])
            && read("cgroup").contains(&format!("/{}/", name.trim()))
    })
    .collect()
}

fn kill(pid: u32) {
    let done = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "process {pid} could not be killed");
}

pub(crate) fn no_connection_fails_while_agents_are_killed(lab: &Lab) {
    no_connection_fails_while(lab, || {
        let before: u64 = pods(lab, "agent").iter().map(restarts).sum();
        let agents = processes(lab, ["/epic-agent", "node"]);
        assert_eq!(agents.len(), 2, "an agent runs on every node");
        agents.into_iter().for_each(kill);
        for client in ["client1", "client2", "client3"] {
            lab.lab(&["stop", client, "epic-agent", "KILL"]);
        }
        assert!(processes(lab, ["/epic-agent", "client"]).is_empty(), "no client agent runs");
        for client in ["client1", "client2", "client3"] {
            lab.lab(&["start", client, "epic-agent"]);
        }
        lab.until("both agents run again", || {
            let pods = pods(lab, "agent");
            let restarted = pods.iter().map(restarts).sum::<u64>() == before + 2;
            if restarted && pods.iter().all(is_ready) {
                Ok(())
            } else {
                Err(pods.iter().map(restarts).sum::<u64>())
            }
        });
        lab.until("every tunnel is up", || {
            let tunnels: Vec<Value> = lab.nodes().iter().flat_map(|node| lab.tunnels(node)).collect();
            if tunnels.iter().all(|tunnel| tunnel["up"] == true) { Ok(()) } else { Err(tunnels) }
        });
    });
}

pub(crate) fn no_connection_fails_while_the_api_server_is_gone(lab: &Lab) {
    no_connection_fails_while(lab, || {
        lab.lab(&["stop", "cp", "kube-apiserver", "KILL"]);
        // The absence is what is tested, and this is how long the promise says it may last.
        std::thread::sleep(Duration::from_secs(30));
        lab.lab(&["start", "cp", "kube-apiserver"]);
        lab.until("the API server answers", || {
            let answer = lab.send(epic_control_plane::Request::get("/readyz"));
            if answer.is_ok() { Ok(()) } else { Err(answer.message().to_owned()) }
        });
        lab.until("agents and operators are ready", || {
            let pods: Vec<Value> =
                ["agent", "operator"].iter().flat_map(|component| pods(lab, component)).collect();
            if pods.len() == 4 && pods.iter().all(is_ready) { Ok(()) } else { Err(pods.len()) }
        });
    });
}
