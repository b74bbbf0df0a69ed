//! The flights file as bytes: lines, columns, and what a row is.

use crate::miles::Miles;
use std::fmt;
use std::io::{self, BufRead};

/// One line of the file that is neither the header nor empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Row<'a> {
    Leg {
        aircraft: &'a [u8],
        departed: bool,
        miles: Miles,
        line: &'a [u8],
    },
    /// Nobody flew it, so it is a command to nobody.
    NoAircraft,
    /// The reason, for a person to read.
    Malformed(String),
}

/// The rows of a file, read as they are asked for.
#[derive(Debug)]
pub(crate) struct Rows<R> {
    lines: Lines<R>,
    columns: Columns,
}

impl<R: BufRead> Rows<R> {
    /// Reads the header.
    pub(crate) fn new(input: R) -> Result<Self, HeaderError> {
        let mut lines = Lines { input, line: Vec::new(), number: 0, bytes: 0 };
        if !lines.advance().map_err(HeaderError::Unreadable)? {
            return Err(HeaderError::Empty);
        }
        // Some programs put a byte order mark in front, which is no part of a name.
        let header = lines.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&lines.line);
        // Of lines that end in a CR alone, all would be one header, and the file have no rows.
        if header.contains(&b'\r') {
            return Err(HeaderError::CarriageReturn);
        }
        let columns = Columns::find(header)?;
        Ok(Self { lines, columns })
    }

    /// The next row, `None` at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Row<'_>>> {
        while self.lines.advance()? {
            if !self.lines.line.is_empty() {
                return Ok(Some(self.columns.row(&self.lines.line)));
            }
        }
        Ok(None)
    }

    /// The number of the line that `next` has just given: the header is line 1, and empty lines
    /// count.
    pub(crate) fn line_number(&self) -> u64 {
        self.lines.number
    }

    /// How much of the file has been read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.lines.bytes
    }
}

#[derive(Debug)]
struct Lines<R> {
    input: R,
    /// The current line without its end.
    line: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    /// Whether there was one more line.
    fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.bytes += self.input.read_until(b'\n', &mut self.line)? as u64;
        if self.line.is_empty() {
            return Ok(false);
        }
        self.number += 1;
        // A CR is part of a line's end only in front of an LF; anywhere else it is data.
        if self.line.ends_with(b"\n") {
            self.line.pop();
            if self.line.ends_with(b"\r") {
                self.line.pop();
            }
        }
        Ok(true)
    }
}

/// Where the columns stand that matter here. Of two with one name, it is the first.
#[derive(Debug)]
struct Columns {
    count: usize,
    aircraft: usize,
    distance: usize,
    departure: usize,
}

impl Columns {
    fn find(header: &[u8]) -> Result<Self, HeaderError> {
        let names: Vec<&[u8]> = fields(header).collect();
        let column = |name: &'static str| {
            let found = names.iter().position(|n| *n == name.as_bytes());
            found.ok_or(HeaderError::Missing(name))
        };
        Ok(Self {
            count: names.len(),
            aircraft: column("tailnum")?,
            distance: column("distance")?,
            departure: column("dep_time")?,
        })
    }

    fn row<'a>(&self, line: &'a [u8]) -> Row<'a> {
        let count = fields(line).count();
        if count != self.count {
            return Row::Malformed(format!("{count} columns where the header has {}", self.count));
        }
        let field = |index| fields(line).nth(index).unwrap_or_default();
        let aircraft = field(self.aircraft);
        if is_missing(aircraft) {
            return Row::NoAircraft;
        }
        let distance = field(self.distance);
        match Miles::parse(distance) {
            Some(miles) => {
                Row::Leg { aircraft, departed: !is_missing(field(self.departure)), miles, line }
            }
            None => Row::Malformed(format!(
                "distance \"{}\" is not a number in ASCII digits",
                distance.escape_ascii()
            )),
        }
    }
}

/// There is no quoting: a comma always ends a field.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',')
}

fn is_missing(field: &[u8]) -> bool {
    field.is_empty() || field == b"NA"
}

/// Why a file is not one of flights.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Unreadable(io::Error),
    Empty,
    CarriageReturn,
    Missing(&'static str),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "can't be read: {error}"),
            Self::Empty => f.write_str("is empty: line 1 must be a header that names the columns"),
            Self::CarriageReturn => {
                f.write_str("has a CR inside of its header, line 1: lines must end in LF or CRLF")
            }
            Self::Missing(name) => write!(
                f,
                "has no column '{name}' in its header, line 1: \
                 tailnum, distance and dep_time are needed, separated by commas, without quotes"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row with its line number, in words.
    fn read(file: &[u8]) -> Vec<(u64, String)> {
        let mut rows = Rows::new(file).unwrap();
        let mut seen = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let words = match row {
                Row::Leg { aircraft, departed, miles, line } => format!(
                    "{} {} {miles} [{}]",
                    aircraft.escape_ascii(),
                    if departed { "flew" } else { "stayed" },
                    line.escape_ascii()
                ),
                Row::NoAircraft => "nobody".to_owned(),
                Row::Malformed(reason) => reason,
            };
            seen.push((rows.line_number(), words));
        }
        assert_eq!(rows.bytes_read(), file.len() as u64);
        seen
    }

    fn refused(file: &[u8]) -> String {
        Rows::new(file).unwrap_err().to_string()
    }

    const HEADER: &str = "dep_time,tailnum,distance\n";

    /// The only row of a file with that line.
    fn row(line: &str) -> String {
        let mut rows = read(format!("{HEADER}{line}").as_bytes());
        assert_eq!(rows.len(), 1);
        rows.remove(0).1
    }

    #[test]
    fn columns_are_found_by_name() {
        let rows = read(b"x,distance,y,tailnum,dep_time\na,10,b,N1,517\n");
        assert_eq!(rows, [(2, "N1 flew 10 [a,10,b,N1,517]".to_owned())]);
    }

    #[test]
    fn a_header_without_a_needed_column_is_refused() {
        assert!(refused(b"").contains("is empty"));
        assert!(refused(b"\n").contains("'tailnum'"));
        assert!(refused(b"dep_time,distance\n").contains("'tailnum'"));
        assert!(refused(b"tailnum,dep_time").contains("'distance'"));
        assert!(refused(b"tailnum,distance, dep_time").contains("'dep_time'"));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_header() {
        let rows = read(b"\xef\xbb\xbftailnum,distance,dep_time\nN1,2,1\n");
        assert_eq!(rows, [(2, "N1 flew 2 [N1,2,1]".to_owned())]);
    }

    #[test]
    fn lines_that_end_in_a_cr_alone_are_refused() {
        assert!(refused(b"tailnum,distance,dep_time,x\rN1,2,1,y\r").contains("a CR inside"));
        assert!(refused(b"tailnum,distance,dep_time\r\r\nN1,2,1\r\r\n").contains("a CR inside"));
    }

    #[test]
    fn lines_end_in_lf_or_crlf_and_the_last_in_nothing() {
        let file = b"dep_time,tailnum,distance\r\n1,N1,2\r\n3,N2,4\n5,N3,6";
        let rows = read(file);
        assert_eq!(rows[0], (2, "N1 flew 2 [1,N1,2]".to_owned()));
        assert_eq!(rows[1], (3, "N2 flew 4 [3,N2,4]".to_owned()));
        assert_eq!(rows[2], (4, "N3 flew 6 [5,N3,6]".to_owned()));
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn a_carriage_return_elsewhere_is_data() {
        assert_eq!(row("1,N\r1,2\n"), "N\\r1 flew 2 [1,N\\r1,2]");
        assert_eq!(row("1,N1,2\r\r\n"), "distance \"2\\r\" is not a number in ASCII digits");
    }

    #[test]
    fn empty_lines_are_skipped_and_counted() {
        let rows = read(b"dep_time,tailnum,distance\n\n\r\n1,N1,2\n\n");
        assert_eq!(rows, [(4, "N1 flew 2 [1,N1,2]".to_owned())]);
    }

    #[test]
    fn bytes_need_not_be_text() {
        let rows = read(b"dep_time,tailnum,distance\n\xff,N\xfe\x00,2\n");
        assert_eq!(rows[0].1, "N\\xfe\\x00 flew 2 [\\xff,N\\xfe\\x00,2]");
    }

    #[test]
    fn the_rules_apply_in_their_order() {
        assert_eq!(row("1,NA,x,\n"), "4 columns where the header has 3");
        assert_eq!(row("1,N1\n"), "2 columns where the header has 3");
        assert_eq!(row("1,,x\n"), "nobody");
        assert_eq!(row("NA,NA,\n"), "nobody");
        assert_eq!(row("NA,N1,\n"), "distance \"\" is not a number in ASCII digits");
        assert_eq!(row("1,N1,NA\n"), "distance \"NA\" is not a number in ASCII digits");
        assert_eq!(row("NA,N1,2\n"), "N1 stayed 2 [NA,N1,2]");
        assert_eq!(row(",N1,2\n"), "N1 stayed 2 [,N1,2]");
        assert_eq!(row("\"\",N1,2\n"), "N1 flew 2 [\\\"\\\",N1,2]");
    }

    #[test]
    fn a_distance_may_have_any_number_of_digits() {
        let long = "9".repeat(80);
        assert!(row(&format!("1,N1,{long}\n")).starts_with(&format!("N1 flew {long} ")));
    }
}
