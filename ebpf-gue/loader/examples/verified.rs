//! Loads every program and says what this kernel made of it: the instructions that its verifier went through, of the
//! million that it allows, and the bytes of machine code.
//!
//! `cargo run -p epic-datapath --example verified`, as root. Nothing is attached, and what was loaded goes with the
//! process. `hack/kernels` runs it on other kernels.

use std::error::Error;

use aya::{EbpfLoader, programs::SchedClassifier};
use epic_datapath::{Program, object_bytes};

fn main() -> Result<(), Box<dyn Error>> {
    // Programs do not depend on how large maps are; memory does.
    let mut object = EbpfLoader::new()
        .btf(None)
        .map_max_entries("flows", 1024)
        .map_max_entries("learned_proxies", 64)
        .load(object_bytes())?;
    for name in Program::ALL.map(Program::name) {
        let program: &mut SchedClassifier = object.program_mut(name).ok_or(name)?.try_into()?;
        program.load()?;
        let info = program.info()?;
        let verified =
            info.verified_instruction_count().ok_or("the kernel does not tell (5.16 and newer do)")?;
        println!(
            "{name:<20} {verified:>7} instructions verified, {:>6} bytes of machine code",
            info.size_jitted()
        );
    }
    Ok(())
}
