//! Says which BPF object is embedded: the one that is checked in, or the one that `EPIC_BPF_OBJECT` names.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=EPIC_BPF_OBJECT");
    println!("cargo:rerun-if-env-changed=EPIC_CHECKOUT");
    // Asked for at run time: a target folder may be shared with a copy of the checkout, which may be gone.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate lies");
    let checked_in = Path::new(&here).join("../programs/epic.bpf.o");
    let object = std::env::var_os("EPIC_BPF_OBJECT").map_or(checked_in, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    assert!(object.exists(), "{} is missing: run `make bpf`", object.display());
    println!("cargo:rustc-env=EPIC_BPF_OBJECT={}", object.display());
}
