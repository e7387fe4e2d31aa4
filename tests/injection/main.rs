//! Hostile input from end to end: a CSV, a campaign and a mail host that try to say more than they may, and the real binary
//! between them. What reaches the wire is looked at in raw bytes; what people and programs are shown, as they get it. The
//! other places where such input meets a guard have their tests beside that guard: see "Injection" in `tests/README.md`.

mod host;
mod letters;
mod people;
mod scene;
mod shown;
mod sources;
