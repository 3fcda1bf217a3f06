//! `levee vault serve`, with stock restic and Levee as its clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use levee_store::{FileType, RestOptions, RestStore, Store, conformance, trust};
use levee_testing::disk::SmallDisk;
use levee_testing::levee::Binary;
use levee_testing::restic::{self, Restic};
use levee_testing::wait::wait_until;
use levee_testing::{Child, free_port};

use super::tree::{self, assert_same, assert_same_to_restic, noise};
use super::{Case, PASSWORD, below, command, fail, succeed};

/// The passwords `mia's` and `ben's`, by bcrypt.
const USERS: [(&str, &str); 2] = [("mia", "mia's"), ("ben", "ben's")];

pub struct Served {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Served {
    pub fn start(case: &Case, arguments: &[&str]) -> Self {
        let folder = case.path("served");
        fs::create_dir_all(&folder).unwrap();
        let lines = USERS.map(|(user, password)| format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap()));
        fs::write(folder.join(".htpasswd"), lines.concat()).unwrap();
        let port = free_port();
        let child = Binary::find().serve_vaults(&folder, port, arguments, &case.path("serve.log"));
        Self { child, port, folder }
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.join(".tls/cert.pem")
    }

    pub fn url(&self, user: &str, password: &str, path: &str) -> String {
        format!("rest:https://{user}:{}@127.0.0.1:{}/{path}", password.replace('\'', "%27"), self.port)
    }

    fn restic(&self, restic: &Restic, url: &str) -> Command {
        let mut command = restic.command(url, PASSWORD);
        command.arg("--cacert").arg(self.certificate());
        command
    }

    pub fn levee(&self, url: &str) -> Command {
        let mut command = command(url);
        command.env("LEVEE_PASSWORD", PASSWORD).arg("--cacert").arg(self.certificate());
        command
    }
}

fn restic_succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

fn restic_fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn as_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn stock_restic_and_levee_work_with_it_and_users_stay_apart() {
    let case = Case::new();
    let served = Served::start(&case, &["--private-repos"]);
    let source = case.path("source");
    tree::make(&source);
    for (number, restic) in restic::versions().iter().enumerate() {
        let own = served.url("mia", "mia's", &format!("mia/laptop-{number}/"));
        restic_succeeds(served.restic(restic, &own).arg("init"));
        restic_succeeds(served.restic(restic, &own).args(["backup", as_text(&source)]));
        succeed(served.levee(&own).args(["backup", as_text(&source)]));
        restic_succeeds(served.restic(restic, &own).args(["check", "--read-data"]));
        succeed(served.levee(&own).args(["check", "--read-data"]));
        let (by_levee, by_restic) = (case.path(&format!("levee-{number}")), case.path(&format!("restic-{number}")));
        succeed(served.levee(&own).args(["restore", "latest", "--target", as_text(&by_levee)]));
        assert_same(&source, &below(&by_levee, &source));
        restic_succeeds(served.restic(restic, &own).args(["restore", "latest", "--target", as_text(&by_restic)]));
        assert_same_to_restic(restic, &source, &below(&by_restic, &source));
        // Wrong passwords, other users, and paths that lead elsewhere.
        for (user, password, path) in
            [("mia", "ben's", "mia/x/"), ("ben", "ben's", "mia/laptop-0/"), ("ben", "ben's", ""), ("eve", "x", "eve/")]
        {
            let message = restic_fails(served.restic(restic, &served.url(user, password, path)).arg("snapshots"));
            assert!(message.contains("40"), "{message}");
        }
    }
    let message = fail(1, served.levee(&served.url("mia", "sesame", "mia/laptop-0/")).arg("snapshots"));
    assert!(!message.contains("sesame"), "{message}");
    let key = fs::metadata(served.folder.join(".tls/key.pem")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    assert!(!served.child.log_text().contains("mia's"));
}

#[test]
fn it_conforms() {
    let case = Case::new();
    // Counted twice, far below both quotas.
    let quotas = ["--max-size", "1000000000", "--max-size-per-user", "1000000000"];
    let served = Served::start(&case, &[&["--private-repos"], &quotas[..]].concat());
    let base_url = served.url("mia", "mia's", "mia/laptop/").strip_prefix("rest:").unwrap().to_string();
    let tls = trust::client_config(&served.certificate(), None).unwrap();
    conformance::check(&RestStore::new(RestOptions { base_url, tls: Some(tls), resolve: None }).unwrap());
}

#[test]
fn append_only_and_the_quota_hold_for_stock_restic() {
    let case = Case::new();
    let served = Served::start(&case, &["--append-only", "--max-size", "3000000", "--no-auth"]);
    let restic = Restic::distribution();
    let repository = served.folder.join("host");
    restic.run(&repository, PASSWORD, &["init"]);
    let url = format!("rest:https://127.0.0.1:{}/host/", served.port);
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("small"), noise(1, 400_000)).unwrap();
    restic_succeeds(served.restic(&restic, &url).args(["backup", as_text(&source)]));
    // It may say that it succeeded; what counts is that nothing is gone.
    served.restic(&restic, &url).args(["forget", "latest", "--prune"]).output().unwrap();
    let snapshots = || fs::read_dir(repository.join("snapshots")).unwrap().count();
    assert_eq!(snapshots(), 1);
    restic_fails(served.restic(&restic, &format!("{url}other/")).arg("init"));
    // What goes over the quota fails as a whole, and what was there stays whole.
    fs::write(source.join("large"), noise(2, 8_000_000)).unwrap();
    let message = fail(1, served.levee(&url).args(["backup", as_text(&source)]));
    assert!(message.contains("no space left"), "{message}");
    assert_eq!(snapshots(), 1);
    restic.run(&repository, PASSWORD, &["check", "--read-data"]);
}

#[test]
fn a_user_whose_quota_is_used_up_stops_no_other() {
    let case = Case::new();
    let served = Served::start(&case, &["--private-repos", "--max-size-per-user", "3000000"]);
    let restic = Restic::distribution();
    let own = |user: &str| served.url(user, &format!("{user}'s"), &format!("{user}/laptop/"));
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("small"), noise(1, 400_000)).unwrap();
    for user in ["mia", "ben"] {
        restic_succeeds(served.restic(&restic, &own(user)).arg("init"));
        restic_succeeds(served.restic(&restic, &own(user)).args(["backup", as_text(&source)]));
    }
    fs::write(source.join("large"), noise(2, 8_000_000)).unwrap();
    let message = fail(1, served.levee(&own("mia")).args(["backup", as_text(&source)]));
    assert!(message.contains("no space left"), "{message}");
    // As restic's own server says it.
    let pack = noise(3, 3_000_000);
    fs::write(case.path("pack"), &pack).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["-s", "-u", "mia:mia's", "-w", "%{http_code}", "--cacert"]).arg(served.certificate());
    curl.arg("--data-binary").arg(format!("@{}", case.path("pack").display()));
    let name = levee_store::content_name(&pack);
    let answer = curl.arg(format!("https://127.0.0.1:{}/mia/laptop/data/{name}", served.port)).output().unwrap();
    assert!(text(&answer).ends_with("507"), "{}", text(&answer));
    assert!(text(&answer).contains("the quota of mia is used up"), "{}", text(&answer));
    let log = served.child.log_text();
    assert!(log.contains("the quota of mia is used up"), "{log}");

    fs::write(source.join("large"), noise(4, 1_000_000)).unwrap();
    succeed(served.levee(&own("ben")).args(["backup", as_text(&source)]));
    // What stands stays usable, and what is removed makes room.
    for user in ["mia", "ben"] {
        restic_succeeds(served.restic(&restic, &own(user)).args(["check", "--read-data"]));
    }
    restic_succeeds(served.restic(&restic, &own("mia")).args(["prune", "--max-unused", "0"]));
    succeed(served.levee(&own("mia")).args(["backup", as_text(&source)]));
    let refused = fail(1, Binary::find().command().args(["vault", "serve", "--path", "/", "--max-size-per-user", "1"]));
    assert!(refused.contains("--private-repos"), "{refused}");
}

/// restic shows the status of an answer and not its text, which the server's log has.
#[test]
fn stock_restic_says_that_a_quota_is_used_up() {
    let case = Case::new();
    // The folders of each repository take a megabyte.
    let served = Served::start(&case, &["--no-auth", "--max-size", "5000000"]);
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(5, 8_000_000)).unwrap();
    for restic in restic::versions() {
        let folder = format!("host-{}", restic.version());
        let url = format!("rest:https://127.0.0.1:{}/{folder}/", served.port);
        restic_succeeds(served.restic(&restic, &url).arg("init"));
        let log = case.path(&format!("{folder}.log"));
        let backup = Child::spawn("restic", served.restic(&restic, &url).args(["backup", as_text(&source)]), &log);
        // 0.19 ends with it at once. 0.14 says it, too, and tries again for a minute, which nobody waits for here.
        let says_why = || backup.log_text().contains("507 Insufficient Storage");
        wait_until(&format!("restic {} to say why it ends", restic.version()), Duration::from_secs(60), says_why);
        drop(backup);
        assert_eq!(fs::read_dir(served.folder.join(&folder).join("snapshots")).unwrap().count(), 0);
    }
    let log = served.child.log_text();
    assert!(log.contains("the quota of all users is used up"), "{log}");
}

#[test]
fn room_that_is_made_on_the_server_itself_counts() {
    let case = Case::new();
    let restic = Restic::distribution();
    let repository = case.path("served/host");
    fs::create_dir(case.path("served")).unwrap();
    restic.run(&repository, PASSWORD, &["init"]);
    let served = Served::start(&case, &["--append-only", "--max-size", "4000000", "--no-auth"]);
    let url = format!("rest:https://127.0.0.1:{}/host/", served.port);
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    // There is room for one of these, but not for two.
    let back_up = |seed: u64| {
        fs::write(source.join("file"), noise(seed, 1_800_000)).unwrap();
        let mut command = served.levee(&url);
        command.args(["backup", as_text(&source)]);
        command
    };
    succeed(&mut back_up(1));
    // By the owner, as is advised for append-only.
    restic.run(&repository, PASSWORD, &["forget", "latest", "--prune", "--max-unused", "0"]);
    succeed(&mut back_up(2));
    let message = fail(1, &mut back_up(3));
    assert!(message.contains("no space left"), "{message}");
}

/// The beginning of an upload of unknown length, which goes no further for as long as it lives.
fn stuck_upload(served: &Served, user: &str, log: &Path) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", "sleep 600 | exec curl \"$@\"", "curl", "-s", "-X", "POST", "-T", "-"]);
    shell.args(["-u", &format!("{user}:{user}'s"), "--cacert"]).arg(served.certificate());
    shell.arg(format!("https://127.0.0.1:{}/{user}/data/{}", served.port, "0".repeat(64)));
    Child::spawn("curl", &mut shell, log)
}

#[test]
fn a_user_whose_uploads_hang_stops_no_other() {
    let case = Case::new();
    let served = Served::start(&case, &["--private-repos"]);
    let [mia, ben] = ["mia", "ben"].map(|user| {
        let url = served.url(user, &format!("{user}'s"), &format!("{user}/"));
        succeed(served.levee(&url).arg("init"));
        url
    });
    let stuck: Vec<_> =
        (0..20).map(|number| stuck_upload(&served, "mia", &case.path(&format!("curl-{number}.log")))).collect();
    // They have begun by then, and go on for half a minute.
    thread::sleep(Duration::from_secs(2));
    let source = case.path("source");
    tree::make(&source);
    let begun = Instant::now();
    succeed(served.levee(&ben).args(["backup", as_text(&source)]));
    // Reading has a share of its own.
    let tls = trust::client_config(&served.certificate(), None).unwrap();
    let base_url = mia.strip_prefix("rest:").unwrap().to_string();
    let reader = RestStore::new(RestOptions { base_url, tls: Some(tls), resolve: None }).unwrap();
    assert_eq!(reader.list(FileType::Key).unwrap().len(), 1);
    assert!(!reader.read(FileType::Config, "").unwrap().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(stuck);
}

#[test]
fn strangers_who_guess_keep_no_user_out_and_a_broken_file_is_told_once() {
    let case = Case::new();
    let served = Served::start(&case, &["--private-repos"]);
    let ask = |users: &str, password: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code} ", "-u", &format!("{users}:{password}"), "--cacert"]);
        curl.arg(served.certificate()).arg(format!("https://127.0.0.1:{}/mia/config?[1-100]", served.port));
        text(&curl.output().unwrap())
    };
    assert_eq!(ask("mia", "mia's"), "404 ".repeat(100));
    assert_eq!(ask("eve", "x"), "401 ".repeat(100));
    fs::write(served.folder.join(".htpasswd"), "mia:plain\n").unwrap();
    // Whatever else is written at the same moment would be seen: it is told once all the same.
    assert_eq!(ask("mia", "mia's"), "404 ".repeat(100));
    assert_eq!(ask("mia", "ben's"), "401 ".repeat(100));
    let log = served.child.log_text();
    assert_eq!(log.matches("stay as they were").count(), 1, "{log}");
}

/// A certificate for 127.0.0.1 in the two files.
fn write_identity(certificate: &Path, key: &Path) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let signed = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap().self_signed(&pair).unwrap();
    fs::write(certificate, signed.pem()).unwrap();
    fs::write(key, pair.serialize_pem()).unwrap();
}

#[test]
fn a_renewed_certificate_counts_without_a_restart() {
    let case = Case::new();
    let (certificate, key) = (case.path("cert.pem"), case.path("key.pem"));
    write_identity(&certificate, &key);
    let old = case.path("old.pem");
    fs::copy(&certificate, &old).unwrap();
    let served = Served::start(&case, &["--no-auth", "--tls-cert", as_text(&certificate), "--tls-key", as_text(&key)]);
    let url = format!("rest:https://127.0.0.1:{}/host/", served.port);
    let levee = |trusted: &Path, verb: &str| {
        let mut command = command(&url);
        command.env("LEVEE_PASSWORD", PASSWORD).arg("--cacert").arg(trusted).arg(verb);
        command
    };
    succeed(&mut levee(&old, "init"));
    // In the middle of the renewal, as when the key comes later: the old one stays.
    let (next_certificate, next_key) = (case.path("next.pem"), case.path("next-key.pem"));
    write_identity(&next_certificate, &next_key);
    fs::copy(&next_certificate, &certificate).unwrap();
    succeed(&mut levee(&old, "snapshots"));
    fs::copy(&next_key, &key).unwrap();
    succeed(&mut levee(&next_certificate, "snapshots"));
    let refused = fail(1, &mut levee(&old, "snapshots"));
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn a_disk_that_is_unmounted_meanwhile_gets_nothing_in_its_place() {
    if !SmallDisk::is_possible() {
        return;
    }
    let case = Case::new();
    fs::create_dir(case.path("served")).unwrap();
    // What was served before the disk was mounted.
    let restic = Restic::distribution();
    let below_disk = case.path("served/host");
    restic.run(&below_disk, PASSWORD, &["init"]);
    let disk = SmallDisk::mount(&case.path("served"), 8);
    let served = Served::start(&case, &["--no-auth"]);
    let certificate = case.path("cert.pem");
    fs::copy(served.certificate(), &certificate).unwrap();
    let status_at = |port: u16, certificate: &Path, method: &str, path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "--cacert"]).arg(certificate);
        let url = format!("https://127.0.0.1:{port}/host/{path}");
        text(&curl.args(["--data-binary", "x"]).arg(url).output().unwrap())
    };
    let status = |method: &str, path: &str| status_at(served.port, &certificate, method, path);
    let lock = levee_store::content_name(b"x");
    for path in ["?create=true", "config", &format!("locks/{lock}")] {
        assert_eq!(status("POST", path), "200", "{path}");
    }
    drop(disk);
    for (method, path) in [
        ("POST", format!("locks/{lock}")),
        ("GET", "keys/".into()),
        ("DELETE", "locks/".to_string() + &lock),
        // Whoever opens it now is not let in to what stands there instead.
        ("GET", "config".into()),
        ("POST", "?create=true".into()),
        ("POST", format!("locks/{lock}")),
    ] {
        assert_eq!(status(method, &path), "502", "{method} {path}");
    }
    assert_eq!(fs::read_dir(below_disk.join("locks")).unwrap().count(), 0);
    assert!(served.child.log_text().contains("mounted"), "{}", served.child.log_text());
    // A server that is started again serves what it finds.
    let again = Served::start(&case, &["--no-auth"]);
    let status = |method: &str, path: &str| status_at(again.port, &again.certificate(), method, path);
    assert_eq!(status("GET", "config"), "200");
    assert_eq!(status("POST", &format!("locks/{lock}")), "200");
}
