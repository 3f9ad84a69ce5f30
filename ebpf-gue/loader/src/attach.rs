//! Which program hangs where: pinned tcx links, one for an interface and program.
//!
//! A link outlives the agent, so packets flow while it restarts; opening the data plane gives all of them the new
//! programs, each by one atomic replacement. When an interface goes, its link stays behind with index 0 and is made
//! anew should the interface's index come back.
//!
//! Ours come first at their hook, and a full pass puts them first again when somebody else got before them. That
//! takes a second instance of the program, for the kernel refuses the same one twice at a hook: attach the new one
//! first, then drop the old link, and there is always one in place.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;

use epic_abi::maps::Side;

use crate::error::Error;
use crate::pins::{self, Pins};
use crate::sys;

/// A program of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// EPIC node: ingress of the public and underlay interfaces.
    Ingress,
    /// EPIC node: ingress of the host side of a proxy's veth.
    FromProxy,
    /// Client node: ingress of the interface towards EPIC.
    ClientIngress,
    /// Client node: egress of `epic0`.
    ClientEgress,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ingress, Self::FromProxy, Self::ClientIngress, Self::ClientEgress];

    /// Name in the object and in the names of pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "epic_ingress",
            Self::FromProxy => "epic_from_proxy",
            Self::ClientIngress => "epic_client_ingress",
            Self::ClientEgress => "epic_client_egress",
        }
    }

    /// Which agent uses it.
    pub const fn side(self) -> Side {
        match self {
            Self::Ingress | Self::FromProxy => Side::Node,
            Self::ClientIngress | Self::ClientEgress => Side::Client,
        }
    }

    const fn attach_type(self) -> u32 {
        match self {
            Self::Ingress | Self::FromProxy | Self::ClientIngress => sys::TCX_INGRESS,
            Self::ClientEgress => sys::TCX_EGRESS,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program at an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The program.
    pub program: Program,
    /// Index of the interface in the namespace of the agent.
    pub ifindex: u32,
}

impl Attachment {
    fn pin_name(self) -> String {
        format!("{}-{}", self.program.name(), self.ifindex)
    }

    fn from_pin_name(name: &str) -> Option<Self> {
        let (program, ifindex) = name.rsplit_once('-')?;
        let program = Program::ALL.into_iter().find(|known| known.name() == program)?;
        Some(Self { program, ifindex: ifindex.parse().ok()? })
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at interface {}", self.program, self.ifindex)
    }
}

/// What attaching came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// It was in place already.
    Kept,
    /// It was made.
    Made,
    /// There was a link of an interface that is gone; it was made anew.
    Renewed,
    /// Somebody else's program had come before it; it is the first again.
    First,
}

/// A pinned link as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStatus {
    /// What it is for.
    pub attachment: Attachment,
    /// Id of the program it runs.
    pub program: u32,
    /// The interface still exists.
    pub alive: bool,
    /// Its place among the programs of the hook, from 0; `None` when the interface is gone.
    pub place: Option<usize>,
}

/// Loads another instance of a program.
pub(crate) type Fresh<'a> = &'a dyn Fn(Program) -> Result<OwnedFd, Error>;

/// The links, known by their pins.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    pins: Pins,
}

impl Links {
    pub(crate) fn new(pins: Pins) -> Self {
        Self { pins }
    }

    /// What is pinned, but for links of programs that this version does not know.
    pub(crate) fn known(&self) -> Result<BTreeSet<Attachment>, Error> {
        let names = self.pins.link_names()?;
        Ok(names.iter().filter_map(|name| Attachment::from_pin_name(name)).collect())
    }

    /// Removes links of programs that this version does not know. Only for who holds the directory, and nobody else's.
    pub(crate) fn unpin_unknown(&self) -> Result<(), Error> {
        for name in self.pins.link_names()? {
            if Attachment::from_pin_name(&name).is_none() {
                pins::unpin(&self.pins.link(&name))?;
            }
        }
        Ok(())
    }

    /// Gives a pinned link a new program. `false` when its interface is gone; the pin is removed then.
    pub(crate) fn upgrade(&self, attachment: Attachment, program: &OwnedFd) -> Result<bool, Error> {
        let path = self.pins.link(&attachment.pin_name());
        let Some(link) = pins::open(&path)? else { return Ok(false) };
        if self.info(attachment, &link)?.ifindex != attachment.ifindex {
            pins::unpin(&path)?;
            return Ok(false);
        }
        match sys::link_update(&link, program) {
            Ok(()) => Ok(true),
            // The interface went just now.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                pins::unpin(&path)?;
                Ok(false)
            }
            Err(error) => Err(Error::refused(format!("replace the program of {attachment}"))(error)),
        }
    }

    /// Sees to it that the program hangs at the interface, before all others.
    pub(crate) fn attach(
        &self,
        attachment: Attachment,
        program: &OwnedFd,
        fresh: Option<Fresh<'_>>,
    ) -> Result<Attached, Error> {
        let path = self.pins.link(&attachment.pin_name());
        let mut done = Attached::Made;
        if let Some(link) = pins::open(&path)? {
            let info = self.info(attachment, &link)?;
            if info.ifindex == attachment.ifindex {
                let Some(fresh) = fresh else { return Ok(Attached::Kept) };
                if self.order(attachment)?.first() == Some(&info.program_id) {
                    return Ok(Attached::Kept);
                }
                let another = fresh(attachment.program)?;
                self.make(attachment, &another)?;
                return Ok(Attached::First);
            }
            pins::unpin(&path)?;
            done = Attached::Renewed;
        }
        self.make(attachment, program)?;
        Ok(done)
    }

    /// Takes the program away from the interface; says whether it was there.
    pub(crate) fn detach(&self, attachment: Attachment) -> Result<bool, Error> {
        let path = self.pins.link(&attachment.pin_name());
        let Some(link) = pins::open(&path)? else { return Ok(false) };
        pins::unpin(&path)?;
        drop(link);
        Ok(true)
    }

    pub(crate) fn status(&self, attachment: Attachment) -> Result<Option<LinkStatus>, Error> {
        let Some(link) = pins::open(&self.pins.link(&attachment.pin_name()))? else { return Ok(None) };
        let info = self.info(attachment, &link)?;
        let program = info.program_id;
        let gone = LinkStatus { attachment, program, alive: false, place: None };
        if info.ifindex != attachment.ifindex {
            return Ok(Some(gone));
        }
        match self.order(attachment) {
            Ok(order) => {
                let place = order.iter().position(|id| *id == program);
                Ok(Some(LinkStatus { attachment, program, alive: true, place }))
            }
            // It went since the link was read.
            Err(error) if error.is_absent() => Ok(Some(gone)),
            Err(error) => Err(error),
        }
    }

    fn make(&self, attachment: Attachment, program: &OwnedFd) -> Result<(), Error> {
        let link = sys::link_create_first(program, attachment.ifindex, attachment.program.attach_type())
            .map_err(Error::refused(format!("attach {attachment}")))?;
        // Replacing the pin drops the link that was there.
        pins::replace(&link, &self.pins.link(&attachment.pin_name()))
    }

    fn info(&self, attachment: Attachment, link: &OwnedFd) -> Result<sys::LinkInfo, Error> {
        sys::link_info(link).map_err(Error::refused(format!("read the link of {attachment}")))
    }

    fn order(&self, attachment: Attachment) -> Result<Vec<u32>, Error> {
        sys::programs_at(attachment.ifindex, attachment.program.attach_type())
            .map_err(Error::refused(format!("list the programs around {attachment}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_s_name_says_what_hangs_where() {
        let attachment = Attachment { program: Program::FromProxy, ifindex: 12 };
        assert_eq!(attachment.pin_name(), "epic_from_proxy-12");
        assert_eq!(Attachment::from_pin_name("epic_from_proxy-12"), Some(attachment));
        assert_eq!(Attachment::from_pin_name("epic_from_proxy"), None);
        assert_eq!(Attachment::from_pin_name("other-12"), None);
    }

    #[test]
    fn a_pin_s_name_has_no_dot_and_fits_the_kernel() {
        for program in Program::ALL {
            let name = Attachment { program, ifindex: u32::MAX }.pin_name();
            assert!(!name.contains('.'), "bpffs refuses dots: {name}");
        }
    }
}
