use std::time::Duration;

use super::{Ended, Home, Service};

/// A server without agents.
fn serve(home: &Home) -> Service {
    let folder = home.path("server");
    let mut command = home.command(&["server", "run", "--json", "--api", "127.0.0.1:0", "--wire", "127.0.0.1:0"]);
    Service::start("server", command.arg("--folder").arg(folder), &home.path("server.log"))
}

#[test]
fn each_thing_that_is_missing_or_wrong_is_named() {
    let home = Home::new();
    let server = serve(&home);
    let text = |name: &str| server.ready[name].as_str().unwrap().to_string();
    let (api, token_file, ca_file) = (text("api"), text("token_file"), text("ca_file"));
    let token = std::fs::read_to_string(&token_file).unwrap().trim().to_string();
    let check = |code: i32, variables: &[(&str, &str)], said: &str| {
        let mut command = home.command(&["status"]);
        let ended = Ended::check(code, command.envs(variables.iter().copied()));
        let all = format!("{}{}", ended.stdout, ended.stderr);
        assert!(all.contains(said), "{variables:?}: {all}");
        assert!(!all.contains(&token), "the token was shown");
    };
    let (server_is, ca_is) = (("LEVEE_SERVER", api.as_str()), ("LEVEE_CA_FILE", ca_file.as_str()));
    let token_is = ("LEVEE_TOKEN_FILE", token_file.as_str());
    check(0, &[server_is, ca_is, token_is], "no app is protected yet");
    check(0, &[server_is, ca_is, ("LEVEE_TOKEN", &token)], "no app is protected yet");
    check(1, &[], "no server is known");
    check(1, &[server_is, token_is], "give --ca-file FILE");
    check(1, &[server_is, ca_is], "there is no token for https://127.0.0.1:");
    check(1, &[server_is, ca_is, ("LEVEE_TOKEN_FILE", "/nowhere")], "cannot read the token file /nowhere");
    check(1, &[server_is, ca_is, ("LEVEE_TOKEN", "levee-api-000000000000-00")], "the token is unknown");
    check(1, &[server_is, ("LEVEE_CA_FILE", &token_file), token_is], "the CA file holds no certificate");
    check(1, &[("LEVEE_SERVER", "127.0.0.1"), ca_is, token_is], "write https://HOST:PORT");
    check(1, &[("LEVEE_SERVER", "https://127.0.0.1:1"), ca_is, token_is], "cannot reach the server");

    // The CA of another server.
    let other = Home::new();
    let other_folder = other.path("server");
    other.levee(&["server", "init", "--folder", other_folder.to_str().unwrap()]);
    let other_ca = other_folder.join("ca/ca.pem");
    check(1, &[server_is, ("LEVEE_CA_FILE", other_ca.to_str().unwrap()), token_is], "is not the server of this CA");

    let log = server.stop();
    assert!(!log.contains(&token), "the token was logged");
}

#[test]
fn a_server_that_was_initialised_is_found_by_the_context_file() {
    let home = Home::new();
    let folder = home.path("server");
    let folder = folder.to_str().unwrap();
    let port = levee_testing::free_port();
    let url = format!("https://127.0.0.1:{port}");
    home.levee(&["server", "init", "--folder", folder, "--url", &url]);
    let ended = home.ends(1, &["server", "init", "--folder", folder]);
    assert!(ended.stderr.contains("holds a server already"), "{}", ended.stderr);
    let ended = home.ends(1, &["status"]);
    assert!(ended.stderr.contains(&format!("cannot reach the server at {url}")), "{}", ended.stderr);

    let api = format!("127.0.0.1:{port}");
    let mut command =
        home.command(&["server", "run", "--json", "--folder", folder, "--api", &api, "--wire", "127.0.0.1:0"]);
    let server = Service::start("server", &mut command, &home.path("server.log"));
    assert_eq!(server.ready["api"], url.as_str());
    assert_eq!(home.json(&["status"])["health"], "protected");
    // A second server in the same folder would tear the state apart.
    let mut second =
        home.command(&["server", "run", "--folder", folder, "--api", "127.0.0.1:0", "--wire", "127.0.0.1:0"]);
    assert!(Ended::check(1, &mut second).stderr.contains("in use by another"));

    // A token of one's own, and the end of it.
    let created = home.json(&["token", "create", "--name", "ops", "--read-only"]);
    let mut as_ops = home.command(&["token", "create", "--join"]);
    let refused = Ended::check(1, as_ops.env("LEVEE_TOKEN", created["token"].as_str().unwrap()));
    assert!(refused.stderr.contains("may only read"), "{}", refused.stderr);
    home.levee(&["token", "revoke", created["id"].as_str().unwrap()]);
    let join = home.json(&["token", "create", "--site", "east", "--expires", "10m"]);
    let listed = home.json(&["token", "list"]);
    assert_eq!((listed["tokens"].as_array().unwrap().len(), &listed["join_tokens"][0]["id"]), (1, &join["id"]));
    home.levee(&["token", "revoke", join["id"].as_str().unwrap()]);
    assert!(home.ends(1, &["token", "revoke", "nonsense"]).stderr.contains("nonsense"));

    let backup = home.path("server.age");
    let passphrase = home.path("passphrase");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    let files = ["--output", backup.to_str().unwrap(), "--passphrase-file", passphrase.to_str().unwrap()];
    home.levee(&[&["server", "backup"], &files[..]].concat());
    assert!(std::fs::read(&backup).unwrap().starts_with(b"age-encryption.org/v1"));
    assert!(home.ends(1, &[&["server", "backup"], &files[..]].concat()).stderr.contains("cannot make"));
    let wrong = home.path("wrong.age");
    home.ends(1, &["server", "backup", "--output", wrong.to_str().unwrap(), "--recipient", "age1nonsense"]);
    assert!(!wrong.exists(), "half a backup was left");
    server.stop();
}

#[test]
fn a_service_that_cannot_start_says_why_and_ends() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let api = taken.local_addr().unwrap().to_string();
    let folder = home.path("server");
    let arguments = ["server", "run", "--folder", folder.to_str().unwrap(), "--api", &api, "--wire", "127.0.0.1:0"];
    let started = std::time::Instant::now();
    let ended = home.ends(1, &arguments);
    assert!(ended.stderr.contains(&format!("cannot listen on {api}")), "{}", ended.stderr);
    assert!(started.elapsed() < Duration::from_secs(20));
    let ended = home.ends(1, &["agent", "run", "--folder", folder.to_str().unwrap()]);
    assert!(ended.stderr.contains("--advertise"), "{}", ended.stderr);
    let ended = home.ends(1, &["agent", "run", "--folder", folder.to_str().unwrap(), "--listen", "127.0.0.1"]);
    assert!(ended.stderr.contains("levee agent join"), "{}", ended.stderr);
}
