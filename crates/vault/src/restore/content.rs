//! Reading packs in large pieces and writing their blobs where they belong.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use levee_store::FileType;
use rustix::fs::OFlags;

use super::Context;
use super::prepare::{PreparedFile, finish_file};
use crate::chunker::is_hole;
use crate::pack::PackedBlob;
use crate::parallel::{compute_threads, parallel_map};
use crate::vault::BlobOpener;
use crate::{BlobKind, Error, Event, Id, Result};

/// Read at once at most; a few of these are in memory for each thread.
const PIECE_BYTES_MAX: u32 = 8 << 20;
/// A gap up to this size is read and thrown away rather than asked for separately.
const GAP_BYTES_MAX: u32 = 128 << 10;

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
    destinations.sort_unstable_by_key(|place| (place.pack, place.blob.offset, place.file, place.offset));
    let pieces: Vec<&[Destination]> = destinations.chunk_by(|a, b| a.pack == b.pack).flat_map(cut_pieces).collect();
    // Twice as many threads as cores: some wait for the store while others compute.
    parallel_map(compute_threads() * 2, &pieces, |piece| write_piece(context, files, piece));
    Ok(())
}

/// Cuts what is needed of one pack into pieces that are read at once.
fn cut_pieces(mut rest: &[Destination]) -> Vec<&[Destination]> {
    let mut pieces = Vec::new();
    while let Some((first, others)) = rest.split_first() {
        let start = first.blob.offset;
        let mut end = start + first.blob.length;
        let mut count = 1;
        for Destination { blob, .. } in others {
            let blob_end = blob.offset + blob.length;
            if blob.offset > end.saturating_add(GAP_BYTES_MAX)
                || blob_end - start > PIECE_BYTES_MAX.max(first.blob.length)
            {
                break;
            }
            end = end.max(blob_end);
            count += 1;
        }
        let (piece, after) = rest.split_at(count);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn write_piece(context: &Context<'_>, files: &[PreparedFile], piece: &[Destination]) {
    let Some(first) = piece.first() else { return };
    let end = piece.iter().map(|place| place.blob.offset + place.blob.length).max().unwrap_or(0);
    let (start, name) = (first.blob.offset, first.pack.to_hex());
    let read = context.vault.store().read_range(FileType::Data, &name, u64::from(start), (end - start) as usize);
    let opener = BlobOpener::new(context.vault);
    let mut writer = Writer { context, files, open: None };
    match (read, opener) {
        (Ok(mut bytes), Ok(mut opener)) => {
            for places in piece.chunk_by(|a, b| a.blob.offset == b.blob.offset) {
                let blob = &places[0].blob;
                let from = (blob.offset - start) as usize;
                match opener.open(&first.pack, blob, &mut bytes[from..from + blob.length as usize]) {
                    Ok(plaintext) => writer.write_all(places, plaintext),
                    Err(error) => writer.write_from_elsewhere(places, &error),
                }
            }
        }
        (Err(error), _) => {
            let error = Error::from(error);
            for places in piece.chunk_by(|a, b| a.blob.offset == b.blob.offset) {
                writer.write_from_elsewhere(places, &error);
            }
        }
        (_, Err(error)) => writer.fail(piece, &error),
    }
}

/// Writes blobs into files; neighbouring blobs mostly go into the same one, which stays open.
struct Writer<'a> {
    context: &'a Context<'a>,
    files: &'a [PreparedFile],
    open: Option<(usize, File)>,
}

impl Writer<'_> {
    fn write_all(&mut self, places: &[Destination], plaintext: &[u8]) {
        let hole = self.context.options.sparse && is_hole(plaintext);
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
            let file = &self.files[place.file];
            // One message for each file, however many of its blobs are concerned.
            if !file.has_failed.swap(true, Ordering::Relaxed) {
                self.context.problem(&file.path, error);
            }
        }
    }

    fn write(&mut self, place: &Destination, plaintext: &[u8], hole: bool) -> Result<()> {
        let file = &self.files[place.file];
        let target = self.context.target;
        let opened = match self.open.take() {
            Some((number, opened)) if number == place.file => opened,
            _ => target.open_file(&file.path, OFlags::RDWR)?,
        };
        if !(hole && file.is_fresh) {
            opened.write_all_at(plaintext, place.offset).map_err(|source| target.error("write", &file.path, source))?;
            self.context.bytes_written.fetch_add(plaintext.len() as u64, Ordering::Relaxed);
        }
        self.context.progress.report(Event::Bytes(plaintext.len() as u64));
        if file.remaining.fetch_sub(1, Ordering::AcqRel) == 1 && !file.has_failed.load(Ordering::Relaxed) {
            finish_file(self.context, &file.path, &file.node, &opened, file.is_fresh);
        }
        self.open = Some((place.file, opened));
        Ok(())
    }
}
