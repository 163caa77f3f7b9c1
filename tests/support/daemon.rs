//! What a running twinpool says of itself.

use jiff::Timestamp;
use serde_json::Value;

use super::clock::now;
use super::lab::Lab;
use super::scene::{CLIENT, OBSERVE};
use super::{Result, http};

/// An event, as `/v1/events` tells it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// When, on the clock of [`now`].
    pub(crate) at: u64,
    /// What it is about: `verdict`, `isolation`, …
    pub(crate) kind: String,
    /// The pool, where there is one.
    pub(crate) pool: Option<String>,
    /// The member, where there is one.
    pub(crate) member: Option<String>,
    /// The whole of it.
    pub(crate) text: String,
}

/// All events since the start, oldest first.
pub(crate) fn events(lab: &Lab) -> Result<Vec<Told>> {
    let value = json(lab, "/v1/events")?;
    let list = value
        .as_array()
        .or_else(|| value.get("events")?.as_array())
        .ok_or_else(|| format!("/v1/events is no list: {value}"))?;
    let word = |event: &Value, key: &str| event.get(key)?.as_str().map(str::to_owned);
    let (wall, monotonic) = (Timestamp::now(), i128::from(now()));
    list.iter()
        .map(|event| {
            let at: Timestamp = word(event, "at")
                .ok_or("an event without a time")?
                .parse()?;
            let ago = wall.as_nanosecond() - at.as_nanosecond();
            Ok(Told {
                at: u64::try_from(monotonic - ago)?,
                pool: word(event, "pool"),
                kind: word(event, "kind").ok_or("an event without a kind")?,
                member: word(event, "member"),
                text: word(event, "text").ok_or("an event without a text")?,
            })
        })
        .collect()
}

/// The sum of one of a service's totals over all pools, as `/v1/status` tells it.
pub(crate) fn total(lab: &Lab, key: &str) -> Result<u64> {
    let status = json(lab, "/v1/status")?;
    let mut sum = 0;
    for pool in status["pools"].as_array().ok_or("no pools in the status")? {
        for service in pool["services"].as_array().ok_or("no services in a pool")? {
            let n = service["totals"][key].as_u64();
            sum += n.ok_or_else(|| format!("no {key} in a service's totals"))?;
        }
    }
    Ok(sum)
}

/// Where a pool's users are sent: `home`, `away` or `returning`.
pub(crate) fn phase(lab: &Lab, pool: &str) -> Result<String> {
    let status = json(lab, "/v1/status")?;
    let pairs = status["pairs"].as_array().ok_or("no pairs in the status")?;
    let mut homes = pairs.iter().filter_map(|pair| pair["pools"].as_array());
    let phase = homes.find_map(|homes| {
        let home = homes.iter().find(|home| home["pool"] == pool)?;
        home["phase"].as_str().map(str::to_owned)
    });
    phase.ok_or_else(|| format!("no phase of {pool} in the status: {}", status["pairs"]).into())
}

/// Whether it thinks now that the fault is its own.
pub(crate) fn isolated(lab: &Lab) -> Result<bool> {
    Ok(!json(lab, "/v1/status")?["isolated"].is_null())
}

fn json(lab: &Lab, path: &str) -> Result<Value> {
    let (status, body) = http::get(lab, CLIENT, OBSERVE, path)?;
    if status != 200 {
        return Err(format!("{path} answered {status}: {body}").into());
    }
    Ok(serde_json::from_str(&body)?)
}

/// Resident memory of a process, KiB.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .and_then(|n| n.trim().parse().ok())
        .ok_or_else(|| format!("no resident memory of process {pid}").into())
}
