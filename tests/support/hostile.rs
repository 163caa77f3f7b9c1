//! Hostile clients.
pub(crate) fn main(_: &[String]) -> super::Result<()> {
    Ok(())
}
