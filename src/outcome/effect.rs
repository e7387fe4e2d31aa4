//! What follows from a message that came back, once its copy is proven by a token: recorded durably, and only once however
//! often it comes (B-12, B-16, B-20).

use std::sync::Arc;

use crate::base::{EnvelopeId, ListId, Purpose, Seal, Timestamp};
use crate::outcome::arrival::{Action, Arrival, Kind, Returned};
use crate::store::{self, Judge, Late, LateBounce, Store};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it is of no consequence, or names no copy of ours.
    Nothing,
    /// The copy bounced.
    Bounced(Late),
    /// The address is barred for ever; false when it was suppressed before.
    Complained(bool),
    /// The contact left so many lists.
    Left(usize),
    /// It stands in the contact's history and has no other consequence; false when it stood there before.
    Noted(bool),
}

impl Arrival {
    /// The copy this may have an effect on: proven by a token of a kind that its readers cannot all see. A link to leave,
    /// which people forward, proves a wish to leave and nothing else.
    pub fn affected(&self, seal: &Seal) -> Option<EnvelopeId> {
        let fits = |purpose: Purpose| match self.kind {
            Kind::Bounce | Kind::Complaint | Kind::AutoReply => {
                matches!(purpose, Purpose::Bounce | Purpose::Message | Purpose::Feedback)
            }
            Kind::Unsubscribe => matches!(purpose, Purpose::Unsubscribe | Purpose::Feedback | Purpose::Bounce),
            Kind::Delay | Kind::Report | Kind::Other => false,
        };
        let traces = self.traces.iter().filter(|trace| fits(trace.purpose));
        traces.filter_map(|trace| seal.open(&trace.token, trace.purpose)).map(|(copy, _)| copy).next()
    }

    /// Records what follows for the copy; durable when it returns. The same message twice has one effect.
    pub async fn record(
        &self,
        copy: EnvelopeId,
        store: &Store,
        judge: Arc<dyn Judge>,
        now: Timestamp,
    ) -> Result<Effect, store::Error> {
        match self.kind {
            Kind::Bounce => {
                let failed = self.recipients.iter().find(|returned| returned.action == Some(Action::Failed));
                let Some(failed) = failed else { return Ok(Effect::Nothing) };
                let bounce = LateBounce {
                    copy,
                    class: failed.class,
                    code: failed.code,
                    enhanced: failed.status,
                    text: words(failed),
                    at: now,
                };
                store.bounced_late(bounce, judge).await.map(Effect::Bounced)
            }
            Kind::Complaint => {
                if store.recipient(copy.contact())?.is_none() {
                    return Ok(Effect::Nothing);
                }
                store.complained(copy, now).await.map(Effect::Complained)
            }
            Kind::Unsubscribe => {
                let rows = store.subscriptions(copy)?;
                let lists: Vec<ListId> = rows.into_iter().filter(|row| row.of_copy).map(|row| row.list).collect();
                store.leave(copy, lists, now).await.map(Effect::Left)
            }
            Kind::AutoReply => {
                let detail = campaign(copy, store)?;
                store.note_once(copy.contact(), "auto_reply", detail, now).await.map(Effect::Noted)
            }
            Kind::Delay | Kind::Report | Kind::Other => Ok(Effect::Nothing),
        }
    }
}

/// The name of the campaign a copy is of.
fn campaign(copy: EnvelopeId, store: &Store) -> Result<String, store::Error> {
    Ok(store.launch(copy.launch())?.map_or(String::new(), |row| row.campaign.to_string()))
}

/// The words of the host that refused, without the codes in front of them: those are recorded by themselves.
fn words(failed: &Returned) -> String {
    let mut words = failed.diagnostic.as_str();
    let codes = [failed.code.map(|code| code.to_string()), failed.status.map(|status| status.to_string())];
    for code in codes.into_iter().flatten() {
        words = words.strip_prefix(code.as_str()).map_or(words, |rest| rest.trim_start_matches([' ', '-']));
    }
    words.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::Map;

    use super::*;
    use crate::base::{Address, CampaignName};
    use crate::mail::{Class, InDoubt, Outcome, Stage, Standing};
    use crate::outcome::{Policy, read};
    use crate::store::{LaunchKind, LaunchOptions, NewContact, NewLaunch, OnConflict, PlannedRow, Reason, Threads};

    pub(in crate::outcome) const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);
    pub(in crate::outcome) const ADDRESS: &str = "ann@reader.example";

    /// A copy that was delivered to a contact on the list it was sent to.
    pub(in crate::outcome) async fn delivered() -> (Store, EnvelopeId) {
        let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
        let list = store.make_list("news".into(), START).await.unwrap();
        let import = store.begin_import("people.csv".into(), list, None, START).await.unwrap();
        let person = NewContact {
            address: Address::parse(ADDRESS).unwrap(),
            name: String::new(),
            fields: Map::new(),
            bucket: 7,
        };
        store.import_batch(vec![person], list, import, OnConflict::Fill, START).await.unwrap();
        let campaign = CampaignName::parse("welcome").unwrap();
        let edition = store.put_edition([1; 32], &campaign, b"{}".to_vec(), START).await.unwrap();
        let new = NewLaunch {
            campaign,
            kind: LaunchKind::Campaign,
            edition,
            in_doubt: InDoubt::Resend,
            options: LaunchOptions::default(),
            lists: vec![list],
        };
        let launch = store.create_launch(new, START).await.unwrap();
        let contact = store.contact(ADDRESS).unwrap().unwrap().id;
        let row = PlannedRow { contact, standing: Standing::Waiting, barred: None, site: "reader.example".into() };
        store.record_batch(launch, 0, vec![row], START).await.unwrap();
        let envelope = EnvelopeId::new(launch, contact);
        let outcome = Outcome {
            envelope,
            state: Standing::Delivered,
            class: Class::Delivered,
            code: Some(250),
            enhanced: None,
            stage: Some(Stage::Body),
            text: "ok".into(),
            host: None,
            site: Some("reader.example".into()),
            channel: None,
            tries: 1,
            doubtful: 0,
            at: START,
        };
        store.settle(1, vec![outcome], Arc::new(Policy::default())).await.unwrap();
        (store, envelope)
    }

    async fn twice(raw: &str, store: &Store, copy: EnvelopeId) -> [Effect; 2] {
        let arrival = read(raw.as_bytes());
        let mut effects = [Effect::Nothing; 2];
        for effect in &mut effects {
            let at = START + Duration::from_secs(3600);
            *effect = arrival.record(copy, store, Arc::new(Policy::default()), at).await.unwrap();
        }
        effects
    }

    #[tokio::test]
    async fn a_bounce_moves_its_copy_and_bars_a_dead_address_once() {
        let (store, copy) = delivered().await;
        let raw = include_str!("../../tests/fixtures/returns/standard-unknown-user.eml");
        assert_eq!(twice(raw, &store, copy).await, [Effect::Bounced(Late::Moved), Effect::Bounced(Late::Known)]);
        let row = store.copy(copy).unwrap().unwrap();
        assert_eq!(row.standing, Standing::Failed);
        assert!(row.code == Some(550) && !row.text.starts_with("550") && !row.text.starts_with("5.1.1"), "{row:?}");
        assert_eq!(store.suppression(ADDRESS).unwrap().unwrap().reason, Reason::Hard);
    }

    #[tokio::test]
    async fn delays_blocks_and_answers_bar_nobody() {
        let (store, copy) = delivered().await;
        for raw in [
            include_str!("../../tests/fixtures/returns/delay.eml"),
            include_str!("../../tests/fixtures/returns/not-spam.eml"),
            include_str!("../../tests/fixtures/returns/success.eml"),
        ] {
            assert_eq!(twice(raw, &store, copy).await, [Effect::Nothing; 2]);
        }
        let away = twice(include_str!("../../tests/fixtures/returns/no-longer-used.eml"), &store, copy).await;
        assert_eq!(away, [Effect::Noted(true), Effect::Noted(false)]);
        let events = store.events(copy.contact()).unwrap();
        assert_eq!(events.iter().filter(|event| event.kind == "auto_reply" && event.detail == "welcome").count(), 1);
        assert_eq!(store.copy(copy).unwrap().unwrap().standing, Standing::Delivered);
        twice(include_str!("../../tests/fixtures/returns/block-is-no-dead-address.eml"), &store, copy).await;
        assert_eq!(store.suppression(ADDRESS).unwrap(), None);
    }

    #[tokio::test]
    async fn a_complaint_bars_the_contact_whatever_address_it_names() {
        let (store, copy) = delivered().await;
        let raw = include_str!("../../tests/fixtures/returns/complaint.eml");
        assert_eq!(twice(raw, &store, copy).await, [Effect::Complained(true), Effect::Complained(false)]);
        assert_eq!(store.suppression(ADDRESS).unwrap().unwrap().reason, Reason::Complaint);
    }

    #[tokio::test]
    async fn a_wish_to_leave_takes_the_contact_off_the_lists_of_the_copy() {
        let (store, copy) = delivered().await;
        let raw = include_str!("../../tests/fixtures/returns/unsubscribe.eml");
        assert_eq!(twice(raw, &store, copy).await, [Effect::Left(1), Effect::Left(0)]);
        assert_eq!(store.suppression(ADDRESS).unwrap(), None);
    }
}
