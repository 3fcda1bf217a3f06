//! One line on the terminal for each step, with the live ages of the recovery points.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Back to the beginning of the line, and nothing on it.
const CLEAR_LINE: &str = "\r\x1b[K";
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// Where the lines go.
#[derive(Clone)]
pub struct Terminal {
    quiet: bool,
    /// Standard output is kept for the report.
    to_standard_error: bool,
    /// A person watches: the line of a step is drawn again and again.
    is_live: bool,
    /// The newest ages, as text. The poller writes it, the line on show reads it.
    ages: Arc<Mutex<String>>,
}

impl Terminal {
    pub fn new(quiet: bool, to_standard_error: bool) -> Terminal {
        let is_terminal =
            if to_standard_error { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Terminal { quiet, to_standard_error, is_live: is_terminal && !quiet, ages: Arc::default() }
    }

    pub fn show_ages(&self, ages: String) {
        *self.ages.lock().unwrap_or_else(PoisonError::into_inner) = ages;
    }

    fn ages(&self) -> String {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A line of its own.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            let clear = if self.is_live { CLEAR_LINE } else { "" };
            self.write(&format!("{clear}{text}\n"));
        }
    }

    /// Begins the line of a step. It is kept up to date until `Line::end`.
    pub fn step(&self, name: &str, what: &str) -> Line {
        let line = Line {
            terminal: self.clone(),
            name: name.into(),
            what: what.into(),
            started: Instant::now(),
            ended: Arc::new(AtomicBool::new(false)),
            drawer: None,
        };
        if self.is_live { line.live() } else { line }
    }

    fn write(&self, text: &str) {
        // A terminal that is gone must not stop the demo from cleaning up.
        let _ = if self.to_standard_error {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
        };
    }
}

/// The line of a step that is under way.
pub struct Line {
    terminal: Terminal,
    name: String,
    what: String,
    started: Instant,
    ended: Arc<AtomicBool>,
    drawer: Option<JoinHandle<()>>,
}

impl Line {
    fn live(mut self) -> Line {
        let (terminal, name, what, started, ended) =
            (self.terminal.clone(), self.name.clone(), self.what.clone(), self.started, Arc::clone(&self.ended));
        self.drawer = Some(std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                terminal.write(&format!("{CLEAR_LINE}{}", text(&name, &what, started, &terminal.ages())));
                std::thread::sleep(REDRAW_INTERVAL);
            }
        }));
        self
    }

    /// Puts another text in the place of what the step is doing.
    pub fn end(mut self, what: &str) {
        self.what = what.into();
        self.finish(true);
    }

    fn finish(&mut self, is_whole: bool) {
        let was_live = self.drawer.is_some();
        if let Some(drawer) = self.drawer.take() {
            self.ended.store(true, Ordering::Relaxed);
            // A panic in it has been printed already.
            let _ = drawer.join();
        }
        if was_live {
            self.terminal.write(CLEAR_LINE);
        }
        if is_whole {
            self.terminal.note(&text(&self.name, &self.what, self.started, &self.terminal.ages()));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.drawer.is_some() {
            self.finish(false);
        }
    }
}

fn text(name: &str, what: &str, started: Instant, ages: &str) -> String {
    let ages = if ages.is_empty() { String::new() } else { format!("  [{ages}]") };
    format!("{name:<10} {:>6.1} s  {what}{ages}", started.elapsed().as_secs_f64())
}
