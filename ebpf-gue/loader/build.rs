//! Says which BPF object is embedded: the one that is checked in, or the one that `EPIC_BPF_OBJECT` names.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=EPIC_BPF_OBJECT");
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs/epic.bpf.o");
    let object = std::env::var_os("EPIC_BPF_OBJECT").map_or(checked_in, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    assert!(object.exists(), "{} is missing: run `make bpf`", object.display());
    println!("cargo:rustc-env=EPIC_BPF_OBJECT={}", object.display());
}
