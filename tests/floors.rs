//! The floors of the house: `src/lib.rs` lists the modules from the ground up, and no module may use one listed below it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules with their height, in the order of `src/lib.rs`.
fn floors() -> BTreeMap<String, usize> {
    let lib = fs::read_to_string("src/lib.rs").expect("the crate has a src/lib.rs");
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    modules.map(str::to_owned).zip(0..).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("a readable entry").path());
    let mut files: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .collect();
    files.sort();
    files
}

/// The first segments of all `crate::` paths in a line, groups such as `crate::{base, mail}` included.
fn reached(code: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = &group[..group.find('}').unwrap_or(group.len())];
                names.extend(group.split(',').map(|part| part.trim().split("::").next().unwrap_or_default()));
            }
            None => names.push(&rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]),
        }
    }
    names
}

#[test]
fn no_module_reaches_up() {
    let floors = floors();
    assert!(floors.len() > 10, "the list of modules was not found in src/lib.rs");
    let mut upward = Vec::new();
    for file in rust_files(Path::new("src")) {
        let home = file.strip_prefix("src").expect("below src").components().next().expect("a first part");
        let home = home.as_os_str().to_string_lossy();
        let Some(own) = floors.get(home.as_ref()) else { continue };
        let text = fs::read_to_string(&file).expect("a readable source");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for name in reached(code) {
                if floors.get(name).is_some_and(|height| height > own) {
                    upward.push(format!("{}:{}: {home} uses {name}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(upward.is_empty(), "these paths point to a higher floor:\n{}", upward.join("\n"));
}

#[test]
fn groups_and_single_paths_are_both_seen() {
    assert_eq!(reached("use crate::{base::Span, mail};"), ["base", "mail"]);
    assert_eq!(reached("fn f(x: crate::queue::Lease) -> crate::cli::Exit"), ["queue", "cli"]);
}
