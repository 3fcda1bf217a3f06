//! The demo's protection file: the example, with the places that this run has.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// One of the two sites.
pub struct Site {
    pub name: &'static str,
    pub folder: PathBuf,
    pub address: IpAddr,
}

/// What the example is filled with.
pub struct Places<'a> {
    pub sites: [Site; 2],
    /// The database's port; `None` leaves the database out.
    pub database_port: Option<u16>,
    /// The operating system's user that the database runs as.
    pub os_user: &'a str,
}

impl Site {
    pub fn database(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub fn documents(&self) -> PathBuf {
        self.folder.join("documents")
    }
}

/// The example's text with the run's own paths, addresses and ports.
pub fn render(example: &str, places: &Places<'_>) -> Result<String> {
    let mut file: Table = example.parse().context("cannot parse the example")?;
    let shop = table(&mut file, &["app", "shop"])?;
    if let Some(port) = places.database_port {
        for site in &places.sites {
            let at = table(shop, &["postgres", "orders", "at", site.name])?;
            at.insert("data_directory".into(), site.database().to_string_lossy().into_owned().into());
            at.insert("address".into(), site.address.to_string().into());
            at.insert("port".into(), i64::from(port).into());
            at.insert("os_user".into(), places.os_user.into());
        }
    } else {
        shop.remove("postgres");
    }
    for site in &places.sites {
        let documents = table(shop, &["files", "documents", "at", site.name])?;
        documents.insert("path".into(), site.documents().to_string_lossy().into_owned().into());
        let entry = table(shop, &["entry", "shop", "at", site.name])?;
        entry.insert("address".into(), site.address.to_string().into());
    }
    Ok(file.to_string())
}

/// The name under which clients find the shop.
pub fn entry_name(example: &str) -> Result<String> {
    let mut file: Table = example.parse().context("cannot parse the example")?;
    let entry = table(&mut file, &["app", "shop", "entry", "shop"])?;
    Ok(entry.get("name").and_then(Value::as_str).context("the example's entry has no name")?.to_string())
}

fn table<'a>(mut table: &'a mut Table, path: &[&str]) -> Result<&'a mut Table> {
    for name in path {
        table = table
            .get_mut(*name)
            .and_then(Value::as_table_mut)
            .with_context(|| format!("the example has no table {}", path.join(".")))?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_filled_in() {
        let example = std::fs::read_to_string(crate::workspace::root().join("examples/shop.toml")).unwrap();
        let site = |name, address: &str| Site { name, folder: "/demo".into(), address: address.parse().unwrap() };
        let mut places = Places {
            sites: [site("east", "127.0.0.9"), site("west", "127.0.0.8")],
            database_port: Some(7),
            os_user: "me",
        };
        let rendered: Table = render(&example, &places).unwrap().parse().unwrap();
        let shop = &rendered["app"]["shop"];
        assert_eq!(shop["postgres"]["orders"]["at"]["west"]["port"].as_integer(), Some(7));
        assert_eq!(shop["files"]["documents"]["at"]["east"]["path"].as_str(), Some("/demo/documents"));
        assert_eq!(shop["entry"]["shop"]["at"]["west"]["address"].as_str(), Some("127.0.0.8"));
        places.database_port = None;
        assert!(!render(&example, &places).unwrap().contains("postgres"));
        assert_eq!(entry_name(&example).unwrap(), "shop.example.test");
    }
}
