//! Flap damping: a path that fails again soon after its return is trusted later each time.
//!
//! The hold-down doubles with each failure (death, or an objective violated) within [`RELAPSE`] times the hold-down in force since the path's return,
//! up to a cap. Each time as long passes without one, a doubling is taken back. With the defaults: 10 s, and 20 s for a path that fails
//! within 100 s of its return, 40 s if it fails within 200 s of the next one, …, at most ten minutes.

/// Hold-downs after its return within which a failure counts as the same trouble as the last one.
const RELAPSE: u64 = 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Damping {
    least_ns: u64,
    most_ns: u64,
    doublings: u32,
    /// Since when it has carried, or could have; `None`: since the start, on credit.
    returned_ns: Option<u64>,
}

impl Damping {
    /// Of a path that has not failed yet. A cap below the hold-down is the hold-down: nothing is damped.
    pub(super) fn new(hold_down_ns: u64, cap_ns: u64) -> Self {
        Self {
            least_ns: hold_down_ns,
            most_ns: cap_ns.max(hold_down_ns),
            doublings: 0,
            returned_ns: None,
        }
    }

    /// How long the path must stay clean before its traffic returns.
    pub(super) fn hold_down_ns(&self) -> u64 {
        let factor = 1_u64.checked_shl(self.doublings).unwrap_or(u64::MAX);
        self.least_ns.saturating_mul(factor).min(self.most_ns)
    }

    /// Whether it must stay clean longer than others.
    pub(super) fn is_longer(&self) -> bool {
        self.hold_down_ns() > self.least_ns
    }

    /// Nothing speaks against the path from now on.
    pub(super) fn returned(&mut self, now_ns: u64) {
        self.returned_ns = Some(now_ns);
    }

    /// It failed.
    pub(super) fn failed(&mut self, now_ns: u64) {
        let Some(returned_ns) = self.returned_ns.take() else {
            return;
        };
        let mut good_ns = now_ns.saturating_sub(returned_ns);
        loop {
            let relapse_ns = self.hold_down_ns().saturating_mul(RELAPSE);
            if good_ns < relapse_ns {
                self.doublings += u32::from(self.hold_down_ns() < self.most_ns);
                return;
            }
            if self.doublings == 0 {
                return;
            }
            good_ns -= relapse_ns;
            self.doublings -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn damping() -> Damping {
        Damping::new(10 * S, 600 * S)
    }

    /// Fails so many seconds after each return.
    fn after(mut damping: Damping, good_s: &[u64]) -> u64 {
        let mut now = 0;
        damping.failed(now);
        for good in good_s {
            damping.returned(now);
            now += good * S;
            damping.failed(now);
        }
        damping.hold_down_ns() / S
    }

    #[test]
    fn each_failure_soon_after_a_return_doubles_the_hold_down_up_to_the_cap() {
        assert_eq!(after(damping(), &[]), 10, "the first failure is no relapse");
        assert_eq!(after(damping(), &[99]), 20);
        assert_eq!(after(damping(), &[100]), 10, "later");
        assert_eq!(after(damping(), &[1, 199]), 40, "what counts as soon doubles too");
        let hold_downs: Vec<_> = (0..=9).map(|n| after(damping(), &[1; 9][..n])).collect();
        assert_eq!(hold_downs, [10, 20, 40, 80, 160, 320, 600, 600, 600, 600]);
        assert_eq!(after(damping(), &[1; 1000]), 600);
    }

    #[test]
    fn time_without_failure_takes_doublings_back_one_by_one() {
        // Four doublings are 160 s: 1,600 s takes one back, then 800, 400, 200.
        assert_eq!(after(damping(), &[1, 1, 1, 1]), 160);
        assert_eq!(
            after(damping(), &[1, 1, 1, 1, 1600 + 100]),
            160,
            "one back, and a relapse"
        );
        assert_eq!(after(damping(), &[1, 1, 1, 1, 1600 + 800 + 400 + 199]), 40);
        assert_eq!(
            after(damping(), &[1, 1, 1, 1, 1600 + 800 + 400 + 200 + 100]),
            10,
            "forgiven"
        );
    }

    #[test]
    fn with_a_cap_no_longer_than_the_hold_down_nothing_is_damped() {
        for cap in [0, 10] {
            let damping = Damping::new(10 * S, cap * S);
            assert_eq!(after(damping, &[1, 1, 1]), 10);
        }
        assert_eq!(after(Damping::new(0, 600 * S), &[1, 1, 1]), 0);
        assert_eq!(after(Damping::new(u64::MAX / 2, u64::MAX), &[0; 5]), u64::MAX / S);
    }
}
