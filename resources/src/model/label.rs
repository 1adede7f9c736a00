//! Labels of hosts: what ops say, and what machines say of themselves.

use std::collections::BTreeMap;

use yiqiu_base::{Problem, name};

/// Values by key.
pub type Labels = BTreeMap<String, String>;

/// The most labels, and the most features, of one host.
pub const LABELS_MOST: usize = 64;

/// The longest key.
const KEY_MOST: usize = 63;

/// The longest value of a label.
const VALUE_MOST: usize = 63;

/// The longest value of a feature.
const FEATURE_MOST: usize = 128;

/// A key: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, with a letter or digit first and last.
fn key_check(key: &str) -> Result<(), Problem> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (1..=KEY_MOST).contains(&key.len())
        && key.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
        && key.starts_with(edge)
        && key.ends_with(edge);
    if good {
        return Ok(());
    }
    Err(Problem::invalid(format!(
        "`{}` cannot be the key of a label: expected 1 to {KEY_MOST} of a-z, 0-9, -, _ and ., with a letter or digit \
         first and last",
        name::shown(key)
    )))
}

/// A value of a free label: at most 63 letters, digits, `-`, `_` and `.`; it may be empty.
fn value_check(key: &str, value: &str) -> Result<(), Problem> {
    let good =
        value.len() <= VALUE_MOST && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if good {
        return Ok(());
    }
    Err(Problem::invalid(format!(
        "`{}` cannot be the value of label {key}: expected at most {VALUE_MOST} letters, digits, -, _ and .",
        name::shown(value)
    )))
}

/// What ops said before with what they say now; `None` takes a label away.
pub fn labels_changed(before: &Labels, change: &BTreeMap<String, Option<String>>) -> Result<Labels, Problem> {
    let mut after = before.clone();
    for (key, value) in change {
        key_check(key)?;
        match value {
            Some(value) => {
                value_check(key, value)?;
                after.insert(key.clone(), value.clone());
            }
            None => {
                after.remove(key);
            }
        }
    }
    if after.len() > LABELS_MOST {
        return Err(Problem::invalid(format!(
            "that would be {} labels: a host has at most {LABELS_MOST}; take some away first",
            after.len()
        )));
    }
    Ok(after)
}

/// Checks what a machine says of itself.
pub fn features_check(features: &Labels) -> Result<(), Problem> {
    if features.len() > LABELS_MOST {
        return Err(Problem::invalid(format!("a machine has at most {LABELS_MOST} features, not {}", features.len())));
    }
    for (key, value) in features {
        key_check(key)?;
        let printable = |c: char| c == ' ' || (c.is_ascii_graphic() && c != ',');
        if value.len() > FEATURE_MOST || !value.chars().all(printable) {
            return Err(Problem::invalid(format!(
                "the value of feature {key} has at most {FEATURE_MOST} printable ASCII characters, and no comma"
            )));
        }
    }
    Ok(())
}

/// One condition on labels or features: a key, with a value or with any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The key that has to be there.
    pub key: String,
    /// Its value; `None`: any.
    pub value: Option<String>,
}

impl Selector {
    /// Reads `key=value,other`: all have to hold. At most 16.
    pub fn parse(text: &str) -> Result<Vec<Self>, Problem> {
        let selectors: Vec<Self> = text
            .split(',')
            .map(|part| {
                let (key, value) = match part.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (part, None),
                };
                key_check(key)?;
                Ok(Self { key: key.to_owned(), value })
            })
            .collect::<Result<_, Problem>>()?;
        if selectors.len() > 16 {
            return Err(Problem::invalid(format!(
                "at most 16 labels can be asked for at once, not {}",
                selectors.len()
            )));
        }
        Ok(selectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_have_checked_names() {
        let long = "a".repeat(64);
        for (key, value, good) in [
            ("env", "prod", true),
            ("a.b/c", "", false),
            ("team_x.owner-1", "Ab.c_d-1", true),
            ("empty", "", true),
            ("", "x", false),
            ("Env", "x", false),
            ("-a", "x", false),
            ("a=b", "x", false),
            ("a", "x,y", false),
            ("a", "x y", false),
            ("a", "x\ny", false),
            ("../etc", "x", false),
            (&long[..63], &long[..63], true),
            (&long, "x", false),
            ("a", &long, false),
        ] {
            let change = BTreeMap::from([(key.to_owned(), Some(value.to_owned()))]);
            assert_eq!(labels_changed(&Labels::new(), &change).is_ok(), good, "{key}={value}");
        }
        let many = |n: usize| (0..n).map(|n| (format!("k{n}"), Some(String::new()))).collect::<BTreeMap<_, _>>();
        let full = labels_changed(&Labels::new(), &many(LABELS_MOST)).unwrap();
        assert!(labels_changed(&full, &many(LABELS_MOST + 1)).is_err(), "labels have an end");
        let swapped = BTreeMap::from([("k0".to_owned(), None), ("other".to_owned(), Some(String::new()))]);
        let swapped = labels_changed(&full, &swapped).unwrap();
        assert!(swapped.len() == LABELS_MOST && !swapped.contains_key("k0") && swapped.contains_key("other"));
    }

    #[test]
    fn selectors_read() {
        let read =
            |text| Selector::parse(text).map(|all| all.into_iter().map(|s| (s.key, s.value)).collect::<Vec<_>>());
        assert_eq!(
            read("a=1,b,c=").unwrap(),
            [("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None), ("c".to_owned(), Some(String::new())),]
        );
        for bad in ["", "a,,b", "=x", "A=1", &vec!["a"; 17].join(",")] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn features_are_checked_like_everything_from_outside() {
        let one = |key: &str, value: &str| features_check(&Labels::from([(key.to_owned(), value.to_owned())])).is_ok();
        assert!(one("cpu-model", "Intel(R) Xeon(R) CPU @ 2.40GHz"));
        assert!(!one("cpu model", "x") && !one("a", "x\u{1b}[31m") && !one("a", "x,y") && !one("a", &"x".repeat(129)));
    }
}
