use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use levee_database::StopSignal;
use levee_database::postgres::base::{self, BaseOptions};
use levee_journal::{JournalKeys, LogJournal, Pin};
use levee_model::{AssetId, Epoch};
use serde_json::json;

use super::connect::Connect;
use crate::exit::Exit;
use crate::output::Output;
use crate::vault_command::{self, Display, During, Place};

/// How long the archive may take to get the base's last log.
const ARCHIVE_WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connect: Connect,
    /// What the cluster is called: APP/ASSET
    #[arg(short, long, value_name = "APP/ASSET")]
    asset: AssetId,
    /// The journal that `levee database archive` fills: its log is kept for this backup, and the backup is done
    /// only when the log that it needs is there
    #[arg(short, long, env = "LEVEE_JOURNAL", value_name = "FOLDER")]
    journal: Option<std::path::PathBuf>,
    /// Spread the first checkpoint over minutes, to disturb the server less
    #[arg(long)]
    spread_checkpoint: bool,
    /// Read at most so many KiB a second
    #[arg(long, value_name = "KIB")]
    limit_rate: Option<u32>,
}

pub fn run(place: &Place, arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = vault_command::open(place)?;
    let journal = match &arguments.journal {
        Some(folder) => Some(LogJournal::open_existing(folder, JournalKeys::default())?),
        None => None,
    };
    let pins = journal.as_ref().map(|journal| pin(journal, &arguments.asset)).transpose()?;
    let options = BaseOptions {
        fast_checkpoint: !arguments.spread_checkpoint,
        rate_kib_max: arguments.limit_rate,
        ..BaseOptions::new(arguments.connect.options()?, arguments.asset.clone(), Epoch::FIRST)
    };
    let stop = stop_on_signals()?;
    let display = Display::new(output, During::Archival);
    let taken = base::take(&options, &vault, &display, &stop);
    display.finish();
    let base = taken?;
    let has_log = match &journal {
        Some(journal) => {
            wait_for_log(journal, &base, &stop)?;
            true
        }
        None => false,
    };
    if let (Some(journal), Some(names)) = (&journal, pins) {
        for name in names {
            journal.unpin(&name)?;
        }
    }
    let facts = &base.facts;
    let value = json!({
        "message_type": "summary",
        "snapshot_id": base.snapshot.to_string(),
        "asset": facts.asset,
        "system_identifier": facts.system_identifier,
        "timeline": facts.timeline,
        "start": facts.start,
        "stop": facts.stop,
        "files": facts.files,
        "bytes": facts.bytes,
        "log_is_there": has_log,
        "total_duration": display.elapsed_s(),
    });
    output.result(&value, |_| {
        let remark = if has_log { "" } else { "; it can be restored once the journal has the log up to its end" };
        format!(
            "base backup {} of {}: {} files, {} bytes, log from {} to {}{remark}",
            base.snapshot.short(),
            facts.asset,
            facts.files,
            facts.bytes,
            facts.start,
            facts.stop
        )
    })?;
    Ok(Exit::DONE)
}

/// Nothing that the backup may need is trimmed while it runs: its redo position lies behind what is there now.
fn pin(journal: &LogJournal, asset: &AssetId) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for (system_identifier, timeline) in journal.lineages()? {
        if let Some(extent) = journal.extent(system_identifier, timeline)? {
            let name = format!("base backup of {asset} under way, timeline {timeline}");
            let from = extent.durable_end.segment_start(extent.segment_size);
            journal.pin(&name, Pin { system_identifier, timeline, from })?;
            names.push(name);
        }
    }
    Ok(names)
}

fn wait_for_log(journal: &LogJournal, base: &base::BaseBackup, stop: &StopSignal) -> anyhow::Result<()> {
    let deadline = Instant::now() + ARCHIVE_WAIT_MAX;
    let facts = &base.facts;
    loop {
        let extent = journal.extent(facts.system_identifier, facts.timeline)?;
        match extent {
            Some(extent) if extent.start > facts.start => bail!(
                "base backup {} is stored, but the journal begins only at {}, and the backup needs the log from {}: \
                 start `levee database archive` before a backup, and take another one",
                base.snapshot.short(),
                extent.start,
                facts.start
            ),
            Some(extent) if extent.durable_end >= facts.stop => return Ok(()),
            _ => {}
        }
        if Instant::now() >= deadline || stop.wait(Duration::from_millis(50)) {
            bail!(
                "base backup {} is stored, but the journal has not got the log up to {} yet: is `levee database archive` \
                 running? It can be restored once the log is there",
                base.snapshot.short(),
                facts.stop
            );
        }
    }
}

/// A signal to end is passed on, and what was begun ends in good order.
pub fn stop_on_signals() -> anyhow::Result<StopSignal> {
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
