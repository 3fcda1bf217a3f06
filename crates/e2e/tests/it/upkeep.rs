//! What the recovery site does for its copies by itself: retention, clearing away, reading again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use levee_testing::random;
use levee_testing::wait::{poll, wait_until};
use serde_json::Value;

use super::status::{wait_no_problem, wait_problem};
use super::undelete::{bring_back, wait_copy_with, wait_pruned};
use super::world::{PATIENCE, Process, Setup, Site, World};

/// Everything that a folder holds, in bytes.
pub fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Removed since it was listed.
        Err(_) => 0,
    };
    entries.map(size).sum()
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Bytes that nothing compresses, always the same.
pub fn noise(length: usize) -> Vec<u8> {
    random::noise(1, length)
}

pub fn asset(world: &World, name: &str) -> Option<Value> {
    let status = world.status()?;
    status["assets"].as_array()?.iter().find(|asset| asset["asset"] == name).cloned()
}

/// Waits until the folder's problems are like this.
pub fn wait_documents(world: &World, test: impl Fn(&str) -> bool) -> String {
    let said = poll(PATIENCE, || Some(asset(world, "documents")?["problems"].to_string()).filter(|said| test(said)));
    said.unwrap_or_else(|| panic!("it is {:?}\n{}", asset(world, "documents"), world.log_tails()))
}

/// The packs of a repository, with what is known of each file.
fn packs(repository: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let data = repository.join("data");
    let paths = names(&data).into_iter().flat_map(|folder| {
        let folder = data.join(folder);
        names(&folder).into_iter().map(move |name| folder.join(name))
    });
    paths.filter_map(|path| fs::metadata(&path).ok().map(|metadata| (path, metadata))).collect()
}

/// Flips a bit in a pack, and gives its name.
fn damage(pack: &Path) -> String {
    let mut content = fs::read(pack).unwrap();
    content[100] ^= 1;
    fs::write(pack, content).unwrap();
    pack.file_name().unwrap().to_string_lossy().into_owned()
}

/// A pack with a flipped bit, that the newest copies need.
pub fn damage_a_pack(repository: &Path) -> String {
    // The base backup's are the largest; there is one of the folder's first copy.
    damage(&packs(repository).into_iter().max_by_key(|(_, metadata)| metadata.len()).unwrap().0)
}

/// The same where the log's copies may have packs as large: a base backup is stored before them.
pub fn damage_the_base(repository: &Path) -> String {
    const BASE_BYTES_MIN: u64 = 1 << 20;
    let large = packs(repository).into_iter().filter(|(_, metadata)| metadata.len() >= BASE_BYTES_MIN);
    damage(&large.min_by_key(|(_, metadata)| metadata.modified().unwrap()).unwrap().0)
}

#[test]
fn old_copies_go_their_space_comes_back_and_what_stays_is_read_again() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let kept_long = world.protection_file();
    // Short times in place of days.
    let upkeep = "[app.shop.upkeep]\nprune_every = \"5s\"\ndelete_after = \"1s\"\nverify_within = \"5m\"\n";
    let file = kept_long.replace("every = \"2s\"\n", "every = \"2s\"\nkeep = \"20s\"\n") + upkeep;
    assert!(file.contains("keep = \"20s\""));
    // At first what is removed waits for its deletion, as it does for a day elsewhere.
    let waiting = file.replace("delete_after = \"1s\"", "delete_after = \"1h\"");
    let documents = world.folder(Site::East).join("documents");
    let large = documents.join("large");
    world.apply(&waiting);
    world.wait_protected(Site::East);
    let repository = world.shop_folder(Site::West).join("repository");
    let snapshots = repository.join("snapshots");
    let first = names(&snapshots);

    // Everything of the first copies is read back soon after it came.
    let verified = poll(PATIENCE, || {
        let (orders, documents) = (asset(&world, "orders")?, asset(&world, "documents")?);
        (!orders["last_verified"].is_null() && !documents["last_verified"].is_null()).then_some(documents)
    });
    let verified = verified.unwrap_or_else(|| panic!("nothing was verified\n{}", world.log_tails()));
    assert!(!verified["last_good"].is_null() && verified["last_proven"].is_null(), "{verified}");

    // What was removed at the source goes from the repository with the last copy of it. The base stays, being the only
    // one, and so does the folder's first copy: those that come are held against it for a while.
    let without_large = size_of(&repository);
    fs::write(&large, noise(6 << 20)).unwrap();
    wait_until("the large file to come", PATIENCE, || size_of(&repository) > without_large + (6 << 20));
    let of_large = wait_copy_with(&world, &repository, "large");
    let with_large = size_of(&repository);
    let passing: Vec<String> = names(&snapshots).into_iter().filter(|id| !first.contains(id)).collect();
    fs::remove_file(&large).unwrap();
    let passing_are_gone = || {
        let now = names(&snapshots);
        !passing.iter().any(|id| now.contains(id))
    };
    wait_until("the passing copies to go", PATIENCE, passing_are_gone);
    a_mended_rule_brings_them_back(&world, &waiting, &of_large);
    world.apply(&file);
    wait_until("the passing copies to go again", PATIENCE, passing_are_gone);
    wait_until("the space to come back", PATIENCE, || size_of(&repository) < with_large - (4 << 20));
    assert!(names(&snapshots).len() < 20, "{:?}", names(&snapshots));

    // A drill proves what is left, and the status says so.
    world.expect(&["drill", "shop", "--to", "west"]);
    let proven = asset(&world, "documents").unwrap();
    assert!(proven["last_proven"]["run"].is_string(), "{proven}");
    let text = String::from_utf8_lossy(&world.operator(&["status"]).stdout).into_owned();
    assert!(text.contains("LAST PROVEN") && text.contains(proven["last_proven"]["run"].as_str().unwrap()), "{text}");

    // Everything is encrypted in place. The copies from before stay although their time is over, until somebody has
    // looked at it.
    for number in 0..50 {
        let (path, length) = (documents.join(format!("{number}.txt")), number * 200 + 100);
        fs::write(documents.join(format!("{number}.txt.locked")), noise(length)).unwrap();
        fs::remove_file(path).unwrap();
    }
    let said = wait_documents(&world, |problems| problems.contains("RANSOMWARE"));
    assert!(said.contains("have become .locked") && said.contains("the last good copy is"), "{said}");
    let last_good = said.split("the last good copy is ").nth(1).unwrap()[..8].to_string();
    std::thread::sleep(Duration::from_secs(25));
    assert!(names(&snapshots).iter().any(|id| id.starts_with(&last_good)), "{last_good} is gone");
    world.expect(&["app", "acknowledge", "shop", "documents"]);
    wait_documents(&world, |problems| problems == "[]");
    wait_until("the held copies to go", PATIENCE, || !names(&snapshots).iter().any(|id| id.starts_with(&last_good)));
    assert_eq!(world.operator(&["app", "acknowledge", "shop", "documents"]).status.code(), Some(1));

    // Damage is found, also by an agent that was killed meanwhile, and named with what it hits.
    world.kill(Process::Agent(Site::West));
    let pack = damage_a_pack(&repository);
    // Whatever was read before counts no more: as if the time were over.
    fs::remove_file(world.shop_folder(Site::West).join("upkeep/rereads")).unwrap();
    world.start(Process::Agent(Site::West));
    wait_until("the damage to be named", PATIENCE, || {
        let problems = asset(&world, "orders").map(|orders| orders["problems"].to_string()).unwrap_or_default();
        problems.contains("DAMAGED") && problems.contains(&pack) && problems.contains("1 of 1 copies")
    });
    assert!(asset(&world, "orders").unwrap()["last_verified"].is_null());

    // It is still named once the database is protected no more: the next copy may rely on what is in the index.
    let sections = file.split("[app.").filter(|section| !section.starts_with("shop.postgres.orders"));
    world.apply(&sections.collect::<Vec<_>>().join("[app."));
    wait_documents(&world, |problems| {
        ["DAMAGED", &pack, "that no asset's recovery relies on"].iter().all(|words| problems.contains(words))
    });
}

/// A copy with the large file, for which the rule was too short, is there again once the rule was made longer, although
/// a prune has come meanwhile.
fn a_mended_rule_brings_them_back(world: &World, file: &str, of_large: &str) {
    let repository = world.shop_folder(Site::West).join("repository");
    let snapshots = repository.join("snapshots");
    wait_pruned(world, &repository, |forgotten| forgotten["id"] == of_large);
    world.apply(&file.replace("keep = \"20s\"", "keep = \"2h\""));
    let desired = world.agent_place(Site::West).folder.join("desired.json");
    let is_told = || fs::read_to_string(&desired).is_ok_and(|text| text.contains("\"2h\""));
    wait_until("west to be told of the longer rule", PATIENCE, is_told);
    // By then no turn of the shorter one is under way any more.
    let before = names(&snapshots);
    wait_until("another copy", PATIENCE, || names(&snapshots).iter().any(|id| !before.contains(id)));
    let restored = bring_back(world, &repository, of_large);
    assert!(fs::read(restored.join("large")).unwrap() == noise(6 << 20), "the large file is another one");
}

/// The closed segments of the shop's log at west.
pub fn closed_segments(world: &World) -> Vec<PathBuf> {
    let journal = world.shop_folder(Site::West).join("journal/orders");
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let timelines =
        folders(&journal).filter(|path| path.is_dir()).flat_map(|system| folders(&system).collect::<Vec<_>>());
    let files = timelines.filter(|path| path.is_dir()).flat_map(|timeline| folders(&timeline).collect::<Vec<_>>());
    files.filter(|path| path.to_string_lossy().ends_with(".zst.age")).collect()
}

fn flip_in(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let at = content.len() / 2;
    content[at] ^= 4;
    fs::write(path, content).unwrap();
}

#[test]
fn damage_in_stored_log_is_found_and_named_and_goes_with_it() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    world.cluster().psql_in("shop", "insert into orders select generate_series(1, 10000)");
    world.cluster().switch_wal();
    let record = world.shop_folder(Site::West).join("upkeep/log-rereads");
    // Those before and with the base backup, and what came behind it.
    wait_until("the closed segments to be read again", PATIENCE, || {
        closed_segments(&world).len() >= 3
            && fs::read_to_string(&record).is_ok_and(|text| text.split_ascii_whitespace().count() >= 6)
    });
    wait_no_problem(&world);

    world.kill(Process::Agent(Site::West));
    let segment = closed_segments(&world).into_iter().max().unwrap();
    flip_in(&segment);
    // As if the time were over.
    fs::remove_file(&record).unwrap();
    world.start(Process::Agent(Site::West));
    let name = segment.file_name().unwrap().to_string_lossy();
    let said = wait_problem(&world, &["west", "of its log are DAMAGED", &name, "until behind the next base backup"]);
    println!("said of the log: {said}");

    world.kill(Process::Agent(Site::West));
    flip_in(&segment);
    world.start(Process::Agent(Site::West));
    wait_no_problem(&world);
}
