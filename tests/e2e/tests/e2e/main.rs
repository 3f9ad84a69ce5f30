//! EPIC end to end, on the staged lab: real nodes, proxies, tunnels and clients.
//!
//! One lab serves all scenarios, one after the other in this order; each leaves it as it found it, but for the last
//! one, which deletes everything. So this binary has a `main` of its own: it stages the lab, runs what was asked for
//! (names or parts of names, as with any test binary), and takes the lab down. A scenario that panics has failed; what
//! is wrong in the lab at that moment is printed behind it.
//!
//! `KEEP=1` leaves the lab up; `STAGED=1` takes the lab that is up as it is.

mod chart;
mod deletion;
mod faults;
mod fence;
mod forged;
mod grey;
mod members;
mod monitoring;
mod tenants;
mod wire;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use epic_e2e::lab::Lab;

type Scenario = (&'static str, fn(&Lab));

macro_rules! scenarios {
    ($($module:ident :: $name:ident,)+) => {
        const SCENARIOS: &[Scenario] = &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name),)+];
    };
}

scenarios! {
    wire::tunnelled_packets_are_what_the_draft_says,
    tenants::equal_pod_addresses_of_two_tenants_are_never_confused,
    forged::forged_packets_are_dropped_and_counted_and_move_no_tunnel,
    fence::a_pod_that_nobody_lists_answers_its_probes_and_reaches_nothing,
    members::traffic_follows_the_endpoints,
    members::many_endpoints_at_once_all_come_into_force,
    members::replicas_come_and_go_without_a_failed_request,
    members::two_proxies_may_use_the_same_source_port_at_once,
    monitoring::every_process_is_scraped_and_every_alert_has_its_figures,
    faults::no_connection_fails_while_operators_are_killed,
    faults::no_connection_fails_while_agents_are_killed,
    faults::no_connection_fails_while_the_api_server_is_gone,
    grey::the_only_endpoint_is_away_for_a_second_four_times,
    grey::a_bootstrap_that_envoy_refuses_costs_no_connection_and_is_told,
    grey::a_node_that_lost_its_routes_is_out_of_service_and_comes_back,
    grey::a_node_that_clients_do_not_reach_is_out_of_service_and_a_proxy_that_is_cut_off_is_named,
    grey::a_node_that_does_not_reach_the_api_server_costs_no_connection,
    chart::an_upgrade_costs_no_connection,
    chart::the_rendered_chart_applied_while_it_serves_changes_nothing,
    chart::uninstallation_leaves_no_trace_and_an_installation_takes_up_what_it_kept,
    deletion::deleted_objects_leave_nothing_behind,
}

/// What a panic said; the summary repeats it, since the lab's state lies between the two.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let wanted: Vec<&Scenario> = SCENARIOS.iter().filter(|(name, _)| is_wanted(name)).collect();
    if arguments.iter().any(|word| word == "--list") {
        wanted.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    let begun = Instant::now();
    let mut failed: Vec<String> = Vec::new();
    if !wanted.is_empty() {
        let lab = catch_unwind(Lab::up);
        for (name, scenario) in &wanted {
            let start = Instant::now();
            let ended = match &lab {
                Ok(lab) => catch_unwind(AssertUnwindSafe(|| scenario(lab))).map_err(|panic| {
                    eprintln!("---- {name}: the lab at this moment\n{}", lab.why());
                    message(&*panic)
                }),
                Err(panic) => Err(format!("there is no lab: {}", message(&**panic))),
            };
            let verdict = if ended.is_ok() { "ok" } else { "FAILED" };
            println!("test {name} ... {verdict} ({:.1} s)", start.elapsed().as_secs_f64());
            failed.extend(ended.err().map(|why| format!("{name}: {why}")));
        }
        if let (Ok(lab), None) = (&lab, std::env::var_os("KEEP")) {
            lab.down();
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        wanted.len() - failed.len(),
        failed.len(),
        SCENARIOS.len() - wanted.len(),
        begun.elapsed().as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
