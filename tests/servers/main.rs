//! Tests against mail software that others wrote: Postfix, Exim, aiosmtpd, Dovecot, NSD, a browser, and verifiers of signatures that share no code
//! with ours. Everything runs on loopback, on free ports, in scratch folders. What is not installed is skipped, and the
//! run says so. `cargo test --test servers [FILTER]`.

mod browser;
mod mail;
mod pages;
mod peers;
mod scenes;
mod workspace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use peers::Need;

/// A test, and the programs it cannot do without.
struct Scene {
    name: &'static str,
    needs: &'static [Need],
    play: fn(),
}

const SCENES: &[Scene] = &[
    Scene {
        name: "a_campaign_reaches_smtp_sink_once_each_signed_and_well_formed",
        needs: &[Need::Postfix, Need::Dkimpy],
        play: scenes::smtp_sink,
    },
    Scene {
        name: "the_same_through_postfix_as_smarthost_with_starttls_and_auth",
        needs: &[Need::Root, Need::Postfix, Need::Dovecot, Need::Dkimpy, Need::MailDkim],
        play: scenes::smarthost,
    },
    Scene {
        name: "s_036_logins_by_scram_and_by_a_token_at_postfix",
        needs: &[Need::Root, Need::Postfix, Need::Dovecot],
        play: scenes::logins,
    },
    Scene {
        name: "s_037_a_refused_login_at_postfix_holds_the_route_and_bounces_nobody",
        needs: &[Need::Root, Need::Postfix, Need::Dovecot],
        play: scenes::refused_logins,
    },
    Scene {
        name: "a_fixed_route_through_postfix_with_a_login_while_the_other_relay_is_away",
        needs: &[Need::Root, Need::Postfix, Need::Dovecot, Need::Dkimpy],
        play: scenes::fixed_route,
    },
    Scene {
        name: "the_same_to_postfix_as_mx_found_by_a_real_name_server",
        needs: &[Need::Root, Need::Postfix, Need::Nsd, Need::Dkimpy],
        play: scenes::mx,
    },
    Scene {
        name: "s_034_dane_with_a_signed_zone_decides_whether_postfix_gets_anything",
        needs: &[Need::Root, Need::Postfix, Need::Nsd, Need::Ldns],
        play: scenes::dane,
    },
    Scene {
        name: "s_035_mta_sts_with_a_policy_host_decides_whether_postfix_gets_anything",
        needs: &[Need::Root, Need::Postfix, Need::Nsd, Need::Aiosmtpd, Need::Https],
        play: scenes::mta_sts,
    },
    Scene {
        name: "s_023_aiosmtpd_never_gets_more_mail_commands_than_it_announces",
        needs: &[Need::Aiosmtpd],
        play: scenes::limits,
    },
    Scene {
        name: "exim_as_mx_with_starttls_gets_each_once_and_reports_with_our_envelope_id",
        needs: &[Need::Root, Need::Postfix, Need::Exim, Need::Dkimpy],
        play: scenes::exim,
    },
    Scene {
        name: "smtp_sink_with_every_fault_loses_nothing_and_doubles_nothing",
        needs: &[Need::Postfix, Need::Dkimpy],
        play: scenes::sink_faults,
    },
    Scene {
        name: "reports_of_a_postfix_that_finds_out_late_bar_exactly_the_unknown_and_wishes_to_leave_come_home",
        needs: &[Need::Root, Need::Postfix],
        play: scenes::late_bounces,
    },
    Scene {
        name: "dovecot_mailboxes_are_read_once_and_ordinary_mail_is_left_alone",
        needs: &[Need::Root, Need::Postfix, Need::Dovecot],
        play: scenes::mailboxes,
    },
    Scene {
        name: "a_browser_without_scripts_leaves_chooses_and_joins_on_a_desk_and_on_a_phone",
        needs: &[Need::Postfix, Need::Chromium],
        play: pages::leave_choose_and_join,
    },
    Scene {
        name: "a_thousand_messages_at_dovecot_are_counted_once_however_often_we_are_killed",
        needs: &[Need::Root, Need::Postfix, Need::Dovecot, Need::Dkimpy],
        play: scenes::killed,
    },
    Scene {
        name: "dovecot_tells_of_new_mail_and_loses_none_by_new_numbers_or_without_move",
        needs: &[Need::Root, Need::Postfix, Need::Dovecot, Need::Dkimpy],
        play: scenes::imap,
    },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |scene: &&Scene| {
        let mut filters = words.iter().filter(|word| !word.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|filter| scene.name.contains(filter.as_str()))
    };
    let chosen: Vec<&Scene> = SCENES.iter().filter(wanted).collect();
    if words.iter().any(|word| word == "--list") {
        chosen.iter().for_each(|scene| println!("{}: test", scene.name));
        return ExitCode::SUCCESS;
    }
    let failed = chosen.iter().filter(|scene| !run(scene)).count();
    match failed {
        0 => ExitCode::SUCCESS,
        some => {
            println!("{some} of {} scenes failed", chosen.len());
            ExitCode::from(101)
        }
    }
}

/// Plays a scene; false when it failed.
fn run(scene: &Scene) -> bool {
    let missing: Vec<String> = scene.needs.iter().filter(|need| !need.is_met()).map(ToString::to_string).collect();
    if !missing.is_empty() {
        println!("scene {} ... skipped: needs {}", scene.name, missing.join(", "));
        return true;
    }
    let held = catch_unwind(AssertUnwindSafe(scene.play)).is_ok();
    println!("scene {} ... {}", scene.name, if held { "ok" } else { "FAILED" });
    held
}
