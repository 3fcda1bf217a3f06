//! Data pages: their headers and checksums.
//!
//! Source: PostgreSQL's `bufpage.h` and `checksum_impl.h`, the same from 9.3 to 17.

use levee_model::postgres::Lsn;

/// The only page size that Levee works with, and all but everyone's.
pub const PAGE_SIZE: usize = 8192;

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const BASE_OFFSETS: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C, 0xF8D4474F,
    0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC,
    0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6,
    0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// What a page looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// All zeros: allocated, and never used.
    New,
    /// The checksum is right.
    Valid,
    /// Changed after `since`: what it holds does not matter, since replay writes it again.
    Newer,
    Damaged {
        stored: u16,
        computed: u16,
    },
}

/// Judges a page as PostgreSQL's own base backup does. `block` is its number in the relation, across segments.
pub fn check(page: &[u8; PAGE_SIZE], block: u32, since: Lsn) -> PageState {
    let half = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let upper = half(14);
    if upper == 0 {
        // A page that says it is new must be so; the header is what a torn or zeroed one would lose first.
        return if page.iter().all(|byte| *byte == 0) { PageState::New } else { damaged(page, block, half(8)) };
    }
    if Lsn(u64::from(word(0)) << 32 | u64::from(word(4))) >= since {
        return PageState::Newer;
    }
    let stored = half(8);
    if checksum(page, block) == stored { PageState::Valid } else { damaged(page, block, stored) }
}

fn damaged(page: &[u8; PAGE_SIZE], block: u32, stored: u16) -> PageState {
    PageState::Damaged { stored, computed: checksum(page, block) }
}

/// The checksum that the page should have in its header, whatever is there now.
pub fn checksum(page: &[u8; PAGE_SIZE], block: u32) -> u16 {
    let mix = |sum: u32, value: u32| {
        let mixed = sum ^ value;
        mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
    };
    let mut sums = BASE_OFFSETS;
    for (row_number, row) in page.chunks_exact(LANES * 4).enumerate() {
        for (lane, bytes) in row.chunks_exact(4).enumerate() {
            let mut value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            // The checksum's own place, bytes 8 and 9, counts as zero.
            if row_number == 0 && lane == 2 {
                value &= 0xFFFF_0000;
            }
            sums[lane] = mix(sums[lane], value);
        }
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    // Never zero, so that a page without a checksum is seen.
    (folded % 65_535) as u16 + 1
}

/// The number of the first block of a relation file, when `path` in a data directory is one of a main fork that has
/// checksums: `base/5/16384.2` begins at block 262,144.
pub fn first_block(path: &str) -> Option<u32> {
    let blocks_per_segment: u32 = (1 << 30) / PAGE_SIZE as u32;
    let name = path.rsplit('/').next()?;
    let in_relation_folder = path.starts_with("base/")
        || path.starts_with("global/")
        || path.starts_with("PG_")
        || path.starts_with("pg_tblspc/");
    if !in_relation_folder {
        return None;
    }
    let (relation, segment) = match name.split_once('.') {
        Some((relation, segment)) => (relation, segment.parse::<u32>().ok()?),
        None => (name, 0),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fork_is_known = |fork: &str| ["fsm", "vm", "init"].contains(&fork);
    let is_relation = match relation.split_once('_') {
        Some((number, fork)) => digits(number) && fork_is_known(fork),
        // A temporary relation is `tNNN_NNN`, and never in a backup.
        None => digits(relation),
    };
    if is_relation { segment.checked_mul(blocks_per_segment) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_files_are_told_from_others() {
        let check = |path: &str, first: Option<u32>| assert_eq!(first_block(path), first, "{path}");
        check("base/5/16384", Some(0));
        check("base/5/16384.2", Some(262_144));
        check("base/5/16384_fsm", Some(0));
        check("global/1262", Some(0));
        check("PG_15_202209061/5/16400", Some(0));
        check("global/pg_control", None);
        check("base/5/pg_filenode.map", None);
        check("base/5/PG_VERSION", None);
        check("pg_xact/0000", None);
        check("base/5/16384.99999999999", None);
        check("base/5/16384.4294967295", None);
    }

    #[test]
    fn a_changed_byte_is_damage_unless_the_page_is_newer() {
        let mut page = [0; PAGE_SIZE];
        assert_eq!(check(&page, 7, Lsn(100)), PageState::New);
        page[4] = 50;
        page[14..16].copy_from_slice(&8192u16.to_le_bytes());
        page[4000] = 1;
        let sum = checksum(&page, 7);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(check(&page, 7, Lsn(100)), PageState::Valid);
        page[5000] ^= 1;
        assert!(matches!(check(&page, 7, Lsn(100)), PageState::Damaged { stored, .. } if stored == sum));
        assert_eq!(check(&page, 7, Lsn(50)), PageState::Newer);
    }
}
