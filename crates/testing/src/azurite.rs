//! Azure Blob Storage as Azurite serves it from memory, with one account and one container.

pub mod archive;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{run, try_run};
use crate::{Child, TempSite, cache, emulator, free_port, front, tools};

/// Of the npm package. It runs on the node of Debian 12, which is 18.
const VERSION: &str = "3.33.0";
const PROGRAM: &str = "node_modules/azurite/dist/src/blob/main.js";

pub const ACCOUNT: &str = "levee";
/// 64 bytes in base64, as Azure makes them.
pub const KEY: &str = "YW4gYWNjb3VudCBrZXkgZm9yIHRlc3RzIG9ubHksIG9mIDY0IGJ5dGVzLCBhcyBBenVyZSBtYWtlcyB0aGVtLg==";
pub const CONTAINER: &str = "vaults";

/// What the owner's requests, and the signature that is lent, are made for.
const API_VERSION: &str = "2022-11-02";
const CONTENT_TYPE: &str = "application/xml";
/// The access policy of the container that the lent signature refers to.
const POLICY: &str = "lent";

/// A running server.
pub struct Azurite {
    // Ended before its folder is removed.
    _child: Child,
    _site: TempSite,
    port: u16,
}

impl Azurite {
    /// `None` where this machine is offline and has none.
    #[track_caller]
    pub fn start() -> Option<Azurite> {
        let root = emulator::downloaded("Azurite", install())?;
        let (site, port) = (TempSite::new("azurite"), free_port());
        let mut command = Command::new(tools::required("node"));
        command.arg(root.join(PROGRAM)).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        command.args(["--inMemoryPersistence", "--extentMemoryLimit", "1024", "--silent"]);
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}")).current_dir(site.path());
        let child = Child::spawn("azurite", &mut command, &site.path().join("azurite.log"));
        emulator::wait_until_it_listens(&child, port);
        let azurite = Azurite { _child: child, _site: site, port };
        azurite.put(&[("restype", "container")], "");
        azurite.set_expired(false);
        Some(azurite)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// For example `http://127.0.0.1:21012/levee`: an emulator has its accounts in the path, not in the host's name.
    pub fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.address())
    }

    /// A shared access signature for everything in the container, until `set_expired(true)`.
    pub fn lent_signature(&self) -> String {
        // Permissions and times stand in the policy: the first three fields are empty.
        let to_sign = format!("\n\n\n/blob/{ACCOUNT}/{CONTAINER}\n{POLICY}\n\n\n{API_VERSION}\nc\n\n\n\n\n\n\n");
        let signature = signature(&to_sign).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        format!("sv={API_VERSION}&sr=c&si={POLICY}&sig={signature}")
    }

    /// Lets the policy of `lent_signature` end in the past, or far in the future.
    pub fn set_expired(&self, expired: bool) {
        let end = if expired { "2021-01-01T00:00:00Z" } else { "2099-01-01T00:00:00Z" };
        let policy = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><SignedIdentifiers><SignedIdentifier><Id>{POLICY}</Id>\
             <AccessPolicy><Start>2020-01-01T00:00:00Z</Start><Expiry>{end}</Expiry>\
             <Permission>racwdl</Permission></AccessPolicy></SignedIdentifier></SignedIdentifiers>"
        );
        self.put(&[("comp", "acl"), ("restype", "container")], &policy);
    }

    /// Writes a blob, whatever stands there.
    pub fn overwrite(&self, name: &str, content: &str) {
        let mut curl = curl();
        curl.args(["-X", "PUT", "-H", "x-ms-blob-type: BlockBlob", "--data-binary", content]);
        run(curl.arg(self.blob_url(name)));
    }

    /// The access tier of a blob.
    pub fn tier(&self, name: &str) -> String {
        let head = run(curl().arg("-I").arg(self.blob_url(name)));
        front::header(&head, "x-ms-access-tier").unwrap_or_default().to_string()
    }

    /// Brings every blob of the container into a folder, by plain HTTP.
    pub fn download(&self, folder: &Path) {
        let url = format!("{}/{CONTAINER}?restype=container&comp=list&{}", self.endpoint(), self.lent_signature());
        let listed = run(curl().arg(url));
        for entry in listed.split("<Name>").skip(1) {
            let name = entry.split('<').next().unwrap_or_default();
            let path = folder.join(name);
            let parent = path.parent().expect("it lies in the folder");
            fs::create_dir_all(parent).unwrap_or_else(|error| panic!("cannot make {}: {error}", parent.display()));
            run(curl().arg("-o").arg(&path).arg(self.blob_url(name)));
        }
    }

    fn blob_url(&self, name: &str) -> String {
        format!("{}/{CONTAINER}/{name}?{}", self.endpoint(), self.lent_signature())
    }

    /// A request of the account's owner about the container. The parameters are in the order of their names.
    fn put(&self, parameters: &[(&str, &str)], body: &str) {
        let date = run(Command::new("date").env("LC_ALL", "C").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]));
        let date = date.trim();
        let length = if body.is_empty() { String::new() } else { body.len().to_string() };
        let named: String = parameters.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
        // Azure's documentation calls it "Authorize with Shared Key"; headers that are not sent are empty lines.
        let to_sign = format!(
            "PUT\n\n\n{length}\n\n{CONTENT_TYPE}\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{API_VERSION}\n\
             /{ACCOUNT}/{ACCOUNT}/{CONTAINER}{named}"
        );
        let query: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut curl = curl();
        curl.args(["-X", "PUT", "--data-binary", body]);
        for header in [
            format!("content-type: {CONTENT_TYPE}"),
            format!("x-ms-date: {date}"),
            format!("x-ms-version: {API_VERSION}"),
            format!("authorization: SharedKey {ACCOUNT}:{}", signature(&to_sign)),
        ] {
            curl.args(["-H", &header]);
        }
        run(curl.arg(format!("{}/{CONTAINER}?{}", self.endpoint(), query.join("&"))));
    }
}

fn curl() -> Command {
    let mut curl = Command::new(tools::required("curl"));
    // A proxy that the machine's environment names does not reach an emulator here.
    curl.args(["-s", "-S", "--fail", "--noproxy", "*"]);
    curl
}

/// HMAC-SHA256 under the account's key, in base64.
fn signature(text: &str) -> String {
    let script = "key=$(printf %s \"$KEY\" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \\n') && printf %s \"$TEXT\" | \
                  openssl dgst -sha256 -mac HMAC -macopt \"hexkey:$key\" -binary | openssl base64 -A";
    run(Command::new("sh").args(["-c", script]).env("KEY", KEY).env("TEXT", text)).trim().to_string()
}

/// Downloads it into the cache, if it is not there yet, and returns its folder.
pub fn install() -> Result<PathBuf, String> {
    cache::filled_once(&format!("azurite-{VERSION}"), |folder| {
        let npm = tools::find("npm").ok_or("npm is not installed: run `cargo xtask setup`")?;
        let mut command = Command::new(npm);
        command.args([
            "install",
            "--loglevel=error",
            "--no-audit",
            "--no-fund",
            "--omit=dev",
            "--ignore-scripts",
            "--prefix",
        ]);
        try_run(command.arg(folder).arg(format!("azurite@{VERSION}"))).map(drop)
    })
}
