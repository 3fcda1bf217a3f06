use std::collections::{BTreeMap, HashMap, HashSet};

use levee_store::FileType;

use super::{CheckOptions, CheckReport, IndexedPack, ReadData};
use crate::pack::{PackedBlob, fingerprint, read_header};
use crate::parallel::{parallel_map, parallel_map_with};
use crate::problem::with_sources;
use crate::vault::BlobOpener;
use crate::{Error, Event, Id, Progress, Result, Thaw, Vault};

/// Packs are looked at in groups, so that what is shown in between is true.
const GROUP: usize = 64;
/// A pack that is read whole is in memory whole; restic's are 128 MiB at most.
pub(crate) const PACK_BYTES_MAX: u64 = 4 << 30;

/// The packs that are there, with their sizes.
pub(super) fn list_packs(vault: &Vault) -> Result<HashMap<Id, u64>> {
    let listed = vault.store().list(FileType::Data)?.into_iter();
    Ok(listed.filter_map(|entry| Some((entry.name.parse().ok()?, entry.size_bytes))).collect())
}

/// Compares these packs of the index with those that are there, and their headers or all of their content.
///
/// What was just stored may be in no list yet: asked for by its name it is there, and joins those that are listed.
pub(super) fn check_packs(
    vault: &Vault,
    options: CheckOptions,
    indexed: &BTreeMap<Id, IndexedPack>,
    listed: &mut HashMap<Id, u64>,
    progress: &dyn Progress,
) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let unlisted: Vec<Id> = indexed.keys().filter(|pack| !listed.contains_key(*pack)).copied().collect();
    let size = |pack: &Id| vault.store().size_bytes(FileType::Data, &pack.to_hex());
    for (pack, size) in unlisted.iter().zip(parallel_map(super::FETCHES_AT_ONCE, &unlisted, size)) {
        match size {
            Ok(size) => {
                listed.insert(*pack, size);
            }
            Err(levee_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let listed = &*listed;
    let archived = vault.archived_packs()?;
    let frozen: HashSet<Id> = Thaw::look(vault, &archived, |_| true)?.unreadable().collect();
    let sizes = || listed.iter().filter(|(pack, _)| indexed.contains_key(*pack)).map(|(id, size)| (*id, *size));
    let read_whole: HashSet<Id> = match options.read_data {
        ReadData::Headers => HashSet::new(),
        ReadData::All => sizes().map(|(id, _)| id).collect(),
        ReadData::Subset(subset) => subset.choose(&sizes().collect::<Vec<_>>())?,
    };
    let frozen_to_read: Vec<&Id> = frozen.iter().filter(|pack| read_whole.contains(*pack)).collect();
    if !frozen_to_read.is_empty() {
        let bytes = frozen_to_read.iter().filter_map(|pack| archived.get(*pack)).sum();
        return Err(Error::PacksFrozen { location: vault.location(), packs: frozen_to_read.len() as u64, bytes });
    }
    if !frozen.is_empty() {
        let message = format!("the headers of {} packs in an archive class were not read", frozen.len());
        report.hint("data".into(), message);
    }
    report.blobs = indexed.values().map(|known| known.blobs).sum();
    for (pack, IndexedPack { file, bytes: expected, .. }) in indexed {
        match listed.get(pack) {
            None => {
                report.error(format!("data/{pack}"), format!("it is missing; index/{file} names it"));
            }
            Some(size) if size != expected => {
                report.error(format!("data/{pack}"), format!("it is {size} bytes long instead of {expected}"));
            }
            Some(_) => {}
        }
    }
    let readable = indexed.iter().filter(|(pack, _)| !frozen.contains(*pack));
    let there: Vec<(Id, u64, &Id)> =
        readable.filter_map(|(pack, known)| Some((*pack, *listed.get(pack)?, &known.fingerprint))).collect();
    let bytes = there.iter().filter(|(pack, ..)| read_whole.contains(pack)).map(|(_, size, _)| size).sum();
    progress.report(Event::Total { items: there.len() as u64, bytes });
    for group in there.chunks(GROUP) {
        let look = |reader: &mut PackReader<'_>, (pack, size, indexed): &(Id, u64, &Id)| {
            if !read_whole.contains(pack) {
                return check_header(vault, pack, *size, indexed);
            }
            let looked = reader.check_content(pack, *size, indexed);
            progress.report(Event::Bytes(*size));
            looked
        };
        for ((pack, size, _), problems) in
            group.iter().zip(parallel_map_with(vault.pack_threads(), group, || PackReader::new(vault), look))
        {
            if read_whole.contains(pack) {
                report.packs_read += 1;
                report.bytes_read += size;
            }
            for problem in problems {
                report.error(format!("data/{pack}"), problem);
            }
        }
    }
    Ok(report)
}

/// Names the packs that no index file has.
pub(super) fn hint_at_unindexed(listed: &HashMap<Id, u64>, indexed: &HashSet<Id>, report: &mut CheckReport) {
    let mut unindexed: Vec<_> = listed.keys().filter(|pack| !indexed.contains(*pack)).collect();
    unindexed.sort();
    for pack in unindexed {
        let message =
            "no index names it: it is left over from an interrupted backup, or waits to be deleted by a prune";
        report.hint(format!("data/{pack}"), message.into());
    }
}

/// `indexed` is the fingerprint of what the index says of it, here as below.
fn check_header(vault: &Vault, pack: &Id, size: u64, indexed: &Id) -> Vec<String> {
    let name = pack.to_hex();
    let read = |offset, length| Ok(vault.store().read_range(FileType::Data, &name, offset, length)?);
    match read_header(vault.key(), size, read) {
        Ok(Ok(mut blobs)) => compare(&mut blobs, indexed),
        Ok(Err(problem)) => vec![problem],
        Err(error) => vec![with_sources(&error)],
    }
}

fn compare(blobs: &mut [PackedBlob], indexed: &Id) -> Vec<String> {
    blobs.sort_unstable();
    if fingerprint(blobs) == *indexed { Vec::new() } else { vec!["its header does not agree with the index".into()] }
}

/// What a thread needs for all packs that it reads: fresh memory for each is dear.
struct PackReader<'a> {
    vault: &'a Vault,
    content: Vec<u8>,
    opener: Result<BlobOpener<'a>>,
}

impl<'a> PackReader<'a> {
    fn new(vault: &'a Vault) -> Self {
        Self { vault, content: Vec::new(), opener: BlobOpener::new(vault) }
    }

    fn check_content(&mut self, pack: &Id, size: u64, indexed: &Id) -> Vec<String> {
        let opener = match &mut self.opener {
            Ok(opener) => opener,
            Err(error) => return vec![with_sources(error)],
        };
        let length = match usize::try_from(size) {
            Ok(length) if size <= PACK_BYTES_MAX => length,
            _ => return vec![format!("{size} bytes are too many for a pack")],
        };
        match self.vault.read_pack_part_into(pack, 0, length, &mut self.content) {
            Ok(()) => look_at_content(opener, pack, &mut self.content[..length], Some(indexed)),
            Err(error) => vec![with_sources(&error)],
        }
    }
}

/// What is wrong with a pack's content: whether its blobs are what its header says, and that what the index says, if it is
/// given.
pub(crate) fn look_at_content(
    opener: &mut BlobOpener<'_>,
    pack: &Id,
    content: &mut [u8],
    indexed: Option<&Id>,
) -> Vec<String> {
    if Id::of(content) != *pack {
        return vec!["its content does not have the hash that is its name".into()];
    }
    let part = |offset: u64, length: usize| {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(length);
        // The size in the listing may be a lie; then this is no pack.
        Ok(content.get(offset..end).unwrap_or_default().to_vec())
    };
    let (blobs, mut problems) = match read_header(opener.vault().key(), content.len() as u64, part) {
        Ok(Ok(mut blobs)) => {
            let problems = indexed.map(|indexed| compare(&mut blobs, indexed)).unwrap_or_default();
            (blobs, problems)
        }
        Ok(Err(problem)) => return vec![problem],
        Err(error) => return vec![with_sources(&error)],
    };
    for blob in &blobs {
        let from = blob.offset as usize;
        let Some(sealed) = content.get_mut(from..from.saturating_add(blob.length as usize)) else {
            problems.push(format!("{} blob {} lies behind its end", blob.kind, blob.id));
            continue;
        };
        match opener.open(pack, blob, sealed) {
            Ok(_) => {}
            Err(Error::Damaged { reason, .. }) => problems.push(reason),
            Err(error) => problems.push(with_sources(&error)),
        }
    }
    problems
}
