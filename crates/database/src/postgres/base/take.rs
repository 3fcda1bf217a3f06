use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_engine::postgres::manifest::Manifest;
use levee_engine::postgres::page::first_block;
use levee_engine::postgres::tar::{Entry, Kind, TarError, TarReader};
use levee_engine::postgres::{self as engine, Archive, BackupOptions, BackupStream, ConnectOptions, Connection};
use levee_model::postgres::Lsn;
use levee_model::{AssetId, Epoch};
use levee_vault::{
    Chunking, Event, FileTime, ItemChange, NodeMeta, Progress, SWAP_PATIENCE, SnapshotOptions, SnapshotWriter, Vault,
};

use super::received::{Checked, Finished, Pages, Received};
use super::{
    BaseBackup, BaseFacts, CONFIGURATION_PATH, DATA_PATH, FACTS_PATH, TABLESPACES_PATH, TAG, TablespaceFacts,
    asset_tag, configuration, facts,
};
use crate::postgres::preflight::{self, Expect, Needs, SourceReport};
use crate::{Error, Result, StopSignal};

const DOING: &str = "taking a base backup";
/// How this receiver is called at the server: never as the archive, which commits may wait for.
const APPLICATION_NAME: &str = "levee_base";
/// The manifest of a million files is about 150 MiB.
const MANIFEST_SIZE_MAX: u64 = 1 << 30;
/// Above this size, page chunks are doubled, which halves the vault's index.
const LARGE_BYTES: u64 = 64 << 30;

/// What is done about damaged pages, where the server has page checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageChecks {
    /// The server verifies every page as it reads it, and the backup fails.
    #[default]
    Refuse,
    /// They are counted here, and the backup is kept: better a copy of a damaged table than none.
    Count,
}

/// A base backup to be taken.
#[derive(Clone, Debug)]
pub struct BaseOptions {
    pub connect: ConnectOptions,
    pub asset: AssetId,
    pub epoch: Epoch,
    /// What the snapshot names as its host; this machine when it is not given.
    pub host: Option<String>,
    /// Do the checkpoint at once, rather than spread over minutes.
    pub fast_checkpoint: bool,
    /// At most this much per second, in KiB.
    pub rate_kib_max: Option<u32>,
    pub page_checks: PageChecks,
}

impl BaseOptions {
    pub fn new(connect: ConnectOptions, asset: AssetId, epoch: Epoch) -> Self {
        Self {
            connect,
            asset,
            epoch,
            host: None,
            fast_checkpoint: true,
            rate_kib_max: None,
            page_checks: PageChecks::default(),
        }
    }
}

/// Takes a base backup straight into the vault: nothing is stored on the way, and a failed one leaves no snapshot.
///
/// The log is not in it. The archive must hold it from the base's start on, so it must be running before.
pub fn take(options: &BaseOptions, vault: &Vault, progress: &dyn Progress, stop: &StopSignal) -> Result<BaseBackup> {
    let connect = ConnectOptions { application_name: APPLICATION_NAME.into(), ..options.connect.clone() };
    let needs = Needs {
        expect: Expect::Either,
        zero_loss: false,
        application_name: APPLICATION_NAME.into(),
        slot: None,
        system_identifier: None,
    };
    let report = preflight::preflight(&connect, &needs)?;
    let data_directory = report.data_directory.clone().unwrap_or_default();
    let mut sql = preflight::connect(&connect, Connection::connect)?;
    let started_at = facts::clock(&mut sql)?;
    // What can't be read is known before hours of copying, and not after.
    let capture = |sql: &mut Connection| {
        configuration::capture(&connect, sql, Path::new(&data_directory), report.system_identifier)
    };
    let before = capture(&mut sql)?;
    drop(sql);

    let replication = preflight::connect(&connect, Connection::connect_replication)?;
    let interrupt = stop.as_fd().try_clone_to_owned();
    let interrupt = interrupt.map_err(|source| Error::System { doing: DOING, source })?;
    let stream = replication.base_backup(BackupOptions {
        label: format!("levee {}", options.asset),
        fast_checkpoint: options.fast_checkpoint,
        verify_checksums: options.page_checks == PageChecks::Refuse,
        rate_kib_max: options.rate_kib_max,
        interrupt: Some(interrupt),
    });
    let stream = stream.map_err(engine_error)?;
    let estimated: u64 = stream.tablespaces().iter().filter_map(|space| space.size_kib).sum::<u64>() << 10;
    progress.report(Event::Total { items: 0, bytes: estimated });

    let tags = vec![TAG.into(), asset_tag(&options.asset), format!("epoch:{}", options.epoch)];
    let writer = SnapshotWriter::begin(
        vault,
        SnapshotOptions {
            host: options.host.clone(),
            tags,
            paths: vec![PathBuf::from(&data_directory)],
            time: Some(started_at),
            patience: SWAP_PATIENCE,
            ..SnapshotOptions::default()
        },
    );
    let count_pages = options.page_checks == PageChecks::Count && report.data_checksums;
    let mut taking = Taking {
        writer: writer.map_err(Error::vault(DOING))?,
        received: Received::default(),
        tablespaces: Vec::new(),
        damaged_pages: 0,
        files: 0,
        bytes: 0,
        count_pages_since: count_pages.then(|| stream.start()),
        chunking: Chunking::Pages { chunk_bytes: if estimated > LARGE_BYTES { 128 << 10 } else { 64 << 10 } },
        progress,
        stop,
    };
    let (start, timeline) = (stream.start(), stream.timeline());
    let stop_lsn = taking.receive(stream)?;

    // Read at the end, so that what was changed while the backup ran is told as it is after replay. A connection from
    // before might have been closed for being idle.
    let mut sql = preflight::connect(&connect, Connection::connect)?;
    let ended_at = facts::clock(&mut sql)?;
    let captured = match capture(&mut sql) {
        Err(error @ Error::ConfigurationUnreadable { .. }) => {
            tracing::warn!(problem = error.with_causes(), "the configuration is stored as it was when the base began");
            before
        }
        captured => captured?,
    };
    let configuration = taking.store_configuration(captured)?;
    let facts = BaseFacts {
        format: facts::FORMAT,
        asset: options.asset.clone(),
        epoch: options.epoch,
        system_identifier: report.system_identifier,
        server_version: report.version.0,
        timeline,
        start,
        stop: stop_lsn,
        started_at,
        ended_at,
        segment_size: report.segment_size,
        data_checksums: report.data_checksums,
        damaged_pages: taking.damaged_pages,
        files: taking.files,
        bytes: taking.bytes,
        data_directory,
        tablespaces: std::mem::take(&mut taking.tablespaces),
        databases: facts::databases(&connect, &mut sql)?,
        configuration,
        settings: facts::settings(&mut sql)?,
    };
    taking.finish(facts, &report)
}

struct Taking<'a> {
    writer: SnapshotWriter,
    received: Received,
    tablespaces: Vec<TablespaceFacts>,
    damaged_pages: u64,
    files: u64,
    bytes: u64,
    /// Judge the pages that are older than this.
    count_pages_since: Option<Lsn>,
    /// Of relation files.
    chunking: Chunking,
    progress: &'a dyn Progress,
    stop: &'a StopSignal,
}

/// Where the entries of an archive go in the snapshot, and what the manifest calls them.
struct Prefixes {
    stored: PathBuf,
    manifest: String,
}

impl Taking<'_> {
    /// Stores everything, and returns the stop position.
    fn receive(&mut self, mut stream: BackupStream) -> Result<Lsn> {
        let mut manifest = None;
        while let Some(archive) = stream.next_archive().map_err(engine_error)? {
            match archive {
                Archive::Data => {
                    let prefixes = Prefixes { stored: DATA_PATH.into(), manifest: String::new() };
                    self.store_archive(&mut stream, &prefixes)?;
                }
                Archive::Tablespace { oid, location } => {
                    let prefixes = Prefixes {
                        stored: Path::new(TABLESPACES_PATH).join(oid.to_string()),
                        manifest: format!("pg_tblspc/{oid}/"),
                    };
                    let before = self.bytes;
                    self.store_archive(&mut stream, &prefixes)?;
                    self.tablespaces.push(TablespaceFacts { oid, location, bytes: self.bytes - before });
                }
                Archive::Manifest => {
                    let mut content = Vec::new();
                    (&mut stream).take(MANIFEST_SIZE_MAX).read_to_end(&mut content).map_err(read_error)?;
                    manifest = Some(content);
                }
            }
        }
        // The server tells of damaged pages only here.
        let end = stream.finish().map_err(engine_error)?;
        let content =
            manifest.ok_or_else(|| Error::BaseDiffers { problems: 1, first: "there is no manifest".into() })?;
        let manifest =
            Manifest::parse(&content).map_err(|error| Error::BaseDiffers { problems: 1, first: error.to_string() })?;
        std::mem::take(&mut self.received).compare(&manifest)?;
        let meta = NodeMeta::new(0o600, Timestamp::now());
        self.store(&Path::new(DATA_PATH).join("backup_manifest"), &meta, &mut content.as_slice())?;
        Ok(end.stop)
    }

    fn store_archive(&mut self, stream: &mut BackupStream, prefixes: &Prefixes) -> Result<()> {
        let mut tar = TarReader::new(stream);
        let mut is_first = true;
        while let Some(entry) = tar.next_entry().map_err(tar_error)? {
            let stored = prefixes.stored.join(&entry.path);
            let meta = meta(&entry);
            if std::mem::take(&mut is_first) {
                // The folder itself is not in the archive. PostgreSQL starts only where nobody else may look.
                let folder = NodeMeta { mode: 0o700, ..meta.clone() };
                self.writer.directory(&prefixes.stored, &folder).map_err(Error::vault(DOING))?;
            }
            match &entry.kind {
                Kind::Directory => self.writer.directory(&stored, &meta).map_err(Error::vault(DOING))?,
                // A tablespace inside the data directory is a folder there; all others are links.
                Kind::Symlink { target } => {
                    self.writer.symlink(&stored, Path::new(target), &meta).map_err(Error::vault(DOING))?;
                }
                Kind::File => {
                    let manifest_path = format!("{}{}", prefixes.manifest, entry.path);
                    self.store_file(&mut tar, &stored, manifest_path, &meta)?;
                }
            }
        }
        Ok(())
    }

    fn store_file(
        &mut self,
        input: &mut dyn Read,
        stored: &Path,
        manifest_path: String,
        meta: &NodeMeta,
    ) -> Result<()> {
        let first_block = first_block(&manifest_path);
        let pages = first_block.zip(self.count_pages_since).map(|(first, since)| Pages::new(first, since));
        let chunking = if first_block.is_some() { self.chunking } else { Chunking::Content };
        let is_stopped = || self.stop.is_stopped();
        let on_bytes = |bytes| self.progress.report(Event::Bytes(bytes));
        let mut checked = Checked::new(input, pages, &is_stopped, &on_bytes);
        self.writer.file(stored, meta, &mut checked, chunking).map_err(vault_error)?;
        let Finished { bytes, checksum, damaged_pages } = checked.finish();
        if damaged_pages > 0 {
            tracing::warn!(file = manifest_path, damaged_pages, "the source has damaged pages");
        }
        self.damaged_pages += damaged_pages;
        self.files += 1;
        self.bytes += bytes;
        self.progress.report(Event::Item { path: stored, change: ItemChange::New });
        self.received.add(manifest_path, bytes, checksum);
        Ok(())
    }

    fn store(&mut self, path: &Path, meta: &NodeMeta, content: &mut dyn Read) -> Result<()> {
        self.writer.file(path, meta, content, Chunking::Content).map_err(vault_error).map(drop)
    }

    fn store_configuration(&mut self, all: Vec<configuration::Captured>) -> Result<Vec<super::ConfigurationFile>> {
        let mut files = Vec::new();
        for captured in all {
            if let (Some(content), Some(path)) = (&captured.content, &captured.file.stored) {
                debug_assert!(path.starts_with(CONFIGURATION_PATH));
                let meta = NodeMeta::new(0o640, Timestamp::now());
                self.store(Path::new(path), &meta, &mut content.as_slice())?;
            }
            files.push(captured.file);
        }
        Ok(files)
    }

    fn finish(mut self, facts: BaseFacts, report: &SourceReport) -> Result<BaseBackup> {
        let content = serde_json::to_vec_pretty(&facts)
            .map_err(|source| Error::System { doing: "writing down what a base backup is", source: source.into() })?;
        self.store(Path::new(FACTS_PATH), &NodeMeta::new(0o600, Timestamp::now()), &mut content.as_slice())?;
        if self.stop.is_stopped() {
            return Err(Error::Stopped);
        }
        let summary = self.writer.finish().map_err(Error::vault(DOING))?;
        let snapshot = summary.snapshot_id.ok_or_else(|| Error::NotABase { snapshot: "?".into(), source: None })?;
        tracing::info!(
            %snapshot,
            asset = %facts.asset,
            version = %report.version,
            start = %facts.start,
            stop = %facts.stop,
            bytes = facts.bytes,
            added_bytes = summary.data_added_packed_bytes,
            "base backup taken"
        );
        Ok(BaseBackup { snapshot, facts })
    }
}

fn meta(entry: &Entry) -> NodeMeta {
    let mtime = FileTime::new(entry.modified_s, 0);
    NodeMeta { uid: entry.uid, gid: entry.gid, mtime, ..NodeMeta::new(entry.mode, Timestamp::UNIX_EPOCH) }
}

fn engine_error(error: engine::Error) -> Error {
    const DATA_CORRUPTED: &str = "XX001";
    match error {
        engine::Error::Interrupted { .. } => Error::Stopped,
        engine::Error::Server(server) if server.sqlstate == DATA_CORRUPTED => {
            Error::DamagedPages { detail: server.message }
        }
        source => Error::Engine { doing: DOING, source },
    }
}

fn read_error(error: io::Error) -> Error {
    engine_error(engine::Error::from_read(DOING, error))
}

fn tar_error(error: TarError) -> Error {
    match error {
        TarError::Read(error) => read_error(error),
        other => Error::BaseDiffers { problems: 1, first: other.to_string() },
    }
}

/// The vault's error, unless the stream that it read from failed.
fn vault_error(error: levee_vault::Error) -> Error {
    match error {
        levee_vault::Error::Source { path, source } => match source.downcast::<engine::Error>() {
            Ok(inner) => engine_error(inner),
            Err(source) => Error::Vault { doing: DOING, source: levee_vault::Error::Source { path, source } },
        },
        source => Error::Vault { doing: DOING, source },
    }
}
