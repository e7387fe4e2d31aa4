//! A guard of the sending path that no noise reaches: how many instructions a copy costs in each scene of `scene`, counted by
//! valgrind and held against the table in `benches/instructions.toml`. It fails where a copy has become dearer than the
//! table allows.
//!
//!     cargo bench --bench instructions                        # counts all scenes: a minute
//!     cargo bench --bench instructions -- sign                # those with `sign` in their name
//!     cargo bench --bench instructions -- --write [NAME…]     # accepts what is counted as the new figures
//!
//! The same program takes the same number everywhere: valgrind shows it one and the same processor (with AVX2, without
//! AVX-512 and instructions for SHA) wherever the real one has AVX2. What differs is what another compiler makes of the
//! sources and, by little, another valgrind or C library; so the table names the tools it was made with.
//!
//! Instructions stand for time only roughly. Waiting, caches and the system's own work are not in them, and signatures and
//! hashes take others here than on a processor with instructions for them. `sending` times the same scenes.

mod scene;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use mailshot::sign::Algorithm;
use mailshot::smtp::TlsClient;
use scene::{Letter, Road, Whole, runtime, talk};
use serde::Deserialize;

/// The allocator of the program: the system's would differ from one machine to the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The argument by which this program is told to play one scene, which valgrind watches.
const PLAY: &str = "--play";
/// Where what valgrind has seen lies afterwards, as `callgrind.SCENE`.
const PROFILES: &str = env!("CARGO_TARGET_TMPDIR");
/// By how many per cent a scene may become dearer that stands in the table for the first time.
const NEW_TOLERANCE: f64 = 3.0;

/// One piece of the sending path.
struct Scene {
    name: &'static str,
    /// Copies that are counted: so many that what happens once does not show.
    copies: u32,
    /// Prepares everything, then has so many copies counted.
    play: fn(u32),
}

const SCENES: &[Scene] = &[
    Scene { name: "render", copies: 500, play: render },
    Scene { name: "print", copies: 500, play: print },
    Scene { name: "sign_ed25519", copies: 500, play: |copies| sign(Algorithm::Ed25519, copies) },
    Scene { name: "sign_rsa", copies: 50, play: |copies| sign(Algorithm::Rsa, copies) },
    Scene { name: "dialogue", copies: 2000, play: dialogue },
    Scene { name: "ledger", copies: 2000, play: ledger },
    Scene { name: "keeper", copies: 2000, play: keeper },
    Scene { name: "engine", copies: 5000, play: engine },
];

/// What valgrind counts: this function's instructions and those of all it calls, found by its name. Other threads do not
/// count.
#[inline(never)]
fn counted_instructions<T>(work: impl FnOnce() -> T) -> T {
    // a call that came last would become a jump, and this function would end before the work
    black_box(work())
}

/// The texts of a letter, filled in.
fn render(copies: u32) {
    let letter = Letter::new(Algorithm::Ed25519);
    letter.words(0);
    counted_instructions(|| (1..=copies).for_each(|number| drop(black_box(letter.words(number)))));
}

/// The same, with its headers and parts as a message.
fn print(copies: u32) {
    let letter = Letter::new(Algorithm::Ed25519);
    letter.print(0);
    counted_instructions(|| (1..=copies).for_each(|number| drop(black_box(letter.print(number)))));
}

/// Signatures over messages of 4 KiB.
fn sign(algorithm: Algorithm, copies: u32) {
    let letter = Letter::new(algorithm);
    letter.sign(letter.print(0));
    let messages: Vec<_> = (1..=copies).map(|number| letter.print(number)).collect();
    counted_instructions(|| messages.into_iter().for_each(|message| drop(black_box(letter.sign(message)))));
}

/// Copies over one connection, both ends counted.
fn dialogue(copies: u32) {
    let tls = TlsClient::new(None).expect("trusted roots");
    let message = Letter::new(Algorithm::Ed25519).print(7);
    let runtime = runtime();
    counted_instructions(|| runtime.block_on(talk(&tls, &message, copies)));
}

/// Copies leased, intended and settled, on disk.
fn ledger(copies: u32) {
    let runtime = runtime();
    let (road, _folder) = runtime.block_on(Road::on_disk(copies));
    counted_instructions(|| runtime.block_on(road.deliver()));
}

/// The same in memory: what the keeper costs.
fn keeper(copies: u32) {
    let runtime = runtime();
    let road = runtime.block_on(Road::in_memory(copies));
    counted_instructions(|| runtime.block_on(road.deliver()));
}

/// Everything from the plan to the last outcome on record, both ends counted.
fn engine(copies: u32) {
    let runtime = runtime();
    let whole = runtime.block_on(Whole::with(copies));
    counted_instructions(|| runtime.block_on(whole.send()));
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [PLAY, name] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let scene = SCENES.iter().find(|scene| scene.name == name).expect("a scene of the list");
        (scene.play)(scene.copies);
        return ExitCode::SUCCESS;
    }
    // cargo bench says so; whoever builds benches to see whether they still build wants nothing counted
    if !words.iter().any(|word| word == "--bench") {
        println!("instructions are counted by `cargo bench --bench instructions`");
        return ExitCode::SUCCESS;
    }
    match guard(&Wish::of(&words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\n{why}");
            ExitCode::FAILURE
        }
    }
}

/// What was asked for.
struct Wish {
    /// Whether what is counted becomes the table.
    write: bool,
    /// Scenes with one of these in their name; all when there is none.
    names: Vec<String>,
}

impl Wish {
    /// Options of other benches, which `cargo bench` hands to all alike, say nothing here.
    fn of(words: &[String]) -> Wish {
        let names = words.iter().filter(|word| !word.starts_with('-')).cloned().collect();
        Wish { write: words.iter().any(|word| word == "--write"), names }
    }

    fn asks_for(&self, scene: &Scene) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| scene.name.contains(name.as_str()))
    }
}

/// Counts what was asked for, and holds it against the table or writes it there.
fn guard(wish: &Wish) -> Result<(), String> {
    let asked: Vec<&Scene> = SCENES.iter().filter(|scene| wish.asks_for(scene)).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let tools = match tools() {
        Ok(tools) => tools,
        Err(why) => {
            println!("skipped: instructions are not counted, because {why}");
            return Ok(());
        }
    };
    let table = Table::read()?;
    println!("{:<14}{:>12}{:>12}{:>10}{:>10}", "instructions", "was", "is", "change", "allowed");
    let mut counted = Vec::new();
    for scene in asked {
        let figure = count(scene)?;
        println!("{}", line(scene.name, table.row(scene.name), figure));
        counted.push((scene, figure));
    }
    match wish.write {
        true => table.with(&counted, tools)?.write(),
        false => hold(&table, &counted, &tools),
    }
}

/// Fails where a copy has become dearer than the table allows.
fn hold(table: &Table, counted: &[(&Scene, u64)], tools: &str) -> Result<(), String> {
    let faults = counted.iter().filter_map(|(scene, figure)| fault(scene, table.row(scene.name), *figure));
    let mut said: Vec<String> = faults.collect();
    if said.is_empty() {
        return Ok(());
    }
    if table.held.made_with != tools {
        said.push(format!("The table was made with {}, and this is {tools}.", table.held.made_with));
    }
    said.push(format!(
        "If it is worth that, `{WRITE}` accepts it: commit the table with what made it dearer, and say why."
    ));
    Err(said.join("\n"))
}

/// What accepts new figures.
const WRITE: &str = "cargo bench --bench instructions -- --write";

/// What the figures depend on beside the sources, or why they cannot be counted here or would mean nothing.
fn tools() -> Result<String, String> {
    if cfg!(debug_assertions) {
        return Err("this build is not optimised".into());
    }
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        return Err("the figures are those of Linux on x86-64".into());
    }
    let valgrind = version("valgrind").map_err(|why| format!("{why}: `apt-get install valgrind`"))?;
    Ok(format!("{}, {valgrind}", version("rustc")?))
}

fn version(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|why| format!("{program} does not start ({why})"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Has valgrind watch a scene, and gives back how many instructions a copy took.
fn count(scene: &Scene) -> Result<u64, String> {
    let mut watched = watched(scene)?;
    let output = watched.output().map_err(|why| format!("valgrind does not start: {why}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let total = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
    match total {
        Some(total) if output.status.success() && total > 0 => Ok(total / u64::from(scene.copies)),
        _ => Err(format!("{} cannot be counted: {watched:?} ended with {}\n{said}", scene.name, output.status)),
    }
}

fn profile(scene: &Scene) -> String {
    format!("{PROFILES}/callgrind.{}", scene.name)
}

fn watched(scene: &Scene) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|why| format!("this program does not find itself: {why}"))?;
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", profile(scene)));
    command.args(["--collect-atstart=no", "--toggle-collect=*counted_instructions*"]);
    command.arg(program).args([PLAY, scene.name]);
    Ok(command)
}

/// What the table says of a scene.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// Of one copy.
    instructions: u64,
    /// By how many per cent a copy may cost more or less before anything is said.
    tolerance: f64,
}

impl Row {
    /// By how many per cent a copy has become dearer.
    fn change(&self, counted: u64) -> f64 {
        (counted as f64 / self.instructions as f64 - 1.0) * 100.0
    }
}

/// One line of what is printed.
fn line(name: &str, row: Option<Row>, counted: u64) -> String {
    let is = grouped(counted);
    match row {
        Some(row) => {
            let (was, change, allowed) =
                (grouped(row.instructions), row.change(counted), format!("±{} %", row.tolerance));
            format!("{name:<14}{was:>12}{is:>12}{change:>+8.2} %{allowed:>10}")
        }
        None => format!("{name:<14}{:>12}{is:>12}", "–"),
    }
}

/// What is to be said against a scene. One that has become much cheaper is told about, and has no fault.
fn fault(scene: &Scene, row: Option<Row>, counted: u64) -> Option<String> {
    let name = scene.name;
    let Some(row) = row else {
        return Some(format!("{name}: the table has no figure; a copy costs {} instructions.", grouped(counted)));
    };
    let change = row.change(counted);
    if change < -row.tolerance {
        println!("{name}: cheaper than the table says; `{WRITE} {name}` writes the new figure.");
    }
    (change > row.tolerance).then(|| {
        format!(
            "{name}: a copy costs {} instructions, {change:.1} % more than the {} of the table, and {} % are allowed. \
             `callgrind_annotate --inclusive=yes {}` shows where they go.",
            grouped(counted),
            grouped(row.instructions),
            row.tolerance,
            profile(scene),
        )
    })
}

/// A number with a space before every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The figures that hold.
struct Table {
    path: PathBuf,
    /// The comment that the file opens with.
    head: String,
    held: Held,
}

/// What the file holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    /// The tools that the figures come from.
    made_with: String,
    scenes: BTreeMap<String, Row>,
}

impl Table {
    fn read() -> Result<Table, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.toml");
        let text = std::fs::read_to_string(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        let held: Held = toml::from_str(&text).map_err(|why| format!("{}: {why}", path.display()))?;
        if let Some(stray) = held.scenes.keys().find(|name| SCENES.iter().all(|scene| scene.name != **name)) {
            return Err(format!("{}: there is no scene `{stray}`", path.display()));
        }
        let head = text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        Ok(Table { path, head, held })
    }

    fn row(&self, name: &str) -> Option<Row> {
        self.held.scenes.get(name).copied()
    }

    /// The table with new figures.
    fn with(mut self, counted: &[(&Scene, u64)], tools: String) -> Result<Table, String> {
        if counted.len() < SCENES.len() && self.held.made_with != tools {
            let made_with = &self.held.made_with;
            return Err(format!(
                "The other figures were made with {made_with}, and this is {tools}: write all of them."
            ));
        }
        self.held.made_with = tools;
        for (scene, instructions) in counted {
            let tolerance = self.row(scene.name).map_or(NEW_TOLERANCE, |row| row.tolerance);
            self.held.scenes.insert(scene.name.to_owned(), Row { instructions: *instructions, tolerance });
        }
        Ok(self)
    }

    fn write(&self) -> Result<(), String> {
        let mut text = format!("{}made_with = \"{}\"\n\n[scenes]\n", self.head, self.held.made_with);
        for (name, row) in SCENES.iter().filter_map(|scene| Some((scene.name, self.row(scene.name)?))) {
            let Row { instructions, tolerance } = row;
            writeln!(text, "{name} = {{ instructions = {instructions}, tolerance = {tolerance} }}")
                .expect("a String takes everything");
        }
        std::fs::write(&self.path, text).map_err(|why| format!("{}: {why}", self.path.display()))?;
        println!("written to {}", self.path.display());
        Ok(())
    }
}
