//! Names that people give to things.

use crate::{Code, Problem};

/// The longest name.
pub const MAX: usize = 63;

/// A name: 1 to 63 of `a-z`, `0-9` and `-`, with a letter or digit at both ends. The same rule as a DNS label
/// (RFC 1123), so that a name can be a host name, a file name and a container name as it is. What reads as an id is no
/// name: things are found by either.
pub fn check(noun: &str, name: &str) -> Result<(), Problem> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=MAX).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && uuid::Uuid::try_parse(name).is_err();
    if good {
        return Ok(());
    }
    Err(Problem::new(
        Code::InvalidArgument,
        format!(
            "`{}` cannot be the name of a {noun}: expected 1 to {MAX} of a-z, 0-9 and -, with a letter or digit first and last",
            shown(name)
        ),
    ))
}

/// A text from outside, fit to be printed in a message: no control characters, at most 80 characters.
pub fn shown(text: &str) -> String {
    shown_to(80, text)
}

/// The same with another bound, for whole sentences that quote such a text.
pub fn shown_to(most: usize, text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(most).collect();
    if text.chars().count() > most { clean + "…" } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(shown(&"ü".repeat(80)), "ü".repeat(80));
        assert_eq!(shown(&"ü".repeat(81)), "ü".repeat(80) + "…");
        assert_eq!(shown_to(2, "a\nb"), "a\u{fffd}…");
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for (name, good) in [
            ("web-1", true),
            ("1", true),
            (&long[..63], true),
            (&long[..], false),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("Web", false),
            ("a/b", false),
            ("../x", false),
            ("a b", false),
            ("ü", false),
            ("01890a5d-ac96-774b-bcce-b302099a8057", false),
        ] {
            assert_eq!(check("host", name).is_ok(), good, "{name}");
        }
    }
}
