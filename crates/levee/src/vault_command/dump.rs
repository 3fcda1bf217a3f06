use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use levee_vault::{ArchiveFormat, NodeKind, Vault};

use super::place::Place;
use super::selection::FilterArguments;
use super::snapshot_argument::Chosen;
use super::{ended, open};
use crate::exit::Exit;

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

pub fn run(place: &Place, arguments: Arguments) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let chosen = Chosen::find(&vault, &arguments.snapshot, &arguments.filter.selection()?)?;
    let mut out: Box<dyn Write> = match &arguments.target {
        None => Box::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock())),
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
            Box::new(BufWriter::with_capacity(BUFFER_BYTES, file))
        }
    };
    dump(&vault, &chosen, &arguments.wanted, arguments.archive.into(), &mut out)?;
    out.flush().context("cannot write the output")?;
    Ok(Exit::DONE)
}

fn dump(vault: &Vault, chosen: &Chosen, path: &Path, format: ArchiveFormat, out: &mut dyn Write) -> anyhow::Result<()> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let whole = chosen.folder.join(inside);
    match vault.find_node(&chosen.id, &whole).map_err(ended)? {
        Some(node) if node.kind == NodeKind::File => {
            vault.copy_content(&node, out).map_err(ended)?;
        }
        Some(node) if node.kind != NodeKind::Dir => {
            bail!("{} is a {}: only files and folders can be written out", path.display(), node.kind.as_str());
        }
        _ => {
            let tree = vault.directory_tree(&chosen.id, &whole).map_err(ended)?;
            levee_vault::dump_archive(vault, &tree, inside, format, out).map_err(ended)?;
        }
    }
    Ok(())
}
