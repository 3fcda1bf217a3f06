use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::{Cache, CacheInfo, Vault, clean_caches, list_caches, unused_caches};
use serde::Serialize;

use super::ended;
use crate::exit::Exit;
use crate::output::Output;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where copies of metadata are kept.
#[derive(Clone, Debug, Args)]
pub struct CacheArguments {
    /// Keep no copies of the vault's index, snapshots and folders on this machine
    #[arg(long, global = true, conflicts_with = "cache_dir")]
    no_cache: bool,
    /// Keep those copies here rather than in ~/.cache/levee, for vaults in local folders too
    #[arg(long, env = "LEVEE_CACHE_DIR", global = true, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
}

impl CacheArguments {
    /// Gives a vault its cache. What is near needs none, unless it is asked for.
    pub fn apply(&self, vault: &Vault, is_remote: bool) {
        if self.no_cache || !(is_remote || self.cache_dir.is_some()) {
            return;
        }
        let Some(folder) = self.folder() else { return };
        match Cache::open(&folder, &vault.id()) {
            Ok(cache) => vault.use_cache(cache),
            Err(error) => tracing::warn!(%error, "no cache is used"),
        }
    }

    /// As `XDG_CACHE_HOME` has it; `None` for a user without a home.
    fn folder(&self) -> Option<PathBuf> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.cache_dir
            .clone()
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("levee")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/levee")))
    }
}

#[derive(Debug, Args)]
pub struct Arguments {
    /// Remove caches that were not used for long
    #[arg(long)]
    cleanup: bool,
    /// Only say which would be removed
    #[arg(short = 'n', long, requires = "cleanup")]
    dry_run: bool,
    /// How many days without use are long
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    max_age: u32,
    /// Don't count how large they are
    #[arg(long)]
    no_size: bool,
}

#[derive(Serialize)]
struct Listed {
    /// Of a cleanup: whether it would be removed, or was.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    id: String,
    last_used: Option<Timestamp>,
    old: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

pub fn run(cache: &CacheArguments, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let Some(folder) = cache.folder() else { bail!("there is no home folder: name the caches with --cache-dir") };
    let (now, max_age) = (SystemTime::now(), DAY * arguments.max_age);
    let listed = |info: CacheInfo| Listed {
        dry_run: arguments.cleanup.then_some(arguments.dry_run),
        id: info.id.to_hex(),
        last_used: Timestamp::try_from(info.last_used).ok(),
        old: now.duration_since(info.last_used).is_ok_and(|age| age > max_age),
        size: (!arguments.no_size).then_some(info.size_bytes),
    };
    if arguments.cleanup {
        let (removed, words) = match arguments.dry_run {
            true => (unused_caches(&folder, max_age, now), "would remove"),
            false => (clean_caches(&folder, max_age, now), "removed"),
        };
        let removed: Vec<_> = removed.map_err(ended)?.into_iter().map(listed).collect();
        output.result(&removed, |removed| format!("{words} {} caches in {}", removed.len(), folder.display()))?;
        return Ok(Exit::DONE);
    }
    let all: Vec<_> = list_caches(&folder).map_err(ended)?.into_iter().map(listed).collect();
    output.result(&all, |all| {
        let line = |cache: &Listed| {
            let used = cache.last_used.map(super::snapshots::local_time).unwrap_or_default();
            let old = if cache.old { "yes" } else { "" };
            let size = cache.size.map(|size| indicatif::BinaryBytes(size).to_string()).unwrap_or_default();
            format!("{}  {used:19}  {old:3}  {size}", &cache.id[..10]).trim_end().to_string()
        };
        let head = format!("{:10}  {:19}  {:3}  Size", "Vault", "Last used", "Old");
        let foot = format!("{} caches in {}", all.len(), folder.display());
        let lines: Vec<_> = std::iter::once(head).chain(all.iter().map(line)).chain([foot]).collect();
        lines.join("\n")
    })?;
    Ok(Exit::DONE)
}
