//! All of state/ laid back as it was: record and queue agree with each other, and both are wrong.

use std::process::Command;

use crate::ends::{SLOW, ended, finish, signal};
use crate::scene::{Scene, wait_until};

#[test]
fn a_state_that_was_laid_back_in_its_place_sends_nothing_before_a_person_decides() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), 300, SLOW);
    let log = folder.path().join("log");
    let child = scene.send(&[], &log);
    wait_until("a first part", &log, || scene.taken() > 50);
    signal(&child, "TERM");
    ended(child, &log);
    let shell = |words: &str| {
        let done = Command::new("sh").current_dir(folder.path()).args(["-ec", words]).status();
        assert!(done.is_ok_and(|status| status.success()), "{words}");
    };
    shell("cp -a state saved");
    assert_eq!(finish(&scene, &log), 0, "a restart is none");
    shell("find state -type f -delete; cp -a saved/. state/");
    let status = ended(scene.send(&[], &log), &log);
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("restored from a copy"), "{said}");
    assert_eq!(scene.taken(), scene.recipients);
}
