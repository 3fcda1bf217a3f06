use std::time::Duration;

use levee_testing::wait::wait_until;
use serde_json::Value;

use super::{Ended, Home, Service};

fn connected(home: &Home) -> Vec<String> {
    let agents = home.json(&["agent", "list"]);
    let connected = agents.as_array().unwrap().iter().filter(|agent| agent["connected"] == true);
    connected.map(|agent| agent["agent"].as_str().unwrap().to_string()).collect()
}

#[track_caller]
pub fn wait_until_connected(home: &Home, expected: &[&str]) {
    wait_until(&format!("{expected:?} are connected"), Duration::from_secs(60), || connected(home) == expected);
}

#[test]
fn a_server_and_its_agent_come_up_end_and_come_up_again() {
    let home = Home::new();
    let up = home.up("east");
    assert!(up.ready["agent"]["dns"].is_string(), "{}", up.ready);
    wait_until_connected(&home, &["east-1"]);
    assert_eq!(home.json(&["site", "list"])[0]["site"], "east");
    let folder = home.path("levee/agent");
    let folder = folder.to_str().unwrap();
    let status = home.json(&["agent", "status", "--folder", folder]);
    assert_eq!((&status["agent"], &status["site"]), (&"east-1".into(), &"east".into()));

    let mut set = home.command(&["agent", "secret", "set", "orders", "--folder", folder]);
    let secret = home.path("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    Ended::check(0, set.stdin(std::fs::File::open(&secret).unwrap()));
    assert_eq!(home.levee(&["agent", "secret", "list", "--folder", folder]), "orders\n");

    let log = up.stop();
    assert!(!log.contains("levee-join-") && !log.contains("levee-api-"), "a token was logged: {log}");
    let up = home.up("ignored-at-a-second-start");
    wait_until_connected(&home, &["east-1"]);
    up.stop();
}

#[test]
fn a_second_site_joins_with_a_token_that_works_once() {
    let home = Home::new();
    let up = home.up("east");
    let token = home.path("west.token");
    std::fs::write(&token, home.levee(&["token", "create", "--site", "west"])).unwrap();
    let west = home.path("west");
    let west = west.to_str().unwrap();
    let join = |folder: &str, name: &str| {
        let token = token.to_str().unwrap();
        home.command(&["agent", "join", "--folder", folder, "--name", name, "--token-file", token])
    };
    Ended::check(0, &mut join(west, "west-1"));
    let other = home.path("other");
    let again = Ended::check(1, &mut join(other.to_str().unwrap(), "west-2"));
    assert!(again.stderr.contains("token"), "{}", again.stderr);

    let mut run = home.command(&["agent", "run", "--json", "--folder", west, "--listen", "127.0.0.1"]);
    run.args(["--wire-port", "0", "--store-port", "0", "--dns-port", "0"]);
    let agent = Service::start("west", &mut run, &home.path("west.log"));
    wait_until_connected(&home, &["east-1", "west-1"]);

    // Everything that an app needs is there now; the folder it names is not, and that is said.
    let file = home.path("shop.toml");
    let (east_path, west_path) = (home.path("documents"), home.path("documents-west"));
    std::fs::create_dir(&east_path).unwrap();
    std::fs::write(east_path.join("a"), "a").unwrap();
    let spec = format!(
        "[app.shop]\nhome = \"east\"\nrecovery = \"west\"\nobjective = {{ recovery_point = \"1h\", recovery_time = \"1h\" }}\n\
         [app.shop.files.documents]\nevery = \"2s\"\nat.east.path = \"{}\"\nat.west.path = \"{}\"\n\
         [app.shop.entry.web]\nname = \"shop.example.test\"\nat.east.address = \"127.0.0.2\"\nat.west.address = \"127.0.0.3\"\n",
        east_path.display(),
        west_path.display()
    );
    std::fs::write(&file, spec).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(home.json(&["apply", "-f", file, "--dry-run"])["apps"][0]["change"], "created");
    assert_eq!(home.levee(&["apply", "-f", file]), "shop: created\n");
    assert_eq!(home.levee(&["apply", "-f", file]), "shop: unchanged\n");
    assert!(home.levee(&["app", "show", "shop"]).contains("[app.shop.files.documents]"));
    assert_eq!(home.json(&["app", "list"])[0]["writer"], "east");

    let asset = |status: &Value| status["apps"][0]["assets"][0].clone();
    wait_until("documents are protected", Duration::from_secs(90), || {
        let printed = home.command(&["status", "shop", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&printed.stdout).unwrap();
        // The exit code says the same as the text.
        assert_eq!(printed.status.code(), Some(if status["health"] == "protected" { 0 } else { 2 }));
        asset(&status)["protected"] == true
    });
    let table = home.command(&["status"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("documents") && table.contains("never proved"), "{table}");

    let plan = home.json(&["drill", "shop", "--dry-run"]);
    assert_eq!((&plan["kind"], &plan["to"]), (&"drill".into(), &"west".into()));
    assert!(home.levee(&["failover", "shop", "--to", "west", "--dry-run"]).contains("documents"));
    let refused = home.ends(1, &["failover", "shop", "--to", "west"]);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    let refused = home.ends(1, &["failover", "shop", "--to", "west", "--plan", plan["id"].as_str().unwrap(), "--yes"]);
    assert!(refused.stderr.contains("is a drill of shop"), "{}", refused.stderr);

    let drill = home.ends(0, &["drill", "shop", "--json"]);
    let last: Value = serde_json::from_str(drill.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "done", "{last}");
    let run = last["id"].as_str().unwrap();
    assert!(home.levee(&["run", "show", run]).contains("done"));
    assert_eq!(home.json(&["run", "list", "--app", "shop"])[0]["id"], run);
    assert!(home.levee(&["run", "watch", run]).contains("is done"));
    assert!(home.ends(1, &["run", "abort", run]).stderr.contains("has ended"));
    let table = home.command(&["status"]).output().unwrap();
    assert!(String::from_utf8(table.stdout).unwrap().contains("passed"));

    agent.stop();
    home.levee(&["agent", "revoke", "west-1"]);
    wait_until_connected(&home, &["east-1"]);
    up.stop();
}
