//! How much the instance may hold.

use std::num::NonZeroU32;

use crate::config::Config;
use crate::observe::view::{Ceiling, LimitedBy, Room};
use crate::proxy::{FlowsWanted, Limits};
use crate::topology::{Protocol, Service};

/// What the instance may hold, and why not more.
pub(in crate::daemon) fn room(
    config: &Config,
    limits: Limits,
    (sessions, flows): (usize, usize),
) -> Room {
    let ceiling = |what: &str, most: u32, each: usize, wanted: Option<NonZeroU32>, ports: bool| {
        let wanted = wanted.map(NonZeroU32::get);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
            if ports {
                tracing::warn!(
                    "half of the source ports leave room for {most} {what}, not for {wanted}; widen \
                     net.ipv4.ip_local_port_range"
                );
            } else {
                tracing::warn!(
                    "the limit of {} open descriptors leaves room for {most} {what}, not for \
                     {wanted}; raise LimitNOFILE= in the unit of twinpool",
                    limits.descriptors
                );
            }
        }
        Ceiling {
            most: u64::from(most),
            each: each as u64,
            by: match wanted {
                Some(wanted) if wanted <= most => LimitedBy::Setting,
                _ if ports => LimitedBy::SourcePorts,
                _ => LimitedBy::Descriptors,
            },
        }
    };
    let instance = &config.instance;
    let has_flows = flows_wanted(config) != FlowsWanted::NoService;
    Room {
        descriptors: limits.descriptors,
        sessions: ceiling(
            "sessions",
            limits.sessions,
            sessions,
            instance.max_sessions,
            false,
        ),
        flows: has_flows.then(|| {
            ceiling(
                "flows",
                limits.flows,
                flows,
                instance.max_flows,
                limits.short_of_ports,
            )
        }),
    }
}

/// What is wanted of flows: where no service is over UDP, sessions have all the room.
pub(in crate::daemon) fn flows_wanted(config: &Config) -> FlowsWanted {
    let mut services = config.topology.pools.iter().flat_map(|pool| &pool.services);
    let is_udp = |service: &Service| service.protocol == Protocol::Udp;
    match config.instance.max_flows {
        _ if !services.any(is_udp) => FlowsWanted::NoService,
        None => FlowsWanted::AsFit,
        Some(most) => FlowsWanted::Most(most),
    }
}
