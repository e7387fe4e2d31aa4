//! Raw messages out of files: a message of its own, an mbox, a Maildir. One message is in memory at a time, cut to what
//! is looked at.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::bytes::Regex;

use crate::outcome::letter::SIZE_MAX;

/// A message and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its file.
    pub file: PathBuf,
    /// Its place in the file, from 0.
    pub index: u64,
    /// Its octets, the first 4 MiB at most.
    pub bytes: Vec<u8>,
}

/// The messages of a file or folder, in order. A folder is a Maildir (its `new` and `cur` are read), or one with
/// messages ending in `.eml`. A file that begins with `From ` is an mbox, unless its name ends in `.eml`.
///
/// # Errors
/// What cannot be opened; each message that cannot be read is an error of its own, and the next one follows.
pub fn mails(path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<Mail>>>> {
    if path.is_dir() {
        return Ok(Box::new(files(path)?.into_iter().map(|file| whole(&file))));
    }
    let mut reader = BufReader::new(File::open(path)?);
    let is_mbox = !has_ending(path, "eml") && reader.fill_buf()?.starts_with(b"From ");
    Ok(match is_mbox {
        true => Box::new(Mbox { file: path.to_owned(), reader, index: 0, line: Vec::new(), is_over: false }),
        false => Box::new(std::iter::once(whole(path))),
    })
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// The files of messages in a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let parts = ["new", "cur"].map(|part| folder.join(part));
    let is_maildir = parts.iter().any(|part| part.is_dir());
    let folders = if is_maildir { parts.to_vec() } else { vec![folder.to_owned()] };
    let mut found = Vec::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_file() && !is_hidden && (is_maildir || has_ending(&path, "eml")) {
                found.push(path);
            }
        }
    }
    found.sort();
    match found.is_empty() && !is_maildir {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "is no Maildir, and holds no file ending in .eml")),
        false => Ok(found),
    }
}

fn whole(path: &Path) -> io::Result<Mail> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SIZE_MAX as u64).read_to_end(&mut bytes)?;
    Ok(Mail { file: path.to_owned(), index: 0, bytes })
}

/// An mbox (RFC 4155): messages parted by lines that begin with `From `, quoted as `>From ` where they are text.
struct Mbox {
    file: PathBuf,
    reader: BufReader<File>,
    index: u64,
    line: Vec<u8>,
    is_over: bool,
}

impl Mbox {
    /// Reads the next line, cut to what a message may hold; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        let read = (&mut self.reader).take(SIZE_MAX as u64).read_until(b'\n', &mut self.line)?;
        Ok(read > 0)
    }

    fn message(&mut self) -> io::Result<Option<Mail>> {
        if self.index == 0 && self.line.is_empty() {
            // The line that opens the first message.
            self.is_over = !self.advance()?;
        }
        if self.is_over {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let mut after_empty = false;
        loop {
            if !self.advance()? {
                self.is_over = true;
                break;
            }
            if after_empty && is_separator(&self.line) {
                break;
            }
            after_empty = self.line.trim_ascii_end().is_empty();
            let is_quoted =
                self.line.starts_with(b">") && self.line.trim_ascii_start_matches(b'>').starts_with(b"From ");
            let line = if is_quoted { &self.line[1..] } else { &self.line };
            let room = SIZE_MAX - bytes.len();
            bytes.extend_from_slice(&line[..line.len().min(room)]);
        }
        let index = self.index;
        self.index += 1;
        Ok(Some(Mail { file: self.file.clone(), index, bytes }))
    }
}

impl Iterator for Mbox {
    type Item = io::Result<Mail>;

    fn next(&mut self) -> Option<io::Result<Mail>> {
        let next = self.message();
        self.is_over |= next.is_err();
        next.transpose()
    }
}

/// Whether a line behind an empty one opens the next message: a sender and a date, not a sentence that begins with From.
fn is_separator(line: &[u8]) -> bool {
    static SEPARATOR: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^From \S* *\S*.*\d{1,2}:\d\d(?::\d\d)?.*\d{4}").expect("a fixed expression"));
    line.starts_with(b"From ") && SEPARATOR.is_match(&line[..line.len().min(300)])
}

/// Octets without leading ones of a kind.
trait TrimStart {
    fn trim_ascii_start_matches(&self, octet: u8) -> &[u8];
}

impl TrimStart for [u8] {
    fn trim_ascii_start_matches(&self, octet: u8) -> &[u8] {
        let start = self.iter().position(|found| *found != octet).unwrap_or(self.len());
        &self[start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<(u64, String)> {
        let text = |mail: Mail| (mail.index, String::from_utf8(mail.bytes).unwrap());
        mails(path).unwrap().map(|mail| text(mail.unwrap())).collect()
    }

    #[test]
    fn an_mbox_is_parted_where_messages_begin_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("box");
        let date = "Thu Jul  2 12:05:05 2020";
        let text = format!(
            "From a@example.com {date}\nSubject: one\n\n>From here on it is text\nFrom now on too {date}\n\n\
             From us all, with love\n\nFrom MAILER-DAEMON {date}\nSubject: two\n\nbody"
        );
        std::fs::write(&file, text).unwrap();
        let found = read(&file);
        assert_eq!(found.len(), 2);
        assert!(found[0].1.starts_with("Subject: one\n\nFrom here") && found[0].1.contains("with love"));
        assert_eq!(found[1], (1, "Subject: two\n\nbody".to_owned()));
    }

    #[test]
    fn a_message_of_its_own_is_one_whatever_it_begins_with() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.EML");
        let text = "From a@b Thu Jul  2 12:05:05 2020\nSubject: x\n\n\nFrom a@b Thu Jul  2 12:05:05 2020\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(read(&file), [(0, text.to_owned())]);
        assert_eq!(read(folder.path()).len(), 1);
        std::fs::write(folder.path().join("empty"), "").unwrap();
        assert_eq!(read(&folder.path().join("empty")), [(0, String::new())]);
    }

    #[test]
    fn a_maildir_is_read_new_and_cur_and_any_other_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["new", "cur", "tmp"] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
            std::fs::write(folder.path().join(part).join("1.host:2,S"), part).unwrap();
        }
        let found: Vec<String> = read(folder.path()).into_iter().map(|(_, text)| text).collect();
        assert_eq!(found, ["cur", "new"]);
        let other = tempfile::tempdir().unwrap();
        assert!(mails(other.path()).is_err());
        assert!(mails(&other.path().join("none")).is_err());
    }

    #[test]
    fn no_message_is_larger_than_what_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("box");
        let mut text = b"From a@b Thu Jul  2 12:05:05 2020\n".to_vec();
        text.resize(3 * SIZE_MAX, b'x');
        text.extend_from_slice(b"\n\nFrom a@b Thu Jul  2 12:05:05 2020\nSubject: last\n");
        std::fs::write(&file, text).unwrap();
        let found = read(&file);
        assert_eq!((found[0].1.len(), found[1].1.as_str()), (SIZE_MAX, "Subject: last\n"));
    }
}
