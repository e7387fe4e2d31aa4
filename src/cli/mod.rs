//! The commands: arguments in, words and exit codes out. Every command stands in a file named after its subject; this
//! one owns what they share: the arguments that hold everywhere, the exit codes, and the way errors are shown.

mod backup;
mod bench;
mod bounces;
mod check;
mod config;
mod contacts;
mod demo;
mod desk;
mod dkim;
mod draft;
mod dry_run;
mod ending;
mod error;
mod explain;
mod export;
mod import;
mod init;
mod interrupt;
mod launches;
mod lists;
mod outward;
mod owner;
mod plan;
mod queue;
mod render;
mod report;
mod segment;
mod send;
mod serve;
mod shown;
mod sink;
mod suppress;
mod test;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::CampaignName;
use crate::engine::Wait;

pub use desk::Desk;
pub use error::{Error, Exit};
use launches::Move;
use shown::OneLine;

/// A bulk mail sender: from a CSV of contacts to the recipients' mail hosts, with the truth about every copy.
#[derive(Debug, Parser)]
#[command(name = "mailshot", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    /// The workspace: a folder with mailshot.toml, campaigns/, templates/ and state/.
    #[arg(short = 'C', long, global = true, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,

    /// Print JSON on standard output: one object, or one a line where a command yields many.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a workspace: settings, a sample campaign, and keys.
    ///
    /// Writes a commented mailshot.toml, the sample campaign `welcome` with its contacts and templates, the keys that
    /// seal return paths and unsubscribe links, and an RSA-2048 DKIM key for the sample's From domain. What is there
    /// already stays as it is.
    Init {
        /// The folder; made when it is not there. Default: the one named with -C.
        dir: Option<PathBuf>,
    },
    /// Take the contacts of a CSV file in and put them on a list.
    ///
    /// Encoding, delimiter, header and the meaning of the columns are found and shown. Every row that cannot be taken is
    /// reported with its line and the reason. Nobody who left the list comes back by an import, no suppression is lifted,
    /// and running it again changes nothing.
    Import(import::Arguments),
    /// Show the lists and how many members each has.
    Lists,
    /// Look at contacts; show, export or erase one.
    Contacts(contacts::Arguments),
    /// Show what segments can say of the audience, or whom one chooses.
    ///
    /// A segment stands in campaign.toml as segment = "…" or exclude = "…", is kept with the launch, and is asked of every
    /// member of the campaign's lists at the moment of planning. Nobody gets a copy who is not on one of the lists.
    Segment(segment::Arguments),
    /// Is this host, this domain and this campaign fit to send?
    ///
    /// Looks at the campaign's templates, size, links, unsubscribe link and postal address; at SPF, DKIM, DMARC, the
    /// bounce domain and the names of our addresses, as receivers will; at port 25, the clock and the limit on open
    /// files. Every line that is not ok says what to do. Exit code 3 when something must not be sent like this.
    Check(check::Arguments),
    /// Print one finished message as .eml, or show it in the browser.
    ///
    /// The message is the one that would go out now, signed. It belongs to no launch: its unsubscribe link and its
    /// return path change nothing.
    Render(render::Arguments),
    /// Show who would get a copy, who would not and why, where they are, and when it would be done.
    Plan(plan::Arguments),
    /// Send real test copies of a campaign to addresses named by hand.
    ///
    /// A launch of its own: it does not touch the campaign's own. Addresses that are contacts get their own data.
    Test {
        /// The campaign: a folder below campaigns/.
        #[arg(value_parser = send::campaign_name)]
        campaign: CampaignName,
        /// Where to; several may be named.
        #[arg(long, value_name = "ADDRESS", num_args = 1.., required = true)]
        to: Vec<String>,
        /// Send through this host, as with `send`.
        #[arg(long, value_name = "URL")]
        via: Option<String>,
        /// End once nothing is due within this time, as in 10m; `all` stays until every copy is final.
        #[arg(long, value_name = "SPAN|all", default_value = "0s", value_parser = send::wait)]
        wait: Wait,
    },
    /// Show what would be sent; with --yes send it, and report.
    ///
    /// Runs until nothing is due within --wait, and reports the rest as deferred; the next `send` goes on with it. A
    /// campaign folder is sent once. Ctrl-C finishes what is on the wire and keeps everything else; a second one stops at
    /// once.
    Send(send::SendArgs),
    /// Show where a campaign stands, or all that are under way.
    Status {
        /// The campaign.
        #[arg(value_parser = send::campaign_name)]
        campaign: Option<CampaignName>,
    },
    /// Hold a campaign: nothing more of it is sent until it is resumed.
    Pause {
        /// The campaign.
        #[arg(value_parser = send::campaign_name)]
        campaign: CampaignName,
    },
    /// Put a paused campaign back to work.
    Resume {
        /// The campaign.
        #[arg(value_parser = send::campaign_name)]
        campaign: CampaignName,
    },
    /// Call a campaign back: what was not sent never will be.
    Cancel {
        /// The campaign.
        #[arg(value_parser = send::campaign_name)]
        campaign: CampaignName,
    },
    /// Make what was deferred due now, instead of at its time.
    ///
    /// Copies held in doubt (their answer was lost) stay as they are, unless --in-doubt says that they are to be sent
    /// again: each of them may then arrive twice.
    Retry {
        /// The campaign.
        #[arg(value_parser = send::campaign_name)]
        campaign: CampaignName,
        /// Send again what is held in doubt.
        #[arg(long)]
        in_doubt: bool,
    },
    /// What became of a campaign: figures, sites, and why copies failed.
    ///
    /// recipients = waiting + delivered + deferred + failed + barred + skipped + cancelled + in doubt, always. `deferred`
    /// are tried again; `failed` are refused, expired or bounced after they were taken.
    Report(report::Report),
    /// Look at what is on the road, and mend it.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Understand what came back.
    #[command(subcommand)]
    Bounces(bounces::Bounces),
    /// See and change who must not be mailed, whatever list they are on.
    Suppress(suppress::Arguments),
    /// Tables for spreadsheets and programs: contacts, and outcomes of campaigns.
    #[command(subcommand)]
    Export(export::Export),
    /// Make DKIM keys, print the DNS records that prove them, and check that they are published.
    #[command(subcommand)]
    Dkim(dkim::Deed),
    /// Copy the record and the keys into a new folder, while everything goes on. The queue is never copied.
    Backup {
        /// The folder: new, or empty.
        dir: PathBuf,
    },
    /// A test receiver that behaves like the world's mailbox providers.
    ///
    /// Takes mail and forgets it, but keeps count of what each recipient got, checks signatures, and commits the faults
    /// its script tells: greylisting, refusals, limits, delays, lost connections. The recipient's domain chooses how it
    /// behaves. Ends on Ctrl-C with the counts; with --json as one object.
    Sink(sink::Sink),
    /// What this machine sends: messages a second, processor time and memory, beside what signatures alone would cost.
    ///
    /// Imports invented people into a workspace of its own and sends them a letter over real sockets, with the queue on
    /// disk, to a receiver in another process, whose processor time is not counted. Figures are medians of the runs.
    /// Needs Linux, which tells what a process uses in /proc.
    Bench(bench::Arguments),
    /// Everything at once, until stopped: sending, the listener for returned mail, the mailboxes, the public pages.
    ///
    /// What is not in the settings is not opened: [listener], [[mailbox]] and [web] say where. `--only web` serves the
    /// pages alone, so that people can leave a list while the sender is down.
    Serve(serve::Arguments),
    /// The whole path on this machine: sample contacts to a local receiver, with a report.
    ///
    /// Makes a workspace of its own, imports 2 000 invented people, sends them the sample campaign through real sockets
    /// with STARTTLS to a test receiver that greylists some and refuses some, and holds the report against the
    /// receiver's books. Ends with 0 exactly when both say what the receiver was told to do, with 1 otherwise.
    Demo(demo::Arguments),
    /// Print every setting with its meaning and default.
    Config,
}

impl Command {
    /// The files and folders that it was told to write.
    fn written(&self) -> Vec<&Path> {
        let named = match self {
            Command::Import(arguments) => vec![arguments.written()],
            Command::Contacts(arguments) => vec![arguments.written()],
            Command::Send(arguments) => vec![arguments.written()],
            Command::Report(arguments) => arguments.written().to_vec(),
            Command::Suppress(arguments) => vec![arguments.written()],
            Command::Export(what) => vec![what.written()],
            Command::Sink(arguments) => arguments.written().to_vec(),
            Command::Bench(arguments) => vec![arguments.written()],
            _ => Vec::new(),
        };
        named.into_iter().flatten().collect()
    }

    /// What is to be known of it when a signal ends it before its time.
    fn remains(&self) -> Option<&'static str> {
        let takes_in = match self {
            Command::Import(_) => true,
            Command::Suppress(arguments) => arguments.is_import(),
            _ => false,
        };
        takes_in.then_some("what is on record by now stays; the same command again does the rest")
    }
}

/// Runs the command named by the arguments of this process. Errors are shown on standard error; the exit code is 0 done,
/// 1 failed, 2 usage or input, 3 refused by a check, 4 finished with failures or doubts to look at.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return error::misused(&error).into(),
    };
    start_log();
    let (workspace, json) = (cli.workspace.clone(), cli.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(async {
            ending::watch(&workspace, json, cli.command.remains())?;
            dispatch(cli).await
        }),
        Err(why) => Err(Error::failed(why)),
    };
    ending::answer();
    done.unwrap_or_else(|error| error.show(&workspace, json)).into()
}

async fn dispatch(cli: Cli) -> Result<Exit, Error> {
    let Cli { workspace, json, command } = cli;
    command.written().into_iter().try_for_each(|file| outward::refuse_own(&workspace, file))?;
    let desk = || Desk::open(&workspace, json);
    match command {
        Command::Init { dir } => init::run(&Desk::bare(dir.as_deref().unwrap_or(&workspace), json)),
        Command::Import(arguments) => import::run(&desk()?, arguments).await,
        Command::Lists => lists::run(&desk()?),
        Command::Segment(arguments) => segment::run(&desk()?, arguments),
        Command::Contacts(arguments) => contacts::run(&desk()?, arguments).await,
        Command::Check(arguments) => check::run(&desk()?, arguments).await,
        Command::Render(arguments) => render::run(&desk()?, arguments).await,
        Command::Plan(arguments) => plan::run(&desk()?, arguments).await,
        Command::Test { campaign, to, via, wait } => test::run(&desk()?, campaign, to, via, wait).await,
        Command::Send(args) => send::run(&desk()?, args).await,
        Command::Status { campaign } => launches::status(&desk()?, campaign).await,
        Command::Pause { campaign } => launches::shift(&desk()?, campaign, Move::Pause).await,
        Command::Resume { campaign } => launches::shift(&desk()?, campaign, Move::Resume).await,
        Command::Cancel { campaign } => launches::shift(&desk()?, campaign, Move::Cancel).await,
        Command::Retry { campaign, in_doubt } => {
            let wanted = if in_doubt { Move::RetryDoubts } else { Move::Retry };
            launches::shift(&desk()?, campaign, wanted).await
        }
        Command::Report(args) => report::run(&desk()?, &args),
        Command::Queue(command) => queue::run(&desk()?, command).await,
        Command::Bounces(command) => bounces::run(&Desk::at_hand(&workspace, json)?, command).await,
        Command::Suppress(arguments) => suppress::run(&desk()?, arguments).await,
        Command::Export(what) => export::run(&desk()?, &what),
        Command::Dkim(deed) => dkim::run(&desk()?, deed).await,
        Command::Backup { dir } => backup::run(&desk()?, &dir),
        Command::Sink(arguments) => sink::run(&Desk::bare(&workspace, json), arguments).await,
        Command::Bench(arguments) => bench::run(&Desk::bare(&workspace, json), arguments).await,
        Command::Serve(arguments) => serve::run(&desk()?, &arguments).await,
        Command::Demo(arguments) => demo::run(&Desk::bare(&workspace, json), arguments).await,
        Command::Config => config::run(&Desk::bare(&workspace, json)),
    }
}

/// Logs go to standard error; `MAILSHOT_LOG` chooses what, as in `info` or `mailshot::delivery=debug`.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MAILSHOT_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("warn,hickory_net=error,hickory_resolver=error,html5ever=error")
    });
    let is_coloured = desk::may_be_coloured(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_coloured)
        // a log that nobody reads any more is no reason to end
        .log_internal_errors(false)
        .with_writer(|| OneLine(std::io::stderr()))
        .init();
}
