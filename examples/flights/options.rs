//! The command line.

use crate::runtime::Runtime;
use crate::store::Place;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Flies the flights of a file: each row is a command to its aircraft, and each leg flown an event.

usage: flights [OPTION VALUE]...

  --input FILE       the flights, as CSV (default: New York in January 2013)
  --out FILE         writes what each aircraft of this run came to, as CSV
  --executor NAME    tokio, smol, async-std or threads (default: the first that is compiled in)
  --shards N         shards of the pool (default: one for each core)
  --workers N        workers of each shard (default: 8)
  --depth N          commands that a shard holds before it makes submitters wait (default: 1024)
  --store STORE      memory or sqlite:PATH (default: a temporary SQLite file, deleted at the end
                     of a run that is not killed)
  --help             prints this

exit code: 0 all went well; 1 a row was malformed, a command failed, the store has a gap, or
something could not be read to its end or written; 2 nothing was run
";

/// What was asked for. A size that was not asked for is left to the pool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) input: PathBuf,
    pub(crate) out: Option<PathBuf>,
    pub(crate) runtime: Runtime,
    pub(crate) shards: Option<usize>,
    pub(crate) workers: Option<usize>,
    pub(crate) depth: Option<usize>,
    pub(crate) store: Place,
}

impl Default for Options {
    fn default() -> Self {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/flights/flights-2013-01.csv");
        Self {
            input: shipped.into(),
            out: None,
            runtime: Runtime::default(),
            shards: None,
            workers: None,
            depth: None,
            store: Place::Temporary,
        }
    }
}

impl Options {
    /// `None` when help was asked for. The error says what is wrong and what would be right.
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Option<Self>, String> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let name = name.to_string_lossy();
            let mut value = || {
                let value = arguments.next();
                value.ok_or_else(|| format!("{name} needs a value after it, see --help"))
            };
            match &*name {
                "--help" => return Ok(None),
                "--input" => options.input = value()?.into(),
                "--out" => options.out = Some(value()?.into()),
                "--executor" => options.runtime = Runtime::named(&text(&value()?))?,
                "--shards" => options.shards = Some(size(&name, &value()?)?),
                "--workers" => options.workers = Some(size(&name, &value()?)?),
                "--depth" => options.depth = Some(size(&name, &value()?)?),
                "--store" => options.store = place(&value()?)?,
                _ => return Err(format!("unknown option '{name}', see --help")),
            }
        }
        Ok(Some(options))
    }
}

fn text(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}

fn size(name: &str, value: &OsStr) -> Result<usize, String> {
    let value = text(value);
    match value.parse() {
        Ok(0) => Err(format!("{name} is 0, but must be at least 1")),
        Ok(size) => Ok(size),
        Err(error) => Err(format!("{name} must be a whole number from 1, not '{value}': {error}")),
    }
}

fn place(value: &OsStr) -> Result<Place, String> {
    // Only UTF-8 will do: a path that was mended on the way would name another file.
    match value.to_str() {
        Some("memory") => Ok(Place::Memory),
        Some("sqlite:") => Err("--store sqlite: names no file, give sqlite:PATH".to_owned()),
        Some(named) if named.starts_with("sqlite:") => {
            Ok(Place::Sqlite(named["sqlite:".len()..].into()))
        }
        _ => Err(format!(
            "--store must be memory or sqlite:PATH (in UTF-8), not '{}'",
            value.to_string_lossy()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn without_options_all_is_default() {
        let options = parse("").unwrap().unwrap();
        assert_eq!(options, Options::default());
        assert!(options.input.is_file(), "{:?}", options.input);
    }

    #[test]
    fn every_option_is_understood() {
        let line = "--input a.csv --out b.csv --executor threads --shards 3 --workers 17 \
                    --depth 5 --store sqlite:c.db";
        let expected = Options {
            input: "a.csv".into(),
            out: Some("b.csv".into()),
            runtime: Runtime::Threads,
            shards: Some(3),
            workers: Some(17),
            depth: Some(5),
            store: Place::Sqlite("c.db".into()),
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        let options = parse("--store memory").unwrap().unwrap();
        assert_eq!(options.store, Place::Memory);
        assert_eq!(parse("--shards 2 --help"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, words) in [
            ("--shard 2", &["unknown option '--shard'"][..]),
            ("flights.csv", &["unknown option 'flights.csv'"]),
            ("--shards", &["--shards", "needs a value"]),
            ("--shards 0", &["--shards", "at least 1"]),
            ("--workers 0", &["--workers", "at least 1"]),
            ("--depth 0", &["--depth", "at least 1"]),
            ("--shards two", &["--shards", "'two'"]),
            ("--shards 1.5", &["--shards", "'1.5'"]),
            ("--shards -1", &["--shards", "'-1'"]),
            ("--depth 99999999999999999999", &["--depth", "too large"]),
            ("--executor rayon", &["'rayon'", "tokio, smol, async-std"]),
            ("--store redis", &["--store", "'redis'", "sqlite:PATH"]),
            ("--store sqlite:", &["--store", "no file"]),
        ] {
            let error = parse(line).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{line}: {error}");
            }
        }
    }
}
