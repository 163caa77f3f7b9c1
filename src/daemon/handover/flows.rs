//! Flows over UDP, which go over with their sockets.

use std::os::unix::net::UnixStream;

use crate::daemon::hub::Hub;

impl Hub {
    pub(super) async fn give_flows(&self, _stream: &UnixStream) -> Result<(), String> {
        Ok(())
    }
    pub(super) fn drop_flows(&self) {}
    pub(super) fn resume_flows(&self) {}
}
