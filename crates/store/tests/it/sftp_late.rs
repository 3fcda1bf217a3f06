//! The stock SFTP server, whose listings show the state of a moment ago: they are those of a copy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::server::Server;
use crate::sftp_middle::{self, Front, Passage};

/// A packet that asks for a folder: its kind, its number, and the path with its length before it.
const OPENDIR: u8 = 11;
const PATH_AT: usize = 9;

/// The folder of the repository, and the one of the copy.
pub const FOLDER: &str = "listed-late";
const COPY: &str = "listed-before";

pub struct LateFolder {
    pub server: Server,
    is_late: Arc<AtomicBool>,
}

impl LateFolder {
    pub fn start() -> Self {
        let is_late = Arc::new(AtomicBool::new(false));
        let late = is_late.clone();
        let on_request = move |request: Vec<u8>| match late.load(Ordering::Relaxed) {
            true => Passage::Passed(redirected(request)),
            false => Passage::Passed(request),
        };
        Self { server: sftp_middle::start(Front::default(), on_request, |_| {}), is_late }
    }

    /// `site` is where the folder lies.
    pub fn set(&self, site: &Path, is_late: bool) {
        if is_late {
            let copied = Command::new("cp").arg("-a").args([site.join(FOLDER), site.join(COPY)]).status().unwrap();
            assert!(copied.success());
        }
        self.is_late.store(is_late, Ordering::Relaxed);
        if !is_late {
            fs::remove_dir_all(site.join(COPY)).unwrap();
        }
    }
}

/// A request for a folder becomes one for the copy.
fn redirected(request: Vec<u8>) -> Vec<u8> {
    if request.len() < PATH_AT || request[0] != OPENDIR {
        return request;
    }
    let path = String::from_utf8_lossy(&request[PATH_AT..]).replacen(FOLDER, COPY, 1);
    let mut changed = request[..PATH_AT - 4].to_vec();
    changed.extend((path.len() as u32).to_be_bytes());
    changed.extend(path.as_bytes());
    changed
}
