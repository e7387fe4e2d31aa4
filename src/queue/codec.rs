//! Records: a version byte, then fixed fields, then length-prefixed texts. An envelope takes 37 bytes at most.

use std::sync::Arc;

use super::keys;
use crate::base::{Domain, EditionId, EnvelopeId, SourceId, Timestamp};
use crate::mail::{Channel, Class, EnhancedCode, Envelope, Lane, Outcome, Stage, Standing};

/// The layout this version writes.
const VERSION: u8 = 1;
/// Longest text kept of an answer, in bytes.
const TEXT_MAX: usize = 300;

/// Writes an envelope without its id, which stands in the key.
pub(super) fn write_envelope(envelope: &Envelope) -> Vec<u8> {
    let mut to = Vec::with_capacity(40);
    to.push(VERSION);
    to.extend_from_slice(&envelope.edition.0.to_be_bytes());
    to.push(matches!(envelope.lane, Lane::Bulk).into());
    to.extend_from_slice(&envelope.tries.to_be_bytes());
    to.extend_from_slice(&envelope.source.map_or(u16::MAX, |source| source.0).to_be_bytes());
    to.extend_from_slice(&envelope.date.map_or(i64::MIN, Timestamp::as_ms).to_be_bytes());
    to.push(envelope.doubtful);
    to.extend_from_slice(&envelope.due.as_ms().to_be_bytes());
    to.extend_from_slice(&envelope.expires.as_ms().to_be_bytes());
    to
}

/// Reads an envelope; `None` when the record is not one of ours.
pub(super) fn read_envelope(id: EnvelopeId, record: &[u8]) -> Option<Envelope> {
    let mut from = Reader(record);
    let envelope = from.envelope(id)?;
    from.0.is_empty().then_some(envelope)
}

/// Writes a domain and an envelope, for records whose key does not name the domain.
pub(super) fn write_parked(domain: &Domain, envelope: &Envelope) -> Vec<u8> {
    let mut to = write_envelope(envelope);
    to.extend_from_slice(domain.as_str().as_bytes());
    to
}

/// Reads a domain and an envelope.
pub(super) fn read_parked(id: EnvelopeId, record: &[u8]) -> Option<(Domain, Envelope)> {
    let mut from = Reader(record);
    let envelope = from.envelope(id)?;
    let domain = Domain::parse(std::str::from_utf8(from.0).ok()?).ok()?;
    Some((domain, envelope))
}

/// Writes a copy whose final dot may be out.
pub(super) fn write_intent(domain: &Domain, envelope: &Envelope) -> Vec<u8> {
    let mut to = Vec::with_capacity(80);
    to.extend_from_slice(&envelope.id.to_u64().to_be_bytes());
    to.extend_from_slice(&write_parked(domain, envelope));
    to
}

/// A copy whose final dot may be out, as far as its record can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Intent {
    /// Which copy; readable where the rest is not.
    pub id: Option<EnvelopeId>,
    /// Its domain and itself.
    pub copy: Option<(Domain, Envelope)>,
}

/// Reads a copy whose final dot may be out. The first queues had its id in the key, and not in the record.
pub(super) fn read_intent(key: &[u8], record: &[u8]) -> Intent {
    let (id, parked) = match (keys::parse_first_intent(key), record.split_first_chunk()) {
        (Some(id), _) => (Some(id), record),
        (None, Some((id, parked))) => (Some(EnvelopeId::from_u64(u64::from_be_bytes(*id))), parked),
        (None, None) => (None, record),
    };
    Intent { id, copy: id.and_then(|id| read_parked(id, parked)) }
}

/// Writes outcomes, texts cut to what a person needs.
pub(super) fn write_outcomes(outcomes: &[Outcome]) -> Vec<u8> {
    let mut to = vec![VERSION];
    for outcome in outcomes {
        write_outcome(&mut to, outcome);
    }
    to
}

/// Reads outcomes; `None` when the record is damaged.
pub(super) fn read_outcomes(record: &[u8]) -> Option<Vec<Outcome>> {
    let mut from = Reader(record);
    if from.byte()? != VERSION {
        return None;
    }
    let mut outcomes = Vec::new();
    while !from.0.is_empty() {
        outcomes.push(from.outcome()?);
    }
    Some(outcomes)
}

fn write_outcome(to: &mut Vec<u8>, outcome: &Outcome) {
    to.extend_from_slice(&outcome.envelope.to_u64().to_be_bytes());
    to.push(outcome.state.number());
    to.push(Class::ALL.iter().position(|known| *known == outcome.class).map_or(u8::MAX, |at| at as u8));
    to.push(outcome.stage.map_or(u8::MAX, Stage::number));
    to.extend_from_slice(&outcome.code.unwrap_or(0).to_be_bytes());
    let EnhancedCode(class, subject, detail) = outcome.enhanced.unwrap_or(EnhancedCode(0, 0, 0));
    to.push(class);
    to.extend_from_slice(&subject.to_be_bytes());
    to.extend_from_slice(&detail.to_be_bytes());
    to.extend_from_slice(&outcome.tries.to_be_bytes());
    to.push(outcome.doubtful);
    to.extend_from_slice(&outcome.channel.map_or(0, Channel::to_number).to_be_bytes());
    to.extend_from_slice(&outcome.at.as_ms().to_be_bytes());
    write_text(to, &outcome.text);
    write_text(to, outcome.host.as_ref().map_or("", |host| host.as_str()));
    write_text(to, outcome.site.as_deref().unwrap_or(""));
}

fn write_text(to: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_MAX)];
    to.extend_from_slice(&(text.len() as u16).to_be_bytes());
    to.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn time(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.short()?;
        std::str::from_utf8(self.take(length.into())?).ok()
    }

    fn envelope(&mut self, id: EnvelopeId) -> Option<Envelope> {
        if self.byte()? != VERSION {
            return None;
        }
        Some(Envelope {
            id,
            edition: EditionId(u32::from_be_bytes(self.array()?)),
            lane: if self.byte()? == 0 { Lane::Urgent } else { Lane::Bulk },
            tries: self.short()?,
            source: Some(self.short()?).filter(|source| *source != u16::MAX).map(SourceId),
            date: Some(self.time()?).filter(|date| *date != i64::MIN).map(Timestamp::from_ms),
            doubtful: self.byte()?,
            due: Timestamp::from_ms(self.time()?),
            expires: Timestamp::from_ms(self.time()?),
        })
    }

    fn outcome(&mut self) -> Option<Outcome> {
        Some(Outcome {
            envelope: EnvelopeId::from_u64(u64::from_be_bytes(self.array()?)),
            state: Standing::from_number(self.byte()?)?,
            class: Class::ALL.get(usize::from(self.byte()?)).copied()?,
            stage: Stage::from_number(self.byte()?),
            code: Some(self.short()?).filter(|code| *code != 0),
            enhanced: self.enhanced()?,
            tries: self.short()?,
            doubtful: self.byte()?,
            channel: Channel::from_number(u32::from_be_bytes(self.array()?)),
            at: Timestamp::from_ms(self.time()?),
            text: self.text()?.to_owned(),
            host: Some(self.text()?).filter(|host| !host.is_empty()).and_then(|host| Domain::parse(host).ok()),
            site: Some(self.text()?).filter(|site| !site.is_empty()).map(Arc::from),
        })
    }

    fn enhanced(&mut self) -> Option<Option<EnhancedCode>> {
        let code = EnhancedCode(self.byte()?, self.short()?, self.short()?);
        Some(Some(code).filter(|code| code.0 != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            id: EnvelopeId::from_u64(9),
            edition: EditionId(3),
            lane: Lane::Bulk,
            tries: 2,
            source: Some(SourceId(1)),
            date: Some(Timestamp::from_ms(77)),
            doubtful: 1,
            due: Timestamp::from_ms(100),
            expires: Timestamp::from_ms(200),
        }
    }

    #[test]
    fn an_envelope_reads_back_and_stays_small() {
        let bare = Envelope { source: None, date: None, ..envelope() };
        for envelope in [envelope(), bare] {
            let record = write_envelope(&envelope);
            assert!(record.len() <= 100);
            assert_eq!(read_envelope(envelope.id, &record), Some(envelope.clone()));
            let domain = Domain::parse("mail.example").unwrap();
            assert_eq!(
                read_parked(envelope.id, &write_parked(&domain, &envelope)),
                Some((domain.clone(), envelope.clone()))
            );
            let first = [&b"i"[..], &envelope.id.to_u64().to_be_bytes()].concat();
            let read = [
                read_intent(&keys::intent(3), &write_intent(&domain, &envelope)),
                read_intent(&first, &write_parked(&domain, &envelope)),
            ];
            let whole = || Intent { id: Some(envelope.id), copy: Some((domain.clone(), envelope.clone())) };
            assert_eq!(read, [whole(), whole()]);
        }
    }

    #[test]
    fn outcomes_read_back_and_damage_is_noticed() {
        let outcome = Outcome {
            envelope: EnvelopeId::from_u64(5),
            state: Standing::Failed,
            class: Class::HardUnknownUser,
            code: Some(550),
            enhanced: Some(EnhancedCode(5, 1, 1)),
            stage: Some(Stage::To),
            text: "ü".repeat(400),
            host: Domain::parse("mx.example").ok(),
            site: Some("example".into()),
            channel: Some(Channel::Clear),
            tries: 3,
            doubtful: 0,
            at: Timestamp::from_ms(1),
        };
        let record = write_outcomes(&[outcome.clone(), Outcome { text: "short".into(), ..outcome.clone() }]);
        let read = read_outcomes(&record).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].text.len(), TEXT_MAX);
        assert_eq!(read[1], Outcome { text: "short".into(), ..outcome });
        for cut in 1..record.len() {
            let _ = read_outcomes(&record[..cut]);
        }
        assert_eq!(read_outcomes(&record[..record.len() - 1]), None);
        assert_eq!(read_envelope(EnvelopeId::from_u64(1), &[9; 37]), None);
    }
}
