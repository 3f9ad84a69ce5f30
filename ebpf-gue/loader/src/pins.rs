//! Where things are pinned, and by that: what is ours.
//!
//! ```text
//! /sys/fs/bpf/epic/             held by flock while an agent runs
//!     layout, config, vips, …   maps by name
//!     links/epic_ingress-4      links by program and interface index
//!     maglev-tables/1-7         the table of a LoadBalancer: group and service
//! ```
//!
//! Ownership is known by pins alone: listing programs or links of the system needs `CAP_SYS_ADMIN`. An object that
//! is pinned lives without the agent; an unpinned one goes with its last descriptor. Names have no dot, which bpffs
//! keeps for itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::Error;
use crate::sys;

const LINKS: &str = "links";
const MAGLEV: &str = "maglev-tables";
const NEXT: &str = "next";

/// The directory of pins.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    dir: PathBuf,
}

/// Held as long as an agent uses the directory. A killed agent's goes with it.
#[derive(Debug)]
pub(crate) struct Hold {
    _lock: Flock<File>,
}

/// A pin that waits to take another's place.
#[must_use]
pub(crate) struct Next {
    next: PathBuf,
    path: PathBuf,
}

impl Next {
    /// Takes the place; what was pinned there loses its pin in the same step.
    pub(crate) fn commit(self) -> Result<(), Error> {
        fs::rename(&self.next, &self.path)
            .map_err(Error::refused(format!("rename a pin to {}", self.path.display())))
    }
}

impl Pins {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.dir.join(LINKS).join(name)
    }

    pub(crate) fn maglev(&self, name: &str) -> PathBuf {
        self.dir.join(MAGLEV).join(name)
    }

    /// Makes the directories and takes hold of them.
    pub(crate) fn hold(&self) -> Result<Hold, Error> {
        let parent = self.dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        let kind = statfs(parent)
            .map_err(io::Error::from)
            .map_err(Error::refused(format!("look at {}", parent.display())))?
            .filesystem_type();
        if kind != BPF_FS_MAGIC {
            return Err(Error::NotBpffs(self.dir.clone()));
        }
        for dir in [self.dir.clone(), self.dir.join(LINKS), self.dir.join(MAGLEV)] {
            fs::create_dir_all(&dir).map_err(Error::refused(format!("create {}", dir.display())))?;
        }
        let file = File::open(&self.dir).map_err(Error::refused(format!("open {}", self.dir.display())))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Hold { _lock: lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(Error::Held(self.dir.clone())),
            Err((_, error)) => Err(Error::refused(format!("lock {}", self.dir.display()))(error.into())),
        }
    }

    /// Opens a pin; `None` when there is none.
    pub(crate) fn open(&self, path: &Path) -> Result<Option<OwnedFd>, Error> {
        match sys::open_pin(path) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::refused(format!("open the pin {}", path.display()))(error)),
        }
    }

    /// Names in the directory of links.
    pub(crate) fn link_names(&self) -> Result<Vec<String>, Error> {
        let mut names = names(&self.dir.join(LINKS))?;
        names.retain(|name| name != NEXT);
        Ok(names)
    }

    /// Names in the directory of Maglev tables.
    pub(crate) fn maglev_names(&self) -> Result<Vec<String>, Error> {
        let mut names = names(&self.dir.join(MAGLEV))?;
        names.retain(|name| name != NEXT);
        Ok(names)
    }

    /// Names of all pins that are no directories.
    pub(crate) fn map_names(&self) -> Result<Vec<String>, Error> {
        let mut names = names(&self.dir)?;
        names.retain(|name| name != LINKS && name != MAGLEV);
        Ok(names)
    }

    /// Pins `object` beside `path`, to take its place when that is committed.
    pub(crate) fn prepare(&self, object: &OwnedFd, path: &Path) -> Result<Next, Error> {
        let next = path.with_file_name(NEXT);
        self.unpin(&next)?;
        sys::pin(object, &next).map_err(Error::refused(format!("pin {}", next.display())))?;
        Ok(Next { next, path: path.to_owned() })
    }

    /// Pins `object` in place of what is pinned at `path`, if anything.
    pub(crate) fn replace(&self, object: &OwnedFd, path: &Path) -> Result<(), Error> {
        self.prepare(object, path)?.commit()
    }

    /// Removes a pin; one that is not there is fine.
    pub(crate) fn unpin(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::refused(format!("remove the pin {}", path.display()))(error)),
        }
    }

    /// Removes everything. Links go first, so that no program runs on maps that are half gone.
    pub(crate) fn remove_all(&self) -> Result<(), Error> {
        for dir in [self.dir.join(LINKS), self.dir.join(MAGLEV), self.dir.clone()] {
            for name in names(&dir)? {
                self.unpin(&dir.join(name))?;
            }
            match fs::remove_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::refused(format!("remove {}", dir.display()))(error)),
            }
        }
        Ok(())
    }
}

/// Names in a directory, sorted; none when it does not exist.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::refused(format!("list {}", dir.display()))(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::refused(format!("list {}", dir.display())))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
