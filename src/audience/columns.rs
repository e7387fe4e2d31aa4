//! What the columns of a file mean: which holds the address, which the name, what becomes of the others. Found from their
//! headers and first rows, laid over by what a person says, and shown before anything is written.

mod finder;

use serde::Serialize;
use serde_json::{Map, Value};

use super::cell::{self, Sign, Standing, key};
use super::layout::Layout;
use super::table::Cells;
use finder::Finder;

/// Longest name of a column, in characters; longer headers are cut.
const NAME_MAX: usize = 100;

/// What a column is, beside a field of its own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Email,
    Name,
    First,
    Last,
    Keys,
    Standing(Sign),
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    role: Option<Role>,
    /// The field it becomes; `None` for none.
    field: Option<String>,
    /// `"field":`, as JSON has it.
    json: String,
    /// What was found out about it that a person may want to know.
    note: Option<String>,
}

/// A column as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its name; that of its header, made unique.
    pub column: String,
    /// What becomes of it.
    pub becomes: String,
    /// What else is to be said about it.
    pub note: Option<String>,
}

/// What a person says about a column, with `--map COLUMN=FIELD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The column's header or number, from 1.
    pub column: String,
    /// `email`, `name`, `@first`, `@last`, `@status`, `@json`, `-`, or the name of the field it becomes.
    pub field: String,
}

impl Mapping {
    /// Parses `COLUMN=FIELD`.
    pub fn parse(text: &str) -> Option<Mapping> {
        let (column, field) = text.rsplit_once('=')?;
        let (column, field) = (column.trim(), field.trim());
        (!column.is_empty() && !field.is_empty()).then(|| Mapping { column: column.into(), field: field.into() })
    }
}

/// Why the columns make no contacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmapped {
    /// No column holds addresses.
    NoEmail(Vec<String>),
    /// A mapping names a column that is not there.
    NoColumn(String, Vec<String>),
    /// A mapping gives a column a part that does not exist.
    NoPart(String),
    /// Two columns are to be the same thing.
    Twice(String),
}

/// The columns of a file, each with its meaning.
#[derive(Debug, Clone)]
pub struct Columns {
    columns: Vec<Column>,
    email: usize,
}

/// What a row says, beside its address.
#[derive(Debug, Default)]
pub struct Said {
    /// The name; empty when there is none.
    pub name: String,
    /// The fields: the text of a JSON object.
    pub fields: String,
    /// The place on the list.
    pub standing: Standing,
}

/// Why a row's cells cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsaid {
    /// A word for the place on the list that is not known: column, word.
    Standing(String, String),
    /// A cell that should be a JSON object and is none: column.
    Keys(String),
    /// More cells than columns: cells, columns.
    Cells(usize, usize),
}

impl Columns {
    /// Finds the meaning of every column of a file, `mappings` first.
    pub fn find(layout: &Layout, mappings: &[Mapping]) -> Result<Columns, Unmapped> {
        let mut columns = named(layout);
        let mut is_free = vec![true; columns.len()];
        for mapping in mappings {
            let at = find_column(&columns, mapping)?;
            columns[at].map(&mapping.field)?;
            is_free[at] = false;
        }
        let mut columns = Finder { columns, is_free, sample: &layout.sample }.find(layout.header.is_some())?;
        for column in &mut columns {
            column.json =
                column.field.as_ref().map_or_else(String::new, |field| format!("{}:", Value::from(field.as_str())));
        }
        check_twice(&columns)?;
        let email = columns.iter().position(|column| column.role == Some(Role::Email));
        Ok(Columns { email: email.expect("found above"), columns })
    }

    /// The columns as they are shown.
    pub fn shown(&self) -> Vec<Shown> {
        self.columns.iter().map(Column::shown).collect()
    }

    /// The columns' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// The cell with the address.
    pub fn address<'a>(&self, row: &Cells<'a>) -> &'a str {
        row.get(self.email)
    }

    /// Reads what a row says beside its address into `said`; `name` is the one written with the address.
    pub fn read(&self, row: &Cells<'_>, name: &str, said: &mut Said) -> Result<(), Unsaid> {
        let is_filled = |index: usize| !row.get(index).trim().is_empty();
        if row.len() > self.columns.len() && (self.columns.len()..row.len()).any(is_filled) {
            return Err(Unsaid::Cells(row.len(), self.columns.len()));
        }
        said.standing = Standing::default();
        said.fields.clear();
        said.fields.push('{');
        let (mut whole, mut first, mut last, mut keys) = ("", "", "", None);
        for (index, column) in self.columns.iter().enumerate() {
            let cell = row.get(index);
            match column.role {
                Some(Role::Name) => whole = cell,
                Some(Role::First) => first = cell,
                Some(Role::Last) => last = cell,
                Some(Role::Keys) => keys = column.keys(cell)?.or(keys),
                Some(Role::Standing(sign)) => said.standing = said.standing.max(column.standing(sign, cell)?),
                Some(Role::Email) | None => {}
            }
            if column.field.is_some() && !cell.is_empty() {
                push_field(&mut said.fields, &column.json, cell::text(cell));
            }
        }
        said.fields.push('}');
        said.name.clear();
        push_name(&mut said.name, whole, first, last, name);
        if let Some(keys) = keys {
            said.fields = merged(&said.fields, keys);
        }
        Ok(())
    }
}

impl Column {
    fn keys(&self, cell: &str) -> Result<Option<Map<String, Value>>, Unsaid> {
        match cell.trim() {
            "" => Ok(None),
            text => serde_json::from_str(text).map(Some).map_err(|_| Unsaid::Keys(self.name.clone())),
        }
    }

    fn standing(&self, sign: Sign, cell: &str) -> Result<Standing, Unsaid> {
        sign.read(cell)
            .ok_or_else(|| Unsaid::Standing(self.name.clone(), cell::trimmed(cell).chars().take(40).collect()))
    }

    /// Makes it what a person says.
    fn map(&mut self, field: &str) -> Result<(), Unmapped> {
        (self.role, self.field) = match field {
            "email" => (Some(Role::Email), None),
            "name" => (Some(Role::Name), None),
            "@first" => (Some(Role::First), self.field.take()),
            "@last" => (Some(Role::Last), self.field.take()),
            "@status" => (Some(Role::Standing(Sign::Word)), self.field.take()),
            "@json" => (Some(Role::Keys), None),
            "-" => (None, None),
            part if part.starts_with('@') => return Err(Unmapped::NoPart(part.to_owned())),
            name => (None, Some(name.to_owned())),
        };
        self.note = Some("as told".into());
        Ok(())
    }

    fn shown(&self) -> Shown {
        let part = match self.role {
            None => None,
            Some(Role::Email) => Some("email"),
            Some(Role::Name) => Some("name"),
            Some(Role::First) => Some("first part of name"),
            Some(Role::Last) => Some("last part of name"),
            Some(Role::Keys) => Some("a field for each key of its JSON"),
            Some(Role::Standing(Sign::Word)) => Some("place on the list"),
            Some(Role::Standing(Sign::Blocked | Sign::Left)) => Some("unsubscribed where it is filled"),
            Some(Role::Standing(Sign::Bounced)) => Some("suppressed where it is filled"),
        };
        let becomes = match (&self.field, part) {
            (None, None) => "nothing".to_owned(),
            (None, Some(part)) => part.to_owned(),
            (Some(field), None) => format!("field `{field}`"),
            (Some(field), Some(part)) => format!("field `{field}`, {part}"),
        };
        Shown { column: self.name.clone(), becomes, note: self.note.clone() }
    }
}

/// The columns with names that are present and unique, each a field of its own.
fn named(layout: &Layout) -> Vec<Column> {
    let header = layout.header.as_deref().unwrap_or_default();
    let mut columns: Vec<Column> = Vec::with_capacity(layout.width);
    for index in 0..layout.width.max(header.len()) {
        let written: String = cell::trimmed(header.get(index).map_or("", String::as_str))
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(NAME_MAX)
            .collect();
        let wanted = if written.is_empty() { format!("column_{}", index + 1) } else { written.clone() };
        let is_taken = |name: &str| columns.iter().any(|column| key(&column.name) == key(name) || column.name == name);
        let name = (1..).map(|turn| if turn == 1 { wanted.clone() } else { format!("{wanted}_{turn}") });
        let name = name.into_iter().find(|name| !is_taken(name)).expect("numbers do not end");
        let note = (!written.is_empty() && name != written).then(|| format!("another column is called `{written}`"));
        columns.push(Column { field: Some(name.clone()), name, role: None, json: String::new(), note });
    }
    columns
}

fn find_column(columns: &[Column], mapping: &Mapping) -> Result<usize, Unmapped> {
    let named = columns.iter().position(|column| column.name == mapping.column);
    let alike = || columns.iter().position(|column| column.name.to_lowercase() == mapping.column.to_lowercase());
    let number = || mapping.column.parse::<usize>().ok().filter(|number| (1..=columns.len()).contains(number));
    named.or_else(alike).or_else(|| number().map(|number| number - 1)).ok_or_else(|| {
        Unmapped::NoColumn(mapping.column.clone(), columns.iter().map(|column| column.name.clone()).collect())
    })
}

fn check_twice(columns: &[Column]) -> Result<(), Unmapped> {
    for (at, column) in columns.iter().enumerate() {
        let is_same = |other: &Column| {
            let is_single = matches!(column.role, Some(Role::Email | Role::Name | Role::First | Role::Last));
            is_single && other.role == column.role || column.field.is_some() && other.field == column.field
        };
        if let Some(other) = columns[..at].iter().find(|other| is_same(other)) {
            return Err(Unmapped::Twice(format!("`{}` and `{}`", other.name, column.name)));
        }
    }
    Ok(())
}

/// Writes the name, on one line.
fn push_name(name: &mut String, whole: &str, first: &str, last: &str, with_address: &str) {
    let parts = if whole.trim().is_empty() { [first, last] } else { [whole, ""] };
    let parts = if parts.iter().all(|part| part.trim().is_empty()) { [with_address, ""] } else { parts };
    let words = parts.iter().flat_map(|part| part.split(|c: char| c.is_whitespace() || c.is_control()));
    for word in words.filter(|word| !word.is_empty()) {
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(word);
    }
}

fn push_field(json: &mut String, key: &str, value: &str) {
    if json.len() > 1 {
        json.push(',');
    }
    json.push_str(key);
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push('"');
        json.push_str(value);
        json.push('"');
    } else {
        json.push_str(&Value::from(value).to_string());
    }
}

/// The fields with the keys of a JSON cell; a column of the same name wins.
fn merged(fields: &str, keys: Map<String, Value>) -> String {
    let mut all: Map<String, Value> = serde_json::from_str(fields).expect("built just now");
    for (key, value) in keys {
        all.entry(key).or_insert(value);
    }
    Value::Object(all).to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn find(text: &str, mappings: &[&str]) -> Result<(Layout, Columns), Unmapped> {
        let layout = Layout::find(text.as_bytes(), None).unwrap();
        let mappings: Vec<Mapping> = mappings.iter().map(|text| Mapping::parse(text).unwrap()).collect();
        Columns::find(&layout, &mappings).map(|columns| (layout, columns))
    }

    /// What each row says: address cell, name, fields, standing.
    fn read(text: &str, mappings: &[&str]) -> Vec<String> {
        let (layout, columns) = find(text, mappings).unwrap();
        let copy = text.to_owned();
        let mut rows = layout.rows(Box::new(move || Ok(Box::new(Cursor::new(copy.clone().into_bytes()))))).unwrap();
        let mut said = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let cells = row.cells.unwrap();
            let mut row = Said::default();
            said.push(match columns.read(&cells, "", &mut row) {
                Ok(()) => format!("{} ({}) {} {:?}", columns.address(&cells), row.name, row.fields, row.standing),
                Err(why) => format!("{why:?}"),
            });
        }
        said
    }

    fn check(text: &str, mappings: &[&str], expected: &[&str]) {
        assert_eq!(read(text, mappings), expected, "{text:?} {mappings:?}");
    }

    #[test]
    fn addresses_and_names_are_found_by_header() {
        check(
            "Email Address,First Name,Last Name\na@x.org,Ada,King\n",
            &[],
            &["a@x.org (Ada King) {\"First Name\":\"Ada\",\"Last Name\":\"King\"} Subscribed"],
        );
        check(
            "Prénom;Nom;E-mail;Ville\nGil;Géant;g@x.fr;Lyon\n",
            &[],
            &["g@x.fr (Gil Géant) {\"Prénom\":\"Gil\",\"Nom\":\"Géant\",\"Ville\":\"Lyon\"} Subscribed"],
        );
        check(
            "Vorname,Name,Mail\nAda,King,a@x.org\n",
            &[],
            &["a@x.org (Ada King) {\"Vorname\":\"Ada\",\"Name\":\"King\"} Subscribed"],
        );
        check(
            "First name,Name,Mail\nAda,Ada King,a@x.org\n",
            &[],
            &["a@x.org (Ada King) {\"First name\":\"Ada\"} Subscribed"],
        );
        check("EMAIL ,name\na@x.org,\" Ada\r\nBcc: \tx \"\n", &[], &["a@x.org (Ada Bcc: x) {} Subscribed"]);
    }

    #[test]
    fn addresses_are_found_by_their_cells_where_no_header_says_so() {
        check("who,where\nAda,a@x.org\n", &[], &["a@x.org () {\"who\":\"Ada\"} Subscribed"]);
        check("mail,where\nyes,a@x.org\n", &[], &["a@x.org () {\"mail\":\"yes\"} Subscribed"]);
        check(
            "a@x.org,Ada\nb@x.org,Bob\n",
            &[],
            &["a@x.org () {\"column_2\":\"Ada\"} Subscribed", "b@x.org () {\"column_2\":\"Bob\"} Subscribed"],
        );
        assert_eq!(
            find("who,where\nAda,Bonn\n", &[]).unwrap_err(),
            Unmapped::NoEmail(vec!["who".into(), "where".into()])
        );
    }

    #[test]
    fn what_a_person_says_goes_first() {
        check(
            "Email,Mail,Town,Age\na@x.org,b@x.org,Bonn,7\n",
            &["mail=email", "3=city", "AGE=-"],
            &["b@x.org () {\"Email\":\"a@x.org\",\"city\":\"Bonn\"} Subscribed"],
        );
        check(
            "email,mood\na@x.org,subscribed\nb@x.org,bored\n",
            &["mood=@status"],
            &["a@x.org () {\"mood\":\"subscribed\"} Subscribed", "Standing(\"mood\", \"bored\")"],
        );
        assert!(matches!(find("email\na@x.org\n", &["town=city"]), Err(Unmapped::NoColumn(..))));
        assert!(matches!(find("email,a,b\na@x.org,1,2\n", &["a=c", "b=c"]), Err(Unmapped::Twice(_))));
        assert!(matches!(find("email,a\na@x.org,1\n", &["a=@b"]), Err(Unmapped::NoPart(_))));
    }

    #[test]
    fn columns_without_a_name_or_with_a_second_one_keep_their_cells() {
        check(
            "email,name,name,,\na@x.org,A1,A2,x,\n",
            &[],
            &["a@x.org (A1) {\"name_2\":\"A2\",\"column_4\":\"x\"} Subscribed"],
        );
        check(
            "email,name\na@x.org,A,,\nb@x.org,B,extra\nc@x.org\n",
            &[],
            &[
                "a@x.org (A) {} Subscribed",
                "b@x.org (B) {\"column_3\":\"extra\"} Subscribed",
                "c@x.org () {} Subscribed",
            ],
        );
    }

    #[test]
    fn who_left_elsewhere_does_not_come_back_here() {
        check(
            "email,status\na@x.org,enabled\nb@x.org,blocklisted\nc@x.org,\n",
            &[],
            &[
                "a@x.org () {\"status\":\"enabled\"} Subscribed",
                "b@x.org () {\"status\":\"blocklisted\"} Barred(Manual)",
                "Standing(\"status\", \"\")",
            ],
        );
        check(
            "Email Address,UNSUB_TIME\na@x.org,2020-05-05\n",
            &[],
            &["a@x.org () {\"UNSUB_TIME\":\"2020-05-05\"} Unsubscribed"],
        );
        check(
            "EMAIL,EMAIL_BLACKLISTED\na@x.org,Yes\nb@x.org,No\n",
            &[],
            &[
                "a@x.org () {\"EMAIL_BLACKLISTED\":\"Yes\"} Unsubscribed",
                "b@x.org () {\"EMAIL_BLACKLISTED\":\"No\"} Subscribed",
            ],
        );
        check("email,status\na@x.org,gold\n", &[], &["a@x.org () {\"status\":\"gold\"} Subscribed"]);
    }

    #[test]
    fn keys_of_json_cells_become_fields() {
        check(
            "email,city,attributes\na@x.org,Ulm,\"{\"\"city\"\":\"\"Bonn\"\",\"\"age\"\":7}\"\nb@x.org,,{bad\nc@x.org,,\n",
            &[],
            &["a@x.org () {\"age\":7,\"city\":\"Ulm\"} Subscribed", "Keys(\"attributes\")", "c@x.org () {} Subscribed"],
        );
    }

    #[test]
    fn values_are_escaped_and_leading_zeros_kept() {
        check(
            "email,a\na@x.org,\"x\"\"\\\n\"\nb@x.org,\"=\"\"01\"\"\"\n",
            &[],
            &["a@x.org () {\"a\":\"x\\\"\\\\\\n\"} Subscribed", "b@x.org () {\"a\":\"01\"} Subscribed"],
        );
    }
}
