#!/usr/bin/env python3
"""What `flights --out` must write for a file, found by one plain pass from its first line to its last.

    python3 expected.py flights-2013-01.csv > expected.csv

It shares no code with the example and knows nothing of shards, workers or stores: it is the other opinion.
"""

import sys

OFFSET_BASIS = 0xCBF29CE484222325
PRIME = 0x100000001B3


def fnv1a(state, data):
    for byte in data:
        state = (state ^ byte) * PRIME % 2**64
    return state


def lines(file):
    """The lines without their ends: LF or CRLF, the last one may have none."""
    for line in file:
        yield line.removesuffix(b"\r\n" if line.endswith(b"\r\n") else b"\n")


def main(path):
    fleet = {}  # aircraft -> [legs, rejected, miles, digest]
    with open(path, "rb") as file:
        rows = lines(file)
        header = next(rows).removeprefix(b"\xef\xbb\xbf").split(b",")
        tailnum, distance, dep_time = map(header.index, (b"tailnum", b"distance", b"dep_time"))
        for line in rows:
            if not line:
                continue
            fields = line.split(b",")
            if len(fields) != len(header):
                continue
            if fields[tailnum] in (b"", b"NA"):
                continue
            if not fields[distance].isdigit():
                continue
            aircraft = fleet.setdefault(fields[tailnum], [0, 0, 0, OFFSET_BASIS])
            if fields[dep_time] in (b"", b"NA"):
                aircraft[1] += 1
            else:
                aircraft[0] += 1
                aircraft[2] += int(fields[distance])
                aircraft[3] = fnv1a(aircraft[3], line + b"\n")

    out = sys.stdout.buffer
    out.write(b"aircraft,version,legs,rejected,miles,digest\n")
    for name, (legs, rejected, miles, digest) in sorted(fleet.items()):
        out.write(b"%s,%d,%d,%d,%d,%016x\n" % (name, legs, legs, rejected, miles, digest))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: expected.py FILE.csv > expected.csv")
    main(sys.argv[1])
