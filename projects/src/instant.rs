//! Points in time as people write them: milliseconds since 1970, or RFC 3339 such as `2026-03-01T00:00:00Z`.

use yiqiu_base::{Problem, clock::Ms, name::shown};

const DAY_MS: i64 = 86_400_000;
/// 10000-01-01T00:00:00Z: RFC 3339 knows no later year.
const END_MS: Ms = 253_402_300_800_000;

/// Reads a point in time. `field` names it in the `invalid_argument` that says what was expected.
///
/// RFC 3339 strictly: four-digit year, `T`, seconds, up to nine decimals (what is below a millisecond is cut off), and
/// `Z` or an offset. No leap second, as milliseconds since 1970 have none.
pub fn parse(field: &str, text: &str) -> Result<Ms, Problem> {
    let bad = || {
        Problem::invalid(format!(
            "{field} is `{}`: expected milliseconds since 1970, or RFC 3339 such as 2026-03-01T00:00:00Z",
            shown(text)
        ))
    };
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let ms = if plain { text.parse().ok() } else { rfc3339(text) };
    ms.filter(|ms| (0..=END_MS).contains(ms)).ok_or_else(bad)
}

/// A point in time as RFC 3339 in UTC, to the millisecond.
pub fn shown_as(ms: Ms) -> String {
    let (days, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let mut year = 1970 + days.div_euclid(366); // not above the right one: points are from 1970 on
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_since_1970(year, month + 1, 1) <= days {
        month += 1;
    }
    let day = days - days_since_1970(year, month, 1) + 1;
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

fn rfc3339(text: &str) -> Option<Ms> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    for (at, mark) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        if bytes[at] != mark {
            return None;
        }
    }
    let (year, month, day) = (number(&text[0..4])?, number(&text[5..7])?, number(&text[8..10])?);
    let (hour, minute, second) = (number(&text[11..13])?, number(&text[14..16])?, number(&text[17..19])?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let rest = &text[19..];
    let (milli, rest) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(part) => {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            (number(&format!("{:0<3}", &part[..digits.min(3)]))?, &part[digits..])
        }
    };
    let offset_ms = match rest {
        "Z" => 0,
        _ => offset(rest)?,
    };
    let of_day = ((hour * 60 + minute) * 60 + second) * 1000 + milli;
    Some(days_since_1970(year, month, day) * DAY_MS + of_day - offset_ms)
}

/// `+HH:MM` or `-HH:MM` in milliseconds.
fn offset(text: &str) -> Option<i64> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    if text.len() != 6 || text.as_bytes()[3] != b':' {
        return None;
    }
    let (hours, minutes) = (number(&text[1..3])?, number(&text[4..6])?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60_000)
}

fn number(digits: &str) -> Option<i64> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, by counting leap days up to the year before.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let leaps = |y: i64| y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    years + (1..month).map(|m| days_of(year, m)).sum::<i64>() + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_shown() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (END_MS - 1, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(shown_as(ms), text);
        }
    }

    #[test]
    fn points_in_time() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000000", 1_700_000_000_000),
            ("1970-01-01T00:00:00Z", 0),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T22:13:20.5Z", 1_700_000_000_500),
            ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123),
            ("2023-11-15T06:13:20+08:00", 1_700_000_000_000),
            ("2023-11-14T17:13:20-05:00", 1_700_000_000_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2024-12-31T23:59:59.999Z", 1_735_689_599_999),
        ] {
            assert_eq!(parse("from", text).ok(), Some(ms), "{text}");
            assert_eq!(parse("from", &shown_as(ms)).ok(), Some(ms), "{text}");
        }
        for text in [
            "",
            "-1",
            "+5",
            "1.5",
            "yesterday",
            "2023-11-14",
            "2023-11-14 22:13:20Z",
            "2023-11-14t22:13:20Z",
            "2023-11-14T22:13:20",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:60Z",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00.1234567890Z",
            "2023-01-01T00:00:00+0800",
            "2023-01-01T00:00:00+24:00",
            "1969-12-31T23:59:59Z",
            "2023-01-01T00:00:00Zé",
            "9999999999999999999999",
            "999999999999999",
        ] {
            assert!(parse("from", text).is_err(), "{text}");
        }
    }
}
