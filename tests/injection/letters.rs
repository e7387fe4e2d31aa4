//! What the contacts get: the same letter as everybody, whatever their values say.

use std::collections::BTreeSet;

use mail_parser::{Message, MessageParser};

use crate::host::{Host, Taken, Way};
use crate::people;
use crate::scene::Scene;

/// Sends a campaign to a host; gives what it took, by recipient.
fn sent(campaign: &str, way: Way) -> Vec<Taken> {
    let scene = Scene::set();
    scene.import();
    let host = Host::open(way);
    scene.ran(&["send", campaign, "--yes", "--via", &host.via()]);
    let books = host.books();
    check_commands(&books.commands, way);
    let mut taken = books.taken.clone();
    taken.sort_by(|one, other| one.to.cmp(&other.to));
    taken
}

/// No command but those of a session with one recipient a message, in which nobody is named whom we did not mean.
fn check_commands(commands: &[String], way: Way) {
    for line in commands {
        let known = ["EHLO ", "MAIL FROM:<b.", "RCPT TO:<", "DATA", "BDAT ", "RSET", "QUIT"];
        assert!(known.iter().any(|start| line.starts_with(start)), "{line}");
        assert!(!line.contains("evil.example"), "{line}");
        assert!(!line.starts_with(if way == Way::Data { "BDAT" } else { "DATA" }), "{line}");
    }
    let named = |verb: &str| commands.iter().filter(|line| line.starts_with(verb)).count();
    assert_eq!((named("MAIL"), named("RCPT")), (people::mailed().len() + 1, people::mailed().len() + 1));
}

/// The names of all header fields of a block, in order.
fn header_names(message: &[u8]) -> Vec<String> {
    let head = String::from_utf8_lossy(&message[..memchr::memmem::find(message, b"\r\n\r\n").unwrap()]).into_owned();
    let fields = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    fields.map(|line| line.split_once(':').unwrap_or_else(|| panic!("{line:?}")).0.to_owned()).collect()
}

/// Every tag of an HTML text with the names of its attributes, and every comment, in order: what does not depend on words.
fn skeleton(html: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        let (bone, behind) = match rest.strip_prefix("<!--") {
            Some(comment) if !["[if", "<!", ">"].iter().any(|start| comment.starts_with(start)) => {
                ("<!-- -->".to_owned(), comment.split_once("-->").expect("comments end").1)
            }
            _ => tag(&rest[1..]),
        };
        found.push(bone);
        rest = behind;
    }
    found
}

/// A tag's name and the names of its attributes, and what follows it.
fn tag(text: &str) -> (String, &str) {
    let mut bone = String::new();
    let mut quote = None;
    let mut is_value = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if is_value => quote = Some(c),
            (None, '>') => return (bone, &text[at + 1..]),
            (None, '=') => {
                is_value = true;
                bone.push('=');
            }
            (None, c) if c.is_whitespace() => {
                is_value = false;
                bone.push(' ');
            }
            (None, c) if !is_value => bone.push(c),
            (None, _) => {}
        }
    }
    panic!("a tag without end: {text:.100}");
}

fn targets(html: &str) -> Vec<String> {
    let found = regex::Regex::new("(?:href|src)=\"([^\"]*)\"").unwrap();
    found.captures_iter(html).map(|target| target[1].to_owned()).collect()
}

fn parsed(message: &[u8]) -> Message<'_> {
    MessageParser::new().parse(message).expect("a message")
}

fn check_letter(taken: &Taken, model: &[u8]) {
    let (to, message) = (&taken.to, taken.message());
    let odd = message.iter().position(|octet| !matches!(octet, b' '..=b'~' | b'\t' | b'\r' | b'\n'));
    assert_eq!(odd, None, "{to}: an octet that is neither printable nor a line end");
    let ends = memchr::memmem::find_iter(&message, b"\r\n").count();
    let halves = message.iter().filter(|octet| matches!(octet, b'\r' | b'\n')).count();
    assert_eq!(halves, 2 * ends, "{to}: a line ends in something else than CR LF");
    assert!(message.split(|octet| *octet == b'\n').all(|line| line.len() <= 999), "{to}: a line is too long");

    assert_eq!(header_names(&message), header_names(model), "{to}");
    let (letter, model) = (parsed(&message), parsed(model));
    let only = |address: Option<&mail_parser::Address<'_>>| {
        let all: Vec<String> = address
            .into_iter()
            .flat_map(|a| a.clone().into_list())
            .filter_map(|a| a.address.map(|a| a.into_owned()))
            .collect();
        assert_eq!(all.len(), 1, "{to}: {all:?}");
        all[0].clone()
    };
    assert_eq!(
        (only(letter.from()), only(letter.reply_to())),
        ("news@example.com".into(), "answers@example.com".into())
    );
    if !to.starts_with('"') {
        assert_eq!(&only(letter.to()), to);
    }
    assert_eq!((letter.bcc(), letter.cc(), letter.parts.len()), (None, None, model.parts.len()), "{to}");
    assert!(taken.from.ends_with("@bounce.example.com"), "{}", taken.from);

    let (html, model) = (letter.body_html(0).unwrap(), model.body_html(0).unwrap());
    assert_eq!(skeleton(&html), skeleton(&model), "{to}: {html}");
    let leads = |target: &String| {
        target.starts_with("https://shop.example/") || target.starts_with("https://mail.example.com/u/")
    };
    assert!(targets(&html).iter().all(leads), "{to}: {:?}", targets(&html));
    assert!(!html.contains("zqslot") || to.starts_with("value-"), "{to}");
}

fn check_letters(campaign: &str, way: Way) {
    let taken = sent(campaign, way);
    let model = taken.iter().find(|taken| taken.to == people::ADA).expect("Ada gets her copy").message();
    for one in &taken {
        check_letter(one, &model);
    }
    let got: BTreeSet<String> = taken.iter().map(|taken| taken.to.clone()).collect();
    assert_eq!(got, people::mailed().into_iter().collect(), "whoever has a link that leads nowhere gets nothing");
    assert_eq!(taken.len(), got.len(), "one copy each");
}

#[test]
fn no_contact_changes_the_shape_of_a_letter() {
    check_letters("hostile", Way::Data);
}

#[test]
fn nor_where_messages_go_out_in_chunks() {
    check_letters("chunks", Way::Chunks);
}

#[test]
fn values_are_shown_as_they_are() {
    let taken = sent("hostile", Way::Data);
    for (number, value) in people::VALUES.iter().enumerate() {
        let one = taken.iter().find(|taken| taken.to == people::with_value(number)).unwrap().message();
        let text = parsed(&one).body_text(0).unwrap().replace("\r\n", "\n");
        let kept: String = value.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect();
        assert!(text.contains(&kept), "{value:?} is not in {text:?}");
    }
}
