//! What the clients saw in an act that was played, reckoned up from their book and from what members
//! heard.

use std::rc::Rc;
use std::time::Instant;

use super::ledger::{self, Change, Fallen, Moves, Return, Seen, Trouble};
use super::load::{Book, Exchange, Who, home};
use super::members::Member;
use super::stage::{SITES, Site, Stage, site_of};
use super::story::{Deed, Played};

/// What the clients saw in an act.
pub(super) fn reckon(stage: &Stage, book: &Book, done: &Played) -> Seen {
    let within = |at: Instant| done.began <= at && at < done.ended;
    let exchanges = || book.exchanges.iter().filter(|e| within(e.ended));
    let visitors = || exchanges().filter(|e| e.who == Who::Visitor);
    let answers = |members: &[&str]| {
        let by = |e: &&Exchange| e.outcome.as_ref().is_ok_and(|by| members.contains(&&**by));
        exchanges().filter(by).count() as u64
    };
    let answered = visitors().filter(|e| e.outcome.is_ok());
    let deed = done.act.deed;
    let change = deed.awaited().map(|what| Change {
        what,
        noticed: done.noticed,
        answers: match deed {
            Deed::Returns(member) => Some(answers(&[member])),
            Deed::UsersComeHome(site) => Some(answers(&SITES[site].members)),
            _ => None,
        },
    });
    let outages = book.outages.iter().filter(|o| within(o.noticed));
    Seen {
        title: done.act.title.to_owned(),
        change,
        visitors: visitors().count() as u64,
        slowest: answered.map(|e| e.took).max().unwrap_or_default(),
        resident_answers: exchanges()
            .filter(|e| e.who.is_resident() && e.outcome.is_ok())
            .count() as u64,
        outages: outages.map(|o| o.lasted).collect(),
        still_out: done.still_out,
        moved: moved(&done.with),
        moves: match deed {
            Deed::SiteDies(site) => {
                let users = &SITES[site];
                SITES
                    .iter()
                    .find(|other| other.name != users.name)
                    .map(|twin| settled(&done.with[1], users, twin))
            }
            Deed::UsersComeHome(site) => Some(settled(&done.with[1], &SITES[site], &SITES[site])),
            _ => None,
        },
        losses: losses(stage, book, done),
    }
}

fn losses(stage: &Stage, book: &Book, done: &Played) -> ledger::Losses {
    let within = |at: Instant| done.began <= at && at < done.ended;
    let exchanges = book.exchanges.iter().filter(|e| within(e.ended));
    let failed = exchanges.filter_map(|exchange| {
        let with = exchange.with.as_deref();
        Some(Trouble {
            who: exchange.who,
            home: exchange.home,
            how: *exchange.outcome.as_ref().err()?,
            with: with
                .or_else(|| heard_by(stage, exchange))
                .map(str::to_owned),
        })
    });
    let cut = book.cuts.iter().filter(|cut| within(cut.at));
    let cut = cut.map(|cut| Trouble {
        who: Who::Resident(cut.place),
        home: home(cut.place),
        how: cut.how,
        with: Some(cut.with.to_string()),
    });
    let troubles: Vec<Trouble> = failed.chain(cut).collect();
    let fallen = done.act.deed.falls().iter().zip(&done.unheard_before);
    let fallen: Vec<Fallen<'_>> = fallen
        .map(|(member, before)| Fallen {
            member,
            unheard: stage
                .member(member)
                .map_or(0, Member::unheard)
                .saturating_sub(*before),
        })
        .collect();
    let elsewhere = |site: usize| {
        let others = SITES.iter().filter(move |s| s.name != SITES[site].name);
        others.flat_map(|site| site.members).collect::<Vec<&str>>()
    };
    let back = match done.act.deed {
        Deed::UsersComeHome(site) => Some((site, elsewhere(site))),
        _ => None,
    };
    let back = back.as_ref().map(|(site, off)| Return { home: *site, off });
    ledger::sort(&troubles, &fallen, back)
}

fn heard_by<'a>(stage: &'a Stage, exchange: &Exchange) -> Option<&'a str> {
    let mut members = stage.members.iter();
    let member = members.find(|member| member.heard(exchange.number))?;
    Some(member.name())
}

/// How many of the residents who are users of a site were answered last by a member of `to`.
pub(super) fn settled(with: &[Option<Rc<str>>], users: &Site, to: &Site) -> Moves {
    let of_it = with.iter().enumerate();
    let of_it = of_it.filter(|(place, _)| SITES[home(*place)].name == users.name);
    let is_there = |with: &Option<Rc<str>>| {
        let by = with.as_deref();
        by.is_some_and(|by| to.members.contains(&by))
    };
    Moves {
        of: users.name,
        to: to.name,
        all: of_it.clone().count(),
        there: of_it.filter(|(_, with)| is_there(with)).count(),
    }
}

/// Residents whom another site answered after than before.
fn moved([before, after]: &[Vec<Option<Rc<str>>>; 2]) -> usize {
    let site = |with: &Option<Rc<str>>| with.as_deref().and_then(site_of);
    let pairs = before.iter().zip(after);
    pairs
        .filter(|(before, after)| {
            let sites = site(before).zip(site(after));
            sites.is_some_and(|(before, after)| before != after)
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::super::load::RESIDENTS;
    use super::*;

    fn all_with(member: impl Fn(usize) -> &'static str) -> Vec<Option<Rc<str>>> {
        (0..RESIDENTS)
            .map(|place| Some(member(place).into()))
            .collect()
    }

    #[test]
    fn those_who_changed_the_site_have_moved_and_those_who_changed_the_member_have_not() {
        let before = all_with(|place| SITES[home(place)].members[0]);
        let mut after = all_with(|place| SITES[home(place)].members[1]);
        assert_eq!(moved(&[before.clone(), after.clone()]), 0);
        after[0] = Some("busan1".into());
        after[1] = Some("seoul1".into());
        assert_eq!(moved(&[before.clone(), after.clone()]), 2);
        after[0] = None;
        assert_eq!(moved(&[before, after]), 1);
    }

    #[test]
    fn two_of_three_residents_are_users_of_the_first_site() {
        let at_home = all_with(|place| SITES[home(place)].members[0]);
        let [seoul, busan] = &SITES;
        let counted = |users, to| {
            let moves = settled(&at_home, users, to);
            (moves.there, moves.all)
        };
        assert_eq!(counted(seoul, seoul), (40, 40));
        assert_eq!(counted(seoul, busan), (0, 40));
        assert_eq!(counted(busan, busan), (20, 20));
    }
}
