//! `[control]`: where commands come in, and who may give them.

use std::path::PathBuf;

use super::diagnostic::Diagnostic;
use super::reader::Table;
use super::resolve::LONGEST_NAME;
use super::{CONTROL_MODE, Control};

/// The kernel allows 107 bytes; some are left for the name that it is bound under at first.
const LONGEST_SOCKET: usize = 100;
const SOCKET: &str = "/run/twinpool/control.sock";

pub(super) fn control(table: &Table<'_>) -> Control {
    let socket = table.string("socket").map(|(path, place)| {
        if path.is_empty() || path.len() > LONGEST_SOCKET {
            let message = "`socket` is not a path that a socket can have";
            let help = format!("write `socket = \"{SOCKET}\"`; at most {LONGEST_SOCKET} bytes");
            table.note(Diagnostic::new(message, place).help(help));
        }
        PathBuf::from(path)
    });
    Control {
        socket: socket.unwrap_or_else(|| PathBuf::from(SOCKET)),
        mode: mode(table),
        group: group(table),
    }
}

/// The permissions of the control socket, in octal as `chmod` takes them.
fn mode(table: &Table<'_>) -> u32 {
    let Some((text, place)) = table.string("mode") else {
        return CONTROL_MODE;
    };
    let is_octal = (3..=4).contains(&text.len()) && text.chars().all(|c| c.is_digit(8));
    let mode = u32::from_str_radix(&text, 8).ok();
    let Some(mode) = mode.filter(|mode| is_octal && *mode <= 0o777) else {
        let message = "`mode` is not permissions in octal";
        let help =
            "write `mode = \"0660\"` for owner and group, `mode = \"0600\"` for the owner alone";
        table.note(Diagnostic::new(message, place).help(help));
        return CONTROL_MODE;
    };
    if mode & 0o600 != 0o600 {
        let message = "`mode` shuts out the owner, and with it whoever runs the daemon";
        let help = format!("write `mode = \"{:04o}\"`", mode | 0o600);
        table.note(Diagnostic::new(message, place).help(help));
    } else if mode & 0o002 != 0 {
        let message = "every user of this host may command this instance";
        let help = "write `mode = \"0660\"`, and `group = \"NAME\"` for who else may";
        table.note(Diagnostic::new(message, place).help(help).warning());
    } else if mode & 0o060 == 0o040 || mode & 0o006 == 0o004 {
        let message = "`mode` lets some read who cannot write, and who cannot write cannot ask";
        let help = "give both or neither: 6 or 0 in each place, as in `mode = \"0660\"`";
        table.note(Diagnostic::new(message, place).help(help).warning());
    }
    mode
}

/// The group of the control socket. Whether the host has it is seen when the socket is made: a file
/// is validated on other hosts too.
fn group(table: &Table<'_>) -> Option<String> {
    let (name, place) = table.string("group")?;
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != ':' && c != '/';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
        let message = "`group` is not a name that a group can have";
        let help = "write `group = \"ops\"`; leave it out for the group of the daemon";
        table.note(Diagnostic::new(message, place).help(help));
        return None;
    }
    Some(name)
}
