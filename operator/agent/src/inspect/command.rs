//! The commands beside a running agent, for people and scripts.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epic_datapath::Maps;

use super::view::{self, Tunnel, View};

/// How long to wait for an agent that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Columns.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// Where an agent has its pins and its socket.
#[derive(Clone, Debug)]
pub struct Place {
    /// Directory of pins.
    pub bpffs_dir: PathBuf,
    /// Unix socket.
    pub socket: PathBuf,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The agent, its links and tunnels in short.
    Status,
    /// Every tunnel.
    Tunnels,
    /// The maps, entry by entry.
    MapsDump(epic_datapath::dump::Extent),
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither an agent nor pins.
    #[error("no agent answers and no maps are pinned here ({0}); is this an EPIC node or a client node?")]
    Nothing(String),
    /// The data plane.
    #[error(transparent)]
    Datapath(#[from] epic_datapath::Error),
    /// A document that is not one.
    #[error("the agent's answer was not understood: {0}; is it of the same version?")]
    Answer(#[from] serde_json::Error),
}

/// Prints for the first of these places where something is.
///
/// # Errors
/// [`Error`].
pub fn print(command: Command, form: Form, places: &[Place]) -> Result<String, Error> {
    let mut missed = Vec::new();
    for place in places {
        match at(command, form, place) {
            Err(Error::Datapath(error @ epic_datapath::Error::NoMaps(_))) => missed.push(error.to_string()),
            done => return done,
        }
    }
    Err(Error::Nothing(missed.join("; ")))
}

fn at(command: Command, form: Form, place: &Place) -> Result<String, Error> {
    let maps = Maps::open(&place.bpffs_dir)?;
    if let Command::MapsDump(extent) = command {
        let text = epic_datapath::dump::dump(&maps, extent)?;
        return Ok(match form {
            Form::Text => text,
            Form::Json => json(&text.lines().collect::<Vec<_>>())?,
        });
    }
    let view = match ask(&place.socket) {
        Some(text) => serde_json::from_slice(&text)?,
        None => view::from_pins(&maps)?,
    };
    match (command, form) {
        (Command::Tunnels, Form::Json) => json(&view.tunnels),
        (Command::Tunnels, Form::Text) => Ok(tunnels(&view.tunnels)),
        (_, Form::Json) => json(&view),
        (_, Form::Text) => status(&view, &place.bpffs_dir),
    }
}

fn ask(socket: &Path) -> Option<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // Nothing is asked: then the document comes at once.
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

fn json(value: &impl serde::Serialize) -> Result<String, Error> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn status(view: &View, dir: &Path) -> Result<String, Error> {
    let mut out = String::new();
    let agent = match (view.running, view.pending.is_empty()) {
        (false, _) => "not running (its programs and maps are)",
        (true, true) => "ready",
        (true, false) => "waiting",
    };
    let up = view.tunnels.iter().filter(|tunnel| tunnel.up == Some(true)).count();
    // Writing to a String does not fail.
    let _ = writeln!(out, "agent    {} {} {agent}", view.side, view.name);
    for (name, why) in &view.pending {
        let _ = writeln!(out, "waits    {name}: {why}");
    }
    let _ = writeln!(out, "maps     {}", view.maps);
    let _ = writeln!(out, "tunnels  {} up, {} in all", up, view.tunnels.len());
    for link in epic_datapath::links(dir)? {
        let state = match (link.alive, link.place) {
            (false, _) => "its interface is gone".to_owned(),
            (true, Some(0)) => "first".to_owned(),
            (true, Some(place)) => format!("behind {place} others"),
            (true, None) => "not at the hook".to_owned(),
        };
        let _ = writeln!(out, "program  {}, {state}", link.attachment);
    }
    Ok(out)
}

fn tunnels(tunnels: &[Tunnel]) -> String {
    let header =
        ["TUNNEL", "LOADBALANCER", "CLIENT", "EPIC", "REMOTE", "STATE", "NAT", "RTT", "SENT", "RECEIVED"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(tunnels.iter().map(row));
    let widths: Vec<usize> = (0..header.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; 10]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn row(tunnel: &Tunnel) -> [String; 10] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = match (tunnel.up, &tunnel.refusal) {
        (Some(true), _) => "up".to_owned(),
        (_, Some(refusal)) => format!("refused: {refusal}"),
        (Some(false), None) => "down".to_owned(),
        (None, None) => "unknown".to_owned(),
    };
    let traffic = |packets: u64, bytes: u64| format!("{packets} packets, {bytes} bytes");
    [
        tunnel.id.to_string(),
        tunnel.load_balancer.clone().unwrap_or_else(|| format!("{}/{}", tunnel.group_id, tunnel.service_id)),
        or_dash(tunnel.client_node.map(|address| address.to_string())),
        or_dash(tunnel.epic_address.map(|address| address.to_string())),
        or_dash(tunnel.remote.clone()),
        state,
        if tunnel.nat { "yes" } else { "no" }.to_owned(),
        or_dash(tunnel.round_trip_micros.map(|micros| format!("{:.3} ms", f64::from(micros) / 1_000.0))),
        traffic(tunnel.transmitted_packets, tunnel.transmitted_bytes),
        traffic(tunnel.received_packets, tunnel.received_bytes),
    ]
}
