//! Metrics of the access log, where there is one.

use std::fmt;

use super::page::{Family, Page};
use crate::observe::status::{AccessStatus, Status};

/// Writes them.
pub(super) fn families(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let access: Vec<_> = status.access.iter().map(|it| (vec![], it)).collect();
    page.table(ACCESS, &access)
}

const ACCESS: &[Family<AccessStatus>] = &[
    Family::counter(
        "twinpool_access_log_written",
        "Lines of the access log that were written",
        |access| access.written,
    ),
    Family::counter_by(
        "twinpool_access_log_dropped",
        "Lines of the access log that were not, by reason: its queue was full, or a write failed",
        "reason",
        |access| vec![("queue_full", access.dropped), ("unwritable", access.lost)],
    ),
];
