//! The last look, right before MAIL: may this copy still go? One indexed read of the store; nothing is remembered from
//! one look to the next, because the promise is about now.

use crate::base::{EnvelopeId, Timestamp};
use crate::mail::Recipient;
use crate::store::{Error, LaunchState, LookRow, Store};

/// What the record says about a copy now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It may go.
    Go,
    /// Never: suppressed, unsubscribed or erased; the text says which.
    Barred(String),
    /// Not now: its launch is paused.
    Home,
    /// Never: its launch was called back, or is no longer on record.
    Cancelled,
}

const ERASED: &str = "the contact was erased";

/// Looks a copy up.
pub fn look(store: &Store, copy: EnvelopeId, now: Timestamp) -> Result<Look, Error> {
    store.look(copy).map(|row| decide(row, now))
}

/// The same, with whom it goes to; no copy may go that has nobody.
pub fn look_at_recipient(store: &Store, copy: EnvelopeId, now: Timestamp) -> Result<Result<Recipient, Look>, Error> {
    let (row, recipient) = store.look_at_recipient(copy)?;
    Ok(match (decide(row, now), recipient) {
        (Look::Go, Some(recipient)) => Ok(recipient),
        (Look::Go, None) => Err(Look::Barred(ERASED.to_owned())),
        (look, _) => Err(look),
    })
}

/// A bar counts before everything else: it is final, a pause is not.
fn decide(row: LookRow, now: Timestamp) -> Look {
    let LookRow { launch, known, suppressed, subscribed, paused } = row;
    let rests_until = paused.filter(|until| *until > now);
    match (launch, suppressed) {
        (None | Some(LaunchState::Cancelled), _) => Look::Cancelled,
        (Some(_), Some(reason)) => Look::Barred(format!("suppressed: {}", reason.word())),
        (Some(_), None) if !known => Look::Barred(ERASED.to_owned()),
        (Some(_), None) if !subscribed => Look::Barred("unsubscribed from the list".to_owned()),
        (Some(_), None) if rests_until.is_some() => Look::Barred("rests by their own wish".to_owned()),
        (Some(LaunchState::Paused), None) => Look::Home,
        (Some(LaunchState::Running | LaunchState::Done), None) => Look::Go,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Reason;

    #[test]
    fn a_bar_counts_before_a_pause_and_a_cancellation_before_both() {
        let now = Timestamp::from_ms(1_795_000_000_000);
        let go = LookRow {
            launch: Some(LaunchState::Running),
            known: true,
            suppressed: None,
            subscribed: true,
            paused: Some(now),
        };
        let later = Some(Timestamp::from_ms(now.as_ms() + 1));
        let barred = |text: &str| Look::Barred(text.to_owned());
        for (row, look) in [
            (go, Look::Go),
            (LookRow { suppressed: Some(Reason::Complaint), ..go }, barred("suppressed: complaint")),
            (LookRow { known: false, subscribed: false, ..go }, barred("the contact was erased")),
            (LookRow { paused: later, ..go }, barred("rests by their own wish")),
            (LookRow { subscribed: false, ..go }, barred("unsubscribed from the list")),
            (LookRow { launch: Some(LaunchState::Paused), ..go }, Look::Home),
            (
                LookRow { launch: Some(LaunchState::Paused), subscribed: false, ..go },
                barred("unsubscribed from the list"),
            ),
            (LookRow { launch: Some(LaunchState::Cancelled), suppressed: Some(Reason::Hard), ..go }, Look::Cancelled),
            (LookRow { launch: None, ..go }, Look::Cancelled),
        ] {
            assert_eq!(decide(row, now), look, "{row:?}");
        }
    }
}
