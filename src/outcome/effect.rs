//! What follows from a message that came back, once its copy is proven by a token: recorded durably, and only once however
//! often it comes (B-12, B-16, B-20).

use std::sync::Arc;

use crate::base::{EnvelopeId, ListId, Purpose, Seal, Timestamp};
use crate::outcome::arrival::{Action, Arrival, Kind};
use crate::store::{self, Judge, Late, LateBounce, Reason, Store, SuppressionRow};

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
}

impl Arrival {
    /// The copy this may have an effect on: proven by a token of a kind that its readers cannot all see. A link to leave,
    /// which people forward, proves a wish to leave and nothing else.
    pub fn affected(&self, seal: &Seal) -> Option<EnvelopeId> {
        let fits = |purpose: Purpose| match self.kind {
            Kind::Bounce | Kind::Complaint => {
                matches!(purpose, Purpose::Bounce | Purpose::Message | Purpose::Feedback)
            }
            Kind::Unsubscribe => matches!(purpose, Purpose::Unsubscribe | Purpose::Feedback | Purpose::Bounce),
            Kind::Delay | Kind::AutoReply | Kind::Report | Kind::Other => false,
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
                    text: failed.diagnostic.clone(),
                    at: now,
                };
                store.bounced_late(bounce, judge).await.map(Effect::Bounced)
            }
            Kind::Complaint => {
                let address = store.copy(copy)?.map(|row| row.address).filter(|address| !address.is_empty());
                let Some(address) = address else { return Ok(Effect::Nothing) };
                let campaign = store.launch(copy.launch())?.map_or(String::new(), |row| row.campaign.to_string());
                let row = SuppressionRow { address, reason: Reason::Complaint, detail: campaign, since: now };
                Ok(Effect::Complained(store.suppress(vec![row]).await? > 0))
            }
            Kind::Unsubscribe => {
                let rows = store.subscriptions(copy)?;
                let lists: Vec<ListId> = rows.into_iter().filter(|row| row.of_copy).map(|row| row.list).collect();
                store.leave(copy.contact(), lists, now).await.map(Effect::Left)
            }
            Kind::Delay | Kind::AutoReply | Kind::Report | Kind::Other => Ok(Effect::Nothing),
        }
    }
}
