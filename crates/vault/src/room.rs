//! Room in buffers that are used again and again.

use std::collections::TryReserveError;

/// What a buffer of chunks is large: nearly every chunk fits, with what sealing and a bad compression add to it.
pub(crate) const CHUNK_ROOM_BYTES: usize = (2 << 20) + (64 << 10);
/// Below this a buffer is as large as what it is for.
const SMALL_BYTES: usize = 64 << 10;
/// Steps in which larger ones grow.
const STEP_BYTES: usize = 256 << 10;

/// Empties a buffer and gets room for so many bytes.
///
/// A vector by itself grows to twice its size, and buffers of many sizes that come and go by the megabyte leave as much
/// memory idle as is in use. So there is one size for nearly all.
pub(crate) fn empty_with_room(buffer: &mut Vec<u8>, bytes: usize) {
    buffer.clear();
    if buffer.capacity() < bytes {
        buffer.reserve_exact(room_for(bytes));
    }
}

/// The same for a length that somebody else has named, for which there may be no memory.
pub(crate) fn try_empty_with_room(buffer: &mut Vec<u8>, bytes: usize) -> Result<(), TryReserveError> {
    buffer.clear();
    if buffer.capacity() < bytes { buffer.try_reserve_exact(room_for(bytes)) } else { Ok(()) }
}

fn room_for(bytes: usize) -> usize {
    if bytes <= SMALL_BYTES {
        bytes
    } else if bytes <= CHUNK_ROOM_BYTES {
        CHUNK_ROOM_BYTES
    } else {
        bytes.checked_next_multiple_of(STEP_BYTES).unwrap_or(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_ROOM_BYTES, empty_with_room};

    #[test]
    fn there_is_one_size_for_nearly_all() {
        let check = |bytes: usize, room: usize| {
            let mut buffer = vec![1; 10];
            empty_with_room(&mut buffer, bytes);
            assert!(buffer.is_empty());
            assert_eq!(buffer.capacity(), room, "{bytes}");
            empty_with_room(&mut buffer, 5);
            assert_eq!(buffer.capacity(), room, "{bytes}");
        };
        check(5, 10);
        check(64 << 10, 64 << 10);
        check(65 << 10, CHUNK_ROOM_BYTES);
        check(CHUNK_ROOM_BYTES, CHUNK_ROOM_BYTES);
        check(5 << 20, 5 << 20);
        check((5 << 20) + 1, (5 << 20) + (256 << 10));
    }
}
