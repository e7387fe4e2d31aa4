//! Whether there is anything to wait for: what waits for a person is not.

use crate::base::{Domain, Timestamp};
use crate::mail::Lane;
use crate::queue::agenda::Standing;
use crate::queue::keeper::{Keeper, PAGE};
use crate::queue::{Error, keys};

impl Keeper {
    /// Whether nothing is claimed, leased or to be admitted, and nothing is due by `until` but what waits for a person.
    pub(super) fn is_idle(&self, until: Timestamp) -> Result<bool, Error> {
        if !self.admissions.is_empty() || !self.agenda.is_quiet() {
            return Ok(false);
        }
        for (domain, standing) in self.agenda.due_by(until) {
            // where all are alike, nothing is to be read for it
            if standing.for_person.len() < standing.waiting as usize
                && (standing.for_person.is_empty() || self.has_due(domain, standing, until)?)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a domain has a copy due by `until` that does not wait for a person.
    fn has_due(&self, domain: &Domain, standing: &Standing, until: Timestamp) -> Result<bool, Error> {
        for lane in [Lane::Urgent, Lane::Bulk] {
            let prefix = keys::lane_prefix(domain, lane);
            let mut from = Vec::new();
            loop {
                let page = self.ledger.scan(&prefix, &from, PAGE)?;
                let due =
                    page.iter().filter_map(|(key, _)| keys::parse_due(key)).take_while(|(_, due, _)| *due <= until);
                let mut due = due.map(|(_, _, id)| id).peekable();
                let is_over = due.peek().is_none();
                if due.any(|id| !standing.for_person.contains(&id)) {
                    return Ok(true);
                }
                match page.last() {
                    Some((key, _)) if page.len() == PAGE && !is_over => from = keys::after(key),
                    _ => break,
                }
            }
        }
        Ok(false)
    }
}
