//! Messages between a process and its successor: JSON of bounded length, with descriptors.
//!
//! ```text
//! length (u32, big endian) │ descriptors (u16, big endian) │ JSON
//! └─ the descriptors travel with the first byte ─┘
//! ```
//!
//! Each call is over within its patience, and no descriptor that came with a message is leaked:
//! whoever gets an error closed all of them. After an error the stream is of no more use.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of one message's JSON: no other side makes this one hold more memory than that.
pub(super) const MOST_BYTES: usize = 64 << 20;
/// Descriptors with one message: the kernel takes no more at once (SCM_MAX_FD).
pub(super) const MOST_DESCRIPTORS: usize = 253;

const HEADER: usize = 6;
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// Sends one message, within `patience`.
///
/// # Errors
///
/// `InvalidInput` where it is over a bound, in which case nothing was sent; `TimedOut` where the
/// other side does not take it; whatever the socket says.
pub(super) fn send<T: Serialize>(
    mut stream: &UnixStream,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
    patience: Duration,
) -> io::Result<()> {
    let until = Instant::now() + patience;
    let json = serde_json::to_vec(message).map_err(io::Error::other)?;
    if json.len() > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
        return Err(over_a_bound(
            io::ErrorKind::InvalidInput,
            json.len(),
            descriptors.len(),
        ));
    }
    let mut header = [0; HEADER];
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let count = u16::try_from(descriptors.len()).map_err(io::Error::other)?;
    header[..4].copy_from_slice(&length.to_be_bytes());
    header[4..].copy_from_slice(&count.to_be_bytes());

    let mut space = [const { MaybeUninit::uninit() }; CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    stream.set_write_timeout(Some(left(until)?))?;
    let sent = loop {
        let parts = [IoSlice::new(&header)];
        match sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {
                left(until)?;
            }
            Err(error) => return Err(timed_out(error.into())),
            Ok(sent) => break sent,
        }
    };
    let rest = [&header[sent..], &json[..]].concat();
    let mut done = 0;
    while done < rest.len() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(&rest[done..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(some) => done += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error)),
        }
    }
    Ok(())
}

/// Receives one message with its descriptors, within `patience`. All are close-on-exec.
///
/// # Errors
///
/// `UnexpectedEof` where the other side is gone; `TimedOut` where it says nothing; `InvalidData`
/// where what it says is over a bound, is not what is expected, or lost descriptors on its way.
pub(super) fn receive<T: DeserializeOwned>(
    mut stream: &UnixStream,
    patience: Duration,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let until = Instant::now() + patience;
    let mut header = [0; HEADER];
    let mut descriptors = Vec::new();
    let mut got = 0;
    while got < HEADER {
        stream.set_read_timeout(Some(left(until)?))?;
        let mut space = [const { MaybeUninit::uninit() }; CONTROL];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut header[got..])];
        let received = match recvmsg(
            stream.as_fd(),
            &mut parts,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(timed_out(error.into())),
            Ok(received) => received,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(invalid(
                "descriptors were lost on the way: too few are free",
            ));
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got += received.bytes;
    }
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let count = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if length > MOST_BYTES || count > MOST_DESCRIPTORS {
        return Err(over_a_bound(io::ErrorKind::InvalidData, length, count));
    }
    if count != descriptors.len() {
        let came = descriptors.len();
        return Err(invalid(format!(
            "{count} descriptors were told, {came} came"
        )));
    }
    let mut json = vec![0; length];
    let mut done = 0;
    while done < length {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut json[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(some) => done += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error)),
        }
    }
    let message = serde_json::from_slice(&json).map_err(|error| invalid(error.to_string()))?;
    Ok((message, descriptors))
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

/// A socket's own time limit shows as `WouldBlock`.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn over_a_bound(kind: io::ErrorKind, bytes: usize, descriptors: usize) -> io::Error {
    let what = format!(
        "a message of {bytes} bytes with {descriptors} descriptors; at most {MOST_BYTES} bytes \
         with {MOST_DESCRIPTORS} descriptors"
    );
    io::Error::new(kind, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_millis(50);
    const AMPLE: Duration = Duration::from_secs(20);

    #[test]
    fn a_message_brings_the_very_same_listeners() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let many = vec![listener.as_fd(); MOST_DESCRIPTORS];
        send(&here, &"listeners", &many, AMPLE).unwrap();
        send(&here, &"no more", &[], AMPLE).unwrap();
        drop(listener);
        let (message, mut came) = receive::<String>(&there, AMPLE).unwrap();
        assert_eq!(
            (message.as_str(), came.len()),
            ("listeners", MOST_DESCRIPTORS)
        );
        let first = TcpListener::from(came.remove(0));
        assert_eq!(first.local_addr().unwrap(), address);
        let (message, came) = receive::<String>(&there, AMPLE).unwrap();
        assert_eq!((message.as_str(), came.len()), ("no more", 0));
    }

    #[test]
    fn more_than_the_socket_holds_at_once_arrives_whole() {
        let (here, there) = UnixStream::pair().unwrap();
        let long = "x".repeat(4 << 20);
        let sender = std::thread::spawn({
            let long = long.clone();
            move || send(&here, &long, &[], AMPLE)
        });
        assert_eq!(receive::<String>(&there, AMPLE).unwrap().0, long);
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn too_many_descriptors_are_refused_before_anything_is_sent() {
        let (here, there) = UnixStream::pair().unwrap();
        let many = vec![here.as_fd(); MOST_DESCRIPTORS + 1];
        let error = send(&here, &(), &many, AMPLE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = receive::<()>(&there, SOON).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_length_over_the_bound_is_refused_unread() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&[255; HEADER]).unwrap();
        let error = receive::<()>(&there, AMPLE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn descriptors_that_were_told_and_did_not_come_are_missed() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&[0, 0, 0, 4, 0, 1]).unwrap();
        let error = receive::<()>(&there, AMPLE).unwrap_err();
        assert_eq!(error.to_string(), "1 descriptors were told, 0 came");
    }

    #[test]
    fn who_is_gone_in_the_middle_of_a_message_is_told_from_who_is_silent() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&[0, 0, 0, 4, 0, 0, b'n']).unwrap();
        drop(here);
        let error = receive::<()>(&there, AMPLE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn who_takes_nothing_holds_nobody() {
        let (here, _there) = UnixStream::pair().unwrap();
        let error = send(&here, &"x".repeat(8 << 20), &[], SOON).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
