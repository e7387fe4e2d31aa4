//! Exit codes, and errors on their way to a person or a program.

use std::error::Error as StdError;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use miette::{Diagnostic, IntoDiagnostic, LabeledSpan, SourceCode};
use serde::Serialize;

use crate::cli::desk::{addressed, may_be_coloured};
use crate::cli::shown::{harmless, harmless_drawing, json_line};
use crate::engine::Remedy;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All done.
    Done,
    /// The disk, a port or another process stood in the way.
    Failed,
    /// Usage, settings, campaign, CSV or key.
    Usage,
    /// A check said no.
    Refused,
    /// Finished, with failures or doubts to look at.
    Unsettled,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

impl Exit {
    /// The process's exit code.
    pub(super) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Unsettled => 4,
        }
    }
}

/// An error with its exit code. What is a [`Diagnostic`] is shown with place and hint.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    report: miette::Report,
}

impl Error {
    /// Our own work could not be done: disk, port, workspace held. Exit code 1.
    pub fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error { exit: Exit::Failed, report: Err::<(), _>(error).into_diagnostic().expect_err("is an error") }
    }

    /// What was given cannot be used: arguments, settings, campaign, CSV, key. Exit code 2.
    pub fn usage(message: impl Into<String>) -> Error {
        Error { exit: Exit::Usage, report: miette::Report::msg(message.into()) }
    }

    /// As [`Error::usage`], shown with the place in its file and a hint.
    pub fn input(diagnostic: impl Diagnostic + Send + Sync + 'static) -> Error {
        Error { exit: Exit::Usage, report: miette::Report::new(diagnostic) }
    }

    /// As [`Error::failed`] or as [`Error::input`], shown with place and hint either way.
    pub(super) fn either(is_failure: bool, diagnostic: impl Diagnostic + Send + Sync + 'static) -> Error {
        let exit = if is_failure { Exit::Failed } else { Exit::Usage };
        Error { exit, report: miette::Report::new(diagnostic) }
    }

    /// A check said no. Exit code 3.
    pub fn refused(message: impl Into<String>) -> Error {
        Error { exit: Exit::Refused, report: miette::Report::msg(message.into()) }
    }

    /// The exit code this error ends with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Shows the error on standard error, the commands in it as they are typed for the workspace in `folder`, and gives
    /// its exit code. With `json` standard output gets it as one object.
    pub fn show(self, folder: &Path, json: bool) -> Exit {
        let Error { exit, report } = self;
        let told = Addressed::new(report, folder);
        if json {
            give(&Told::of(exit, &told));
        }
        let drawn = format!("{:?}", miette::Report::new(told));
        let _ = writeln!(std::io::stderr(), "{}", harmless_drawing(&drawn));
        exit
    }
}

/// A usage error that clap has found: shown as clap shows it, and as an object where `--json` is among the arguments. Help
/// that was asked for comes the same way.
pub fn misused(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // whether it can be shown changes nothing any more
        let _ = error.print();
        return Exit::Done;
    }
    if std::env::args_os().any(|word| word == "--json") {
        let message = error.render().to_string();
        let message = message.trim().strip_prefix("error: ").unwrap_or(message.trim());
        let told = Told { exit: Exit::Usage.code(), message: message.to_owned(), help: None, place: None };
        give(&told);
    }
    let words = error.render();
    let is_coloured = may_be_coloured(&std::io::stderr());
    let drawn = if is_coloured { words.ansi().to_string() } else { words.to_string() };
    let _ = write!(std::io::stderr(), "{}", harmless_drawing(&drawn));
    Exit::Usage
}

/// Gives an error as one object. Whether anybody reads it changes nothing about how the process ends.
fn give(told: &Told) {
    let _ = writeln!(std::io::stdout(), "{}", json_line(&serde_json::json!({ "error": told }).to_string()));
}

/// An error as `--json` gives it.
#[derive(Debug, Serialize)]
struct Told {
    /// The exit code.
    exit: u8,
    /// What is wrong.
    message: String,
    /// What to do.
    help: Option<String>,
    /// Where, when it stands in a file.
    place: Option<Place>,
}

/// What could not be done beside what could, as `--json` gives an error.
pub(super) fn failure(message: &str) -> impl Serialize {
    Told { exit: Exit::Failed.code(), message: harmless(message).into_owned(), help: None, place: None }
}

/// A place in a file, from 1.
#[derive(Debug, Serialize)]
struct Place {
    file: Option<String>,
    line: usize,
    column: usize,
}

impl Told {
    fn of(exit: Exit, error: &Addressed) -> Told {
        let place = || {
            let label = error.labels()?.next()?;
            let seen = error.source_code()?.read_span(label.inner(), 0, 0).ok()?;
            let file = seen.name().map(str::to_owned);
            Some(Place { file, line: seen.line() + 1, column: seen.column() + 1 })
        };
        Told { exit: exit.code(), message: error.message.clone(), help: error.help.clone(), place: place() }
    }
}

/// An error whose words name commands as they must be typed.
struct Addressed {
    report: miette::Report,
    message: String,
    help: Option<String>,
}

impl Addressed {
    fn new(report: miette::Report, folder: &Path) -> Addressed {
        let typed = |words: String| harmless(&addressed(folder, &words, "`mailshot ")).into_owned();
        let message = typed(report.to_string());
        let help = report.help().map(|help| typed(help.to_string()));
        Addressed { report, message, help }
    }
}

impl fmt::Debug for Addressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for Addressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Addressed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let inner: &(dyn StdError + Send + Sync + 'static) = self.report.as_ref();
        inner.source()
    }
}

impl Diagnostic for Addressed {
    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.report.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.report.labels()
    }
}

impl From<crate::config::Error> for Error {
    fn from(error: crate::config::Error) -> Error {
        Error::input(error)
    }
}

impl From<crate::world::Error> for Error {
    fn from(error: crate::world::Error) -> Error {
        match error {
            crate::world::Error::NameServer(_) | crate::world::Error::Anchor { .. } => Error::usage(error.to_string()),
            crate::world::Error::Resolver(_) => Error::failed(error),
        }
    }
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Error {
        Error::failed(error)
    }
}

impl From<crate::audience::Error> for Error {
    fn from(error: crate::audience::Error) -> Error {
        Error::either(error.is_failure(), error)
    }
}

impl From<crate::sign::Error> for Error {
    fn from(error: crate::sign::Error) -> Error {
        Error::either(error.is_failure(), error)
    }
}

impl From<crate::campaign::Error> for Error {
    fn from(error: crate::campaign::Error) -> Error {
        Error::either(error.is_failure(), error)
    }
}

impl From<crate::campaign::MeantError> for Error {
    fn from(error: crate::campaign::MeantError) -> Error {
        match error {
            crate::campaign::MeantError::Unknown(place) => (*place).into(),
            crate::campaign::MeantError::Store(why) => why.into(),
        }
    }
}

impl From<crate::engine::WorkspaceError> for Error {
    fn from(error: crate::engine::WorkspaceError) -> Error {
        Error::either(error.is_failure(), error)
    }
}

impl From<crate::queue::Error> for Error {
    fn from(error: crate::queue::Error) -> Error {
        Error::failed(error)
    }
}

impl From<crate::engine::AskError> for Error {
    fn from(error: crate::engine::AskError) -> Error {
        use crate::engine::AskError;
        match error {
            AskError::Silent { .. } | AskError::Failed(_) => Error::failed(error),
            AskError::Unknown(why) => Error::usage(why),
            AskError::Refused(why) => Error::refused(why),
        }
    }
}

impl From<crate::engine::Error> for Error {
    fn from(error: crate::engine::Error) -> Error {
        use crate::engine::Error as Engine;
        let exit = match &error {
            Engine::Queue(_)
            | Engine::Waits(_)
            | Engine::Store(_)
            | Engine::Start { .. }
            | Engine::Files { .. }
            | Engine::Ended(_) => Exit::Failed,
            Engine::NoLaunch(_) | Engine::Unusable { .. } => Exit::Usage,
            Engine::Disagree { .. } | Engine::State { .. } => Exit::Refused,
        };
        Error { exit, report: miette::Report::new(error) }
    }
}

impl From<crate::engine::LaunchError> for Error {
    fn from(error: crate::engine::LaunchError) -> Error {
        let exit = match error.remedy() {
            Remedy::Machine => Exit::Failed,
            Remedy::Input => Exit::Usage,
            Remedy::Refusal => Exit::Refused,
        };
        Error { exit, report: miette::Report::new(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_place_and_its_commands_as_they_are_typed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mailshot.toml"), "\n[retry]\nfrist = \"1s\"\n").unwrap();
        let wrong = crate::engine::Workspace::open(folder.path()).unwrap_err();
        let Error { exit, report } = Error::from(wrong);
        let told = Told::of(exit, &Addressed::new(report, Path::new("my news")));
        let place = told.place.unwrap();
        assert_eq!((told.exit, place.line, place.column), (2, 3, 1));
        assert!(place.file.unwrap().ends_with("mailshot.toml") && told.message.contains("frist"));
        assert!(told.help.unwrap().starts_with("did you mean `first`?"));

        let refused = Error::refused("`mailshot plan a` says why; `mailshot config` and mailshot itself do not");
        let told = Told::of(refused.exit, &Addressed::new(refused.report, Path::new("my news")));
        let typed = "`mailshot -C 'my news' plan a` says why; `mailshot config` and mailshot itself do not";
        assert_eq!((told.exit, told.message.as_str()), (3, typed));
        assert!(told.place.is_none() && told.help.is_none());
    }
}
