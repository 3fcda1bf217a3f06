use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::arguments::Global;
use crate::exit::Exit;

/// Where a command's results go: one JSON value, or text for a person.
///
/// Results go to standard output, everything else to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub fn new(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether to draw progress: a person watches, and did not ask for quiet.
    pub fn shows_progress(&self) -> bool {
        !self.json && !self.quiet && std::io::stderr().is_terminal()
    }

    /// Whether anybody hears how far it is, be it a program.
    pub fn tells_progress(&self) -> bool {
        self.shows_progress() || (self.json && !self.quiet)
    }

    /// The result: the value as one line of JSON, or its text. A reader that has gone away ends it
    /// quietly, as it does for other tools in a pipe.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let mut line = if self.json { serde_json::to_string(value)? } else { text(value) };
        if !line.is_empty() && !line.ends_with('\n') {
            line.push('\n');
        }
        write(&mut std::io::stdout().lock(), &line)
    }

    /// A remark for a person, on standard error; not in JSON mode and not when quiet.
    pub fn note(&self, text: &str) {
        if !self.json && !self.quiet {
            // Standard error that is gone must not stop the work.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// The error that a command ended with. In JSON mode it has the form of restic's exit error.
    pub fn failure(&self, exit: Exit, error: &anyhow::Error) {
        let message = chain(error);
        let line = if self.json {
            serde_json::json!({ "message_type": "exit_error", "code": exit.code(), "message": message }).to_string()
        } else {
            format!("levee: {message}")
        };
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

/// The error and its causes, each said once.
fn chain(error: &anyhow::Error) -> String {
    let mut message = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if text != last {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        last = text;
    }
    message
}

fn write(to: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
