//! Google Cloud Storage as gcp-storage-emulator serves it from memory, with one bucket.
//!
//! The emulator lets in everybody, knows no conditions (`ifGenerationMatch`), answers a range beyond a file with a part
//! that ends before it begins, and names `null` as a type of content. Google's documented answers are put in front of it
//! for these, as `glacier` does for an archive class; everything else is its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use crate::front::{self, Front, Request};
use crate::process::{run, try_run};
use crate::{Child, TempSite, cache, emulator, free_port, tools};

/// Of the PyPI package.
const VERSION: &str = "2026.7.19";

pub const BUCKET: &str = "vaults";
/// Who shows a token must show this one. Who shows none is let in, as clients of an emulator are.
pub const TOKEN: &str = "ya29.a-token-for-tests";

/// A running server.
pub struct Gcs {
    front: Front,
    token: Arc<Mutex<String>>,
    emulator: SocketAddr,
    // Ended before its folder is removed.
    _child: Child,
    _site: TempSite,
}

impl Gcs {
    /// `None` where this machine is offline and has none.
    #[track_caller]
    pub fn start() -> Option<Gcs> {
        let root = emulator::downloaded("gcp-storage-emulator", install())?;
        let (site, port) = (TempSite::new("gcs"), free_port());
        let mut command = Command::new(root.join("bin/python"));
        command.args(["-m", "gcp_storage_emulator", "start", "--in-memory", "--quiet"]);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]).current_dir(site.path());
        let child = Child::spawn("gcp-storage-emulator", &mut command, &site.path().join("emulator.log"));
        emulator::wait_until_it_listens(&child, port);
        let emulator = SocketAddr::from(([127, 0, 0, 1], port));
        let token = Arc::new(Mutex::new(TOKEN.to_string()));
        // The emulator answers one request after the other, and so nothing comes between a condition and its upload.
        let (accepted, turn) = (token.clone(), Mutex::new(()));
        let front = Front::start(move |request| {
            let accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            answer(request, emulator, &accepted)
        });
        let gcs = Gcs { front, token, emulator, _child: child, _site: site };
        gcs.post("/storage/v1/b?project=levee", "application/json", &format!("{{\"name\": \"{BUCKET}\"}}"));
        Some(gcs)
    }

    /// Where it answers as Google does.
    pub fn address(&self) -> SocketAddr {
        self.front.address()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The emulator itself, for clients that send bodies in chunks and ask for no conditions.
    pub fn emulator(&self) -> SocketAddr {
        self.emulator
    }

    /// Accepts this token from now on, and no other.
    pub fn set_token(&self, token: &str) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token.into();
    }

    /// Writes an object, whatever stands there.
    pub fn overwrite(&self, name: &str, content: &str) {
        let name = name.replace('/', "%2F");
        let target = format!("/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}");
        self.post(&target, "application/octet-stream", content);
    }

    /// The storage class of an object.
    pub fn class(&self, name: &str) -> String {
        let target = format!("/storage/v1/b/{BUCKET}/o/{}", name.replace('/', "%2F"));
        let told = run(curl().arg(format!("{}{target}", self.endpoint())));
        let class = told.split_once("\"storageClass\": \"").and_then(|(_, rest)| rest.split_once('"'));
        class.unwrap_or_else(|| panic!("no storage class in {told}")).0.to_string()
    }

    /// The names of all objects below a folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let target = format!("/storage/v1/b/{BUCKET}/o?prefix={}", folder.replace('/', "%2F"));
        let told = run(curl().arg(format!("{}{target}", self.endpoint())));
        let named = told.split("\"name\": \"").skip(1).filter_map(|rest| rest.split_once('"'));
        named.map(|(name, _)| name.to_string()).collect()
    }

    fn post(&self, target: &str, content_type: &str, body: &str) {
        let mut curl = curl();
        curl.args(["-X", "POST", "-H", &format!("content-type: {content_type}")]);
        run(curl.args(["--data-binary", body]).arg(format!("{}{target}", self.endpoint())));
    }
}

fn curl() -> Command {
    let mut curl = Command::new(tools::required("curl"));
    // A proxy that the machine's environment names does not reach an emulator here.
    curl.args(["-s", "-S", "--fail", "--noproxy", "*"]);
    curl
}

fn answer(request: &Request, emulator: SocketAddr, token: &str) -> io::Result<Vec<u8>> {
    let (path, query) = request.path_and_query();
    if request.header("authorization").is_some_and(|shown| shown != format!("Bearer {token}")) {
        return Ok(refusal("401 Unauthorized", "authError", "Invalid Credentials"));
    }
    if bucket_of(path).is_some_and(|bucket| bucket != BUCKET) {
        return Ok(refusal("404 Not Found", "notFound", "The specified bucket does not exist."));
    }
    let is_upload = path.starts_with("/upload/");
    if is_upload && request.method() == "DELETE" {
        // A session that is given up.
        return Ok(b"HTTP/1.1 499 Client Closed Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec());
    }
    // The address of an upload's session repeats the condition that it was begun with.
    if is_upload && parameter(query, "ifGenerationMatch") == Some("0") {
        let name = parameter(query, "name").unwrap_or_default();
        let present = Request::get(&format!("/storage/v1/b/{BUCKET}/o/{name}")).pass_on(emulator)?;
        if status(&present) == "200" {
            let message = "At least one of the pre-conditions you specified did not hold.";
            return Ok(refusal("412 Precondition Failed", "conditionNotMet", message));
        }
    }
    request.pass_on(emulator).map(corrected)
}

fn bucket_of(path: &str) -> Option<&str> {
    path.split_once("/b/")?.1.split('/').next()
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(key, value)| (key == name).then_some(value))
}

fn status(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).into_owned()
}

/// What the emulator answers, as Google would answer it.
fn corrected(answer: Vec<u8>) -> Vec<u8> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return answer };
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    if front::header(&head, "content-range").is_some_and(ends_before_it_begins) {
        let reason = "requestedRangeNotSatisfiable";
        return refusal("416 Requested Range Not Satisfiable", reason, "Request range not satisfiable");
    }
    if front::header(&head, "content-type") != Some("application/json") {
        return answer;
    }
    let body = String::from_utf8_lossy(&answer[end + 4..]).replace("\"contentType\": null, ", "");
    let is_kept = |line: &&str| !line.to_ascii_lowercase().starts_with("content-length:");
    let kept: Vec<&str> = head.lines().filter(is_kept).collect();
    format!("{}\r\nContent-Length: {}\r\n\r\n{body}", kept.join("\r\n"), body.len()).into_bytes()
}

/// Of a `Content-Range`.
fn ends_before_it_begins(range: &str) -> bool {
    let bytes = range.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).map(|(bytes, _)| bytes);
    let Some((first, last)) = bytes.and_then(|bytes| bytes.split_once('-')) else { return false };
    match (first.parse::<i64>(), last.parse::<i64>()) {
        (Ok(first), Ok(last)) => last < first,
        _ => false,
    }
}

fn refusal(status: &str, reason: &str, message: &str) -> Vec<u8> {
    let code = status.split(' ').next().unwrap_or_default();
    let body = format!(
        "{{\"error\": {{\"code\": {code}, \"message\": \"{message}\", \"errors\": [{{\"message\": \"{message}\", \
         \"domain\": \"global\", \"reason\": \"{reason}\"}}]}}}}"
    );
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Downloads it into the cache, if it is not there yet, and returns the folder of its virtual environment.
pub fn install() -> Result<PathBuf, String> {
    cache::filled_once(&format!("gcp-storage-emulator-{VERSION}"), |folder| {
        let python = tools::find("python3").ok_or("python3 is not installed: run `cargo xtask setup`")?;
        try_run(Command::new(python).args(["-m", "venv"]).arg(folder))?;
        // Its programs name the folder that they were made in, which is renamed; its Python does not.
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
        try_run(pip.arg(format!("gcp-storage-emulator=={VERSION}"))).map(drop)
    })
}

/// Whether this machine can make virtual environments.
pub fn has_venv() -> bool {
    let imports = |python: PathBuf| try_run(Command::new(python).args(["-c", "import ensurepip, venv"])).is_ok();
    tools::find("python3").is_some_and(imports)
}
