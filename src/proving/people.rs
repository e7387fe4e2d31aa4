//! Invented people for the sample campaign: the same seed gives the same crowd. Every address lies in a domain that is
//! reserved for tests (RFC 2606 §2), so that nothing of this can ever reach anybody.

use std::collections::HashSet;
use std::fmt::Write;

use jiff::ToSpan;
use jiff::civil::date;

use crate::world::{Dice, SeededDice};

/// The seed of `campaigns/welcome/contacts.csv`.
pub const SAMPLE_SEED: u64 = 20_261_124;
/// How many people stand in it.
pub const SAMPLE_SIZE: usize = 2000;

/// Domains with their share of a crowd: a few giants, some middling providers, and a long tail, as lists of real
/// subscribers have them.
const DOMAINS: &[(&str, u32)] = &[
    ("geemail.test", 370),
    ("lookout.example", 140),
    ("yahooey.test", 88),
    ("cloudapple.example", 64),
    ("webfreund.test", 52),
    ("orangerie.example", 34),
    ("protonic.test", 24),
    ("seznamka.example", 20),
    ("postbox.test", 18),
    ("fastletter.example", 15),
    ("telecable.test", 14),
    ("libremail.example", 12),
    ("northwind.test", 11),
    ("university.example", 10),
    ("cityhall.test", 9),
    ("bluebus.example", 8),
    ("harbour-press.test", 8),
    ("alpenverein.example", 7),
    ("kestrel-energy.test", 7),
    ("museum-of-maps.example", 6),
    ("greenhouse.test", 6),
    ("atelier-lumiere.example", 6),
    ("tidewater.test", 5),
    ("oak-and-iron.example", 5),
    ("schoolhouse.test", 5),
    ("fjordbank.example", 5),
    ("casa-verde.test", 4),
    ("penguin-logistics.example", 4),
    ("quietroom.test", 4),
    ("stadtwerke.example", 4),
    ("bakerstreet.test", 4),
    ("lighthouse-clinic.example", 3),
    ("paper-and-ink.test", 3),
    ("sunflower-coop.example", 3),
    ("rivertown.test", 3),
    ("tram-club.example", 2),
    ("old-mill.test", 2),
    ("wintergarden.example", 2),
    ("kite-makers.test", 2),
    ("small-observatory.example", 1),
];

const FIRST_NAMES: &[&str] = &[
    "Ada",
    "Aisha",
    "Alejandro",
    "Amélie",
    "Anders",
    "Anna",
    "Antoine",
    "Björn",
    "Bruno",
    "Camille",
    "Carlos",
    "Chiara",
    "Chloé",
    "Clara",
    "Daniel",
    "Daniela",
    "David",
    "Dmitri",
    "Elena",
    "Elif",
    "Emil",
    "Emma",
    "Erik",
    "Esther",
    "Eva",
    "Fatima",
    "Felix",
    "Fiona",
    "Francesca",
    "Freya",
    "Gabriel",
    "Giulia",
    "Grace",
    "Hanna",
    "Hugo",
    "Ingrid",
    "Isabel",
    "Jakub",
    "James",
    "Jan",
    "Jana",
    "Jonas",
    "José",
    "Julia",
    "Jürgen",
    "Karin",
    "Katarzyna",
    "Kenji",
    "Lars",
    "Laura",
    "Leila",
    "Léa",
    "Liam",
    "Linda",
    "Lucía",
    "Łukasz",
    "Magnus",
    "Malik",
    "Maria",
    "Marie",
    "Marko",
    "Marta",
    "Mateo",
    "Maya",
    "Mehmet",
    "Mia",
    "Michał",
    "Mira",
    "Nadia",
    "Nils",
    "Noah",
    "Nora",
    "Olga",
    "Oliver",
    "Oskar",
    "Paula",
    "Pavel",
    "Petra",
    "Priya",
    "Rachel",
    "Ravi",
    "Renée",
    "Robert",
    "Rosa",
    "Ruth",
    "Samir",
    "Sara",
    "Simon",
    "Sofia",
    "Søren",
    "Stefan",
    "Susan",
    "Tariq",
    "Teresa",
    "Thomas",
    "Tomás",
    "Ursula",
    "Valérie",
    "Victor",
    "Walter",
    "Yuki",
    "Yusuf",
    "Zoë",
    "Zuzana",
];

const LAST_NAMES: &[&str] = &[
    "Achterberg",
    "Almeida",
    "Andersson",
    "Ashworth",
    "Baker",
    "Bauer",
    "Bellini",
    "Berg",
    "Bernard",
    "Bianchi",
    "Blake",
    "Brandt",
    "Byrne",
    "Carter",
    "Castro",
    "Chen",
    "Clarke",
    "Conti",
    "Costa",
    "Dahl",
    "Delacroix",
    "Demir",
    "Díaz",
    "Dubois",
    "Eklund",
    "Evans",
    "Farah",
    "Ferrari",
    "Fischer",
    "Fontaine",
    "Forsberg",
    "Fraser",
    "García",
    "Grant",
    "Haddad",
    "Hale",
    "Hansen",
    "Hartmann",
    "Herrera",
    "Hoffmann",
    "Horvat",
    "Hughes",
    "Ibrahim",
    "Iversen",
    "Jansen",
    "Johansson",
    "Kaya",
    "Keller",
    "Khan",
    "Klein",
    "Kowalska",
    "Kowalski",
    "Krüger",
    "Lambert",
    "Larsen",
    "Laurent",
    "Lindqvist",
    "Lopes",
    "Lund",
    "Mancini",
    "Marchetti",
    "Marsh",
    "Martin",
    "Meyer",
    "Moreau",
    "Moreno",
    "Morris",
    "Müller",
    "Nakamura",
    "Navarro",
    "Nguyen",
    "Nielsen",
    "Novák",
    "Novotná",
    "O'Brien",
    "Okafor",
    "Olsen",
    "Ortega",
    "Papadaki",
    "Patel",
    "Pereira",
    "Petrov",
    "Popović",
    "Quinn",
    "Reid",
    "Ricci",
    "Rojas",
    "Rossi",
    "Roux",
    "Sanders",
    "Santos",
    "Sato",
    "Schmid",
    "Schneider",
    "Silva",
    "Singh",
    "Sørensen",
    "Svoboda",
    "Tanaka",
    "Thomsen",
    "Turner",
    "Vargas",
    "Vermeer",
    "Virtanen",
    "Vogel",
    "Wagner",
    "Walsh",
    "Weber",
    "Wójcik",
    "Yılmaz",
    "Ziegler",
    "Zimmermann",
];

const CITIES: &[&str] = &[
    "Amsterdam",
    "Antwerp",
    "Athens",
    "Barcelona",
    "Basel",
    "Belfast",
    "Bergen",
    "Berlin",
    "Bern",
    "Bologna",
    "Bordeaux",
    "Bristol",
    "Brno",
    "Brussels",
    "Budapest",
    "Cardiff",
    "Copenhagen",
    "Cork",
    "Dublin",
    "Edinburgh",
    "Florence",
    "Gdańsk",
    "Geneva",
    "Ghent",
    "Gothenburg",
    "Graz",
    "Hamburg",
    "Helsinki",
    "Köln",
    "Kraków",
    "Leeds",
    "Leipzig",
    "Lille",
    "Lisbon",
    "Ljubljana",
    "London",
    "Lyon",
    "Madrid",
    "Malmö",
    "Manchester",
    "Marseille",
    "Milan",
    "Munich",
    "Nantes",
    "Naples",
    "Oslo",
    "Paris",
    "Porto",
    "Prague",
    "Riga",
    "Rome",
    "Rotterdam",
    "Salzburg",
    "Seville",
    "Stockholm",
    "Strasbourg",
    "Tallinn",
    "Tampere",
    "Trieste",
    "Turin",
    "Utrecht",
    "Valencia",
    "Vienna",
    "Vilnius",
    "Warsaw",
    "Zagreb",
    "Zürich",
];

/// One invented person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The address, never the same twice in a crowd.
    pub email: String,
    /// The name; a few have left it out.
    pub name: String,
    /// Where they live; a few have left it out.
    pub city: String,
    /// The day they subscribed, as `2026-11-23`.
    pub joined: String,
}

/// People without end, one after another.
pub struct Crowd {
    dice: SeededDice,
    taken: HashSet<String>,
}

impl Crowd {
    /// The crowd of a seed.
    pub fn new(seed: u64) -> Crowd {
        Crowd { dice: SeededDice::new(seed), taken: HashSet::new() }
    }

    fn below(&self, end: usize) -> usize {
        (self.dice.roll() % end as u64) as usize
    }

    fn pick(&self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len())]
    }

    /// True once in `times`.
    fn rarely(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn domain(&self) -> &'static str {
        let total: u32 = DOMAINS.iter().map(|(_, share)| share).sum();
        let mut left = self.below(total as usize) as u32;
        for (domain, share) in DOMAINS {
            match left.checked_sub(*share) {
                Some(rest) => left = rest,
                None => return domain,
            }
        }
        unreachable!("the throw is below the sum of all shares")
    }

    /// A local part as people choose them, with a number behind it when it is taken.
    fn email(&mut self, first: &str, last: &str) -> String {
        let (first, last) = (plain(first), plain(last));
        let local = match self.below(8) {
            0 => format!("{}{last}", &first[..1]),
            1 => format!("{first}{}", 50 + self.below(50)),
            2 => format!("{first}_{last}"),
            3 => format!("{last}.{first}"),
            _ => format!("{first}.{last}"),
        };
        let domain = self.domain();
        let mut email = format!("{local}@{domain}");
        let mut number = 1;
        while !self.taken.insert(email.clone()) {
            number += 1;
            email = format!("{local}{number}@{domain}");
        }
        email
    }
}

impl Iterator for Crowd {
    type Item = Person;

    fn next(&mut self) -> Option<Person> {
        let (first, last) = (self.pick(FIRST_NAMES), self.pick(LAST_NAMES));
        let email = self.email(first, last);
        let name = if self.rarely(25) { String::new() } else { format!("{first} {last}") };
        let city = if self.rarely(20) { "" } else { self.pick(CITIES) };
        let joined = date(2021, 3, 1) + (self.below(2090) as i64).days();
        Some(Person { email, name, city: city.to_owned(), joined: joined.to_string() })
    }
}

/// The sample as a CSV file.
pub fn sample_csv() -> String {
    let mut text = String::from("email,name,city,joined\n");
    for person in Crowd::new(SAMPLE_SEED).take(SAMPLE_SIZE) {
        let Person { email, name, city, joined } = person;
        let _ = writeln!(text, "{email},{name},{city},{joined}");
    }
    text
}

/// A name in ASCII letters, as it stands in an address.
fn plain(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    for letter in name.to_lowercase().chars() {
        match letter {
            'a'..='z' => plain.push(letter),
            'á' | 'ã' | 'å' => plain.push('a'),
            'ć' | 'č' => plain.push('c'),
            'é' | 'è' | 'ë' => plain.push('e'),
            'í' | 'ı' => plain.push('i'),
            'ł' => plain.push('l'),
            'ń' => plain.push('n'),
            'ó' | 'ø' => plain.push('o'),
            'ö' => plain.push_str("oe"),
            'ü' => plain.push_str("ue"),
            'ä' => plain.push_str("ae"),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::Address;

    #[test]
    fn the_sample_file_is_what_the_seed_gives() {
        let made = sample_csv();
        if include_str!("../../campaigns/welcome/contacts.csv") != made {
            let place = concat!(env!("CARGO_MANIFEST_DIR"), "/target/contacts.csv");
            std::fs::write(place, made).unwrap();
            panic!("campaigns/welcome/contacts.csv differs from what the seed gives, which now lies in {place}");
        }
    }

    #[test]
    fn the_crowd_has_forty_reserved_domains_giants_among_them_and_nobody_twice() {
        let crowd: Vec<Person> = Crowd::new(SAMPLE_SEED).take(SAMPLE_SIZE).collect();
        let mut domains: BTreeMap<String, usize> = BTreeMap::new();
        for person in &crowd {
            let address = Address::parse(&person.email).unwrap();
            assert!(address.domain().is_reserved(), "{address}");
            assert!(person.email.is_ascii());
            *domains.entry(address.domain().to_string()).or_default() += 1;
        }
        assert_eq!(domains.len(), 40);
        assert!(domains["geemail.test"] > 600 && domains.values().filter(|count| **count < 20).count() > 20);
        assert_eq!(crowd.iter().map(|person| &person.email).collect::<HashSet<_>>().len(), SAMPLE_SIZE);
        assert!(crowd.iter().any(|person| person.name.is_empty()) && crowd.iter().any(|person| person.city.is_empty()));
    }
}
