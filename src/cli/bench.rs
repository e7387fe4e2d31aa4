//! `bench`: what this machine sends, with everything on, beside what its signatures alone would cost.

mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::base::Span;
use crate::cli::bench::page::{Bar, page};
use crate::cli::draft::Draft;
use crate::cli::interrupt::Interrupt;
use crate::cli::owner::raise_file_limit;
use crate::cli::{Desk, Error, Exit};
use crate::proving::bench::{Bench, LIST, Load, PEOPLE, Run, SigningKey, median};
use crate::proving::peers::{self, Mail, Peer};

/// What the receiver is told: to take everything, over one personality of its own.
const PERSONALITY: &str = "bench";
/// The share of the messages that the warm-up sends: one in so many.
const WARM_UP: u64 = 4;
/// How long the receiver may take to listen.
const START: Duration = Duration::from_secs(10);

/// The arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Messages of each run.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    messages: u64,
    /// Domains of the recipients.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    domains: u32,
    /// Domains as unequal as in the world: few large ones, many small ones.
    #[arg(long)]
    skewed: bool,
    /// Refuse this share of the recipients, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    refused: u8,
    /// Connections at once.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Octets of a finished message.
    #[arg(long, value_name = "OCTETS", default_value_t = 4096)]
    size: usize,
    /// What the messages are signed with.
    #[arg(long, value_enum, default_value_t = SigningKey::Rsa)]
    key: SigningKey,
    /// The receiver offers STARTTLS, and it is used.
    #[arg(long)]
    tls: bool,
    /// Do not wait for the disk: to see what that costs.
    #[arg(long)]
    not_durable: bool,
    /// How long the receiver waits before each flight of replies, as a host far away: 50ms.
    #[arg(long, value_name = "SPAN", value_parser = Span::parse)]
    delay: Option<Span>,
    /// Runs that are measured, after one that is not.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Send to this receiver instead of our own; one that takes everything and throws it away.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["tls", "delay", "refused"])]
    to: Option<String>,
    /// Beside it, what Postfix's smtp-source and nodemailer do here, as far as they are installed: same receiver, same
    /// number and size of messages, as many connections; without queue, record and signature.
    #[arg(long)]
    peers: bool,
    /// Write the figures as a page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Arguments {
    /// The file it is to write.
    pub(super) fn written(&self) -> Option<&Path> {
        self.html.as_deref()
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    messages: u64,
    seconds: f64,
    rate: f64,
    cpu_us_per_message: f64,
    user_us: f64,
    sys_us: f64,
    sign_us: f64,
    cpu_over_sign: f64,
    rss_peak_mb: f64,
    p50_ms: f64,
    p99_ms: f64,
    settings: Settings<'a>,
}

#[derive(Serialize)]
struct Settings<'a> {
    version: &'static str,
    cores: usize,
    #[serde(flatten)]
    load: &'a Load,
    message_octets: usize,
    tls: bool,
    refused_percent: u8,
    delay_ms: u64,
    runs: u32,
    receiver: &'a str,
}

/// Measures. Exit code 1 when a run did not come to its end.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    raise_file_limit(desk);
    let mut interrupt = Interrupt::listen()?;
    let folder = new_folder()?;
    let done = interrupt.or_never(measure(desk, &folder, &arguments)).await;
    let ended = done.unwrap_or_else(|| Err(Error::failed(std::io::Error::other("stopped before the end"))));
    // What cannot be removed lies among the system's temporary files, and is cleared away with them.
    let _ = fs::remove_dir_all(&folder);
    ended
}

async fn measure(desk: &Desk, folder: &Path, arguments: &Arguments) -> Result<Exit, Error> {
    let load = Load {
        messages: arguments.messages,
        domains: arguments.domains,
        skewed: arguments.skewed,
        refused: arguments.refused > 0,
        connections: arguments.connections,
        size: arguments.size,
        key: arguments.key,
        durable: !arguments.not_durable,
    };
    let (receiver, _process) = match &arguments.to {
        Some(to) => (to.clone(), None),
        None => {
            let (address, process) = start_sink(folder, arguments).await?;
            (address, Some(process))
        }
    };
    let workspace = folder.join("workspace");
    fs::create_dir(&workspace).map_err(Error::failed)?;
    desk.note(format!("importing {} invented people", load.messages));
    let bench = Bench::set_up(&workspace, load.clone(), format!("smtp://{receiver}")).map_err(Error::failed)?;
    import(&workspace).await?;
    desk.note("warming up");
    bench.run(0, load.messages.div_ceil(WARM_UP)).await.map_err(Error::failed)?;
    let mut runs = Vec::new();
    for number in 1..=arguments.runs {
        let run = bench.run(number, load.messages).await.map_err(Error::failed)?;
        desk.note(format!("run {number} of {}: {:.0} messages/s, {:.0} µs", arguments.runs, run.rate(), run.cpu_us()));
        runs.push(run);
    }
    let mail = Mail { messages: load.messages, size: bench.size(), connections: load.connections, receiver: &receiver };
    let peers = if arguments.peers { peers::measure(folder, mail).await } else { Vec::new() };
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        load: &load,
        message_octets: bench.size(),
        tls: arguments.tls,
        refused_percent: arguments.refused,
        delay_ms: arguments.delay.map_or(0, |delay| delay.duration().as_millis() as u64),
        runs: arguments.runs,
        receiver: if arguments.to.is_some() { &receiver } else { "mailshot sink" },
    };
    let (about, rows) = (about(&settings), rows(&load, &runs));
    show(desk, &about, &rows);
    show_peers(desk, &peers);
    if let Some(file) = &arguments.html {
        Draft::begin(Some(file))?.fill(page(&about, &rows, &charts(&runs, &peers)))?;
        desk.note(format!("written to {}", file.display()));
    }
    desk.next("mailshot bench --key none, to see everything but the signature");
    desk.give(&answer(settings, &runs));
    Ok(Exit::Done)
}

/// The median of something over all runs.
fn middle(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    median(&mut runs.iter().map(of).collect::<Vec<_>>())
}

fn answer<'a>(settings: Settings<'a>, runs: &[Run]) -> Answer<'a> {
    let of = |of: fn(&Run) -> f64| (middle(runs, of) * 1000.0).round() / 1000.0;
    Answer {
        messages: settings.load.messages,
        seconds: of(|run| run.seconds),
        rate: of(Run::rate),
        cpu_us_per_message: of(Run::cpu_us),
        user_us: of(|run| run.user * 1e6 / run.messages as f64),
        sys_us: of(|run| run.sys * 1e6 / run.messages as f64),
        sign_us: of(|run| run.sign_us),
        cpu_over_sign: of(Run::over_sign),
        rss_peak_mb: of(|run| run.rss_peak_mb),
        p50_ms: of(|run| run.p50_ms),
        p99_ms: of(|run| run.p99_ms),
        settings,
    }
}

/// One figure in all runs.
struct Row {
    name: &'static str,
    digits: usize,
    values: Vec<f64>,
}

impl Row {
    /// Median, least and most, as they are printed.
    fn figures(&self) -> [String; 3] {
        let Row { digits, values, .. } = self;
        let (least, most) =
            (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max));
        [median(&mut values.clone()), least, most].map(|figure| format!("{figure:.digits$}"))
    }
}

/// All figures.
fn rows(load: &Load, runs: &[Run]) -> Vec<Row> {
    let per_message = |seconds: f64, run: &Run| seconds * 1e6 / run.messages as f64;
    let row = |name, digits, of: &dyn Fn(&Run) -> f64| Row { name, digits, values: runs.iter().map(of).collect() };
    let mut rows = vec![
        row("messages per second", 0, &Run::rate),
        row("processor µs per message", 1, &Run::cpu_us),
        row("  in the program", 1, &|run| per_message(run.user, run)),
        row("  in the system", 1, &|run| per_message(run.sys, run)),
    ];
    if load.key != SigningKey::None {
        rows.push(row("one bare signature, µs", 1, &|run| run.sign_us));
        rows.push(row("times a bare signature", 2, &Run::over_sign));
    }
    rows.extend([
        row("memory at most, MB", 1, &|run| run.rss_peak_mb),
        row("lease to settled, ms", 1, &|run| run.p50_ms),
        row("  one in a hundred above", 1, &|run| run.p99_ms),
        row("messages per commit", 1, &|run| run.messages as f64 / run.commits.max(1) as f64),
        row("  one commit, ms", 2, &|run| run.commit_ms),
        row("to the disk, bytes/message", 0, &|run| run.written_mb * 1e6 / run.messages as f64),
    ]);
    rows
}

/// What was measured, in a sentence.
fn about(settings: &Settings<'_>) -> String {
    let Settings { load, message_octets, receiver, .. } = settings;
    let tls = if settings.tls { ", STARTTLS" } else { "" };
    let durable = if load.durable { "every commit on disk" } else { "commits not waited for" };
    let key = match load.key {
        SigningKey::Rsa => "RSA-2048",
        SigningKey::Ed25519 => "Ed25519",
        SigningKey::None => "unsigned",
    };
    format!(
        "{} messages of {message_octets} octets, {key}, to {} domains over {} connections of {receiver}{tls}; {durable}",
        load.messages, load.domains, load.connections
    )
}

fn show(desk: &Desk, about: &str, rows: &[Row]) {
    desk.say(about);
    desk.say(format!("{:<26} {:>9} {:>9} {:>9}", "", "median", "least", "most"));
    for row in rows {
        let [median, least, most] = row.figures();
        desk.say(format!("{:<26} {median:>9} {least:>9} {most:>9}", row.name));
    }
}

/// The runs beside each other, the processor time of a message beside its signature's, and what others do.
fn charts(runs: &[Run], peers: &[Peer]) -> [(&'static str, Vec<Bar>); 2] {
    let (cpu, sign) = (middle(runs, Run::cpu_us), middle(runs, |run| run.sign_us));
    let rate = |name: String, rate: f64| Bar { name, parts: vec![rate], value: format!("{rate:.0}") };
    let mut rates: Vec<Bar> = (1..).zip(runs).map(|(number, run)| rate(format!("run {number}"), run.rate())).collect();
    let value = format!("{cpu:.0} µs, of which {sign:.0} µs are the signature");
    let mut costs = vec![Bar { name: "mailshot".into(), parts: vec![sign, (cpu - sign).max(0.0)], value }];
    for (name, done) in peers.iter().filter_map(|peer| Some((peer.name, peer.done.as_ref().ok()?))) {
        rates.push(rate(name.into(), done.messages as f64 / done.seconds));
        let cpu = done.cpu * 1e6 / done.messages as f64;
        costs.push(Bar { name: name.into(), parts: vec![0.0, cpu], value: format!("{cpu:.0} µs") });
    }
    [("Messages per second", rates), ("Processor time of one message", costs)]
}

fn show_peers(desk: &Desk, peers: &[Peer]) {
    for peer in peers {
        match &peer.done {
            Ok(done) => {
                let (rate, cpu) = (done.messages as f64 / done.seconds, done.cpu * 1e6 / done.messages as f64);
                desk.say(format!("{}: {rate:.0} messages/s, {cpu:.1} µs of processor per message", peer.name));
            }
            Err(why) => desk.say(format!("{}: not measured: {why}", peer.name)),
        }
    }
}

/// Imports the people, as `mailshot import` does it.
async fn import(workspace: &Path) -> Result<(), Error> {
    let mut command = Command::new(std::env::current_exe().map_err(Error::failed)?);
    command.arg("-C").arg(workspace).arg("import").arg(workspace.join(PEOPLE));
    command.args(["--list", LIST, "--consent", "invented to measure"]).kill_on_drop(true);
    let done = command.stdin(Stdio::null()).output().await.map_err(Error::failed)?;
    match done.status.success() {
        true => Ok(()),
        false => Err(Error::failed(std::io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned()))),
    }
}

/// Our own receiver as another process, and where it listens. It ends with the handle.
async fn start_sink(folder: &Path, arguments: &Arguments) -> Result<(String, Child), Error> {
    let script = folder.join("sink.toml");
    let hide = if arguments.tls { "" } else { "hide = [\"STARTTLS\"]\n" };
    let delay = arguments.delay.map_or(String::new(), |delay| format!("delay = {{ round_trip = \"{delay}\" }}\n"));
    let refused = match arguments.refused {
        0 => String::new(),
        // refused so that nobody is suppressed for the next run, and by a receiver that does not hang up over it
        percent => format!(
            "errors_max = {}\n\n[[personality.{PERSONALITY}.fault]]\nat = \"to\"\nshare = {:.2}\nreply = \"552 5.2.2 mailbox full\"\n",
            u16::MAX,
            f64::from(percent) / 100.0
        ),
    };
    let text = format!(
        "session = \"{PERSONALITY}\"\n\n[domains]\n\"*\" = \"{PERSONALITY}\"\n\n[personality.{PERSONALITY}]\n{hide}{delay}{refused}"
    );
    fs::write(&script, text).map_err(Error::failed)?;
    let program = std::env::current_exe().map_err(Error::failed)?;
    let mut command = Command::new(program);
    command.arg("-C").arg(folder).args(["sink", "--listen", "127.0.0.1:0", "--script"]).arg(&script);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().map_err(Error::failed)?;
    let said = process.stderr.take().expect("its standard error is ours");
    let address = tokio::time::timeout(START, listening(said)).await.ok().flatten();
    match address {
        Some(address) => Ok((address, process)),
        None => Err(Error::failed(std::io::Error::other("the receiver did not start; does `mailshot sink` run?"))),
    }
}

/// Reads where the receiver listens, and goes on reading so that it never waits for us.
async fn listening(said: tokio::process::ChildStderr) -> Option<String> {
    let mut lines = BufReader::new(said).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(rest) = line.strip_prefix("listening on ") {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return rest.split(',').next().map(str::to_owned);
        }
    }
    None
}

/// A folder of our own below the system's place for such, open to nobody else.
fn new_folder() -> Result<PathBuf, Error> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = std::env::temp_dir().join(format!("mailshot-bench-{}", std::process::id()));
    let made = fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|why| Error::failed(std::io::Error::new(why.kind(), format!("{}: {why}", folder.display()))))?;
    Ok(folder)
}
