//! A tunnelled packet in words, as the independent decoder reads it.
//!
//! The key is a bearer token: only its first bytes are shown.

use std::fmt::Write as _;

use epic_testnet::gue::{self, Fault, Tcp};

/// UDP port of the tunnels.
pub const GUE_PORT: u16 = 6080;

const FLAGS: [(u8, &str); 5] = [(2, "SYN"), (16, "ACK"), (8, "PSH"), (1, "FIN"), (4, "RST")];

/// A tunnelled packet on three lines; `None` for anything else, control messages among it.
///
/// # Errors
/// It claims to be GUE and breaks a rule of the draft.
pub fn describe(packet: &[u8]) -> Result<Option<String>, Fault> {
    let Some(read) = gue::decode(packet, GUE_PORT)? else { return Ok(None) };
    let (Some(inner), Some(key)) = (&read.inner, read.gue.key()) else { return Ok(None) };
    let mut text = String::new();
    let outer = &read.outer;
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "outer  {}:{} → {}:{}  UDP, {} bytes{}",
        outer.source,
        read.source_port,
        outer.destination,
        read.destination_port,
        outer.total_length,
        if outer.dont_fragment { ", DF" } else { "" },
    );
    let _ = writeln!(
        text,
        "GUE    variant 0, hlen {} words, flags {:#06x}, group {}, service {}, key {:02x}{:02x}…",
        read.gue.extension_length / 4,
        read.gue.flags,
        read.gue.group().unwrap_or_default(),
        read.gue.service().unwrap_or_default(),
        key[0],
        key[1],
    );
    let _ = write!(text, "inner  {} → {}", inner.source, inner.destination);
    if inner.protocol == 6
        && let Ok(segment) = Tcp::parse(inner.payload)
    {
        let flags: Vec<_> =
            FLAGS.iter().filter(|(bit, _)| segment.flags & bit != 0).map(|(_, name)| *name).collect();
        let _ = write!(
            text,
            "  TCP {} → {} {}, {} bytes of data",
            segment.source,
            segment.destination,
            flags.join(" "),
            segment.payload.len()
        );
        if let Some(mss) = segment.mss {
            let _ = write!(text, ", MSS {mss}");
        }
        let first: String =
            String::from_utf8_lossy(segment.payload).lines().next().unwrap_or_default().into();
        if !first.is_empty() {
            let _ = write!(text, ": {first:?}");
        }
    } else {
        let _ = write!(text, "  protocol {}, {} bytes", inner.protocol, inner.payload.len());
    }
    text.push('\n');
    Ok(Some(text))
}
