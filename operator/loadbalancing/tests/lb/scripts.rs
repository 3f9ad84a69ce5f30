//! Script tests: each file in `tests/lb/transcripts` is a list of commands, its transcript is the golden file.
//!
//! Rows go in, tables and maps come out; the commands are described in `support/shell.rs`. After every single map write
//! the maps are checked for entries that point to nothing.

use std::fs;
use std::path::Path;

use crate::support::shell;

#[test]
fn every_script_gives_its_transcript() {
    let folder = Path::new(env!("EPIC_CHECKOUT")).join("operator/loadbalancing/tests/lb/transcripts");
    let mut scripts: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "tests/lb/transcripts holds no script");
    for script in scripts {
        let name = script.file_stem().unwrap().to_string_lossy().into_owned();
        let transcript = shell::run(&fs::read_to_string(&script).unwrap());
        insta::assert_snapshot!(name, transcript);
    }
}
