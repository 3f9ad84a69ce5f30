//! Writes the corpus as files that the fuzz targets read: `seeds TARGET FOLDER`.

use std::{env, fs, io, path::Path};

use epic_fuzz::{corpus::corpus, native::Packet};

/// Packets of a sequence.
const TOGETHER: usize = 4;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [target, folder] = &arguments[..] else {
        return Err(io::Error::other("seeds TARGET FOLDER"));
    };
    let entries = corpus();
    let files: Vec<(&str, Vec<u8>)> = match target.as_str() {
        "packet" => entries.iter().map(|entry| (entry.name, entry.packet.to_bytes())).collect(),
        "sequence" => entries
            .chunks(TOGETHER)
            .map(|some| {
                let packets: Vec<Packet> = some.iter().map(|entry| entry.packet.clone()).collect();
                (some[0].name, Packet::to_sequence(&packets))
            })
            .collect(),
        _ => return Err(io::Error::other("targets are packet and sequence")),
    };
    for (name, bytes) in files {
        fs::write(Path::new(folder).join(name), bytes)?;
    }
    Ok(())
}
