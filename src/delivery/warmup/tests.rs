//! The calendar, its gates, and forty-five days of it in one go.

use proptest::prelude::*;

use super::*;
use crate::delivery::trouble::judge;
use crate::mail::{EnhancedCode, Reply, Stage};
use crate::world::{Dice, SeededDice};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn calendar() -> Calendar {
    Calendar::new(&config::Warmup::default())
}

fn answer(code: u16, enhanced: &str, text: &str) -> Judgement {
    let reply = Reply { code, enhanced: EnhancedCode::parse(enhanced), text: text.into() };
    judge(Some("google"), Stage::Body, Ok(&reply))
}

fn taken() -> Judgement {
    answer(250, "2.0.0", "ok")
}

#[test]
fn the_calendar_grows_as_the_settings_say() {
    let calendar = calendar();
    let most = |day| calendar.most("google", day);
    assert_eq!([most(1), most(7), most(10), most(14)], [Some(50), Some(376), Some(1033), Some(3968)]);
    assert_eq!(calendar.most("gmx", 1), Some(20));
    let (before, after) = (most(18).unwrap(), most(19).unwrap());
    assert!(before > 10_000 && f64::from(after) / f64::from(before) < 1.26, "slower from 10 000 on: {before} {after}");
    let end = calendar.ends("google").unwrap();
    assert!(most(end - 1).is_some_and(|most| most < 200_000) && most(end).is_none() && most(end + 50).is_none());
}

/// A day on which everything allowed was sent, with these answers among it.
fn day(warmth: &mut Warmth, now: Timestamp, sent: u32, answers: &[(u32, Judgement)]) {
    warmth.count(now, sent);
    for (times, judgement) in answers {
        (0..*times).for_each(|_| warmth.hear(judgement));
    }
}

#[test]
fn a_day_leads_on_only_when_it_was_used_and_went_well() {
    let calendar = calendar();
    let mut at = START;
    let mut warmth = Warmth::beginning(5);
    let most = calendar.most("google", 5).unwrap();
    let deferred = answer(451, "4.3.0", "try again later");
    let unknown = answer(550, "5.1.1", "no such user");
    let grey = answer(451, "4.7.1", "Greylisted, come back later");
    let blocked = answer(550, "5.7.1", "blocked using Spamhaus SBL, see https://www.spamhaus.org/sbl");
    assert_eq!(blocked.ruling.class, Class::BlockIp);
    for (sent, answers, complaints, gate, next) in [
        (most / 4, vec![(most / 4, taken())], 0, Gate::Unused, 5),
        (most, vec![(100, taken()), (4, deferred), (1, unknown), (60, grey)], 0, Gate::Good, 6),
        (most, vec![(100, taken()), (7, deferred)], 0, Gate::Repeat, 6),
        (most, vec![(97, taken()), (3, unknown)], 0, Gate::Repeat, 6),
        (most * 2, vec![(1000, taken())], 2, Gate::Repeat, 6),
        (most, vec![(90, taken()), (11, deferred)], 0, Gate::Bad, 4),
        (most, vec![(100, taken())], 0, Gate::Good, 5),
        (most, vec![(100, taken()), (1, blocked)], 0, Gate::Bad, 3),
        (most, vec![(1000, taken())], 3, Gate::Stop, 1),
    ] {
        day(&mut warmth, at, sent, &answers);
        at = at + DAY;
        assert_eq!((warmth.turn(&calendar, "google", complaints, at), warmth.day), (gate, next), "{answers:?}");
    }
    assert!(warmth.stopped, "two bad days in a row");
}

#[test]
fn a_long_silence_leads_back() {
    let calendar = calendar();
    let mut warmth = Warmth::beginning(20);
    day(&mut warmth, START, calendar.most("google", 20).unwrap(), &[(1000, taken())]);
    warmth.turn(&calendar, "google", 0, START + DAY * 31);
    assert_eq!(warmth.day, 7);
    day(&mut warmth, START + DAY * 31, 10, &[]);
    warmth.turn(&calendar, "google", 0, START + DAY * 90);
    assert_eq!(warmth.day, 1);
}

#[test]
fn nothing_goes_before_it_is_on_record_and_a_crash_makes_no_room() {
    let now = Instant::now();
    let mut warming = Warming::new(calendar(), "google", Warmth::beginning(10), now, START);
    assert_eq!(warming.look(now), Err(Cold::Reserving));
    let record = warming.reserve(now).unwrap();
    assert_eq!(warming.reserve(now), None, "one at a time");
    assert_eq!(warming.look(now), Err(Cold::Reserving), "not yet on disk");
    warming.reserved(true, now);
    assert_eq!(warming.look(now), Ok(()));
    warming.spend(now);
    let reserved = Warmth::from_text(&record).unwrap().in_24_hours(START);
    assert_eq!((reserved, Warmth::from_text(&warming.record()).unwrap().in_24_hours(START)), (1033 / 20, 1));
    let Err(Cold::Until(wait)) = warming.look(now) else { panic!("evenly over the day") };
    assert_eq!(wait, DAY / 2 / 1033);
}

#[test]
fn the_forecast_counts_the_days_of_the_calendar() {
    let calendar = calendar();
    let fresh = Warmth::beginning(1);
    let (one, hour) = (std::slice::from_ref(&fresh), 3600.0);
    assert_eq!(days(&calendar, "google", one, 25, START), Some((1, 6.0 * hour)));
    assert_eq!(days(&calendar, "google", one, 50, START), Some((1, 12.0 * hour)));
    assert_eq!(days(&calendar, "google", one, 51, START).map(|(days, _)| days), Some(2));
    assert_eq!(days(&calendar, "google", &[fresh.clone(), fresh.clone()], 100, START), Some((1, 12.0 * hour)));
    let sum: u32 = (1..=10).map(|day| calendar.most("google", day).unwrap()).sum();
    assert_eq!(days(&calendar, "google", one, sum.into(), START), Some((10, (9.0 * 24.0 + 12.0) * hour)));
    assert_eq!(days(&calendar, "google", &[fresh], 100_000_000, START), None, "known by then");
}

/// Sends as eagerly as allowed for `span`; gives the times of the messages. `crash` ends some lives: then only what is on
/// record counts.
fn eagerly(seed: u64, span: Duration, mut on_day: impl FnMut(&Warming, Timestamp) -> u64) -> Vec<(Timestamp, u32)> {
    let dice = SeededDice::new(seed);
    let start = Instant::now();
    let (mut now, mut sent) = (start, Vec::new());
    let wall = |now: Instant| START + now.saturating_duration_since(start);
    let mut disk = Warmth::beginning(1).to_text();
    let mut warming = Warming::new(calendar(), "google", Warmth::from_text(&disk).unwrap(), now, wall(now));
    while now < start + span {
        if dice.roll().is_multiple_of(400) {
            // the process dies, and another goes on after a while
            now += Duration::from_secs(dice.roll() % 7200);
            warming = Warming::new(calendar(), "google", Warmth::from_text(&disk).unwrap(), now, wall(now));
        }
        match warming.look(now) {
            Ok(()) => {
                warming.spend(now);
                warming.heard(&taken());
                sent.push((wall(now), warming.most().unwrap_or(u32::MAX)));
            }
            Err(Cold::Until(wait)) => now += wait,
            Err(Cold::Turn) => {
                let complaints = on_day(&warming, wall(now));
                warming.turn(complaints, now);
                disk = warming.record();
            }
            Err(Cold::Reserving) => {
                if let Some(record) = warming.reserve(now) {
                    disk = record;
                }
                warming.reserved(true, now);
            }
            Err(Cold::Stopped) => break,
        }
        if warming.most().is_none_or(|most| most > 3000) {
            break;
        }
    }
    sent
}

#[track_caller]
fn check_every_24_hours(sent: &[(Timestamp, u32)]) {
    let mut first = 0;
    for (last, (at, most)) in sent.iter().enumerate() {
        while at.since(sent[first].0) >= DAY {
            first += 1;
        }
        assert!(
            (last - first + 1) as u32 <= *most,
            "{} messages in the 24 hours before {at}, {most} allowed",
            last - first + 1
        );
    }
}

#[test]
fn forty_five_days_never_pass_the_calendar_in_any_24_hours() {
    let sent = eagerly(7, DAY * 45, |_, _| 0);
    check_every_24_hours(&sent);
    let days = sent.last().unwrap().0.since(START).as_secs() / 86_400;
    assert!((11..=17).contains(&days), "3 000 a day after {days} days");
}

#[test]
fn the_gate_holds_after_a_bad_day() {
    // complaints on the fourth day: two days back, then on again
    let mut turns = Vec::new();
    let sent = eagerly(11, DAY * 9, |warming, _| {
        turns.push(warming.most().unwrap());
        if turns.len() == 4 { 5 } else { 0 }
    });
    check_every_24_hours(&sent);
    assert_eq!(turns[..6], [50, 70, 98, 137, 70, 98], "{turns:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whenever_it_crashes_no_24_hours_hold_more_than_the_calendar(seed in any::<u64>()) {
        check_every_24_hours(&eagerly(seed, DAY * 20, |_, _| 0));
    }
}
