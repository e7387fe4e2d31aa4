//! Layers: defaults, then `mailshot.toml`, then the environment. Every complaint names its place and what to do.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use miette::{Diagnostic, NamedSource, SourceSpan};

use super::reference::SECRETS;
use super::{Secret, Settings, Warmup};
use crate::base::{Address, Network};

/// Variables that start like settings but are none: log filter and test material.
const RESERVED: &[&str] = &["LOG", "CORPUS", "SOAK"];
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
    /// A value of the right type that cannot be meant.
    #[error("{key} = {value}: {message}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong, and what to do.
        message: &'static str,
    },
}

impl Settings {
    /// Loads `file` (absent: all defaults) and lays the variables of `env` over it. Relative paths are taken from the
    /// file's folder.
    pub fn load(file: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Settings, Error> {
        let mut table = toml::Table::new();
        if let Some(text) = read(file)? {
            parse_file(file, &text)?;
            table = text.parse().map_err(|error| in_file(file, &text, &error))?;
        }
        let env: Vec<(String, String)> = env.collect();
        let mut variables: Vec<_> = env.iter().filter(|(name, _)| is_setting(name)).cloned().collect();
        variables.sort();
        for (name, value) in variables {
            overlay(&mut table, &name, &value)?;
        }
        let mut settings: Settings = table.try_into().expect("each layer was accepted by itself");
        settings.resolve(file.parent().unwrap_or(Path::new(".")), &env)?;
        settings.check()?;
        Ok(settings)
    }

    /// Makes paths absolute and reads secrets from their files.
    fn resolve(&mut self, folder: &Path, env: &[(String, String)]) -> Result<(), Error> {
        let listener = [&mut self.listener.tls_cert, &mut self.listener.tls_key];
        let own =
            [&mut self.tls_ca, &mut self.dnssec_anchor, &mut self.relay.password_file, &mut self.relay.token_file]
                .into_iter()
                .chain(listener);
        let mailboxes =
            self.mailbox.iter_mut().flat_map(|mailbox| [&mut mailbox.password_file, &mut mailbox.token_file]);
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

    /// Refuses values that their types allow but that cannot be meant.
    fn check(&self) -> Result<(), Error> {
        self.check_addresses()?;
        self.check_sending()?;
        self.check_routes()?;
        self.check_listener()?;
        self.check_web()?;
        self.check_signup()?;
        self.check_mailboxes()?;
        self.check_sources()?;
        self.check_pools()?;
        self.check_warmup()?;
        self.check_alert()
    }

    /// Where names are asked, and where links lead.
    fn check_addresses(&self) -> Result<(), Error> {
        if self.smtp_port == 0 {
            return wrong("smtp_port", self.smtp_port, "there is no port 0; mail hosts listen on 25");
        }
        for server in &self.resolver {
            if server.parse::<IpAddr>().is_err() && server.parse::<SocketAddr>().is_err() {
                return wrong("resolver", server, "write a name server as \"IP\" or \"IP:PORT\"");
            }
        }
        let url = &self.links.base_url;
        if !url.starts_with("https://") && !url.starts_with("http://") || url.ends_with('/') {
            return wrong("links.base_url", url, "write \"https://HOST\" without a final slash");
        }
        Ok(())
    }

    /// How much waits, how many connections there are, when a copy is tried again, and where the record is.
    fn check_sending(&self) -> Result<(), Error> {
        if self.queue.max_waiting < 64 {
            return wrong(
                "queue.max_waiting",
                self.queue.max_waiting,
                "must be 64 or more: one for each bucket of domains",
            );
        }
        if self.relay.connection_limit == 0 {
            return wrong("relay.connection_limit", 0, "must be 1 or more; to stop sending use `mailshot pause`");
        }
        if self.shape.connection_limit == Some(0) {
            return wrong("shape.connection_limit", 0, "must be 1 or more; to stop sending use `mailshot pause`");
        }
        if self.retry.first.duration().is_zero() {
            return wrong(
                "retry.first",
                self.retry.first,
                "must be longer than zero, or a refused copy would be sent without pause",
            );
        }
        if !self.store.url.starts_with("sqlite:") {
            return wrong(
                "store.url",
                &self.store.url,
                "this version keeps its record in SQLite: write \"sqlite:PATH\"",
            );
        }
        Ok(())
    }

    /// Fixed routes and their relays.
    fn check_routes(&self) -> Result<(), Error> {
        for route in &self.route {
            if route.domains.is_empty() || route.relays.is_empty() {
                let domains = route.domains.join(", ");
                return wrong(
                    "route.domains",
                    &domains,
                    "every [[route]] needs domains, and relays to send them through",
                );
            }
            for relay in &route.relays {
                if relay.weight == 0 || relay.connection_limit == 0 {
                    return wrong("route.relays", &relay.url, "weight and connection_limit must be 1 or more");
                }
                if relay.user.is_some() && relay.password.is_none() && relay.token_file.is_none() {
                    return wrong(
                        "route.relays",
                        &relay.url,
                        "a user needs password_file, password_env or token_file beside it",
                    );
                }
            }
        }
        Ok(())
    }

    /// The door for what comes back.
    fn check_listener(&self) -> Result<(), Error> {
        for address in self.listener.smtp.iter().chain(&self.listener.lmtp) {
            if address.parse::<SocketAddr>().is_err() {
                return wrong("listener.smtp", address, "write an address to listen on as \"IP:PORT\"");
            }
        }
        if self.listener.tls_cert.is_some() != self.listener.tls_key.is_some() {
            return wrong("listener.tls_cert", "", "tls_cert and tls_key belong together: set both, or neither");
        }
        Ok(())
    }

    /// The pages.
    fn check_web(&self) -> Result<(), Error> {
        if let Some(address) = self.web.listen.as_ref().filter(|address| address.parse::<SocketAddr>().is_err()) {
            return wrong("web.listen", address, "write an address to listen on as \"IP:PORT\"");
        }
        if self.web.tls_cert.is_some() != self.web.tls_key.is_some() {
            return wrong("web.tls_cert", "", "tls_cert and tls_key belong together: set both, or neither");
        }
        if let Some(proxy) = self.web.trusted_proxies.iter().find(|text| Network::parse(text).is_none()) {
            return wrong("web.trusted_proxies", proxy, "write addresses or networks, as in [\"10.0.0.0/8\"]");
        }
        Ok(())
    }

    /// The form by which lists are joined.
    fn check_signup(&self) -> Result<(), Error> {
        if !self.signup.lists.is_empty() && Address::parse(&self.signup.from).is_err() {
            return wrong("signup.from", &self.signup.from, "write the address that requests to confirm come from");
        }
        let is_slug =
            |name: &&String| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if let Some(list) = self.signup.lists.iter().find(|name| name.is_empty() || !is_slug(name)) {
            return wrong(
                "signup.lists",
                list,
                "a list to join stands in an address: letters, digits, `-`, `_` and `.`",
            );
        }
        Ok(())
    }

    /// Mailboxes that are read.
    fn check_mailboxes(&self) -> Result<(), Error> {
        for (at, mailbox) in self.mailbox.iter().enumerate() {
            if mailbox.name.is_empty() || self.mailbox[..at].iter().any(|other| other.name == mailbox.name) {
                return wrong("mailbox.name", &mailbox.name, "every [[mailbox]] needs a name of its own");
            }
            if mailbox.host.is_empty() || mailbox.user.is_empty() {
                return wrong("mailbox.host", &mailbox.host, "every [[mailbox]] needs a host and a user");
            }
        }
        Ok(())
    }

    /// The addresses to send from.
    fn check_sources(&self) -> Result<(), Error> {
        if let Some(source) = self.source.iter().find(|source| source.name.is_empty()) {
            let value = source.address.map(|a| a.to_string()).unwrap_or_default();
            return wrong("source.name", &value, "every [[source]] needs a name");
        }
        for (at, source) in self.source.iter().enumerate() {
            if self.source[..at].iter().any(|other| other.name == source.name) {
                return wrong("source.name", &source.name, "every [[source]] needs a name of its own");
            }
            if source.warmup == Some(0) {
                return wrong("source.warmup", 0, "the first day of the calendar is 1");
            }
        }
        Ok(())
    }
}

/// A value that cannot be meant, and what to write instead.
fn wrong(key: &'static str, value: impl std::fmt::Display, message: &'static str) -> Result<(), Error> {
    Err(Error::Value { key, value: format!("\"{value}\""), message })
}

fn first_line(path: &Path) -> Result<Secret, Error> {
    let text = std::fs::read_to_string(path).map_err(|why| Error::Read { path: path.to_owned(), why })?;
    Ok(Secret::new(text.lines().next().unwrap_or_default().to_owned()))
}

impl Settings {
    /// A pool names sources that there are, with weights that mean something.
    fn check_pools(&self) -> Result<(), Error> {
        for (at, pool) in self.pool.iter().enumerate() {
            if pool.name.is_empty() || self.pool[..at].iter().any(|other| other.name == pool.name) {
                return wrong("pool.name", &pool.name, "every [[pool]] needs a name of its own");
            }
            if pool.sources.is_empty() {
                return wrong("pool.sources", &pool.name, "a pool needs at least one source");
            }
            for share in &pool.sources {
                if !self.source.iter().any(|source| source.name == share.name) {
                    return wrong("pool.sources", &share.name, "there is no [[source]] of this name");
                }
                if !(1..=1000).contains(&share.weight) {
                    return wrong("pool.sources", &share.name, "a weight is 1 to 1000; leave out what gets no share");
                }
            }
        }
        Ok(())
    }

    /// A calendar grows, and its gates are shares.
    fn check_warmup(&self) -> Result<(), Error> {
        let Warmup { start, start_at, growth, slow_growth, target, deferred, bounced, complained, .. } = &self.warmup;
        if let Some(zero) = start_at.values().chain([start, target]).find(|most| **most == 0) {
            return wrong("warmup.start", f64::from(*zero), "a day allows 1 message or more");
        }
        for (key, growth) in [("warmup.growth", growth), ("warmup.slow_growth", slow_growth)] {
            if !(1.0..=3.0).contains(growth) {
                return wrong(key, *growth, "each day allows 1 to 3 times as much as the day before");
            }
        }
        let breaker = &self.breaker;
        for (key, share) in [
            ("warmup.deferred", *deferred),
            ("warmup.bounced", *bounced),
            ("warmup.complained", *complained),
            ("breaker.bounced_at_site", breaker.bounced_at_site),
            ("breaker.bounced", breaker.bounced),
            ("breaker.complained_warn", breaker.complained_warn),
            ("breaker.complained", breaker.complained),
            ("breaker.complained_all", breaker.complained_all),
        ] {
            if !(share > 0.0 && share <= 100.0) {
                return wrong(key, share, "is a share in per cent, more than 0 and at most 100");
            }
        }
        Ok(())
    }

    /// Alerts go to addresses that can be meant.
    fn check_alert(&self) -> Result<(), Error> {
        if let Some(bad) =
            self.alert.mail.iter().chain(&self.alert.mail_from).find(|text| Address::parse(text).is_err())
        {
            return wrong("alert.mail", bad, "write a mail address as in \"ops@example.com\"");
        }
        if !self.alert.mail.is_empty() && self.alert.mail_from.is_none() {
            return wrong("alert.mail_from", "", "alert mail needs an address it is from");
        }
        match &self.alert.webhook {
            Some(webhook) if !webhook.starts_with("https://") => {
                wrong("alert.webhook", webhook, "write an https address")
            }
            Some(_) | None => Ok(()),
        }
    }
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
        place: Option<std::ops::Range<usize>>,
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
            "queue.max_waiting = 1",
            "retry.first = \"0s\"",
            "store.url = \"mysql://x\"",
            "web.tls_cert = \"x.pem\"",
            "web.trusted_proxies = \"proxy.example.com\"",
            "signup.lists = [\"news\"]",
            "signup = { lists = [\"a b\"], from = \"a@example.com\" }",
            "[[source]]\naddress = \"192.0.2.1\"",
        ] {
            assert!(matches!(load(text, &[]), Err(Error::Value { .. })), "{text}");
        }
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
        assert!(matches!(load(&route(""), &[]), Err(Error::Value { .. })), "a user without a secret");
        assert!(matches!(load(&route(", password = \"x\""), &[]), Err(Error::File { .. })), "never in the file itself");
        assert!(matches!(load("[[route]]\ndomains = \"*\"\n", &[]), Err(Error::Value { .. })), "no relays");
    }

    #[test]
    fn a_password_in_the_file_is_refused() {
        let Err(Error::File { help, .. }) = load("[relay]\npassword = \"x\"\n", &[]) else { panic!("accepted") };
        assert!(help.unwrap().contains("MAILSHOT_RELAY__PASSWORD"));
    }
}
