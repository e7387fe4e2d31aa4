//! Addresses: what may stand in RCPT TO, and what it becomes.

use std::path::PathBuf;

use super::*;

fn check(text: &str, expected: Option<&str>) {
    let parsed = Address::parse(text).ok().map(|address| address.to_string());
    assert_eq!(parsed.as_deref(), expected, "{text:?}");
}

#[test]
fn addresses_become_canonical() {
    let cases = [
        ("Ada.Lovelace+news@Example.COM", "Ada.Lovelace+news@example.com"),
        ("!#$%&'*+-/=?^_`{|}~@example.org", "!#$%&'*+-/=?^_`{|}~@example.org"),
        ("user@bücher.example", "user@xn--bcher-kva.example"),
        ("user@XN--BCHER-KVA.example", "user@xn--bcher-kva.example"),
        ("s\u{323}\u{307}@example.org", "ṩ@example.org"),
        ("δοκιμή@παράδειγμα.δοκιμή", "δοκιμή@xn--hxajbheg2az3al.xn--jxalpdlp"),
        ("\"ada\"@example.org", "ada@example.org"),
        ("\"ada\\ \\l\"@example.org", "\"ada l\"@example.org"),
        ("\"a@b\"@example.org", "\"a@b\"@example.org"),
        ("\"\"@example.org", "\"\"@example.org"),
        ("\"\\\\\\\"\"@example.org", "\"\\\\\\\"\"@example.org"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@[ipv6:2001:DB8:0:0::1]", "a@[IPv6:2001:db8::1]"),
        ("a@io", "a@io"),
        ("a@example.123", "a@example.123"),
    ];
    for (text, expected) in cases {
        check(text, Some(expected));
        check(expected, Some(expected));
    }
}

#[test]
fn what_no_host_could_take_is_refused() {
    let long_local = format!("{}@example.org", "a".repeat(65));
    let long_label = format!("a@{}.org", "a".repeat(64));
    let long_domain = format!("a@{}org", "abcdefg.".repeat(32));
    let endless = format!("{}@example.org", "é".repeat(400_000));
    let cases = [
        "",
        "@",
        "ada",
        "ada@",
        "@example.org",
        "a@b@example.org",
        ".a@example.org",
        "a.@example.org",
        "a..b@example.org",
        "a b@example.org",
        " a@example.org",
        "a@example.org\n",
        "a\0@example.org",
        "a\u{85}@example.org",
        "a\u{9b}31m@example.org",
        "\"a\u{9b}31m\"@example.org",
        "\"a\r\nRCPT TO:<b@example.org>\"@example.org",
        "a\u{202e}@example.org",
        "a\u{a0}@example.org",
        "\u{37e}@example.org",
        "<a@example.org>",
        "<\u{338}a@example.org",
        "\u{301}a@example.org",
        "a(comment)@example.org",
        "a@example.org.",
        "a@example．org．",
        "a@example..org",
        "a@-example.org",
        "a@example-.org",
        "a@exam_ple.org",
        "a@yy--zz.org",
        "a@xn--0.org",
        "a@localhost",
        "a@release-2",
        "\"a@example.org",
        "\"a\"b@example.org",
        "\"a\".b@example.org",
        "\"a\rb\"@example.org",
        "\"\\é\"@example.org",
        "a@[192.0.2]",
        "a@[192.0.2.256]",
        "a@[2001:db8::1]",
        "a@[IPv6:1:2:3:4:5:6::8]",
        "a@[IPv6:1::2::3]",
        "a@[tag:text]",
        "a@[192.0.2.1",
        &long_local,
        &long_label,
        &long_domain,
        &endless,
    ];
    for text in cases {
        check(text, None);
    }
    assert!(Address::parse(&endless).unwrap_err().to_string().len() < 300, "a complaint fits on a screen");
}

#[test]
fn unusual_addresses_can_be_told_apart() {
    let parse = |text| Address::parse(text).unwrap();
    assert!(parse("\"a b\"@example.org").is_quoted() && !parse("\"ab\"@example.org").is_quoted());
    assert!(parse("a@[192.0.2.1]").is_literal() && !parse("a@example.org").is_literal());
    assert_eq!(parse("a@[192.0.2.1]").domain().literal(), Some("192.0.2.1".parse().unwrap()));
    assert_eq!(parse("a@[IPv6:2001:db8::1]").domain().literal(), Some("2001:db8::1".parse().unwrap()));
    assert_eq!(parse("a@example.org").domain().literal(), None);
    assert!(parse("é@example.org").needs_smtputf8() && !parse("e@é.example").needs_smtputf8());
}

#[test]
fn a_domain_may_end_in_a_dot_and_be_this_host() {
    for (text, expected) in
        [("Example.ORG.", "example.org"), ("localhost", "localhost"), ("bücher.example", "xn--bcher-kva.example")]
    {
        assert_eq!(Domain::parse(text).unwrap().as_str(), expected);
    }
    for text in ["", ".", "a..", "[192.0.2.1", "a b"] {
        assert!(Domain::parse(text).is_err(), "{text:?}");
    }
}

/// The corpus lies beside the project where it is developed; elsewhere this test says that it is skipped.
#[test]
fn the_corpus_of_addresses_agrees() {
    let folder = std::env::var_os("MAILSHOT_CORPUS").map_or_else(|| PathBuf::from("../shared/corpus"), PathBuf::from);
    let file = folder.join("addresses/addresses.tsv");
    let Ok(table) = std::fs::read_to_string(&file) else {
        println!("skipped: there is no {}", file.display());
        return;
    };
    let mut wrong = Vec::new();
    let mut scored = 0;
    for row in table.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>()) {
        // a lone surrogate is no text at all
        let Ok(text) = serde_json::from_str::<String>(row[1]) else { continue };
        let (ok, parsed) = (row[3], Address::parse(&text));
        // judged otherwise by other rows, and by RFC 5321: names and comments around an address, underscores in domains
        let is_disputed = ok == "yes" && (text.contains(['(', '<']) || text.ends_with("@under_scope"));
        if row[8] != "yes" || ok.is_empty() || is_disputed {
            continue;
        }
        scored += 1;
        if parsed.is_ok() != (ok == "yes") {
            wrong.push(format!("{} {text:?} should be {ok}: {parsed:?}", row[0]));
        }
    }
    println!("{} of {scored} agree", scored - wrong.len());
    assert!(wrong.is_empty(), "{} of {scored}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_somebody_registered_ends_below_a_public_suffix() {
    let cases = [
        ("example.com", Some("example.com")),
        ("mx1.mail.example.co.uk", Some("example.co.uk")),
        ("blog.ada.github.io", Some("ada.github.io")),
        ("co.uk", None),
        ("com", None),
    ];
    for (name, expected) in cases {
        assert_eq!(Domain::parse(name).unwrap().registrable(), expected, "{name}");
    }
}
