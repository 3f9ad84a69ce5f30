//! Script tests: each file in `tests/lb/transcripts` is a list of commands, its transcript is the golden file.
//!
//! Rows go in, tables and maps come out; the commands are described in `support/shell.rs`. After every single map write
//! the maps are checked for entries that point to nothing.

use std::fs;
use std::path::Path;

use crate::support::{numbered, shell};

#[test]
fn every_script_gives_its_transcript() {
    let folder = Path::new(env!("EPIC_CHECKOUT")).join("operator/loadbalancing/tests/lb/transcripts");
    let mut scripts: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "tests/lb/transcripts holds no script");
    for script in scripts {
        let name = script.file_stem().unwrap().to_string_lossy().into_owned();
        let script = fs::read_to_string(&script).unwrap();
        let transcript = shell::run(&script);
        let mut words: Vec<&str> = script.split_whitespace().collect();
        for _ in 0..2 {
            words.reverse();
            let _names = numbered(words.iter().copied());
            let again = shell::run(&script);
            assert_eq!(again, transcript, "{name}: the transcript depends on the numbers of its names");
        }
        insta::assert_snapshot!(name, transcript);
    }
}
