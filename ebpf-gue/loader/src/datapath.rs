//! The data plane of a host: opened once by its agent, adopted if it runs already.
//!
//! Expected flow: [`Datapath::open`] → write maps ([`Datapath::maps`] or the reconciler) → [`Datapath::switch`] once they
//! are complete, unless [`Datapath::is_serving`] → [`Datapath::attach`] as interfaces come → [`Datapath::keep_only`] at
//! every full pass. Dropping it leaves everything in place; [`Datapath::remove`] takes everything away.
//!
//! Guarantees: opening over running programs loses no packet. Of the same layout and sizes, maps keep their content and
//! every link gets the new program by one atomic replacement. Otherwise what runs goes on running on its own maps, while
//! new ones are filled beside it; the switch moves one link after the other, and both sets of maps are complete meanwhile.
//! A process that ends anywhere leaves one complete set serving, named by `current`, and the next one begins again.
//! What it does not do: decide what is in the maps or where programs belong; raise any limit of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use epic_abi::maps::{LAYOUT_VERSION, MAPS, Side};
use parking_lot::Mutex;

use crate::attach::{Attached, Attachment, LinkStatus, Links, Program};
use crate::error::Error;
use crate::former::{At, Former, Serving};
use crate::identity::Identity;
use crate::learned::{self, Pass};
use crate::maps::{self, Maps};
use crate::pins::{self, Hold, Layout, Pins};
use crate::sizes::Sizes;
use crate::sys::Access;
use crate::{flat, kernel, object};

/// Where and how large.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of pins, on a BPF file system. It is created.
    pub dir: PathBuf,
    /// Which agent asks: decides which programs are loaded and which maps are large.
    pub side: Side,
    /// What maps have room for. With other sizes than those that serve, maps are made anew and filled before they serve.
    pub sizes: Sizes,
    /// Entries of single maps, by name, where these do not fit.
    pub max_entries: BTreeMap<String, u32>,
    /// Number of the layout. Another one than this version's is of use to tests of upgrades alone.
    pub layout: u32,
}

impl Options {
    /// The usual sizes.
    pub fn new(dir: impl Into<PathBuf>, side: Side) -> Self {
        Self {
            dir: dir.into(),
            side,
            sizes: Sizes::default(),
            max_entries: BTreeMap::new(),
            layout: LAYOUT_VERSION,
        }
    }

    fn identity(&self) -> Identity {
        Identity::new(self.layout, |spec| {
            let given = self.max_entries.get(spec.name).copied();
            given.unwrap_or_else(|| self.sizes.entries(spec, self.side))
        })
    }
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// There were maps of an earlier run that fit.
    pub maps: bool,
    /// What serves until the switch, when that is another layout or another size.
    pub former: Option<String>,
    /// Links that run the new programs now.
    pub links: BTreeSet<Attachment>,
    /// Links whose interface was gone; they are removed.
    pub lost: BTreeSet<Attachment>,
}

/// A step of a switch to another layout. A process may end after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What was learned is in the new maps.
    Copied,
    /// The new layout is the one that the next start adopts.
    Current,
    /// A link runs the new program, or is gone with its interface.
    Moved(Attachment),
    /// The former layout is removed.
    Removed,
}

/// The programs and maps of a host.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    links: Links,
    identity: Identity,
    layout: Layout,
    maps: Arc<Maps>,
    programs: BTreeMap<Program, OwnedFd>,
    object: Mutex<Ebpf>,
    former: Option<Former>,
    adopted: Adopted,
    _hold: Hold,
}

impl Datapath {
    /// Loads the programs onto new or adopted maps. Links of an earlier run get the new programs if the maps are adopted,
    /// and at the [switch](Self::switch) otherwise.
    ///
    /// # Errors
    /// Nothing is changed when the kernel is too old, another agent holds the directory, or nobody knows what is pinned
    /// there. The verifier's words are in the error when it refuses a program.
    pub fn open(options: &Options) -> Result<Self, Error> {
        kernel::check()?;
        let pins = Pins::new(&options.dir);
        let hold = pins.hold()?;
        flat::take_up(&pins)?;
        let identity = options.identity();
        let layout = pins.layout(&identity.name());
        let current = pins.current()?;
        let is_adopted = current.as_ref() == Some(&layout);
        if !is_adopted {
            // An earlier try to fill it, which nobody has served.
            layout.remove()?;
            learned::forget(&pins, current.as_ref(), &identity)?;
        }
        layout.make()?;
        learned::lend(&pins, &layout, &identity)?;
        let (object, programs) = load(&pins, &layout, &identity, options.side)?;
        learned::share(&pins, &layout, &identity)?;
        let former = match current {
            Some(current) if !is_adopted => {
                let former = serving(&pins, current, options)?;
                learned::copy(&former.layout, &layout, &identity, Pass::Entries)?;
                Some(former)
            }
            _ => None,
        };
        let mut datapath = Self {
            links: Links::new(pins.clone()),
            maps: Arc::new(Maps::of(&layout, pins.dir(), Access::Full)?),
            programs,
            object: Mutex::new(object),
            adopted: Adopted {
                maps: is_adopted,
                former: former.as_ref().map(|former| former.layout.name()),
                ..Adopted::default()
            },
            former,
            identity,
            layout,
            pins,
            _hold: hold,
        };
        datapath.maps.maglev.sweep()?;
        match &datapath.former {
            Some(former) => {
                for stray in datapath.pins.layouts()? {
                    if stray != datapath.layout && stray != former.layout {
                        stray.remove()?;
                    }
                }
                datapath.maps.mirror(Some((&former.layout, &datapath.layout)))?;
                datapath.adopted.links = datapath.links.known()?;
            }
            None => {
                datapath.pins.set_current(&datapath.layout)?;
                datapath.upgrade_links()?;
                datapath.clean()?;
            }
        }
        Ok(datapath)
    }

    fn upgrade_links(&mut self) -> Result<(), Error> {
        for attachment in self.links.known()? {
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

    /// Leaves nothing but this layout, once every link runs its programs.
    fn clean(&self) -> Result<(), Error> {
        self.links.unpin_unknown()?;
        for other in self.pins.layouts()?.into_iter().filter(|other| *other != self.layout) {
            // Flows that began before the last link was moved.
            learned::copy(&other, &self.layout, &self.identity, Pass::Flows)?;
            other.remove()?;
        }
        learned::sweep(&self.pins, &self.identity)
    }

    /// Whether the programs run on these maps. Until they do, another layout serves, and these are to be filled.
    pub fn is_serving(&self) -> bool {
        self.former.is_none()
    }

    /// What serves at this moment.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn serving(&self) -> Result<Serving, Error> {
        Serving::read(self.former.as_ref().map_or(&self.layout, |former| &former.layout))
    }

    /// Lets the programs run on these maps, which must be complete. Does nothing when they do already.
    ///
    /// # Errors
    /// A link could not be moved, or the file system refused. What was moved stays, and a repetition goes on.
    pub fn switch(&mut self) -> Result<(), Error> {
        while self.advance()?.is_some() {}
        Ok(())
    }

    /// Does one step of [`Self::switch`] and says which; `None` when there is none left.
    ///
    /// # Errors
    /// As there.
    pub fn advance(&mut self) -> Result<Option<Step>, Error> {
        let Some(former) = &mut self.former else { return Ok(None) };
        let step = match &mut former.at {
            At::Filling => {
                for pass in [Pass::Flows, Pass::Counters] {
                    learned::copy(&former.layout, &self.layout, &self.identity, pass)?;
                }
                former.at = At::Copied;
                Step::Copied
            }
            At::Copied => {
                self.pins.set_current(&self.layout)?;
                former.at = At::Current(self.links.known()?);
                Step::Current
            }
            At::Current(left) => {
                let mut refused = None;
                let moved = left.iter().copied().find(|attachment| {
                    let moved = match self.programs.get(&attachment.program) {
                        Some(program) => self.links.upgrade(*attachment, program),
                        None => self.links.detach(*attachment),
                    };
                    // One that is refused keeps nothing from the others.
                    moved.map_err(|error| refused.get_or_insert(error)).is_ok()
                });
                match (moved, refused) {
                    (Some(attachment), _) => {
                        left.remove(&attachment);
                        Step::Moved(attachment)
                    }
                    (None, Some(error)) => return Err(error),
                    (None, None) => {
                        self.maps.mirror(None)?;
                        self.clean()?;
                        self.former = None;
                        Step::Removed
                    }
                }
            }
        };
        Ok(Some(step))
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
    /// of the order. Until the switch it is the program of the layout that serves, which takes no place back.
    ///
    /// # Errors
    /// [`Error::is_absent`] when the interface does not exist.
    pub fn attach(&self, attachment: Attachment) -> Result<Attached, Error> {
        let name = attachment.program.name();
        let former = self.former.as_ref().filter(|former| !matches!(former.at, At::Current(_)));
        let programs = former.map_or(&self.programs, |former| &former.programs);
        let program = programs.get(&attachment.program).ok_or(Error::NoProgram(name))?;
        let fresh = |program| {
            let mut object = self.object.lock();
            instance(&mut object, program)
        };
        self.links.attach(attachment, program, former.is_none().then_some(&fresh))
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
        for stray in self.links.known()?.difference(wanted) {
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
    for attachment in links.known()? {
        status.extend(links.status(attachment)?);
    }
    Ok(status)
}

/// The layout that serves, with its programs.
fn serving(pins: &Pins, layout: Layout, options: &Options) -> Result<Former, Error> {
    let former = Former::open(layout)?;
    let ours = Program::ALL.into_iter().filter(|program| program.side() == options.side);
    if ours.clone().all(|program| former.programs.contains_key(&program)) {
        return Ok(former);
    }
    let number = pins::open(&former.layout.map(epic_abi::maps::LAYOUT.name))?;
    if number.map(|map| maps::read_layout(&map)).transpose()? != Some(LAYOUT_VERSION) {
        return Ok(former);
    }
    // It was flat, which kept no programs.
    let as_made = Identity::new(LAYOUT_VERSION, |spec| Sizes::default().entries(spec, options.side));
    let (_, programs) = load(pins, &former.layout, &as_made, options.side)?;
    Ok(Former { programs, ..former })
}

/// Loads the programs of a side onto the maps of a layout, making those that are missing, and pins them.
fn load(
    pins: &Pins,
    layout: &Layout,
    identity: &Identity,
    side: Side,
) -> Result<(Ebpf, BTreeMap<Program, OwnedFd>), Error> {
    if pins::open(&layout.map(epic_abi::maps::LAYOUT.name))?.is_none() {
        maps::write_layout(layout, identity.layout())?;
    }
    let mut loader = EbpfLoader::new();
    // No type information of the kernel is needed: the programs read the packet and `__sk_buff` alone.
    loader.btf(None);
    for spec in MAPS {
        if let Some(map) = pins::open(&layout.map(spec.name))? {
            maps::check_shape(pins.dir(), spec, &map)?;
        }
        loader.map_max_entries(spec.name, identity.entries(spec));
        loader.map_pin_path(spec.name, layout.map(spec.name));
    }
    let mut object = loader.load(object::bytes()).map_err(|error| Error::Object(Box::new(error)))?;
    let mut programs = BTreeMap::new();
    for program in Program::ALL.into_iter().filter(|program| program.side() == side) {
        let loaded = instance(&mut object, program)?;
        pins::replace(&loaded, &layout.program(program.name()))?;
        programs.insert(program, loaded);
    }
    Ok((object, programs))
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
