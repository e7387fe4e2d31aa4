//! The fuzzer: libFuzzer drives one of the targets, chosen by the environment variable `TARGET`.

#![cfg_attr(fuzzing, no_main)]

mod targets;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static BODY: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| {
        let name = std::env::var("TARGET").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("TARGET is one of {:?}", targets::TARGETS.map(|(known, _)| known))).1
    });
    BODY(data)
});

/// Built without the fuzzer's instrumentation it can only name the targets.
#[cfg(not(fuzzing))]
fn main() {
    targets::TARGETS.iter().for_each(|(name, _)| println!("{name}"));
}
