//! Condition: whether a pool can serve its users, decided by its primary service alone.

/// Whether a pool can serve its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// All of its members take part.
    Serving,
    /// Not all, but enough for its quorum.
    Degraded,
    /// Fewer than its quorum.
    Lost,
}
