//! What a column means, found from its header and its first cells.

use super::{Column, Role, Unmapped};
use crate::audience::cell::{self, Sign, key};

/// Headers of a column of addresses, as [`key`] has them.
const EMAIL: &[&str] = &[
    "email",
    "emailaddress",
    "mail",
    "mailaddress",
    "email1value",
    "email1",
    "email1address",
    "primaryemail",
    "subscriberemail",
    "contactemail",
    "useremail",
    "workemail",
    "personalemail",
    "emailid",
    "emailadresse",
    "mailadresse",
    "emailadres",
    "emailanschrift",
    "adressemail",
    "adresseemail",
    "adresseelectronique",
    "adressedemessagerie",
    "adressedecourriel",
    "courriel",
    "mél",
    "correo",
    "correoelectronico",
    "correoelectrónico",
    "direccióndecorreoelectrónico",
    "indirizzoemail",
    "indirizzodipostaelettronica",
    "postaelettronica",
    "endereçodeemail",
    "enderecodeemail",
    "epost",
    "epostadress",
    "epostadresse",
    "sähköposti",
    "adresemail",
    "eposta",
    "epostaadresi",
    "почта",
    "эпочта",
    "имейл",
    "электроннаяпочта",
    "адресэлектроннойпочты",
    "邮箱",
    "电子邮箱",
    "电子邮件",
    "電子郵件",
    "メール",
    "メールアドレス",
    "이메일",
];
/// Headers of a column of whole names.
const NAME: &[&str] = &[
    "name",
    "fullname",
    "displayname",
    "contactname",
    "subscribername",
    "customername",
    "nomcomplet",
    "vollständigername",
    "vollername",
    "nombrecompleto",
    "nombreyapellidos",
    "nomecompleto",
    "氏名",
    "姓名",
    "фио",
];
/// Headers of a column of given names.
const FIRST: &[&str] = &[
    "firstname",
    "first",
    "givenname",
    "forename",
    "fname",
    "vorname",
    "prénom",
    "prenom",
    "nombre",
    "nome",
    "voornaam",
    "förnamn",
    "fornavn",
    "etunimi",
    "imię",
    "имя",
    "名",
    "名字",
];
/// Headers of a column of family names.
const LAST: &[&str] = &[
    "lastname",
    "last",
    "surname",
    "familyname",
    "lname",
    "nachname",
    "familienname",
    "nom",
    "nomdefamille",
    "apellido",
    "apellidos",
    "cognome",
    "sobrenome",
    "achternaam",
    "efternamn",
    "etternavn",
    "sukunimi",
    "nazwisko",
    "фамилия",
    "姓",
];
/// Headers of a column with a word for the place on a list.
const STATUS: &[&str] = &[
    "status",
    "emailstatus",
    "subscriptionstatus",
    "subscriberstatus",
    "subscribed",
    "memberstatus",
    "contactstatus",
    "state",
    "statut",
    "estado",
    "stato",
    "emailmarketingstatus",
    "marketingstatus",
    "optinstatus",
];
/// Headers of a column that says yes for whom must not be mailed.
const BLOCKED: &[&str] = &[
    "emailblacklisted",
    "blacklisted",
    "emailblocklisted",
    "blocklisted",
    "unsubscribed",
    "optedout",
    "optout",
    "emailoptout",
    "hasoptedoutofemail",
    "donotemail",
    "donotmail",
    "unsubscribedfromallemail",
];
/// Headers of a column that is filled for who left.
const LEFT: &[&str] = &[
    "unsubtime",
    "unsubscribetime",
    "unsubscribedat",
    "unsubscribedon",
    "dateunsubscribed",
    "unsubscribedate",
    "optouttime",
    "optouttimestamp",
];
/// Headers of a column that is filled for who bounced.
const BOUNCED: &[&str] = &["cleantime", "bouncedat", "datebounced", "bouncetime", "hardbouncedat"];
/// Headers of a column of JSON objects.
const KEYS: &[&str] = &["attributes", "attribs", "data", "customfields", "metadata", "properties"];

/// Finds meanings for the columns that nobody has given one.
pub(super) struct Finder<'a> {
    pub(super) columns: Vec<Column>,
    /// Those without a meaning yet.
    pub(super) is_free: Vec<bool>,
    /// The first rows of the file.
    pub(super) sample: &'a [Vec<String>],
}

impl Finder<'_> {
    /// The columns, each with its meaning; refused when none holds addresses.
    pub(super) fn find(mut self, has_header: bool) -> Result<Vec<Column>, Unmapped> {
        self.email(has_header)?;
        self.names();
        self.standings();
        self.keys();
        Ok(self.columns)
    }

    /// The first free column whose header is one of `words`, in the order of the words.
    fn called(&self, words: &[&str]) -> Option<usize> {
        let keys: Vec<String> = self.columns.iter().map(|column| key(&column.name)).collect();
        words.iter().find_map(|word| (0..keys.len()).find(|at| self.is_free[*at] && keys[*at] == *word))
    }

    fn has(&self, role: Role) -> bool {
        self.columns.iter().any(|column| column.role == Some(role))
    }

    fn give(&mut self, at: usize, role: Role) {
        self.columns[at].role = Some(role);
        self.is_free[at] = false;
    }

    /// The filled cells of a column.
    fn cells(&self, at: usize) -> impl Iterator<Item = &str> {
        self.sample
            .iter()
            .filter_map(move |row| row.get(at))
            .map(|cell| cell::trimmed(cell))
            .filter(|cell| !cell.is_empty())
    }

    /// How many of the filled cells are addresses, of how many.
    fn addresses(&self, at: usize) -> (usize, usize) {
        self.cells(at).fold((0, 0), |(good, all), cell| (good + usize::from(cell::is_address(cell)), all + 1))
    }

    /// The column called so, unless its cells say otherwise; else the one whose cells are mostly addresses.
    fn email(&mut self, has_header: bool) -> Result<(), Unmapped> {
        if self.has(Role::Email) {
            return Ok(());
        }
        let looks = |at: &usize| {
            let (good, all) = self.addresses(*at);
            self.is_free[*at] && good * 2 >= all && good > 0
        };
        let filled = (0..self.columns.len()).find(looks);
        let called =
            self.called(EMAIL).filter(|at| filled.is_none() || self.addresses(*at).0 > 0 || self.addresses(*at).1 == 0);
        let Some(at) = called.or(filled) else {
            return Err(Unmapped::NoEmail(self.columns.iter().map(|column| column.name.clone()).collect()));
        };
        if called.is_none() && has_header {
            self.columns[at].note = Some("found by its cells".into());
        }
        self.columns[at].field = None;
        self.give(at, Role::Email);
        Ok(())
    }

    fn names(&mut self) {
        if self.has(Role::Name) {
            return;
        }
        let first = self.called(FIRST);
        let mut last = self.called(LAST);
        let mut whole = self.called(NAME);
        // `Vorname, Name`: beside a given name, and not containing it, a `name` is the family's
        if let (Some(first), Some(at), None) = (first, whole, last)
            && self.sample.iter().any(|row| {
                row.get(first)
                    .zip(row.get(at))
                    .is_some_and(|(first, name)| !first.is_empty() && !name.contains(first.as_str()))
            })
        {
            (last, whole) = (Some(at), None);
        }
        if let Some(at) = whole {
            self.columns[at].field = None;
            return self.give(at, Role::Name);
        }
        for (at, role) in [(first, Role::First), (last, Role::Last)] {
            if let Some(at) = at.filter(|_| !self.has(role)) {
                self.give(at, role);
            }
        }
    }

    /// A column of words counts only when some of them are known: many a `status` has nothing to do with lists.
    fn standings(&mut self) {
        let says = |at: &usize| self.cells(*at).any(|cell| Sign::Word.read(cell).is_some());
        if let Some(at) = self.called(STATUS).filter(says)
            && !self.has(Role::Standing(Sign::Word))
        {
            self.give(at, Role::Standing(Sign::Word));
        }
        for (words, sign) in [(BLOCKED, Sign::Blocked), (LEFT, Sign::Left), (BOUNCED, Sign::Bounced)] {
            while let Some(at) = self.called(words) {
                self.give(at, Role::Standing(sign));
            }
        }
    }

    fn keys(&mut self) {
        let is_json = |at: &usize| self.cells(*at).next().is_some_and(|cell| cell.starts_with('{'));
        if let Some(at) = self.called(KEYS).filter(is_json) {
            self.columns[at].field = None;
            self.give(at, Role::Keys);
        }
    }
}
