//! What is refused, what is only warned of, and what passes.

use super::*;
use crate::compose::Asset;
use crate::compose::edition::tests::sample as edition;

/// The remarks about one subject that are not good, as `GRADE found`.
fn about(edition: &Edition, subject: &str) -> Vec<String> {
    let template = Template::compile(edition).unwrap();
    let remarks = proof(edition, &template).remarks;
    let bad = remarks.into_iter().filter(|remark| remark.subject == subject && remark.grade != Grade::Ok);
    bad.map(|remark| format!("{:?} {}", remark.grade, remark.found)).collect()
}

fn check(change: impl FnOnce(&mut Edition), subject: &str, expected: &[&str]) {
    let mut edition = edition();
    change(&mut edition);
    let found = about(&edition, subject);
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(one, part)| one.contains(part));
    assert!(fits, "{subject}: {found:?}, not {expected:?}");
}

fn html(text: &str) -> impl FnOnce(&mut Edition) + use<> {
    let footer = "<p>{{postal_address}} <a href=\"{{unsubscribe_url}}\">Unsubscribe</a></p>";
    let whole = format!("{text}{footer}");
    move |edition| edition.html = whole
}

fn link(target: &str) -> impl FnOnce(&mut Edition) + use<> {
    let whole = format!("<a href=\"{target}\">here</a>");
    move |edition| {
        html(&whole)(edition);
        edition.from.address = "news@mailshot.dev".into();
    }
}

#[test]
fn a_good_letter_passes_with_a_word_on_every_subject() {
    let edition = edition();
    let proof = proof(&edition, &Template::compile(&edition).unwrap());
    assert!(proof.remarks.iter().all(|remark| remark.grade == Grade::Ok), "{proof:?}");
    assert!(!proof.is_refused() && proof.remarks.len() >= 11);
}

/// S-053.
#[test]
fn a_large_html_part_is_warned_of_and_then_refused() {
    let filled = |bytes: usize| html(&"x".repeat(bytes));
    check(filled(89 * 1024), "size", &[]);
    check(filled(91 * 1024), "size", &["Warn the HTML part has 92 KB"]);
    check(filled(103 * 1024), "size", &["Fail the HTML part has 104 KB"]);
    let attach = |bytes: usize| {
        move |edition: &mut Edition| {
            let asset =
                Asset { name: "a".into(), media_type: "a/b".into(), content_id: None, bytes: vec![0; bytes << 20] };
            edition.attachments.push(asset);
        }
    };
    check(attach(3), "size", &["Warn a whole message has about 5 MB"]);
    check(attach(20), "size", &["Fail a whole message"]);
}

/// S-053.
#[test]
fn a_letter_without_text_part_or_footer_is_refused() {
    check(|edition| edition.text = " \n".into(), "text_part", &["Fail"]);
    check(|edition| edition.text = "{{postal_address}}".into(), "unsubscribe", &["Fail the text part"]);
    check(|edition| edition.text = "{{unsubscribe_url}}".into(), "postal_address", &["Fail the text part"]);
    check(|edition| edition.html = "<p>Hi</p>".into(), "unsubscribe", &["Fail the HTML part"]);
    check(|edition| edition.html = "<p>Hi</p>".into(), "postal_address", &["Fail the HTML part"]);
    let hidden = "<div style=\"display: none\">{{postal_address}} <a href=\"{{unsubscribe_url}}\">x</a></div>";
    check(|edition| edition.html = hidden.into(), "postal_address", &["Fail the HTML part"]);
    check(|edition| edition.html = hidden.into(), "unsubscribe", &["Fail the HTML part"]);
    check(|edition| edition.html = "<a href=\"{{unsubscribe_url}}\"> </a>".into(), "unsubscribe", &["Fail"]);
}

#[test]
fn the_postal_address_is_there_and_one_of_our_own() {
    check(|edition| edition.postal_address.clear(), "postal_address", &["Fail there is none"]);
    let sample = |edition: &mut Edition| edition.postal_address = SAMPLE_POSTAL_ADDRESS.into();
    check(sample, "postal_address", &[]);
    let real = |edition: &mut Edition| {
        sample(edition);
        edition.from.address = "news@mailshot.dev".into();
    };
    check(real, "postal_address", &["Fail it is still the sample"]);
    check(|edition| edition.postal_address = "Müller & Söhne <KG>,\nTal 1".into(), "postal_address", &[]);
}

#[test]
fn the_sender_is_somebody_and_never_at_a_free_mail_domain() {
    for (address, bad) in [
        ("a@gmail.com", true),
        ("a@yahoo.co.uk", true),
        ("a@gmx.ch", true),
        ("a@news.yahoo.example.com", false),
        ("a@gmail.example", false),
    ] {
        let expected: &[&str] = if bad { &["Fail From is at"] } else { &[] };
        check(|edition| edition.from.address = address.into(), "from", expected);
    }
    let named = |name: &'static str| move |edition: &mut Edition| edition.from.name = name.into();
    check(named("News for {{name}}"), "from", &["Warn the sender's name contains the recipient's `name`"]);
    check(named("News of {{list}}"), "from", &[]);
    check(named(""), "from", &["Warn From has no name"]);
    check(|edition| edition.from.address = "no-reply@example.com".into(), "answers", &["Warn"]);
    check(|edition| edition.reply_to = Some("desk@example.com".into()), "answers", &[]);
}

#[test]
fn a_subject_does_not_fake_a_conversation() {
    let subject = |text: &'static str| move |edition: &mut Edition| edition.subject = text.into();
    check(subject("RE: our talk"), "subject", &["Fail the subject begins with `RE:`"]);
    check(subject("Fwd: {{name}}"), "subject", &["Fail"]);
    check(subject("Reading list"), "subject", &[]);
    check(subject("{{#if nobody}}x{{/if}} "), "subject", &[]);
    check(|edition| edition.subject = "x".repeat(130), "subject", &["Warn the subject has 130"]);
}

#[test]
fn links_lead_to_real_pages() {
    for (target, expected) in [
        ("https://mailshot.dev/a?b=c", None),
        ("mailto:a@mailshot.dev", None),
        ("#top", None),
        ("#", Some("Fail the link on \"here\" leads nowhere")),
        ("", Some("Fail the link on \"here\" leads nowhere")),
        ("www.mailshot.dev", Some("Fail the link www.mailshot.dev is no address")),
        ("/page", Some("Fail the link /page is no address")),
        ("javascript:alert(1)", Some("Fail the link javascript:alert(1) is no address")),
        ("https://mailshot.dev/a b", Some("Fail")),
        ("https://www.example.com/", Some("Fail the link https://www.example.com/ is only a stand-in")),
        ("https://yourdomain.com/x", Some("stand-in")),
        ("http://localhost:8080/x", Some("stand-in")),
        ("https://intranet/x", Some("Fail the link https://intranet/x names no host")),
        ("https://user@mailshot.dev/x", Some("names no host")),
        ("https:///x", Some("Fail")),
        ("http://mailshot.dev/", Some("Warn the link http://mailshot.dev/ is not encrypted")),
        ("https://192.0.2.1/", Some("Warn")),
        ("https://mailshot.dev:8443/", Some("Warn")),
    ] {
        check(link(target), "links", expected.as_slice());
    }
    check(html("<a href=\"https://www.example.com/\">x</a>"), "links", &[]);
    check(
        html("<a href=\"https://a.example.com/\">https://b.example.com/x</a>"),
        "links",
        &["Warn a link reads b.example.com and leads to a.example.com"],
    );
    check(link("{{site}}"), "links", &[]);
}

#[test]
fn unsubscribe_links_lead_home() {
    let real = |base: &'static str| {
        move |edition: &mut Edition| {
            edition.from.address = "news@mailshot.dev".into();
            edition.base_url = base.into();
        }
    };
    check(real("https://mail.example.com"), "one_click", &["Fail"]);
    check(real("http://localhost:8080"), "one_click", &["Fail"]);
    check(real("http://mail.mailshot.dev"), "one_click", &["Warn"]);
    check(real("https://mail.mailshot.dev"), "one_click", &[]);
    check(|edition| edition.base_url = "http://127.0.0.1:9".into(), "one_click", &["Warn"]);
}

#[test]
fn what_filters_take_for_an_attack_is_refused() {
    check(html("<script>x</script><form></form>"), "elements", &["Fail the HTML part has <script>, <form>"]);
    check(html("<p onclick=\"x()\">y</p>"), "elements", &["Fail the HTML part has a script in `onclick`"]);
    check(html("<p>Lorem ipsum dolor</p>"), "elements", &["Warn the HTML part still says `lorem ipsum`"]);
    check(html("<p>caf\u{fffd}</p>"), "elements", &["Warn"]);
}

#[test]
fn pictures_are_there_and_have_words() {
    check(html("<img src=\"https://a.example/x.png\" alt=\"\">"), "pictures", &[]);
    check(html("<img src=\"cid:x.png\" alt=\"\">"), "pictures", &["Fail there is no picture for cid:x.png"]);
    check(html("<img src=\"x.png\" alt=\"\">"), "pictures", &["Fail the picture `x.png` is on no host"]);
    check(html("<img src=\"data:image/png;base64,AA\" alt=\"\">"), "pictures", &["Warn a picture stands"]);
    check(html("<img src=\"https://a.example/x.png\">"), "pictures", &["Warn 1 of 1 pictures"]);
}

#[test]
fn a_template_that_fails_for_a_sample_is_refused() {
    check(html("{{#with city}}{{nothing}}{{/with}}"), "template", &["Fail"]);
}
