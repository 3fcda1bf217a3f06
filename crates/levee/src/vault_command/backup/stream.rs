//! A snapshot of one file that comes on standard input or from a command.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use jiff::Timestamp;
use levee_vault::{BackupSummary, Chunking, Event, NodeMeta, Progress, SnapshotOptions, SnapshotWriter, Vault};

use super::super::ended;
use super::super::progress::Display;
use super::Arguments;
use super::copies::Targets;

/// What a file is that was never on a disk.
const MODE: u32 = 0o644;

/// Whether the arguments go together.
pub fn refuse_wrong_use(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.stdin && !arguments.paths.is_empty() {
        bail!("--stdin stores standard input alone: leave out the paths");
    }
    if arguments.stdin_from_command && arguments.paths.is_empty() {
        bail!("--stdin-from-command needs the command: levee vault backup --stdin-from-command -- COMMAND ARGUMENTS");
    }
    relative_name(arguments).map(drop)
}

fn relative_name(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    let name = Path::new("/").join(&arguments.stdin_filename);
    let Ok(relative) = name.strip_prefix("/").map(Path::to_path_buf) else { bail!("the file needs a name") };
    Ok(relative)
}

pub fn store(
    vault: &Vault,
    arguments: Arguments,
    targets: &Targets,
    display: &Display,
) -> anyhow::Result<BackupSummary> {
    let relative = relative_name(&arguments)?;
    let options = SnapshotOptions {
        host: arguments.host,
        tags: arguments.tag.into_iter().filter(|tag| !tag.is_empty()).collect(),
        paths: vec![Path::new("/").join(&relative)],
        time: arguments.time,
        parent: None,
        compression: arguments.compression.into(),
        dry_run: arguments.dry_run,
        patience: arguments.retry_lock,
        side_by_side: targets.side_by_side(),
    };
    let mut writer = SnapshotWriter::begin(vault, options).map_err(ended)?;
    let meta = NodeMeta::new(MODE, Timestamp::now());
    if arguments.stdin_from_command {
        store_command(&mut writer, &relative, &meta, &arguments.paths, display)?;
    } else {
        let mut counted = Counted { source: io::stdin().lock(), display };
        writer.file(&relative, &meta, &mut counted, Chunking::Content).map_err(ended)?;
    }
    writer.finish().map_err(ended)
}

/// Without `finish`, which is not reached when the command fails, there is no snapshot.
fn store_command(
    writer: &mut SnapshotWriter,
    path: &Path,
    meta: &NodeMeta,
    command: &[PathBuf],
    display: &Display,
) -> anyhow::Result<()> {
    let [program, arguments @ ..] = command else { bail!("no command was given") };
    let shown = program.display();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let Some(source) = child.stdout.take() else { bail!("{shown} has no standard output") };
    let stored = writer.file(path, meta, &mut Counted { source, display }, Chunking::Content);
    // The pipe is closed by now: a command that still writes ends of that.
    let status = child.wait().with_context(|| format!("cannot wait for {shown}"))?;
    stored.map_err(ended)?;
    if !status.success() {
        bail!("{shown} failed ({status}): what it printed may not be all; no snapshot was made");
    }
    Ok(())
}

/// Tells the display what was read.
struct Counted<'a, R> {
    source: R,
    display: &'a Display,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.display.report(Event::Bytes(count as u64));
        Ok(count)
    }
}
