//! Who gave a command: the user's name for what the kernel says.
//!
//! Where users come from a directory service that hangs, nobody waits for long, and no more
//! look-ups are begun: then it is `uid 1000`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;

/// How long a name is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Look-ups under way at once; each may hold a thread for as long as a directory service hangs.
const MOST_LOOKUPS: usize = 4;
/// The longest name that is told, in characters.
const LONGEST: usize = 64;

/// Looks users up.
#[derive(Debug, Default)]
pub(super) struct Names(Rc<Cell<usize>>);

impl Names {
    /// The name of a user, or `uid N`.
    pub(super) async fn of(&self, uid: u32) -> String {
        let number = format!("uid {uid}");
        if self.0.get() >= MOST_LOOKUPS {
            return number;
        }
        self.0.set(self.0.get() + 1);
        let under_way = self.0.clone();
        // On a task of its own: it is under way until it is over, whoever still waits.
        let found = spawn_local(async move {
            let found = spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
            under_way.set(under_way.get() - 1);
            found
        });
        match timeout(PATIENCE, found).await {
            Ok(Ok(Ok(Ok(Some(user))))) => told(&user.name).unwrap_or(number),
            Ok(Ok(Ok(Ok(None)))) => number,
            Ok(Ok(Ok(Err(error)))) => {
                tracing::debug!(%error, uid, "the name of a user cannot be found");
                number
            }
            Ok(Ok(Err(error)) | Err(error)) => {
                tracing::error!(%error, "looking up a user panicked");
                number
            }
            Err(_) => {
                tracing::warn!(uid, "the name of a user is not found within {PATIENCE:?}");
                number
            }
        }
    }
}

/// A name as it is told, if it is one.
fn told(name: &str) -> Option<String> {
    let is_plain = !name.is_empty() && !name.chars().any(char::is_control);
    is_plain.then(|| name.chars().take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    fn named(uid: u32) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async { Names::default().of(uid).await })
    }

    #[test]
    fn a_user_is_named_and_one_that_nobody_knows_is_a_number() {
        assert_eq!(named(0), "root");
        assert_eq!(named(4_000_000_123), "uid 4000000123");
    }

    #[test]
    fn a_name_cannot_steer_a_terminal() {
        assert_eq!(told("alice").as_deref(), Some("alice"));
        assert_eq!(told("a\x1b[2J"), None);
        assert_eq!(told(""), None);
    }

    #[test]
    fn look_ups_that_hang_are_no_more_than_a_few() {
        let names = Names(Rc::new(Cell::new(MOST_LOOKUPS)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let told = LocalSet::new().block_on(&runtime, names.of(0));
        assert_eq!(told, "uid 0");
    }
}
