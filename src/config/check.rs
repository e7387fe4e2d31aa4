//! What settings may not say, section by section, though their types allow it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::{MailboxOauth, Retention, Retry, Settings, Warmup};
use crate::base::{Address, Domain, Network, Span};

/// What is said of a user name that could end the line of a login, or a part of it.
const NO_CONTROL: &str = "a user name holds no line ends and no other control characters";

/// The shortest pause between two attempts at anything that is not ours.
const SHORTEST: Span = Span::secs(1);
const DAY: Span = Span::secs(86_400);

/// A value of the right type that cannot be meant.
pub(super) struct Wrong {
    /// The key with its section.
    pub key: &'static str,
    /// The value as given; empty where something is missing.
    pub value: String,
    /// What is wrong, and what to do.
    pub message: &'static str,
}

impl Settings {
    /// Refuses values that their types allow but that cannot be meant.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        self.check_addresses()?;
        self.check_sending()?;
        self.check_retry()?;
        self.check_routes()?;
        self.check_listener()?;
        self.check_web()?;
        self.check_signup()?;
        self.check_mailboxes()?;
        self.check_sources()?;
        self.check_pools()?;
        self.check_warmup()?;
        self.check_alert()?;
        self.check_samples()?;
        self.check_retention()
    }

    /// What is still needed is not forgotten.
    fn check_retention(&self) -> Result<(), Wrong> {
        let Retention { words, visits, postmaster, .. } = self.retention;
        if words < Span::secs(31 * 86_400) {
            return wrong("retention.words", words, "must be \"31d\" or longer: late bounces come for a month");
        }
        if visits < Span::secs(90 * 86_400) {
            return wrong(
                "retention.visits",
                visits,
                "must be \"90d\" or longer: the most engaged people are known by it",
            );
        }
        if postmaster < DAY {
            return wrong("retention.postmaster", postmaster, "must be \"1d\" or longer, or nobody can read that mail");
        }
        Ok(())
    }

    /// Where names are asked, and where links lead.
    fn check_addresses(&self) -> Result<(), Wrong> {
        if self.smtp_port == 0 {
            return wrong("smtp_port", self.smtp_port, "there is no port 0; mail hosts listen on 25");
        }
        for server in &self.resolver {
            if server.parse::<IpAddr>().is_err() && server.parse::<SocketAddr>().is_err() {
                return wrong("resolver", server, "write a name server as \"IP\" or \"IP:PORT\"");
            }
        }
        let url = &self.links.base_url;
        if !is_base_url(url) {
            return wrong(
                "links.base_url",
                url,
                "write \"https://HOST\", with a path where there is one, and nothing behind it",
            );
        }
        Ok(())
    }

    /// How much waits, how many connections there are, when a copy is tried again, and where the record is.
    fn check_sending(&self) -> Result<(), Wrong> {
        if self.queue.max_waiting < 64 {
            return wrong(
                "queue.max_waiting",
                self.queue.max_waiting,
                "must be 64 or more: one for each bucket of domains",
            );
        }
        if let Some(user) = self.relay.user.as_ref().filter(|user| user.contains(char::is_control)) {
            return wrong("relay.user", user, NO_CONTROL);
        }
        if self.relay.connection_limit == 0 {
            return wrong("relay.connection_limit", 0, "must be 1 or more; to stop sending use `mailshot pause`");
        }
        let per_connection = [
            ("relay.max_deliveries_per_connection", self.relay.max_deliveries_per_connection),
            ("shape.max_deliveries_per_connection", self.shape.max_deliveries_per_connection),
        ];
        if let Some((key, _)) = per_connection.into_iter().find(|(_, most)| *most == Some(0)) {
            return wrong(key, 0, "must be 1 or more: leave it out for as many as the host takes");
        }
        if self.shape.connection_limit == Some(0) {
            return wrong("shape.connection_limit", 0, "must be 1 or more; to stop sending use `mailshot pause`");
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

    /// No host is pressed, and every copy has its attempts.
    fn check_retry(&self) -> Result<(), Wrong> {
        let Retry { first, longest, greylist, expires } = self.retry;
        for (key, delay) in [("retry.first", first), ("retry.longest", longest), ("retry.greylist", greylist)] {
            if delay < SHORTEST {
                return wrong(key, delay, "must be \"1s\" or longer, or a refused copy would be sent without pause");
            }
        }
        if longest < first {
            return wrong(
                "retry.longest",
                longest,
                "must be as long as retry.first: write a longer one here, or a shorter one there",
            );
        }
        if expires < first {
            return wrong("retry.expires", expires, "must be as long as retry.first, or no copy is tried twice");
        }
        if self.dkim.expires < self.retry.expires {
            return wrong(
                "dkim.expires",
                self.dkim.expires,
                "must be as long as retry.expires, or the last attempts bear a signature that is over",
            );
        }
        Ok(())
    }

    /// What follows from bounces and complaints, and from how many of them.
    fn check_samples(&self) -> Result<(), Wrong> {
        let none = [
            ("bounce.soft_limit", self.bounce.soft_limit),
            ("breaker.sample", self.breaker.sample),
            ("breaker.complained_sample", self.breaker.complained_sample),
        ];
        match none.into_iter().find(|(_, count)| *count == 0) {
            Some((key, zero)) => wrong(key, zero, "must be 1 or more: nothing follows from nothing"),
            None => Ok(()),
        }
    }

    /// Fixed routes and their relays.
    fn check_routes(&self) -> Result<(), Wrong> {
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
                if let Some(user) = relay.user.as_ref().filter(|user| user.contains(char::is_control)) {
                    return wrong("route.relays", user, NO_CONTROL);
                }
                let per_connection = relay.max_deliveries_per_connection;
                if relay.weight == 0 || relay.connection_limit == 0 || per_connection == Some(0) {
                    return wrong(
                        "route.relays",
                        &relay.url,
                        "weight, connection_limit and max_deliveries_per_connection must be 1 or more",
                    );
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
    fn check_listener(&self) -> Result<(), Wrong> {
        for (key, address) in [("listener.smtp", &self.listener.smtp), ("listener.lmtp", &self.listener.lmtp)] {
            if let Some(bad) = address.iter().find(|text| text.parse::<SocketAddr>().is_err()) {
                return wrong(key, bad, "write an address to listen on as \"IP:PORT\"");
            }
        }
        if let Some(name) = self.listener.host_name.as_ref().filter(|name| Domain::parse(name).is_err()) {
            return wrong("listener.host_name", name, "write the host name that the listener greets with");
        }
        if self.listener.tls_cert.is_some() != self.listener.tls_key.is_some() {
            return wrong("listener.tls_cert", "", "tls_cert and tls_key belong together: set both, or neither");
        }
        let (most, of_one) = (self.listener.connection_limit, self.listener.connections_per_client);
        at_least_one([("listener.connection_limit", most), ("listener.connections_per_client", of_one)])
    }

    /// The pages.
    fn check_web(&self) -> Result<(), Wrong> {
        if let Some(address) = self.web.listen.as_ref().filter(|address| address.parse::<SocketAddr>().is_err()) {
            return wrong("web.listen", address, "write an address to listen on as \"IP:PORT\"");
        }
        if self.web.tls_cert.is_some() != self.web.tls_key.is_some() {
            return wrong("web.tls_cert", "", "tls_cert and tls_key belong together: set both, or neither");
        }
        if let Some(proxy) = self.web.trusted_proxies.iter().find(|text| Network::parse(text).is_none()) {
            return wrong("web.trusted_proxies", proxy, "write addresses or networks, as in [\"10.0.0.0/8\"]");
        }
        let (most, of_one) = (self.web.connection_limit, self.web.connections_per_client);
        at_least_one([("web.connection_limit", most), ("web.connections_per_client", of_one)])
    }

    /// The form by which lists are joined.
    fn check_signup(&self) -> Result<(), Wrong> {
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
        if self.signup.expires < Span::secs(60) {
            return wrong(
                "signup.expires",
                self.signup.expires,
                "must be \"1m\" or longer, or nobody can confirm in time",
            );
        }
        Ok(())
    }

    /// Mailboxes that are read.
    fn check_mailboxes(&self) -> Result<(), Wrong> {
        for (at, mailbox) in self.mailbox.iter().enumerate() {
            if mailbox.name.is_empty() || self.mailbox[..at].iter().any(|other| other.name == mailbox.name) {
                return wrong("mailbox.name", &mailbox.name, "every [[mailbox]] needs a name of its own");
            }
            for (key, value) in [("mailbox.host", &mailbox.host), ("mailbox.user", &mailbox.user)] {
                if value.is_empty() {
                    return wrong(key, value, "every [[mailbox]] needs a host and a user");
                }
            }
            if mailbox.user.contains(char::is_control) {
                return wrong("mailbox.user", &mailbox.user, NO_CONTROL);
            }
            if mailbox.every < SHORTEST {
                return wrong("mailbox.every", mailbox.every, "must be \"1s\" or longer, or its server has no rest");
            }
            if mailbox.port == Some(0) {
                return wrong("mailbox.port", 0, "there is no port 0; leave it out for the usual one");
            }
            if mailbox.processed.as_ref() == Some(&mailbox.folder) {
                return wrong("mailbox.processed", &mailbox.folder, "name another folder than the one that is read");
            }
            if let Some(oauth) = &mailbox.oauth {
                check_oauth(oauth)?;
            }
        }
        Ok(())
    }

    /// The addresses to send from.
    fn check_sources(&self) -> Result<(), Wrong> {
        if let Some(source) = self.source.iter().find(|source| source.name.is_empty()) {
            let value = source.address.map(|a| a.to_string()).unwrap_or_default();
            return wrong("source.name", &value, "every [[source]] needs a name");
        }
        for (at, source) in self.source.iter().enumerate() {
            if self.source[..at].iter().any(|other| other.name == source.name) {
                return wrong("source.name", &source.name, "every [[source]] needs a name of its own");
            }
            if let Some(name) = source.ehlo_name.as_ref().filter(|name| Domain::parse(name).is_err()) {
                return wrong("source.ehlo_name", name, "write the host name that the address resolves to");
            }
            if source.warmup == Some(0) {
                return wrong("source.warmup", 0, "the first day of the calendar is 1");
            }
        }
        Ok(())
    }

    /// A pool names sources that there are, with weights that mean something.
    fn check_pools(&self) -> Result<(), Wrong> {
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
    fn check_warmup(&self) -> Result<(), Wrong> {
        let Warmup { start, start_at, growth, slow_growth, target, deferred, bounced, complained, idle, .. } =
            &self.warmup;
        if *idle < DAY {
            return wrong("warmup.idle", idle, "must be \"1d\" or longer, or no address ever becomes known");
        }
        let most = start_at.values().map(|most| ("warmup.start_at", most));
        let mut most = most.chain([("warmup.start", start), ("warmup.target", target)]);
        if let Some((key, zero)) = most.find(|(_, most)| **most == 0) {
            return wrong(key, zero, "a day allows 1 message or more");
        }
        for (key, growth) in [("warmup.growth", growth), ("warmup.slow_growth", slow_growth)] {
            if !(1.0..=3.0).contains(growth) {
                return wrong(key, *growth, "each day allows 1 to 3 times as much as the day before");
            }
        }
        if let Some((name, _)) = self.warmup.domains.iter().find(|(name, day)| **day == 0 || !is_domain(name)) {
            return wrong("warmup.domains", name, "write domains in lower case, each with a day of 1 or more");
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

    /// Alerts go to, and reports come from, addresses that can be meant.
    fn check_alert(&self) -> Result<(), Wrong> {
        let mail = self.alert.mail.iter().map(|text| ("alert.mail", text));
        for (key, text) in mail.chain(self.alert.mail_from.iter().map(|text| ("alert.mail_from", text))) {
            if Address::parse(text).is_err() {
                return wrong(key, text, "write a mail address as in \"ops@example.com\"");
            }
        }
        if !self.alert.mail.is_empty() && self.alert.mail_from.is_none() {
            return wrong("alert.mail_from", "", "alert mail needs an address it is from");
        }
        if let Some(from) = self.tls_reports.from.as_ref().filter(|text| Address::parse(text).is_err()) {
            return wrong("tls_reports.from", from, "write a mail address as in \"tls-reports@example.com\"");
        }
        if self.alert.command_timeout < SHORTEST {
            return wrong(
                "alert.command_timeout",
                self.alert.command_timeout,
                "must be \"1s\" or longer, or no program comes to its end",
            );
        }
        if self.alert.most_per_hour == 0 {
            return wrong("alert.most_per_hour", 0, "must be 1 or more; for no alerts name nobody to tell");
        }
        match &self.alert.webhook {
            Some(webhook) if !webhook.starts_with("https://") => {
                wrong("alert.webhook", webhook, "write an https address")
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Where tokens come from, and for which grant.
fn check_oauth(oauth: &MailboxOauth) -> Result<(), Wrong> {
    let is_given = |file: &Option<PathBuf>, variable: &Option<String>| file.is_some() || variable.is_some();
    if !oauth.token_url.starts_with("https://") {
        return wrong("mailbox.oauth.token_url", &oauth.token_url, "write the https address of the token endpoint");
    }
    if oauth.client_id.is_empty() {
        return wrong("mailbox.oauth.client_id", "", "name the id under which this program is registered");
    }
    if !is_given(&oauth.refresh_token_file, &oauth.refresh_token_env)
        && !is_given(&oauth.client_secret_file, &oauth.client_secret_env)
    {
        return wrong(
            "mailbox.oauth.refresh_token_file",
            "",
            "name the file or variable of a refresh token, or of the client's secret",
        );
    }
    Ok(())
}

/// A web address that can stand in a header between angle brackets, and in an attribute, and that goes on behind its end:
/// ASCII without what ends any of these, nor a login.
fn is_base_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or(url.strip_prefix("http://")).unwrap_or_default();
    let is_fit = |b: u8| b.is_ascii_graphic() && !b"<>\"'\\`{}|^,?#@".contains(&b);
    !rest.is_empty() && !rest.starts_with('/') && !rest.ends_with('/') && rest.bytes().all(is_fit)
}

fn is_domain(name: &str) -> bool {
    Domain::parse(name).is_ok_and(|domain| domain.as_str() == name)
}

/// A limit of zero lets nobody in.
fn at_least_one(limits: [(&'static str, u16); 2]) -> Result<(), Wrong> {
    match limits.into_iter().find(|(_, most)| *most == 0) {
        Some((key, zero)) => wrong(key, zero, "must be 1 or more, or everybody is turned away"),
        None => Ok(()),
    }
}

/// A value that cannot be meant, and what to write instead.
fn wrong(key: &'static str, value: impl std::fmt::Display, message: &'static str) -> Result<(), Wrong> {
    Err(Wrong { key, value: value.to_string(), message })
}
