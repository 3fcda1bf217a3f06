use std::time::{Duration, Instant};

use clap::Args;
use levee_database::postgres::archive::{self, ArchiveEnd, ArchiveOptions, ArchiveStatus};
use levee_database::postgres::{JournalSink, slot};
use levee_model::protection::Size;
use levee_model::{AssetId, Epoch};
use serde_json::json;

use super::backup::stop_on_signals;
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
    /// How much log the slot may hold back before it is dropped, as 10GiB; no bound when it is not given
    #[arg(long, value_name = "SIZE")]
    slot_bound: Option<Size>,
    /// Commits are to wait for this archive: warn where they do not
    #[arg(long)]
    zero_loss: bool,
}

pub fn run(arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    let journal = arguments.journal.open()?;
    let slot = arguments.slot.clone().unwrap_or_else(|| slot::name_for(&arguments.asset));
    let options = ArchiveOptions {
        slot_bound_bytes: arguments.slot_bound.map(Size::bytes),
        zero_loss: arguments.zero_loss,
        ..ArchiveOptions::new(arguments.connect.options()?, slot)
    };
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

struct Printer {
    output: Output,
    printed: Option<(Instant, ArchiveStatus)>,
}

impl Printer {
    fn print(&mut self, status: &ArchiveStatus) {
        let changed = |last: &ArchiveStatus| last.connected != status.connected || last.problem != status.problem;
        let due = match &self.printed {
            Some((at, last)) => changed(last) || (at.elapsed() >= STATUS_EVERY && self.output.is_json()),
            None => true,
        };
        if !due {
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
        let text = || match (&status.problem, status.connected) {
            (Some(problem), _) => format!("not archiving: {problem}"),
            (None, true) => "archiving".to_string(),
            (None, false) => String::new(),
        };
        // A reader that has gone away must not end the archive.
        let _ = self.output.result(&value, |_| text());
        self.printed = Some((Instant::now(), status.clone()));
    }
}
