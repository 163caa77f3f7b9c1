//! PROXY protocol v2, sent and taken.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::harness::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const TRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 7, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 7, 2));

/// A v2 header as the specification has it (section 2.2), written here anew.
fn header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (family, length) = match source {
        SocketAddr::V4(_) => (0x11, 12),
        SocketAddr::V6(_) => (0x21, 36),
    };
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, family, 0, length]);
    header.extend(octets(source.ip()));
    header.extend(octets(destination.ip()));
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

#[tokio::test]
async fn members_are_told_who_the_client_is() {
    let a = Member::start_as("a", Speaks::ProxyThenLines).await;
    let pool = Pool::of([&a]).service("send_proxy = true");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    assert_eq!(a.headers(), [header(client.local(), address)]);
}

#[tokio::test]
async fn members_are_told_who_the_client_is_over_ipv6() {
    let a = Member::start_as("a", Speaks::ProxyThenLines).await;
    let pool = Pool::of([&a])
        .listen("\"[::1]:0\"")
        .service("send_proxy = true");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    assert_eq!(a.headers(), [header(client.local(), address)]);
}

#[tokio::test]
async fn a_trusted_sources_header_is_believed_and_passed_on() {
    let a = Member::start_as("a", Speaks::ProxyThenLines).await;
    let pool = Pool::of([&a])
        .service("send_proxy = true")
        .service(&format!("accept_proxy = [\"{TRUSTED}/32\"]"));
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let v4 = header(
        "192.0.2.7:1234".parse().expect("an address"),
        "198.51.100.1:443".parse().expect("an address"),
    );
    let v6 = header(
        "[2001:db8::7]:1234".parse().expect("an address"),
        "[2001:db8::1]:443".parse().expect("an address"),
    );
    for told in [&v4, &v6] {
        let mut client = Client::connect_from(TRUSTED, address).await;
        client.send(told).await;
        assert_eq!(client.member().await, "a");
    }
    assert_eq!(a.headers(), [v4, v6]);
}

#[tokio::test]
async fn a_trusted_sources_header_decides_affinity() {
    let [a, b, c] = [
        Member::start("a").await,
        Member::start("b").await,
        Member::start("c").await,
    ];
    let pool = Pool::of([&a, &b, &c])
        .service("balance = \"source\"")
        .service(&format!("accept_proxy = [\"{TRUSTED}/32\"]"));
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    for n in 1..20 {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 8, n));
        let direct = Client::connect_from(source, address).await.member().await;
        let mut told = Client::connect_from(TRUSTED, address).await;
        told.send(&header(SocketAddr::new(source, 999), address))
            .await;
        assert_eq!(told.member().await, direct);
    }
}

#[tokio::test]
async fn an_untrusted_sources_header_is_data() {
    let a = Member::start_as("a", Speaks::Raw).await;
    let pool = Pool::of([&a]).service(&format!("accept_proxy = [\"{TRUSTED}/32\"]"));
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect_from(STRANGER, address).await;
    let mut sent = header(client.local(), address);
    sent.extend(b"and more");
    client.send(&sent).await;
    assert_eq!(client.receive(sent.len()).await, sent);
}

#[tokio::test]
async fn a_trusted_source_without_a_header_is_refused() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).service(&format!("accept_proxy = [\"{TRUSTED}/32\"]"));
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect_from(TRUSTED, address).await;
    client.send(b"a line that is not a header\n").await;
    assert_eq!(client.ended().await, Ended::Reset);
    // One that ends in the middle of it, and one that ends before it.
    for cut in [13, 0] {
        let mut client = Client::connect_from(TRUSTED, address).await;
        let whole = header(client.local(), address);
        client.send(&whole[..cut]).await;
        client.finish().await;
        assert_eq!(client.ended().await, Ended::Reset);
    }
    daemon
        .counted("three refusals", |t| t.refused_proxy_header == 3)
        .await;
    assert_eq!(daemon.totals().await.established, 0);
}

#[tokio::test]
async fn a_header_and_data_in_pieces_are_put_together() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).service(&format!("accept_proxy = [\"{TRUSTED}/32\"]"));
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect_from(TRUSTED, address).await;
    let mut sent = header(client.local(), address);
    sent.extend(b"who\n");
    for byte in sent {
        client.send(&[byte]).await;
    }
    assert_eq!(client.line().await.expect("an answer"), "a:who");
}
