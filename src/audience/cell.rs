//! What a cell says: an address however it is written, a place on a list in the words of many services, a text as Excel
//! protects it. Pure.

use std::fmt;

use crate::base::{Address, AddressError, is_unseen};
use crate::store::{MembershipStatus, Reason};

/// Why a cell gives no address that mail is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAddress {
    /// It is empty.
    Empty,
    /// It holds more than one.
    Several(String),
    /// It is none.
    Wrong(AddressError),
    /// Its local part is quoted: a slip more often than meant.
    Quoted(String),
    /// It names a host by its IP address.
    Literal(String),
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoAddress::Empty => f.write_str("there is no address in this row"),
            NoAddress::Several(cell) => write!(f, "`{cell}` holds several addresses: give each a row of its own"),
            NoAddress::Wrong(why) => why.fmt(f),
            NoAddress::Quoted(cell) => {
                write!(f, "`{cell}` is quoted before the @: allow that with --allow-quoted if it is meant")
            }
            NoAddress::Literal(cell) => {
                write!(f, "`{cell}` names an IP address: allow that with --allow-literal if it is meant")
            }
        }
    }
}

/// Unusual addresses that are taken all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Local parts in quotes.
    pub quoted: bool,
    /// IP addresses in brackets.
    pub literal: bool,
}

/// The address in a cell, and the name before it where it is written `Name <address>`.
pub fn address(cell: &str, allowed: Allowed) -> Result<(Address, &str), NoAddress> {
    let text = trimmed(cell);
    if text.is_empty() {
        return Err(NoAddress::Empty);
    }
    let whole = text;
    let (name, text) = without_name(whole);
    let text = without_scheme(text);
    let address = Address::parse(text).map_err(|why| match is_several(text) {
        true => NoAddress::Several(text.to_owned()),
        false => NoAddress::Wrong(why),
    })?;
    match () {
        () if names_another(name, &address) => Err(NoAddress::Several(whole.to_owned())),
        () if text.starts_with('"') && !allowed.quoted => Err(NoAddress::Quoted(text.to_owned())),
        () if address.is_literal() && !allowed.literal => Err(NoAddress::Literal(text.to_owned())),
        () => Ok((address, name)),
    }
}

/// Whether a cell is an address and nothing else.
pub fn is_address(cell: &str) -> bool {
    cell.contains('@') && address(cell, Allowed { quoted: true, literal: true }).is_ok()
}

/// Without blanks and invisible characters around it.
pub fn trimmed(cell: &str) -> &str {
    cell.trim_matches(|c: char| c.is_whitespace() || is_unseen(c))
}

/// `Name <address>` in two; the name may be quoted.
fn without_name(text: &str) -> (&str, &str) {
    let Some((name, address)) = text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) else {
        return ("", text);
    };
    (trimmed(name).trim_matches('"'), trimmed(address))
}

/// `mailto:address?subject=…` down to the address.
fn without_scheme(text: &str) -> &str {
    let is_link = text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("mailto:"));
    if is_link { text[7..].split('?').next().unwrap_or_default() } else { text }
}

/// Whether what stands before an address holds another one: which of them is meant is not for us to say.
fn names_another(name: &str, address: &Address) -> bool {
    let words = name.split(|c: char| c.is_whitespace() || "<>,;\"'()".contains(c)).filter(|word| word.contains('@'));
    words.filter_map(|word| Address::parse(word).ok()).any(|other| other != *address)
}

fn is_several(text: &str) -> bool {
    text.matches('@').count() > 1 && text.contains([',', ';', ' ', '/', '|', '\n'])
}

/// A text without what Excel puts around it to keep it a text: `="01234"`.
pub fn text(cell: &str) -> &str {
    cell.strip_prefix("=\"").and_then(|rest| rest.strip_suffix('"')).filter(|text| !text.contains('"')).unwrap_or(cell)
}

/// What a column says about a contact's place on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A word for it.
    Word,
    /// Yes: must not be mailed.
    Blocked,
    /// Yes or a time: left.
    Left,
    /// Yes or a time: bounced.
    Bounced,
}

/// A contact's place on the list as an import states it; the least of what its columns say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Gets mail.
    #[default]
    Subscribed,
    /// Has not confirmed.
    Pending,
    /// Left.
    Unsubscribed,
    /// Must not be mailed by anybody, for this reason.
    Barred(Reason),
}

impl Standing {
    /// As the store keeps it.
    pub fn parts(self) -> (MembershipStatus, Option<Reason>) {
        match self {
            Standing::Subscribed => (MembershipStatus::Subscribed, None),
            Standing::Pending => (MembershipStatus::Pending, None),
            Standing::Unsubscribed => (MembershipStatus::Unsubscribed, None),
            Standing::Barred(reason) => (MembershipStatus::Unsubscribed, Some(reason)),
        }
    }
}

impl Sign {
    /// What a cell of this column says; `None` when that is not known.
    pub fn read(self, cell: &str) -> Option<Standing> {
        let word = key(cell);
        match self {
            Sign::Word => standing(&word),
            Sign::Blocked if is_no(&word) => Some(Standing::Subscribed),
            Sign::Blocked if is_yes(&word) => Some(Standing::Unsubscribed),
            Sign::Blocked => None,
            Sign::Left | Sign::Bounced if is_no(&word) => Some(Standing::Subscribed),
            Sign::Left => Some(Standing::Unsubscribed),
            Sign::Bounced => Some(Standing::Barred(Reason::Hard)),
        }
    }
}

/// Letters and digits alone, in lower case: how words and headers are compared.
pub fn key(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn is_yes(word: &str) -> bool {
    matches!(word, "yes" | "y" | "true" | "t" | "1" | "x" | "ja" | "oui" | "si" | "sí" | "sim" | "да" | "是")
}

fn is_no(word: &str) -> bool {
    matches!(
        word,
        "" | "no" | "n" | "false" | "f" | "0" | "nein" | "non" | "não" | "nao" | "нет" | "否" | "null" | "none"
    )
}

/// The words of services for a place on a list, as [`key`] has them.
fn standing(word: &str) -> Option<Standing> {
    Some(match word {
        "subscribed" | "subscribe" | "active" | "enabled" | "confirmed" | "optedin" | "optin" | "verified"
        | "mailable" | "singleoptin" | "doubleoptin" | "contactable" | "aktiv" | "angemeldet" | "abonniert"
        | "actif" | "abonné" | "activo" | "suscrito" | "attivo" | "iscritto" | "ativo" | "inscrito" | "actief"
        | "true" | "yes" | "1" => Standing::Subscribed,
        "pending"
        | "unconfirmed"
        | "notconfirmed"
        | "awaitingconfirmation"
        | "waiting"
        | "nonsubscribed"
        | "transactional"
        | "unbestätigt" => Standing::Pending,
        "unsubscribed" | "unsubscribe" | "optedout" | "optout" | "inactive" | "disabled" | "removed" | "deleted"
        | "archived" | "cancelled" | "canceled" | "notsubscribed" | "unmailable" | "abgemeldet" | "inaktiv"
        | "désabonné" | "désinscrit" | "desuscrito" | "disiscritto" | "uitgeschreven" | "false" | "no" | "0" => {
            Standing::Unsubscribed
        }
        "bounced" | "bounce" | "hardbounced" | "hardbounce" | "cleaned" | "unreachable" | "undeliverable"
        | "invalid" | "unzustellbar" => Standing::Barred(Reason::Hard),
        "complained" | "complaint" | "complainer" | "spam" | "markedasspam" | "spamcomplaint" | "junk" | "abuse" => {
            Standing::Barred(Reason::Complaint)
        }
        "blocklisted" | "blacklisted" | "blocked" | "banned" | "suppressed" | "globallysuppressed" | "donotmail"
        | "donotcontact" => Standing::Barred(Reason::Manual),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cell: &str, expected: Result<&str, &str>) {
        let found = address(cell, Allowed::default());
        let shown = found.as_ref().map(|(address, name)| match name.is_empty() {
            true => address.to_string(),
            false => format!("{name}: {address}"),
        });
        match expected {
            Ok(expected) => assert_eq!(shown.as_deref(), Ok(expected), "{cell:?}"),
            Err(part) => {
                assert!(found.as_ref().is_err_and(|why| why.to_string().contains(part)), "{cell:?}: {found:?}")
            }
        }
    }

    #[test]
    fn addresses_are_found_however_they_are_written() {
        check(" \tada@example.org\u{a0}\u{200b}", Ok("ada@example.org"));
        check("\u{61c}\u{2068}ada@example.org\u{2069}\u{200d}", Ok("ada@example.org"));
        check("Ada Lovelace <ada@example.org>", Ok("Ada Lovelace: ada@example.org"));
        check("\"Lovelace, Ada\" <ada@example.org>", Ok("Lovelace, Ada: ada@example.org"));
        check("<ada@example.org>", Ok("ada@example.org"));
        check("MAILTO:ada@example.org?subject=x", Ok("ada@example.org"));
        check("", Err("no address"));
        check(" ", Err("no address"));
        check("a@example.org; b@example.org", Err("several"));
        check("a@example.org,b@example.org", Err("several"));
        check("ada", Err("not a mail address"));
        check("a@b@example.org", Err("before the @"));
        check("ada@example.org\r\nBcc: eve@example.org", Err("several"));
        check("ada@example.org\r\nRCPT TO:<eve@example.org>", Err("several"));
        check("<ada@example.org>,<eve@example.org>", Err("several"));
        check("Ada (eve@example.org) <ada@example.org>", Err("several"));
        check("ada@example.org <ada@example.org>", Ok("ada@example.org: ada@example.org"));
        check("Ada @ home <ada@example.org>", Ok("Ada @ home: ada@example.org"));
        check("\"ada\"@example.org", Err("--allow-quoted"));
        check("ada@[192.0.2.1]", Err("--allow-literal"));
    }

    #[test]
    fn unusual_addresses_are_taken_when_allowed() {
        let allowed = Allowed { quoted: true, literal: true };
        for cell in ["\"a b\"@example.org", "ada@[192.0.2.1]"] {
            assert!(address(cell, allowed).is_ok(), "{cell}");
        }
    }

    #[test]
    fn places_on_a_list_are_known_in_the_words_of_services() {
        let cases = [
            (Sign::Word, "Active", Some(Standing::Subscribed)),
            (Sign::Word, "non-subscribed", Some(Standing::Pending)),
            (Sign::Word, "Unsubscribed", Some(Standing::Unsubscribed)),
            (Sign::Word, "Hard bounced", Some(Standing::Barred(Reason::Hard))),
            (Sign::Word, "blocklisted", Some(Standing::Barred(Reason::Manual))),
            (Sign::Word, "", None),
            (Sign::Word, "gold", None),
            (Sign::Blocked, "Yes", Some(Standing::Unsubscribed)),
            (Sign::Blocked, "", Some(Standing::Subscribed)),
            (Sign::Blocked, "perhaps", None),
            (Sign::Left, "2020-05-05 05:05:05", Some(Standing::Unsubscribed)),
            (Sign::Left, "", Some(Standing::Subscribed)),
            (Sign::Bounced, "2020-05-05", Some(Standing::Barred(Reason::Hard))),
        ];
        for (sign, cell, expected) in cases {
            assert_eq!(sign.read(cell), expected, "{sign:?} {cell:?}");
        }
        assert!(
            Standing::Subscribed < Standing::Unsubscribed && Standing::Unsubscribed < Standing::Barred(Reason::Hard)
        );
    }

    #[test]
    fn excel_texts_lose_their_wrapping_alone() {
        for (cell, expected) in
            [("=\"01234\"", "01234"), ("=1+1", "=1+1"), ("=\"a\"&\"b\"", "=\"a\"&\"b\""), ("01", "01")]
        {
            assert_eq!(text(cell), expected);
        }
    }
}
