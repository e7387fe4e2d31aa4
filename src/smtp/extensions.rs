//! What a host offers: its answer to EHLO (RFC 5321 §4.1.1.1), read once and kept as facts. Unknown keywords are
//! ignored, and so is a known one whose parameter makes no sense (RFC 9422 §3 for LIMITS, one by one).

use super::reply::Heard;

/// The service extensions a host offers, as far as we use them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// Commands may be sent in groups (RFC 2920).
    pub pipelining: bool,
    /// The largest message in octets (RFC 1870): outer `None` when not offered, inner `None` when no limit is stated.
    pub size: Option<Option<u64>>,
    /// Eight-bit bodies (RFC 6152).
    pub eight_bit_mime: bool,
    /// Delivery report options (RFC 3461).
    pub dsn: bool,
    /// Addresses and headers in UTF-8 (RFC 6531).
    pub smtputf8: bool,
    /// TLS by STARTTLS (RFC 3207).
    pub starttls: bool,
    /// BDAT (RFC 3030); [`super::session`] says where it is used.
    pub chunking: bool,
    /// Enhanced status codes (RFC 2034).
    pub enhanced_status_codes: bool,
    /// Most MAIL commands in one session (RFC 9422).
    pub mail_max: Option<u32>,
    /// The mechanisms of AUTH (RFC 4954), upper case.
    pub auth: Vec<String>,
}

impl Extensions {
    /// Reads an answer to EHLO. Its first line is a greeting and offers nothing; a line that is not UTF-8, neither.
    pub fn of(answer: &Heard<'_>) -> Extensions {
        let mut found = Extensions::default();
        for line in answer.lines().skip(1).filter_map(|line| std::str::from_utf8(line).ok()) {
            found.note(line);
        }
        found
    }

    fn note(&mut self, line: &str) {
        // `AUTH=LOGIN` is how some old servers wrote it before RFC 2554; clients of the field still read it.
        let mut words = line.split(|c: char| c == '=' && line.len() > 5 && is_auth(line) || c.is_ascii_whitespace());
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        let words = words.filter(|word| !word.is_empty());
        match keyword.as_str() {
            "PIPELINING" => self.pipelining = true,
            "SIZE" => self.size = Some(size(words)),
            "8BITMIME" => self.eight_bit_mime = true,
            "DSN" => self.dsn = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "STARTTLS" => self.starttls = true,
            "CHUNKING" => self.chunking = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "LIMITS" => self.note_limits(words),
            "AUTH" => self.auth.extend(words.map(str::to_ascii_uppercase)),
            _ => {}
        }
    }

    /// RCPTMAX and RCPTDOMAINMAX cannot bind: a transaction has one recipient, a connection serves one site, and a
    /// host that counts domains answers 4xx when its count is reached.
    fn note_limits<'a>(&mut self, words: impl Iterator<Item = &'a str>) {
        for limit in words {
            let Some((name, value)) = limit.split_once('=') else { continue };
            let number = value.parse().ok().filter(|number| *number > 0 && value.len() <= 6);
            if name.eq_ignore_ascii_case("MAILMAX") && number.is_some() {
                self.mail_max = number;
            }
        }
    }
}

fn is_auth(line: &str) -> bool {
    line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("AUTH="))
}

/// `SIZE`, `SIZE 0` and a number that is none state no limit (RFC 1870 §4).
fn size<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<u64> {
    words.next().and_then(|word| word.parse().ok()).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::Reader;

    fn read(text: &str) -> Extensions {
        let lines: Vec<&str> = text.lines().collect();
        let (last, first) = lines.split_last().unwrap();
        let mut bytes: String = first.iter().map(|line| format!("250-{line}\r\n")).collect();
        bytes.push_str(&format!("250 {last}\r\n"));
        let found = Reader::default().read(bytes.as_bytes()).unwrap().unwrap();
        Extensions::of(&found.of(bytes.as_bytes()))
    }

    #[test]
    fn keywords_are_known_in_any_case_and_others_are_ignored() {
        let found = read("mx.example.org\npipelining\nSize 1000\n8BitMIME\nXFOO bar\nDSN\nSTARTTLS\nAuth PLAIN login");
        let expected = Extensions {
            pipelining: true,
            size: Some(Some(1000)),
            eight_bit_mime: true,
            dsn: true,
            starttls: true,
            auth: vec!["PLAIN".into(), "LOGIN".into()],
            ..Extensions::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_greeting_line_offers_nothing() {
        assert_eq!(read("PIPELINING"), Extensions::default());
    }

    #[test]
    fn a_size_of_nothing_states_no_limit() {
        for text in ["x\nSIZE", "x\nSIZE 0", "x\nSIZE lots"] {
            assert_eq!(read(text).size, Some(None), "{text}");
        }
        assert_eq!(read("x\nDSN").size, None);
    }

    #[test]
    fn limits_are_read_one_by_one() {
        assert_eq!(read("x\nLIMITS RCPTMAX=x MAILMAX=20 FOO=1 BAR").mail_max, Some(20));
        for text in ["x\nLIMITS MAILMAX=0", "x\nLIMITS MAILMAX=-3", "x\nLIMITS MAILMAX", "x\nLIMITS MAILMAX=99999999"] {
            assert_eq!(read(text).mail_max, None, "{text}");
        }
    }

    #[test]
    fn the_old_way_of_offering_auth_is_understood() {
        assert_eq!(read("x\nAUTH=LOGIN PLAIN\nAUTH CRAM-MD5").auth, ["LOGIN", "PLAIN", "CRAM-MD5"]);
    }
}
