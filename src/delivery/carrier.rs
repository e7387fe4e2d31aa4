//! One connection: leases in, settlements out. Dials, then feeds the session with copies freshly printed and looked at,
//! and settles each in the same commit that lets the next one's final dot go out. Decides nothing about the site: it asks
//! its steward for every copy, and tells it what was heard.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::base::{Domain, EnvelopeId, LaunchId};
use crate::config::shaping::SiteShape;
use crate::delivery::dial::{Dialled, Trouble};
use crate::delivery::entry::Said;
use crate::delivery::kit::Kit;
use crate::delivery::knock::knock;
use crate::delivery::launches::Facts;
use crate::delivery::look::{Look, look, look_at_recipient};
use crate::delivery::notices::About;
use crate::delivery::press::{Printed, Slot, Spoilt};
use crate::delivery::route::Route;
use crate::delivery::source::Source;
use crate::delivery::steward::Hatch;
use crate::delivery::tls_tally::Session;
use crate::delivery::trouble::{Fault, Judgement, judge_by};
use crate::mail::{Blame, Channel, Class, HostProof, InDoubt, NoticeKind, Reply, Stage, Standing, Verdict};
use crate::queue::{Error, Lease, Settlement};
use crate::smtp::classify::Reaction;
use crate::smtp::{Begun, Connection, Copy, CopySource, Ending, Patience, Receipt, TlsFacts, Verified};

/// How long settlements wait for an intent to share their commit with.
const SHARE: Duration = Duration::from_millis(1);
/// Settlements that are not kept waiting for an intent any more.
const SETTLED_MAX: usize = 64;
/// A copy that ended this many connections without a word about itself is deferred like any other.
const SETBACKS_MAX: u8 = 2;
/// Copies after which a connection is worth keeping for its whole idle time; others wait a tenth of it, unless a copy is
/// known to come.
const WORTHY: u32 = 10;

/// A leased copy on its way.
pub(super) struct Job {
    /// The right to try it.
    pub lease: Lease,
    /// Its launch.
    pub facts: Arc<Facts>,
    /// It was handed over by another steward, whose domain it is of.
    pub stray: bool,
    /// Connections that ended under it without a word about it.
    pub setbacks: u8,
    /// Its intent is on the ledger: its final dot may be out.
    pub intended: bool,
}

/// What a carrier tells its steward.
pub(super) enum Word {
    /// The connection stands.
    Open,
    /// None came about.
    Shut(Box<Trouble>),
    /// One copy is asked for.
    Ask(Patience, Vec<Heard>, oneshot::Sender<Answer>),
    /// The connection is over.
    End(End),
}

/// The end of a connection.
#[derive(Default)]
pub(super) struct End {
    /// What was heard and not yet told.
    pub heard: Vec<Heard>,
    /// Copies to be tried again at once.
    pub back: Vec<Job>,
    /// The host ended it after so many copies, between two of them or by a 421.
    pub closed_after: Option<u32>,
}

/// What a steward answers.
pub(super) enum Answer {
    /// This one.
    Job(Box<Job>),
    /// None right now.
    Nothing,
    /// No more on this connection.
    Close,
}

/// How one copy ended, as far as the site is concerned.
pub(super) struct Heard {
    /// Its launch.
    pub launch: LaunchId,
    /// The judgement.
    pub judgement: Judgement,
    /// The host's words, unless it took the copy.
    pub words: String,
    /// How long the copy took on the connection.
    pub took: Duration,
}

impl Heard {
    /// Whether the host wants less from us, or nothing.
    pub fn is_throttle(&self) -> bool {
        match self.judgement.reaction {
            Reaction::Slow(_) | Reaction::Pause(_) | Reaction::Hold | Reaction::Halt => true,
            Reaction::None | Reaction::OneConnection(_) | Reaction::ShortSession(_) | Reaction::OverIpv4 => false,
        }
    }

    /// Whether the copy was taken and nothing is to be done about it.
    pub fn is_plain(&self) -> bool {
        self.judgement.ruling.verdict == Verdict::Delivered && self.judgement.reaction == Reaction::None
    }
}

/// One carrier: its connection is kept by [`Carrier::run`], everything else here.
pub(super) struct Carrier {
    pub kit: Arc<Kit>,
    pub number: u32,
    pub route: Arc<Route>,
    pub source: Arc<Source>,
    pub shape: Arc<SiteShape>,
    pub steward: Arc<Hatch>,
    /// Copies on this connection at most.
    pub most: u32,
    pub load: Load,
}

/// What a carrier carries.
#[derive(Default)]
pub(super) struct Load {
    host: Option<Domain>,
    channel: Option<Channel>,
    /// What of the connection is to be reported.
    session: Option<Session>,
    coming: Coming,
    /// Handed to the session, not yet done.
    open: Vec<Job>,
    /// Settled, not yet committed.
    settled: Vec<Settlement>,
    /// A commit under way.
    commit: Option<BoxFuture<'static, Result<(), Error>>>,
    heard: Vec<Heard>,
    back: Vec<Job>,
    done: u32,
    closed_at_once: bool,
    /// The queue or the store has failed: nothing more is taken on.
    broken: bool,
}

/// How long a carrier holds its place after the queue or the store has failed.
const MENDED_AFTER: Duration = Duration::from_secs(10);

/// The next copy on its way to the session; kept over a dropped call.
#[derive(Default)]
enum Coming {
    #[default]
    Nothing,
    Asked(oneshot::Receiver<Answer>),
    /// To be printed as soon as there is a slot for it.
    Here(Box<Job>),
}

/// Why a copy is not handed to the session.
enum NoCopy {
    TurnedAway(Look),
    Spoilt(Spoilt),
    NoRecord(crate::store::Error),
}

impl From<Spoilt> for NoCopy {
    fn from(spoilt: Spoilt) -> NoCopy {
        NoCopy::Spoilt(spoilt)
    }
}

impl From<crate::store::Error> for NoCopy {
    fn from(why: crate::store::Error) -> NoCopy {
        NoCopy::NoRecord(why)
    }
}

/// What happened while the steward's answer was awaited.
enum Meanwhile {
    Answered(Option<Answer>),
    Committed(Result<(), Error>),
    Share,
    Idle,
}

/// How long a connection without work is kept.
#[derive(Clone, Copy)]
struct Idle {
    /// Whatever is to come.
    until: Instant,
    /// For a copy that is known to come.
    longest: Instant,
}

impl Carrier {
    /// The life of a connection, from dialling to QUIT.
    pub async fn run(mut self, stop: CancellationToken) {
        let dialled = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            dialled = self.dial() => Some(dialled),
        };
        let connection = match dialled {
            None => return self.end(None, None).await,
            Some(Err(trouble)) => return self.say(Word::Shut(Box::new(trouble))).await,
            Some(Ok(Dialled { connection, host, secrecy, .. })) => {
                let reported = self.kit.road.tally.is_some() && self.route.via.is_none();
                let session = || Session::new(host.clone(), self.source.address, connection.tls(), secrecy);
                self.load.session = reported.then(session);
                self.load.host = host;
                self.load.channel = Some(channel(&connection, &self.route));
                connection
            }
        };
        self.say(Word::Open).await;
        self.carry(connection).await;
    }

    async fn carry(mut self, mut connection: Connection) {
        let most = self.most;
        let ending = connection.drive(&mut self, most).await;
        if self.load.broken {
            // whoever takes over would only fail in the same way, and press the host with connections meanwhile
            sleep(MENDED_AFTER).await;
        }
        match ending {
            Ending::Idle | Ending::Enough | Ending::Full => self.end(Some(connection), None).await,
            Ending::Dismissed(_) => {
                let done = self.load.done;
                self.end(None, Some(done)).await;
            }
            Ending::Broken(_) => {
                let closed = self.load.closed_at_once.then_some(self.load.done);
                self.end(None, closed).await;
            }
            Ending::Withheld => self.end(None, None).await,
        }
    }

    async fn dial(&mut self) -> Result<Dialled<Connection>, Trouble> {
        let Carrier { kit, number, route, source, shape, .. } = &*self;
        let tap = |host| kit.taps.on(route.site.clone(), source.name.clone(), *number, host);
        knock(&kit.dialler, &kit.road.tls, &kit.road.settings, route, source, shape, tap).await
    }

    /// Makes the last settlements durable, says goodbye, and reports what is left.
    async fn end(mut self, connection: Option<Connection>, closed_after: Option<u32>) {
        self.commit(None).await;
        match std::mem::take(&mut self.load.coming) {
            Coming::Nothing => {}
            Coming::Asked(mut answer) => {
                answer.close();
                if let Ok(Answer::Job(job)) = answer.try_recv() {
                    self.load.back.push(*job);
                }
            }
            Coming::Here(job) => self.load.back.push(*job),
        }
        if let Some(connection) = connection {
            connection.quit().await;
        }
        let Load { heard, back, .. } = std::mem::take(&mut self.load);
        self.say(Word::End(End { heard, back, closed_after })).await;
    }

    async fn say(&mut self, word: Word) {
        // a steward that is gone has no use for it; leases inside go home
        if let Some(room) = self.steward.room().await {
            room.send((self.number, word));
        }
    }

    /// Asks the steward for a copy, unless it is served at once; `None` when there is no steward any more. Cancel-safe.
    async fn ask(&mut self, patience: Patience) -> Option<()> {
        if let Some(job) = self.steward.serve(self.number, &mut self.load.heard) {
            self.load.coming = Coming::Here(Box::new(job));
            return Some(());
        }
        let place = self.steward.room().await?;
        let (answer, asked) = oneshot::channel();
        place.send((self.number, Word::Ask(patience, std::mem::take(&mut self.load.heard), answer)));
        self.load.coming = Coming::Asked(asked);
        Some(())
    }

    /// Waits for the steward's answer, and commits what is settled when nothing comes to share its commit. `None`: no
    /// copy. Cancel-safe.
    async fn hear(&mut self, patience: Patience, idle: Idle) -> Option<Box<Job>> {
        let Idle { mut until, longest } = idle;
        loop {
            let Load { coming, settled, commit, .. } = &mut self.load;
            let Coming::Asked(answer) = coming else { return None };
            let waits = patience == Patience::Wait;
            let meanwhile = tokio::select! {
                biased;
                answer = &mut *answer => Meanwhile::Answered(answer.ok()),
                done = running(commit), if commit.is_some() => Meanwhile::Committed(done),
                () = sleep(SHARE), if waits && !settled.is_empty() && commit.is_none() => Meanwhile::Share,
                () = sleep_until(until), if waits => Meanwhile::Idle,
            };
            match meanwhile {
                Meanwhile::Answered(answer) => {
                    self.load.coming = Coming::Nothing;
                    match answer {
                        Some(Answer::Job(job)) => return Some(job),
                        Some(Answer::Nothing | Answer::Close) | None => return None,
                    }
                }
                Meanwhile::Committed(done) => drop(self.committed(done)),
                Meanwhile::Share => self.start_commit(None),
                Meanwhile::Idle if until < longest && self.steward.expects_for(self.number, longest) => until = longest,
                Meanwhile::Idle => {
                    answer.close();
                    let late = answer.try_recv();
                    self.load.coming = Coming::Nothing;
                    return match late {
                        Ok(Answer::Job(job)) => Some(job),
                        Ok(Answer::Nothing | Answer::Close) | Err(_) => None,
                    };
                }
            }
        }
    }

    /// The copy at hand as it goes to the session; `None`: it is not to be sent, and settled.
    fn make_ready(&mut self, slot: &Slot<'_>) -> Option<Copy> {
        let Coming::Here(mut job) = std::mem::take(&mut self.load.coming) else { return None };
        job.lease.envelope.source = Some(self.source.id);
        self.kit.entries.begin(&mut job.lease);
        match self.copy_of(&job, slot) {
            Ok(copy) => {
                self.load.open.push(*job);
                return Some(copy);
            }
            Err(NoCopy::TurnedAway(look)) => self.turn_away(*job, look),
            Err(NoCopy::Spoilt(spoilt)) => self.spoilt(*job, spoilt),
            Err(NoCopy::NoRecord(why)) => self.store_failed(*job, &why),
        }
        None
    }

    /// Looks for the last time whether a copy may go, and prints it: nothing but the printing comes between.
    fn copy_of(&self, job: &Job, slot: &Slot<'_>) -> Result<Copy, NoCopy> {
        let envelope = &job.lease.envelope;
        let looked = look_at_recipient(&self.kit.road.store, envelope.id, self.kit.entries.now())?;
        let recipient = looked.map_err(NoCopy::TurnedAway)?;
        let Printed { message, return_path } = slot.print(envelope, &recipient)?;
        // one in doubt before, or that must never come twice, waits until its recipient is taken
        let early = envelope.doubtful == 0 && job.facts.in_doubt == InDoubt::Resend;
        Ok(Copy { id: envelope.id, return_path, to: recipient.address, message, early })
    }

    /// The last look again, for a copy whose MAIL waited for its intent: a disk may take hours over it. Settles one that may
    /// not go.
    fn may_still_go(&mut self, id: EnvelopeId) -> bool {
        let looked = look(&self.kit.road.store, id, self.kit.entries.now());
        if matches!(looked, Ok(Look::Go)) {
            return true;
        }
        match (self.take_open(id), looked) {
            (Some(job), Ok(look)) => self.turn_away(job, look),
            (Some(job), Err(why)) => self.store_failed(job, &why),
            (None, _) => {}
        }
        false
    }

    /// A copy handed to the session, which is done with it.
    fn take_open(&mut self, id: EnvelopeId) -> Option<Job> {
        let at = self.load.open.iter().position(|job| job.lease.envelope.id == id)?;
        Some(self.load.open.remove(at))
    }

    fn turn_away(&mut self, job: Job, look: Look) {
        let (site, lease) = (self.site_of(&job), job.lease);
        let entries = &self.kit.entries;
        let settled = match look {
            Look::Go | Look::Home => return lease.home(),
            Look::Barred(why) => entries.decided(lease, Standing::Barred, Class::PolicyRecipient, None, why, site),
            Look::Cancelled => {
                let why = "its launch was cancelled".to_owned();
                entries.decided(lease, Standing::Cancelled, Class::Undetermined, None, why, site)
            }
        };
        self.load.settled.push(settled);
    }

    fn spoilt(&mut self, job: Job, spoilt: Spoilt) {
        let (site, lease) = (self.site_of(&job), job.lease);
        let entries = &self.kit.entries;
        let settled = match spoilt {
            Spoilt::Failed { class, text } => {
                entries.decided(lease, Standing::Failed, class, Some(Stage::Print), text, site)
            }
            Spoilt::Skipped(text) => {
                entries.decided(lease, Standing::Skipped, Class::PolicyContent, Some(Stage::Print), text, site)
            }
            Spoilt::Ourselves { class, text } => {
                let launch = Some(lease.envelope.id.launch());
                let about = About { launch, ..About::default() };
                self.kit.road.notices.raise(NoticeKind::Misconfigured, about, &text, None);
                let reply = Some(Reply { code: 451, enhanced: None, text });
                let said = Said { stage: Some(Stage::Print), reply, host: None, site, channel: None };
                entries.again(lease, class, entries.until_mended(), said)
            }
            Spoilt::Broken => {
                tracing::error!(copy = %lease.envelope.id, "the press broke down over a copy; this is a bug");
                return drop(lease);
            }
        };
        self.load.settled.push(settled);
    }

    /// Nothing goes out that could not be looked up; the copy was not tried.
    fn store_failed(&mut self, job: Job, why: &crate::store::Error) {
        tracing::error!(error = %why, "a copy could not be looked up");
        job.lease.home();
        self.load.broken = true;
    }

    /// The site a copy is counted under: with a relay its own domain.
    fn site_of(&self, job: &Job) -> Arc<str> {
        self.kit.counted_under(&self.route, job.lease.domain())
    }

    /// Commits what is settled, and `more`; `false` when it could not be.
    async fn commit(&mut self, more: Option<Settlement>) -> bool {
        let before = self.finish_commit().await;
        self.start_commit(more);
        self.finish_commit().await && before
    }

    fn start_commit(&mut self, more: Option<Settlement>) {
        let mut batch = std::mem::take(&mut self.load.settled);
        batch.extend(more);
        if !batch.is_empty() {
            let queue = self.kit.road.queue.clone();
            self.load.commit = Some(async move { queue.settle(batch).await }.boxed());
        }
    }

    async fn finish_commit(&mut self) -> bool {
        if self.load.commit.is_none() {
            return true;
        }
        let done = running(&mut self.load.commit).await;
        self.committed(done)
    }

    fn committed(&mut self, done: Result<(), Error>) -> bool {
        self.load.commit = None;
        if let Err(error) = &done {
            tracing::debug!(%error, "a settlement was not recorded");
            self.load.broken = true;
        }
        done.is_ok()
    }

    /// What becomes of a copy after its attempt.
    fn rule(&mut self, mut job: Job, stage: Stage, heard: Result<Reply, Fault>, took: Duration) {
        let site = self.route.via.is_none().then_some(&*self.route.site);
        let mut judgement = judge_by(&self.kit.road.rules.now(), site, stage, heard.as_ref());
        judgement = judgement.over(self.source.is_v6());
        let silent = judgement.after == Some(Duration::ZERO);
        if silent && self.load.done == 0 {
            // a host that closes on the very first copy is in trouble; only between two copies it is not (C-23)
            judgement.after = None;
        }
        let lost = stage == Stage::Body && heard.is_err() && job.intended;
        let reply = heard.unwrap_or_else(|fault| fault.as_reply());
        let words = if judgement.ruling.verdict == Verdict::Delivered { String::new() } else { reply.to_string() };
        let (host, site, channel) = (self.load.host.clone(), self.site_of(&job), self.load.channel);
        let said = Said { stage: Some(stage), reply: Some(reply), host, site, channel };
        self.load.heard.push(Heard { launch: job.lease.envelope.id.launch(), judgement, words, took });
        let (entries, class) = (&self.kit.entries, judgement.ruling.class);
        if judgement.reaction == Reaction::OverIpv4
            && let Some(source) = self.kit.v4_source()
            && !lost
        {
            // the same copy at once from an address that the host takes it from
            job.lease.envelope.source = Some(source);
            let now = entries.now();
            return self.load.settled.push(entries.again(job.lease, class, now, said));
        }
        let settled = match judgement.ruling.verdict {
            _ if lost => entries.doubtful(job.lease, job.facts.in_doubt, said),
            Verdict::Delivered => entries.delivered(job.lease, said),
            Verdict::Failed => entries.failed(job.lease, class, said),
            Verdict::Deferred => match judgement.ruling.blame {
                Blame::Recipient | Blame::Message | Blame::Stream | Blame::Campaign => {
                    entries.deferred(job.lease, class, judgement.after, said)
                }
                Blame::Host if silent && self.load.done > 0 && !job.intended => return self.load.back.push(job),
                Blame::Host if job.setbacks < SETBACKS_MAX && !job.intended => {
                    job.setbacks += 1;
                    return self.load.back.push(job);
                }
                Blame::Host => entries.deferred(job.lease, class, judgement.after, said),
                // without a counted try; an intent already written has to be settled to be taken back
                Blame::Site | Blame::Source | Blame::Ourselves => match judgement.after {
                    None if !job.intended => return job.lease.home(),
                    after => {
                        let at = entries.in_about(after.unwrap_or(self.kit.road.settings.retry.first.duration()));
                        entries.again(job.lease, class, at, said)
                    }
                },
            },
        };
        self.load.settled.push(settled);
    }
}

impl CopySource for Carrier {
    async fn next(&mut self, patience: Patience) -> Option<Copy> {
        let (now, longest) = (Instant::now(), self.shape.idle_timeout.duration());
        let wait = if self.load.done < WORTHY { longest / 10 } else { longest };
        let idle = Idle { until: now + wait, longest: now + longest };
        while !self.load.broken {
            match &mut self.load.coming {
                Coming::Nothing => {
                    if self.load.settled.len() >= SETTLED_MAX {
                        self.commit(None).await;
                    }
                    self.ask(patience).await?;
                }
                Coming::Asked(_) => self.load.coming = Coming::Here(self.hear(patience, idle).await?),
                Coming::Here(_) => {
                    let kit = self.kit.clone();
                    let slot = kit.press.slot().await;
                    if let Some(copy) = self.make_ready(&slot) {
                        return Some(copy);
                    }
                }
            }
        }
        None
    }

    async fn intend(&mut self, id: EnvelopeId, begun: Begun) -> bool {
        let Some(job) = self.load.open.iter_mut().find(|job| job.lease.envelope.id == id) else { return false };
        job.intended = true;
        let intent = job.lease.intend();
        let is_durable = self.commit(Some(intent)).await;
        match begun {
            Begun::Yes => is_durable,
            Begun::No if is_durable => self.may_still_go(id),
            Begun::No => {
                self.take_open(id).into_iter().for_each(|job| job.lease.home());
                false
            }
        }
    }

    fn done(&mut self, id: EnvelopeId, receipt: Receipt) {
        let Some(job) = self.take_open(id) else { return };
        if let (Some(tally), Some(session)) = (&self.kit.road.tally, &mut self.load.session) {
            tally.carried(session, job.lease.domain());
        }
        let Receipt { stage, heard, took } = receipt;
        self.load.closed_at_once = stage == Stage::From && matches!(heard, Err(crate::smtp::Error::Closed));
        let ended = heard.is_err();
        self.rule(job, stage, heard.map_err(Fault::from), took);
        self.load.done += u32::from(!ended);
    }
}

/// The commit under way; to be asked only when there is one.
async fn running(commit: &mut Option<BoxFuture<'static, Result<(), Error>>>) -> Result<(), Error> {
    match commit {
        Some(commit) => commit.as_mut().await,
        None => std::future::pending().await,
    }
}

/// How a connection is secured; where a policy of the recipients' domain demanded it, that is told.
fn channel(connection: &Connection, route: &Route) -> Channel {
    let Some(TlsFacts { version, cipher, verified, .. }) = connection.tls() else { return Channel::Clear };
    let verified = match verified {
        Verified::No => HostProof::None,
        Verified::Authority if route.policy.is_some() => HostProof::MtaSts,
        Verified::Authority => HostProof::Pki,
        Verified::Zone => HostProof::Dane,
    };
    Channel::Tls { version, cipher, verified }
}
