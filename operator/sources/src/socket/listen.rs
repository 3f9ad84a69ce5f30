//! The socket file.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another process serves {path}; end it, or give this one another path", path = .0.display())]
    Served(PathBuf),
    /// Something else is there.
    #[error("{path} is no socket; remove it, or give another path", path = .0.display())]
    Else(PathBuf),
    /// It cannot be made.
    #[error("cannot make the socket {path}: {source}", path = path.display())]
    Make {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes the socket. What a dead process left is replaced, in one step: at no moment is it open to more than `mode` says.
pub(super) async fn listen(path: &Path, mode: u32) -> Result<UnixListener, ListenError> {
    let of = |source| ListenError::Make { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::Else(path.to_owned())),
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(of(error)),
            Ok(_) => return Err(ListenError::Served(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(of)?;
            }
        }
        Err(error) => return Err(of(error)),
    }
    // In a folder that is closed to others, until its own mode is set.
    let mut beside = path.to_owned().into_os_string();
    beside.push(".next");
    let (folder, beside) = (PathBuf::from(&beside), Path::new(&beside).join("s"));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(of(error)),
        _ => {}
    }
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&beside).map_err(of)?;
    fs::set_permissions(&beside, Permissions::from_mode(mode)).map_err(of)?;
    fs::rename(&beside, path).map_err(of)?;
    fs::remove_dir(&folder).map_err(of)?;
    Ok(listener)
}
