//! The operator's commands at the recovery site: around what it copies to a further vault, and around everything once it
//! is the site that writes.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use levee_testing::postgres::Session;
use levee_testing::wait::wait_until;

use super::further::{copied, of_kit, repair, wait_copies, wait_newer, with_vaults};
use super::hooks::{DOCUMENTS, keeps_environment, put, told, wait_documents};
use super::repository::count;
use super::runs::{Begun, Kind};
use super::status::{wait_caught_up, wait_no_problem, wait_problem};
use super::upkeep::{asset, damage_the_base, names};
use super::world::{PATIENCE, Process, Setup, Site, World};

/// What was kept in a folder by `keeps_environment`.
fn kept(folder: &Path) -> Vec<String> {
    let mut kept = names(folder);
    kept.retain(|name| !name.starts_with('.'));
    kept
}

#[test]
fn commands_run_around_the_recovery_sites_copies_to_a_further_vault() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let (near, heard, list) =
        (world.root().join("near"), world.root().join("client/heard"), world.root().join("client/list"));
    fs::create_dir(&near).unwrap();
    fs::create_dir(&heard).unwrap();
    let keep = keeps_environment(&heard);
    let note = format!("echo \"$LEVEE_BACKUP_RESULT $LEVEE_ASSET $LEVEE_SNAPSHOT_ID\" >> '{}'", list.display());
    put(&world, Site::West, "before-copy", &keep, 0o755);
    put(&world, Site::West, "after-copy", &format!("{note}\n{keep}"), 0o755);
    let vault = format!("address = {near:?}\nverify_within = \"10m\"");
    world.apply(&with_vaults(&world, &[("near", vault.as_str())]));
    world.wait_protected(Site::East);

    let common = [("LEVEE_APP", "shop"), ("LEVEE_SITE", "west"), ("LEVEE_COPY", "further"), ("LEVEE_VAULT", "near")];
    let expected = [&common[..], &[("LEVEE_HOOK", "before")][..]].concat();
    let before = told(&world, &heard.join("before-further"), &expected);
    assert!(["orders", "documents"].contains(&before["LEVEE_ASSET"].as_str()), "{before:#?}");
    assert!(!before.contains_key("LEVEE_BACKUP_RESULT"), "nothing was copied yet: {before:#?}");
    let expected = [&common[..], &[("LEVEE_HOOK", "after"), ("LEVEE_BACKUP_RESULT", "saved")][..]].concat();
    let after = told(&world, &heard.join("after-further"), &expected);
    assert_eq!(after["LEVEE_SNAPSHOT_ID"].len(), 64, "{after:#?}");
    assert!(after["LEVEE_DURATION_S"].parse::<u64>().is_ok(), "{after:#?}");
    assert_eq!(kept(&heard), ["after-further", "before-further"], "what comes from the other site is not copied here");

    let repository = near.join("shop/west");
    what_is_brought_anew_is_a_copy_as_any_other(&mut world, &repository, &list);
    one_that_fails_keeps_copies_from_that_vault_and_from_nothing_else(&mut world, &repository, &heard);
}

/// The base backup's copy is damaged there, and repaired: it has its commands a second time.
fn what_is_brought_anew_is_a_copy_as_any_other(world: &mut World, repository: &Path, list: &Path) {
    let bases = || -> Vec<String> {
        let text = fs::read_to_string(list).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("saved orders ").map(str::to_string)).collect()
    };
    wait_copies(world, "orders", 3);
    assert_eq!(bases().len(), 1, "{:?}", bases());
    world.kill(Process::Agent(Site::West));
    let pack = damage_the_base(repository);
    // Whatever was read before counts no more, if anything was: as if the time were over.
    let _ = fs::remove_file(world.shop_folder(Site::West).join("further/near/rereads"));
    world.start(Process::Agent(Site::West));
    wait_problem(world, &["vault near are DAMAGED", &pack]);
    assert_eq!(bases().len(), 1, "nothing is repaired by itself");
    repair(world, repository, &pack);
    wait_until("the base backup to be brought anew", PATIENCE, || bases().len() >= 2);
    let copies = bases();
    assert!(copies.iter().all(|copy| *copy == copies[0]), "it is the same copy: {copies:?}");
    wait_copies(world, "orders", 3);
    wait_copies(world, "documents", 3);
}

fn one_that_fails_keeps_copies_from_that_vault_and_from_nothing_else(
    world: &mut World,
    repository: &Path,
    heard: &Path,
) {
    put(world, Site::West, "before-copy", "exit 3", 0o755);
    wait_documents(world, Some("the copy of documents for vault near is not made: "));
    wait_documents(world, Some("before-copy failed (exit status: 3)"));
    assert_eq!(world.operator(&["status"]).status.code(), Some(2));
    let failed = told(world, &heard.join("after-further"), &[("LEVEE_BACKUP_RESULT", "failed")]);
    assert!(failed["LEVEE_ERROR"].contains("exit status: 3"), "{failed:#?}");
    let password = of_kit(world, "restic password");
    let (here, there) = (count(world, DOCUMENTS), copied(repository, &password));
    // Protection goes on, and so do the log's copies there.
    world.cluster().psql_in("shop", "insert into orders values (4711)");
    wait_caught_up(world);
    wait_until("new copies at west", PATIENCE, || count(world, DOCUMENTS) > here);
    wait_newer(world, "orders", "near");
    assert_eq!(copied(repository, &password), there, "no copy was allowed");

    put(world, Site::West, "before-copy", "true", 0o755);
    wait_documents(world, None);
    wait_newer(world, "documents", "near");
    wait_no_problem(world);
}

#[test]
fn the_new_writers_commands_run_after_a_change_of_roles_and_the_old_ones_do_not() {
    let world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let heard = [Site::East, Site::West].map(|site| {
        let folder = world.root().join(format!("client/heard-{}", site.name()));
        fs::create_dir(&folder).unwrap();
        for name in ["before-copy", "after-copy"] {
            put(&world, site, name, &keeps_environment(&folder), 0o755);
        }
        folder
    });
    let [east, west] = &heard;
    world.apply(&world.protection_file());
    world.wait_protected(Site::East);
    told(&world, &east.join("after-files"), &[("LEVEE_SITE", "east"), ("LEVEE_BACKUP_RESULT", "saved")]);
    assert!(kept(west).is_empty(), "the recovery site copies nothing by itself: {:?}", kept(west));

    Begun::new(&world, &Kind::Switchover.command(Site::West)).wait_done(&world);
    world.wait_protected(Site::West);
    let common = [("LEVEE_APP", "shop"), ("LEVEE_SITE", "west")];
    for (copy, asset) in [("files", "documents"), ("base-backup", "orders")] {
        let what = [("LEVEE_ASSET", asset), ("LEVEE_COPY", copy)];
        told(&world, &west.join(format!("before-{copy}")), &[&common[..], &what[..]].concat());
        let saved = [("LEVEE_BACKUP_RESULT", "saved")];
        let after = told(&world, &west.join(format!("after-{copy}")), &[&common[..], &what[..], &saved[..]].concat());
        assert_eq!(after["LEVEE_SNAPSHOT_ID"].len(), 64, "{after:#?}");
    }
    for name in kept(east) {
        fs::remove_file(east.join(name)).unwrap();
    }
    fs::remove_file(west.join("after-files")).unwrap();
    wait_until("one more copy", PATIENCE, || west.join("after-files").exists());
    assert!(kept(east).is_empty(), "east copies no more: {:?}", kept(east));

    // One that fails stops the folder's copies, and the database's protection goes on.
    put(&world, Site::West, "before-copy", "[ \"$LEVEE_COPY\" != files ] || exit 3", 0o755);
    wait_documents(&world, Some("west: the copy of documents is not made: "));
    wait_documents(&world, Some("before-copy failed (exit status: 3)"));
    let failed = told(&world, &west.join("after-files"), &[("LEVEE_BACKUP_RESULT", "failed")]);
    assert!(failed["LEVEE_ERROR"].contains("exit status: 3"), "{failed:#?}");
    let mut session = Session::open(world.database(Site::West), "shop", "shop").unwrap();
    let written = Timestamp::now();
    session.query("insert into orders values (4711)").unwrap();
    wait_until("the log to be at east", PATIENCE, || {
        let orders = asset(&world, "orders").unwrap_or_default();
        let at = orders["as_of"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        orders["protected"] == true && at.is_some_and(|at| at > written)
    });
    wait_no_problem(&world);

    put(&world, Site::West, "before-copy", "true", 0o755);
    wait_documents(&world, None);
}
