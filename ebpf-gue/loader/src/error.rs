//! What can go wrong with programs and maps, each with what the reader can do about it.

use std::io;
use std::path::PathBuf;

use crate::kernel::KernelError;

/// Why the data plane could not be opened, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel will not do.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The directory for pins is not on a BPF file system.
    #[error("{0} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")]
    NotBpffs(PathBuf),
    /// Another agent has the directory.
    #[error("another agent holds {0}; stop it first, or give this one another --bpffs-dir")]
    Held(PathBuf),
    /// Maps of another layout are pinned.
    #[error(
        "maps of layout {found} are pinned in {dir}, this version reads layout {known}; \
         use the version of the agent that made them, or remove them (interrupts traffic): rm -r {dir}"
    )]
    Layout {
        /// Where.
        dir: PathBuf,
        /// The layout found.
        found: u32,
        /// The layout of this version.
        known: u32,
    },
    /// There are pins, but nothing says of which layout.
    #[error("{dir} has pins without a layout version ({example}); remove them: rm -r {dir}")]
    Foreign {
        /// Where.
        dir: PathBuf,
        /// One of them.
        example: String,
    },
    /// A pinned map has not the shape that its layout version says.
    #[error(
        "the pinned map {name} has {found}, expected {expected}; remove the pins (interrupts traffic): rm -r {dir}"
    )]
    Shape {
        /// Where.
        dir: PathBuf,
        /// Name of the map.
        name: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// There are no pinned maps.
    #[error("no EPIC maps are pinned in {0}; is the agent running, and is --bpffs-dir right?")]
    NoMaps(PathBuf),
    /// The object was refused.
    #[error("could not load the BPF object: {}", chain(.0))]
    Object(#[source] Box<aya::EbpfError>),
    /// A program was refused.
    #[error("could not load the program {program}: {}", chain(.source))]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Why, with the verifier's words.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object lacks a program.
    #[error("the BPF object has no program {0}")]
    NoProgram(&'static str),
    /// The kernel or the file system refused.
    #[error("could not {action}: {source}")]
    Refused {
        /// What was asked, in words.
        action: String,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn refused(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Refused { action, source }
    }

    /// Whether the interface that was named does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if matches!(
            source.raw_os_error(),
            Some(libc::ENODEV | libc::ENXIO | libc::ENOENT)
        ))
    }
}

/// aya's errors name their causes only one by one.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
