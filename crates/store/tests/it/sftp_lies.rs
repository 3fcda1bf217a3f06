//! The stock SFTP server, whose answers about sizes are changed on their way.

use crate::server::Server;
use crate::sftp_middle::{self, Front, Passage, number};

/// Packets, and what stands in attributes ("SSH File Transfer Protocol", draft-ietf-secsh-filexfer-02).
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRIBUTES: u8 = 105;
const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_PERMISSIONS: u32 = 4;
const HAS_TIMES: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SftpLie {
    /// Files are a byte shorter than they are.
    SmallSizes,
    /// Files are a byte longer than they are.
    LargeSizes,
    /// Half of what was asked for comes, as the protocol allows.
    ShortReads,
    /// A byte more than was asked for comes.
    LongReads,
}

impl SftpLie {
    pub const ALL: [SftpLie; 4] = [SftpLie::SmallSizes, SftpLie::LargeSizes, SftpLie::ShortReads, SftpLie::LongReads];

    /// Whether it is an error, and not made good by asking on.
    pub fn is_noticed(self) -> bool {
        self != SftpLie::ShortReads
    }

    /// Changes one packet, without the length before it.
    fn tell(self, packet: &mut Vec<u8>) {
        match (packet.first(), self) {
            (Some(&ATTRIBUTES), SftpLie::SmallSizes | SftpLie::LargeSizes) => drop(self.change_size(packet, 5)),
            (Some(&NAME), SftpLie::SmallSizes | SftpLie::LargeSizes) => {
                let count = number(packet, 5).unwrap_or_default();
                let mut at = 9;
                for _ in 0..count {
                    // The name, and what `ls -l` would print of it.
                    for _ in 0..2 {
                        at += 4 + number(packet, at).unwrap_or_default() as usize;
                    }
                    let Some(next) = self.change_size(packet, at) else { return };
                    at = next;
                }
            }
            (Some(&DATA), SftpLie::ShortReads) => {
                let length = number(packet, 5).unwrap_or_default().div_ceil(2);
                packet[5..9].copy_from_slice(&length.to_be_bytes());
                packet.truncate(9 + length as usize);
            }
            (Some(&DATA), SftpLie::LongReads) => {
                let length = number(packet, 5).unwrap_or_default() + 1;
                packet[5..9].copy_from_slice(&length.to_be_bytes());
                packet.push(b'x');
            }
            _ => {}
        }
    }

    /// Changes the size in the attributes at a place, and says where they end.
    fn change_size(self, packet: &mut [u8], at: usize) -> Option<usize> {
        let flags = number(packet, at)?;
        let mut end = at + 4;
        if flags & HAS_SIZE != 0 {
            let field = packet.get_mut(end..end + 8)?;
            let size = u64::from_be_bytes(field.try_into().ok()?);
            let size = if self == SftpLie::SmallSizes { size.saturating_sub(1) } else { size + 1 };
            field.copy_from_slice(&size.to_be_bytes());
            end += 8;
        }
        for (flag, bytes) in [(HAS_OWNER, 8), (HAS_PERMISSIONS, 4), (HAS_TIMES, 8)] {
            end += if flags & flag != 0 { bytes } else { 0 };
        }
        Some(end)
    }
}

/// Serves each connection by an SFTP server of its own.
pub fn start(lie: SftpLie) -> Server {
    sftp_middle::start(Front::default(), Passage::Passed, move |answer| lie.tell(answer))
}
