//! Reading a node. A visitor of its own, and not serde's `flatten`: that keeps each value in memory before it is looked at,
//! and a backup of a million small files reads as many nodes.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::unknown::{UnknownField, UnknownFields};
use super::{ExtendedAttribute, Node, NodeKind, SPECIAL_BITS};
use crate::go_json::unquote;
use crate::{FileTime, Id};

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Name,
    Type,
    Mode,
    Mtime,
    Atime,
    Ctime,
    Uid,
    Gid,
    User,
    Group,
    Inode,
    DeviceId,
    Size,
    Links,
    Linktarget,
    LinktargetRaw,
    ExtendedAttributes,
    Device,
    Content,
    Subtree,
    Unknown(String),
}

/// The node as JSON has it, before its name is unquoted and its parts are checked.
#[derive(Default)]
struct RawNode {
    name: Option<String>,
    kind: Option<NodeKind>,
    mode: Option<u32>,
    mtime: Option<FileTime>,
    atime: Option<FileTime>,
    ctime: Option<FileTime>,
    uid: Option<u32>,
    gid: Option<u32>,
    user: Option<String>,
    group: Option<String>,
    inode: Option<u64>,
    device_id: Option<u64>,
    size: Option<u64>,
    links: Option<u64>,
    linktarget: Option<String>,
    // Go writes `null` for these when they are empty.
    linktarget_raw: Option<Option<String>>,
    extended_attributes: Option<Option<Vec<RawAttribute>>>,
    device: Option<u64>,
    content: Option<Option<Vec<Id>>>,
    subtree: Option<Option<Id>>,
    unknown: Vec<UnknownField>,
}

#[derive(Deserialize)]
struct RawAttribute {
    name: String,
    #[serde(default)]
    value: Option<String>,
}

impl RawNode {
    /// Takes in the value of a field.
    fn read<'de, A: MapAccess<'de>>(&mut self, field: Field, map: &mut A) -> Result<(), A::Error> {
        match field {
            Field::Name => once(&mut self.name, "name", map),
            Field::Type => once(&mut self.kind, "type", map),
            Field::Mode => once(&mut self.mode, "mode", map),
            Field::Mtime => once(&mut self.mtime, "mtime", map),
            Field::Atime => once(&mut self.atime, "atime", map),
            Field::Ctime => once(&mut self.ctime, "ctime", map),
            Field::Uid => once(&mut self.uid, "uid", map),
            Field::Gid => once(&mut self.gid, "gid", map),
            Field::User => once(&mut self.user, "user", map),
            Field::Group => once(&mut self.group, "group", map),
            Field::Inode => once(&mut self.inode, "inode", map),
            Field::DeviceId => once(&mut self.device_id, "device_id", map),
            Field::Size => once(&mut self.size, "size", map),
            Field::Links => once(&mut self.links, "links", map),
            Field::Linktarget => once(&mut self.linktarget, "linktarget", map),
            Field::LinktargetRaw => once(&mut self.linktarget_raw, "linktarget_raw", map),
            Field::ExtendedAttributes => once(&mut self.extended_attributes, "extended_attributes", map),
            Field::Device => once(&mut self.device, "device", map),
            Field::Content => once(&mut self.content, "content", map),
            Field::Subtree => once(&mut self.subtree, "subtree", map),
            Field::Unknown(name) => {
                let json: Box<RawValue> = map.next_value()?;
                self.unknown.push(UnknownField { name, json: json.into() });
                Ok(())
            }
        }
    }
}

fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    field: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::duplicate_field(field));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an entry of a directory")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut raw = RawNode::default();
        while let Some(field) = map.next_key::<Field>()? {
            raw.read(field, &mut map)?;
        }
        let name = raw.name.take().ok_or_else(|| A::Error::missing_field("name"))?;
        let kind = raw.kind.ok_or_else(|| A::Error::missing_field("type"))?;
        checked(&name, kind, raw).map_err(A::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NodeVisitor)
    }
}

fn checked(quoted_name: &str, kind: NodeKind, raw: RawNode) -> Result<Node, String> {
    let name = unquote(quoted_name).ok_or_else(|| format!("the name {quoted_name:?} is not quoted as it must be"))?;
    // A name that leads elsewhere would let a snapshot write outside of where it is restored to.
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(format!("{quoted_name:?} is not a name for a file"));
    }
    let base64 = |text: String| BASE64.decode(text).map_err(|_| "a value is not base64".to_string());
    let link_target = match raw.linktarget_raw.flatten() {
        Some(target) => base64(target)?,
        None => raw.linktarget.unwrap_or_default().into_bytes(),
    };
    let attributes = raw.extended_attributes.flatten().unwrap_or_default().into_iter().map(|attribute| {
        let value = attribute.value.map_or(Ok(Vec::new()), base64)?;
        Ok(ExtendedAttribute { name: attribute.name.into(), value })
    });
    let mode = raw.mode.unwrap_or_default();
    let special = SPECIAL_BITS.iter().filter(|(go, _)| mode & go != 0).map(|(_, unix)| unix);
    Ok(Node {
        name: OsString::from_vec(name),
        kind,
        mode: mode & 0o777 | special.sum::<u32>(),
        mtime: raw.mtime.unwrap_or_default(),
        atime: raw.atime.unwrap_or_default(),
        ctime: raw.ctime.unwrap_or_default(),
        uid: raw.uid.unwrap_or_default(),
        gid: raw.gid.unwrap_or_default(),
        user: raw.user.unwrap_or_default(),
        group: raw.group.unwrap_or_default(),
        inode: raw.inode.unwrap_or_default(),
        device_id: raw.device_id.unwrap_or_default(),
        size: raw.size.unwrap_or_default(),
        links: raw.links.unwrap_or_default(),
        link_target: OsString::from_vec(link_target),
        extended_attributes: attributes.collect::<Result<_, String>>()?,
        device: raw.device.unwrap_or_default(),
        content: raw.content.flatten(),
        subtree: raw.subtree.flatten(),
        unknown: UnknownFields::of(raw.unknown),
    })
}
