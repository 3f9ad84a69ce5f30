//! The client node's own nftables table.
//!
//! - *Null source NAT for proxy addresses.* A reply to a proxy whose conntrack entry was lost counts as new, and a
//!   CNI's masquerade (priority 100) would give it another source, so the tunnel refuses it. A rule one step earlier
//!   binds such packets to the address they have. `accept` would not do: later chains of the hook still run.
//! - *Forwarding through `epic0`.* Accepted in our own table for the sake of rules that ask for it, and in the two
//!   places where hosts commonly drop what nobody accepted: Docker's `DOCKER-USER` chain, else the `FORWARD` chain
//!   that iptables-nft keeps, when its policy is drop. A drop in somebody else's chain is final whatever our table
//!   says; [`forward_drops`] names the chains that are left, for the agent to report.
//!
//! All changes are made by `nft -f`, each file one transaction: a repeated or interrupted run leaves either the old
//! state or the new one. Only the client agent needs the `nft` program.

use std::io;
use std::process::Stdio;

use ipnet::IpNet;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Our table, in family `inet`.
pub const TABLE: &str = "epic_client";

/// Marks our rules in chains that are not ours.
const COMMENT: &str = "epic";

/// Why the table is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("could not run nft: {0}; install the nftables package")]
    Missing(#[source] io::Error),
    /// The program refused the rules.
    #[error("nft refused {what}: {output}")]
    Refused {
        /// What was asked, in words.
        what: &'static str,
        /// What it wrote to its error output.
        output: String,
    },
    /// The program's listing was not understood.
    #[error("the listing of nft was not understood: {0}")]
    Listing(#[from] serde_json::Error),
}

/// The table as text for `nft -f`: emptied and made anew in one transaction.
pub fn rules(device: &str, proxies: &[IpNet]) -> String {
    let nat = proxies
        .iter()
        .map(|range| match range {
            IpNet::V4(range) => format!("\t\tip daddr {range} snat ip to ip saddr\n"),
            IpNet::V6(range) => format!("\t\tip6 daddr {range} snat ip6 to ip6 saddr\n"),
        })
        .collect::<String>();
    format!(
        "add table inet {TABLE}\n\
         flush table inet {TABLE}\n\
         table inet {TABLE} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority 99; policy accept;\n\
         {nat}\
         \t}}\n\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority -1; policy accept;\n\
         \t\tiifname \"{device}\" accept\n\
         \t\toifname \"{device}\" accept\n\
         \t}}\n\
         }}\n"
    )
}

/// Puts the table in place, and the accept rules where iptables-nft would drop. Run it at start and at every full
/// pass: Docker and firewalld rebuild their chains at will.
///
/// # Errors
/// `nft` is missing or refused.
pub async fn ensure(device: &str, proxies: &[IpNet]) -> Result<(), Error> {
    feed("the table of EPIC", &rules(device, proxies)).await?;
    let chains = list("chains", &["list", "chains"]).await?;
    let Some(chain) = iptables_chain(&chains) else { return Ok(()) };
    let listing = list("the forward chain", &["list", "chain", "ip", "filter", chain]).await?;
    if marked_rules(&listing).is_empty() {
        let insert = ["iifname", "oifname"]
            .map(|side| {
                format!("insert rule ip filter {chain} {side} \"{device}\" accept comment \"{COMMENT}\"\n")
            })
            .concat();
        feed("accept rules for the device", &insert).await?;
    }
    Ok(())
}

/// Takes away all that [`ensure`] made. Repeating it is harmless.
///
/// # Errors
/// `nft` is missing or refused.
pub async fn remove() -> Result<(), Error> {
    feed("the removal of EPIC's table", &format!("add table inet {TABLE}\ndelete table inet {TABLE}\n"))
        .await?;
    let chains = list("chains", &["list", "chains"]).await?;
    for chain in ["DOCKER-USER", "FORWARD"] {
        if !has_chain(&chains, chain) {
            continue;
        }
        let listing = list("the forward chain", &["-a", "list", "chain", "ip", "filter", chain]).await?;
        let script = marked_rules(&listing)
            .iter()
            .map(|handle| format!("delete rule ip filter {chain} handle {handle}\n"))
            .collect::<String>();
        if !script.is_empty() {
            feed("the removal of accept rules", &script).await?;
        }
    }
    Ok(())
}

/// Forward chains of others whose policy drops what they do not accept, as `family table chain`. Those in which
/// [`ensure`] has put its rules are left out.
///
/// # Errors
/// `nft` is missing or refused.
pub async fn forward_drops() -> Result<Vec<String>, Error> {
    let chains = list("chains", &["list", "chains"]).await?;
    let ours = iptables_chain(&chains).is_some();
    Ok(chain_objects(&chains)
        .filter(|chain| text(chain, "hook") == "forward" && text(chain, "policy") == "drop")
        .filter(|chain| text(chain, "table") != TABLE)
        .filter(|chain| !(ours && is_iptables_filter(chain)))
        .map(|chain| format!("{} {} {}", text(chain, "family"), text(chain, "table"), text(chain, "name")))
        .collect())
}

/// The chain of iptables-nft that has to accept, when one may drop.
fn iptables_chain(chains: &Value) -> Option<&'static str> {
    if has_chain(chains, "DOCKER-USER") {
        return Some("DOCKER-USER");
    }
    let drops = chain_objects(chains).any(|chain| {
        is_iptables_filter(chain) && text(chain, "name") == "FORWARD" && text(chain, "policy") == "drop"
    });
    drops.then_some("FORWARD")
}

fn has_chain(chains: &Value, name: &str) -> bool {
    chain_objects(chains).any(|chain| is_iptables_filter(chain) && text(chain, "name") == name)
}

fn is_iptables_filter(chain: &Value) -> bool {
    text(chain, "family") == "ip" && text(chain, "table") == "filter"
}

fn chain_objects(listing: &Value) -> impl Iterator<Item = &Value> {
    objects(listing, "chain")
}

fn objects<'a>(listing: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    listing.get("nftables").and_then(Value::as_array).into_iter().flatten().filter_map(move |o| o.get(kind))
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Handles of our rules in a chain that is not ours.
fn marked_rules(listing: &Value) -> Vec<u64> {
    objects(listing, "rule")
        .filter(|rule| text(rule, "comment") == COMMENT)
        .filter_map(|rule| rule.get("handle").and_then(Value::as_u64))
        .collect()
}

async fn list(what: &'static str, arguments: &[&str]) -> Result<Value, Error> {
    let output = Command::new("nft")
        .arg("-j")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(Error::Missing)?;
    if !output.status.success() {
        return Err(refused(what, &output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn feed(what: &'static str, script: &str) -> Result<(), Error> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::Missing)?;
    if let Some(mut input) = child.stdin.take() {
        // A broken pipe means that nft has given up already; its error output says why.
        let _ = input.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(Error::Missing)?;
    if output.status.success() { Ok(()) } else { Err(refused(what, &output.stderr)) }
}

fn refused(what: &'static str, stderr: &[u8]) -> Error {
    Error::Refused { what, output: String::from_utf8_lossy(stderr).trim().to_owned() }
}
