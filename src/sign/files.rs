//! Private files: keys on disk, readable by their owner alone.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use crate::base::Seal;
use crate::sign::Error;

/// The file of seal keys in the folder of keys.
const SEAL_FILE: &str = "seal.keys";

/// Reads the seal keys of a workspace from `keys`, its folder `state/keys`.
pub fn load_seal(keys: &Path) -> Result<Seal, Error> {
    let path = keys.join(SEAL_FILE);
    if !path.exists() {
        return Err(Error::NoSeal { path });
    }
    let text = read_private(&path)?;
    Seal::parse(&text).map_err(|why| Error::Seal { path, why })
}

/// Makes the seal keys of a new workspace; keys that are there already stay as they are.
pub fn create_seal(keys: &Path) -> Result<Seal, Error> {
    let text = Seal::fresh_key_file().map_err(|_| Error::Library("the system gives no random numbers".into()))?;
    match write_private(&keys.join(SEAL_FILE), text.as_bytes()) {
        Ok(()) | Err(Error::Exists { .. }) => load_seal(keys),
        Err(other) => Err(other),
    }
}

/// Reads a private file, and refuses one that others can read.
pub(super) fn read_private(path: &Path) -> Result<String, Error> {
    let failed = |why| Error::File { path: path.to_owned(), why };
    let meta = fs::metadata(path).map_err(failed)?;
    if is_exposed(&meta) {
        return Err(Error::Exposed { path: path.to_owned() });
    }
    let bytes = fs::read(path).map_err(failed)?;
    let no_text = |_| Error::Key { path: path.to_owned(), why: "this is no text, so it holds no key".to_owned() };
    String::from_utf8(bytes).map_err(no_text)
}

/// Writes a new private file, durably; an existing one is never touched.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |why| Error::File { path: path.to_owned(), why };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    owner_only(&mut options);
    let mut file = match options.open(path) {
        Err(why) if why.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists { path: path.to_owned() }),
        other => other.map_err(failed)?,
    };
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|why| {
        // half a key is none, and would stand in the way of a whole one
        let _ = fs::remove_file(path);
        failed(why)
    })
}

/// The entries of a folder in order of their names; none when it is not there.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |why| Error::File { path: folder.to_owned(), why };
    let listing = match fs::read_dir(folder) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths: Vec<_> =
        listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// A private key as PEM (RFC 7468 §10).
pub(super) fn pem(pkcs8: &[u8]) -> String {
    let text = BASE64.encode(pkcs8);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

#[cfg(unix)]
fn is_exposed(meta: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077 != 0
}

#[cfg(not(unix))]
fn is_exposed(_: &fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
fn owner_only(options: &mut fs::OpenOptions) {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}

#[cfg(not(unix))]
fn owner_only(_: &mut fs::OpenOptions) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_keys_are_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("state/keys");
        assert!(matches!(load_seal(&keys), Err(Error::NoSeal { .. })));
        let id = crate::base::EnvelopeId::from_u64(1);
        let token = create_seal(&keys).unwrap().mint(id, crate::base::Purpose::Bounce, 0);
        assert!(create_seal(&keys).unwrap().open(token.as_str(), crate::base::Purpose::Bounce).is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        create_seal(folder.path()).unwrap();
        let path = folder.path().join(SEAL_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_seal(folder.path()), Err(Error::Exposed { .. })));
    }
}
