//! Making current again what was hidden or overwritten in a bucket that keeps versions.

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_store::object_store::{BroughtBack, FileHistory, FileVersion, Undo};
use levee_store::{Error, FileType, ObjectStore, RetryStore, Store};
use serde::Serialize;

use super::super::place::Place;
use super::super::snapshots::local_time;
use super::super::times::parse_time;
use crate::exit::Exit;
use crate::output::Output;

/// What others refer to comes first, so that whoever looks in between misses nothing that a file refers to. Lock files of
/// back then mean nothing.
const FILE_TYPES: [FileType; 5] =
    [FileType::Data, FileType::Index, FileType::Snapshot, FileType::Key, FileType::Config];
/// Requests to the service at once; each is small, unless contents must be written again.
const AT_ONCE: usize = 8;
/// Names that are said of each kind: enough to look some up.
const NAMES_MAX: usize = 5;
/// Failures that are told one by one. They are mostly one and the same.
const FAILURES_MAX: usize = 20;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Undo what was done since this time or date; what was removed before stays away
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Timestamp,
    /// Do it; without this only what would be done is said
    #[arg(long)]
    apply: bool,
}

#[derive(Serialize)]
struct Summary {
    message_type: &'static str,
    dry_run: bool,
    since: Timestamp,
    applied: bool,
    /// Only those of which something was found.
    kinds: Vec<Kind>,
    failed: u64,
    first_failures: Vec<String>,
}

/// What was found of one kind of file.
#[derive(Serialize)]
struct Kind {
    kind: &'static str,
    /// Behind a marker, and brought back.
    hidden: u64,
    /// Under another content, and brought back.
    overwritten: u64,
    /// Of these, those above which something lies that could not be removed.
    written_again: u64,
    /// Not what their names say and new: they are hidden.
    foreign: u64,
    /// No version that is left is whole.
    lost: u64,
    /// Names of those that are brought back.
    first_names: Vec<String>,
}

pub fn run(place: &Place, arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    let store = place.s3_store()?;
    let mut summary = Summary {
        message_type: "summary",
        dry_run: !arguments.apply,
        since: arguments.since,
        applied: arguments.apply,
        kinds: Vec::new(),
        failed: 0,
        first_failures: Vec::new(),
    };
    for file_type in FILE_TYPES {
        let histories = store.attempt(|store| store.histories(file_type))?;
        let mut kind = Kind::new(file_type);
        for (history, undone) in
            histories.iter().zip(at_once(&histories, |history| undo(&store, file_type, history, arguments)))
        {
            match undone {
                Ok(None) => {}
                Ok(Some(undone)) => kind.count(history, &undone),
                // Of this file alone. With the others it goes on.
                Err(
                    error @ (Error::NotFound { .. }
                    | Error::Denied { .. }
                    | Error::Damaged { .. }
                    | Error::Frozen { .. }),
                ) => summary.add_failure(&error),
                Err(error) => return Err(error.into()),
            }
        }
        if !kind.is_empty() {
            summary.kinds.push(kind);
        }
    }
    output.result(&summary, Summary::text)?;
    for failure in &summary.first_failures {
        output.note(failure);
    }
    if !arguments.apply && summary.would_change() {
        bail!("nothing was changed: run it again with --apply to do this");
    }
    let is_complete = summary.failed == 0 && summary.kinds.iter().all(|kind| kind.lost == 0);
    Ok(if is_complete { Exit::DONE } else { Exit::INCOMPLETE })
}

/// What undoes something, and how it was done if it was.
struct Undone<'a> {
    undo: Undo<'a>,
    brought_back: Option<BroughtBack>,
}

fn undo<'a>(
    store: &RetryStore<ObjectStore>,
    file_type: FileType,
    history: &'a FileHistory,
    arguments: &Arguments,
) -> Result<Option<Undone<'a>>, Error> {
    let name = &history.name;
    let read = |version: &FileVersion| store.attempt(|store| store.read_version(file_type, name, version));
    let Some(undo) = history.undo(file_type, arguments.since, read)? else { return Ok(None) };
    let mut brought_back = None;
    if arguments.apply {
        match undo {
            Undo::BringBack { version, above } => {
                let how = store.attempt(|store| store.bring_back(file_type, name, version, above))?;
                brought_back = Some(how);
            }
            Undo::Hide => store.remove(file_type, name)?,
            Undo::Lost => {}
        }
    }
    Ok(Some(Undone { undo, brought_back }))
}

/// Applies a function to each item, some at once, and gives the results in the items' order.
fn at_once<'a, T: Sync, R: Send>(items: &'a [T], apply: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    let part = items.len().div_ceil(AT_ONCE).max(1);
    let apply = &apply;
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            items.chunks(part).map(|items| scope.spawn(move || items.iter().map(apply).collect::<Vec<R>>())).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

impl Kind {
    fn new(file_type: FileType) -> Self {
        Self {
            kind: file_type.folder(),
            hidden: 0,
            overwritten: 0,
            written_again: 0,
            foreign: 0,
            lost: 0,
            first_names: Vec::new(),
        }
    }

    fn count(&mut self, history: &FileHistory, undone: &Undone<'_>) {
        match undone.undo {
            Undo::BringBack { above, .. } => {
                match above.first().is_some_and(|current| current.is_marker) {
                    true => self.hidden += 1,
                    false => self.overwritten += 1,
                }
                if undone.brought_back == Some(BroughtBack::WrittenAgain) {
                    self.written_again += 1;
                }
                if self.first_names.len() < NAMES_MAX && !history.name.is_empty() {
                    self.first_names.push(history.name.clone());
                }
            }
            Undo::Hide => self.foreign += 1,
            Undo::Lost => self.lost += 1,
        }
    }

    fn brought_back(&self) -> u64 {
        self.hidden + self.overwritten
    }

    fn is_empty(&self) -> bool {
        self.brought_back() + self.foreign + self.lost == 0
    }

    fn text(&self, applied: bool) -> String {
        let were = if applied { "were" } else { "would be" };
        let Kind { kind, hidden, overwritten, written_again, foreign, lost, first_names } = self;
        let mut text = String::new();
        if self.brought_back() > 0 {
            text.push_str(&format!("{kind}: {hidden} hidden and {overwritten} overwritten {were} brought back"));
            for (position, name) in first_names.iter().enumerate() {
                let before = if position == 0 { ": " } else { " " };
                text.push_str(&format!("{before}{}", name.get(..8).unwrap_or(name)));
            }
            let is_cut = self.brought_back() > first_names.len() as u64 && !first_names.is_empty();
            text.push_str(if is_cut { " …\n" } else { "\n" });
        }
        if *written_again > 0 {
            text.push_str(&format!(
                "{kind}: {written_again} of them were written again: what hid them cannot be removed\n"
            ));
        }
        if *foreign > 0 {
            text.push_str(&format!("{kind}: {foreign} new ones that are not what their names say {were} hidden\n"));
        }
        if *lost > 0 {
            text.push_str(&format!("{kind}: of {lost} no version that is left is whole\n"));
        }
        text
    }
}

impl Summary {
    fn add_failure(&mut self, error: &Error) {
        self.failed += 1;
        if self.first_failures.len() < FAILURES_MAX {
            self.first_failures.push(error.to_string());
        }
    }

    fn would_change(&self) -> bool {
        self.kinds.iter().any(|kind| kind.brought_back() + kind.foreign > 0)
    }

    fn text(&self) -> String {
        let since = local_time(self.since);
        let mut text = match self.kinds.is_empty() && self.failed == 0 {
            true => format!("nothing was hidden or overwritten since {since}\n"),
            false => format!("since {since}:\n"),
        };
        for kind in &self.kinds {
            text.push_str(&kind.text(self.applied));
        }
        if self.failed > 0 {
            text.push_str(&format!("{} files cannot be brought back\n", self.failed));
        }
        if self.applied && self.would_change() {
            text.push_str("run `levee vault check --read-data` next\n");
        }
        text
    }
}
