//! What kind of report is asked for.

use std::path::{Path, PathBuf};

/// A boot report, in one of its forms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Request {
    /// None, and nothing is counted.
    #[default]
    Off,
    /// A table on standard error.
    Text,
    /// A JSON document on standard error.
    Json,
    /// A JSON document in a file.
    JsonFile(PathBuf),
    /// A timeline as SVG in a file.
    Svg(PathBuf),
}

impl Request {
    /// The form that `word` names: `off`, `text`, `json`, or a file by its ending.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "off" => Some(Self::Off),
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            file => match Path::new(file).extension()?.to_str()? {
                "svg" => Some(Self::Svg(file.into())),
                "json" => Some(Self::JsonFile(file.into())),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_named_by_a_word_or_by_a_files_ending() {
        assert_eq!(Request::parse("off"), Some(Request::Off));
        assert_eq!(Request::parse("text"), Some(Request::Text));
        assert_eq!(Request::parse("json"), Some(Request::Json));
        assert_eq!(Request::parse("/tmp/boot.svg"), Some(Request::Svg("/tmp/boot.svg".into())));
        assert_eq!(Request::parse("a.json"), Some(Request::JsonFile("a.json".into())));
        for bad in ["", "svg", ".svg", "on", "boot.png"] {
            assert_eq!(Request::parse(bad), None, "{bad}");
        }
    }
}
