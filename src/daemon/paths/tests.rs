use super::*;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// What Linux printed for a machine with `eth0` (192.0.2.2/24, default by 192.0.2.1), `eth1`
/// (10.1.0.1/16), and a blackhole for 10.66.0.0/16.
const ROUTE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
*\t0000420A\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

const IPV6_ROUTE: &str = "\
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1
20010db8006600000000000000000000 30 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00200200       lo
20010db8000100000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
20010db8000100000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1
20010db8000000000000000000000002 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 80200001     eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.0.0/16 2 0 2
        |-- 10.1.0.0
           /16 link UNICAST
        |-- 10.1.0.1
           /32 host LOCAL
        |-- 10.1.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.2
           /32 host LOCAL
";

const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets
    lo:     100       1    0    0    0     0          0         0      100       1
  eth0:     100       1    0    0    0     0          0         0      100       1
  eth1:     100       1    0    0    0     0          0         0      100       1
";

fn routes() -> Routes {
    Routes::parse(Some(ROUTE), Some(IPV6_ROUTE), Some(FIB_TRIE))
}

fn links(eth0: bool, eth1: bool) -> Links {
    let mut links = Links::default();
    for (name, up) in [("lo", true), ("eth0", eth0), ("eth1", eth1)] {
        let skipped_when_down = false;
        links.insert(
            name.to_owned(),
            Link {
                up,
                skipped_when_down,
            },
        );
    }
    links
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn the_longest_prefix_decides_by_its_links() {
    use PathState::{Good, LinkDown, NoRoute};
    // Address; with all up, with eth0 down, with eth1 down.
    let table = [
        ("192.0.2.9", [Good, LinkDown, Good]),
        ("203.0.113.1", [Good, LinkDown, Good]),
        ("10.1.2.3", [Good, Good, LinkDown]),
        ("10.2.0.1", [Good, LinkDown, Good]),
        ("10.66.1.1", [NoRoute, NoRoute, NoRoute]),
        // Our own, and loopback.
        ("10.1.0.1", [Good, Good, Good]),
        ("192.0.2.2", [Good, Good, Good]),
        ("127.0.0.1", [Good, Good, Good]),
        ("127.9.9.9", [Good, Good, Good]),
        ("::1", [Good, Good, Good]),
        ("2001:db8::2", [Good, Good, Good]),
        ("fe80::1", [Good, Good, Good]),
        ("2001:db8::7", [Good, Good, LinkDown]),
        // Two routes of one prefix: either will do.
        ("2001:db8:1::7", [Good, Good, Good]),
        ("2001:db8:66::1", [NoRoute, NoRoute, NoRoute]),
        ("2001:db9::1", [NoRoute, NoRoute, NoRoute]),
        ("::ffff:10.1.2.3", [Good, Good, LinkDown]),
    ];
    for (address, expected) in table {
        let states = [links(true, true), links(false, true), links(true, false)]
            .map(|links| path(&links, &routes(), ip(address)));
        assert_eq!(states, expected, "{address}");
    }
    let addresses = table.map(|(address, _)| ip(address));
    let down = unrouted(&links(false, true), &routes(), &addresses[..4]);
    assert_eq!(down, [ip("192.0.2.9"), ip("203.0.113.1"), ip("10.2.0.1")]);
}

#[test]
fn what_is_not_known_counts_as_good() {
    let far = [ip("203.0.113.1"), ip("2001:db9::1")];
    let nothing = Routes::parse(None, None, None);
    assert!(unrouted(&links(false, false), &nothing, &far).is_empty());
    let no_own = Routes::parse(Some(ROUTE), None, None);
    assert!(unrouted(&links(false, false), &no_own, &far).is_empty());
    assert!(unrouted(&Links::default(), &routes(), &[ip("10.1.2.3")]).is_empty());
}

#[test]
fn a_link_whose_routes_are_skipped_while_it_is_down_leaves_the_rest() {
    let mut links = links(true, false);
    let skipped = Link {
        up: false,
        skipped_when_down: true,
    };
    links.insert("eth1".to_owned(), skipped);
    assert_eq!(path(&links, &routes(), ip("10.1.2.3")), PathState::Good);
    assert_eq!(
        path(&links, &routes(), ip("2001:db8::7")),
        PathState::NoRoute
    );
}

#[test]
fn lines_that_make_no_sense_are_passed_over() {
    let odd = "heading\n\neth0\neth0 xyz 0 0003 0 0 0 0 0\neth0 0 0 0003 0 0 0 00FF00FF 0 0 0\n";
    let routes = Routes::parse(
        Some(odd),
        Some("zz\n\n"),
        Some("|-- nonsense\n/32 host LOCAL"),
    );
    assert_eq!(
        path(&links(true, true), &routes, ip("192.0.2.9")),
        PathState::NoRoute
    );
}

#[test]
fn a_link_is_down_only_if_something_says_so() {
    let table = [
        (Some("0x1003\n"), Some("1\n"), Some("up\n"), true),
        (Some("0x9\n"), Some("1\n"), Some("unknown\n"), true),
        (Some("0x82\n"), None, Some("down\n"), false),
        (Some("0x1002\n"), None, None, false),
        (
            Some("0x1003\n"),
            Some("0\n"),
            Some("lowerlayerdown\n"),
            false,
        ),
        (Some("0x1003\n"), Some("0\n"), None, false),
        (Some("0x1003\n"), None, Some("notpresent\n"), false),
        (Some("0x1003\n"), Some("1\n"), Some("dormant\n"), true),
        (None, None, None, true),
        (Some("nonsense"), Some("x"), Some("y"), true),
    ];
    for (flags, carrier, operstate, up) in table {
        let link = Link::parse(flags, carrier, operstate, false);
        assert_eq!(link.up, up, "{flags:?} {carrier:?} {operstate:?}");
    }
}

#[test]
fn links_of_another_namespace_are_not_believed() {
    assert_eq!(
        links(false, false).if_of_namespace(Some(DEV)),
        links(false, false)
    );
    let others = DEV.replace("eth1", "eth7");
    assert_eq!(
        links(false, false).if_of_namespace(Some(&others)),
        Links::default()
    );
    assert_eq!(links(false, false).if_of_namespace(None), Links::default());
}

/// `/proc` and `/sys` of the machine above.
struct Machine(PathBuf);

impl Machine {
    fn new() -> Machine {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("twinpool-paths-{}-{n}", std::process::id());
        let machine = Machine(std::env::temp_dir().join(name));
        let files = [
            ("route", ROUTE),
            ("ipv6_route", IPV6_ROUTE),
            ("fib_trie", FIB_TRIE),
        ];
        for (file, text) in files {
            machine.write(&format!("proc/net/{file}"), text);
        }
        machine.write("proc/net/dev", DEV);
        for link in ["lo", "eth0", "eth1"] {
            machine.write(&format!("sys/class/net/{link}/flags"), "0x1003\n");
            machine.carrier(link, true);
        }
        machine.write("sys/class/net/bonding_masters", "");
        machine
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn carrier(&self, link: &str, up: bool) {
        let text = if up { "1\n" } else { "0\n" };
        self.write(&format!("sys/class/net/{link}/carrier"), text);
    }

    fn watcher(&self, has_route: fn(IpAddr) -> bool) -> Watcher {
        Watcher::new(&self.0.join("proc"), &self.0.join("sys"), has_route)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("removed");
    }
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_reported_once_each() {
    let machine = Machine::new();
    let mut watcher = machine.watcher(|_| false);
    let addresses = [ip("10.1.2.3"), ip("203.0.113.1")];
    assert_eq!(watcher.look(&addresses), None);
    machine.carrier("eth1", false);
    assert_eq!(watcher.look(&addresses), Some(vec![ip("10.1.2.3")]));
    assert_eq!(watcher.look(&addresses), None);
    machine.carrier("eth1", true);
    assert_eq!(watcher.look(&addresses), Some(vec![]));
}

#[test]
fn an_address_that_never_had_a_good_path_is_not_reported() {
    let machine = Machine::new();
    machine.carrier("eth1", false);
    let mut watcher = machine.watcher(|_| false);
    let addresses = [ip("10.1.2.3"), ip("10.66.1.1"), ip("2001:db9::1")];
    assert_eq!(watcher.look(&addresses), None);
    assert_eq!(watcher.look(&addresses), None);
}

#[test]
fn a_route_that_vanishes_is_believed_only_if_the_kernel_finds_none_either() {
    thread_local!(static HAS: Cell<bool> = const { Cell::new(true) });
    let machine = Machine::new();
    let mut watcher = machine.watcher(|_| HAS.get());
    let addresses = [ip("203.0.113.1")];
    assert_eq!(watcher.look(&addresses), None);
    let without_default: Vec<&str> = ROUTE.lines().filter(|l| !l.contains("0003")).collect();
    machine.write("proc/net/route", &without_default.join("\n"));
    assert_eq!(watcher.look(&addresses), None);
    HAS.set(false);
    assert_eq!(watcher.look(&addresses), Some(addresses.to_vec()));
}

#[test]
fn a_reported_address_that_is_no_longer_asked_about_is_forgotten() {
    let machine = Machine::new();
    let mut watcher = machine.watcher(|_| false);
    watcher.look(&[ip("10.1.2.3")]);
    machine.carrier("eth1", false);
    assert!(watcher.look(&[ip("10.1.2.3")]).is_some());
    assert_eq!(watcher.look(&[]), Some(vec![]));
    assert_eq!(watcher.look(&[ip("10.1.2.3")]), None);
}

#[test]
fn a_table_beyond_all_bounds_counts_as_not_known() {
    let machine = Machine::new();
    let mut watcher = machine.watcher(|_| false);
    watcher.look(&[ip("10.1.2.3")]);
    let line = ROUTE.lines().nth(3).expect("a route").to_owned() + "\n";
    machine.write(
        "proc/net/route",
        &line.repeat(MAX_TABLE as usize / line.len() + 2),
    );
    assert_eq!(watcher.look(&[ip("10.1.2.3")]), None);
}

#[test]
fn without_files_nothing_is_reported() {
    let nowhere = Path::new("/nowhere");
    let mut watcher = Watcher::new(nowhere, nowhere, |_| false);
    assert_eq!(watcher.look(&[ip("10.1.2.3")]), None);
    assert_eq!(watcher.look(&[ip("10.1.2.3")]), None);
}

#[test]
fn the_kernel_has_a_route_to_loopback() {
    assert!(kernel_has_route(ip("127.0.0.1")));
    assert!(kernel_has_route(ip("::1")) || !Path::new("/proc/net/if_inet6").exists());
}

#[test]
fn a_change_is_sent_by_the_poll_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async {
        let machine = Machine::new();
        let watcher = machine.watcher(|_| false);
        let (wanted, addresses) = watch::channel(vec![ip("10.1.2.3")]);
        let (sender, mut changes) = mpsc::channel(4);
        let driver = tokio::task::spawn_local(drive(watcher, None, addresses, sender));
        sleep(POLL * 3).await;
        assert!(changes.try_recv().is_err());
        machine.carrier("eth1", false);
        assert_eq!(changes.recv().await, Some(vec![ip("10.1.2.3")]));
        wanted.send(Vec::new()).expect("it watches");
        assert_eq!(changes.recv().await, Some(vec![]));
        drop(wanted);
        driver.await.expect("it ends");
    });
}

#[test]
fn this_machines_own_files_can_be_read_and_its_news_subscribed_to() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async {
        let watcher = Watcher::new(Path::new("/proc"), Path::new("/sys"), kernel_has_route);
        if Path::new("/proc/net/route").exists() {
            let routes = watcher.routes();
            assert_eq!(
                path(&watcher.links(), &routes, ip("127.0.0.1")),
                PathState::Good
            );
            assert!(routes.is_own(ip("127.0.0.1")) || fs::read("/proc/net/fib_trie").is_err());
        }
        // Not permitted in some containers, where polling takes over.
        if let Ok(mut news) = News::subscribe() {
            let quiet = tokio::time::timeout(Duration::from_millis(1), news.wait()).await;
            assert!(quiet.is_err() || quiet.is_ok_and(|news| news.is_ok()));
        }
    });
}
