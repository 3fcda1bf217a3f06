//! `levee vault serve`, with stock restic and Levee as its clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use levee_testing::levee::Binary;
use levee_testing::restic::{self, Restic};
use levee_testing::{Child, free_port, wait_for};

use super::tree::{self, assert_same, assert_same_to_restic};
use super::{Case, PASSWORD, below, command, fail, succeed};

/// The passwords `mia's` and `ben's`, by bcrypt.
const USERS: [(&str, &str); 2] = [("mia", "mia's"), ("ben", "ben's")];

struct Served {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Served {
    fn start(case: &Case, arguments: &[&str]) -> Self {
        let folder = case.path("served");
        fs::create_dir_all(&folder).unwrap();
        let lines = USERS.map(|(user, password)| format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap()));
        fs::write(folder.join(".htpasswd"), lines.concat()).unwrap();
        let port = free_port();
        let mut command = Binary::find().command();
        command.args(["vault", "serve", "--listen", &format!("127.0.0.1:{port}"), "--path"]).arg(&folder);
        let child = Child::spawn("levee vault serve", command.args(arguments), &case.path("serve.log"));
        wait_for("the server", Duration::from_secs(20), || child.log_text().contains("serving").then_some(()));
        Self { child, port, folder }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join(".tls/cert.pem")
    }

    fn url(&self, user: &str, password: &str, path: &str) -> String {
        format!("rest:https://{user}:{}@127.0.0.1:{}/{path}", password.replace('\'', "%27"), self.port)
    }

    fn restic(&self, restic: &Restic, url: &str) -> Command {
        let mut command = restic.command(url, PASSWORD);
        command.arg("--cacert").arg(self.certificate());
        command
    }

    fn levee(&self, url: &str) -> Command {
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
fn append_only_and_the_quota_hold_for_stock_restic() {
    let case = Case::new();
    let served = Served::start(&case, &["--append-only", "--max-size", "3000000", "--no-auth"]);
    let restic = Restic::distribution();
    let repository = served.folder.join("host");
    restic.run(&repository, PASSWORD, &["init"]);
    let url = format!("rest:https://127.0.0.1:{}/host/", served.port);
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    let noise = |seed: u32, length: u32| -> Vec<u8> {
        (0..length / 4).flat_map(|n| (n ^ seed).wrapping_mul(2_654_435_761).rotate_left(n % 29).to_le_bytes()).collect()
    };
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
