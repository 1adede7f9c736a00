//! Points in time as people write and read them: UTC, by the proleptic Gregorian calendar.

use std::time::Duration;

/// Milliseconds since 1970 as `2026-11-21 13:14:15.250Z`.
pub fn shown(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hours, minutes, seconds) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{:03}Z", rest % 1000)
}

/// How long, in the two largest units: `3h12m`, `4.250s`.
pub fn span(ms: i64) -> String {
    let seconds = ms / 1000;
    match seconds {
        86_400.. => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
        3_600.. => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        60.. => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}.{:03}s", seconds, ms % 1000),
    }
}

/// Reads `90s`, `15m`, `2h`, `7d` or plain seconds.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a time span: expected a number with s, m, h or d, such as 30s");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().map_err(|_| bad())?;
    let unit = match &text[split..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(bad)
}

/// Reads `2026-11-21`, `2026-11-21T13:14:15Z`, milliseconds since 1970, `-2h` for so long before `now`, or `+2h` for so
/// long after it.
pub fn parse_point(text: &str, now: i64) -> Result<i64, String> {
    let bad = || {
        format!(
            "`{text}` is not a point in time: expected 2026-11-21, 2026-11-21T13:14:15Z, milliseconds since 1970, \
             -2h for two hours ago, or +2h for in two hours"
        )
    };
    for (sign, towards) in [('-', -1), ('+', 1)] {
        if let Some(span) = text.strip_prefix(sign) {
            let span = i64::try_from(parse_span(span).map_err(|_| bad())?.as_millis()).map_err(|_| bad())?;
            return Ok(now.saturating_add(span.saturating_mul(towards)));
        }
    }
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        return text.parse().map_err(|_| bad());
    }
    let (date, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let number = |part: Option<&str>, from: i64, to: i64| -> Result<i64, String> {
        let part = part.filter(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit())).ok_or_else(bad)?;
        part.parse().ok().filter(|n| (from..=to).contains(n)).ok_or_else(bad)
    };
    let mut date = date.splitn(3, '-');
    let year = number(date.next(), 1970, 9999)?;
    let month = number(date.next(), 1, 12)?;
    let day = number(date.next(), 1, 31)?;
    let days = days_from(year, month, day);
    if civil(days) != (year, month, day) {
        return Err(bad());
    }
    let mut clock = clock.trim_end_matches('Z').splitn(3, ':');
    let hour = number(clock.next(), 0, 23)?;
    let minute = number(clock.next(), 0, 59)?;
    let (second, fraction) = match clock.next() {
        None => ("0", "0"),
        Some(rest) => rest.split_once('.').unwrap_or((rest, "0")),
    };
    let second = number(Some(second), 0, 59)?;
    let milli = number(Some(&format!("{fraction:0<3}")), 0, 999)?;
    Ok(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + milli)
}

/// The date of a day counted from 1970-01-01. After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms":
/// years begin in March, so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days_from(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_and_spans() {
        assert_eq!(shown(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(shown(951_782_400_000), "2000-02-29 00:00:00.000Z");
        for (text, ms) in [
            ("2000-02-29", 951_782_400_000),
            ("2000-02-29T00:00:01.5Z", 951_782_401_500),
            ("1234", 1234),
            ("-2h", 10_000_000 - 7_200_000),
            ("+2h", 10_000_000 + 7_200_000),
        ] {
            assert_eq!(parse_point(text, 10_000_000), Ok(ms), "{text}");
        }
        for text in ["", "2001-02-29", "2026-13-01", "soon", "2026-01-01T25:00:00Z", "-", "-1y", "99999999999999999999"]
        {
            assert!(parse_point(text, 0).is_err(), "{text}");
        }
        assert_eq!(parse_span("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_span("2w").is_err());
        assert_eq!(span(4_250), "4.250s");
        assert_eq!(span(3 * 3_600_000 + 12 * 60_000), "3h12m");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(ms in 0_i64..253_402_300_799_999) {
            prop_assert_eq!(parse_point(&shown(ms), 0), Ok(ms));
        }
    }
}
