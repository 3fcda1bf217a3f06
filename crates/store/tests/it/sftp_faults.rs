//! The stock SFTP server, which fails at times, or whose connections break at requests of every kind.

use std::sync::atomic::{AtomicU64, Ordering};

use levee_testing::random::Random;

use crate::server::Server;
use crate::sftp_middle::{self, Front, Passage, number};

/// Packets ("SSH File Transfer Protocol", draft-ietf-secsh-filexfer-02).
const INIT: u8 = 1;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const MKDIR: u8 = 14;
const STAT: u8 = 17;
const STATUS: u8 = 101;
/// What a server says of everything that it has no word for.
const FAILURE: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The server says that it failed, and has done nothing.
    Failed,
    TornUpload,
    LostAnswer,
}

/// Requests of which one operation needs hundreds: a listing is of 256 folders. They meet faults in bursts, so that
/// whoever tries again comes through in between.
const FREQUENT: [u8; 8] = [CLOSE, READ, WRITE, LSTAT, OPENDIR, READDIR, MKDIR, STAT];
/// From the beginning of one burst to that of the next: more than twice what the largest operation needs.
const BURSTS_APART: u64 = 2_500;
const BURST: [(u64, Fault); 6] = [
    (40, Fault::Failed),
    (71, Fault::TornUpload),
    (98, Fault::Failed),
    (133, Fault::LostAnswer),
    (134, Fault::Failed),
    (200, Fault::TornUpload),
];

fn for_frequent(request: u64) -> Fault {
    let place = request % BURSTS_APART;
    BURST.into_iter().find(|(at, _)| *at == place).map_or(Fault::None, |(_, fault)| fault)
}

/// For those by which a file comes to its name and goes, of which a write needs a handful: one in twenty, without a period
/// that attempts could fall in with. A connection takes long to be made again, so that few break.
fn for_others(request: u64) -> Fault {
    match Random::new(request).below(256) {
        0..=11 => Fault::Failed,
        12 => Fault::TornUpload,
        13 => Fault::LostAnswer,
        _ => Fault::None,
    }
}

/// Serves each connection by an SFTP server of its own; the requests are counted over all of them.
pub fn start(front: Front) -> Server {
    let (frequent, others) = (AtomicU64::new(0), AtomicU64::new(0));
    let on_request = move |request: Vec<u8>| {
        let fault = match request.first() {
            None | Some(&INIT) => Fault::None,
            Some(kind) if FREQUENT.contains(kind) => for_frequent(frequent.fetch_add(1, Ordering::Relaxed)),
            Some(_) => for_others(others.fetch_add(1, Ordering::Relaxed)),
        };
        match fault {
            Fault::None => Passage::Passed(request),
            Fault::Failed => Passage::Answered(failed(&request)),
            Fault::TornUpload => Passage::Torn(request),
            Fault::LostAnswer => Passage::Lost(request),
        }
    };
    sftp_middle::start(front, on_request, |_| {})
}

/// The answer to a request, with a message and the language that it is in.
fn failed(request: &[u8]) -> Vec<u8> {
    let mut answer = vec![STATUS];
    answer.extend(number(request, 1).unwrap_or_default().to_be_bytes());
    answer.extend(FAILURE.to_be_bytes());
    for text in ["Failure", ""] {
        answer.extend((text.len() as u32).to_be_bytes());
        answer.extend(text.as_bytes());
    }
    answer
}
