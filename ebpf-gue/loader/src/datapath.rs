//! The data plane of a host: opened once by its agent, adopted if it runs already.
//!
//! Expected flow: [`Datapath::open`] → write maps ([`Datapath::maps`] or the reconciler) → [`Datapath::attach`] as
//! interfaces come → [`Datapath::keep_only`] at every full pass. Dropping it leaves everything in place;
//! [`Datapath::remove`] takes everything away.
//!
//! Guarantees: opening over running programs loses no packet. Maps keep their content, every link gets the new
//! program by one atomic replacement, and nothing is touched when the kernel, the layout or a shape does not fit.
//! What it does not do: decide what is in the maps or where programs belong; raise any limit of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use epic_abi::maps::{MAPS, Side};
use parking_lot::Mutex;

use crate::attach::{Attached, Attachment, LinkStatus, Links, Program};
use crate::error::Error;
use crate::maps::{self, Maps};
use crate::pins::{Hold, Pins};
use crate::{kernel, object};

/// Where and how large.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of pins, on a BPF file system. It is created.
    pub dir: PathBuf,
    /// Which agent asks: decides which programs are loaded and which maps are large.
    pub side: Side,
    /// Entries of maps, by name, where the sizes of `epic-abi` do not fit. Maps that are adopted keep theirs.
    pub max_entries: BTreeMap<String, u32>,
}

impl Options {
    /// Sizes as compiled in.
    pub fn new(dir: impl Into<PathBuf>, side: Side) -> Self {
        Self { dir: dir.into(), side, max_entries: BTreeMap::new() }
    }
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// There were maps of an earlier run.
    pub maps: bool,
    /// Links that run the new programs now.
    pub links: BTreeSet<Attachment>,
    /// Links whose interface was gone; they are removed.
    pub lost: BTreeSet<Attachment>,
}

/// The programs and maps of a host.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    links: Links,
    maps: Arc<Maps>,
    programs: BTreeMap<Program, OwnedFd>,
    object: Mutex<Ebpf>,
    adopted: Adopted,
    _hold: Hold,
}

impl Datapath {
    /// Loads the programs onto new or adopted maps, and gives links of an earlier run the new programs.
    ///
    /// # Errors
    /// Nothing is changed when the kernel is too old, another agent holds the directory, or the pins are of another
    /// layout. The verifier's words are in the error when it refuses a program.
    pub fn open(options: &Options) -> Result<Self, Error> {
        kernel::check()?;
        let pins = Pins::new(&options.dir);
        let hold = pins.hold()?;
        let found = maps::check_pinned(&pins)?;
        if !found {
            maps::write_layout(&pins)?;
        }
        let mut object = load(&pins, options)?;
        let mut programs = BTreeMap::new();
        for program in Program::ALL.into_iter().filter(|program| program.side() == options.side) {
            programs.insert(program, instance(&mut object, program)?);
        }
        let mut datapath = Self {
            links: Links::new(pins.clone()),
            maps: Arc::new(Maps::from_pins(&pins)?),
            programs,
            object: Mutex::new(object),
            adopted: Adopted { maps: found, ..Adopted::default() },
            pins,
            _hold: hold,
        };
        datapath.maps.maglev.sweep()?;
        datapath.upgrade_links()?;
        Ok(datapath)
    }

    fn upgrade_links(&mut self) -> Result<(), Error> {
        for attachment in self.links.pinned()? {
            let Some(program) = self.programs.get(&attachment.program) else {
                self.links.detach(attachment)?;
                continue;
            };
            if self.links.upgrade(attachment, program)? {
                self.adopted.links.insert(attachment);
            } else {
                self.adopted.lost.insert(attachment);
            }
        }
        Ok(())
    }

    /// What opening found.
    pub fn adopted(&self) -> &Adopted {
        &self.adopted
    }

    /// The maps.
    pub fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }

    /// The directory of pins.
    pub fn dir(&self) -> &Path {
        self.pins.dir()
    }

    /// Sees to it that the program hangs at the interface, before all others. Repeating it is cheap and is the check
    /// of the order.
    ///
    /// # Errors
    /// [`Error::is_absent`] when the interface does not exist.
    pub fn attach(&self, attachment: Attachment) -> Result<Attached, Error> {
        let name = attachment.program.name();
        let program = self.programs.get(&attachment.program).ok_or(Error::NoProgram(name))?;
        self.links.attach(attachment, program, &|program| {
            let mut object = self.object.lock();
            instance(&mut object, program)
        })
    }

    /// Takes the program away from the interface; says whether it was there.
    ///
    /// # Errors
    /// The file system refused.
    pub fn detach(&self, attachment: Attachment) -> Result<bool, Error> {
        self.links.detach(attachment)
    }

    /// Attaches all of `wanted` and detaches everything else that is ours. For start and full passes.
    ///
    /// What the kernel refuses at one interface stands in the answer and keeps nothing from all others. An interface that
    /// is gone meanwhile is left out.
    ///
    /// # Errors
    /// The pins cannot be listed; what was attached until then stays.
    pub fn keep_only(&self, wanted: &BTreeSet<Attachment>) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        for attachment in wanted {
            match self.attach(*attachment) {
                Ok(attached) => {
                    kept.done.insert(*attachment, attached);
                }
                Err(error) if error.is_absent() => {}
                Err(error) => {
                    kept.refused.insert(*attachment, error);
                }
            }
        }
        for stray in self.links.pinned()?.difference(wanted) {
            if let Err(error) = self.links.detach(*stray) {
                kept.refused.insert(*stray, error);
            }
        }
        Ok(kept)
    }

    /// What is attached, with its place at the hook.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn links(&self) -> Result<Vec<LinkStatus>, Error> {
        links(self.pins.dir())
    }

    /// Detaches everything and removes every pin; maps and programs end with it.
    ///
    /// # Errors
    /// The file system refused; a repetition goes on where it stopped.
    pub fn remove(self) -> Result<(), Error> {
        self.pins.remove_all()
    }
}

/// What [`Datapath::keep_only`] came to.
#[derive(Debug, Default)]
pub struct Kept {
    /// What hangs now, and what it took.
    pub done: BTreeMap<Attachment, Attached>,
    /// What could not be attached, or not be detached, and why.
    pub refused: BTreeMap<Attachment, Error>,
}

/// Removes what an agent has left in `dir`, of whatever layout, without loading anything. Nothing there is fine.
///
/// # Errors
/// An agent is running, or the file system refused.
pub fn remove(dir: &Path) -> Result<(), Error> {
    if !dir.exists() {
        return Ok(());
    }
    let pins = Pins::new(dir);
    let _hold = pins.hold()?;
    pins.remove_all()
}

/// What is attached by pins in `dir`; for commands beside a running agent.
///
/// # Errors
/// The kernel refused.
pub fn links(dir: &Path) -> Result<Vec<LinkStatus>, Error> {
    let links = Links::new(Pins::new(dir));
    let mut status = Vec::new();
    for attachment in links.pinned()? {
        status.extend(links.status(attachment)?);
    }
    Ok(status)
}

fn load(pins: &Pins, options: &Options) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    // No type information of the kernel is needed: the programs read the packet and `__sk_buff` alone.
    loader.btf(None);
    for spec in MAPS {
        let entries = options
            .max_entries
            .get(spec.name)
            .copied()
            .unwrap_or_else(|| maps::entries_for(spec, options.side));
        loader.map_max_entries(spec.name, entries);
        loader.map_pin_path(spec.name, pins.map(spec.name));
    }
    loader.load(object::bytes()).map_err(|error| Error::Object(Box::new(error)))
}

/// A loaded instance of a program, of its own even if there is one already.
fn instance(object: &mut Ebpf, program: Program) -> Result<OwnedFd, Error> {
    let name = program.name();
    let refused = |source| Error::Program { program: name, source: Box::new(source) };
    let loaded: &mut SchedClassifier =
        object.program_mut(name).ok_or(Error::NoProgram(name))?.try_into().map_err(refused)?;
    loaded.load().map_err(refused)?;
    let fd = loaded.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    // The descriptor kept here is ours; aya's own would make the next call a repeated load.
    loaded.unload().map_err(refused)?;
    fd.map_err(Error::refused(format!("keep the program {name}")))
}
