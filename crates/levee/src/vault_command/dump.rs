use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use levee_vault::{ArchiveFormat, Event, Id, Node, NodeKind, Progress, Vault};

use super::place::Place;
use super::progress::{Display, During};
use super::selection::FilterArguments;
use super::snapshot_argument::Chosen;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// The form in which a folder is written
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    archive: Format,
    /// A file to write to instead of standard output
    #[arg(short, long, value_name = "FILE")]
    target: Option<PathBuf>,
    /// `latest` or the first digits of an id; with `:FOLDER`, paths begin there
    #[arg(value_name = "SNAPSHOT[:FOLDER]")]
    snapshot: String,
    /// A file, which is written as it is, or a folder; `/` for everything
    #[arg(value_name = "PATH")]
    wanted: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Tar,
    Zip,
}

impl From<Format> for ArchiveFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Tar => ArchiveFormat::Tar,
            Format::Zip => ArchiveFormat::Zip,
        }
    }
}

/// Small writes of archive headers are joined to this size.
const BUFFER_BYTES: usize = 256 << 10;

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let chosen = Chosen::find(&vault, &arguments.snapshot, &arguments.filter.selection()?)?;
    let wanted = Wanted::find(&vault, &chosen, &arguments.wanted)?;
    let format: ArchiveFormat = arguments.archive.into();
    let Some(path) = &arguments.target else {
        wanted.write(&vault, format, &mut io::stdout().lock())?;
        return Ok(Exit::DONE);
    };
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let display = Display::new(output, During::Dump);
    let total_bytes = if display.is_seen() { wanted.total_bytes(&vault, format)? } else { None };
    if let Some(bytes) = total_bytes {
        display.report(Event::Total { items: 1, bytes });
    }
    let mut counted = Counted { file, display: &display, left: total_bytes.unwrap_or(u64::MAX) };
    let written = wanted.write(&vault, format, &mut counted);
    display.finish();
    written?;
    Ok(Exit::DONE)
}

/// What is to be written.
enum Wanted {
    File(Box<Node>),
    /// With the names that its entries begin with.
    Folder {
        tree: Id,
        inside: PathBuf,
    },
}

impl Wanted {
    fn find(vault: &Vault, chosen: &Chosen, path: &Path) -> anyhow::Result<Self> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let whole = chosen.folder.join(inside);
        match vault.find_node(&chosen.id, &whole).map_err(ended)? {
            Some(node) if node.kind == NodeKind::File => Ok(Wanted::File(Box::new(node))),
            Some(node) if node.kind != NodeKind::Dir => {
                bail!("{} is a {}: only files and folders can be written out", path.display(), node.kind.as_str());
            }
            _ => {
                let tree = vault.directory_tree(&chosen.id, &whole).map_err(ended)?;
                Ok(Wanted::Folder { tree, inside: inside.to_path_buf() })
            }
        }
    }

    /// How much there is to write, but for what an archive adds of its own. `None` where it becomes less on the way.
    fn total_bytes(&self, vault: &Vault, format: ArchiveFormat) -> anyhow::Result<Option<u64>> {
        match self {
            Wanted::File(node) => Ok(Some(vault.content_bytes(node).map_err(ended)?)),
            Wanted::Folder { tree, .. } if format == ArchiveFormat::Tar => {
                let mut total_bytes = 0_u64;
                for entry in vault.list_below(tree).map_err(ended)? {
                    let (_, node) = entry.map_err(ended)?;
                    if node.kind == NodeKind::File {
                        total_bytes = total_bytes.saturating_add(node.size);
                    }
                }
                Ok(Some(total_bytes))
            }
            Wanted::Folder { .. } => Ok(None),
        }
    }

    fn write(&self, vault: &Vault, format: ArchiveFormat, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
        match self {
            Wanted::File(node) => {
                vault.copy_content(node, &mut out).map_err(ended)?;
            }
            Wanted::Folder { tree, inside } => {
                levee_vault::dump_archive(vault, tree, inside, format, &mut out).map_err(ended)?;
            }
        }
        out.flush().context("cannot write the output")
    }
}

/// A file that is written to, so that it is seen how far it is.
struct Counted<'a> {
    file: File,
    display: &'a Display,
    /// Of the total. An archive is larger than what it holds, and no more than all is ever done.
    left: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        let counted = self.left.min(count as u64);
        self.left -= counted;
        self.display.report(Event::Bytes(counted));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
