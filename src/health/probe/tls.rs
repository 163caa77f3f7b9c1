//! TLS: the `tls` check, and the wrapping of others.
//!
//! The `tls` check without verification sends a ClientHello and takes any ServerHello or alert for
//! life: it proves that the member's process answers, whatever versions, ciphers or client
//! certificates it likes. It does not finish the handshake. With verification it goes on until the
//! member's certificate has been verified; an alert after that (say, for want of a client
//! certificate) is life too.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::finding::broken;
use super::transcript::Transcript;
use super::{Finding, ProberError};
use crate::topology::{Host, Verify};

/// The most that is read of a handshake, in bytes. Certificate chains are a few KiB; rustls itself
/// refuses messages beyond 64 KiB.
const MAX_HANDSHAKE: usize = 256 * 1024;

/// The TLS settings of one check.
pub(super) fn client_config(
    verify: &Verify,
    service: &str,
) -> Result<Arc<ClientConfig>, ProberError> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_safe_default_protocol_versions()
        .map_err(ProberError::Tls)?;
    let mut config = match verify {
        Verify::No => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(algorithms)))
            .with_no_client_auth(),
        Verify::Authorities(path) => builder
            .with_root_certificates(authorities(path, service)?)
            .with_no_client_auth(),
    };
    // Each probe is to see the whole handshake, not a resumed one.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn authorities(path: &Path, service: &str) -> Result<RootCertStore, ProberError> {
    let unreadable = |source: rustls::pki_types::pem::Error| ProberError::Authorities {
        service: service.to_owned(),
        path: path.to_owned(),
        source: Box::new(source),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots
            .add(certificate.map_err(unreadable)?)
            .map_err(|source| ProberError::Authorities {
                service: service.to_owned(),
                path: path.to_owned(),
                source: Box::new(source),
            })?;
    }
    match roots.is_empty() {
        false => Ok(roots),
        true => Err(ProberError::NoAuthority {
            service: service.to_owned(),
            path: path.to_owned(),
        }),
    }
}

/// The name that a member is asked for: the check's, or the member's own. None for a bare address,
/// which goes into no SNI and is verified as an address. The error is the name that cannot be sent.
pub(super) fn server_name(
    configured: Option<&str>,
    host: &Host,
) -> Result<Option<ServerName<'static>>, String> {
    let name = match (configured, host) {
        (Some(name), _) => name,
        (None, Host::Name(name)) => name,
        (None, Host::Address(_)) => return Ok(None),
    };
    // A name with its final dot is the same name; SNI has it without.
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_owned())
        .map(Some)
        .map_err(|_| name.to_owned())
}

/// The name, or the address in its place.
pub(super) fn name_for(
    name: &Option<ServerName<'static>>,
    address: SocketAddr,
) -> ServerName<'static> {
    name.clone()
        .unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
}

/// Sends a ClientHello and looks at the first record that comes back.
pub(super) async fn hello(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    mut stream: TcpStream,
    transcript: &mut Transcript,
) -> Finding {
    let sent = async {
        let mut connection =
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        send(&mut connection, &mut stream).await
    };
    if let Err(error) = sent.await {
        transcript.say(format_args!("; sending the ClientHello failed: {error}"));
        return broken(&error);
    }
    transcript.say(format_args!("; sent ClientHello"));
    let mut record = [0; FirstRecord::NEEDED];
    let mut read = 0;
    loop {
        let finding = match stream.read(&mut record[read..]).await {
            Ok(0) => Finding::Closed,
            Err(error) => {
                transcript.say(format_args!("; {error}"));
                return broken(&error);
            }
            Ok(n) => {
                read += n;
                match FirstRecord::read(&record[..read]) {
                    FirstRecord::Unfinished => {
                        transcript.hears(&record[..read]);
                        continue;
                    }
                    FirstRecord::ServerHello => {
                        transcript.say(format_args!("; got ServerHello"));
                        transcript.lap("after");
                        return Finding::Life;
                    }
                    FirstRecord::Alert(description) => {
                        let alert = rustls::AlertDescription::from(description);
                        transcript.say(format_args!("; got alert {alert:?}"));
                        transcript.lap("after");
                        return Finding::Life;
                    }
                    FirstRecord::Other => Finding::Garbled,
                }
            }
        };
        transcript.hears(&record[..read]);
        transcript.heard_all(finding == Finding::Closed);
        return finding;
    }
}

/// The beginning of what a TLS server sends first (RFC 8446 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstRecord {
    /// Not enough of it yet.
    Unfinished,
    ServerHello,
    /// An alert, by its description.
    Alert(u8),
    /// Not TLS.
    Other,
}

impl FirstRecord {
    /// Bytes that tell: type, version, length, and the alert's two or the handshake's first.
    const NEEDED: usize = 7;

    fn read(bytes: &[u8]) -> FirstRecord {
        const ALERT: u8 = 21;
        const HANDSHAKE: u8 = 22;
        const SERVER_HELLO: u8 = 2;
        match *bytes {
            [ALERT, 3, _, 0, 2, 1 | 2, description, ..] => FirstRecord::Alert(description),
            [HANDSHAKE, 3, _, _, _, SERVER_HELLO, ..] => FirstRecord::ServerHello,
            [] | [ALERT | HANDSHAKE] | [ALERT | HANDSHAKE, 3] | [ALERT | HANDSHAKE, 3, _] => {
                FirstRecord::Unfinished
            }
            [HANDSHAKE, 3, _, _] | [HANDSHAKE, 3, _, _, _] => FirstRecord::Unfinished,
            [ALERT, 3, _, 0] | [ALERT, 3, _, 0, 2] | [ALERT, 3, _, 0, 2, 1 | 2] => {
                FirstRecord::Unfinished
            }
            _ => FirstRecord::Other,
        }
    }
}

/// Handshakes until the member's certificate has been verified and our part is done, and says
/// goodbye.
pub(super) async fn handshake(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: &mut TcpStream,
    transcript: &mut Transcript,
) -> Finding {
    transcript.say(format_args!("; TLS handshake"));
    match shake(config, name, stream).await {
        Ok(()) => {
            transcript.lap("in");
            transcript.say(format_args!(", certificate verified"));
            Finding::Life
        }
        Err(Broken::Tls(error)) => {
            transcript.lap("failed after");
            transcript.say(format_args!(": {error}"));
            sort(&error)
        }
        Err(Broken::Io(error)) => {
            transcript.lap("broken off after");
            transcript.say(format_args!(": {error}"));
            broken(&error)
        }
    }
}

enum Broken {
    Tls(rustls::Error),
    Io(io::Error),
}

async fn shake(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: &mut TcpStream,
) -> Result<(), Broken> {
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(Broken::Tls)?;
    let mut buffer = [0; 4096];
    let mut read = 0;
    let verified = |tls: &ClientConnection| tls.peer_certificates().is_some();
    while tls.is_handshaking() {
        send(&mut tls, stream).await.map_err(Broken::Io)?;
        let n = match stream.read(&mut buffer).await {
            Ok(n) if n > 0 && read < MAX_HANDSHAKE => n,
            // The certificate was good; what the member dislikes about us is no sign of death.
            _ if verified(&tls) => return Ok(()),
            Ok(_) => return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(Broken::Io(error)),
        };
        read += n;
        let mut bytes = &buffer[..n];
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).map_err(Broken::Io)?;
            match tls.process_new_packets() {
                Ok(_) => {}
                Err(rustls::Error::AlertReceived(_)) if verified(&tls) => return Ok(()),
                Err(error) => return Err(Broken::Tls(error)),
            }
        }
    }
    tls.send_close_notify();
    send(&mut tls, stream).await.map_err(Broken::Io)
}

/// Sends what the TLS library has to send.
async fn send(tls: &mut ClientConnection, stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes)?;
    }
    stream.write_all(&bytes).await
}

/// Handshakes, and gives the encrypted connection.
pub(super) async fn wrap(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
    transcript: &mut Transcript,
) -> Result<TlsStream<TcpStream>, Finding> {
    transcript.say(format_args!("; TLS handshake"));
    let connector = TlsConnector::from(Arc::clone(config));
    match connector.connect(name, stream).await {
        Ok(stream) => {
            transcript.lap("in");
            Ok(stream)
        }
        Err(error) => {
            transcript.lap("failed after");
            transcript.say(format_args!(": {error}"));
            let tls = error.get_ref().and_then(|e| e.downcast_ref());
            Err(tls.map_or_else(|| broken(&error), sort))
        }
    }
}

/// Whose fault an error of the TLS library is.
fn sort(error: &rustls::Error) -> Finding {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Finding::Untrusted
        }
        _ => Finding::Garbled,
    }
}

/// Trusts whoever answers: a check asks for life, not for identity.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
