//! What outlives the server: a folder with a state file ([`Document`]) per client that is known.
//!
//! Guarantees: a file is replaced as a whole; one process at a time uses the folder, held by a lock that ends with it.
//! Assumption: the folder lasts at least as long as the maps do. Beside a socket in `/run` it ends with a reboot, as pinned
//! maps do.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::protocol::ClientName;
use crate::file::Document;

const SUFFIX: &str = ".yaml";
const LOCK: &str = "LOCK";

/// The folder, locked.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    /// Held, not read.
    _lock: Arc<File>,
}

/// What was kept of one client.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: ClientName,
    /// Its services, or why they cannot be read.
    pub(super) document: Result<Document, String>,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Another process has it.
    #[error("another process uses {folder}; end it, or give this one a socket and a folder of its own", folder = .0.display())]
    Locked(PathBuf),
    /// It cannot be made or read.
    #[error("cannot use {folder}, which is to keep services over a restart: {source}; make it writable", folder = folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Kept {
    /// Locks the folder, making it if it is not there, and reads what it holds.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<Found>), KeptError> {
        let of = |source| KeptError::Folder { folder: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(of)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(folder.join(LOCK)).map_err(of)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(KeptError::Locked(folder.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(of(error)),
        }
        let mut found = Vec::new();
        for file in fs::read_dir(folder).map_err(of)? {
            let file = file.map_err(of)?.file_name();
            // What is not named as a client's file is none: what an interrupted replacement left, the lock.
            let name = file.to_str().and_then(|file| file.strip_suffix(SUFFIX)).and_then(ClientName::parse);
            if let Some(name) = name {
                let path = folder.join(file);
                let text = fs::read_to_string(&path).map_err(|error| error.to_string());
                let document =
                    text.and_then(|text| Document::parse(&text).map_err(|error| error.to_string()));
                let document = document.map_err(|why| format!("{}: {why}", path.display()));
                found.push(Found { name, document });
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((Self { folder: folder.to_owned(), _lock: Arc::new(lock) }, found))
    }

    /// Keeps what a client has; `None`: it is not known any more.
    pub(super) fn keep(&self, name: &ClientName, document: Option<&Document>) -> io::Result<()> {
        let path = self.folder.join(format!("{name}{SUFFIX}"));
        let Some(document) = document else {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let text = document.to_yaml().map_err(io::Error::other)?;
        // No client has such a name.
        let next = self.folder.join(format!("{name}{SUFFIX}.next"));
        let mut file = File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(next, path)
    }
}
