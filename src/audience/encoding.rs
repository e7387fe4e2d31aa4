//! In which encoding a file is written: found by looking at all of it once, and read as UTF-8 from then on. Knows nothing
//! of rows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Decoder, Encoding, MACINTOSH, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Read at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// The detector has seen enough after so many bytes of text that is not plain ASCII.
const DETECTED_FROM: usize = 1024 * 1024;
/// UTF-16 without a mark is recognised by zeros among so many first bytes.
const FIRST: usize = 4096;

/// What a file is written in.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    encoding: &'static Encoding,
    /// Bytes of the mark at the beginning.
    mark: u64,
}

impl Script {
    /// The encoding called `name`, as people and browsers call it (`utf-8`, `latin1`, `windows-1252`, `utf-16le`).
    pub fn named(name: &str) -> Option<Script> {
        let encoding =
            Encoding::for_label(name.trim().as_bytes()).filter(|encoding| encoding.name() != "replacement")?;
        Some(Script { encoding, mark: 0 })
    }

    /// Looks at the whole file and leaves it at its beginning.
    pub fn find(file: &mut File) -> io::Result<Script> {
        let mut start = Vec::with_capacity(FIRST);
        file.rewind()?;
        file.take(FIRST as u64).read_to_end(&mut start)?;
        let found = match Encoding::for_bom(&start) {
            Some((encoding, mark)) => Script { encoding, mark: mark as u64 },
            None => match utf16_by_zeros(&start) {
                Some(encoding) => Script { encoding, mark: 0 },
                None => Script { encoding: eight_bit(file)?, mark: 0 },
            },
        };
        file.rewind()?;
        Ok(found)
    }

    /// The same encoding, with the mark that this file begins with, if it does.
    pub fn with_mark_of(self, file: &mut File) -> io::Result<Script> {
        let mut start = [0; 3];
        file.rewind()?;
        let length = file.read(&mut start)?;
        file.rewind()?;
        let mark = match Encoding::for_bom(&start[..length]) {
            Some((encoding, mark)) if encoding == self.encoding => mark as u64,
            _ => 0,
        };
        Ok(Script { mark, ..self })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.encoding.name()
    }

    /// The file's text as UTF-8; how many of its bytes are read stands in `progress`. A file that is UTF-8 already is
    /// given as it is, faults included.
    pub fn read(&self, mut file: File, progress: Arc<AtomicU64>) -> io::Result<Text> {
        file.seek(SeekFrom::Start(self.mark))?;
        progress.store(self.mark, Ordering::Relaxed);
        let decoding = (self.encoding != UTF_8).then(|| Decoding::new(self.encoding));
        Ok(Text { file, progress, decoding })
    }
}

/// A file read as UTF-8.
pub struct Text {
    file: File,
    progress: Arc<AtomicU64>,
    decoding: Option<Decoding>,
}

/// A decoder between two buffers: what it writes has a room of its own, because it writes nothing into too small a one.
struct Decoding {
    decoder: Decoder,
    /// Bytes of the file.
    raw: Vec<u8>,
    /// Their text, given out up to `given`.
    text: Vec<u8>,
    given: usize,
    ended: bool,
}

impl Read for Text {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(decoding) = &mut self.decoding else {
            let read = self.file.read(into)?;
            self.progress.fetch_add(read as u64, Ordering::Relaxed);
            return Ok(read);
        };
        while decoding.given == decoding.text.len() && !decoding.ended {
            let read = decoding.go_on(&mut self.file)?;
            self.progress.fetch_add(read as u64, Ordering::Relaxed);
        }
        (&decoding.text[decoding.given..]).read(into).inspect(|read| decoding.given += read)
    }
}

impl Decoding {
    fn new(encoding: &'static Encoding) -> Decoding {
        let decoder = encoding.new_decoder_without_bom_handling();
        Decoding { decoder, raw: Vec::new(), text: Vec::new(), given: 0, ended: false }
    }

    /// Decodes another chunk of the file; gives its length in bytes. What the encoding does not know becomes U+FFFD, which
    /// its row is then refused for.
    fn go_on(&mut self, file: &mut File) -> io::Result<usize> {
        self.raw.resize(CHUNK, 0);
        let length = file.read(&mut self.raw)?;
        self.raw.truncate(length);
        self.ended = length == 0;
        let room = self.decoder.max_utf8_buffer_length(length).expect("a chunk is small");
        self.text.resize(room, 0);
        let (_, _, written, _) = self.decoder.decode_to_utf8(&self.raw, &mut self.text, self.ended);
        self.text.truncate(written);
        self.given = 0;
        Ok(length)
    }
}

/// Text in a Latin script has a zero in every second byte: which one tells the order.
fn utf16_by_zeros(start: &[u8]) -> Option<&'static Encoding> {
    let zeros = |from: usize| start.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd, pairs) = (zeros(0), zeros(1), start.len() / 2);
    match pairs > 0 {
        true if odd * 2 > pairs && even * 8 < pairs => Some(UTF_16LE),
        true if even * 2 > pairs && odd * 8 < pairs => Some(UTF_16BE),
        _ => None,
    }
}

/// UTF-8 when there is more of it than what contradicts it; else what the detector takes it for.
fn eight_bit(file: &mut File) -> io::Result<&'static Encoding> {
    let mut seen = Seen::default();
    let mut chunk = Vec::with_capacity(CHUNK);
    file.rewind()?;
    loop {
        let carried = chunk.len();
        file.take((CHUNK - carried) as u64).read_to_end(&mut chunk)?;
        let is_last = chunk.len() < CHUNK;
        let rest = seen.look(&chunk, is_last);
        if is_last {
            break;
        }
        chunk.drain(..chunk.len() - rest);
    }
    if seen.faults == 0 || seen.letters >= seen.faults {
        return Ok(UTF_8);
    }
    let guess = guess(file)?;
    // only old Macs end their lines in a lone CR, and nobody else wrote their encoding
    Ok(if guess == WINDOWS_1252 && seen.returns > seen.feeds { MACINTOSH } else { guess })
}

/// What the detector takes the file for, which is not UTF-8.
fn guess(file: &mut File) -> io::Result<&'static Encoding> {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    let mut chunk = vec![0; CHUNK];
    let mut detected = 0;
    file.rewind()?;
    while detected < DETECTED_FROM {
        let length = file.read(&mut chunk)?;
        let is_last = length == 0;
        if is_last || !chunk[..length].is_ascii() {
            detector.feed(&chunk[..length], is_last);
            detected += length;
        }
        if is_last {
            break;
        }
    }
    Ok(detector.guess(None, Utf8Detection::Deny))
}

/// What the bytes of a file say about its encoding.
#[derive(Default)]
struct Seen {
    /// Characters beyond ASCII in good UTF-8.
    letters: usize,
    /// Places that are no UTF-8.
    faults: usize,
    /// Line feeds, and carriage returns.
    feeds: usize,
    returns: usize,
}

impl Seen {
    /// Counts a chunk; gives how many bytes at its end are the beginning of a character that the next chunk ends.
    fn look(&mut self, chunk: &[u8], is_last: bool) -> usize {
        self.feeds += memchr::memchr_iter(b'\n', chunk).count();
        self.returns += memchr::memchr_iter(b'\r', chunk).count();
        let mut rest = chunk;
        loop {
            let fault = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.letters += beyond_ascii(text);
                    return 0;
                }
                Err(fault) => fault,
            };
            let (good, bad) = rest.split_at(fault.valid_up_to());
            self.letters += beyond_ascii(std::str::from_utf8(good).unwrap_or_default());
            match fault.error_len() {
                None if !is_last => return bad.len(),
                length => {
                    self.faults += 1;
                    rest = &bad[length.unwrap_or(bad.len())..];
                }
            }
        }
    }
}

fn beyond_ascii(text: &str) -> usize {
    // the first byte of every such character, and no other
    text.bytes().filter(|byte| *byte >= 0xc0).count()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file with these bytes: the encoding found and the text read.
    fn read(bytes: &[u8]) -> (&'static str, String) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let script = Script::find(&mut file).unwrap();
        let mut text = Vec::new();
        script.read(file, Arc::default()).unwrap().read_to_end(&mut text).unwrap();
        (script.name(), String::from_utf8_lossy(&text).into_owned())
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn marks_and_zeros_tell_the_encoding() {
        let text = "email,name\nada@example.org,Zoë\n";
        let marked = |text: &str| format!("\u{feff}{text}");
        let cases = [
            ("UTF-8", text.as_bytes().to_vec()),
            ("UTF-8", marked(text).into_bytes()),
            ("UTF-16LE", utf16(&marked(text), u16::to_le_bytes)),
            ("UTF-16BE", utf16(&marked(text), u16::to_be_bytes)),
            ("UTF-16LE", utf16(text, u16::to_le_bytes)),
            ("UTF-16BE", utf16(text, u16::to_be_bytes)),
        ];
        for (name, bytes) in cases {
            assert_eq!(read(&bytes), (name, text.to_owned()));
        }
    }

    #[test]
    fn old_encodings_are_told_from_damaged_utf8() {
        let latin = b"email,name\nada@example.org,Zo\xeb M\xfcller\n";
        assert_eq!(read(latin), ("windows-1252", "email,name\nada@example.org,Zoë Müller\n".into()));
        let mac = b"email,name\rada@example.org,\"Zo\x91\nM\x9fller\"\r";
        assert_eq!(read(mac), ("macintosh", "email,name\rada@example.org,\"Zoë\nMüller\"\r".into()));
        let damaged =
            "email,name\nada@example.org,Zoë\nbob@example.org,".bytes().chain(*b"J\xfcrgen\n").collect::<Vec<_>>();
        assert_eq!(read(&damaged).0, "UTF-8");
    }

    #[test]
    fn text_is_given_into_the_smallest_room() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&utf16("\u{feff}€x", u16::to_le_bytes)).unwrap();
        let mut text = Script::find(&mut file).unwrap().read(file, Arc::default()).unwrap();
        let mut read = Vec::new();
        let mut byte = [0];
        while text.read(&mut byte).unwrap() == 1 {
            read.push(byte[0]);
        }
        assert_eq!(read, "€x".as_bytes());
        assert_eq!(text.read(&mut byte).unwrap(), 0, "the end stays the end");
    }

    #[test]
    fn a_letter_cut_by_the_end_of_a_chunk_is_no_fault() {
        for shift in 0..3 {
            let text = format!("{}{}", "x".repeat(shift), "ü€😀".repeat(40_000));
            assert_eq!(read(text.as_bytes()), ("UTF-8", text));
        }
    }
}
