//! Points in time as a container engine writes them.

/// Milliseconds since 1970 of a time such as `2026-01-02T03:04:05.678901234Z` (RFC 3339 in UTC).
pub(crate) fn milliseconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = whole.split(':').map(str::parse::<i64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    let known = (1970..10_000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !known || hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Days from the civil date: H. Hinnant, "chrono-compatible low-level date algorithms"; the year begins in March.
    let year = if month <= 2 { year - 1 } else { year };
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let thousandths = format!("{fraction:0<3}")[..3].parse::<i64>().ok()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:00.5Z", Some(500)),
            ("2000-02-29T12:00:00.123456789Z", Some(951_825_600_123)),
            ("2026-11-21T15:47:41.000Z", Some(1_795_276_061_000)),
            ("2026-11-21T15:47:41", None),
            ("2026-13-21T15:47:41Z", None),
            ("2026-11-21 15:47:41Z", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(text), ms, "{text}");
        }
    }
}
