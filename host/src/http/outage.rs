//! A store that is away, as the log hears of it: once when it begins, and when it is over how much is missing.

#[derive(Debug, Default)]
pub(super) struct Outage {
    missing: u64,
}

impl Outage {
    /// True for the first failure.
    pub fn failed(&mut self, requests: u64) -> bool {
        let first = self.missing == 0;
        self.missing = self.missing.saturating_add(requests);
        first
    }

    /// How many requests it was; none when there was no outage.
    pub fn over(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.missing)).filter(|missing| *missing > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_once_and_counted_to_its_end() {
        let mut outage = Outage::default();
        assert_eq!(outage.over(), None);
        let said: Vec<bool> = (0..4).map(|_| outage.failed(2)).collect();
        assert_eq!(said, [true, false, false, false]);
        assert_eq!(outage.over(), Some(8));
        assert_eq!(outage.over(), None);
        assert!(outage.failed(1), "the next one is said again");
    }
}
