//! `crdgen [ROOT]` writes everything that is generated from the API types and removes what is not generated any
//! more. ROOT is the root of the repository, by default the current folder.

use std::path::{Path, PathBuf};

use clap::Parser;
use epic_crds::manifest;

/// Write everything that is generated from the API types.
#[derive(Parser)]
struct Arguments {
    /// Root of the repository.
    #[arg(default_value = ".")]
    root: PathBuf,
}

fn main() -> std::io::Result<()> {
    let Arguments { root } = Arguments::parse();
    let files = manifest::files();
    for (path, contents) in &files {
        let path = root.join(path);
        if std::fs::read_to_string(&path).is_ok_and(|present| present == *contents) {
            continue;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, contents)?;
        println!("wrote {}", path.display());
    }
    for folder in manifest::FOLDERS {
        for entry in std::fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if is_stale(&root, &path, &files) {
                std::fs::remove_file(&path)?;
                println!("removed {}", path.display());
            }
        }
    }
    Ok(())
}

fn is_stale(root: &Path, path: &Path, files: &std::collections::BTreeMap<String, String>) -> bool {
    let Ok(relative) = path.strip_prefix(root) else { return false };
    !files.contains_key(&relative.to_string_lossy().into_owned())
        && std::fs::read_to_string(path).is_ok_and(|text| {
            text.starts_with(manifest::YAML_MARK) || text.starts_with(manifest::MARKDOWN_MARK)
        })
}
