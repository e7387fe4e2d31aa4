//! Editions and launches.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::copies::insert_batch;
use super::people::unreadable;
use super::{Error, PlannedRow, Store};
use crate::base::{CampaignName, EditionId, LaunchId, ListId, Timestamp};
use crate::mail::InDoubt;

/// Declares an enum that is kept as a number in a column and printed as a word.
macro_rules! numbered {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$doc])* $variant = $number,)*
        }

        impl $name {
            pub(super) fn of(number: i64) -> rusqlite::Result<$name> {
                match number {
                    $($number => Ok($name::$variant),)*
                    other => Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
                }
            }
        }
    };
}

numbered! {
    /// What was launched.
    LaunchKind {
        /// A campaign, to its lists.
        Campaign = 0,
        /// Test copies, to addresses named by hand.
        Test = 1,
        /// A request to confirm a subscription, to whoever asked for it.
        Confirmation = 2,
    }
}

numbered! {
    /// Where a launch stands.
    LaunchState {
        /// Planned and sent as fast as may be.
        Running = 0,
        /// Held by a person until they resume it.
        Paused = 1,
        /// Called back: what was not sent never will be.
        Cancelled = 2,
        /// Every copy is final.
        Done = 3,
    }
}

fn in_doubt(number: i64) -> rusqlite::Result<InDoubt> {
    match number {
        0 => Ok(InDoubt::Resend),
        1 => Ok(InDoubt::Hold),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
    }
}

/// How a launch was asked for; recorded, and the same over every resume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchOptions {
    /// The host everything goes through, as given with `--via`.
    pub via: Option<String>,
    /// At most this many recipients.
    pub limit: Option<u64>,
    /// Only recipients of this domain.
    pub only_domain: Option<String>,
    /// At most this rate over all sites, as in "100/min".
    pub rate: Option<String>,
    /// The campaign's own rate, where `rate` was asked for instead of it.
    pub own_rate: Option<String>,
    /// The pool of source addresses it is sent from; `None`: all of them alike.
    pub pool: Option<String>,
    /// Planned by how engaged people are, the most engaged first: some sources are not known everywhere yet (W-03).
    pub engaged_first: bool,
    /// Only those members for whom this segment holds, as text.
    pub segment: Option<String>,
    /// None of those for whom this one holds.
    pub exclude: Option<String>,
    /// Nothing goes out before this time.
    pub start_at: Option<Timestamp>,
    /// What has not gone out by this time is cancelled.
    pub deadline: Option<Timestamp>,
}

/// A frozen edition on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditionRow {
    /// The SHA-256 of its content: its name.
    pub hash: [u8; 32],
    /// Its content, as `compose` wrote it.
    pub frozen: Vec<u8>,
}

/// A launch to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLaunch {
    /// The campaign.
    pub campaign: CampaignName,
    /// What kind.
    pub kind: LaunchKind,
    /// The frozen content.
    pub edition: EditionId,
    /// What becomes of copies in doubt.
    pub in_doubt: InDoubt,
    /// How it was asked for.
    pub options: LaunchOptions,
    /// The lists, in the order in which they are read.
    pub lists: Vec<ListId>,
}

/// A launch on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchRow {
    /// Its number.
    pub id: LaunchId,
    /// The campaign.
    pub campaign: CampaignName,
    /// What kind.
    pub kind: LaunchKind,
    /// The frozen content.
    pub edition: EditionId,
    /// Where it stands.
    pub state: LaunchState,
    /// What becomes of copies in doubt.
    pub in_doubt: InDoubt,
    /// How it was asked for.
    pub options: LaunchOptions,
    /// The lists, in the order in which they are read.
    pub lists: Vec<ListId>,
    /// When it was launched.
    pub started: Timestamp,
    /// When the last copy became final.
    pub finished: Option<Timestamp>,
    /// Whether every recipient has been planned.
    pub planned: bool,
}

const LAUNCH: &str = "SELECT id, campaign, kind, edition, state, in_doubt, options, started, finished, planned, \
     (SELECT json_group_array(list ORDER BY position) FROM launch_lists WHERE launch = id) FROM launches";

impl Store {
    /// Records a frozen edition; the same hash gives the same number.
    pub async fn put_edition(
        &self,
        hash: [u8; 32],
        campaign: &CampaignName,
        frozen: Vec<u8>,
        now: Timestamp,
    ) -> Result<EditionId, Error> {
        let campaign = campaign.to_string();
        self.backend
            .write(move |db| {
                db.execute(
                    "INSERT INTO editions (hash, campaign, frozen, created) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT (hash) DO NOTHING",
                    params![hash, campaign, frozen, now.as_ms()],
                )?;
                db.query_row("SELECT id FROM editions WHERE hash = ?1", [hash], |row| row.get(0).map(EditionId))
            })
            .await
    }

    /// A frozen edition.
    pub fn edition(&self, edition: EditionId) -> Result<Option<EditionRow>, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT hash, frozen FROM editions WHERE id = ?1")?
                .query_row([edition.0], |row| Ok(EditionRow { hash: row.get(0)?, frozen: row.get(1)? }))
                .optional()
        })
    }

    /// Records a launch, running and not yet planned. A campaign has one launch: where there is one of kind `Campaign`
    /// already, it is given, and nothing is recorded.
    pub async fn create_launch(&self, launch: NewLaunch, now: Timestamp) -> Result<LaunchId, Error> {
        self.backend
            .write(move |db| match launch.kind {
                LaunchKind::Campaign => match find_launch_of(db, &launch.campaign)? {
                    Some(known) => Ok(known.id),
                    None => insert_launch(db, &launch, now),
                },
                LaunchKind::Test | LaunchKind::Confirmation => insert_launch(db, &launch, now),
            })
            .await
    }

    /// As [`Store::create_launch`], with all its copies: whoever finds the launch finds them.
    pub async fn create_launch_to(
        &self,
        launch: NewLaunch,
        copies: Vec<PlannedRow>,
        now: Timestamp,
    ) -> Result<LaunchId, Error> {
        self.backend
            .write(move |db| {
                let id = insert_launch(db, &launch, now)?;
                insert_batch(db, id, 0, &copies, now)?;
                Ok(id)
            })
            .await
    }

    /// A launch by number.
    pub fn launch(&self, launch: LaunchId) -> Result<Option<LaunchRow>, Error> {
        self.backend.read(|db| {
            db.prepare_cached(&format!("{LAUNCH} WHERE id = ?1"))?.query_row([launch.0], launch_row).optional()
        })
    }

    /// The launch of a campaign, if it was launched.
    pub fn launch_of(&self, campaign: &CampaignName) -> Result<Option<LaunchRow>, Error> {
        self.backend.read(|db| find_launch_of(db, campaign))
    }

    /// All launches that are neither done nor cancelled, oldest first.
    pub fn open_launches(&self) -> Result<Vec<LaunchRow>, Error> {
        self.backend.read(|db| {
            db.prepare_cached(&format!("{LAUNCH} WHERE state IN (0, 1) ORDER BY id"))?
                .query_map([], launch_row)?
                .collect()
        })
    }

    /// Moves a launch to another state if it stands in one of `from`, and leaves it alone otherwise; `Done` and `Cancelled`
    /// set when it finished. Gives where it stood; `None`: there is no such launch.
    pub async fn move_launch(
        &self,
        launch: LaunchId,
        from: &'static [LaunchState],
        to: LaunchState,
        now: Timestamp,
    ) -> Result<Option<LaunchState>, Error> {
        let finished = matches!(to, LaunchState::Done | LaunchState::Cancelled).then_some(now.as_ms());
        self.backend
            .write(move |db| {
                let stood = state_of(db, launch)?;
                if stood.is_some_and(|stood| from.contains(&stood)) {
                    let row = params![launch.0, to as i64, finished];
                    db.execute("UPDATE launches SET state = ?2, finished = ?3 WHERE id = ?1", row)?;
                }
                Ok(stood)
            })
            .await
    }

    /// Records that every recipient of a launch has been planned.
    pub async fn set_planned(&self, launch: LaunchId) -> Result<(), Error> {
        self.backend
            .write(move |db| db.execute("UPDATE launches SET planned = 1 WHERE id = ?1", [launch.0]).map(drop))
            .await
    }
}

pub(super) fn state_of(db: &Connection, launch: LaunchId) -> rusqlite::Result<Option<LaunchState>> {
    let mut state = db.prepare_cached("SELECT state FROM launches WHERE id = ?1")?;
    state.query_row([launch.0], |row| LaunchState::of(row.get(0)?)).optional()
}

fn find_launch_of(db: &Connection, campaign: &CampaignName) -> rusqlite::Result<Option<LaunchRow>> {
    db.prepare_cached(&format!("{LAUNCH} WHERE campaign = ?1 AND kind = 0"))?
        .query_row([campaign.as_str()], launch_row)
        .optional()
}

pub(super) fn insert_launch(db: &Connection, launch: &NewLaunch, now: Timestamp) -> rusqlite::Result<LaunchId> {
    let options = serde_json::to_string(&launch.options).expect("options are texts and numbers");
    db.execute(
        "INSERT INTO launches (campaign, kind, edition, state, in_doubt, options, started, planned) \
         VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, 0)",
        params![
            launch.campaign.as_str(),
            launch.kind as i64,
            launch.edition.0,
            i64::from(launch.in_doubt == InDoubt::Hold),
            options,
            now.as_ms()
        ],
    )?;
    let id = LaunchId(db.last_insert_rowid() as u32);
    for (position, list) in launch.lists.iter().enumerate() {
        let row = params![id.0, position, list.0];
        db.execute("INSERT INTO launch_lists (launch, position, list) VALUES (?1, ?2, ?3)", row)?;
    }
    Ok(id)
}

fn launch_row(row: &Row<'_>) -> rusqlite::Result<LaunchRow> {
    let campaign: String = row.get(1)?;
    let lists: Vec<u32> = serde_json::from_str(row.get_ref(10)?.as_str()?).map_err(|why| unreadable(10, why))?;
    Ok(LaunchRow {
        id: LaunchId(row.get(0)?),
        campaign: CampaignName::parse(&campaign).ok_or(rusqlite::Error::InvalidQuery)?,
        kind: LaunchKind::of(row.get(2)?)?,
        edition: EditionId(row.get(3)?),
        state: LaunchState::of(row.get(4)?)?,
        in_doubt: in_doubt(row.get(5)?)?,
        options: serde_json::from_str(row.get_ref(6)?.as_str()?).map_err(|why| unreadable(6, why))?,
        lists: lists.into_iter().map(ListId).collect(),
        started: Timestamp::from_ms(row.get(7)?),
        finished: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_ms),
        planned: row.get(9)?,
    })
}
