//! What the kernel has to bring: tcx links, so 6.6 or newer.

use std::fmt;

/// The oldest kernel with tcx links.
pub const OLDEST: Version = Version { major: 6, minor: 6 };

/// Version of a kernel, without its patch level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Reads what `uname -r` prints. `None` when it does not begin with two numbers.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

/// Why the kernel is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Too old.
    #[error("this kernel is {0}; EPIC needs {OLDEST} or newer, for tcx links")]
    TooOld(Version),
    /// `uname` said something strange.
    #[error("the kernel's release {0:?} was not understood")]
    Unknown(String),
    /// `uname` failed.
    #[error("could not ask for the kernel's release: {0}")]
    Uname(#[from] nix::Error),
}

/// Fails unless the running kernel will do.
///
/// # Errors
/// It is too old, or does not say its version.
pub fn check() -> Result<Version, KernelError> {
    let name = nix::sys::utsname::uname()?;
    judge(&name.release().to_string_lossy())
}

fn judge(release: &str) -> Result<Version, KernelError> {
    let version = Version::parse(release).ok_or_else(|| KernelError::Unknown(release.to_owned()))?;
    if version < OLDEST { Err(KernelError::TooOld(version)) } else { Ok(version) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        assert_eq!(Version::parse("6.18.44-fc-v669"), Some(Version { major: 6, minor: 18 }));
        assert_eq!(Version::parse("5.15.0-91-generic"), Some(Version { major: 5, minor: 15 }));
        assert_eq!(Version::parse("6.6+bpo"), Some(Version { major: 6, minor: 6 }));
        assert_eq!(Version::parse("linux"), None);
    }

    #[test]
    fn an_old_kernel_is_refused_with_both_versions() {
        let refused = judge("6.1.0-28-amd64").unwrap_err().to_string();
        assert_eq!(refused, "this kernel is 6.1; EPIC needs 6.6 or newer, for tcx links");
        assert!(judge("6.6.0").is_ok());
    }
}
