//! Which links are up, by `/sys/class/net`.

use std::collections::{BTreeMap, BTreeSet};

/// The links that something is known about, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(BTreeMap<String, Link>);

/// One link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it can carry packets: switched on, with a carrier.
    pub up: bool,
    /// Whether the kernel passes over its routes while it has no carrier
    /// (`ignore_routes_with_linkdown`).
    pub skipped_when_down: bool,
}

impl Link {
    /// From the texts of `flags`, `carrier` and `operstate`, where they can be read. Only what
    /// says so makes a link count as down.
    pub fn parse(
        flags: Option<&str>,
        carrier: Option<&str>,
        operstate: Option<&str>,
        skipped_when_down: bool,
    ) -> Link {
        const IFF_UP: u32 = 1;
        let flags = flags.and_then(|text| {
            let digits = text.trim().strip_prefix("0x")?;
            u32::from_str_radix(digits, 16).ok()
        });
        let off = flags.is_some_and(|flags| flags & IFF_UP == 0);
        let no_carrier = carrier.is_some_and(|text| text.trim() == "0");
        let down = operstate
            .map(str::trim)
            .is_some_and(|state| matches!(state, "down" | "lowerlayerdown" | "notpresent"));
        Link {
            up: !(off || no_carrier || down),
            skipped_when_down,
        }
    }
}

impl Links {
    /// What is known about the link `name`.
    pub fn get(&self, name: &str) -> Option<&Link> {
        self.0.get(name)
    }

    /// Adds a link.
    pub fn insert(&mut self, name: String, link: Link) {
        self.0.insert(name, link);
    }

    /// These links, if they are those of our network namespace, by the text of `/proc/net/dev`;
    /// otherwise nothing is known. In a container `/sys` may still show its host's.
    pub fn if_of_namespace(self, dev: Option<&str>) -> Links {
        let Some(dev) = dev else {
            return Links::default();
        };
        const HEADINGS: usize = 2;
        let names = dev.lines().skip(HEADINGS);
        let ours: BTreeSet<&str> = names
            .filter_map(|line| Some(line.split_once(':')?.0.trim()))
            .collect();
        match ours.iter().copied().eq(self.0.keys().map(String::as_str)) {
            true => self,
            false => Links::default(),
        }
    }
}
