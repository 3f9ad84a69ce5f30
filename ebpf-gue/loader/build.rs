//! Says which BPF object is embedded: the one that is checked in, or the one that `EPIC_BPF_OBJECT` names.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=EPIC_BPF_OBJECT");
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs/epic.bpf.o");
    let object = std::env::var_os("EPIC_BPF_OBJECT").map_or(checked_in, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let embedded = if object.exists() {
        object
    } else {
        println!("cargo:warning={} is missing: run `make bpf`", object.display());
        let empty = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo")).join("empty.o");
        std::fs::write(&empty, []).expect("OUT_DIR can be written");
        empty
    };
    println!("cargo:rustc-env=EPIC_BPF_OBJECT={}", embedded.display());
}
