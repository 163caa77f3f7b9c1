//! The house keeps its own rules: who may touch the world, and what may lie in the top folder.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that decide and do nothing else.
const DECIDING: [&str; 3] = ["src/health", "src/balance", "src/pairing"];
/// Files in them that are the shell around the deciding: probes, the runner, where records lie.
const SHELLS: [&str; 3] = ["src/health/probe", "src/health/runner", "src/pairing/store"];
/// What deciding code must not reach.
const WORLD: [&str; 8] = [
    "tokio::",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "Instant::now",
    "SystemTime::now",
    "clock::",
    "rand::",
];

fn sources(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn deciding_rooms_reach_no_clock_no_socket_and_no_dice() {
    let mut read = 0;
    for room in DECIDING {
        let mut files = Vec::new();
        sources(Path::new(room), &mut files);
        for file in files {
            let name = file.to_string_lossy().replace('\\', "/");
            if SHELLS.iter().any(|shell| name.starts_with(shell)) || name.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            read += 1;
            for (number, line) in code.lines().enumerate() {
                let said = line.split("//").next().unwrap_or_default();
                for word in WORLD {
                    assert!(!said.contains(word), "{name}:{}: {word}", number + 1);
                }
            }
        }
    }
    assert!(read >= 10, "only {read} files were read");
}

#[test]
fn the_top_folder_holds_what_it_should_and_nothing_else() {
    const BELONGS: [&str; 8] = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "config",
        "tests",
        "benches",
        "README.md",
        "LICENSE",
    ];
    for entry in fs::read_dir(".").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = BELONGS.contains(&name.as_str()) || name.starts_with('.') || name == "target";
        assert!(known, "{name} does not belong in the top folder");
    }
}
