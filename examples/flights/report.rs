//! What a run has to say: the file for `--out`, and the summary on stdout.

use crate::fleet::AircraftId;
use crate::store::{Last, Span};
use shardpool::Outcomes;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The file for `--out`. It is opened before anything is run, so that it fails early, and keeps
/// what it held until all that there is to write has been written.
#[derive(Debug)]
pub(crate) struct OutFile {
    /// Of a regular file, with all links followed: they stay when another file takes its place.
    path: PathBuf,
    file: File,
    is_regular: bool,
    /// Made by this run, and still empty.
    fresh: bool,
}

/// One aircraft that had a command in this run.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) aircraft: AircraftId,
    pub(crate) last: Last,
    pub(crate) rejected: u64,
}

impl OutFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true);
        let (file, fresh) = match options.clone().create_new(true).open(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // A link that leads nowhere is there too, and what it names is made.
                let fresh = !path.exists();
                (options.create(fresh).open(path)?, fresh)
            }
            Err(error) => return Err(error),
        };
        let is_regular = file.metadata()?.is_file();
        let path = if is_regular { path.canonicalize()? } else { path.to_owned() };
        Ok(Self { path, file, is_regular, fresh })
    }

    /// Whether this is the file that the other path leads to. Of what is not a regular file, such
    /// as a terminal, no harm comes.
    pub(crate) fn is(&self, other: &Path) -> bool {
        self.is_regular && is_same(&self.path, other).unwrap_or(false)
    }

    pub(crate) fn write(self, lines: &[Line]) -> io::Result<()> {
        self.write_with(|file| write_lines(BufWriter::new(file), lines))
    }

    fn write_with(mut self, write: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
        if self.is_regular {
            match self.replace(&write) {
                // By the folder, or by what is mounted there: only the content can be replaced.
                Err(error) if is_forbidden(&error) => self.file.set_len(0)?,
                result => {
                    self.fresh &= result.is_err();
                    return result;
                }
            }
        }
        write(&self.file)
    }

    /// Writes a file beside it, which then takes its place: what could not be written to its end
    /// leaves what was there.
    fn replace(&self, write: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.unwrap_or_default().as_nanos();
        let beside = self.path.with_file_name(format!(".flights-{}-{nanos}", process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
        let replaced = self
            .file
            .metadata()
            .and_then(|old| file.set_permissions(old.permissions()))
            .and_then(|()| write(&file))
            // Some disks are known to be full only now.
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, &self.path));
        if replaced.is_err() {
            let _ = fs::remove_file(&beside);
        }
        replaced
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    use ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}

/// Also of one file with two names.
#[cfg(unix)]
fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (fs::metadata(a)?, fs::metadata(b)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

#[cfg(not(unix))]
fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(a.canonicalize()? == b.canonicalize()?)
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if self.fresh {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write_lines(mut out: impl Write, lines: &[Line]) -> io::Result<()> {
    writeln!(out, "aircraft,version,legs,rejected,miles,digest")?;
    for line in lines {
        let Last { version, after } = &line.last;
        // The id is bytes and need not be text.
        out.write_all(&line.aircraft)?;
        writeln!(
            out,
            ",{version},{},{},{},{}",
            after.legs, line.rejected, after.miles, after.digest
        )?;
    }
    out.flush()
}

/// What is printed at the end.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) outcomes: Outcomes,
    pub(crate) malformed: u64,
    pub(crate) without_aircraft: u64,
    pub(crate) aircraft: u64,
    pub(crate) elapsed: Duration,
    /// `None` when the store could not tell.
    pub(crate) spans: Option<Vec<Span>>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commands = self.outcomes.total();
        let per_second = commands as f64 / self.elapsed.as_secs_f64().max(1e-9);
        for (name, count) in [
            ("commands", commands),
            ("  committed", self.outcomes.committed),
            ("  rejected", self.outcomes.rejected),
            ("  failed", self.outcomes.failed),
            ("  panicked", self.outcomes.panicked),
            ("  cancelled", self.outcomes.cancelled),
            ("  expired", self.outcomes.expired),
            ("  aborted", self.outcomes.aborted),
            ("malformed rows", self.malformed),
            ("rows without an aircraft", self.without_aircraft),
            ("aircraft", self.aircraft),
            ("commands per second", per_second as u64),
        ] {
            writeln!(f, "{:26}{count:>8}", format!("{name}:"))?;
        }
        let Some(spans) = &self.spans else {
            return write!(f, "versions in the store: NOT CHECKED");
        };
        let all = spans.len();
        match spans.iter().filter(|span| !span.is_whole()).count() {
            0 => {
                write!(f, "versions in the store: 1..n without a gap, for each of {all} aircraft")?
            }
            gaps => write!(f, "versions in the store: GAPS, for {gaps} of {all} aircraft")?,
        }
        // A version is given to the first leg that is stored, so no gap shows those that were not.
        match self.outcomes.failed {
            0 => Ok(()),
            failed => write!(f, ", BUT {failed} commands failed, and their aircraft stop there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Flown;
    use crate::store::Scratch;
    use std::cell::Cell;

    #[test]
    fn a_line_has_what_the_store_has() {
        let flown = Flown { legs: 2, ..Flown::default() };
        let line = |aircraft: &[u8], version, after| Line {
            aircraft: aircraft.into(),
            last: Last { version, after },
            rejected: 7,
        };
        let mut out = Vec::new();
        let lines = [line(b"N1", 2, flown), line(b"\xff", 0, Flown::default())];
        write_lines(&mut out, &lines).unwrap();
        assert_eq!(
            out.escape_ascii().to_string(),
            "aircraft,version,legs,rejected,miles,digest\\n\
             N1,2,2,7,0,cbf29ce484222325\\n\
             \\xff,0,0,7,0,cbf29ce484222325\\n"
        );
    }

    fn span(events: u64, first: u64, last: u64) -> Span {
        Span { aircraft: b"N1"[..].into(), events, first, last }
    }

    fn summary(spans: Option<Vec<Span>>) -> Summary {
        Summary {
            outcomes: Outcomes::default(),
            malformed: 3,
            without_aircraft: 0,
            aircraft: 0,
            elapsed: Duration::ZERO,
            spans,
        }
    }

    #[test]
    fn a_gap_shows() {
        let says = |spans| summary(spans).to_string();
        assert!(says(Some(vec![span(3, 1, 3)])).contains("without a gap, for each of 1 aircraft"));
        assert!(says(Some(vec![span(3, 1, 3), span(2, 1, 3)])).contains("GAPS, for 1 of 2"));
        assert!(says(Some(vec![span(3, 2, 4)])).contains("GAPS"));
        assert!(says(None).contains("NOT CHECKED"));
        assert!(says(None).contains("malformed rows:                  3\n"));
    }

    #[test]
    fn a_leg_that_failed_shows_though_no_version_is_missing() {
        let mut summary = summary(Some(vec![span(3, 1, 3)]));
        assert!(summary.to_string().ends_with("without a gap, for each of 1 aircraft"));
        summary.outcomes.failed = 2;
        assert!(
            summary.to_string().ends_with("BUT 2 commands failed, and their aircraft stop there")
        );
    }

    /// A folder, the path of a file in it, and that of one that can be made there.
    fn files() -> (Scratch, PathBuf, PathBuf) {
        let scratch = Scratch::new().unwrap();
        let (old, new) = (scratch.folder().join("old"), scratch.folder().join("new"));
        fs::write(&old, "kept").unwrap();
        (scratch, old, new)
    }

    #[test]
    fn an_out_file_that_is_not_written_leaves_all_as_it_was() {
        let (scratch, old, new) = files();

        for path in [&new, &old] {
            drop(OutFile::open(path).unwrap());
        }
        assert!(!new.exists());
        assert_eq!(fs::read(&old).unwrap(), b"kept");

        for path in [&new, &old] {
            OutFile::open(path).unwrap().write(&[]).unwrap();
            assert!(fs::read(path).unwrap().starts_with(b"aircraft,"));
        }
        assert!(OutFile::open(scratch.folder()).is_err());
        assert!(OutFile::open(&scratch.folder().join("no/such")).is_err());
        assert_eq!(fs::read_dir(scratch.folder()).unwrap().count(), 2);
    }

    #[test]
    fn an_out_file_that_is_cut_short_leaves_all_as_it_was() {
        let (scratch, old, new) = files();
        for path in [&new, &old] {
            let written = OutFile::open(path).unwrap().write_with(|mut file| {
                file.write_all(b"cut")?;
                Err(ErrorKind::StorageFull.into())
            });
            assert_eq!(written.unwrap_err().kind(), ErrorKind::StorageFull);
        }
        assert_eq!(fs::read(&old).unwrap(), b"kept");
        assert_eq!(fs::read_dir(scratch.folder()).unwrap().count(), 1);
    }

    #[test]
    fn an_out_file_that_nothing_may_be_beside_is_written_all_the_same() {
        let (scratch, old, _) = files();
        // Not by the folder's permissions, which do not hold for every user.
        let forbidden = Cell::new(true);
        let written = OutFile::open(&old).unwrap().write_with(|mut file| {
            if forbidden.take() {
                return Err(ErrorKind::PermissionDenied.into());
            }
            file.write_all(b"new")
        });
        written.unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"new");
        assert_eq!(fs::read_dir(scratch.folder()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let (scratch, old, new) = files();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        for target in [&old, &new] {
            let link = scratch.folder().join("link");
            symlink(target, &link).unwrap();
            OutFile::open(&link).unwrap().write(&[]).unwrap();
            assert!(link.is_symlink());
            assert!(fs::read(target).unwrap().starts_with(b"aircraft,"));
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::metadata(&old).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
