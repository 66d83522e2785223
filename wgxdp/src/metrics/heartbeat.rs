//! Whether the daemon's loop still goes round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Beaten by the daemon at every turn of its loop, checked by `/healthz`. Clones share one heart.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    origin: Instant,
    /// Milliseconds from the origin to the last beat.
    last_ms: Arc<AtomicU64>,
}

impl Heartbeat {
    /// Beats for the first time at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            last_ms: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The loop is here.
    pub fn beat(&self, now: Instant) {
        self.last_ms.fetch_max(self.millis(now), Ordering::Relaxed);
    }

    /// Whether the last beat is at most `limit` ago.
    ///
    /// # Errors
    /// How long it is ago.
    pub fn check(&self, now: Instant, limit: Duration) -> Result<(), String> {
        let silent = Duration::from_millis(self.millis(now).saturating_sub(self.last_ms.load(Ordering::Relaxed)));
        if silent <= limit {
            Ok(())
        } else {
            Err(format!(
                "the daemon's loop has not come round for {silent:.1?}; it should within {limit:?}"
            ))
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_healthy_up_to_the_limit_and_says_for_how_long_it_is_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let limit = Duration::from_secs(1);
        let heart = Heartbeat::new(start);
        assert_eq!(heart.check(at(1000), limit), Ok(()));
        let expected = "the daemon's loop has not come round for 2.5s; it should within 1s";
        assert_eq!(heart.check(at(2500), limit), Err(expected.to_owned()));
        heart.clone().beat(at(2600));
        assert_eq!(heart.check(at(3600), limit), Ok(()));
        assert!(heart.check(at(3601), limit).is_err());
    }
}
