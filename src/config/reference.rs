//! The reference of all keys, made from the types: names, meanings and defaults cannot drift apart from the code.

use std::fmt::Write;

use super::{
    Alert, Bounce, Breaker, Dkim, FixedRoute, Links, Listener, Mailbox, MailboxOauth, Pool, Queue, Relay, Retention,
    Retry, RouteRelay, Sender, Settings, Shape, Signup, Source, Store, TlsReports, Warmup, Web,
};

/// One key of a section.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The name as written in the file.
    pub name: &'static str,
    /// What it means, one piece a line.
    pub meaning: &'static [&'static str],
}

/// A section's place in the file, its words and its keys.
struct Section {
    name: &'static str,
    about: &'static [&'static str],
    keys: &'static [Key],
}

/// The sections behind the top-level keys, in the order of the file.
const SECTIONS: &[Section] = &[
    Section { name: "sender", about: Sender::ABOUT, keys: Sender::KEYS },
    Section { name: "links", about: Links::ABOUT, keys: Links::KEYS },
    Section { name: "dkim", about: Dkim::ABOUT, keys: Dkim::KEYS },
    Section { name: "relay", about: Relay::ABOUT, keys: Relay::KEYS },
    Section { name: "retry", about: Retry::ABOUT, keys: Retry::KEYS },
    Section { name: "queue", about: Queue::ABOUT, keys: Queue::KEYS },
    Section { name: "store", about: Store::ABOUT, keys: Store::KEYS },
    Section { name: "shape", about: Shape::ABOUT, keys: Shape::KEYS },
    Section { name: "warmup", about: Warmup::ABOUT, keys: Warmup::KEYS },
    Section { name: "breaker", about: Breaker::ABOUT, keys: Breaker::KEYS },
    Section { name: "alert", about: Alert::ABOUT, keys: Alert::KEYS },
    Section { name: "tls_reports", about: TlsReports::ABOUT, keys: TlsReports::KEYS },
    Section { name: "listener", about: Listener::ABOUT, keys: Listener::KEYS },
    Section { name: "web", about: Web::ABOUT, keys: Web::KEYS },
    Section { name: "signup", about: Signup::ABOUT, keys: Signup::KEYS },
    Section { name: "retention", about: Retention::ABOUT, keys: Retention::KEYS },
    Section { name: "bounce", about: Bounce::ABOUT, keys: Bounce::KEYS },
];

/// Keys that a file must not hold: they come from the environment.
pub(super) const SECRETS: &[(&str, &str)] = &[("relay", "password")];

/// A `mailshot.toml` in which every key stands with its meaning and its default, commented out.
pub fn commented_example() -> String {
    let defaults = toml::Table::try_from(Settings::default()).expect("default settings are plain TOML values");
    let mut text = String::from("# mailshot.toml. Every key is optional; the values shown are the defaults.\n");
    for line in Settings::ABOUT {
        let _ = writeln!(text, "#{line}");
    }
    text.push('\n');
    let top = Settings::KEYS.iter().filter(|key| {
        !["source", "pool", "mailbox", "route"].contains(&key.name) && !SECTIONS.iter().any(|s| s.name == key.name)
    });
    for key in top {
        write_key(&mut text, key, defaults.get(key.name));
    }
    for section in SECTIONS {
        let values = defaults.get(section.name).and_then(toml::Value::as_table);
        write_heading(&mut text, section.about, &format!("[{}]", section.name));
        let open = section.keys.iter().filter(|key| !SECRETS.contains(&(section.name, key.name)));
        for key in open {
            write_key(&mut text, key, values.and_then(|values| values.get(key.name)));
        }
    }
    for (about, heading, keys) in [
        (Source::ABOUT, "# [[source]]", Source::KEYS),
        (Pool::ABOUT, "# [[pool]]", Pool::KEYS),
        (FixedRoute::ABOUT, "# [[route]]", FixedRoute::KEYS),
        (RouteRelay::ABOUT, "# [[route.relays]]", RouteRelay::KEYS),
        (Mailbox::ABOUT, "# [[mailbox]]", Mailbox::KEYS),
        (MailboxOauth::ABOUT, "# [mailbox.oauth]", MailboxOauth::KEYS),
    ] {
        write_heading(&mut text, about, heading);
        for key in keys.iter().filter(|key| key.name != "password") {
            write_key(&mut text, key, None);
        }
    }
    text
}

fn write_heading(text: &mut String, about: &[&str], heading: &str) {
    text.push('\n');
    for line in about {
        let _ = writeln!(text, "#{line}");
    }
    let _ = writeln!(text, "{heading}");
}

/// A key with its meaning; without a default it is shown with nothing behind the `=`.
fn write_key(text: &mut String, key: &Key, default: Option<&toml::Value>) {
    for line in key.meaning {
        let _ = writeln!(text, "#{line}");
    }
    let value = default.map_or_else(String::new, |value| format!(" {value}"));
    let _ = writeln!(text, "# {} ={value}", key.name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_of_the_settings_is_in_the_reference() {
        let example = commented_example();
        for key in Settings::KEYS {
            assert!(example.contains(key.name), "{} is missing", key.name);
        }
        assert!(!example.contains("# password ="), "secrets are not offered as keys");
    }

    #[test]
    fn the_example_is_a_file_of_defaults() {
        assert_eq!(toml::from_str::<Settings>(&commented_example()).unwrap(), Settings::default());
    }
}
