//! The watchman: looks whether shaping.toml or rules.toml has changed, and lets the new one hold. A file that cannot be used
//! changes nothing but the log.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Error, Workspace};
use crate::base::Live;
use crate::config::shaping::Shaping;
use crate::delivery::sites::Sites;
use crate::smtp::classify::Rules;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(3);

/// What tells a changed file from the one that was read; `None` when there is none.
type Stamp = Option<(Option<SystemTime>, u64)>;

/// Watches the two files of a workspace.
pub(super) struct Watchman {
    workspace: Workspace,
    shaping: (Live<Shaping>, Stamp),
    rules: (Live<Rules>, Stamp),
    sites: Sites,
}

impl Watchman {
    /// One for tables that have just been read.
    pub fn new(workspace: &Workspace, shaping: Live<Shaping>, rules: Live<Rules>, sites: Sites) -> Watchman {
        let stamps = [workspace.shaping_file(), workspace.rules_file()].map(|file| stamp(&file));
        Watchman { workspace: workspace.clone(), shaping: (shaping, stamps[0]), rules: (rules, stamps[1]), sites }
    }

    /// Looks every few seconds, until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(EVERY) => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        if changed(&mut self.shaping.1, &self.workspace.shaping_file()) {
            match self.workspace.shaping() {
                Ok(shaping) => {
                    self.shaping.0.set(shaping);
                    self.sites.reshape().await;
                    tracing::warn!("shaping.toml has changed and holds from now on");
                }
                Err(why) => tracing::error!("{why}; shaping.toml as it was stays in force"),
            }
        }
        if changed(&mut self.rules.1, &self.workspace.rules_file()) {
            match self.workspace.rules() {
                Ok(rules) => {
                    self.rules.0.set(rules);
                    tracing::warn!("rules.toml has changed and holds from now on");
                }
                Err(why) => tracing::error!("{why}; rules.toml as it was stays in force"),
            }
        }
    }
}

/// Whether a file is another than at the last look.
fn changed(known: &mut Stamp, file: &Path) -> bool {
    let now = stamp(file);
    std::mem::replace(known, now) != now
}

fn stamp(file: &Path) -> Stamp {
    let found = std::fs::metadata(file).ok()?;
    Some((found.modified().ok(), found.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[tokio::test]
    async fn s_071_a_changed_file_holds_at_once_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::with(folder.path(), Settings::default());
        let (shaping, rules) = (Live::new(workspace.shaping().unwrap()), Live::new(workspace.rules().unwrap()));
        let mut watchman = Watchman::new(&workspace, shaping.clone(), rules.clone(), Sites::nobody());
        let limit = || shaping.now().shape("slow.example", "a").connection_limit;
        let built_in = limit();
        let row = |limit: u16| format!("[[site]]\nsite = \"slow.example\"\nshape.connection_limit = {limit}\n");

        std::fs::write(workspace.shaping_file(), row(3)).unwrap();
        watchman.look().await;
        assert_eq!(limit(), 3);
        std::fs::write(workspace.shaping_file(), row(0)).unwrap();
        watchman.look().await;
        assert_eq!(limit(), 3, "a limit of zero is refused");
        std::fs::write(workspace.shaping_file(), "[[site]]\nsite = broken").unwrap();
        watchman.look().await;
        assert_eq!(limit(), 3);
        std::fs::remove_file(workspace.shaping_file()).unwrap();
        watchman.look().await;
        assert_eq!(limit(), built_in, "without the file the built-in table holds");

        let before = rules.now();
        std::fs::write(workspace.rules_file(), "[[rule]]\nname = \"x\"\n").unwrap();
        watchman.look().await;
        assert!(std::sync::Arc::ptr_eq(&before, &rules.now()), "a rule without a sample is refused");
        let rule = "[[rule]]\nname = \"own\"\nmatch = 'come back on tuesday'\nclass = \"soft.system\"\nblame = \"site\"\n\
                    sample = [\"451 4.3.2 come back on Tuesday\"]\n";
        std::fs::write(workspace.rules_file(), rule).unwrap();
        watchman.look().await;
        assert!(!std::sync::Arc::ptr_eq(&before, &rules.now()));
    }
}
