use jiff::Timestamp;
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

use super::*;
use crate::postgres::base::{DatabaseFacts, Extension, TablespaceFacts};

fn database(name: &str) -> DatabaseFacts {
    DatabaseFacts {
        name: name.into(),
        encoding: "UTF8".into(),
        collate: "de_DE.UTF-8".into(),
        ctype: "de_DE.UTF-8".into(),
        locale_provider: Some("c".into()),
        collation_version: Some("2.36".into()),
        extensions: Some(vec![Extension { name: "postgis".into(), version: "3.3.2".into() }]),
    }
}

fn facts() -> BaseFacts {
    let mut template = database("template0");
    // As PostgreSQL has it: nobody has made anything in it, and nobody may connect.
    (template.collation_version, template.extensions) = (None, None);
    BaseFacts {
        format: 1,
        asset: "shop/orders".parse().unwrap(),
        epoch: Epoch(1),
        system_identifier: SystemIdentifier(7),
        server_version: 150_018,
        timeline: TimelineId(1),
        start: Lsn(0x200_0000),
        stop: Lsn(0x200_0100),
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: Timestamp::UNIX_EPOCH,
        segment_size: SegmentSize::new(16 << 20).unwrap(),
        data_checksums: true,
        damaged_pages: 0,
        files: 1000,
        bytes: 40 << 20,
        data_directory: "/srv/orders".into(),
        tablespaces: Vec::new(),
        databases: vec![database("shop"), template],
        configuration: Vec::new(),
        settings: [("shared_preload_libraries", "pg_stat_statements, \"$libdir/auto_explain\",/opt/own.so")]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .into(),
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// A host on which the database would run.
fn host() -> Host {
    let postgis = Available { version: Some("3.4.0".into()), versions: Some(names(&["3.3.2", "3.4.0"])) };
    Host {
        refusals: Vec::new(),
        extensions: Some(Extensions {
            folder: "/usr/share/postgresql/15/extension".into(),
            by_name: [("postgis".to_string(), postgis)].into(),
        }),
        libraries: Some(Libraries {
            folder: "/usr/lib/postgresql/15/lib".into(),
            names: names(&["auto_explain", "pg_stat_statements", "plpgsql"]),
        }),
        locales: Some(names(&["C", "POSIX", "de_DE.utf8"])),
        libc: Some("2.36".into()),
        disks: vec![Disk { path: "/srv/orders".into(), needed_bytes: 40 << 20, free_bytes: 40 << 20 }],
        taken: None,
    }
}

fn said(facts: &BaseFacts, host: &Host) -> Vec<String> {
    problems(facts, host).into_iter().map(|problem| problem.text).collect()
}

/// Exactly one problem, with all of these words.
#[track_caller]
fn check_with(facts: &BaseFacts, change: impl FnOnce(&mut Host), words: &[&str]) {
    let mut host = host();
    change(&mut host);
    let problems = said(facts, &host);
    let [problem] = &problems[..] else { panic!("not one problem: {problems:#?}") };
    for word in words {
        assert!(problem.contains(word), "{word:?} is not in {problem}");
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut Host), words: &[&str]) {
    check_with(&facts(), change, words);
}

#[test]
fn a_host_that_has_everything_has_no_problem() {
    assert_eq!(said(&facts(), &host()), [""; 0]);
}

#[test]
fn what_is_not_known_is_not_judged() {
    assert_eq!(said(&facts(), &Host::default()), [""; 0]);
}

#[test]
fn what_a_restore_would_refuse_is_said() {
    let error = crate::Error::NoBinaries { major: 15, looked_in: "/usr/lib/postgresql/15/bin".into() };
    check(|host| host.refusals.push(error.to_string()), &["PostgreSQL 15 is not installed here", "install"]);
}

#[test]
fn an_extension_that_is_not_installed_is_named() {
    let folder = "/usr/share/postgresql/15/extension";
    let change = |host: &mut Host| host.extensions.as_mut().unwrap().by_name.clear();
    check(change, &["postgis 3.3.2", "database shop", folder, "install"]);
}

#[test]
fn an_extension_that_is_too_old_is_named_with_what_is_here() {
    let old = Available { version: Some("3.1.1".into()), versions: Some(names(&["3.0.0", "3.1.1"])) };
    let change = |host: &mut Host| drop(host.extensions.as_mut().unwrap().by_name.insert("postgis".into(), old));
    check(change, &["postgis 3.3.2", "where 3.1.1 is"]);
}

#[test]
fn a_library_without_which_the_server_does_not_start_is_named() {
    for name in ["pg_stat_statements", "auto_explain"] {
        let change = |host: &mut Host| assert!(host.libraries.as_mut().unwrap().names.remove(name));
        check(change, &[&format!("library {name} "), "does not start"]);
    }
}

#[test]
fn a_locale_that_is_not_installed_is_named_once() {
    let change = |host: &mut Host| host.locales = Some(names(&["C", "POSIX", "de_AT.utf8"]));
    check(change, &["de_DE.UTF-8", "database shop", "locale -a"]);
    let mut facts = facts();
    facts.settings.insert("lc_time".into(), "fr_FR.UTF-8".into());
    check_with(&facts, |_| {}, &["fr_FR.UTF-8", "lc_time"]);
}

#[test]
fn another_version_of_the_collations_is_said_of_those_that_use_them() {
    check(|host| host.libc = Some("2.41".into()), &["database shop was", "2.36", "2.41 is here", "REINDEX"]);
    let mut facts = facts();
    facts.databases.extend(["a", "b", "c", "d"].map(database));
    let words = ["databases shop, a, b, c and 1 more were"];
    check_with(&facts, |host| host.libc = Some("2.41".into()), &words);
    for database in &mut facts.databases {
        database.locale_provider = Some("i".into());
    }
    let other = Host { libc: Some("2.41".into()), ..host() };
    assert_eq!(said(&facts, &other), [""; 0], "ICU brings its own");
}

#[test]
fn only_what_is_a_matter_of_judgement_can_be_accepted() {
    let bad = Host {
        refusals: vec!["PostgreSQL 15 is not installed here".into()],
        extensions: Some(Extensions { folder: "/usr/share".into(), by_name: BTreeMap::new() }),
        libraries: Some(Libraries { folder: "/usr/lib".into(), names: BTreeSet::new() }),
        locales: Some(BTreeSet::new()),
        libc: Some("2.41".into()),
        disks: vec![Disk { path: "/srv/orders".into(), needed_bytes: 2, free_bytes: 1 }],
        taken: Some("10.0.0.2:5432".parse().unwrap()),
    };
    let problems = problems(&facts(), &bad);
    assert!(problems.len() >= 7, "{problems:#?}");
    let acceptable: Vec<&Misfit> = problems.iter().filter(|problem| problem.difference.is_some()).collect();
    let [one] = acceptable[..] else { panic!("{acceptable:#?}") };
    assert_eq!(one.difference, Some(Difference::CLibrary));
    assert!(one.text.contains("collation provider's version differs"), "{one:?}");
}

#[test]
fn a_disk_without_room_is_said_with_what_it_needs() {
    let change = |host: &mut Host| host.disks[0].free_bytes = (39 << 20) + 5;
    check(change, &["/srv/orders needs 40 MiB", "39 MiB are free"]);
}

#[test]
fn a_taken_port_is_said() {
    check(|host| host.taken = Some("10.0.0.2:5432".parse().unwrap()), &["port 5432 of 10.0.0.2 is taken"]);
}

#[test]
fn what_goes_to_one_file_system_is_counted_together() {
    let root = tempfile::tempdir().unwrap();
    let mut facts = facts();
    let tablespace = |oid: u32, location: &str| TablespaceFacts { oid, location: location.into(), bytes: 10 << 20 };
    facts.tablespaces = vec![tablespace(1, "/fast"), tablespace(2, "/slow")];
    let tablespaces = [(PathBuf::from("/fast"), root.path().join("not/yet/there"))].into();
    let place = Place {
        data_directory: &root.path().join("orders"),
        tablespaces: &tablespaces,
        os_user: "postgres",
        binaries: None,
        address: [127, 0, 0, 1].into(),
        port: 5432,
        is_restored: false,
    };
    let disks = disks::of(&facts, &place);
    let [disk] = &disks[..] else { panic!("{disks:?}") };
    assert_eq!((disk.path.as_path(), disk.needed_bytes), (place.data_directory, 40 << 20));
    assert_eq!(free_bytes(Path::new("nowhere")), None, "a relative path says nothing");
}
