use std::io;
use std::sync::Arc;

use crate::Extent;

/// Something of a fixed length that can be read at any position, by several threads.
pub trait ReadAt: Send + Sync {
    fn size_bytes(&self) -> u64;

    /// Fills the buffer. Whatever lies beyond the end is an error of the kind `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Something that also knows where it has nothing.
pub trait SparseRead: ReadAt {
    /// What lies at an offset before the end, and up to where.
    fn extent_at(&self, offset: u64) -> io::Result<(Extent, u64)>;
}

/// Whether a range lies within so many bytes.
pub(crate) fn check_range(size_bytes: u64, offset: u64, length: usize) -> io::Result<()> {
    match offset.checked_add(length as u64) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{length} bytes at {offset} reach beyond the end at {size_bytes}"),
        )),
    }
}

impl ReadAt for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        check_range(self.size_bytes(), offset, buffer.len())?;
        let start = offset as usize;
        buffer.copy_from_slice(&self[start..start + buffer.len()]);
        Ok(())
    }
}

/// A part of something, such as a partition.
#[derive(Clone)]
pub struct Window {
    inner: Arc<dyn ReadAt>,
    start: u64,
    size_bytes: u64,
}

impl Window {
    /// From `start` on, so many bytes; less where the whole ends before.
    pub fn new(inner: Arc<dyn ReadAt>, start: u64, size_bytes: u64) -> Self {
        let size_bytes = size_bytes.min(inner.size_bytes().saturating_sub(start));
        Self { inner, start, size_bytes }
    }
}

impl ReadAt for Window {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        check_range(self.size_bytes, offset, buffer.len())?;
        self.inner.read_at(buffer, self.start + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_its_part_and_no_more() {
        let whole: Arc<dyn ReadAt> = Arc::new((0..100).collect::<Vec<u8>>());
        let check = |start, size, offset, length, expected: Option<u8>| {
            let window = Window::new(whole.clone(), start, size);
            let mut buffer = vec![0; length];
            let read = window.read_at(&mut buffer, offset).ok().map(|()| buffer[0]);
            assert_eq!(read, expected, "{start} {size} {offset} {length}");
        };
        check(10, 20, 0, 20, Some(10));
        check(10, 20, 19, 1, Some(29));
        check(10, 20, 1, 20, None);
        check(90, 20, 9, 1, Some(99));
        check(90, 20, 10, 1, None);
        check(200, 20, 0, 1, None);
        check(0, 100, u64::MAX, 1, None);
    }
}
