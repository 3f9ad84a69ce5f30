//! `epic-traffic`: asks, loads and looks, in the network namespace it is started in (`hack/lab run HOST -- …`).
//!
//! Output is JSON, but for packets, which are for people.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use epic_testnet::{Capture, Netns};
use epic_traffic::{Load, Question, Tally, packet};

/// Requests from the internet of the lab, counted by who answered, and a look at packets on the wire.
#[derive(Debug, Parser)]
#[command(name = "epic-traffic", version)]
enum Cli {
    /// Asks, each time over a new connection, and prints who answered how often.
    Ask {
        /// Address and port.
        to: SocketAddr,
        /// How many times.
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// Path of the URL.
        #[arg(long, default_value = "/")]
        path: String,
        /// Milliseconds to wait for a connection, and for bytes.
        #[arg(long, default_value_t = 10_000)]
        patience_ms: u64,
    },
    /// Asks again and again until there is an answer, and prints the milliseconds it took.
    Until {
        /// Address and port.
        to: SocketAddr,
        /// Only an answer of a server on this host of the lab counts.
        #[arg(long)]
        host: Option<String>,
        /// Seconds after which it fails.
        #[arg(long, default_value_t = 60)]
        limit: u64,
    },
    /// Measures requests a second and how long they take.
    Load {
        /// Address and port.
        to: SocketAddr,
        /// Requests in flight.
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// For how long.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// A new connection for each request.
        #[arg(long)]
        reconnect: bool,
    },
    /// Prints tunnelled packets that carry data.
    Packets {
        /// Interface to listen on.
        #[arg(long, default_value = "eth0")]
        interface: String,
        /// How many: one each way, and so on.
        #[arg(long, default_value_t = 2)]
        count: usize,
        /// Seconds after which it fails.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Ask { to, count, path, patience_ms } => {
            ask(to, count, &path, Duration::from_millis(patience_ms))
        }
        Cli::Until { to, host, limit } => until(to, host.as_deref(), Duration::from_secs(limit)),
        Cli::Load { to, connections, seconds, reconnect } => {
            let load = Load { to, connections, duration: Duration::from_secs(seconds), reconnect };
            print(&load.run())
        }
        Cli::Packets { interface, count, limit } => packets(&interface, count, Duration::from_secs(limit)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epic-traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(value: &impl serde::Serialize) -> Result<(), String> {
    println!("{}", serde_json::to_string_pretty(value).map_err(|error| error.to_string())?);
    Ok(())
}

fn ask(to: SocketAddr, count: u64, path: &str, patience: Duration) -> Result<(), String> {
    let question = Question::new(to).path(path).patience(patience);
    let mut tally = Tally::default();
    for _ in 0..count {
        tally.count(&question.ask());
    }
    print(&tally)?;
    if tally.failed == 0 { Ok(()) } else { Err(format!("{} of {count} requests failed", tally.failed)) }
}

fn until(to: SocketAddr, host: Option<&str>, limit: Duration) -> Result<(), String> {
    let question = Question::new(to).patience(Duration::from_millis(250));
    let start = Instant::now();
    loop {
        let outcome = question.ask();
        if let Ok(answer) = &outcome
            && host.is_none_or(|host| host == answer.host)
        {
            println!("{:.1}", start.elapsed().as_secs_f64() * 1_000.0);
            return Ok(());
        }
        if start.elapsed() > limit {
            return Err(match outcome {
                Ok(answer) => format!("within {limit:?} only {} answered", answer.host),
                Err(error) => format!("no answer within {limit:?}: {error}"),
            });
        }
        // Only what fails at once is paced.
        if outcome.is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn packets(interface: &str, count: usize, limit: Duration) -> Result<(), String> {
    let here = Netns::of_process("here", std::process::id());
    let mut capture = Capture::start(&here, interface);
    eprintln!("listening");
    let carries_data = |outgoing: bool, frame: &epic_testnet::Frame| {
        let shown = frame.ipv4().and_then(|packet| packet::describe(packet).ok().flatten());
        shown.filter(|text| frame.outgoing == outgoing && text.contains("bytes of data: "))
    };
    // One from each direction in turn, as a request and its answer are.
    let pick = |frames: &[epic_testnet::Frame]| {
        let mut found = Vec::new();
        for frame in frames {
            let outgoing = found.len() % 2 == 0;
            found.extend(carries_data(outgoing, frame));
        }
        found
    };
    let frames =
        capture.wait(limit, "tunnelled packets with data both ways", |frames| pick(frames).len() >= count);
    for text in pick(frames).into_iter().take(count) {
        println!("{text}");
    }
    Ok(())
}
