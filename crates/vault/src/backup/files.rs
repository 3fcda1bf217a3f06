use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::metadata::{distrust_if_just_changed, node_of_file};
use super::{Context, Counts};
use crate::chunker::{CHUNK_BYTES_MIN, Chunker};
use crate::session::{ClosedContent, Content};
use crate::{Chunking, Error, Event, ItemChange, Node, Result};

/// A file whose content has to be read.
pub(super) struct FileTask {
    pub path: PathBuf,
    pub change: ItemChange,
    pub reply: Sender<ReadFile>,
}

/// A file that has been read; its chunks may still be on their way.
pub(super) struct ReadFile {
    pub node: Node,
    pub content: ClosedContent,
}

/// Reads files until no more come. After a failure the rest is thrown away, so that nobody waits.
pub(super) fn read_files(context: &Context<'_>, tasks: &Receiver<FileTask>) {
    let mut chunker = Chunker::new();
    for task in tasks {
        if context.session.shared.has_failed() {
            continue;
        }
        if let Err(error) = read_file(context, &mut chunker, task) {
            context.session.shared.fail(error);
        }
    }
}

fn read_file(context: &Context<'_>, chunker: &mut Chunker, task: FileTask) -> Result<()> {
    let FileTask { path, change, reply } = task;
    let read_at = SystemTime::now();
    let opened = open(&path).and_then(|file| {
        let metadata = file.metadata()?;
        Ok((file, metadata))
    });
    let (mut file, metadata) = match opened {
        Ok((file, metadata)) if metadata.is_file() => (file, metadata),
        // It has become something else; the next backup will see what.
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            context.problems.add_error(&path, "cannot open it", &error);
            return Ok(());
        }
    };
    let mut node = node_of_file(context, &file, &path, &metadata);
    distrust_if_just_changed(&mut node, read_at);
    match store_content(context, chunker, &mut file, &metadata) {
        Ok((content, bytes)) => {
            // What was read counts, whatever the length was before: restic doesn't check it, we do.
            node.size = bytes;
            let counter =
                if change == ItemChange::New { &context.counts.files_new } else { &context.counts.files_changed };
            Counts::add(counter, 1);
            Counts::add(&context.counts.total_files, 1);
            Counts::add(&context.counts.total_bytes, bytes);
            context.progress.report(Event::Item { path: &path, change });
            // The one who asked has failed when nobody listens.
            let _ = reply.send(ReadFile { node, content });
            Ok(())
        }
        Err(StoreError::Read(error)) => {
            context.problems.add_error(&path, "cannot read it", &error);
            Ok(())
        }
        Err(StoreError::Pipeline(error)) => Err(error),
    }
}

enum StoreError {
    Read(std::io::Error),
    Pipeline(Error),
}

fn open(path: &Path) -> std::io::Result<File> {
    let flags = |flags: OFlags| flags.bits() as i32;
    // Not to wait for a writer when it has just become a FIFO, and not to follow it when it has become a link.
    let base = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let quiet = OpenOptions::new().read(true).custom_flags(flags(base | OFlags::NOATIME)).open(path);
    match quiet {
        // Only owners may read without leaving a trace.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            OpenOptions::new().read(true).custom_flags(flags(base)).open(path)
        }
        result => result,
    }
}

/// Reads up to so many bytes, and says whether that was all.
fn read_up_to(file: &File, limit: usize, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    while buffer.len() < limit {
        buffer.reserve(1);
        match rustix::io::read(file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

fn store_content(
    context: &Context<'_>,
    chunker: &mut Chunker,
    file: &mut File,
    metadata: &Metadata,
) -> Result<(ClosedContent, u64), StoreError> {
    let buffers = &context.session.shared.chunk_buffers;
    let mut content = Content::new();
    let mut bytes = 0;
    let mut add = |chunk: Vec<u8>| {
        bytes += chunk.len() as u64;
        context.progress.report(Event::Bytes(chunk.len() as u64));
        context.session.add_chunk(&mut content, chunk).map_err(StoreError::Pipeline)
    };
    if metadata.len() < CHUNK_BYTES_MIN as u64 {
        // It would be one chunk in any case: no need for the detour through the chunker's buffer.
        let mut chunk = buffers.take();
        chunk.clear();
        // One byte more than the file is said to have, so that its end is seen without another buffer.
        chunk.reserve(metadata.len() as usize + 1);
        let may_go_on = !read_up_to(file, CHUNK_BYTES_MIN, &mut chunk).map_err(StoreError::Read)?;
        if chunk.is_empty() {
            buffers.give(chunk);
        } else {
            add(chunk)?;
        }
        if !may_go_on {
            return Ok((content.close(), bytes));
        }
    }
    chunker.reset(Chunking::Content);
    loop {
        let mut chunk = buffers.take();
        if !chunker.next(file, &mut chunk).map_err(StoreError::Read)? {
            buffers.give(chunk);
            break;
        }
        add(chunk)?;
    }
    Ok((content.close(), bytes))
}
