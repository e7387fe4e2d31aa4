//! Who gets a copy: cursors over the lists become batches for the record and envelopes for the queue; and the survey of
//! the same people before anything is planned.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use toml::Spanned;

use crate::audience::{SegmentError, UnusableSegment, check_segment, chosen, chosen_by};
use crate::base::{Address, BUCKETS, ContactId, Domain, EnvelopeId, ListId, Span, Timestamp};
use crate::campaign::Campaign;
use crate::campaign::definition::SEGMENT_HELP;
use crate::mail::{Envelope, Lane, Standing};
use crate::store::{
    self, Candidate, Condition, LaunchKind, LaunchRow, Meant, Member, Page, PlannedRow, Reason, Store, Tier,
};

/// How far one bucket of a launch is planned: lists in their order, contacts in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(u64);

impl Cursor {
    /// Before everybody.
    pub const START: Cursor = Cursor(0);

    /// Behind a contact of the list at `position`.
    pub fn new(position: u8, after: ContactId) -> Cursor {
        Cursor(u64::from(position) << 32 | u64::from(after.0))
    }

    fn position(self) -> u8 {
        (self.0 >> 32) as u8
    }

    fn after(self) -> ContactId {
        ContactId(self.0 as u32)
    }

    /// The cursor as the queue keeps it.
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    /// The cursor that [`Cursor::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Cursor> {
        Some(Cursor(u64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// How often lists are read when the most engaged people come first.
const TIERS: u8 = Tier::ALL.len() as u8;

/// A batch of one bucket: recorded first, admitted then together with its cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The bucket.
    pub bucket: u8,
    /// The pass it was read in: the position of the list, or with tiers that many lists on for each tier.
    pub position: u8,
    /// For the record: everybody of the batch who is not on record by an earlier list.
    pub rows: Vec<PlannedRow>,
    /// For the queue: those of them who get a copy.
    pub envelopes: Vec<(Domain, Envelope)>,
    /// How far the bucket is planned once this is admitted.
    pub cursor: Cursor,
}

/// The planning of one launch. Planning the same people twice names the same copies, so a batch that was recorded but
/// not admitted is simply made again.
#[derive(Debug, Clone)]
pub struct Plan {
    launch: LaunchRow,
    only: Option<Domain>,
    /// Who is meant beside being on a list.
    condition: Option<Condition>,
    expires: Span,
    cursors: Vec<Option<Cursor>>,
    /// Copies that may still be planned, when the launch has a limit.
    left: Option<u64>,
    /// How often the lists are read, the most engaged people first.
    tiers: u8,
}

impl Plan {
    /// Goes on where the cursors stand: `cursor` gives that of a bucket, none before its first batch. `on_road` is how
    /// many copies of the launch are on record to be sent; `expires` is the life of a copy from its planning. Fails when this
    /// version cannot read the segment that the launch was made with.
    pub fn resume(
        launch: LaunchRow,
        on_road: u64,
        expires: Span,
        cursor: impl Fn(u8) -> Option<Cursor>,
    ) -> Result<Plan, SegmentError> {
        let condition = chosen_by(&launch.options)?;
        let only = launch.options.only_domain.as_deref().and_then(|domain| Domain::parse(domain).ok());
        let left = launch.options.limit.map(|limit| limit.saturating_sub(on_road));
        let passes = launch.lists.len().saturating_mul(usize::from(TIERS));
        let tiers = if launch.options.engaged_first && passes <= usize::from(u8::MAX) { TIERS } else { 1 };
        let cursors = (0..BUCKETS).map(|bucket| Some(cursor(bucket).unwrap_or(Cursor::START))).collect();
        Ok(Plan { launch, only, condition, expires, cursors, left, tiers })
    }

    /// Whether everybody is planned.
    pub fn is_done(&self) -> bool {
        self.cursors.iter().all(Option::is_none)
    }

    /// Whether everybody in this bucket is planned.
    pub fn is_bucket_done(&self, bucket: u8) -> bool {
        self.cursors[usize::from(bucket)].is_none()
    }

    /// The next batch of a bucket, from at most `most` people; `None` when the bucket is done. The plan moves on at once:
    /// a caller that could not record or admit the batch must start again from the cursors in the queue.
    pub fn next(
        &mut self,
        store: &Store,
        bucket: u8,
        most: usize,
        now: Timestamp,
    ) -> Result<Option<Step>, store::Error> {
        while let Some(cursor) = self.cursors[usize::from(bucket)] {
            let position = cursor.position();
            let lists = self.launch.lists.len();
            if usize::from(position) >= lists * usize::from(self.tiers) {
                self.cursors[usize::from(bucket)] = None;
                break;
            }
            let page = store.candidates(self.page(bucket, cursor, most, now))?;
            let next = match page.last() {
                Some(last) => Cursor::new(position, last.contact),
                None => Cursor::new(position + 1, ContactId(0)),
            };
            let recorded = page.iter().any(|candidate| candidate.planned_from == Some(position));
            if self.left == Some(0) && !recorded {
                self.cursors[usize::from(bucket)] = None;
                break;
            }
            self.cursors[usize::from(bucket)] = Some(next);
            let step = self.step(bucket, position, page, next, now);
            if !step.rows.is_empty() {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// The next people of a pass: with tiers, each list is read once for every tier, and whoever was planned in an earlier
    /// pass is on record with it.
    fn page(&self, bucket: u8, cursor: Cursor, most: usize, now: Timestamp) -> Page<'_> {
        // more lists than fit a byte have no tiers
        let (pass, lists) = (cursor.position(), self.launch.lists.len() as u8);
        let (position, tier) = match self.tiers {
            1 => (pass, None),
            _ => (pass % lists, Some((Tier::ALL[usize::from(pass / lists)], now))),
        };
        let condition = self.condition.as_ref();
        Page { launch: self.launch.id, position, bucket, after: cursor.after(), most, tier, condition }
    }

    fn step(&mut self, bucket: u8, position: u8, page: Vec<Candidate>, cursor: Cursor, now: Timestamp) -> Step {
        let mut step = Step { bucket, position, rows: Vec::with_capacity(page.len()), envelopes: Vec::new(), cursor };
        let mut sites = Sites::default();
        for candidate in page {
            if candidate.planned_from.is_some_and(|earlier| earlier != position) {
                continue;
            }
            let Ok(address) = Address::parse(&candidate.address) else { continue };
            let domain = address.domain();
            if self.only.as_ref().is_some_and(|only| only != domain) {
                continue;
            }
            let counted = candidate.planned_from.is_some();
            let rests = candidate.paused.is_some_and(|until| until > now).then_some(Reason::Paused);
            let barred = candidate.suppressed.or(rests);
            if !counted && !self.take(barred.is_none()) {
                continue;
            }
            let standing = if barred.is_some() { Standing::Barred } else { Standing::Waiting };
            let site = sites.of(domain);
            step.rows.push(PlannedRow { contact: candidate.contact, standing, barred, site });
            if barred.is_none() {
                step.envelopes.push((domain.clone(), self.envelope(candidate.contact, now)));
            }
        }
        step
    }

    /// Whether the limit leaves room; a copy to be sent takes its place.
    fn take(&mut self, is_sent: bool) -> bool {
        match &mut self.left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= u64::from(is_sent);
                true
            }
        }
    }

    fn envelope(&self, contact: ContactId, now: Timestamp) -> Envelope {
        new_envelope(&self.launch, contact, self.expires, now)
    }
}

/// The envelope of a new copy, due at once, or when its launch begins.
pub fn new_envelope(launch: &LaunchRow, contact: ContactId, expires: Span, now: Timestamp) -> Envelope {
    let now = launch.options.start_at.map_or(now, |start| start.max(now));
    let id = EnvelopeId::new(launch.id, contact);
    let lane = match launch.kind {
        LaunchKind::Campaign => Lane::Bulk,
        LaunchKind::Test | LaunchKind::Confirmation => Lane::Urgent,
    };
    Envelope { lane, ..Envelope::new(id, launch.edition, now, now + expires.duration()) }
}

/// One shared name per domain: neighbours in a bucket often have the same one.
#[derive(Default)]
struct Sites(Option<Arc<str>>);

impl Sites {
    fn of(&mut self, domain: &Domain) -> Arc<str> {
        match &self.0 {
            Some(site) if **site == *domain.as_str() => site.clone(),
            _ => self.0.insert(domain.as_str().into()).clone(),
        }
    }
}

/// Most domains counted one by one in a survey; the rest are counted together.
const DOMAINS_MAX: usize = 50_000;

/// Who a campaign would go to, before it is launched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Subscribed members of the lists, each once.
    pub members: u64,
    /// Those of them whom the campaign's segment leaves out.
    pub outside: u64,
    /// Those of them who would get a copy.
    pub recipients: u64,
    /// Those in the segment who are barred, by reason.
    pub barred: Vec<Left>,
    /// Recipients by domain, the largest first.
    pub domains: Vec<Share>,
    /// Recipients at domains that are not in the list of domains.
    pub elsewhere: u64,
}

/// Counts the first one of a domain, as long as there is room.
fn named(domains: &mut BTreeMap<Box<str>, u64>, domain: &str) {
    if domains.len() < DOMAINS_MAX {
        domains.insert(domain.into(), 1);
    }
}

/// How many are left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Why.
    pub reason: Reason,
    /// How many.
    pub count: u64,
}

/// How many are at one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The domain.
    pub domain: String,
    /// How many.
    pub count: u64,
}

impl Survey {
    /// Counts the members of the campaign's lists as they are `now`. `only` counts one domain alone; `top` is how many domains
    /// are named.
    pub fn take(
        store: &Store,
        meant: &Meant,
        only: Option<&Domain>,
        top: usize,
        now: Timestamp,
    ) -> Result<Survey, store::Error> {
        let mut survey = Survey::default();
        let mut barred: BTreeMap<Reason, u64> = BTreeMap::new();
        let mut domains: BTreeMap<Box<str>, u64> = BTreeMap::new();
        store.survey(meant, now, |address, member| {
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            if only.is_some_and(|only| !only.as_str().eq_ignore_ascii_case(domain)) {
                return;
            }
            survey.members += 1;
            match member {
                Member::Outside => survey.outside += 1,
                Member::Barred(reason) => *barred.entry(reason).or_default() += 1,
                Member::Recipient => {
                    survey.recipients += 1;
                    match domains.get_mut(domain) {
                        Some(count) => *count += 1,
                        None => named(&mut domains, domain),
                    }
                }
            }
        })?;
        survey.barred = barred.into_iter().map(|(reason, count)| Left { reason, count }).collect();
        let mut shares: Vec<Share> =
            domains.into_iter().map(|(domain, count)| Share { domain: domain.into(), count }).collect();
        shares.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.domain.cmp(&other.domain)));
        shares.truncate(top);
        survey.elsewhere = survey.recipients - shares.iter().map(|share| share.count).sum::<u64>();
        survey.domains = shares;
        Ok(survey)
    }
}

impl Campaign {
    /// Whom it is meant for, as its folder and the record have it now. Refuses what names a list or a campaign that is not
    /// there, at its place in campaign.toml.
    pub fn meant(&self, store: &Store) -> Result<Meant, MeantError> {
        let look_up = |text: &Option<Spanned<String>>| {
            let Some(text) = text else { return Ok(None) };
            match check_segment(store, text.get_ref()) {
                Ok(condition) => Ok(Some(condition)),
                Err(UnusableSegment::Store(why)) => Err(MeantError::Store(why)),
                Err(why) => Err(MeantError::Unknown(Box::new(self.place(text.span(), why.to_string(), SEGMENT_HELP)))),
            }
        };
        let lists = self.list_ids(store)?;
        let condition = chosen(look_up(&self.definition.segment)?, look_up(&self.definition.exclude)?);
        Ok(Meant { lists, condition })
    }

    /// The numbers of the campaign's lists; refuses one that is not there, at its place in campaign.toml.
    fn list_ids(&self, store: &Store) -> Result<Vec<ListId>, MeantError> {
        let mut ids = Vec::new();
        for name in self.lists() {
            match store.list(name)? {
                Some(id) if ids.contains(&id) => {}
                Some(id) => ids.push(id),
                None => {
                    let known: Vec<String> = store.lists()?.into_iter().map(|list| list.name).collect();
                    return Err(MeantError::Unknown(Box::new(self.no_such_list(name, &known))));
                }
            }
        }
        Ok(ids)
    }
}

/// Why it cannot be said whom a campaign is meant for.
#[derive(Debug, thiserror::Error)]
pub enum MeantError {
    /// A list, or what a segment asks about, is not there.
    #[error(transparent)]
    Unknown(Box<crate::campaign::Error>),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

#[cfg(test)]
mod tests;
