//! The screen. Pure.

use std::fmt::Write as _;

use super::table::{table, visible};
use super::{Balancer, EndpointLine, Overview, Problem};

/// For programs.
pub fn json(overview: &Overview) -> String {
    let mut text = serde_json::to_string_pretty(overview).expect("texts and numbers are JSON");
    text.push('\n');
    text
}

/// For people.
pub fn render(overview: &Overview) -> String {
    let mut text = String::new();
    let wrong = count(overview);
    let verdict = match wrong {
        0 => "nothing is wrong".to_owned(),
        1 => "1 thing is wrong (!)".to_owned(),
        more => format!("{more} things are wrong (!)"),
    };
    let operator = match &overview.operator {
        Some(operator) => format!("operator {} leads", visible(operator)),
        None => "no operator leads".to_owned(),
    };
    let _ = writeln!(text, "EPIC: {verdict}; {operator}");
    problems(&mut text, 2, &overview.problems);
    nodes(&mut text, overview);
    accounts(&mut text, overview);
    pools(&mut text, overview);
    for group in &overview.groups {
        let _ = writeln!(text, "\nSERVICE GROUP {}/{}", group.namespace, group.name);
        problems(&mut text, 2, &group.problems);
    }
    for balancer in &overview.load_balancers {
        load_balancer(&mut text, balancer);
    }
    if !overview.stray_endpoints.is_empty() {
        text.push_str("\nENDPOINTS WITHOUT LOAD BALANCER\n");
        endpoints(&mut text, &overview.stray_endpoints, true);
    }
    if !overview.releasing.is_empty() {
        text.push_str("\nADDRESSES BEING RELEASED\n");
        let rows: Vec<Vec<String>> = overview
            .releasing
            .iter()
            .map(|claim| vec![claim.address.clone(), claim.owner.clone(), claim.waits_for.join(", ")])
            .collect();
        text.push_str(&table(2, &["ADDRESS", "LAST OWNER", "WAITS FOR"], &rows));
    }
    text
}

/// How many things are wrong.
fn count(overview: &Overview) -> usize {
    let balancers = overview.load_balancers.iter().map(|balancer| {
        let endpoints = balancer.endpoints.iter().map(|endpoint| endpoint.problems.len());
        balancer.problems.len() + endpoints.sum::<usize>()
    });
    overview.problems.len()
        + overview.nodes.iter().map(|node| node.problems.len()).sum::<usize>()
        + overview.accounts.iter().map(|account| account.problems.len()).sum::<usize>()
        + overview.pools.iter().map(|pool| pool.problems.len()).sum::<usize>()
        + overview.groups.iter().map(|group| group.problems.len()).sum::<usize>()
        + overview.stray_endpoints.iter().map(|endpoint| endpoint.problems.len()).sum::<usize>()
        + balancers.sum::<usize>()
}

fn problems(text: &mut String, indent: usize, problems: &[Problem]) {
    for problem in problems {
        let condition =
            problem.condition.as_ref().map(|condition| format!("{condition} ")).unwrap_or_default();
        let message = visible(&problem.message);
        let message = if message.is_empty() { String::new() } else { format!(": {message}") };
        let _ = writeln!(text, "{:indent$}! {condition}{}{message}", "", problem.reason);
    }
}

/// Problems of the lines of a table, each with the line's name.
fn named_problems<'a>(
    text: &mut String,
    indent: usize,
    lines: impl Iterator<Item = (&'a str, &'a [Problem])>,
) {
    for (name, all) in lines {
        for problem in all {
            let mut one = String::new();
            problems(&mut one, 0, std::slice::from_ref(problem));
            let _ = write!(text, "{:indent$}! {name}: {}", "", one.trim_start_matches("! "));
        }
    }
}

fn nodes(text: &mut String, overview: &Overview) {
    let rows: Vec<Vec<String>> = overview
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.ready.clone(),
                node.addresses.join(","),
                format!("{}/{}", node.tunnels_up, node.tunnels),
                node.fullest_map.as_ref().map(|(map, share)| format!("{map} {share}%")).unwrap_or_default(),
                node.kernel.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    text.push_str("\nNODES\n");
    text.push_str(&table(2, &["NAME", "READY", "ADDRESSES", "TUNNELS UP", "FULLEST MAP", "KERNEL"], &rows));
    named_problems(text, 2, overview.nodes.iter().map(|node| (node.name.as_str(), node.problems.as_slice())));
}

fn accounts(text: &mut String, overview: &Overview) {
    let of = |(used, limit): (i64, i64)| format!("{used}/{limit}");
    let id = |id: Option<i64>| id.map(|id| id.to_string()).unwrap_or_default();
    let rows: Vec<Vec<String>> = overview
        .accounts
        .iter()
        .map(|account| {
            vec![
                account.name.clone(),
                account.ready.clone(),
                account.namespace.clone().unwrap_or_default(),
                id(account.group_id),
                of(account.load_balancers),
                of(account.proxies),
                of(account.endpoints),
            ]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    text.push_str("\nACCOUNTS\n");
    let head = ["NAME", "READY", "NAMESPACE", "GROUP-ID", "LOAD BALANCERS", "PROXIES", "ENDPOINTS"];
    text.push_str(&table(2, &head, &rows));
    let lines = overview.accounts.iter().map(|account| (account.name.as_str(), account.problems.as_slice()));
    named_problems(text, 2, lines);
}

fn pools(text: &mut String, overview: &Overview) {
    let rows: Vec<Vec<String>> = overview
        .pools
        .iter()
        .map(|pool| {
            vec![
                pool.name.clone(),
                pool.ready.clone(),
                pool.used.join(" "),
                pool.advertise.clone().unwrap_or_default(),
                pool.addresses.join(","),
            ]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    text.push_str("\nPOOLS\n");
    text.push_str(&table(2, &["NAME", "READY", "USED", "ADVERTISED", "ADDRESSES"], &rows));
    named_problems(text, 2, overview.pools.iter().map(|pool| (pool.name.as_str(), pool.problems.as_slice())));
}

fn load_balancer(text: &mut String, balancer: &Balancer) {
    let address = balancer.address.as_deref().unwrap_or("no address yet");
    let id = balancer.service_id.map(|id| format!(", service {id}")).unwrap_or_default();
    let _ = writeln!(
        text,
        "\nLOAD BALANCER {}/{}  {} {}  ready {}  (group {}{id})",
        balancer.namespace,
        balancer.name,
        visible(address),
        balancer.ports.join(","),
        balancer.ready,
        balancer.group,
    );
    problems(text, 2, &balancer.problems);
    let proxies: Vec<Vec<String>> = balancer
        .proxies
        .iter()
        .map(|proxy| {
            vec![
                proxy.pod.clone(),
                proxy.state.clone(),
                proxy.node.clone().unwrap_or_default(),
                proxy.id.map(|id| id.to_string()).unwrap_or_default(),
                proxy.address.clone().unwrap_or_default(),
            ]
        })
        .collect();
    text.push_str(&table(2, &["PROXY", "STATE", "NODE", "ID", "ADDRESS"], &proxies));
    let tunnels: Vec<Vec<String>> = balancer
        .tunnels
        .iter()
        .map(|tunnel| {
            let state = match (tunnel.up, tunnel.nat) {
                (Some(true), true) => "up, NAT",
                (Some(true), false) => "up",
                (Some(false), _) => "down",
                (None, _) => "unknown",
            };
            vec![
                tunnel.id.to_string(),
                state.to_owned(),
                tunnel.client.clone(),
                tunnel.node.clone().unwrap_or_else(|| tunnel.epic_address.clone()),
                tunnel.since.clone().unwrap_or_default(),
            ]
        })
        .collect();
    text.push_str(&table(2, &["TUNNEL", "STATE", "CLIENT NODE", "EPIC NODE", "SINCE"], &tunnels));
    endpoints(text, &balancer.endpoints, false);
}

fn endpoints(text: &mut String, lines: &[EndpointLine], namespaced: bool) {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|endpoint| {
            let name = if namespaced {
                format!("{}/{}", endpoint.namespace, endpoint.name)
            } else {
                endpoint.name.clone()
            };
            vec![
                name,
                endpoint.programmed.clone(),
                endpoint.address.clone(),
                endpoint.client.clone().unwrap_or_else(|| "no tunnel".to_owned()),
                endpoint.alias.clone().unwrap_or_default(),
                endpoint.weight.to_string(),
            ]
        })
        .collect();
    let head = ["ENDPOINT", "PROGRAMMED", "ADDRESS", "CLIENT NODE", "ALIAS", "WEIGHT"];
    text.push_str(&table(2, &head, &rows));
    named_problems(text, 2, lines.iter().map(|line| (line.name.as_str(), line.problems.as_slice())));
}
