//! What stands still at a site and is narrower than the site: a launch that was stopped there until a person resumes it
//! (B-23), and a launch or a From domain that the host wants less of for a while (C-49). The former are on record in the
//! store; all are at hand here for whoever leases.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::base::{Domain, LaunchId, Timestamp};

/// Pauses remembered; past it the memory starts anew, and hosts say again what they want.
const PAUSES_MAX: usize = 10_000;

/// What stands still.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One launch.
    Launch(LaunchId),
    /// Every launch from a domain.
    Stream(Domain),
}

/// Why something does not go to a site now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// In words.
    pub why: Arc<str>,
    /// Until when; `None`: until a person resumes it.
    pub until: Option<Timestamp>,
}

/// All that stands still. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    by_scope: Arc<RwLock<ByScope>>,
    /// Whether there are any, so that nobody waits for the lock on a good day.
    any: Arc<AtomicBool>,
}

/// By what stands still, and at which site.
type ByScope = BTreeMap<(Scope, Arc<str>), Stop>;

impl Stops {
    /// Why nothing of a launch from a domain goes to a site now, if that is so.
    pub fn why(&self, launch: LaunchId, from: Option<&Domain>, site: &Arc<str>, now: Timestamp) -> Option<Stop> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let stops = self.by_scope.read().unwrap_or_else(PoisonError::into_inner);
        let scopes = [Some(Scope::Launch(launch)), from.cloned().map(Scope::Stream)];
        let found = scopes.into_iter().flatten().filter_map(|scope| stops.get(&(scope, site.clone())));
        found.filter(|stop| stop.until.is_none_or(|until| until > now)).max_by_key(|stop| stop.until.is_none()).cloned()
    }

    /// Nothing more of a launch goes to a site, until a person resumes it.
    pub fn put(&self, launch: LaunchId, site: Arc<str>, why: Arc<str>) {
        self.insert(Scope::Launch(launch), site, Stop { why, until: None });
    }

    /// Nothing of this goes to a site until a time. What a person has to resume stays as it is.
    pub fn pause(&self, scope: Scope, site: Arc<str>, why: Arc<str>, until: Timestamp) {
        self.insert(scope, site, Stop { why, until: Some(until) });
    }

    /// A launch goes everywhere again.
    pub fn lift(&self, launch: LaunchId) {
        let mut stops = self.by_scope.write().unwrap_or_else(PoisonError::into_inner);
        stops.retain(|(scope, _), _| *scope != Scope::Launch(launch));
    }

    fn insert(&self, scope: Scope, site: Arc<str>, stop: Stop) {
        let mut stops = self.by_scope.write().unwrap_or_else(PoisonError::into_inner);
        if stops.len() >= PAUSES_MAX {
            stops.retain(|_, known| known.until.is_none());
        }
        let known = stops.entry((scope, site)).or_insert_with(|| stop.clone());
        if known.until.is_some() {
            *known = stop;
        }
        self.any.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_launch_a_stream_and_a_site_are_told_apart() {
        let (start, minute) = (Timestamp::from_ms(0), Duration::from_secs(60));
        let (site, other): (Arc<str>, Arc<str>) = ("google".into(), "yahoo".into());
        let (from, another) = (Domain::parse("a.example").unwrap(), Domain::parse("b.example").unwrap());
        let stops = Stops::default();
        let why = |launch, from: &Domain, site: &Arc<str>, at| {
            stops.why(LaunchId(launch), Some(from), site, at).map(|stop| stop.why.to_string())
        };
        assert_eq!(why(1, &from, &site, start), None);
        stops.pause(Scope::Stream(from.clone()), site.clone(), "DKIM domain".into(), start + minute);
        assert_eq!(why(1, &from, &site, start).as_deref(), Some("DKIM domain"));
        assert_eq!(why(2, &from, &site, start).as_deref(), Some("DKIM domain"), "every launch of the stream");
        assert_eq!(why(1, &another, &site, start), None, "and no other");
        assert_eq!(why(1, &from, &other, start), None);
        assert_eq!(why(1, &from, &site, start + minute), None, "over by itself");
        stops.put(LaunchId(1), site.clone(), "bounces".into());
        stops.pause(Scope::Launch(LaunchId(1)), site.clone(), "URL".into(), start + minute);
        assert_eq!(why(1, &another, &site, start + minute * 9).as_deref(), Some("bounces"), "a person has to");
        stops.lift(LaunchId(1));
        assert_eq!(why(1, &another, &site, start), None);
    }
}
