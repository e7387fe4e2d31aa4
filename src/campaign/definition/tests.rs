//! What campaign.toml may say, and where it is refused.

use super::*;

const GOOD: &str = "subject = \"Hi {{name}}\"\nfrom = \"Example News <news@example.com>\"\nlists = [\"news\"]\n";

fn load(text: &str) -> Result<Campaign, Error> {
    let workspace = tempfile::tempdir().unwrap();
    let folder = workspace.path().join("campaigns/welcome");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(FILE), text).unwrap();
    Campaign::load(workspace.path(), &CampaignName::parse("welcome").unwrap())
}

/// The message, and the text the error points at.
fn refused(text: &str) -> (String, String) {
    match load(text).unwrap_err() {
        Error::Place { message, place: Some(place), .. } => {
            (message, text[place.offset()..place.offset() + place.len()].to_owned())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_short_definition_is_enough() {
    let campaign = load(GOOD).unwrap();
    assert_eq!(campaign.lists().collect::<Vec<_>>(), ["news"]);
    assert_eq!((campaign.from.name.as_str(), campaign.in_doubt()), ("Example News", InDoubt::Resend));
    assert_eq!(mailbox("\"News, Ltd\" <a@example.com>").unwrap().name, "News, Ltd");
    assert_eq!(mailbox(" a@example.com ").unwrap().name, "");
}

#[test]
fn what_is_wrong_is_shown_at_its_place() {
    for (line, message, at) in [
        ("segment = \"country = DE\"", "a text in quotes or a number", "\"country = DE\""),
        ("exclude = \"opened(welcome)\"", "the name of a list or a campaign in quotes", "\"opened(welcome)\""),
        ("tracking = { reads = true }", "unknown field `reads`", "reads"),
        ("exclude = []", "invalid type: sequence, expected a string", "[]"),
        ("start_at = \"x\"", "`x` is not a time", "\"x\""),
        ("start_at = 2026-12-01T09:00:00", "`2026-12-01T09:00:00` is not a time", "2026-12-01T09:00:00"),
        ("windows = []", "`windows` is not available in this version", "windows"),
        ("deadline = 5", "`5` is not a time", "5"),
        (
            "start_at = 2026-12-01T09:00:00Z\ndeadline = \"2026-12-01 10:00+01:00\"",
            "the deadline lies before the start",
            "\"2026-12-01 10:00+01:00\"",
        ),
        ("rate = \"fast\"", "`fast` is not a rate", "\"fast\""),
        ("subjekt = \"x\"", "unknown field `subjekt`", "subjekt"),
        ("missing = \"ignore\"", "unknown variant `ignore`", "\"ignore\""),
        ("reply_to = \"nobody\"", "`nobody` is not a mail address", "\"nobody\""),
        ("preheader = \"{{#if name}}\"", "block is not closed", "\"{{#if name}}\""),
        ("headers = { Bcc = \"x\" }", "is set by mailshot", "Bcc"),
        ("headers = { \"X-A\\r\\nBcc\" = \"x\" }", "letters, digits and hyphens", "\"X-A\\r\\nBcc\""),
        ("headers = { In-Reply-To = \"a\", in-reply-to = \"b\" }", "is named twice", "In-Reply-To"),
        ("headers = { \"X-A\" = \"{{shout name}}\" }", "no helper `shout`", "\"{{shout name}}\""),
    ] {
        let (told, place) = refused(&format!("{GOOD}{line}\n"));
        assert!(told.contains(message), "{told}");
        assert_eq!(place, at, "{line}");
    }
    let (told, place) = refused(&GOOD.replace("news@example.com", "news.example.com"));
    assert!(told.contains("is not a mail address") && place.starts_with("\"Example News"), "{told} {place}");
    assert!(refused(&GOOD.replace("[\"news\"]", "[]")).0.contains("no list"));
    assert!(refused("subject = \"x\"\n").0.contains("missing field `from`"));
}

#[test]
fn a_campaign_that_is_not_there_names_those_that_are() {
    let workspace = tempfile::tempdir().unwrap();
    for name in ["b", "a"] {
        let folder = workspace.path().join("campaigns").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(FILE), GOOD).unwrap();
    }
    match Campaign::load(workspace.path(), &CampaignName::parse("c").unwrap()) {
        Err(Error::None { help, .. }) => assert_eq!(help, "there are: a, b"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_list_is_shown_where_it_is_named() {
    let campaign = load(GOOD).unwrap();
    match campaign.no_such_list("news", &["staff".into()]) {
        Error::Place { place: Some(place), help: Some(help), .. } => {
            assert_eq!(&GOOD[place.offset()..place.offset() + place.len()], "\"news\"");
            assert!(help.contains("staff"));
        }
        other => panic!("{other:?}"),
    }
}
