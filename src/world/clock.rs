//! Wall time from the operating system. The only reading of it in the crate, beside the signing library's own.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Clock;
use crate::base::Timestamp;

/// The machine's clock.
pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 reads as 1970: everything is then due at once, and nothing overflows.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}
