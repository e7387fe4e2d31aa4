//! The files of a campaign and of `templates/`, read within limits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::campaign::Error;
use crate::compose::Markup;
use crate::world::{NotInside, inside};

/// Largest template file, in bytes.
const TEXT_MAX: u64 = 1024 * 1024;
/// Largest attachment or image, in bytes.
const ASSET_MAX: u64 = 10 * 1024 * 1024;
/// Most files read from `templates/`.
const PARTS_MAX: usize = 500;

/// The folders that a campaign's files lie in, as they are on the disk: its own, `campaigns/` and `templates/`.
#[derive(Debug, Clone)]
pub(super) struct Roots(Vec<PathBuf>);

impl Roots {
    /// Those of a campaign in `folder`.
    pub(super) fn of(workspace: &Path, folder: &Path) -> Roots {
        let all = [folder.to_owned(), workspace.join("campaigns"), workspace.join("templates")];
        Roots(all.iter().filter_map(|folder| folder.canonicalize().ok()).collect())
    }

    /// The place of a file on the disk. One that a link leads to from outside is refused (H-18): what is sent must be meant
    /// to be sent.
    fn place_of(&self, path: &Path) -> Result<PathBuf, Error> {
        inside(path, &self.0).map_err(|why| match why {
            NotInside::Unseen(why) => Error::Read { path: path.to_owned(), why },
            NotInside::Elsewhere(place) => Error::Folder {
                path: path.to_owned(),
                message: format!("leads out of campaigns/ and templates/, to {}", place.display()),
                help: "copy the file here if it is meant to be sent".into(),
            },
        })
    }
}

/// Reads a text file: UTF-8, a byte order mark taken off.
pub(super) fn read_text(path: &Path, roots: &Roots) -> Result<String, Error> {
    let bytes = read(path, roots, TEXT_MAX)?;
    let text = String::from_utf8(bytes).map_err(|why| Error::Folder {
        path: path.to_owned(),
        message: format!("byte {} is not UTF-8", why.utf8_error().valid_up_to() + 1),
        help: "save the file as UTF-8".into(),
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads an attachment or image.
pub(super) fn read_asset(path: &Path, roots: &Roots) -> Result<Vec<u8>, Error> {
    read(path, roots, ASSET_MAX)
}

fn read(path: &Path, roots: &Roots, most: u64) -> Result<Vec<u8>, Error> {
    let place = roots.place_of(path)?;
    let failed = |why| Error::Read { path: path.to_owned(), why };
    let size = std::fs::metadata(&place).map_err(failed)?.len();
    if size > most {
        return Err(Error::Folder {
            path: path.to_owned(),
            message: format!("{size} bytes are more than the {most} a file may have"),
            help: "make it smaller, or put it on the web and link to it".into(),
        });
    }
    std::fs::read(place).map_err(failed)
}

/// The template files of a workspace by name; none when there is no such folder.
pub(super) fn templates(folder: &Path, roots: &Roots) -> Result<BTreeMap<String, String>, Error> {
    let Ok(listing) = std::fs::read_dir(folder) else { return Ok(BTreeMap::new()) };
    let mut parts = BTreeMap::new();
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if Markup::of(&name).is_some_and(|markup| markup != Markup::Markdown) && entry.path().is_file() {
            parts.insert(name, read_text(&entry.path(), roots)?);
        }
        if parts.len() > PARTS_MAX {
            return Err(Error::Folder {
                path: folder.to_owned(),
                message: format!("there are more than {PARTS_MAX} templates"),
                help: "keep only templates in this folder".into(),
            });
        }
    }
    Ok(parts)
}

/// The media type a file's ending stands for.
pub(super) fn media_type(file: &str) -> &'static str {
    let ending = file.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        "ics" => "text/calendar",
        "csv" => "text/csv",
        "txt" => "text/plain",
        "zip" => "application/zip",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        _ => "application/octet-stream",
    }
}
