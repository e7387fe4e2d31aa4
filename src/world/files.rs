//! Where the links of the file system lead.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file must not be read, or cannot.
#[derive(Debug)]
pub enum NotInside {
    /// It is not there, or cannot be looked at.
    Unseen(io::Error),
    /// It lies elsewhere, at this place.
    Elsewhere(PathBuf),
}

/// The place on the disk that a path leads to, where that is in one of `roots`: folders as they are on the disk, without
/// links (H-18). To be read there, and not by its path: that may lead elsewhere a moment later.
pub fn inside(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, NotInside> {
    let place = path.canonicalize().map_err(NotInside::Unseen)?;
    match roots.iter().any(|root| place.starts_with(root)) {
        true => Ok(place),
        false => Err(NotInside::Elsewhere(place)),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_may_lead_about_its_roots_and_not_out_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        for root in ["own", "common", "common-not"] {
            std::fs::create_dir(at(root)).unwrap();
            std::fs::write(at(root).join("file"), root).unwrap();
        }
        let roots = [at("own"), at("common"), at("gone")];
        for (link, target, found) in [
            ("own/one", "own/file", Some("own/file")),
            ("own/two", "common/file", Some("common/file")),
            ("own/three", "own/two", Some("common/file")),
            ("common-not/four", "own/file", Some("own/file")),
            ("own/five", "common-not/file", None),
            ("own/six", "own/five", None),
        ] {
            symlink(at(target), at(link)).unwrap();
            assert_eq!(inside(&at(link), &roots).ok(), found.map(at), "{link}");
        }
        assert_eq!(inside(&at("own/../common/file"), &roots).ok(), Some(at("common/file")));
        assert!(matches!(inside(&at("own/../common-not/file"), &roots), Err(NotInside::Elsewhere(_))));
        assert!(
            matches!(inside(&at("own/none"), &roots), Err(NotInside::Unseen(why)) if why.kind() == io::ErrorKind::NotFound)
        );
    }
}
