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
use crate::vault_command::{self, Display, During, Place, interrupt};

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
    let options = BaseOptions {
        fast_checkpoint: !arguments.spread_checkpoint,
        rate_kib_max: arguments.limit_rate,
        ..BaseOptions::new(arguments.connect.options()?, arguments.asset.clone(), Epoch::FIRST)
    };
    // A signal ends the process, with its locks and pins.
    let stop = StopSignal::new()?;
    let display = Display::new(output, During::Archival);
    let take = || {
        let taken = base::take(&options, &vault, &display, &stop);
        display.finish();
        let base = taken?;
        if let Some(journal) = &journal {
            wait_for_log(journal, &base, &stop)?;
        }
        anyhow::Ok(base)
    };
    let base = match &journal {
        Some(journal) => with_pins(journal, &arguments.asset, take)?,
        None => take()?,
    };
    let has_log = journal.is_some();
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

/// Nothing that the backup may need is trimmed while it runs. However it ends, its pins go with it.
fn with_pins<T>(journal: &LogJournal, asset: &AssetId, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let pinned = (journal.clone(), asset.clone());
    let on_signal = interrupt::before_the_end(move || {
        let (journal, asset) = pinned;
        if let Err(error) = unpin(&journal, &asset) {
            tracing::warn!(%error, %asset, "the pins of an interrupted base backup stay in the journal until the next one");
        }
    });
    let done = pin(journal, asset).and_then(|()| work());
    let unpinned = unpin(journal, asset);
    if !on_signal.take_back() {
        interrupt::wait_for_the_end();
    }
    if done.is_err()
        && let Err(error) = &unpinned
    {
        tracing::warn!(%error, %asset, "the pins of a failed base backup stay in the journal until the next one");
    }
    let done = done?;
    unpinned?;
    Ok(done)
}

/// How the pins of an asset's backup begin. One that was killed leaves its own behind; they have the same names, so the next
/// one of the asset takes their place, and takes all of them away at its end.
fn pin_prefix(asset: &AssetId) -> String {
    format!("base backup of {asset} under way, ")
}

/// The backup's redo position lies behind what is there now.
fn pin(journal: &LogJournal, asset: &AssetId) -> anyhow::Result<()> {
    for (system_identifier, timeline) in journal.lineages()? {
        if let Some(extent) = journal.extent(system_identifier, timeline)? {
            let name = format!("{}timeline {timeline}", pin_prefix(asset));
            let from = extent.durable_end.segment_start(extent.segment_size);
            journal.pin(&name, Pin { system_identifier, timeline, from })?;
        }
    }
    Ok(())
}

/// Also those of timelines that the journal does not have any more.
fn unpin(journal: &LogJournal, asset: &AssetId) -> anyhow::Result<()> {
    let prefix = pin_prefix(asset);
    for name in journal.pins()?.into_keys().filter(|name| name.starts_with(&prefix)) {
        journal.unpin(&name)?;
    }
    Ok(())
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
