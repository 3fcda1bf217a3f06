//! The program as it is run at a site: in a network, behind other words, by another clock.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use levee_testing::levee::Binary;
use levee_testing::netns::Net;
use levee_testing::tools;

use super::{Site, World};

impl World {
    /// From its next start on, a site's agent runs behind these words (`env NAME=VALUE`, …).
    pub fn run_behind(&mut self, site: Site, words: &[&str]) {
        let words = words.iter().map(|word| word.to_string()).chain([self.binary.path().display().to_string()]);
        self.site_binaries[site as usize] = script(&self.root.path().join("client"), site, words);
    }

    /// From its next start on, a site's agent sees a clock that is off.
    pub fn set_clock(&mut self, site: Site, off: &str) {
        let set = clock_environment(off).map(|(name, value)| format!("{name}={value}"));
        self.run_behind(site, &["env", &set[0], &set[1], &set[2]]);
    }
}

/// The program as it is run inside a site of a network.
pub(super) fn inside(net: &Net, site: Site, binary: &Binary, folder: &Path) -> Binary {
    let inside = net.command(site.name(), binary.path());
    let words = std::iter::once(inside.get_program()).chain(inside.get_args());
    script(folder, site, words.map(|word| word.to_string_lossy().into_owned()))
}

/// A program that is these words, followed by its own arguments.
fn script(folder: &Path, site: Site, words: impl Iterator<Item = String>) -> Binary {
    let words: Vec<String> = words.map(|word| format!("'{word}'")).collect();
    let path = folder.join(format!("levee-{}", site.name()));
    fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).expect("our own folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    Binary::at(path)
}

/// What a program sees another time by. Waiting goes on by the true clock, as where only the time of day is wrong.
pub(super) fn clock_environment(off: &str) -> [(&'static str, String); 3] {
    [
        ("LD_PRELOAD", tools::faketime().display().to_string()),
        ("FAKETIME", off.to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_string()),
    ]
}
