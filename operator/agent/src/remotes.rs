//! The one hand that writes where the other ends of tunnels are: the maps `sources` and `remotes`.
//!
//! Order: first the new source, so that a packet from there is known by the time one is sent; then the remote; then
//! the source that stood for the tunnel before goes. Nothing here is pruned by desired state; a tunnel's remote goes
//! with its tunnel, or when it has been silent for long ([`crate::hello::silence`]).

use epic_abi::maps::{Remote, SourceKey};
use epic_datapath::{Error, Maps};

/// Writes a remote that was learned or confirmed. `replaced` is the source that stood for the tunnel until now.
///
/// # Errors
/// The kernel refused; what was written until then is harmless, and the next hello repeats it.
pub fn write(
    maps: &Maps,
    tunnel: u32,
    remote: &Remote,
    source: &SourceKey,
    replaced: Option<&SourceKey>,
) -> Result<(), Error> {
    // Kept by the maps, so that a restarted agent replaces what an earlier one wrote.
    let before = maps.remotes.get(&tunnel)?;
    maps.sources.set(source, &tunnel)?;
    maps.remotes.set(&tunnel, remote)?;
    let earlier = before.map(|before| before.source(source.lb));
    for old in [replaced.copied(), earlier].into_iter().flatten() {
        if old != *source && maps.sources.get(&old)? == Some(tunnel) {
            maps.sources.remove(&old)?;
        }
    }
    Ok(())
}

/// Forgets the remote of a tunnel that is no longer there, or silent.
///
/// # Errors
/// The kernel refused.
pub fn forget(maps: &Maps, tunnel: u32, source: &SourceKey) -> Result<(), Error> {
    maps.remotes.remove(&tunnel)?;
    if maps.sources.get(source)? == Some(tunnel) {
        maps.sources.remove(source)?;
    }
    Ok(())
}

/// Removes sources that stand for no tunnel, left by an agent that ended between two writes.
///
/// # Errors
/// The kernel refused.
pub fn sweep(maps: &Maps) -> Result<usize, Error> {
    let remotes = maps.remotes.entries()?;
    let mut removed = 0;
    for (source, tunnel) in maps.sources.entries()? {
        let stands = remotes.get(&tunnel).is_some_and(|remote| remote.source(source.lb) == source);
        if !stands && maps.sources.remove(&source)? {
            removed += 1;
        }
    }
    Ok(removed)
}
