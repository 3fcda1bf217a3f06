use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use levee_image::{FileKind, ReadAt};
use levee_vault::{Event, Progress};

use super::super::open;
use super::super::place::Place;
use super::super::progress::{Display, During};
use super::super::selection::FilterArguments;
use super::super::snapshot_argument::Chosen;
use super::place_in_image::{Disk, Inside, PlaceInImage};
use super::thawing::{ImageThawArguments, Needed, with_disk};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// A file to write to instead of standard output
    #[arg(short, long, value_name = "FILE")]
    target: Option<PathBuf>,
    #[command(flatten)]
    thawing: ImageThawArguments,
    /// `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// A file in an image, or an image, which is written raw
    #[arg(value_name = "NAME[:[PARTITION]/PATH]")]
    wanted: String,
}

/// Read of an image at once.
const PIECE_BYTES: usize = 4 << 20;

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let chosen = Chosen::find(&vault, &arguments.snapshot, &arguments.filter.selection()?)?;
    let found = PlaceInImage::find(&vault, &chosen.id, &arguments.wanted)?;
    if arguments.thawing.waits() && output.is_json() && arguments.target.is_none() {
        bail!("how far --thaw is goes to standard output with --json, where the content goes: give that a --target");
    }
    if arguments.thawing.goes_on(&Needed::of_image(&vault, &chosen.id, &found.image), false, output)? {
        with_disk(&vault, &chosen.id, &found.image, |disk| dump(disk, &found.inside, &arguments, output))?;
    }
    Ok(Exit::DONE)
}

fn dump(disk: &Disk, inside: &Inside, arguments: &Arguments, output: Output) -> anyhow::Result<()> {
    let file_system;
    let (mut content, total_bytes): (Box<dyn Read + '_>, Option<u64>) = match inside {
        Inside::Whole => (Box::new(Whole { disk: disk.whole(), offset: 0 }), Some(disk.size_bytes())),
        Inside::Path { partition, path } => {
            file_system = disk.file_system(*partition)?;
            // Of a link the length is that of its text.
            let attributes = file_system.attributes(path).ok().filter(|attributes| attributes.kind == FileKind::File);
            (file_system.open(path)?, attributes.map(|attributes| attributes.size_bytes))
        }
    };
    let Some(path) = &arguments.target else { return write(&mut *content, &mut io::stdout().lock(), &()) };
    let mut file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let display = Display::new(output, During::Dump);
    if let Some(bytes) = total_bytes {
        display.report(Event::Total { items: 1, bytes });
    }
    let written = write(&mut *content, &mut file, &display);
    display.finish();
    written
}

fn write(content: &mut dyn Read, out: &mut dyn Write, progress: &dyn Progress) -> anyhow::Result<()> {
    let mut buffered = BufWriter::with_capacity(PIECE_BYTES, out);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = content.read(&mut piece).context("cannot read the image")?;
        if count == 0 {
            break;
        }
        buffered.write_all(&piece[..count]).context("cannot write the output")?;
        progress.report(Event::Bytes(count as u64));
    }
    buffered.flush().context("cannot write the output")
}

/// An image from its beginning to its end.
struct Whole {
    disk: Arc<dyn ReadAt>,
    offset: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (self.disk.size_bytes() - self.offset).min(buffer.len() as u64) as usize;
        self.disk.read_at(&mut buffer[..count], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
