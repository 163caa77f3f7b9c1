//! How many sessions the instance may hold, from its descriptor limit; how many flows over UDP, from
//! that and from the host's source ports.

use std::num::NonZeroU32;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::pipes;

/// Descriptors kept back for what is not a session: logs, the state store, HTTP, control, netlink,
/// the runtimes' own.
const OWN_DESCRIPTORS: u64 = 256;
/// Descriptors a session may take: its two sockets. A flow over UDP takes one, its own.
const PER_SESSION: u64 = 2;
/// Where the kernel says from which port to which one it gives out source ports.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// How many they are by default: from 32,768 to 60,999.
const USUAL_PORTS: u32 = 28_232;

/// What the descriptor limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors this process may open.
    pub descriptors: u64,
    /// Sessions that this leaves room for, over all workers.
    pub sessions: u32,
    /// Flows over UDP that it leaves room for beside them; none without a service over UDP.
    pub flows: u32,
    /// Whether it is the host's source ports that keep these from being more.
    pub short_of_ports: bool,
}

/// What the configuration says of flows over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowsWanted {
    /// There is no service over UDP.
    NoService,
    /// As many as fit.
    AsFit,
    /// This many at most.
    Most(NonZeroU32),
}

/// Raises the soft limit on open files to the hard one, and returns what is in force.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the soft limit on open files to the hard one");
    }
    // No limit at all is a number that no table of descriptors reaches.
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 30)
}

/// Source ports that this host gives out: for each address of its own, to sockets over UDP and over
/// TCP each.
pub fn source_ports() -> u32 {
    match std::fs::read_to_string(PORT_RANGE) {
        Ok(range) => ports_in(&range).unwrap_or(USUAL_PORTS),
        Err(error) => {
            tracing::debug!(%error, "how many source ports there are is not known");
            USUAL_PORTS
        }
    }
}

fn ports_in(range: &str) -> Option<u32> {
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some(u32::from(last.checked_sub(first)?) + 1)
}

impl Limits {
    /// What `descriptors` leave for sessions beside `listeners` a worker, `probes` at once and the
    /// pipes of each of `workers`; at most `wanted`. Flows over UDP have half of the descriptors at
    /// most; where nothing is said of them, half as many as there could be sessions. Each takes one
    /// of the host's `ports` for itself, whatever its member; the half that they never take is for
    /// everybody else on the host who sends over UDP, as resolvers do.
    pub fn new(
        descriptors: u64,
        workers: usize,
        listeners: usize,
        probes: usize,
        wanted: Option<NonZeroU32>,
        flows: FlowsWanted,
        ports: u32,
    ) -> Limits {
        let each = (listeners + 2 * pipes::MOST) as u64;
        let kept = OWN_DESCRIPTORS + probes as u64 + each * workers as u64;
        // A small limit must not leave less than a quarter to sessions: pipes do without.
        let left = descriptors.saturating_sub(kept).max(descriptors / 4);
        let wants_flows = flows != FlowsWanted::NoService;
        let flows = match flows {
            FlowsWanted::NoService => 0,
            FlowsWanted::AsFit => left / PER_SESSION / 2,
            FlowsWanted::Most(most) => u64::from(most.get()).min(left / 2),
        };
        let ports = u64::from(ports / 2);
        let short_of_ports = flows > ports;
        let flows = flows.min(ports).max(u64::from(wants_flows));
        let flows = u32::try_from(flows).unwrap_or(u32::MAX);
        let left = left - u64::from(flows).min(left);
        // A hedged attempt holds a third socket for a moment: one in ten, as hedges are.
        let room = u32::try_from(left / PER_SESSION * 20 / 21).unwrap_or(u32::MAX);
        Limits {
            descriptors,
            sessions: wanted.map_or(room, |wanted| wanted.get().min(room)).max(1),
            flows,
            short_of_ports,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_follow_from_descriptors() {
        let limits = Limits::new(20_000, 2, 4, 512, None, FlowsWanted::NoService, USUAL_PORTS);
        assert!((8_500..9_500).contains(&limits.sessions), "{limits:?}");
        let wanted = NonZeroU32::new(100);
        assert_eq!(
            Limits::new(
                20_000,
                2,
                4,
                512,
                wanted,
                FlowsWanted::NoService,
                USUAL_PORTS
            )
            .sessions,
            100
        );
        let wanted = NonZeroU32::new(1_000_000);
        assert_eq!(
            Limits::new(
                20_000,
                2,
                4,
                512,
                wanted,
                FlowsWanted::NoService,
                USUAL_PORTS
            )
            .sessions,
            limits.sessions
        );
    }

    #[test]
    fn flows_have_half_of_the_room_at_most_and_sessions_the_rest() {
        let limits = |flows| Limits::new(20_000, 2, 4, 512, None, flows, USUAL_PORTS);
        let alone = limits(FlowsWanted::NoService);
        assert_eq!(alone.flows, 0);
        let both = limits(FlowsWanted::AsFit);
        assert!(both.flows >= alone.sessions / 2);
        assert!(u64::from(both.flows + both.sessions * 2) < both.descriptors);
        assert!(both.sessions >= alone.sessions / 4 * 3 - 1);
        let few = limits(FlowsWanted::Most(NonZeroU32::new(100).expect("not zero")));
        assert_eq!(few.flows, 100);
        assert!(few.sessions >= alone.sessions - 50);
        let many = limits(FlowsWanted::Most(NonZeroU32::MAX));
        assert!(u64::from(many.flows + many.sessions * 2) < many.descriptors);
        assert!(many.sessions >= alone.sessions / 2);
    }

    #[test]
    fn flows_never_take_more_than_half_of_the_source_ports() {
        let flows = |wanted| Limits::new(1 << 20, 2, 4, 512, None, wanted, 1_000).flows;
        assert_eq!(flows(FlowsWanted::AsFit), 500);
        assert_eq!(flows(FlowsWanted::Most(NonZeroU32::MAX)), 500);
        assert_eq!(flows(FlowsWanted::NoService), 0);
        assert_eq!(ports_in("32768\t60999\n"), Some(USUAL_PORTS));
        assert_eq!(ports_in("7\t7\n"), Some(1));
        assert_eq!(ports_in("8 7"), None);
        assert_eq!(ports_in("many"), None);
    }

    #[test]
    fn a_tiny_limit_still_leaves_some() {
        assert!(
            Limits::new(256, 2, 4, 512, None, FlowsWanted::NoService, USUAL_PORTS).sessions >= 25
        );
    }
}
