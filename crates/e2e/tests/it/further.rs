//! Copies in further vaults: a folder, and a server that is reached over the network with a user and a password.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use levee_testing::levee::Binary;
use levee_testing::postgres::Version;
use levee_testing::process::run;
use levee_testing::restic::Restic;
use levee_testing::wait::{poll, wait_until};
use levee_testing::{Child, free_port};
use rustix::process::Signal;
use serde_json::Value;

use super::faults::files_with;
use super::status::{wait_caught_up, wait_problem};
use super::undelete::{bring_back, wait_pruned};
use super::upkeep::{asset, damage_a_pack, names, noise, size_of};
use super::world::{PATIENCE, Process, Setup, Site, World};

const PASSWORD: &str = "open the far vault";
/// Short times in place of minutes and days.
const LOG_EVERY: &str = "2s";

/// The server of the far vault.
pub struct Served {
    child: Option<Child>,
    folder: PathBuf,
    port: u16,
}

impl Served {
    pub fn start(world: &World) -> Served {
        let folder = world.root().join("far");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(".htpasswd"), format!("mia:{}\n", bcrypt::hash(PASSWORD, 4).unwrap())).unwrap();
        let mut served = Served { child: None, folder, port: free_port() };
        served.come_back(world);
        served
    }

    /// Gives west what opens it.
    pub fn set_secrets(&self, world: &World) {
        set_secret(world, "far-user", "mia");
        set_secret(world, "far-password", PASSWORD);
    }

    fn come_back(&mut self, world: &World) {
        let log = world.root().join("client/far.log");
        self.child = Some(Binary::find().serve_vaults(&self.folder, self.port, &["--private-repos"], &log));
    }

    fn go_away(&mut self) {
        self.child.as_mut().unwrap().kill();
        self.child = None;
    }

    /// From now on connections are taken, and nobody answers.
    pub fn hang(&self) {
        self.child.as_ref().unwrap().signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.child.as_ref().unwrap().signal(Signal::CONT);
    }

    /// What the protection file says of it.
    pub fn spec(&self) -> String {
        format!(
            "address = \"{}\"\ncacert = {:?}\n\
             secrets = {{ LEVEE_REST_USERNAME = \"far-user\", LEVEE_REST_PASSWORD = \"far-password\" }}\n",
            self.address(),
            self.certificate()
        )
    }

    fn address(&self) -> String {
        format!("rest:https://127.0.0.1:{}/mia", self.port)
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join(".tls/cert.pem")
    }

    /// Where west's repository of the shop lies on the server's disk.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("mia/shop/west")
    }
}

/// The shop, copied to a folder and to the far vault as well.
fn protection_file(world: &World, near: &Path, far: &Served) -> String {
    let app = "recovery = \"west\"\ncopy_to = [\"near\", \"far\"]\ncopies = { regions = 3 }\n\
               upkeep = { prune_every = \"3s\", delete_after = \"1s\" }\n";
    let file = world.protection_file().replace("recovery = \"west\"\n", app);
    let file = file.replace("every = \"2s\"\n", "every = \"2s\"\nkeep = \"15s\"\n");
    assert!(file.contains("copy_to") && file.contains("keep = \"15s\""));
    format!(
        "{file}[site.east]\nregion = \"east\"\n[site.west]\nregion = \"west\"\n\
         [vault.near]\naddress = {near:?}\nlog_every = \"{LOG_EVERY}\"\nhost = \"nas\"\nverify_within = \"10m\"\n\
         [vault.far]\n{}log_every = \"{LOG_EVERY}\"\nregion = \"north\"\n",
        far.spec()
    )
}

/// The shop, copied to these further vaults as well and kept whole: their names, and what is said of each.
pub fn with_vaults(world: &World, vaults: &[(&str, &str)]) -> String {
    let names: Vec<String> = vaults.iter().map(|(name, _)| format!("{name:?}")).collect();
    let app = format!("recovery = \"west\"\ncopy_to = [{}]\n", names.join(", "));
    let mut file = world.protection_file().replace("recovery = \"west\"\n", &app);
    assert!(file.contains("copy_to"));
    for (name, spec) in vaults {
        file.push_str(&format!("[vault.{name}]\nlog_every = \"{LOG_EVERY}\"\n{spec}\n"));
    }
    file
}

pub fn set_secret(world: &World, name: &str, value: &str) {
    let mut command = world.command_at(Site::West);
    command.args(["agent", "secret", "set", name, "--folder"]).arg(&world.agent_place(Site::West).folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Up to when an asset could be rebuilt from a vault alone.
pub fn as_of(world: &World, name: &str, vault: &str) -> Option<String> {
    Some(asset(world, name)?["vaults"][vault]["as_of"].as_str()?.to_string())
}

/// Waits until a vault has a newer copy of an asset than it has now.
#[track_caller]
pub fn wait_newer(world: &World, name: &str, vault: &str) {
    let before = as_of(world, name, vault);
    let newer =
        poll(PATIENCE, || as_of(world, name, vault).filter(|now| before.as_ref().is_none_or(|before| now > before)));
    assert!(
        newer.is_some(),
        "{name} in {vault} is of {before:?} still: {:#?}\n{}",
        asset(world, name),
        world.log_tails()
    );
}

/// Waits until nothing is wrong with an asset, and the copies of it are so many.
#[track_caller]
pub fn wait_copies(world: &World, name: &str, copies: u64) -> Value {
    let found = poll(PATIENCE, || {
        asset(world, name)
            .filter(|asset| asset["copies"]["copies"] == copies && asset["problems"] == serde_json::json!([]))
    });
    found.unwrap_or_else(|| panic!("{name}: {:#?}\n{}", asset(world, name), world.log_tails()))
}

/// The ids that the snapshots of a repository had at west, those of logs aside.
fn originals(repository: &Path, password: &str) -> BTreeSet<String> {
    copied(repository, password).into_iter().collect()
}

/// The same, each as often as it is there.
pub fn copied(repository: &Path, password: &str) -> Vec<String> {
    let listed = Restic::distribution().run(repository, password, &["snapshots", "--json", "--no-lock"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = |snapshot: &Value| snapshot["original"].as_str().map(str::to_string);
    listed.as_array().unwrap().iter().filter_map(id).collect()
}

/// The copies of the database's log in a repository, the oldest first.
fn logs(repository: &Path, password: &str) -> Vec<String> {
    let arguments = ["snapshots", "--json", "--no-lock", "--tag", "levee-log:shop/orders"];
    let listed: Value = serde_json::from_str(&Restic::distribution().run(repository, password, &arguments)).unwrap();
    listed.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_string()).collect()
}

/// A line of the recovery kit.
pub fn of_kit(world: &World, what: &str) -> String {
    let kit = fs::read_to_string(world.shop_folder(Site::West).join("recovery-kit.txt")).unwrap();
    let line = kit.lines().find_map(|line| line.trim().strip_prefix(what));
    line.unwrap_or_else(|| panic!("{what} is not in {kit}")).trim().to_string()
}

#[test]
fn copies_go_to_further_vaults_and_restore_from_there_alone() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let near = world.root().join("near");
    let mut far = Served::start(&world);
    let file = protection_file(&world, &near, &far);
    world.apply(&file);
    world.wait_protected(Site::East);

    // What is missing is named, and holds nothing else up.
    wait_problem(&world, &["vault near", "there is no folder", "mounted"]);
    wait_problem(&world, &["vault far", "LEVEE_REST_PASSWORD", "levee agent secret set far-password"]);
    fs::create_dir(&near).unwrap();
    far.set_secrets(&world);
    let orders = wait_copies(&world, "orders", 4);
    assert_eq!((&orders["copies"]["regions"], &orders["copies"]["hosts"]), (&3.into(), &3.into()), "{orders}");
    wait_copies(&world, "documents", 4);
    let text = String::from_utf8_lossy(&world.operator(&["status"]).stdout).into_owned();
    assert!(text.contains("COPY THERE") && text.contains("far    of"), "{text}");
    for name in ["orders", "documents"] {
        wait_newer(&world, name, "near");
        wait_newer(&world, name, "far");
    }

    what_is_damaged_there_counts_no_more_until_it_is_mended(&mut world, &near.join("shop/west"));
    the_far_vault_goes_and_comes_back(&mut world, &mut far);
    an_agent_is_killed_while_it_copies(&mut world, &far);
    what_retention_removes_goes_there_too(&world, &file, &near.join("shop/west"), &far.repository());
    // None of it waits for a vault, and a drill proves it.
    far.go_away();
    world.expect(&["drill", "shop", "--to", "west"]);
    far.come_back(&world);

    world.cluster().psql_in("shop", "insert into orders values (4711)");
    wait_caught_up(&mut world);
    restore_from(&mut world, &far);
    a_lost_repository_takes_nothing_along(&mut world, &near.join("shop/west"));
    let shown = ["client", "server", "west/agent/apps", "near", "far"].map(|name| world.root().join(name));
    assert_eq!(files_with(PASSWORD, &shown.each_ref().map(|path| path.as_path())), "");
}

/// The folder's first copy and the base backup are hit; what this site has is brought anew once the index is repaired.
fn what_is_damaged_there_counts_no_more_until_it_is_mended(world: &mut World, near: &Path) {
    world.kill(Process::Agent(Site::West));
    let pack = damage_a_pack(near);
    // Whatever was read before counts no more: as if the time were over.
    fs::remove_file(world.shop_folder(Site::West).join("further/near/rereads")).unwrap();
    world.start(Process::Agent(Site::West));
    wait_problem(world, &["vault near are DAMAGED", &pack, "can't be restored whole", "repair packs"]);
    wait_until("the damaged copy to count no more", PATIENCE, || as_of(world, "orders", "near").is_none());
    repair(world, near, &pack);
    wait_copies(world, "orders", 4);
    wait_copies(world, "documents", 4);
    wait_newer(world, "orders", "near");
}

/// Takes a damaged pack out of the index of west's repository in a vault.
pub fn repair(world: &World, repository: &Path, pack: &str) {
    let mut repair = world.command_at(Site::West);
    repair.args(["vault", "repair", "packs", "--apply", "--retry-lock", "60s", pack, "--vault"]).arg(repository);
    run(repair.env("LEVEE_PASSWORD", of_kit(world, "restic password")));
}

fn the_far_vault_goes_and_comes_back(world: &mut World, far: &mut Served) {
    far.go_away();
    wait_problem(world, &["vault far", "cannot", "see whether it can be reached from west"]);
    let at = as_of(world, "documents", "far");
    // The other vault, and the protection itself, go on.
    world.cluster().psql_in("shop", "insert into orders values (1)");
    wait_caught_up(world);
    wait_newer(world, "orders", "near");
    assert_eq!(as_of(world, "documents", "far"), at);
    far.come_back(world);
    wait_copies(world, "orders", 4);
    wait_newer(world, "documents", "far");
}

fn an_agent_is_killed_while_it_copies(world: &mut World, far: &Served) {
    let large = world.folder(Site::East).join("documents/large");
    let before = size_of(&far.repository());
    fs::write(&large, noise(24 << 20)).unwrap();
    wait_until("a part of the large file", PATIENCE, || size_of(&far.repository()) > before + (4 << 20));
    world.kill(Process::Agent(Site::West));
    world.start(Process::Agent(Site::West));
    wait_until("the rest of it", PATIENCE, || size_of(&far.repository()) > before + (24 << 20));
    wait_newer(world, "documents", "far");
    wait_newer(world, "orders", "far");
    fs::remove_file(&large).unwrap();
}

fn what_retention_removes_goes_there_too(world: &World, file: &str, near: &Path, far: &Path) {
    let password = of_kit(world, "restic password");
    let west = world.shop_folder(Site::West).join("repository/snapshots");
    let here = || names(&west).into_iter().collect::<BTreeSet<String>>();
    // For now what is removed waits for its deletion, as it does for a day elsewhere.
    let waiting = file.replace("delete_after = \"1s\"", "delete_after = \"1h\"");
    assert!(waiting != file);
    world.apply(&waiting);
    let (first, with_large) = (here(), size_of(far));
    for repository in [near, far] {
        let passing: BTreeSet<String> = originals(repository, &password).intersection(&first).cloned().collect();
        assert!(passing.len() >= 2, "{passing:?} of {first:?}");
        wait_until("old copies to go at the site and there", PATIENCE, || {
            let (here, there) = (here(), originals(repository, &password));
            let gone: Vec<&String> = passing.iter().filter(|id| !here.contains(*id)).collect();
            gone.len() >= 2 && gone.iter().all(|id| !there.contains(*id))
        });
        // A new copy of the log replaces the one before; one may be under way.
        assert!((1..=2).contains(&logs(repository, &password).len()));
    }
    // There is the same way back as at the site, and what is not at the site any more may stay.
    let has_gone_since = |forgotten: &Value| forgotten["original"].as_str().is_some_and(|id| first.contains(id));
    let brought_back = wait_pruned(world, near, has_gone_since);
    bring_back(world, near, &brought_back);
    world.apply(file);
    // The large file was in copies that went.
    wait_until("the space to come back", PATIENCE, || size_of(far) + (20 << 20) < with_large);
}

/// Files with stock restic, the database with Levee, and nothing but the vault and the recovery kit.
fn restore_from(world: &mut World, far: &Served) {
    wait_newer(world, "documents", "far");
    wait_newer(world, "orders", "far");
    wait_newer(world, "orders", "far");
    // What is copied does not change any more.
    world.kill(Process::Agent(Site::West));
    let (password, client) = (of_kit(world, "restic password"), world.root().join("client"));
    let restic = Restic::distribution();
    let said = restic.run(&far.repository(), &password, &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
    let own = fs::read_to_string(world.shop_folder(Site::West).join("repository-password")).unwrap();
    restic.run(&far.repository(), own.trim(), &["snapshots"]);
    let documents = world.folder(Site::East).join("documents");
    let files = client.join("files");
    let to = files.to_string_lossy().into_owned();
    restic.run(
        &far.repository(),
        &password,
        &["restore", "latest", "--tag", "levee-files:shop/documents", "--target", &to],
    );
    run(Command::new("diff").arg("-r").arg(&documents).arg(files.join(documents.strip_prefix("/").unwrap())));

    let (password_file, identity) = (client.join("kit-password"), client.join("kit-identity"));
    fs::write(&password_file, &password).unwrap();
    fs::write(&identity, of_kit(world, "age identity")).unwrap();
    let (journal, data) = (world.root().join("restored-journal"), world.root().join("restored"));
    let on_vault = |command: &mut Command| {
        command.env("LEVEE_REST_USERNAME", "mia").env("LEVEE_REST_PASSWORD", PASSWORD);
        command.arg("--vault").arg(format!("{}/shop/west", far.address())).arg("--cacert").arg(far.certificate());
        run(command.arg("--password-file").arg(&password_file))
    };
    let mut command = world.command_at(Site::West);
    command.args(["vault", "restore", "latest", "--tag", "levee-log:shop/orders", "--target"]).arg(&journal);
    on_vault(&mut command);
    let port = free_port().to_string();
    let mut command = world.command_at(Site::West);
    command
        .args(["database", "restore", "--asset", "shop/orders", "--json", "--port", &port, "--journal"])
        .arg(&journal);
    command.arg("--identity-file").arg(&identity).arg("--data-directory").arg(&data);
    let restored: Value = serde_json::from_str(on_vault(&mut command).lines().last().unwrap()).unwrap();
    let private = restored["private_directory"].as_str().unwrap();
    let binaries = Version::V15.binaries();
    let mut start = binaries.command("pg_ctl");
    run(start.args(["start", "-w", "-l", &format!("{private}/postgresql.log"), "-D"]).arg(&data));
    let query = |sql: &str| {
        let mut psql = binaries.command("psql");
        psql.args(["-XqAt", "-U", "shop", "-d", "shop", "-h", private, "-p", &port, "-c", sql]);
        run(&mut psql).trim().to_string()
    };
    wait_until("it is promoted", PATIENCE, || query("select pg_is_in_recovery()") == "f");
    assert_eq!(query("select string_agg(number::text, ',' order by number) from orders"), "1,4711");
    run(binaries.command("pg_ctl").args(["stop", "-m", "immediate", "-D"]).arg(&data));
    world.start(Process::Agent(Site::West));
    wait_newer(world, "orders", "far");
}

fn a_lost_repository_takes_nothing_along(world: &mut World, near: &Path) {
    let password = of_kit(world, "restic password");
    world.kill(Process::Agent(Site::West));
    let (before, log) = (originals(near, &password), logs(near, &password));
    assert!(before.len() >= 2 && !log.is_empty(), "{before:?} {log:?}");
    for lost in ["repository", "journal"] {
        fs::remove_dir_all(world.shop_folder(Site::West).join(lost)).unwrap();
    }
    world.start(Process::Agent(Site::West));
    // The writer sends everything anew, and that is copied as well.
    let has_more = || originals(near, &password).difference(&before).count() >= 2;
    wait_until("new copies beside the old ones", PATIENCE, has_more);
    // Longer than copies are kept at the site.
    std::thread::sleep(Duration::from_secs(20));
    let after = originals(near, &password);
    let gone: Vec<&String> = before.difference(&after).collect();
    assert!(gone.is_empty(), "{gone:?} are gone\n{}", world.log_tails());
    wait_newer(world, "orders", "near");
    let left = logs(near, &password);
    // One that was just being replaced may have gone.
    let stays = log.last().is_some_and(|newest| left.contains(newest));
    assert!(left.len() >= 2 && stays, "{log:?} were there, and {left:?} are");
}
