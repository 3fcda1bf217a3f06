use std::fmt;
use std::process::ExitCode;

/// What the process ends with. `docs/operating/exit-codes.md` is the operator's copy of this list;
/// 3 and those from 10 on are those of restic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Done.
    pub const DONE: Exit = Exit(0);
    /// Failed, or used wrongly; the message says why.
    pub const FAILED: Exit = Exit(1);
    /// `levee status`: something is not protected within its objective.
    pub const NOT_PROTECTED: Exit = Exit(2);
    /// Done, but some sources could not be read.
    pub const INCOMPLETE: Exit = Exit(3);
    /// A run waits for the operator.
    pub const WAITS: Exit = Exit(4);
    /// There is no repository here.
    pub const NO_REPOSITORY: Exit = Exit(10);
    /// Another process has locked the repository.
    pub const LOCKED: Exit = Exit(11);
    /// Wrong password, or no key for it.
    pub const WRONG_PASSWORD: Exit = Exit(12);

    /// `levee database fetch-wal`: something is wrong with the log. PostgreSQL takes anything up to 125 for
    /// the end of the log, and would promote without the rest.
    pub const STOP_RECOVERY: Exit = Exit(254);

    /// The code that an error asks for: that of the `Ended` in it, otherwise 1.
    pub fn of(error: &anyhow::Error) -> Exit {
        error.downcast_ref::<Ended>().map_or(Exit::FAILED, |ended| ended.exit)
    }

    pub fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.0)
    }
}

/// Put around an error with `anyhow`'s `context`-like `Ended::with` to end with another code than 1.
#[derive(Debug)]
pub struct Ended {
    exit: Exit,
    message: String,
}

impl Ended {
    /// An error that ends the process with this code.
    pub fn with(exit: Exit, error: anyhow::Error) -> anyhow::Error {
        let message = error.to_string();
        error.context(Ended { exit, message })
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}
