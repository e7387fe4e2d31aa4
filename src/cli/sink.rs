//! `sink`: the test receiver as a server of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::draft::Draft;
use crate::cli::interrupt::Interrupt;
use crate::cli::{Desk, Error, Exit};
use crate::engine::Workspace;
use crate::proving::counts::Counts;
use crate::proving::receiver::{Receiver, Setup};
use crate::proving::script::Script;
use crate::proving::verifier::Verifier;

/// How often the live counts are renewed.
const RENEWAL: Duration = Duration::from_millis(200);
/// How often a plain line tells of progress where no person watches.
const PLAIN_RENEWAL: Duration = Duration::from_secs(10);

/// The arguments of `sink`.
#[derive(Debug, clap::Args)]
pub struct Sink {
    /// Where to listen; may be given several times. Port 0 takes a free one and says which.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:2525")]
    listen: Vec<SocketAddr>,
    /// What to do, in TOML: personalities, faults, domains. `sink --print-script` shows the built-in one and the form.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// The personality of every session and of recipients whose domain the script does not name.
    #[arg(long, value_name = "NAME")]
    like: Option<String>,
    /// Keep a copy of every message taken, as .eml, in this folder.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Write the certificate shown after STARTTLS to this file, for clients that are to trust it (`tls_ca`).
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Print the built-in script, with every key explained, and end.
    #[arg(long)]
    print_script: bool,
}

impl Sink {
    /// The file and the folder it is to write.
    pub(super) fn written(&self) -> [Option<&Path>; 2] {
        [self.certificate.as_deref(), self.save.as_deref()]
    }
}

/// Listens until Ctrl-C, then gives the counts.
pub async fn run(desk: &Desk, sink: Sink) -> Result<Exit, Error> {
    if sink.print_script {
        let script = crate::proving::script::BUILT_IN.trim_end();
        desk.say_lines(script);
        desk.give(&serde_json::json!({ "script": script }));
        return Ok(Exit::Done);
    }
    let receiver = set_up(desk, &sink)?;
    let stop = CancellationToken::new();
    for (address, personality) in addresses(&sink, receiver.script())? {
        let listener = TcpListener::bind(address).await.map_err(|why| {
            failed(&why, format!("cannot listen on {address}: {why}; --listen chooses another address"))
        })?;
        let name = &receiver.script().personality(personality).name;
        desk.note(format!("listening on {}, like {name}", listener.local_addr().map_err(Error::failed)?));
        tokio::spawn(receiver.clone().listen(listener, personality, stop.clone()));
    }
    watch(desk, &receiver).await?;
    stop.cancel();
    let counts = receiver.counts();
    desk.give(&counts);
    show(desk, &counts, receiver.is_verifying());
    Ok(Exit::Done)
}

fn set_up(desk: &Desk, sink: &Sink) -> Result<Receiver, Error> {
    let mut script = match &sink.script {
        None => Script::built_in(),
        Some(path) => {
            let unread = |why| Error::usage(format!("{}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(unread)?;
            Script::parse(&text).map_err(|why| Error::usage(format!("{}: {why}", path.display())))?
        }
    };
    if let Some(name) = &sink.like {
        script.session = script.find(name).ok_or_else(|| {
            let known: Vec<&str> = script.names().collect();
            Error::usage(format!("there is no personality `{name}`; there are {}", known.join(", ")))
        })?;
    }
    if let Some(folder) = &sink.save {
        std::fs::create_dir_all(folder).map_err(|why| failed(&why, format!("{}: {why}", folder.display())))?;
    }
    let verifier = verifier(desk.workspace())?;
    let receiver = Receiver::new(Setup { script, verifier, shelf: sink.save.clone() }).map_err(Error::failed)?;
    match receiver.is_verifying() {
        true => desk.note("signatures are checked with the keys of this workspace"),
        false => desk.note("signatures are not checked: -C names a workspace whose keys are known"),
    }
    if let Some(path) = &sink.certificate {
        Draft::begin(Some(path))?.fill(receiver.certificate())?;
    }
    Ok(receiver)
}

/// The keys of a workspace, when there is one.
fn verifier(workspace: &Workspace) -> Result<Option<Verifier>, Error> {
    if !workspace.keys_folder().exists() {
        return Ok(None);
    }
    Ok(Some(Verifier::new(&workspace.keyring()?.records())))
}

/// The machine stood in the way, in words that say where.
fn failed(why: &std::io::Error, words: String) -> Error {
    Error::failed(std::io::Error::new(why.kind(), words))
}

/// Where to listen, and as whom: the command line's addresses, then the script's.
fn addresses(sink: &Sink, script: &Script) -> Result<Vec<(SocketAddr, usize)>, Error> {
    let mut all: Vec<_> = sink.listen.iter().map(|address| (*address, script.session)).collect();
    for (text, personality) in &script.listen {
        let address = text.parse().map_err(|_| Error::usage(format!("listen: `{text}` is no \"IP:PORT\"")))?;
        all.push((address, *personality));
    }
    Ok(all)
}

/// Shows live counts until Ctrl-C or a polite end is asked for.
async fn watch(desk: &Desk, receiver: &Receiver) -> Result<(), Error> {
    let mut interrupt = Interrupt::listen()?;
    let bar = desk.is_watched().then(|| {
        let bar = indicatif::ProgressBar::new_spinner();
        bar.enable_steady_tick(RENEWAL);
        bar
    });
    let mut renewal = tokio::time::interval(if bar.is_some() { RENEWAL } else { PLAIN_RENEWAL });
    renewal.tick().await;
    let mut before = 0;
    loop {
        tokio::select! {
            biased;
            () = interrupt.heard() => break,
            _ = renewal.tick() => {
                let (messages, open) = receiver.glance();
                let rate = (messages - before) as f64 / renewal.period().as_secs_f64();
                let line = format!("{messages} messages, {rate:.0}/s, {open} connections open");
                match &bar {
                    Some(bar) => bar.set_message(line),
                    None if messages > before => desk.note(line),
                    None => (),
                }
                before = messages;
            }
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}

fn show(desk: &Desk, counts: &Counts, verifying: bool) {
    desk.say(format!(
        "{} messages to {} recipients over {} connections ({} with TLS), {} octets",
        counts.messages, counts.recipients, counts.connections, counts.tls, counts.bytes
    ));
    desk.say(format!(
        "{} deferred, {} refused, {} connections cut by the script, {} commands against the protocol",
        counts.deferred, counts.refused, counts.closed, counts.broken
    ));
    if verifying {
        let dkim = counts.dkim;
        desk.say(format!(
            "signatures: {} good, {} bad, {} absent, {} by unknown keys",
            dkim.passed, dkim.failed, dkim.absent, dkim.unknown_key
        ));
    }
    desk.say(format!("{} doubles", counts.doubles));
    for (recipient, times) in &counts.doubled {
        desk.say(format!("  {recipient}: {times} too many"));
    }
    let mut domains: Vec<_> = counts.by_domain.iter().collect();
    domains.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.taken));
    for (domain, tally) in domains.iter().take(20) {
        let name = if domain.is_empty() { "(no domain)" } else { domain };
        desk.say(format!(
            "  {name:<32} {:>9} taken {:>7} deferred {:>7} refused",
            tally.taken, tally.deferred, tally.refused
        ));
    }
    if domains.len() > 20 {
        desk.say(format!("  and {} domains more", domains.len() - 20));
    }
}
