//! What is going on: a bar for a person at a terminal, status lines in JSON for a program.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use levee_vault::{Event, ItemChange, Progress};
use serde_json::{Value, json};

use super::ls::escaped_path;
use crate::output::Output;

/// How often a status line is printed in JSON mode.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// What is being done, in restic's word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    Archival,
    Restore,
    Check,
    Prune,
    Copy,
    Repair,
    Dump,
    Rewrite,
    Retain,
    Statistics,
    Search,
    Comparison,
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Files,
}

impl During {
    fn word(self) -> &'static str {
        match self {
            During::Archival => "archival",
            During::Restore => "restore",
            During::Check => "check",
            During::Prune => "prune",
            During::Copy => "copy",
            During::Repair => "repair",
            During::Dump => "dump",
            During::Rewrite => "rewrite",
            During::Retain => "retain",
            During::Statistics => "stats",
            During::Search => "find",
            During::Comparison => "diff",
        }
    }

    fn unit(self) -> Unit {
        match self {
            During::Archival
            | During::Restore
            | During::Check
            | During::Prune
            | During::Copy
            | During::Repair
            | During::Dump => Unit::Bytes,
            // They look at names, and not at content.
            During::Rewrite | During::Retain | During::Statistics | During::Search | During::Comparison => Unit::Files,
        }
    }

    /// Whether a program hears how far it is. Where names are looked at, and of a dump, restic says nothing of it, and who reads
    /// one JSON value expects no lines before it.
    fn has_status_lines(self) -> bool {
        self.unit() == Unit::Bytes && self != During::Dump
    }
}

/// Counts and shows events.
pub struct Display {
    output: Output,
    during: During,
    bar: Option<ProgressBar>,
    started: Instant,
    /// When the last status line was printed.
    status_at: Mutex<Instant>,
    total_items: AtomicU64,
    total_bytes: AtomicU64,
    knows_total: AtomicBool,
    items: AtomicU64,
    bytes: AtomicU64,
    /// Whether each item is named on its own line.
    names_items: bool,
}

impl Display {
    pub fn new(output: Output, during: During) -> Self {
        let started = Instant::now();
        Self {
            output,
            during,
            bar: output.shows_progress().then(|| new_bar(during.unit())),
            started,
            status_at: Mutex::new(started),
            total_items: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            knows_total: AtomicBool::new(false),
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            names_items: false,
        }
    }

    /// Names what is done, or would be, to each item. Not when quiet.
    pub fn naming_items(self) -> Self {
        Self { names_items: !self.output.is_quiet(), ..self }
    }

    fn name_item(&self, path: &Path, change: ItemChange) {
        let action = match change {
            ItemChange::New => "new",
            ItemChange::Changed => "modified",
            ItemChange::Unmodified => "unchanged",
            ItemChange::Restored => "restored",
            ItemChange::Deleted => "deleted",
        };
        let line = match self.output.is_json() {
            true => json!({ "message_type": "verbose_status", "action": action, "item": path.to_string_lossy() })
                .to_string(),
            false => format!("{action:<10} {}", escaped_path(path)),
        };
        // A reader that has gone away is noticed at the summary.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    pub fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Whether a person sees a bar, so that a total is worth being counted.
    pub fn is_seen(&self) -> bool {
        self.bar.is_some()
    }

    /// Takes the bar away, before results are printed.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Says on standard error that something about one path is wrong.
    pub fn problem(&self, path: &Path, message: &str) {
        let line = if self.output.is_json() && self.during == During::Check {
            json!({ "message_type": "error", "message": format!("{}: {message}", path.display()) }).to_string()
        } else if self.output.is_json() {
            let (during, item) = (self.during.word(), path.to_string_lossy());
            json!({ "message_type": "error", "error": { "message": message }, "during": during, "item": item })
                .to_string()
        } else if path.as_os_str().is_empty() {
            format!("levee: {message}")
        } else {
            format!("levee: {}: {message}", path.display())
        };
        let print = || {
            // A terminal that is gone must not stop the work.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        };
        self.beside_bar(print);
    }

    /// Prints something while the bar is away: both may go to the same terminal.
    pub fn beside_bar<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn status(&self) {
        if !self.output.is_json() || self.output.is_quiet() || !self.during.has_status_lines() {
            return;
        }
        let now = Instant::now();
        // A thread that panicked here has left a whole time behind.
        let mut last = self.status_at.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(*last) < STATUS_EVERY {
            return;
        }
        *last = now;
        let status = self.status_line();
        // A reader that has gone away is noticed at the summary.
        let _ = writeln!(std::io::stdout().lock(), "{status}");
    }

    fn status_line(&self) -> Value {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (items, bytes) = (load(&self.items), load(&self.bytes));
        let elapsed = self.started.elapsed();
        let (items_word, bytes_word) = match self.during {
            During::Archival => ("files_done", "bytes_done"),
            During::Restore => ("files_restored", "bytes_restored"),
            During::Check => ("files_checked", "bytes_checked"),
            During::Prune => ("files_done", "bytes_repacked"),
            During::Copy => ("files_done", "bytes_copied"),
            During::Repair => ("packs_done", "bytes_done"),
            During::Dump
            | During::Rewrite
            | During::Retain
            | During::Statistics
            | During::Search
            | During::Comparison => ("files_done", "bytes_done"),
        };
        let mut status = json!({
            "message_type": "status",
            "seconds_elapsed": elapsed.as_secs(),
            "percent_done": 0.0,
            items_word: items,
            bytes_word: bytes,
        });
        // Of a total that is not known yet nothing is said.
        if self.knows_total.load(Ordering::Relaxed) {
            let total_bytes = load(&self.total_bytes).max(bytes);
            let part = if total_bytes == 0 { 0.0 } else { bytes as f64 / total_bytes as f64 };
            status["percent_done"] = part.into();
            status["total_files"] = load(&self.total_items).max(items).into();
            status["total_bytes"] = total_bytes.into();
            if part > 0.0 {
                status["seconds_remaining"] = ((elapsed.as_secs_f64() * (1.0 / part - 1.0)).ceil() as u64).into();
            }
        }
        status
    }
}

fn new_bar(unit: Unit) -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_style(style(unit, false));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A line for a terminal of 80 columns; the message has what is left of it. Of a total that is not known yet nothing is said.
fn style(unit: Unit, knows_total: bool) -> ProgressStyle {
    let (done, of_total, rate) = match unit {
        Unit::Bytes => ("{bytes}", "{bytes} of {total_bytes}", "{bytes_per_sec}"),
        // The number is that of the digits behind the point.
        Unit::Files => ("{human_pos} files", "{human_pos} of {human_len} files", "{per_sec:1}"),
    };
    let template = match knows_total {
        true => {
            format!("[{{elapsed_precise}}] {{percent:>3}}% {{bar:10}} {of_total}, {rate}, {{eta}} left {{wide_msg}}")
        }
        false => format!("[{{elapsed_precise}}] {done}, {rate} {{wide_msg}}"),
    };
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Display {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Total { items, bytes } => {
                self.total_items.store(items, Ordering::Relaxed);
                self.total_bytes.store(bytes, Ordering::Relaxed);
                let was_known = self.knows_total.swap(true, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    bar.set_length(match self.during.unit() {
                        Unit::Bytes => bytes,
                        Unit::Files => items,
                    });
                    if !was_known {
                        bar.set_style(style(self.during.unit(), true));
                    }
                }
            }
            Event::Bytes(bytes) => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    bar.inc(bytes);
                }
            }
            Event::Files(files) => {
                self.items.fetch_add(files, Ordering::Relaxed);
                if let Some(bar) = &self.bar
                    && self.during.unit() == Unit::Files
                {
                    bar.inc(files);
                }
            }
            Event::Item { path, change } => {
                if self.names_items {
                    self.name_item(path, change);
                }
                self.items.fetch_add(1, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    bar.set_message(path.display().to_string().escape_debug().to_string());
                }
            }
            Event::Problem { path, message } => self.problem(path, message),
        }
        self.status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_told_only_of_a_known_total() {
        let global = crate::arguments::Global { json: true, verbose: 0, quiet: false };
        let display = Display::new(Output::new(&global), During::Archival);
        display.report(Event::Bytes(50));
        let line = display.status_line();
        assert_eq!((&line["percent_done"], &line["bytes_done"]), (&0.0.into(), &50.into()));
        assert!(line.get("total_bytes").is_none() && line.get("seconds_remaining").is_none(), "{line}");
        display.report(Event::Total { items: 3, bytes: 200 });
        let line = display.status_line();
        assert_eq!((&line["percent_done"], &line["total_files"]), (&0.25.into(), &3.into()));
        assert!(line["seconds_remaining"].is_u64(), "{line}");
        // More than was counted: it is done, and not more than that.
        display.report(Event::Bytes(300));
        assert_eq!(display.status_line()["percent_done"], 1.0);
    }
}
