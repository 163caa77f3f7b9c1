//! Weighted rendezvous hashing: who serves a client that has a right to the same member.
//!
//! Every member scores every client; the best score serves it (Thaler and Ravishankar 1998,
//! "Using name-based mappings to increase hit rates"). A member that leaves moves its own clients
//! and no others, each to its own second best, so its load spreads over all that remain. Weights
//! enter as `-weight / ln(u)` with `u` uniform in (0, 1) (Schindelhauer and Schomaker 2005,
//! "Weighted distributed hash tables").

use std::net::IpAddr;

/// A client's key: its address alone, never its port. IPv4 and its IPv6-mapped form agree.
pub fn client_key(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(mix(bits as u64) ^ (bits >> 64) as u64)
        }
    }
}

/// Which of `steps` equal parts of all clients this one lies in, from 0: the same for as long as its
/// address is. Independent of which member suits it.
pub fn client_part(address: IpAddr, steps: u8) -> u8 {
    /// Sets these draws apart from those of [`score`].
    const APART: u64 = 0x7277_696e_706f_6f6c;
    let draw = mix(client_key(address) ^ APART);
    ((u128::from(draw) * u128::from(steps)) >> 64) as u8
}

/// A member's key: its name, so that it survives a change of the others or of the file's order.
pub(super) fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How well a member suits a client; the highest serves it.
pub(super) fn score(client: u64, member: u64, weight: u32) -> f64 {
    let draw = mix(client ^ mix(member));
    // 53 bits, moved off zero: ln() must be finite and negative.
    let u = ((draw >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / u.ln()
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output
/// bit.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(client: u64, members: &[(&str, u32)]) -> usize {
        (0..members.len())
            .max_by(|&a, &b| {
                let of = |i: usize| score(client, name_key(members[i].0), members[i].1);
                of(a).total_cmp(&of(b))
            })
            .unwrap()
    }

    #[test]
    fn a_mapped_address_is_the_same_client() {
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(client_key(v4), client_key(mapped));
    }

    fn client(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn clients_spread_evenly_over_parts() {
        let mut count = [0u32; 20];
        for n in 0..40_000 {
            count[usize::from(client_part(client(n), 20))] += 1;
        }
        assert!(count.iter().all(|n| n.abs_diff(2_000) < 200), "{count:?}");
    }

    #[test]
    fn a_part_of_the_clients_spreads_over_all_members() {
        let members = [("a", 1), ("b", 1), ("c", 1), ("d", 1)];
        let part = (0..40_000)
            .map(client)
            .filter(|&client| client_part(client, 20) == 7);
        let mut count = [0u32; 4];
        for client in part {
            count[best(client_key(client), &members)] += 1;
        }
        assert!(count.iter().all(|n| n.abs_diff(500) < 100), "{count:?}");
    }

    #[test]
    fn clients_spread_by_weight() {
        let members = [("a", 1), ("b", 1), ("c", 2)];
        let mut count = [0u32; 3];
        for client in 0..40_000u64 {
            count[best(mix(client), &members)] += 1;
        }
        for (index, share) in [10_000.0, 10_000.0, 20_000.0].into_iter().enumerate() {
            let off = (f64::from(count[index]) - share).abs() / share;
            assert!(off < 0.05, "{count:?}");
        }
    }

    #[test]
    fn only_a_failed_members_clients_move_and_they_spread() {
        let all = [("a", 1), ("b", 3), ("c", 2), ("d", 2)];
        let left = [("a", 1), ("c", 2), ("d", 2)];
        let mut landed = [0u32; 3];
        for client in 0..20_000u64 {
            let before = all[best(mix(client), &all)].0;
            let after = best(mix(client), &left);
            if before == "b" {
                landed[after] += 1;
            } else {
                assert_eq!(before, left[after].0);
            }
        }
        assert!(landed.iter().all(|&n| n > 1_000), "{landed:?}");
    }
}
