//! The pillar's wall clock beside ours. It decides nothing about trust; but who signs a statement with a date, or judges a
//! certificate by its dates, should notice that a clock is far off before somebody else does.

use crate::failure::{Failure, Kind, Outcome};
use std::time::{Duration, SystemTime};
use tonic::metadata::MetadataMap;

/// Statements carry dates to the second, certificates live for years: minutes do no harm, a forgotten battery does.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The pillar's clock minus ours, in seconds, to the second: HTTP's `date` (RFC 9110 section 6.6.1) of a reply that came
/// just now.
pub fn offset_s(metadata: &MetadataMap) -> Option<i64> {
    let date = httpdate::parse_http_date(metadata.get("date")?.to_str().ok()?).ok()?;
    Some(difference_s(date, SystemTime::now()))
}

fn difference_s(theirs: SystemTime, ours: SystemTime) -> i64 {
    let signed = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match theirs.duration_since(ours) {
        Ok(ahead) => signed(ahead),
        Err(behind) => -signed(behind.duration()),
    }
}

/// Whether the clocks agree well enough to sign something.
pub fn check(name: &str, offset_s: Option<i64>) -> Outcome {
    match offset_s {
        Some(offset) if is_far(offset) => Err(Failure::new(format!("{}, so nothing is signed", words(name, offset)))
            .kind(Kind::Clock)
            .hint("set the clock that is wrong: `date` shows this machine's; a pillar takes the time from its firmware, or from the time servers in its node settings")),
        _ => Ok(()),
    }
}

/// Whether an offset is worth a word.
pub fn is_far(offset_s: i64) -> bool {
    offset_s.unsigned_abs() > TOLERANCE.as_secs()
}

/// "p1's clock is 2 h 5 min ahead of this machine's".
pub fn words(name: &str, offset_s: i64) -> String {
    let by = crate::status::span(Duration::from_secs(offset_s.unsigned_abs()));
    let way = if offset_s >= 0 { "ahead of" } else { "behind" };
    format!("{name}'s clock is {by} {way} this machine's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_off_is_told_from_one_that_drifts() {
        let mut metadata = MetadataMap::new();
        assert_eq!(offset_s(&metadata), None);
        metadata.insert("date", "Thu, 01 Jan 1970 00:00:10 GMT".parse().expect("ASCII"));
        let offset = offset_s(&metadata).expect("a date");
        assert!(offset < -1_700_000_000, "{offset}");
        metadata.insert("date", "yesterday".parse().expect("ASCII"));
        assert_eq!(offset_s(&metadata), None);
        for fine in [None, Some(0), Some(300), Some(-300)] {
            assert!(check("p1", fine).is_ok(), "{fine:?}");
        }
        let failure = check("p1", Some(7500)).expect_err("far");
        assert_eq!(failure.kind, Kind::Clock);
        assert!(
            failure.to_string().contains("p1's clock is 2 h 5 min ahead of this machine's, so nothing"),
            "{failure}"
        );
        assert!(check("p1", Some(-301)).expect_err("far").to_string().contains("5 min 1 s behind"));
    }
}
