//! Binding the socket: never stealing it from a running dataplane, never tripping over a dead one's file.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::Error;

/// Owner and group may speak to the dataplane.
const MODE: u32 = 0o660;

pub(super) fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |error| Error::Socket { path: path.to_owned(), error };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(Error::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_dataplanes_socket_is_replaced_and_a_live_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/api.sock");
        drop(listen(&path).unwrap());
        assert!(path.exists(), "a dead process leaves its file behind");
        let live = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(Error::InUse(_))));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(live);
    }

    #[test]
    fn a_plain_file_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        fs::write(&path, "dear diary").unwrap();
        assert!(matches!(listen(&path), Err(Error::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"dear diary");
    }
}
