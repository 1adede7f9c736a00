//! Words: enums whose values are stored, shown and read as fixed words.

/// Makes an enum of words: `as_str`, `parse` with the words there are in its refusal, `Display`, `FromStr`, `ALL`, and
/// the same words in JSON and in the API's description. The words are the names in snake case.
#[macro_export]
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $noun:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
        )]
        $(#[$doc])*
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The word, as it is stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// Reads the word; `invalid_argument` with the words there are otherwise.
            pub fn parse(text: &str) -> Result<Self, $crate::Problem> {
                match text {
                    $($text => Ok($name::$variant),)*
                    _ => Err($crate::Problem::invalid(format!(
                        concat!("`{}` is not a ", $noun, ": expected {}"),
                        $crate::name::shown(text), [$($text),*].join(", ")
                    ))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Problem;
            fn from_str(text: &str) -> Result<Self, $crate::Problem> { Self::parse(text) }
        }
    };
}
