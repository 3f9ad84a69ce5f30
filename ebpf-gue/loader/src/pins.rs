//! Where things are pinned, and by that: what is ours.
//!
//! ```text
//! /sys/fs/bpf/epic/                 held by flock while an agent runs
//!     links/epic_ingress-4          links by program and interface index
//!     l1-5f3a9c01/                  one layout in one size; see `identity`
//!         maps/vips, …              every map its programs use, by name
//!         programs/epic_ingress, …  its programs
//!         maglev-tables/1-7         the table of a LoadBalancer: group and service
//!     learned/flows-1-262144        maps of what is learned, by name, version and entries, for all layouts that know them
//!     current -> l1-5f3a9c01        the layout that serves; replaced by rename
//! ```
//!
//! Ownership is known by pins alone: listing programs or links of the system needs `CAP_SYS_ADMIN`. An object that
//! is pinned lives without the agent; an unpinned one goes with its last descriptor. Names have no dot, which bpffs
//! keeps for itself. Only who holds the directory removes pins.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::Error;
use crate::sys::{self, Access};

const LINKS: &str = "links";
const LEARNED: &str = "learned";
const CURRENT: &str = "current";
const MAPS: &str = "maps";
const PROGRAMS: &str = "programs";
pub(crate) const MAGLEV: &str = "maglev-tables";
const NEXT: &str = "next";

/// The directory of pins.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    dir: PathBuf,
}

/// The directory of one layout therein.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
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
        rename(&self.next, &self.path)
    }
}

impl Pins {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.dir.join(LINKS).join(name)
    }

    pub(crate) fn learned(&self, name: &str) -> PathBuf {
        self.dir.join(LEARNED).join(name)
    }

    /// The directory of a layout, there or not.
    pub(crate) fn layout(&self, name: &str) -> Layout {
        Layout { dir: self.dir.join(name) }
    }

    /// The layout that serves.
    pub(crate) fn current(&self) -> Result<Option<Layout>, Error> {
        let link = self.dir.join(CURRENT);
        match fs::read_link(&link) {
            Ok(target) => Ok(Some(Layout { dir: self.dir.join(target) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::refused(format!("read the link {}", link.display()))(error)),
        }
    }

    /// From now on this layout serves.
    pub(crate) fn set_current(&self, layout: &Layout) -> Result<(), Error> {
        let next = self.dir.join(NEXT);
        unpin(&next)?;
        symlink(layout.name(), &next).map_err(Error::refused(format!("make the link {}", next.display())))?;
        rename(&next, &self.dir.join(CURRENT))
    }

    /// Every layout there is.
    pub(crate) fn layouts(&self) -> Result<Vec<Layout>, Error> {
        let dirs = entries(&self.dir)?.into_iter().filter(|entry| entry.is_dir);
        let layouts = dirs.filter(|entry| entry.name != LINKS && entry.name != LEARNED);
        Ok(layouts.map(|entry| self.layout(&entry.name)).filter(|layout| layout.name() != MAGLEV).collect())
    }

    /// Makes the directory and takes hold of it.
    pub(crate) fn hold(&self) -> Result<Hold, Error> {
        let parent = self.dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        let kind = statfs(parent)
            .map_err(io::Error::from)
            .map_err(Error::refused(format!("look at {}", parent.display())))?
            .filesystem_type();
        if kind != BPF_FS_MAGIC {
            return Err(Error::NotBpffs(self.dir.clone()));
        }
        make_dirs(&[self.dir.join(LINKS), self.dir.join(LEARNED)])?;
        let file = File::open(&self.dir).map_err(Error::refused(format!("open {}", self.dir.display())))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Hold { _lock: lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(Error::Held(self.dir.clone())),
            Err((_, error)) => Err(Error::refused(format!("lock {}", self.dir.display()))(error.into())),
        }
    }

    /// Names in the directory of links.
    pub(crate) fn link_names(&self) -> Result<Vec<String>, Error> {
        names(&self.dir.join(LINKS))
    }

    /// Names of the maps of what is learned.
    pub(crate) fn learned_names(&self) -> Result<Vec<String>, Error> {
        names(&self.dir.join(LEARNED))
    }

    /// Names of pins beside all directories, where an earlier version had its maps.
    pub(crate) fn flat_names(&self) -> Result<Vec<String>, Error> {
        let pins = entries(&self.dir)?.into_iter().filter(|entry| !entry.is_dir);
        Ok(pins.map(|entry| entry.name).filter(|name| name != CURRENT && name != NEXT).collect())
    }

    /// A pin of that earlier version.
    pub(crate) fn flat(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes everything. Links go first, so that no program runs on maps that are half gone.
    pub(crate) fn remove_all(&self) -> Result<(), Error> {
        remove_tree(&self.dir.join(LINKS))?;
        remove_tree(&self.dir)
    }
}

impl Layout {
    pub(crate) fn name(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(MAPS).join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(PROGRAMS).join(name)
    }

    pub(crate) fn maglev(&self, name: &str) -> PathBuf {
        self.dir.join(MAGLEV).join(name)
    }

    pub(crate) fn make(&self) -> Result<(), Error> {
        make_dirs(&[self.dir.join(MAPS), self.dir.join(PROGRAMS), self.dir.join(MAGLEV)])
    }

    /// Names in its directory of Maglev tables.
    pub(crate) fn maglev_names(&self) -> Result<Vec<String>, Error> {
        names(&self.dir.join(MAGLEV))
    }

    /// Names directly in it: an earlier version kept Maglev tables so.
    pub(crate) fn flat_names(&self) -> Result<Vec<String>, Error> {
        names(&self.dir)
    }

    /// A pin directly in it.
    pub(crate) fn flat(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Takes all pins away, programs first.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        remove_tree(&self.dir.join(PROGRAMS))?;
        remove_tree(&self.dir)
    }
}

/// Opens a pin; `None` when there is none.
pub(crate) fn open(path: &Path) -> Result<Option<OwnedFd>, Error> {
    open_for(path, Access::Full)
}

/// The same for so much access.
pub(crate) fn open_for(path: &Path, access: Access) -> Result<Option<OwnedFd>, Error> {
    match sys::open_pin(path, access) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::refused(format!("open the pin {}", path.display()))(error)),
    }
}

/// Pins `object` where nothing is pinned.
pub(crate) fn pin(object: &OwnedFd, path: &Path) -> Result<(), Error> {
    sys::pin(object, path).map_err(Error::refused(format!("pin {}", path.display())))
}

/// Pins `object` beside `path`, to take its place when that is committed.
pub(crate) fn prepare(object: &OwnedFd, path: &Path) -> Result<Next, Error> {
    let next = path.with_file_name(NEXT);
    unpin(&next)?;
    pin(object, &next)?;
    Ok(Next { next, path: path.to_owned() })
}

/// Pins `object` in place of what is pinned at `path`, if anything.
pub(crate) fn replace(object: &OwnedFd, path: &Path) -> Result<(), Error> {
    prepare(object, path)?.commit()
}

/// Removes a pin; one that is not there is fine.
pub(crate) fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::refused(format!("remove the pin {}", path.display()))(error)),
    }
}

/// Moves a pin; whatever was at its new place goes.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::refused(format!(
        "rename the pin {} to {}",
        from.display(),
        to.display()
    )))
}

fn make_dirs(dirs: &[PathBuf]) -> Result<(), Error> {
    for dir in dirs {
        fs::create_dir_all(dir).map_err(Error::refused(format!("create {}", dir.display())))?;
    }
    Ok(())
}

/// Removes a directory with all that is in it.
fn remove_tree(dir: &Path) -> Result<(), Error> {
    for entry in entries(dir)? {
        let path = dir.join(&entry.name);
        if entry.is_dir { remove_tree(&path)? } else { unpin(&path)? }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::refused(format!("remove {}", dir.display()))(error)),
    }
}

struct Entry {
    name: String,
    is_dir: bool,
}

/// What is in a directory, by name; nothing when it does not exist.
fn entries(dir: &Path) -> Result<Vec<Entry>, Error> {
    let refused = || Error::refused(format!("list {}", dir.display()));
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused()(error)),
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(refused())?;
        let is_dir = entry.file_type().map_err(refused())?.is_dir();
        found.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), is_dir });
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Names in a directory, but for a pin that waits to take another's place.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let found = entries(dir)?.into_iter().map(|entry| entry.name);
    Ok(found.filter(|name| name != NEXT).collect())
}
