use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use levee_database::postgres::base;
use levee_database::postgres::restore::{
    Mode, Network, RecoveryTarget, RestorePlan, RestoreRequest, Stop, plan, prepare,
};
use levee_model::AssetId;
use levee_model::postgres::{Lsn, TimelineId};
use serde_json::{Value, json};

use super::journal::JournalToRead;
use crate::exit::Exit;
use crate::output::Output;
use crate::vault_command::{self, Display, During, Place};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    journal: JournalToRead,
    /// What the cluster is called: APP/ASSET
    #[arg(short, long, value_name = "APP/ASSET")]
    asset: AssetId,
    /// The new data directory; must not exist, or be empty
    #[arg(short = 'D', long, value_name = "FOLDER")]
    data_directory: PathBuf,
    #[command(flatten)]
    target: Target,
    /// The target's timeline; the newest in the journal when it is not given
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<u32>,
    /// The base backup to start from: the first digits of its id; the best one when it is not given
    #[arg(long, value_name = "ID")]
    base: Option<String>,
    /// What the server does at the target
    #[arg(long, value_enum, default_value_t)]
    then: Then,
    /// The address that the server is to listen at; only its private socket when it is not given
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    /// The port that the server is to listen at
    #[arg(long, default_value_t = 5432)]
    port: u16,
    /// The user that the server is to run as
    #[arg(long, default_value = "postgres", value_name = "USER")]
    os_user: String,
    /// The folder of the server's programs; found by version when it is not given
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// Where a tablespace is to be put (can be repeated)
    #[arg(long, value_name = "OLD=NEW")]
    tablespace: Vec<String>,
    /// For the socket, the log and what only the server may read; DATA_DIRECTORY.private when it is not given
    #[arg(long, value_name = "FOLDER")]
    private_directory: Option<PathBuf>,
    /// Leave out comparing every file with the backup's manifest
    #[arg(long)]
    no_verify: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Target {
    /// Everything that is there
    #[arg(long, value_name = "newest", value_parser = ["newest"])]
    to: Option<String>,
    /// Everything that was committed up to this time, as 2026-11-20T11:22:33Z
    #[arg(long, value_name = "TIME")]
    time: Option<Timestamp>,
    /// Everything before this position in the log
    #[arg(long, value_name = "LSN")]
    lsn: Option<Lsn>,
    /// Up to and with this transaction
    #[arg(long, value_name = "XID")]
    xid: Option<u32>,
    /// Up to just before this transaction
    #[arg(long, value_name = "XID")]
    before_xid: Option<u32>,
    /// Up to this named restore point
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Target {
    fn target(&self) -> RecoveryTarget {
        match self {
            Target { time: Some(time), .. } => RecoveryTarget::Time(*time),
            Target { lsn: Some(lsn), .. } => RecoveryTarget::Lsn(*lsn),
            Target { xid: Some(xid), .. } => RecoveryTarget::Xid { xid: *xid, inclusive: true },
            Target { before_xid: Some(xid), .. } => RecoveryTarget::Xid { xid: *xid, inclusive: false },
            Target { name: Some(name), .. } => RecoveryTarget::Name(name.clone()),
            // `--to newest` is the default.
            Target { .. } => RecoveryTarget::Newest,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Then {
    /// Opens for writing, on a new timeline
    #[default]
    Promote,
    /// Stays open for reading only
    Pause,
    /// Goes on replaying what the journal gets
    Standby,
}

pub fn run(place: &Place, arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    let target = arguments.target.target();
    if arguments.then == Then::Standby && target != RecoveryTarget::Newest {
        bail!("a standby follows the journal and has no target: leave the target out, or use --then pause");
    }
    let tablespaces = tablespaces(&arguments.tablespace)?;
    let journal = arguments.journal.open()?;
    let vault = vault_command::open(place)?;
    let mut bases = base::list(&vault, &arguments.asset)?;
    if let Some(wanted) = &arguments.base {
        bases.retain(|base| base.snapshot.to_string().starts_with(wanted));
        if bases.len() != 1 {
            bail!("{} base backups have an id that begins with {wanted}; see `levee database list`", bases.len());
        }
    }
    let plan = plan(&journal, &bases, &target, arguments.timeline.map(TimelineId))?;
    let known: Vec<&str> = plan.base.facts.tablespaces.iter().map(|known| known.location.as_str()).collect();
    if let Some(unknown) = tablespaces.keys().find(|old| !known.iter().any(|known| Path::new(known) == **old)) {
        let known = if known.is_empty() { "none at all".into() } else { known.join(", ") };
        bail!("--tablespace {}: the base backup has no tablespace there, but {known}", unknown.display());
    }
    // PostgreSQL pauses only at a target, and promotes where the log ends.
    if arguments.then == Then::Pause && plan.stop == Stop::End {
        bail!(
            "no record of the log lies behind this target, so that the server would not pause there but open for writing: \
             give an earlier --time, --lsn, --xid or --name, or use --then standby, which stays open for reading only"
        );
    }
    let data_directory = std::path::absolute(&arguments.data_directory)?;
    if arguments.dry_run {
        output.result(&described(&plan, &data_directory), |_| described_text(&plan, &data_directory))?;
        return Ok(Exit::DONE);
    }
    let mut private = data_directory.clone().into_os_string();
    private.push(".private");
    let private_directory = match &arguments.private_directory {
        Some(folder) => std::path::absolute(folder)?,
        None => PathBuf::from(private),
    };
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let identity_file = std::path::absolute(&arguments.journal.identity_file)?;
    let display = Display::new(output, During::Restore);
    let prepared = prepare(
        &RestoreRequest {
            vault: &vault,
            plan: &plan,
            journal: &journal,
            identity_file: &identity_file,
            fetch_wal_program: &program,
            data_directory: &data_directory,
            private_directory: &private_directory,
            tablespaces: &tablespaces,
            os_user: &arguments.os_user,
            binaries: arguments.binaries.as_deref(),
            mode: match arguments.then {
                Then::Promote => Mode::Promote,
                Then::Pause => Mode::Pause,
                Then::Standby => Mode::Standby,
            },
            network: arguments.listen.map_or(Network::Isolated, Network::At),
            port: arguments.port,
            verify: !arguments.no_verify,
        },
        &display,
    );
    display.finish();
    let prepared = prepared?;
    let start = format!(
        "{} start -D {} -l {}",
        prepared.instance.binaries().program("pg_ctl").display(),
        data_directory.display(),
        prepared.instance.log().display()
    );
    let mut value = described(&plan, &data_directory);
    if let Value::Object(fields) = &mut value {
        fields.insert("files".into(), prepared.files.into());
        fields.insert("bytes".into(), prepared.bytes.into());
        fields.insert("copy_seconds".into(), prepared.copy.as_secs_f64().into());
        fields.insert("verified".into(), (!arguments.no_verify).into());
        fields.insert("private_directory".into(), private_directory.display().to_string().into());
        fields.insert("start".into(), start.clone().into());
    }
    output.result(&value, |_| {
        format!(
            "{}restored {} files, {} bytes in {:.1} s; start it as user {} with\n    {start}\n",
            described_text(&plan, &data_directory),
            prepared.files,
            prepared.bytes,
            prepared.copy.as_secs_f64(),
            arguments.os_user
        )
    })?;
    Ok(Exit::DONE)
}

fn tablespaces(pairs: &[String]) -> anyhow::Result<BTreeMap<PathBuf, PathBuf>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((old, new)) if Path::new(old).is_absolute() && Path::new(new).is_absolute() => {
            Ok((PathBuf::from(old), PathBuf::from(new)))
        }
        _ => bail!("--tablespace {text}: write two absolute paths, as /there=/here"),
    };
    pairs.iter().map(pair).collect()
}

fn described(plan: &RestorePlan, data_directory: &Path) -> Value {
    let stop = match plan.stop {
        Stop::End => json!("end"),
        Stop::Before(lsn) => json!({ "before": lsn }),
        Stop::BeforeXid(xid) => json!({ "before_xid": xid }),
    };
    json!({
        "data_directory": data_directory,
        "base": plan.base.snapshot.to_string(),
        "system_identifier": plan.system_identifier,
        "timeline": plan.timeline,
        "from": plan.base.facts.start,
        "end": plan.end,
        "as_of": plan.as_of,
        "stop": stop,
        "replay_bytes": plan.replay_bytes,
        "copy_bytes": plan.base.facts.bytes,
    })
}

fn described_text(plan: &RestorePlan, data_directory: &Path) -> String {
    let as_of = plan.as_of.map(|as_of| format!(", the state of {as_of}")).unwrap_or_default();
    format!(
        "{}: base backup {} ({} bytes), then {} bytes of log up to {} on timeline {}{as_of}\n",
        data_directory.display(),
        plan.base.snapshot.short(),
        plan.base.facts.bytes,
        plan.replay_bytes,
        plan.end,
        plan.timeline
    )
}
