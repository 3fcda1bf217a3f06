mod parse;
mod unknown;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize, Serializer};

use crate::go_json::{write_quoted, write_string};
use crate::{FileTime, Id};
use unknown::UnknownFields;

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    File,
    Dir,
    Symlink,
    /// A block device.
    Dev,
    CharDev,
    Fifo,
    Socket,
    #[serde(other)]
    Irregular,
}

impl NodeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            NodeKind::File => "file",
            NodeKind::Dir => "dir",
            NodeKind::Symlink => "symlink",
            NodeKind::Dev => "dev",
            NodeKind::CharDev => "chardev",
            NodeKind::Fifo => "fifo",
            NodeKind::Socket => "socket",
            NodeKind::Irregular => "irregular",
        }
    }

    /// The bits of Go's `os.FileMode` that say the kind.
    fn mode_bits(self) -> u32 {
        match self {
            NodeKind::File => 0,
            NodeKind::Dir => 1 << 31,
            NodeKind::Symlink => 1 << 27,
            NodeKind::Dev => 1 << 26,
            NodeKind::CharDev => 1 << 26 | 1 << 21,
            NodeKind::Fifo => 1 << 25,
            NodeKind::Socket => 1 << 24,
            NodeKind::Irregular => 1 << 19,
        }
    }
}

/// The bits of Go's `os.FileMode` beside the nine permissions, and where Unix has them.
const SPECIAL_BITS: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedAttribute {
    pub name: OsString,
    pub value: Vec<u8>,
}

/// One entry of a directory, as the format stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Any bytes but `/` and NUL; never empty, `.` or `..`.
    pub name: OsString,
    pub kind: NodeKind,
    /// The permissions as Unix has them, with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    pub mtime: FileTime,
    pub atime: FileTime,
    pub ctime: FileTime,
    pub uid: u32,
    pub gid: u32,
    pub user: String,
    pub group: String,
    pub inode: u64,
    /// The file system it was on.
    pub device_id: u64,
    /// In bytes; of files only.
    pub size: u64,
    pub links: u64,
    pub link_target: OsString,
    pub extended_attributes: Vec<ExtendedAttribute>,
    /// The number of a device.
    pub device: u64,
    /// The blobs of a file in their order.
    pub content: Option<Vec<Id>>,
    /// The tree of a directory.
    pub subtree: Option<Id>,
    /// What others say of it beside all this. Few nodes have any, and there may be millions in memory.
    pub unknown: Option<Box<UnknownFields>>,
}

impl Node {
    /// A node with nothing but a name, a kind and permissions.
    pub fn new(name: OsString, kind: NodeKind, mode: u32) -> Self {
        Self {
            name,
            kind,
            mode,
            mtime: FileTime::default(),
            atime: FileTime::default(),
            ctime: FileTime::default(),
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            inode: 0,
            device_id: 0,
            size: 0,
            links: 0,
            link_target: OsString::new(),
            extended_attributes: Vec::new(),
            device: 0,
            content: None,
            subtree: None,
            unknown: None,
        }
    }

    /// The blobs of a file; none for anything else.
    pub fn blobs(&self) -> &[Id] {
        self.content.as_deref().unwrap_or_default()
    }

    /// The mode as Go's `os.FileMode` has it: the kind in the high bits.
    pub fn go_mode(&self) -> u32 {
        let special = SPECIAL_BITS.iter().filter(|(_, unix)| self.mode & unix != 0).map(|(go, _)| go);
        self.kind.mode_bits() | self.mode & 0o777 | special.sum::<u32>()
    }

    /// Writes the node as restic's marshaller does, down to the order of the fields. What is unknown is written as it was
    /// read.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\":");
        write_quoted(out, self.name.as_bytes());
        text(out, "type", self.kind.as_str().as_bytes());
        number(out, "mode", u64::from(self.go_mode()));
        for (field, time) in [("mtime", self.mtime), ("atime", self.atime), ("ctime", self.ctime)] {
            key(out, field);
            out.push(b'"');
            time.write_to(out);
            out.push(b'"');
        }
        for (field, value) in [("uid", self.uid), ("gid", self.gid)] {
            key(out, field);
            digits(out, u64::from(value));
        }
        text(out, "user", self.user.as_bytes());
        text(out, "group", self.group.as_bytes());
        number(out, "inode", self.inode);
        number(out, "device_id", self.device_id);
        number(out, "size", self.size);
        number(out, "links", self.links);
        let target = self.link_target.as_bytes();
        text(out, "linktarget", target);
        if std::str::from_utf8(target).is_err() {
            text(out, "linktarget_raw", BASE64.encode(target).as_bytes());
        }
        if !self.extended_attributes.is_empty() {
            key(out, "extended_attributes");
            for (index, attribute) in self.extended_attributes.iter().enumerate() {
                out.extend_from_slice(if index == 0 { b"[{\"name\":" } else { b",{\"name\":" });
                write_string(out, attribute.name.as_bytes());
                out.extend_from_slice(b",\"value\":\"");
                out.extend_from_slice(BASE64.encode(&attribute.value).as_bytes());
                out.extend_from_slice(b"\"}");
            }
            out.push(b']');
        }
        if let Some(unknown) = &self.unknown {
            unknown.write_before_device(out);
        }
        number(out, "device", self.device);
        key(out, "content");
        match &self.content {
            None => out.extend_from_slice(b"null"),
            Some(blobs) => {
                out.push(b'[');
                for (index, blob) in blobs.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    id(out, blob);
                }
                out.push(b']');
            }
        }
        if let Some(subtree) = &self.subtree {
            key(out, "subtree");
            id(out, subtree);
        }
        if let Some(unknown) = &self.unknown {
            unknown.write_last(out);
        }
        out.push(b'}');
    }
}

fn key(out: &mut Vec<u8>, field: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(b"\":");
}

fn digits(out: &mut Vec<u8>, mut value: u64) {
    // The largest has twenty.
    let mut text = [b'0'; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] += (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break out.extend_from_slice(&text[start..]);
        }
    }
}

fn id(out: &mut Vec<u8>, id: &Id) {
    let start = out.len() + 1;
    out.resize(start + 2 * Id::LENGTH, b'"');
    // The length is right.
    let _ = hex::encode_to_slice(id.as_bytes(), &mut out[start..]);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, field: &str, value: u64) {
    if value != 0 {
        key(out, field);
        digits(out, value);
    }
}

fn text(out: &mut Vec<u8>, field: &str, value: &[u8]) {
    if !value.is_empty() {
        key(out, field);
        write_string(out, value);
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = Vec::new();
        self.write_json(&mut json);
        let raw: Box<serde_json::value::RawValue> = serde_json::from_slice(&json).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}
