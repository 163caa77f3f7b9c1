//! The Unix socket itself: bound where nobody else listens, removed when it is over.
//!
//! It is made under another name and renamed into place, so that it never stands there with wider
//! permissions than it shall have, and so that the leftover of a dead daemon is replaced in one
//! step. A socket that somebody answers on is never taken.

use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::Group;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config::Control;

/// How long the look-up of a group may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A bound control socket.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    claim: Rc<Claim>,
}

/// The file of a control socket, which goes when this is dropped, if it is still the same and has
/// not become another process's.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    identity: (u64, u64),
    is_ours: Cell<bool>,
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
    /// The group that it is to have does not exist here, or cannot be found.
    NoGroup(String, Option<String>),
    /// It cannot be given to its group.
    NotGiven(String, io::Error),
    /// Any other error.
    Io(PathBuf, io::Error),
}

impl ControlSocket {
    /// Binds the socket, replacing the leftover of a daemon that is dead.
    pub async fn bind(control: &Control) -> Result<ControlSocket, BindError> {
        let path = &*control.socket;
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
        if let Err(error) = permit(&making, control).await {
            if let Err(error) = fs::remove_file(&making) {
                tracing::warn!(path = %making.display(), %error, "cannot remove what was begun");
            }
            return Err(error);
        }
        fs::rename(&making, path).map_err(failed)?;
        let identity = identity(path).map_err(failed)?;
        let socket = ControlSocket::new(listener, path, identity);
        socket.claim.take_over();
        Ok(socket)
    }

    /// One that another process bound, and may leave to this one: its file is that process's until
    /// [`Claim::take_over`]. `identity` is that of the file.
    ///
    /// # Errors
    /// When it cannot be polled.
    pub fn inherited(
        listener: std::os::unix::net::UnixListener,
        control: &Control,
        identity: (u64, u64),
    ) -> io::Result<ControlSocket> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(ControlSocket::new(listener, &control.socket, identity))
    }

    fn new(listener: UnixListener, path: &Path, identity: (u64, u64)) -> ControlSocket {
        let claim = Rc::new(Claim {
            path: path.to_owned(),
            identity,
            is_ours: Cell::new(false),
        });
        ControlSocket { listener, claim }
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.claim.path
    }

    /// Its file.
    pub fn claim(&self) -> Rc<Claim> {
        self.claim.clone()
    }
}

impl Claim {
    /// Device and inode of the file.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Has the file go with this process.
    pub fn take_over(&self) {
        self.is_ours.set(true);
    }

    /// Leaves the file to another process.
    pub fn give_up(&self) {
        self.is_ours.set(false);
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Gives a socket its group and its permissions.
async fn permit(path: &Path, control: &Control) -> Result<(), BindError> {
    if let Some(name) = &control.group {
        let group = group_id(name).await?;
        let given = std::os::unix::fs::chown(path, None, Some(group));
        given.map_err(|error| BindError::NotGiven(name.clone(), error))?;
    }
    let permissions = fs::Permissions::from_mode(control.mode);
    fs::set_permissions(path, permissions).map_err(|error| BindError::Io(path.to_owned(), error))
}

/// The number of a group, wherever this host knows its groups from.
async fn group_id(name: &str) -> Result<u32, BindError> {
    let missing = |why| BindError::NoGroup(name.to_owned(), why);
    let wanted = name.to_owned();
    let found = spawn_blocking(move || Group::from_name(&wanted));
    match timeout(PATIENCE, found).await {
        Ok(Ok(Ok(Some(group)))) => Ok(group.gid.as_raw()),
        Ok(Ok(Ok(None))) => Err(missing(None)),
        Ok(Ok(Err(error))) => Err(missing(Some(error.to_string()))),
        Ok(Err(error)) => Err(missing(Some(error.to_string()))),
        Err(_) => Err(missing(Some(format!("no answer within {PATIENCE:?}")))),
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let is_it = || identity(&self.path).is_ok_and(|found| found == self.identity);
        if self.is_ours.get()
            && is_it()
            && let Err(error) = fs::remove_file(&self.path)
        {
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
            BindError::NoGroup(name, None) => write!(
                f,
                "there is no group {name} on this host: make it (`groupadd {name}`), or name \
                 another ([control] group)"
            ),
            BindError::NoGroup(name, Some(why)) => write!(
                f,
                "the group {name} cannot be looked up: {why}; mend that, or leave [control] group \
                 out"
            ),
            BindError::NotGiven(name, error) => write!(
                f,
                "cannot give the control socket to the group {name}: {error}; have the user that \
                 runs twinpool be in it (systemd: SupplementaryGroups={name})"
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
            BindError::NotGiven(_, error) | BindError::Io(_, error) => Some(error),
            _ => None,
        }
    }
}
