//! What each kind of trouble does to a site, and how it comes back.

use super::*;
use crate::base::Rate;
use crate::config::Settings;
use crate::config::shaping::{Cap, Shaping};
use crate::delivery::trouble::{Fault, judge};
use crate::mail::{EnhancedCode, Reply, Stage};

const MINUTE: Duration = Duration::from_secs(60);

fn limits(site: &str, now: Instant) -> Limits {
    Limits::new(Shaping::new(&Settings::default(), None).unwrap().shape(site, ""), now)
}

fn hear(limits: &mut Limits, site: &str, stage: Stage, reply: (u16, &str, &str), now: Instant) {
    let reply = Reply { code: reply.0, enhanced: EnhancedCode::parse(reply.1), text: reply.2.into() };
    limits.heard(&judge(Some(site), stage, Ok(&reply)), &reply.text, now);
}

fn delivered(limits: &mut Limits, now: Instant) {
    hear(limits, "x", Stage::Body, (250, "2.0.0", "ok"), now);
}

fn binds(answer: Result<(), NotNow>) -> Binding {
    answer.unwrap_err().binds
}

const FLOOD: (u16, &str, &str) = (421, "4.7.28", "an unusual rate of mail originating from your IP address");

#[test]
fn google_is_paused_ten_minutes_then_probed_with_one_connection() {
    let start = Instant::now();
    let mut limits = limits("google", start);
    for _ in 0..100 {
        delivered(&mut limits, start);
    }
    assert!(limits.window_size(start) > 5);
    hear(&mut limits, "google", Stage::Body, FLOOD, start);
    let no = limits.may_open(0, start).unwrap_err();
    assert_eq!(no.wait, Some(10 * MINUTE));
    assert!(matches!(no.binds, Binding::Paused(why) if why.contains("unusual rate")));

    let later = start + 10 * MINUTE;
    assert_eq!(limits.may_open(0, later), Ok(()));
    assert_eq!(binds(limits.may_open(1, later)), Binding::Connections(1));
    hear(&mut limits, "google", Stage::Body, FLOOD, later);
    assert_eq!(limits.may_send(later + 9 * MINUTE).unwrap_err().wait, Some(MINUTE), "still flooded: again ten minutes");

    let again = later + 10 * MINUTE;
    assert_eq!(limits.may_send(again), Ok(()));
    delivered(&mut limits, again);
    assert_eq!(limits.window_size(again), 2, "connections come back one by one");
}

#[test]
fn a_block_holds_until_a_person_resumes() {
    let now = Instant::now();
    let mut limits = limits("outlook", now);
    hear(
        &mut limits,
        "outlook",
        Stage::From,
        (550, "5.7.1", "part of their network is on our block list (S3150)"),
        now,
    );
    let no = limits.may_open(0, now + 1000 * MINUTE).unwrap_err();
    assert!(matches!(no, NotNow { binds: Binding::Held(_), wait: None }));
    limits.resume();
    assert_eq!(limits.may_open(0, now + 1000 * MINUTE), Ok(()));
    assert_eq!(limits.window_size(now), 1);
}

#[test]
fn one_mailbox_in_trouble_changes_nothing() {
    let now = Instant::now();
    let mut limits = limits("google", now);
    let (size, pace) = (limits.window_size(now), limits.per_second());
    for _ in 0..200 {
        hear(&mut limits, "google", Stage::To, (450, "4.2.1", "The user is receiving mail too quickly"), now);
    }
    assert!(limits.window_size(now) >= size);
    assert_eq!((limits.per_second(), limits.may_open(0, now)), (pace, Ok(())));
}

#[test]
fn too_many_connections_leave_one_for_the_time_named() {
    let now = Instant::now();
    let mut limits = limits("outlook", now);
    for _ in 0..60 {
        delivered(&mut limits, now);
    }
    hear(&mut limits, "outlook", Stage::Greet, (421, "", "RP-003 exceeded the connection limit allowed"), now);
    assert_eq!(limits.window_size(now + 59 * MINUTE), 1);
    assert!(limits.window_size(now + 60 * MINUTE) > 1);
}

#[test]
fn many_refusals_in_a_minute_halve_the_pace_and_leave_one_connection() {
    let now = Instant::now();
    let mut limits = limits("x", now);
    let full = limits.per_second().unwrap();
    for n in 0..SHARE_LEAST {
        match n % 10 {
            0 => hear(&mut limits, "x", Stage::Body, (451, "4.3.0", "try later"), now),
            _ => delivered(&mut limits, now),
        }
    }
    hear(&mut limits, "x", Stage::Body, (451, "4.3.0", "try later"), now);
    assert_eq!(limits.per_second(), Some(full / 2.0), "more than 5 in 100");
    for _ in 0..=SHARE_LEAST / 2 {
        hear(&mut limits, "x", Stage::Body, (451, "4.3.0", "try later"), now);
        delivered(&mut limits, now);
    }
    assert_eq!(limits.window_size(now), 1, "more than 30 in 100");
    assert_eq!(limits.per_second(), Some(full / 2.0), "the same event");
}

#[test]
fn a_dead_site_rests_longer_each_time_and_a_success_forgives() {
    let mut now = Instant::now();
    let mut limits = limits("x", now);
    let mut rests = Vec::new();
    for _ in 0..6 {
        while limits.may_open(0, now).is_ok() {
            limits.heard(&judge(None, Stage::Connect, Err(&Fault::Closed)), "closed", now);
            now += Duration::from_secs(1);
        }
        let rest = limits.may_open(0, now).unwrap_err().wait.unwrap();
        rests.push((rest.as_secs_f64() / 60.0).round() as u64);
        now += rest;
    }
    assert_eq!(rests, [5, 10, 20, 40, 60, 60]);
    assert_eq!(limits.may_open(0, now), Ok(()));
    delivered(&mut limits, now);
    assert_eq!(limits.deaths, 0);
}

#[test]
fn sessions_end_before_the_host_ends_them() {
    let now = Instant::now();
    let mut limits = limits("x", now);
    assert_eq!(limits.session_max(now), 20);
    limits.closed_after(0, now);
    assert_eq!(limits.session_max(now), 20);
    limits.closed_after(7, now);
    assert_eq!(limits.session_max(now), 7);
    let silent = judge(None, Stage::From, Err(&Fault::Closed));
    let size = limits.window_size(now);
    limits.heard(&silent, "", now);
    assert!(limits.window_size(now) >= size, "a silent close between copies is no trouble");
    assert_eq!(limits.session_max(now + SESSION_TTL), 20);
}

#[test]
fn what_was_learned_survives_a_restart_and_binds_before_the_first_dial() {
    let (now, wall) = (Instant::now(), Timestamp::from_ms(1_800_000_000_000));
    let mut limits = limits("google", now);
    assert_eq!(limits.learned(now, wall), None);
    hear(&mut limits, "google", Stage::Body, FLOOD, now);
    limits.messages.slow(now);
    limits.closed_after(3, now);
    let learned = limits.learned(now + MINUTE, wall).unwrap();
    let bytes = learned.to_bytes(wall);
    assert!(bytes.len() <= 100);
    assert_eq!((Learned::from_bytes(&bytes), Learned::written(&bytes)), (Some(learned.clone()), Some(wall)));
    // as the versions before wrote it, which did not tell when an attempt failed last, nor one of them when it wrote
    let old = Learned { heard: None, ..learned.clone() };
    for (version, stamp, written) in [(2, &bytes[..0], None), (3, &bytes[1..9], Some(wall))] {
        let before = [&[version], stamp, &bytes[9..36], &bytes[44..]].concat();
        assert_eq!((Learned::from_bytes(&before), Learned::written(&before)), (Some(old.clone()), written));
    }

    let (reborn, after) = (now + 2 * MINUTE, wall + MINUTE);
    let mut limits = self::limits("google", reborn);
    limits.restore(&learned, reborn, after);
    assert_eq!(limits.may_open(0, reborn).unwrap_err().wait, Some(8 * MINUTE));
    assert_eq!((limits.per_second(), limits.session_max(reborn)), (Some(50.0), 3));
    for damaged in [&bytes[..10], &[1; 40][..], &[]] {
        assert_eq!(Learned::from_bytes(damaged), None);
    }
}

#[test]
fn a_changed_table_holds_at_once_and_keeps_what_was_learned() {
    let now = Instant::now();
    let mut limits = limits("x", now);
    limits.messages.slow(now);
    let mut shape = limits.shape().clone();
    (shape.connection_limit, shape.max_message_rate) = (1, Cap(Some(Rate::parse("200/s").unwrap())));
    limits.reshape(shape, now);
    assert_eq!((limits.window_size(now), limits.per_second()), (1, Some(50.0)));
}

#[test]
fn a_pause_that_names_our_domain_or_a_link_does_not_hold_the_site() {
    let now = Instant::now();
    let mut limits = limits("google", now);
    for scope in ["one of your URL domains", "your DKIM domain [example.com 35]"] {
        let text = format!("Gmail has detected an unusual rate of mail containing {scope}");
        hear(&mut limits, "google", Stage::Body, (421, "4.7.28", &text), now);
    }
    assert_eq!(limits.may_open(0, now), Ok(()));
    hear(&mut limits, "google", Stage::Body, FLOOD, now);
    assert!(limits.may_open(0, now).is_err(), "one that names the address does");
}

#[test]
fn a_site_begins_with_few_connections_and_earns_the_others() {
    let now = Instant::now();
    let mut limits = limits("google", now);
    let (start, most) = (limits.shape().connection_start, limits.shape().connection_limit);
    assert_eq!((limits.window_size(now), start < most), (start, true));
    for answers in 1..=usize::from(most).pow(2) {
        delivered(&mut limits, now);
        let grown = limits.window_size(now) - start;
        assert!(usize::from(grown) <= answers / usize::from(start) + 1, "{grown} more after {answers} answers");
    }
    assert_eq!(limits.window_size(now), most);
}

#[test]
fn rounds_that_failed_before_a_rest_count_after_it() {
    let (now, wall) = (Instant::now(), Timestamp::from_ms(1));
    let (mut learned, mut rounds) = (None, 0);
    // each round in a life of its own, as when nothing is due in between
    let paused = loop {
        let mut limits = limits("x", now);
        learned.iter().for_each(|learned| limits.restore(learned, now, wall));
        rounds += 1;
        limits.heard(&judge(None, Stage::Connect, Err(&Fault::Unreachable("refused".into()))), "refused", now);
        learned = limits.learned(now, wall);
        if let Some(rest) = limits.is_paused(now) {
            break rest;
        }
    };
    assert_eq!((rounds, paused), (3, 5 * MINUTE));
    assert_eq!(Learned::from_bytes(&learned.clone().unwrap().to_bytes(wall)), learned);
}

#[test]
fn a_site_has_failed_from_one_attempt_to_the_next_and_never_while_nobody_tried() {
    let (start, wall) = (Instant::now(), Timestamp::from_ms(1_800_000_000_000));
    let at = |minutes: u32| (start + minutes * MINUTE, wall + minutes * MINUTE);
    let span = |limits: &Limits| limits.streak().map(|streak| streak.span());
    let mut first = limits("google", start);
    for minutes in [0, 10, 30] {
        hear(&mut first, "google", Stage::Body, FLOOD, at(minutes).0);
    }
    assert_eq!(span(&first), Some(30 * MINUTE), "one came late, and while somebody was sending");
    let learned = first.learned(at(31).0, at(31).1).unwrap();

    let life_after = |minutes: u32| {
        let mut limits = limits("google", at(minutes).0);
        limits.restore(&learned, at(minutes).0, at(minutes).1);
        limits
    };
    for (minutes, goes_on) in [(45, true), (24 * 60, false)] {
        let mut limits = life_after(minutes);
        assert_eq!(span(&limits), Some(30 * MINUTE), "a pause that is over counts nothing by itself");
        hear(&mut limits, "google", Stage::Body, FLOOD, at(minutes).0);
        let counted = if goes_on { minutes * MINUTE } else { Duration::ZERO };
        assert_eq!(span(&limits), Some(counted));
        delivered(&mut limits, at(minutes + 10).0);
        assert_eq!(span(&limits), None);
    }
}

#[test]
fn no_more_connections_than_the_pace_can_keep_busy() {
    let now = Instant::now();
    let mut limits = limits("x", now);
    for _ in 0..100 {
        delivered(&mut limits, now);
    }
    assert_eq!(limits.window_size(now), 10);
    limits.took(Duration::from_millis(20));
    assert_eq!(limits.window_size(now), 3, "100/s at 20 ms each keep two busy");
    for _ in 0..60 {
        limits.took(Duration::from_secs(2));
    }
    assert_eq!(limits.window_size(now), 10, "slow hosts need them all");
}

#[test]
fn what_binds_is_shown_without_being_spent() {
    let now = Instant::now();
    let mut limits = limits("x", now);
    assert_eq!(limits.binds(0, now), None);
    assert!(matches!(limits.binds(2, now).unwrap().binds, Binding::Connections(2)));
    assert_eq!(limits.may_send(now), Ok(()));
    let no = limits.may_send(now).unwrap_err();
    assert_eq!((limits.binds(0, now), &no.binds), (Some(no.clone()), &Binding::MessageRate));
    assert_eq!(limits.binds(0, now + no.wait.unwrap()), None);
    limits.hold("by hand", now);
    assert_eq!(limits.binds(0, now).unwrap().binds, Binding::Held("by hand".into()));
}
