//! The unit for systemd that the README shows, as systemd reads it.

use std::process::Command;

#[test]
fn the_unit_of_the_readme_is_one_and_leaves_little_open() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let unit = readme.split_once("```ini\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    assert!(unit.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"));
    if !Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: needs systemd-analyze");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mailshot.service");
    // a binary that is there, whether this machine has mailshot installed or not
    std::fs::write(&file, unit.replace("/usr/local/bin/mailshot", "/bin/true")).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !said.contains("mailshot.service"), "{said}");
    let open =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=25"]).arg(&file).output();
    let open = open.unwrap();
    assert!(open.status.success(), "{}", String::from_utf8_lossy(&open.stdout));
}
