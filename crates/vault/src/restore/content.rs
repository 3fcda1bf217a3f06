//! Reading packs in large pieces and writing their blobs where they belong.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, OFlags};

use super::direct::{DIRECT_FROM_BYTES, DirectWriter};
use super::prepare::{FileState, PreparedFile, finish_file, take_back};
use super::{Context, Holes, unfinished};
use crate::chunker::{is_hole, zero_chunk_id};
use crate::pack::PackedBlob;
use crate::parallel::parallel_map_with;
use crate::vault::BlobOpener;
use crate::{BlobKind, Error, Event, Id, Result};

/// Read at once at most; a few of these are in memory for each thread.
const PIECE_BYTES_MAX: u64 = 8 << 20;
/// A gap up to this size is read and thrown away rather than asked for separately.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// A blob and one place where it goes.
struct Destination {
    pack: Id,
    blob: PackedBlob,
    file: usize,
    offset: u64,
}

/// Fetches what the files need and writes it. A file's metadata are set by whoever writes its last blob.
pub(super) fn write(context: &Context<'_>, files: &[PreparedFile]) -> Result<()> {
    let mut destinations = Vec::new();
    for (number, file) in files.iter().enumerate() {
        for needed in &file.needed {
            let location = context.vault.blob_location(BlobKind::Data, &needed.id)?;
            destinations.push(Destination {
                pack: location.pack,
                blob: location.blob,
                file: number,
                offset: needed.offset,
            });
        }
    }
    destinations.sort_unstable_by_key(|place| (place.pack, blob_key(place), place.file, place.offset));
    let pieces: Vec<&[Destination]> = destinations.chunk_by(|a, b| a.pack == b.pack).flat_map(cut_pieces).collect();
    // One more, since some wait for the disk that they write to.
    let begin = || Worker { bytes: Vec::new(), opener: BlobOpener::new(context.vault) };
    let threads = context.vault.pack_threads() + 1;
    parallel_map_with(threads, &pieces, begin, |worker, piece| worker.write_piece(context, files, piece));
    // Only now, since others may have written to it still.
    files.iter().filter(|file| file.lacks_room.load(Ordering::Relaxed)).for_each(|file| take_back(context, file));
    Ok(())
}

/// What makes a blob of a pack. The offset alone does not: a damaged index may give two blobs one place.
fn blob_key(place: &Destination) -> (u32, Id) {
    (place.blob.offset, place.blob.id)
}

/// Cuts what is needed of one pack into pieces that are read at once.
fn cut_pieces(mut rest: &[Destination]) -> Vec<&[Destination]> {
    let mut pieces = Vec::new();
    while let Some((first, others)) = rest.split_first() {
        let start = u64::from(first.blob.offset);
        let mut end = first.blob.end();
        let mut count = 1;
        for Destination { blob, .. } in others {
            if u64::from(blob.offset) > end + GAP_BYTES_MAX
                || blob.end() - start > PIECE_BYTES_MAX.max(u64::from(first.blob.length))
            {
                break;
            }
            end = end.max(blob.end());
            count += 1;
        }
        let (piece, after) = rest.split_at(count);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// What a thread needs for all its pieces: fresh memory for each is dear.
struct Worker<'a> {
    bytes: Vec<u8>,
    opener: Result<BlobOpener<'a>>,
}

impl Worker<'_> {
    fn write_piece(&mut self, context: &Context<'_>, files: &[PreparedFile], piece: &[Destination]) {
        let Some(first) = piece.first() else { return };
        let end = piece.iter().map(|place| place.blob.end()).max().unwrap_or(0);
        let start = u64::from(first.blob.offset);
        let Worker { bytes, opener } = self;
        let read = context.vault.read_pack_part_into(&first.pack, start, (end - start) as usize, bytes);
        let mut writer = Writer { context, files, open: None };
        match (read, opener) {
            (Ok(()), Ok(opener)) => {
                for places in piece.chunk_by(|a, b| blob_key(a) == blob_key(b)) {
                    let blob = &places[0].blob;
                    let from = (u64::from(blob.offset) - start) as usize;
                    match opener.open(&first.pack, blob, &mut bytes[from..from + blob.length as usize]) {
                        Ok(plaintext) => writer.write_all(places, plaintext),
                        Err(error) => writer.write_from_elsewhere(places, &error),
                    }
                }
            }
            (Err(error), _) => {
                for places in piece.chunk_by(|a, b| blob_key(a) == blob_key(b)) {
                    writer.write_from_elsewhere(places, &error);
                }
            }
            (_, Err(error)) => writer.fail(piece, error),
        }
    }
}

/// Writes blobs into files; neighbouring blobs mostly go into the same one, which stays open.
struct Writer<'a> {
    context: &'a Context<'a>,
    files: &'a [PreparedFile],
    open: Option<OpenFile<'a>>,
}

/// The file that is being written.
struct OpenFile<'a> {
    number: usize,
    way: Way<'a>,
    /// Blobs that were handed over and not yet counted as written.
    written: usize,
}

/// How a file is written.
enum Way<'a> {
    /// Through the page cache.
    Buffered(File),
    /// Past it, for large files.
    Direct(DirectWriter<'a>),
}

impl Way<'_> {
    fn file(&self) -> &File {
        match self {
            Way::Buffered(file) => file,
            Way::Direct(writer) => writer.file(),
        }
    }
}

impl<'a> Writer<'a> {
    fn write_all(&mut self, places: &[Destination], plaintext: &[u8]) {
        let hole = self.context.options.holes != Holes::Never && is_hole(plaintext);
        for place in places {
            if let Err(error) = self.write(place, plaintext, hole) {
                self.fail(std::slice::from_ref(place), &error);
            }
        }
    }

    /// Another pack may have a sound copy of a blob that is damaged in this one.
    fn write_from_elsewhere(&mut self, places: &[Destination], error: &Error) {
        let Some(first) = places.first() else { return };
        match self.context.vault.read_blob(BlobKind::Data, &first.blob.id) {
            Ok(plaintext) => self.write_all(places, &plaintext),
            Err(_) => self.fail(places, error),
        }
    }

    fn fail(&self, places: &[Destination], error: &Error) {
        for place in places {
            self.fail_file(place.file, error);
        }
    }

    fn fail_file(&self, number: usize, error: &Error) {
        let file = &self.files[number];
        if is_full(error) {
            file.lacks_room.store(true, Ordering::Relaxed);
        }
        // One message for each file, however many of its blobs are concerned.
        if !file.has_failed.swap(true, Ordering::Relaxed) {
            self.context.problem(&file.path, error);
        }
    }

    fn write(&mut self, place: &Destination, plaintext: &[u8], hole: bool) -> Result<()> {
        let (context, file) = (self.context, &self.files[place.file]);
        if self.open.as_ref().is_none_or(|open| open.number != place.file) {
            self.close();
            self.open = Some(OpenFile { number: place.file, way: self.open_file(file)?, written: 0 });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let failed = |source| context.target.error("write", &file.path, source);
        let length = plaintext.len() as u64;
        let hole = hole && (context.options.holes == Holes::Everywhere || file.state.is_new());
        match (&mut open.way, hole) {
            (_, true) if file.state == FileState::Fresh => {}
            (_, true) if file.state == FileState::ToBeMade => {
                open.way.file().set_len(length).map_err(failed)?;
            }
            // What is there already is given back to the disk.
            (way, true) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                if rustix::fs::fallocate(way.file(), flags, place.offset, length).is_err() {
                    way.file().write_all_at(plaintext, place.offset).map_err(failed)?;
                }
            }
            (Way::Buffered(opened), false) => opened.write_all_at(plaintext, place.offset).map_err(failed)?,
            (Way::Direct(writer), false) => writer.write(place.offset, plaintext).map_err(failed)?,
        }
        // As a dry run foresees it, which looks into no blob.
        if !(hole && place.blob.id == zero_chunk_id()) {
            context.bytes_written.fetch_add(length, Ordering::Relaxed);
        }
        context.progress.report(Event::Bytes(length));
        open.written += 1;
        Ok(())
    }

    fn open_file(&self, file: &PreparedFile) -> Result<Way<'a>> {
        let context = self.context;
        if file.state == FileState::ToBeMade {
            return unfinished::create(context, &file.path).map(Way::Buffered);
        }
        let opened = unfinished::open(context, &file.path, OFlags::RDWR)?;
        if file.node.size < DIRECT_FROM_BYTES {
            return Ok(Way::Buffered(opened));
        }
        // File systems without O_DIRECT refuse it here.
        let direct = unfinished::open(context, &file.path, OFlags::WRONLY | OFlags::DIRECT).ok();
        Ok(Way::Direct(DirectWriter::new(&context.buffers, opened, direct)))
    }

    /// Writes what is still in memory and, when the file is complete, sets its metadata.
    fn close(&mut self) {
        let Some(OpenFile { number, mut way, written }) = self.open.take() else { return };
        let file = &self.files[number];
        if let Way::Direct(writer) = &mut way
            && let Err(source) = writer.finish()
        {
            return self.fail_file(number, &self.context.target.error("write", &file.path, source));
        }
        if file.remaining.fetch_sub(written, Ordering::AcqRel) == written
            && !file.has_failed.load(Ordering::Relaxed)
            && let Err(error) = finish_file(self.context, &file.path, &file.node, way.file())
        {
            self.fail_file(number, &error);
        }
    }
}

fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, Error::Target { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.close();
    }
}
