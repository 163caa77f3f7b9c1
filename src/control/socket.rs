//! The Unix socket itself: bound where nobody else listens, removed when it is over.
//!
//! It is made under another name and renamed into place, so that it never stands there with wider
//! permissions than it shall have, and so that the leftover of a dead daemon is replaced in one
//! step. A socket that somebody answers on is never taken.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Owner and group may command.
pub const MODE: u32 = 0o660;

/// A bound control socket; its file goes when this is dropped, if it is still the same.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

/// Why the control socket cannot be bound.
#[derive(Debug)]
pub enum BindError {
    /// Somebody answers on it.
    InUse(PathBuf),
    /// Its directory does not exist.
    NoDirectory(PathBuf),
    /// Something else than a socket stands there.
    NotASocket(PathBuf),
    /// Any other error.
    Io(PathBuf, io::Error),
}

impl ControlSocket {
    /// Binds `path`, replacing the leftover of a daemon that is dead.
    pub async fn bind(path: &Path) -> Result<ControlSocket, BindError> {
        let failed = |error| BindError::Io(path.to_owned(), error);
        if let Some(directory) = path.parent()
            && !directory.as_os_str().is_empty()
            && !directory.is_dir()
        {
            return Err(BindError::NoDirectory(directory.to_owned()));
        }
        free(path).await?;
        let mut making = path.as_os_str().to_owned();
        making.push(".new");
        let making = PathBuf::from(making);
        match fs::remove_file(&making) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&making).map_err(failed)?;
        fs::set_permissions(&making, fs::Permissions::from_mode(MODE)).map_err(failed)?;
        fs::rename(&making, path).map_err(failed)?;
        let identity = identity(path).map_err(failed)?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
            identity,
        })
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = identity(&self.path).is_ok_and(|found| found == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

/// Whether `path` may be taken: nothing stands there, or a socket that nobody answers on.
async fn free(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Io(path.to_owned(), error);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ok(()),
            // Its queue is full: somebody listens.
            ErrorKind::WouldBlock => Err(BindError::InUse(path.to_owned())),
            _ => Err(failed(error)),
        },
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BindError::InUse(path) => write!(
                f,
                "another twinpool answers on {}: stop it, or give this one a socket of its own \
                 ([control] socket)",
                path.display()
            ),
            BindError::NoDirectory(path) => write!(
                f,
                "{} does not exist: create it (systemd does, with RuntimeDirectory=), or name \
                 another place ([control] socket)",
                path.display()
            ),
            BindError::NotASocket(path) => write!(
                f,
                "{} is not a socket: remove it, or name another place ([control] socket)",
                path.display()
            ),
            BindError::Io(path, error) => {
                write!(
                    f,
                    "cannot make the control socket {}: {error}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BindError::Io(_, error) => Some(error),
            _ => None,
        }
    }
}
