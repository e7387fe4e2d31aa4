//! Layers: defaults, then `mailshot.toml`, then the environment. Every complaint names its place and what to do.

use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, NamedSource, SourceSpan};
use toml::de::{DeTable, DeValue};

use super::check::Wrong;
use super::reference::SECRETS;
use super::{Secret, Settings};

/// Variables that start like settings but are none: log filter and test material.
const RESERVED: &[&str] = &["LOG", "CORPUS", "SOAK", "LOAD"];
const PREFIX: &str = "MAILSHOT_";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// The file is there but cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The file is not TOML, or holds an unknown key or a wrong value.
    #[error("{message}")]
    File {
        /// What is wrong.
        message: String,
        /// The whole file, to show the line.
        #[source_code]
        file: NamedSource<String>,
        /// Where in the file.
        #[label("here")]
        place: Option<SourceSpan>,
        /// What to do.
        #[help]
        help: Option<String>,
    },
    /// A variable of the environment names no setting, or has a wrong value.
    #[error("the environment variable {variable}: {message}")]
    Variable {
        /// Its full name.
        variable: String,
        /// What is wrong.
        message: String,
        /// What to do.
        #[help]
        help: Option<String>,
    },
    /// A value that is missing beside another one.
    #[error("{key}: {message}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// What is wrong, and what to do.
        message: &'static str,
    },
}

impl Settings {
    /// Loads `file` (absent: all defaults) and lays the variables of `env` over it. Relative paths are taken from the
    /// file's folder.
    pub fn load(file: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Settings, Error> {
        let text = read(file)?.unwrap_or_default();
        parse_file(file, &text)?;
        let mut table: toml::Table = text.parse().map_err(|error| in_file(file, &text, &error))?;
        let env: Vec<(String, String)> = env.collect();
        let mut variables: Vec<_> = env.iter().filter(|(name, _)| is_setting(name)).cloned().collect();
        variables.sort();
        for (name, value) in &variables {
            overlay(&mut table, name, value)?;
        }
        let mut settings: Settings = table.try_into().expect("each layer was accepted by itself");
        settings.resolve(file.parent().unwrap_or(Path::new(".")), &env)?;
        settings.check().map_err(|wrong| placed(wrong, file, &text, &variables))?;
        Ok(settings)
    }

    /// Makes paths absolute and reads secrets from their files.
    fn resolve(&mut self, folder: &Path, env: &[(String, String)]) -> Result<(), Error> {
        let listener = [&mut self.listener.tls_cert, &mut self.listener.tls_key];
        let own =
            [&mut self.tls_ca, &mut self.dnssec_anchor, &mut self.relay.password_file, &mut self.relay.token_file]
                .into_iter()
                .chain(listener);
        let mailboxes = self.mailbox.iter_mut().flat_map(|mailbox| {
            let oauth = mailbox.oauth.iter_mut();
            let oauth = oauth.flat_map(|oauth| [&mut oauth.client_secret_file, &mut oauth.refresh_token_file]);
            [&mut mailbox.password_file, &mut mailbox.token_file].into_iter().chain(oauth)
        });
        let relays = self.route.iter_mut().flat_map(|route| &mut route.relays);
        let relays = relays.flat_map(|relay| [&mut relay.password_file, &mut relay.token_file]);
        for path in own.chain(mailboxes).chain(relays).flatten() {
            *path = folder.join(&*path);
        }
        if let (Some(path), None) = (&self.relay.password_file, &self.relay.password) {
            self.relay.password = Some(first_line(path)?);
        }
        for relay in self.route.iter_mut().flat_map(|route| &mut route.relays) {
            relay.password = match (&relay.password_env, &relay.password_file) {
                (Some(name), _) => {
                    let found = env.iter().find(|(known, _)| known == name);
                    let missing = || Error::Variable {
                        variable: name.clone(),
                        message: "is not set, and a relay's password_env names it".to_owned(),
                        help: None,
                    };
                    Some(Secret::new(found.ok_or_else(missing)?.1.clone()))
                }
                (None, Some(path)) => Some(first_line(path)?),
                (None, None) => None,
            };
        }
        Ok(())
    }
}

fn first_line(path: &Path) -> Result<Secret, Error> {
    let text = std::fs::read_to_string(path).map_err(|why| Error::Read { path: path.to_owned(), why })?;
    Ok(Secret::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn read(file: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(Error::Read { path: file.to_owned(), why }),
    }
}

/// Reads the file as settings by itself, so that what is wrong is shown at its line.
fn parse_file(file: &Path, text: &str) -> Result<(), Error> {
    toml::from_str::<Settings>(text).map_err(|error| in_file(file, text, &error))?;
    let table: toml::Table = text.parse().map_err(|error| in_file(file, text, &error))?;
    for (section, key) in SECRETS {
        if table.get(*section).and_then(|s| s.get(*key)).is_some() {
            return Err(Error::File {
                message: format!("{section}.{key} must not stand in a file that may be shared"),
                file: NamedSource::new(file.display().to_string(), text.to_owned()),
                place: text.find(key).map(|at| SourceSpan::from((at, key.len()))),
                help: Some(format!(
                    "name a file that only you can read with {key}_file, or set {PREFIX}{}__{} in the environment",
                    section.to_uppercase(),
                    key.to_uppercase()
                )),
            });
        }
    }
    Ok(())
}

impl Error {
    /// Something wrong in another file of the workspace, at its place.
    pub fn in_file(
        file: &Path,
        text: &str,
        place: Option<Range<usize>>,
        message: String,
        help: Option<String>,
    ) -> Error {
        let file = NamedSource::new(file.display().to_string(), text.to_owned());
        Error::File { message, file, place: place.map(SourceSpan::from), help }
    }
}

fn in_file(file: &Path, text: &str, error: &toml::de::Error) -> Error {
    Error::in_file(file, text, error.span(), error.message().to_owned(), Some(hint(error.message())))
}

/// A value that cannot be meant, as an error that says where it was given: by a variable, or at a line of the file.
fn placed(wrong: Wrong, file: &Path, text: &str, variables: &[(String, String)]) -> Error {
    let Wrong { key, value, message } = wrong;
    let variable = format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
    if variables.iter().any(|(name, _)| *name == variable) {
        return Error::Variable { variable, message: format!("\"{value}\": {message}"), help: None };
    }
    let root = DeTable::parse(text).ok();
    let path: Vec<&str> = key.split('.').collect();
    match root.and_then(|root| place(root.get_ref(), &path, text, &value)) {
        Some(place) => Error::in_file(file, text, Some(place), format!("{key} = \"{value}\": {message}"), None),
        None => Error::Value { key, message },
    }
}

/// Where a key stands, or where its section begins when it is missing there. Of several tables of one name it is the one that has the value in it.
fn place(table: &DeTable<'_>, path: &[&str], text: &str, value: &str) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let (key, inner) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    let whole = key.span().start..inner.span().end.max(key.span().end);
    match inner.get_ref() {
        DeValue::Table(section) if !rest.is_empty() => place(section, rest, text, value).or(Some(key.span())),
        DeValue::Array(rows) if !rest.is_empty() => {
            let tables = rows.iter().filter_map(|row| row.get_ref().as_table());
            let places: Vec<_> = tables.filter_map(|row| place(row, rest, text, value)).collect();
            let meant = places.iter().find(|place| text[(*place).clone()].contains(value));
            meant.or(places.first()).cloned().or(Some(key.span()))
        }
        _ => Some(whole),
    }
}

/// For an unknown key the nearest known one; else where the reference is.
fn hint(message: &str) -> String {
    let reference = "`mailshot config` prints every key with its meaning and default";
    match nearest(message) {
        Some(known) => format!("did you mean `{known}`? {reference}"),
        None => reference.to_owned(),
    }
}

/// The known key nearest to the unknown one that a parser complains of.
pub(crate) fn nearest(message: &str) -> Option<&str> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let nearest = quoted.next().filter(|_| message.contains("unknown field `")).and_then(|unknown| {
        quoted
            .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
            .min()
            .filter(|(distance, known)| *distance <= known.len().max(6) / 3)
    });
    nearest.map(|(_, known)| known)
}

fn is_setting(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| !RESERVED.contains(&rest))
}

/// Lays one variable over the table and proves that the result is still settings.
fn overlay(table: &mut toml::Table, variable: &str, value: &str) -> Result<(), Error> {
    let path = variable[PREFIX.len()..].to_ascii_lowercase();
    let wrong =
        |message: &str, help| Error::Variable { variable: variable.to_owned(), message: message.to_owned(), help };
    let as_text = toml::Value::String(value.to_owned());
    let is_secret = SECRETS.iter().any(|(section, key)| path == format!("{section}__{key}"));
    let first = if is_secret { as_text.clone() } else { typed(value) };
    let accepts = |table: &toml::Table| table.clone().try_into::<Settings>().map(drop);
    set(table, &path, first).map_err(|why| wrong(why, None))?;
    let Err(error) = accepts(table) else { return Ok(()) };
    // a number may be meant as a name
    set(table, &path, as_text).map_err(|why| wrong(why, None))?;
    accepts(table).map_err(|_| wrong(error.message(), Some(hint(error.message()))))
}

/// Sets `key` or `section__key`.
fn set(table: &mut toml::Table, path: &str, value: toml::Value) -> Result<(), &'static str> {
    let Some((section, key)) = path.split_once("__") else {
        table.insert(path.to_owned(), value);
        return Ok(());
    };
    let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
    let section = section.as_table_mut().ok_or("names a key inside something that is no section")?;
    section.insert(key.to_owned(), value);
    Ok(())
}

/// A number, a boolean or a list where the text is one in TOML; else the text itself, so that nobody has to quote.
fn typed(text: &str) -> toml::Value {
    let as_toml = format!("value = {text}").parse::<toml::Table>().ok();
    as_toml.and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Span;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Settings, Error> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mailshot.toml");
        std::fs::write(&file, text).unwrap();
        Settings::load(&file, env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn no_file_means_defaults() {
        let settings = Settings::load(Path::new("/nowhere/mailshot.toml"), std::iter::empty()).unwrap();
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn the_environment_wins_over_the_file_and_needs_no_quotes() {
        let env = [
            ("MAILSHOT_RETRY__FIRST", "1s"),
            ("MAILSHOT_SMTP_PORT", "2525"),
            ("MAILSHOT_RESOLVER", "127.0.0.1:5353"),
            ("MAILSHOT_RELAY__PASSWORD", "s3cret"),
            ("MAILSHOT_CORPUS", "/somewhere"),
            ("HOME", "/root"),
        ];
        let settings = load("smtp_port = 26\n[retry]\nfirst = \"2s\"\nlongest = \"1m\"\n", &env).unwrap();
        assert_eq!((settings.smtp_port, settings.retry.first), (2525, Span::secs(1)));
        assert_eq!((settings.retry.longest, settings.resolver), (Span::secs(60), vec!["127.0.0.1:5353".to_owned()]));
        assert_eq!(settings.relay.password.as_ref().map(Secret::expose), Some("s3cret"));
        assert!(!format!("{:?}", settings.relay).contains("s3cret"));
    }

    #[test]
    fn a_secret_is_taken_letter_by_letter_and_a_number_may_be_a_name() {
        for password in ["12345", "true", "\"quoted\"", "[1, 2]", "  spaced ", "2026-01-01", "#hash", "'"] {
            let settings = load("", &[("MAILSHOT_RELAY__PASSWORD", password)]).unwrap();
            assert_eq!(settings.relay.password.as_ref().map(Secret::expose), Some(password));
        }
        let settings = load("", &[("MAILSHOT_RELAY__USER", "4711")]).unwrap();
        assert_eq!(settings.relay.user.as_deref(), Some("4711"));
    }

    #[test]
    fn an_unknown_key_is_shown_at_its_place_with_the_nearest_known_one() {
        let Err(Error::File { message, place, help, .. }) = load("[retry]\nfrist = \"1s\"\n", &[]) else {
            panic!("accepted");
        };
        assert!(message.contains("frist"), "{message}");
        assert_eq!(place.unwrap().offset(), 8);
        assert!(help.unwrap().contains("did you mean `first`?"));
    }

    #[test]
    fn wrong_variables_are_named() {
        for (name, value) in
            [("MAILSHOT_RETRY__FRIST", "1s"), ("MAILSHOT_SMTP_PORT", "many"), ("MAILSHOT_COLOUR", "red")]
        {
            match load("", &[(name, value)]) {
                Err(Error::Variable { variable, .. }) => assert_eq!(variable, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        for text in [
            "smtp_port = 0",
            "resolver = [\"ns.example.com\"]",
            "links.base_url = \"mail.example.com\"",
            "links.base_url = \"https://a.example>, <https://b.example\"",
            "links.base_url = \"https://a.example\\r\\nBcc: b\"",
            "links.base_url = \"https://a.example\\\" onclick=\\\"b\"",
            "links.base_url = \"https://ä.example\"",
            "links.base_url = \"https://\"",
            "listener.host_name = \"mx.example\\r\\n250 STARTTLS\"",
            "relay.user = \"a\\r\\nQUIT\"",
            "[[route]]\ndomains = \"*\"\nrelays = [{ url = \"smtps://r.example\", user = \"u\\u0000\", token_file = \"t\" }]",
            "[[mailbox]]\nname = \"a\"\nhost = \"mail.example.com\"\nuser = \"a\\r\\nDELE 1\"",
            "[[mailbox]]\nname = \"a\"\nhost = \"mail.example.com\"\nuser = \"a\\u0001auth=Bearer x\"",
            "[[source]]\nname = \"a\"\nehlo_name = \"mx.example\\r\\nMAIL FROM:<>\"",
            "queue.max_waiting = 1",
            "retry.first = \"0s\"",
            "retry.expires = \"0s\"",
            "retry.expires = \"29m\"",
            "retry.first = \"1ms\"",
            "retry.longest = \"0s\"",
            "retry.longest = \"29m\"",
            "retry.first = \"5h\"\nretry.longest = \"4h\"",
            "retry.greylist = \"0s\"",
            "retry.greylist = \"999ms\"",
            "listener.connection_limit = 0",
            "listener.connections_per_client = 0",
            "web.connection_limit = 0",
            "web.connections_per_client = 0",
            "signup.expires = \"0s\"",
            "alert.command_timeout = \"0s\"",
            "alert.most_per_hour = 0",
            "bounce.soft_limit = 0",
            "breaker.sample = 0",
            "breaker.complained_sample = 0",
            "warmup.idle = \"0s\"",
            "retention.postmaster = \"0s\"",
            "[[mailbox]]\nname = \"a\"\nhost = \"mail.example.com\"\nuser = \"u\"\nevery = \"0s\"",
            "[[mailbox]]\nname = \"a\"\nhost = \"mail.example.com\"\nuser = \"u\"\nport = 0",
            "[[mailbox]]\nname = \"a\"\nhost = \"mail.example.com\"\nuser = \"u\"\nprocessed = \"INBOX\"",
            "dkim.expires = \"1h\"",
            "relay.max_deliveries_per_connection = 0",
            "shape.max_deliveries_per_connection = 0",
            "[[route]]\ndomains = \"*\"\nrelays = [{ url = \"smtps://r.example\", max_deliveries_per_connection = 0 }]",
            "links.base_url = \"https://a.example/x?y=z\"",
            "links.base_url = \"https://a.example/x#f\"",
            "links.base_url = \"https://user:word@a.example\"",
            "store.url = \"mysql://x\"",
            "web.tls_cert = \"x.pem\"",
            "pool = [{ name = \"a\", sources = [{ name = \"none\" }] }]",
            "web.trusted_proxies = \"proxy.example.com\"",
            "signup.lists = [\"news\"]",
            "signup = { lists = [\"a b\"], from = \"a@example.com\" }",
            "[[source]]\naddress = \"192.0.2.1\"",
            "listener.lmtp = [\"everywhere\"]",
            "retention.visits = \"0s\"",
            "[[mailbox]]\nname = \"a\"\nhost = \"mail.example.com\"",
            "mailbox = [{ name = \"a\", host = \"h\", user = \"u\", oauth = { token_url = \"http://x\", client_id = \"c\" } }]",
            "mailbox = [{ name = \"a\", host = \"h\", user = \"u\", oauth = { token_url = \"https://x\", client_id = \"c\" } }]",
        ] {
            assert!(matches!(load(text, &[]), Err(Error::File { place: Some(_), .. })), "{text}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_meant_is_shown_where_it_was_given() {
        let two = "[[source]]\nname = \"a\"\n\n[[source]]\nname = \"b\"\nwarmup = 0\n";
        for (text, line) in [("# first\nsmtp_port = 0\n", "smtp_port = 0"), (two, "warmup = 0")] {
            let Err(Error::File { place: Some(place), .. }) = load(text, &[]) else { panic!("accepted: {text}") };
            assert_eq!(&text[place.offset()..place.offset() + place.len()], line);
        }
        match load("smtp_port = 25\n", &[("MAILSHOT_SMTP_PORT", "0")]) {
            Err(Error::Variable { variable, message, .. }) => {
                assert!(variable == "MAILSHOT_SMTP_PORT" && message.contains("there is no port 0"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        let lonely = load("", &[("MAILSHOT_WEB__TLS_KEY", "key.pem")]);
        assert!(matches!(lonely, Err(Error::Value { key: "web.tls_cert", .. })), "{lonely:?}");
    }

    #[test]
    fn a_relays_password_comes_from_a_file_or_the_environment() {
        let route = |more: &str| {
            format!("[[route]]\ndomains = \"*\"\nrelays = [{{ url = \"smtps://r.example\", user = \"u\"{more} }}]\n")
        };
        let settings = load(&route(", password_env = \"RELAY_SECRET\""), &[("RELAY_SECRET", "s3cret")]).unwrap();
        assert_eq!(settings.route[0].relays[0].password.as_ref().map(Secret::expose), Some("s3cret"));
        assert!(settings.relays_everything());
        match load(&route(", password_env = \"RELAY_SECRET\""), &[]) {
            Err(Error::Variable { variable, .. }) => assert_eq!(variable, "RELAY_SECRET"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(load(&route(", password_file = \"gone\""), &[]), Err(Error::Read { .. })));
        assert!(matches!(load(&route(""), &[]), Err(Error::File { .. })), "a user without a secret");
        assert!(matches!(load(&route(", password = \"x\""), &[]), Err(Error::File { .. })), "never in the file itself");
        assert!(matches!(load("[[route]]\ndomains = \"*\"\n", &[]), Err(Error::File { .. })), "no relays");
    }

    #[test]
    fn a_password_in_the_file_is_refused() {
        let Err(Error::File { help, .. }) = load("[relay]\npassword = \"x\"\n", &[]) else { panic!("accepted") };
        assert!(help.unwrap().contains("MAILSHOT_RELAY__PASSWORD"));
    }
}
