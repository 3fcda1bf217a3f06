//! Fields of a node that Levee has no use for: what restic keeps of Windows' files, what newer versions and other
//! programs add. They stay with the node wherever it goes.

use crate::go_json::write_string;

/// What Windows keeps of a file. The one of these fields that restic writes before fields that are known here.
const GENERIC_ATTRIBUTES: &str = "generic_attributes";

/// As they are written: those before the field `device` first, each group in the order in which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFields(Vec<UnknownField>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnknownField {
    pub name: String,
    /// The value, byte for byte as it was read.
    pub json: Box<str>,
}

impl UnknownField {
    fn stands_before_device(&self) -> bool {
        self.name == GENERIC_ATTRIBUTES
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(b',');
        write_string(out, self.name.as_bytes());
        out.push(b':');
        out.extend_from_slice(self.json.as_bytes());
    }
}

impl UnknownFields {
    /// `None` takes no memory.
    pub(super) fn of(mut fields: Vec<UnknownField>) -> Option<Box<Self>> {
        if fields.is_empty() {
            return None;
        }
        // The sort is stable.
        fields.sort_by_key(|field| !field.stands_before_device());
        Some(Box::new(Self(fields)))
    }

    pub(super) fn write_before_device(&self, out: &mut Vec<u8>) {
        self.0.iter().filter(|field| field.stands_before_device()).for_each(|field| field.write(out));
    }

    pub(super) fn write_last(&self, out: &mut Vec<u8>) {
        self.0.iter().filter(|field| !field.stands_before_device()).for_each(|field| field.write(out));
    }
}

#[cfg(test)]
mod tests {
    use crate::Tree;

    const KNOWN: &str = r#""mtime":"2026-11-20T12:00:00Z","atime":"2026-11-20T12:00:00Z","ctime":"2026-11-20T12:00:00Z","uid":0,"gid":0"#;

    /// A tree of one device with such fields comes out as it went in, and is another one than that without them.
    #[track_caller]
    fn check(before_device: &str, last: &str) {
        let json = |before_device: &str, last: &str| {
            format!(
                "{{\"nodes\":[{{\"name\":\"a\",\"type\":\"chardev\",\"mode\":69206436,{KNOWN}{before_device},\"device\":259,\"content\":null{last}}}]}}\n"
            )
        };
        let written = json(before_device, last);
        let tree = Tree::from_json(written.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(tree.to_json()).unwrap(), written);
        let plain = Tree::from_json(json("", "").as_bytes()).unwrap();
        assert_eq!(tree == plain, before_device.is_empty() && last.is_empty());
    }

    #[test]
    fn they_are_written_where_restic_writes_them_byte_for_byte() {
        check("", "");
        check(r#","generic_attributes":{"windows.creation_time":"AQ==","windows.file_attributes":32}"#, "");
        check("", r#","error":"cannot \u003cread\u003e""#);
        check(
            r#","generic_attributes":{"windows.security_descriptor":"AAA\/"}"#,
            r#","error":"e","of_tomorrow":[1.50,{"b":null, "a":1e400}],"Name":"not the name","":true"#,
        );
    }

    #[test]
    fn what_stands_elsewhere_is_kept_too() {
        let json = format!(
            r#"{{"nodes":[{{"new":[],"generic_attributes":{{}},"name":"a","newer":0,"type":"file",{KNOWN},"content":[]}}]}}"#
        );
        let tree = Tree::from_json(json.as_bytes()).unwrap();
        let written = String::from_utf8(tree.to_json()).unwrap();
        let expected = format!(
            r#"{{"nodes":[{{"name":"a","type":"file",{KNOWN},"generic_attributes":{{}},"content":[],"new":[],"newer":0}}]}}"#
        );
        assert_eq!(written.trim_end(), expected);
        assert_eq!(Tree::from_json(written.as_bytes()), Ok(tree));
    }

    #[test]
    fn a_known_field_stands_once_and_a_node_has_a_name_and_a_type() {
        let refused = |fields: &str| Tree::from_json(format!(r#"{{"nodes":[{{{fields}}}]}}"#).as_bytes()).unwrap_err();
        assert!(refused(r#""name":"a","type":"file","uid":1,"uid":1"#).contains("duplicate field `uid`"));
        assert!(refused(r#""name":"a","content":[]"#).contains("missing field `type`"));
        assert!(refused(r#""type":"file""#).contains("missing field `name`"));
        assert!(refused(r#""name":"a","type":"file","new":[}"#).contains("JSON"));
    }

    #[test]
    fn a_node_without_any_is_hardly_larger() {
        assert_eq!(size_of::<Option<Box<super::UnknownFields>>>(), size_of::<usize>());
    }
}
