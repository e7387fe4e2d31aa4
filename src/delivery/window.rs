//! How many connections a site is given: it grows while all goes well, halves at once on trouble, and is dead after
//! rounds without a single success. Knows only that trouble happened and whose it was; what the trouble was, `trouble`
//! decides.

use crate::mail::Blame;

/// Rounds in a row that failed on every connection until the site is taken for dead.
const FAILED_ROUNDS_MAX: u32 = 3;

/// The number of connections toward one site from one source address.
///
/// On success it grows by 1/n, so that it takes a round of n successes to add one connection (as TCP and Postfix' qmgr do);
/// on trouble it halves, once per round, because the n connections in flight all tell of the same event.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    size: f64,
    limit: u16,
    /// Answers to pass over after a halving: the connections that were open then tell nothing new.
    deaf: u16,
    /// Rounds of trouble since the last success.
    failed: u32,
}

impl Window {
    /// A window of `start` connections that never passes `limit`; both at least 1.
    pub fn new(start: u16, limit: u16) -> Window {
        let limit = limit.max(1);
        Window { size: f64::from(start.clamp(1, limit)), limit, deaf: 0, failed: 0 }
    }

    /// Connections allowed now; 0 when the site is dead.
    pub fn size(&self) -> u16 {
        if self.is_dead() { 0 } else { self.size as u16 }
    }

    /// Whether trouble came in so many rounds without a success that it is no use to go on. Ends by [`Window::probe`].
    pub fn is_dead(&self) -> bool {
        self.failed >= FAILED_ROUNDS_MAX
    }

    /// Rounds of trouble since the last success.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// Goes on after so many rounds of trouble; the next one may be the last.
    pub fn had_failed(&mut self, rounds: u32) {
        self.failed = rounds.min(FAILED_ROUNDS_MAX - 1);
    }

    /// Takes in how one attempt went: `None` for an answer that shows the site in order (also one that refuses a
    /// recipient), else whose trouble it was. Returns the new size.
    pub fn heard(&mut self, trouble: Option<Blame>) -> u16 {
        match trouble {
            None | Some(Blame::Recipient | Blame::Message | Blame::Campaign | Blame::Stream | Blame::Ourselves) => {
                self.failed = 0;
                self.deaf = self.deaf.saturating_sub(1);
                self.size = (self.size + 1.0 / self.size).min(f64::from(self.limit));
            }
            Some(Blame::Host | Blame::Site | Blame::Source) => self.shrink(),
        }
        self.size()
    }

    /// Another upper limit, from a table that changed or a reply that named one.
    pub fn limit(&mut self, limit: u16) {
        self.limit = limit.max(1);
        self.size = self.size.min(f64::from(self.limit));
    }

    /// After a pause: one connection, which has to earn the others.
    pub fn probe(&mut self) {
        (self.size, self.deaf, self.failed) = (1.0, 0, 0);
    }

    fn shrink(&mut self) {
        if self.deaf > 0 {
            self.deaf -= 1;
            return;
        }
        self.failed = self.failed.saturating_add(1);
        self.deaf = (self.size as u16).saturating_sub(1);
        self.size = (self.size / 2.0).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_round_of_successes_adds_one_connection() {
        let mut window = Window::new(4, 10);
        for _ in 0..4 {
            window.heard(None);
        }
        assert_eq!(window.size(), 4, "1/n of a growing n: just below 5");
        assert_eq!(window.heard(None), 5);
        for _ in 0..500 {
            window.heard(Some(Blame::Recipient));
        }
        assert_eq!(window.size(), 10, "a refused recipient shows a site in order; the limit holds");
    }

    #[test]
    fn one_event_heard_on_all_connections_halves_once() {
        let mut window = Window::new(8, 10);
        let sizes: Vec<u16> = (0..9).map(|_| window.heard(Some(Blame::Site))).collect();
        assert_eq!(sizes, [4, 4, 4, 4, 4, 4, 4, 4, 2]);
    }

    #[test]
    fn a_site_without_a_success_dies_and_returns_with_one() {
        let mut window = Window::new(1, 10);
        assert_eq!((window.heard(Some(Blame::Host)), window.heard(Some(Blame::Host))), (1, 1));
        assert_eq!(window.heard(Some(Blame::Host)), 0);
        assert!(window.is_dead());
        window.probe();
        assert_eq!((window.size(), window.is_dead()), (1, false));
        assert_eq!(window.heard(None), 2);
    }

    fn any_event() -> impl Strategy<Value = Option<Blame>> {
        prop_oneof![
            4 => Just(None),
            1 => Just(Some(Blame::Recipient)),
            2 => Just(Some(Blame::Site)),
            1 => Just(Some(Blame::Source)),
            1 => Just(Some(Blame::Host)),
        ]
    }

    proptest! {
        #[test]
        fn it_never_passes_its_limit_nor_falls_below_one_while_alive(
            start in 0u16..40, limit in 0u16..40, events in prop::collection::vec(any_event(), 0..400),
        ) {
            let mut window = Window::new(start, limit);
            for event in events {
                let before = window.size();
                let after = window.heard(event);
                prop_assert!(after <= limit.max(1));
                prop_assert_eq!(after == 0, window.is_dead());
                match event {
                    None => prop_assert!(after > 0 && (before == 0 || after == before || after == before + 1)),
                    Some(Blame::Site | Blame::Source | Blame::Host) => prop_assert!(after <= before),
                    Some(_) => prop_assert!(after > 0),
                }
            }
        }
    }
}
