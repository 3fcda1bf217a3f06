//! `--group-by` as restic takes it.

use levee_vault::forget::GroupBy;

pub fn parse_group_by(text: &str) -> Result<GroupBy, String> {
    let mut group_by = GroupBy { host: false, paths: false, tags: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        match part {
            "host" | "hosts" => group_by.host = true,
            "path" | "paths" => group_by.paths = true,
            "tag" | "tags" => group_by.tags = true,
            _ => return Err(format!("{part:?} makes no group: write host, paths and tags with commas")),
        }
    }
    Ok(group_by)
}
