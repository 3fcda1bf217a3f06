//! `levee agent join` that is killed in the middle: run again it works, or says that it takes a new token.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use levee_testing::Child;

use super::up::wait_until_connected;
use super::{Ended, Home, Service};

/// How many moments of a join it is killed at, spread evenly over the time that one takes.
const MOMENTS: u32 = 8;
/// What a join leaves in its folder, in this order. The last one is what makes it an agent.
const FILES: [&str; 5] = ["joining-key.pem", "ca.pem", "grant-key", "identity.pem", "agent.json"];
/// The files follow each other within milliseconds.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// One agent that is to join.
struct Joining<'a> {
    home: &'a Home,
    name: String,
    folder: PathBuf,
    token: PathBuf,
}

impl<'a> Joining<'a> {
    fn new(home: &'a Home, number: usize) -> Joining<'a> {
        let name = format!("west-{number}");
        let joining = Joining { home, folder: home.path(&name), token: home.path(&format!("{name}.token")), name };
        joining.new_token();
        joining
    }

    fn new_token(&self) {
        std::fs::write(&self.token, self.home.levee(&["token", "create", "--site", "west"])).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = self.home.command(&["agent", "join", "--name", &self.name]);
        command.arg("--folder").arg(&self.folder).arg("--token-file").arg(&self.token);
        command
    }

    fn run_command(&self) -> Command {
        let mut command = self.home.command(&["agent", "run", "--json", "--listen", "127.0.0.1"]);
        command.args(["--wire-port", "0", "--store-port", "0", "--dns-port", "0", "--folder"]).arg(&self.folder);
        command
    }

    fn has_joined(&self) -> bool {
        self.folder.join("agent.json").exists()
    }

    /// Kills a join at a moment, and says whether it was still running then.
    fn kill(&self, wait: impl FnOnce(&mut Child)) -> bool {
        let mut child = Child::spawn("join", &mut self.command(), &self.home.path(&format!("{}.log", self.name)));
        wait(&mut child);
        let was_running = child.is_running();
        child.kill();
        was_running
    }

    /// Whatever the kill has left: it starts only as a whole agent, and becomes one.
    #[track_caller]
    fn check(&self, when: &str) {
        let had_joined = self.has_joined();
        if !had_joined {
            let refused = Ended::check(1, &mut self.run_command());
            assert!(refused.stderr.contains("levee agent join"), "{when}: {}", refused.stderr);
        }
        let again = self.command().output().unwrap();
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        match again.status.code() {
            Some(0) => {}
            // Only one that had joined has used its token up for good; it needs none.
            Some(1) => {
                assert!(had_joined, "{when}: the token is lost: {said}");
                assert!(said.contains("used already") && said.contains("ask for a new one"), "{when}: {said}");
                self.new_token();
                Ended::check(0, &mut self.command());
            }
            code => panic!("{when}: {code:?}: {said}"),
        }
        assert!(self.has_joined(), "{when}");
        assert!(!self.folder.join("joining-key.pem").exists(), "{when}: the key to join with is left");
        let token = std::fs::read_to_string(&self.token).unwrap();
        assert!(!said.contains(token.trim()), "{when}: the token was shown");
        let mut run = self.run_command();
        let agent = Service::start(&self.name, &mut run, &self.home.path(&format!("{}-run.log", self.name)));
        wait_until_connected(self.home, &["east-1", &self.name]);
        agent.stop();
        println!("killed {when}: had joined {had_joined}, again {:?}", again.status.code());
    }
}

fn wait_for_file(child: &mut Child, file: &Path) {
    while !file.exists() && child.is_running() {
        std::thread::sleep(LOOK_EVERY);
    }
}

#[test]
fn a_join_that_is_killed_is_run_again_and_never_leaves_half_an_agent() {
    let home = Home::new();
    let up = home.up("east");
    wait_until_connected(&home, &["east-1"]);
    let undisturbed = Joining::new(&home, 1);
    let begun = Instant::now();
    Ended::check(0, &mut undisturbed.command());
    let took = begun.elapsed();
    undisturbed.check("after its end");

    let mut in_time = 0;
    for moment in 0..MOMENTS {
        let after = took * moment / MOMENTS;
        let joining = Joining::new(&home, 10 + moment as usize);
        in_time += u32::from(joining.kill(|_| std::thread::sleep(after)));
        joining.check(&format!("after {:.1} ms of {:.1}", after.as_secs_f64() * 1e3, took.as_secs_f64() * 1e3));
    }
    assert!(in_time > 0, "no join was killed before its end");
    for (number, file) in FILES.into_iter().enumerate() {
        let joining = Joining::new(&home, 100 + number);
        let path = joining.folder.join(file);
        joining.kill(|child| wait_for_file(child, &path));
        joining.check(&format!("when {file} was there"));
    }
    up.stop();
}
