use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::{Error, Event, Progress};

/// More problems than this are counted and not kept.
const PROBLEMS_MAX: usize = 1000;

/// Something about one path that could not be done, while the rest went on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub path: PathBuf,
    pub message: String,
}

/// All problems of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// The first of them, a thousand at most.
    pub first: Vec<Problem>,
    pub count: u64,
    /// The first that is damage to the repository, and no fault of the place that was read from or written to.
    #[serde(skip)]
    pub first_damage: Option<Problem>,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Where the threads of an operation report what they could not do.
pub(crate) struct ProblemLog<'a> {
    progress: &'a dyn Progress,
    problems: Mutex<Problems>,
}

impl<'a> ProblemLog<'a> {
    pub fn new(progress: &'a dyn Progress) -> Self {
        Self { progress, problems: Mutex::default() }
    }

    pub fn add(&self, path: &Path, message: String) {
        self.progress.report(Event::Problem { path, message: &message });
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.count += 1;
        if problems.first.len() < PROBLEMS_MAX {
            problems.first.push(Problem { path: path.to_path_buf(), message });
        }
    }

    /// An error of the vault about one path.
    pub fn add_vault_error(&self, path: &Path, error: &Error) {
        let message = with_sources(error);
        if error.is_damage() {
            let damage = Problem { path: path.to_path_buf(), message: message.clone() };
            self.problems.lock().unwrap_or_else(PoisonError::into_inner).first_damage.get_or_insert(damage);
        }
        self.add(path, message);
    }

    pub fn add_error(&self, path: &Path, what: &str, error: &(dyn StdError + 'static)) {
        self.add(path, format!("{what}: {}", with_sources(error)));
    }

    pub fn into_problems(self) -> Problems {
        self.problems.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with everything that it was caused by.
pub(crate) fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
