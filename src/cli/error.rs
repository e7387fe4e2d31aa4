//! Exit codes, and errors on their way to a person.

use std::process::ExitCode;

use miette::{Diagnostic, IntoDiagnostic};

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
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Unsettled => 4,
        })
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
    fn either(is_failure: bool, diagnostic: impl Diagnostic + Send + Sync + 'static) -> Error {
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

    /// Shows the error on standard error and gives its exit code.
    pub fn show(self) -> Exit {
        eprintln!("{:?}", self.report);
        self.exit
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

impl From<crate::campaign::ListsError> for Error {
    fn from(error: crate::campaign::ListsError) -> Error {
        match error {
            crate::campaign::ListsError::Unknown(place) => (*place).into(),
            crate::campaign::ListsError::Store(why) => why.into(),
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
        match error {
            crate::engine::AskError::Silent { .. } => Error::failed(error),
            crate::engine::AskError::Refused(why) => Error::refused(why),
        }
    }
}

impl From<crate::engine::Error> for Error {
    fn from(error: crate::engine::Error) -> Error {
        use crate::engine::Error as Engine;
        let exit = match &error {
            Engine::Queue(_) | Engine::Store(_) | Engine::Start { .. } | Engine::Files { .. } | Engine::Ended(_) => {
                Exit::Failed
            }
            Engine::NoLaunch(_) => Exit::Usage,
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
