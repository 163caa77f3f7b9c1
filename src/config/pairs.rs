//! `[pairs.NAME]`: two pools that back each other up, and every reason why two pools cannot.

mod fit;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::duration;
use super::listeners::Listener;
use super::reader::{Notes, Table, unknown};
use super::resolve::{MOST_POOLS, NamedPool, NamedSite, check_name};
use crate::topology::{Automation, Pair, PairId, PairRules};

/// No pool is in two.
const MOST_PAIRS: usize = MOST_POOLS / 2;
/// Sessions a second: far more than one instance moves, and still a number.
const MOST_RATE: u32 = 100_000;
const LONGEST_HOLD: Duration = Duration::from_secs(3_600);
const EXAMPLE: &str = "[\"fe-seoul\", \"fe-busan\"]";
const WORDS: [(&str, Automation); 2] = [
    ("manual", Automation::Manual),
    ("automatic", Automation::Automatic),
];

/// Every pair, and what others have to know of them.
pub(super) struct Read {
    pub(super) pairs: Vec<Pair>,
    /// Where the first of them is named.
    pub(super) first: Option<Range<usize>>,
    /// The pools that a pair names, by their places in the list: where, and in which pair.
    named: HashMap<usize, (Range<usize>, String)>,
}

/// A pool that a pair names.
struct Mention<'p> {
    pool: &'p NamedPool,
    /// Its place in the list of pools.
    at: usize,
    /// Where the pair names it.
    place: Range<usize>,
}

/// Reads `[pairs]`.
pub(super) fn read(table: &Table<'_>, pools: &[NamedPool], sites: &[NamedSite]) -> Read {
    let named = table.named();
    let mut read = Read {
        pairs: Vec::new(),
        first: named.first().map(|(_, place, _)| place.clone()),
        named: HashMap::new(),
    };
    if named.len() > MOST_PAIRS {
        let message = format!("{} pairs are more than one file may have", named.len());
        let help = format!("at most {MOST_PAIRS}; run several instances");
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    let mut fit = fit::Fit::new(table, sites);
    for (name, place, value) in named.into_iter().take(MOST_PAIRS) {
        check_pair_name(table, &name, &place, pools);
        let section = table.as_table(&value, "pair");
        let mentions = mentions(&section, &name, pools, &mut read.named);
        let pair = pair(&section, name, PairId(read.pairs.len() as u16));
        if let Some([first, second]) = mentions
            && let Some(pools) = fit.ids(&pair.name, &first, &second)
        {
            read.pairs.push(Pair { pools, ..pair });
        }
    }
    read
}

/// Where users of a pool that is in no pair would never be away, nobody listens for them.
pub(super) fn tell_unpaired(pools: &[NamedPool], pairs: &Read, notes: &Notes) {
    for (at, pool) in pools.iter().enumerate() {
        let at_twin = pool.read.as_ref().and_then(|read| read.at_twin.first());
        if let Some(Listener { place, .. }) = at_twin.filter(|_| !pairs.named.contains_key(&at)) {
            let name = &pool.name;
            let message = format!("`listen_at_twin` in `{name}`, a pool without a twin");
            let help = format!(
                "write `[pairs.NAME]` and below it `pools = [\"{name}\", \"…\"]`, or leave \
                 `listen_at_twin` out"
            );
            notes.note(Diagnostic::new(message, place.clone()).help(help));
        }
    }
}

fn check_pair_name(table: &Table<'_>, name: &str, place: &Range<usize>, pools: &[NamedPool]) {
    check_name(table, "pair", name, place.clone());
    if let Some(pool) = pools.iter().find(|pool| pool.name == name) {
        let message = format!("`{name}` is the name of a pool and of a pair");
        let help = format!("give the pair another name: `twinpool why {name}` takes either");
        table.note(
            Diagnostic::new(message, place.clone())
                .label("this pair")
                .also(pool.place.clone(), "this pool")
                .help(help),
        );
    }
}

/// The two pools of a pair. None when there are not two that exist, differ and are free.
fn mentions<'p>(
    table: &Table<'_>,
    pair: &str,
    pools: &'p [NamedPool],
    taken: &mut HashMap<usize, (Range<usize>, String)>,
) -> Option<[Mention<'p>; 2]> {
    let value = table.get("pools");
    if value.is_none() && !table.is_misread() {
        let message = format!("pair `{pair}` has no pools");
        let help = format!("write the two that back each other up, `pools = {EXAMPLE}`");
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    let names = table.names("pools", EXAMPLE)?;
    let value = value?;
    let written = value.raw.as_array().map_or(0, |list| list.len());
    if written != 2 {
        let message = format!("a pair is of two pools, not of {written}");
        let help = format!("write the two that back each other up, `pools = {EXAMPLE}`");
        table.note(Diagnostic::new(message, value.span).help(help));
    }
    let mut found: Vec<Mention<'p>> = Vec::new();
    for (name, place) in names {
        let Some(at) = pools.iter().position(|pool| pool.name == name) else {
            tell_unknown_pool(table, &name, place, pools);
            continue;
        };
        if let Some(twice) = found.iter().find(|mention| mention.at == at) {
            let message = format!("`{name}` cannot be its own twin");
            let help = "write two pools, in different sites and regions";
            table.note(
                Diagnostic::new(message, place)
                    .also(twice.place.clone(), "and here")
                    .help(help),
            );
            continue;
        }
        if let Some((other_place, other)) = taken.get(&at) {
            let message = format!("`{name}` is in two pairs, `{other}` and `{pair}`");
            let help = "a pool has one twin: leave it out of one of them";
            table.note(
                Diagnostic::new(message, place)
                    .label("here")
                    .also(other_place.clone(), "and here")
                    .help(help),
            );
            continue;
        }
        taken.insert(at, (place.clone(), pair.to_owned()));
        let pool = &pools[at];
        found.push(Mention { pool, at, place });
    }
    let [first, second] = <[Mention<'p>; 2]>::try_from(found).ok()?;
    (written == 2).then_some([first, second])
}

fn tell_unknown_pool(table: &Table<'_>, name: &str, place: Range<usize>, pools: &[NamedPool]) {
    let known = pools.iter().map(|pool| pool.name.as_str());
    let diagnostic = unknown("pool", name, place, known);
    table.note(match pools {
        [] => diagnostic.help("write a `[pools.NAME]` of that name"),
        _ => diagnostic,
    });
}

/// A pair as it says of itself; its pools are filled in afterwards.
fn pair(table: &Table<'_>, name: String, id: PairId) -> Pair {
    let rules = rules(table);
    let exclusive = table.bool("exclusive").unwrap_or(false);
    let spill = table.bool("spill");
    if let Some(place) = table.get("exclusive").map(|value| value.span)
        && exclusive
    {
        if spill == Some(true) {
            let message = "an exclusive pair cannot spill";
            let help = "leave `spill` out: with it, users of one pool are served by both at once";
            let spill_place = table.get("spill").map_or(place.clone(), |value| value.span);
            table.note(
                Diagnostic::new(message, spill_place)
                    .also(place.clone(), "exclusive")
                    .help(help),
            );
        }
        let message = "`exclusive = true` needs `[cluster]`, which is not in this version yet";
        let help = "leave `exclusive` out";
        table.note(Diagnostic::new(message, place).help(help));
    }
    let rate = |key, default| {
        let given = table.integer(key, 1..=MOST_RATE);
        NonZeroU32::new(given.unwrap_or(default)).unwrap_or(NonZeroU32::MIN)
    };
    Pair {
        id,
        name,
        pools: [crate::topology::PoolId(0); 2],
        spill: spill.unwrap_or(rules.failover == Automation::Automatic && !exclusive),
        exclusive,
        move_rate: rate("move_rate", 500),
        arrivals: rate("arrivals", 1_000),
        rules,
    }
}

fn rules(table: &Table<'_>) -> PairRules {
    let failover = table.word("failover", &WORDS).unwrap_or_default();
    let failback = table.word("failback", &WORDS).unwrap_or_default();
    let after = table.duration("after");
    let hold = table.duration("hold").unwrap_or(Duration::from_secs(300));
    let longest_hold = table.duration("longest_hold");
    let warn = |key, message: &str, help: &str| {
        if let Some(value) = table.get(key) {
            table.note(Diagnostic::new(message, value.span).help(help).warning());
        }
    };
    // A word that is not one was told; what it was meant to be is not known.
    let is_manual = table
        .get("failover")
        .is_none_or(|value| value.raw.as_str() == Some("manual"));
    if is_manual && after.is_some() {
        let message = "`after` means nothing where a person sends users to the twin";
        let help = "write `failover = \"automatic\"`, or leave `after` out";
        warn("after", message, help);
    }
    if is_manual && failback == Automation::Automatic {
        let message = "an automatic failback brings home only users whom automation sent away";
        let help = "write `failover = \"automatic\"` too, or leave `failback` out";
        warn("failback", message, help);
    }
    if let Some(longest) = longest_hold.filter(|longest| *longest < hold)
        && let Some(value) = table.get("longest_hold")
    {
        let (longest, hold) = (duration::write(longest), duration::write(hold));
        let message = format!("`longest_hold` ({longest}) is shorter than `hold` ({hold})");
        let help = format!(
            "`hold` grows with every relapse, up to `longest_hold`: write `longest_hold = \
             \"{hold}\"` or more, or a shorter `hold`"
        );
        let diagnostic = Diagnostic::new(message, value.span).help(help);
        table.note(match table.get("hold") {
            Some(hold) => diagnostic.also(hold.span, "longer than that"),
            None => diagnostic,
        });
    }
    PairRules {
        failover,
        after: after.unwrap_or(Duration::from_secs(10)),
        failback,
        hold,
        longest_hold: longest_hold.unwrap_or(LONGEST_HOLD.max(hold)),
        ramp: table
            .duration_or_none("ramp")
            .unwrap_or(Duration::from_secs(60)),
    }
}
