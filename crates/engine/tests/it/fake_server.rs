//! What a server sends, for what real ones can't be brought to.

use std::io::Read;
use std::os::unix::net::UnixStream;

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    message
}

pub fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// A result set with text columns.
pub fn result_set(columns: &[&str], rows: &[&[Option<&str>]]) -> Vec<u8> {
    let mut description = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        description.extend(text(column));
        description.extend([0; 18]);
    }
    let mut sent = message(b'T', &description);
    for row in rows {
        let mut body = (row.len() as u16).to_be_bytes().to_vec();
        for value in *row {
            match value {
                None => body.extend((-1i32).to_be_bytes()),
                Some(value) => {
                    body.extend((value.len() as u32).to_be_bytes());
                    body.extend(value.as_bytes());
                }
            }
        }
        sent.extend(message(b'D', &body));
    }
    sent.extend(message(b'C', &text("SELECT")));
    sent
}

pub fn read_message(stream: &mut UnixStream, tagged: bool) -> String {
    let mut head = vec![0; if tagged { 5 } else { 4 }];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[head.len() - 4..].try_into().unwrap());
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8_lossy(&body).into_owned()
}

/// Everything up to the first command, when no password is asked for.
pub fn hello(version: &str) -> Vec<u8> {
    let mut hello = message(b'R', &[0; 4]);
    hello.extend(message(b'S', &[text("server_version"), text(version)].concat()));
    hello.extend(message(b'K', &[0; 8]));
    hello.extend(message(b'Z', b"I"));
    hello
}
