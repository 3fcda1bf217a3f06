//! Vaults on OSS, COS and OBS as their documentation describes them, behind a proxy that the environment names.

use std::process::Command;

use levee_testing::clouds::{Cloud, Clouds, KEY_ID, SECRET_KEY};

use super::{Case, PASSWORD, below, command, succeed};

/// More than the page of a listing holds.
const BACKUPS: usize = 9;

/// The variables that hold the keys.
fn variables(cloud: Cloud) -> [&'static str; 2] {
    match cloud {
        Cloud::Oss => ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"],
        Cloud::Cos => ["TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"],
        Cloud::Obs => ["OBS_ACCESS_KEY_ID", "OBS_SECRET_ACCESS_KEY"],
    }
}

fn levee(cloud: Cloud, clouds: &Clouds, arguments: &[&str]) -> Command {
    let mut command = command(format!("{}:http://{}/{}/vaults/mine", cloud.scheme(), cloud.host(), cloud.bucket()));
    for name in ["HTTP_PROXY", "NO_PROXY", "no_proxy", "REQUEST_METHOD"] {
        command.env_remove(name);
    }
    let [key_id, secret] = variables(cloud);
    command.env("http_proxy", format!("http://{}", clouds.address()));
    command.env(key_id, KEY_ID).env(secret, SECRET_KEY).env("LEVEE_PASSWORD", PASSWORD).args(arguments);
    command
}

fn backs_up_and_restores(cloud: Cloud) {
    let (case, clouds) = (Case::new(), Clouds::start());
    let levee = |arguments: &[&str]| levee(cloud, &clouds, arguments);
    let (source, target) = (case.path("source"), case.path("target"));
    std::fs::create_dir(&source).unwrap();
    let large: Vec<u8> = (0u32..1 << 20).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(source.join("large"), &large).unwrap();
    succeed(&mut levee(&["init"]));
    for number in 0..BACKUPS {
        std::fs::write(source.join("small"), number.to_string()).unwrap();
        succeed(&mut levee(&["backup", source.to_str().unwrap()]));
    }
    succeed(&mut levee(&["check", "--read-data"]));
    assert!(clouds.further_pages() > 0);
    succeed(&mut levee(&["restore", "latest", "--target", target.to_str().unwrap()]));
    let restored = |name: &str| std::fs::read(below(&target, &source).join(name)).unwrap();
    assert_eq!(restored("small"), (BACKUPS - 1).to_string().as_bytes());
    assert!(restored("large") == large, "the large file came back changed");
    let before = clouds.objects(cloud);
    succeed(&mut levee(&["forget", "--keep-last", "1"]));
    assert!(clouds.objects(cloud) < before);

    let [_, secret] = variables(cloud);
    let output = levee(&["snapshots"]).env(secret, "sesame").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("sesame") && said.contains("credentials"), "{said}");
    // Other kinds of proxies are named as what they are.
    let output = levee(&["snapshots"]).env("http_proxy", "socks5://mia:sesame@127.0.0.1:1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("sesame") && said.contains("http_proxy"), "{said}");
}

#[test]
fn oss() {
    backs_up_and_restores(Cloud::Oss);
}

#[test]
fn cos() {
    backs_up_and_restores(Cloud::Cos);
}

#[test]
fn obs() {
    backs_up_and_restores(Cloud::Obs);
}
