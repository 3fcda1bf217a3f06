use std::time::{Duration, Instant};

use clap::Args;
use levee_database::postgres::archive::{self, ArchiveEnd, ArchiveOptions, ArchiveStatus};
use levee_database::postgres::{JournalSink, Needs, preflight, slot};
use levee_database::{Error, StopSignal};
use levee_model::protection::{PostgresSpec, Size};
use levee_model::{AssetId, Epoch};
use serde_json::json;

use super::connect::Connect;
use super::journal::JournalToWrite;
use crate::exit::Exit;
use crate::output::Output;

/// How often the state is printed.
const STATUS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    journal: JournalToWrite,
    /// What the cluster is called: APP/ASSET
    #[arg(short, long, value_name = "APP/ASSET")]
    asset: AssetId,
    /// The replication slot; made when it is not there. Named after the asset when it is not given
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// How much log the slot may hold back before it is dropped, so that the server's disk does not fill up
    #[arg(long, value_name = "SIZE", default_value_t = PostgresSpec::SLOT_BOUND)]
    slot_bound: Size,
    /// Commits are to wait for this archive: warn where they do not
    #[arg(long)]
    zero_loss: bool,
}

pub fn run(arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    let slot = arguments.slot.clone().unwrap_or_else(|| slot::name_for(&arguments.asset));
    let options = ArchiveOptions {
        slot_bound_bytes: Some(arguments.slot_bound.bytes()),
        zero_loss: arguments.zero_loss,
        ..ArchiveOptions::new(arguments.connect.options()?, slot)
    };
    check_source(&options, output)?;
    let journal = arguments.journal.open()?;
    let epoch = journal.epoch()?.max(Epoch::FIRST);
    let mut sink = JournalSink::new(journal, epoch);
    let stop = stop_on_signals()?;
    output.note(&format!("archiving {} into {}", arguments.asset, arguments.journal.folder().display()));
    let mut printer = Printer { output, printed: None };
    let end = archive::run(&options, &mut sink, &stop, &mut |status| printer.print(status))?;
    match end {
        ArchiveEnd::Stopped => Ok(Exit::DONE),
        ArchiveEnd::SlotDropped { held_bytes, bound_bytes } => anyhow::bail!(
            "the slot held back {held_bytes} bytes of log, more than {bound_bytes}, and was dropped so that the server's \
             disk does not fill up: start the archive again, and take a new base backup if it then names a gap"
        ),
    }
}

/// Tells what is in the way for good, before anything is made. For what may pass the archive waits, and says so.
fn check_source(options: &ArchiveOptions, output: Output) -> anyhow::Result<()> {
    let needs = options.needs();
    let report = match preflight(&options.connect, &needs) {
        // An archive for which commits do not wait yet is better than none. It goes on saying so.
        Err(Error::NotInEveryQuorum { .. } | Error::CommitsDoNotWait { .. } | Error::ApplicationNameTaken { .. }) => {
            preflight(&options.connect, &Needs { zero_loss: false, ..needs })
        }
        report => report,
    };
    match report {
        Ok(report) => {
            for warning in &report.warnings {
                output.note(&format!("warning: {warning}"));
            }
            Ok(())
        }
        Err(error) if may_pass(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether it may be otherwise in a moment, without anybody changing a setting or a right.
fn may_pass(error: &Error) -> bool {
    matches!(
        error,
        Error::NotReachable { .. }
            | Error::Engine { .. }
            | Error::NoFreeSender { .. }
            | Error::AllSendersInUse { .. }
            | Error::NoFreeSlot { .. }
    )
}

struct Printer {
    output: Output,
    printed: Option<(Instant, ArchiveStatus)>,
}

impl Printer {
    fn print(&mut self, status: &ArchiveStatus) {
        let last = self.printed.as_ref();
        let is_due = match last {
            Some((at, last)) => {
                has_news(last, status)
                    || last.zero_loss_problem != status.zero_loss_problem
                    || (at.elapsed() >= STATUS_EVERY && self.output.is_json())
            }
            None => true,
        };
        if !is_due {
            return;
        }
        let value = json!({
            "message_type": "status",
            "connected": status.connected,
            "system_identifier": status.system_identifier,
            "timeline": status.timeline,
            "source_end": status.source_end,
            "durable": status.durable,
            "as_of": status.as_of,
            "slot_held_bytes": status.slot_held_bytes,
            "problem": status.problem,
            "zero_loss_problem": status.zero_loss_problem,
        });
        let last = last.map(|(_, last)| last);
        // A reader that has gone away must not end the archive.
        let _ = self.output.result(&value, |_| text(last, status));
        self.printed = Some((Instant::now(), status.clone()));
    }
}

/// Whether it archives or not, or for another reason not.
fn has_news(last: &ArchiveStatus, status: &ArchiveStatus) -> bool {
    last.connected != status.connected || last.problem != status.problem
}

/// What a person has not been told yet.
fn text(last: Option<&ArchiveStatus>, status: &ArchiveStatus) -> String {
    let mut lines = Vec::new();
    if last.is_none_or(|last| has_news(last, status)) {
        match (&status.problem, status.connected) {
            (Some(problem), _) => lines.push(format!("not archiving: {problem}")),
            (None, true) => lines.push("archiving".to_string()),
            (None, false) => {}
        }
    }
    let told = last.and_then(|last| last.zero_loss_problem.as_ref());
    match status.zero_loss_problem.as_ref() {
        problem if problem == told => {}
        Some(problem) => lines.push(format!("warning: {problem}")),
        None => lines.push("commits are in order again".to_string()),
    }
    lines.join("\n")
}

/// A signal to end is passed on, and what was begun ends in good order.
fn stop_on_signals() -> anyhow::Result<StopSignal> {
    let stop = StopSignal::new()?;
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    let passed_on = stop.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            passed_on.stop();
        }
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(connected: bool, problem: Option<&str>, zero_loss_problem: Option<&str>) -> ArchiveStatus {
        ArchiveStatus {
            connected,
            problem: problem.map(str::to_string),
            zero_loss_problem: zero_loss_problem.map(str::to_string),
            ..ArchiveStatus::default()
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut last: Option<ArchiveStatus> = None;
        let mut check = |connected, problem, zero_loss_problem, expected: &str| {
            let status = status(connected, problem, zero_loss_problem);
            assert_eq!(text(last.as_ref(), &status), expected);
            last = Some(status);
        };
        check(true, None, None, "archiving");
        check(true, None, None, "");
        check(true, None, Some("nobody waits"), "warning: nobody waits");
        check(true, None, Some("nobody waits"), "");
        check(false, Some("it is gone"), Some("nobody waits"), "not archiving: it is gone");
        check(true, None, Some("others wait"), "archiving\nwarning: others wait");
        check(true, None, None, "commits are in order again");
        check(true, None, None, "");
    }
}
