//! Writing large files past the page cache.
//!
//! On a virtual machine a fresh page in the cache costs more than the disk. What belongs together in a
//! file is collected in an aligned buffer; its whole blocks are written with O_DIRECT, what is left at both
//! ends as usual. A block is never written both ways at once: the ends lie in other blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Files from this size on are written this way; below, the cache is quicker.
pub(super) const DIRECT_FROM_BYTES: u64 = 8 << 20;
/// What O_DIRECT asks of memory and position on every common disk.
const BLOCK_BYTES: usize = 4096;
/// As much as is read at once of a pack. One for each writing thread.
const BUFFER_BYTES: usize = 8 << 20;
/// Less than this is not worth a wait for the disk.
const DIRECT_BYTES_MIN: usize = 256 << 10;

/// Memory that starts at a block's border.
pub(super) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    fn new() -> Self {
        let memory = vec![0; BUFFER_BYTES + 2 * BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Self { memory, start }
    }
}

/// Buffers that go round, so that their memory is fetched from the system once.
#[derive(Default)]
pub(super) struct BufferPool(Mutex<Vec<AlignedBuffer>>);

impl BufferPool {
    fn take(&self) -> AlignedBuffer {
        // Each change of the list is one push or pop.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(AlignedBuffer::new)
    }

    fn give(&self, buffer: AlignedBuffer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Collects what is written next to each other in one file.
pub(super) struct DirectWriter<'a> {
    pool: &'a BufferPool,
    buffer: Option<AlignedBuffer>,
    file: File,
    /// The same file opened with O_DIRECT; `None` where the file system cannot.
    direct: Option<File>,
    /// Where the collected bytes go.
    offset: u64,
    length: usize,
}

impl<'a> DirectWriter<'a> {
    pub fn new(pool: &'a BufferPool, file: File, direct: Option<File>) -> Self {
        Self { pool, buffer: Some(pool.take()), file, direct, offset: 0, length: 0 }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes bytes for a position. What was collected for elsewhere is written first.
    pub fn write(&mut self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        if self.length > 0 && offset != self.offset + self.length as u64 {
            self.finish()?;
        }
        if self.length == 0 {
            self.offset = offset;
        }
        while !bytes.is_empty() {
            let Some(buffer) = &mut self.buffer else { return self.file.write_all_at(bytes, offset) };
            let used = buffer.start + (self.offset % BLOCK_BYTES as u64) as usize + self.length;
            let count = bytes.len().min(buffer.start + BUFFER_BYTES - used);
            if count == 0 {
                self.flush(false)?;
                continue;
            }
            buffer.memory[used..used + count].copy_from_slice(&bytes[..count]);
            self.length += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Writes all that was collected.
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush(true)
    }

    /// Writes whole blocks; the rest only `to_the_end`, otherwise it stays for what comes next.
    fn flush(&mut self, to_the_end: bool) -> io::Result<()> {
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        let skew = (self.offset % BLOCK_BYTES as u64) as usize;
        let head = ((BLOCK_BYTES - skew) % BLOCK_BYTES).min(self.length);
        let body = (self.length - head) / BLOCK_BYTES * BLOCK_BYTES;
        let from = buffer.start + skew;
        let collected = &buffer.memory[from..from + self.length];
        let body_offset = self.offset + head as u64;
        self.file.write_all_at(&collected[..head], self.offset)?;
        match &self.direct {
            Some(direct) if body >= DIRECT_BYTES_MIN => {
                match direct.write_all_at(&collected[head..head + body], body_offset) {
                    // Some file systems notice only now that they cannot.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        self.direct = None;
                        self.file.write_all_at(&collected[head..head + body], body_offset)?;
                    }
                    result => result?,
                }
            }
            _ => self.file.write_all_at(&collected[head..head + body], body_offset)?,
        }
        let rest = self.length - head - body;
        if to_the_end {
            self.file.write_all_at(&collected[head + body..], body_offset + body as u64)?;
            self.length = 0;
        } else {
            buffer.memory.copy_within(from + head + body..from + self.length, buffer.start);
            self.offset = body_offset + body as u64;
            self.length = rest;
        }
        Ok(())
    }
}

impl Drop for DirectWriter<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;
    use proptest::prelude::*;

    /// A file, and another one for what goes past the cache: together they hold what one would.
    struct Apart {
        folder: tempfile::TempDir,
    }

    impl Apart {
        fn new() -> Self {
            Self { folder: tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap() }
        }

        fn writer<'a>(&self, pool: &'a BufferPool) -> DirectWriter<'a> {
            let open = |name: &str, flags: rustix::fs::OFlags| {
                let mut options = File::options();
                options.create_new(true).read(true).write(true).custom_flags(flags.bits() as i32);
                options.open(self.folder.path().join(name)).expect("a file system with O_DIRECT")
            };
            let direct = open("direct", rustix::fs::OFlags::DIRECT);
            DirectWriter::new(pool, open("cached", rustix::fs::OFlags::empty()), Some(direct))
        }

        /// What went through the cache, and what went past it.
        fn contents(&self) -> (Vec<u8>, Vec<u8>) {
            let read = |name: &str| std::fs::read(self.folder.path().join(name)).unwrap();
            (read("cached"), read("direct"))
        }
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position % 251) as u8 + 1).collect()
    }

    #[test]
    fn whole_blocks_go_past_the_cache_and_the_ends_through_it() {
        let (apart, pool, start) = (Apart::new(), BufferPool::default(), 1000);
        let bytes = pattern(3 << 20);
        let mut writer = apart.writer(&pool);
        writer.write(start as u64, &bytes).unwrap();
        writer.finish().unwrap();
        assert!(writer.direct.is_some(), "O_DIRECT was refused");
        let end = start + bytes.len();
        let (body, body_end) = (BLOCK_BYTES, end / BLOCK_BYTES * BLOCK_BYTES);
        let (cached, direct) = apart.contents();
        assert_eq!((cached.len(), direct.len()), (end, body_end));
        assert!(direct[body..] == bytes[body - start..body_end - start]);
        assert!(cached[start..body] == bytes[..body - start] && cached[body_end..] == bytes[body_end - start..]);
        assert!(cached[body..body_end].iter().chain(&direct[..body]).all(|byte| *byte == 0), "written both ways");
    }

    #[test]
    fn what_is_not_worth_a_wait_goes_through_the_cache() {
        let (apart, pool) = (Apart::new(), BufferPool::default());
        let bytes = pattern(DIRECT_BYTES_MIN - BLOCK_BYTES);
        let mut writer = apart.writer(&pool);
        writer.write(0, &bytes).unwrap();
        writer.finish().unwrap();
        assert!(apart.contents() == (bytes, Vec::new()));
    }

    #[test]
    fn buffers_go_round_and_no_more_are_made_than_are_used_at_once() {
        let pool = BufferPool::default();
        let writer = || DirectWriter::new(&pool, tempfile::tempfile().unwrap(), None);
        let memory = |writer: &DirectWriter<'_>| writer.buffer.as_ref().map(|buffer| buffer.memory.as_ptr());
        let (first, second) = (writer(), writer());
        let made = [memory(&first), memory(&second)];
        assert!(made[0] != made[1]);
        drop((first, second));
        for _ in 0..4 {
            let again = writer();
            assert!(made.contains(&memory(&again)));
            assert_eq!(pool.0.lock().unwrap().len(), 1);
        }
        assert_eq!(pool.0.lock().unwrap().len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_written_in_pieces_reads_as_a_whole(
            cuts in prop::collection::vec(1_usize..3 << 20, 1..12),
            start in 0_u64..20_000,
            gap_at in 0_usize..12,
        ) {
            let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let path = folder.path().join("file");
            let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
            let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
            let direct = File::options().write(true).custom_flags(flags).open(&path).ok();
            let pool = BufferPool::default();
            let mut writer = DirectWriter::new(&pool, file, direct);
            let mut expected = vec![0; start as usize];
            for (number, length) in cuts.into_iter().enumerate() {
                if number == gap_at {
                    expected.resize(expected.len() + 12_345, 0);
                }
                let bytes: Vec<u8> = (0..length).map(|position| (position * 7 + number) as u8).collect();
                writer.write(expected.len() as u64, &bytes).unwrap();
                expected.extend(bytes);
            }
            writer.finish().unwrap();
            prop_assert!(std::fs::read(&path).unwrap() == expected);
        }
    }
}
