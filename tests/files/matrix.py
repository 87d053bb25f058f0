"""What is read as a table of numbers, and how: the cases that the tests try and that docs/reading.md shows."""

import datetime
import io
import json
import struct
import zipfile
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

READ = "read"
ROW = np.array([0.25, 0.75])


def npy(content: Any) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        if isinstance(content, bytes):
            (folder / "t.npy").write_bytes(content)
        else:
            np.save(folder / "t.npy", content, allow_pickle=True)
        return "t.npy"

    return write


def header(text: bytes) -> bytes:
    """A .npy file with this header and the numbers of ROW."""
    text += b" " * (118 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + ROW.tobytes()


def npz(change: Callable[[bytes], bytes] = bytes, *, key: str = "r", content: Any = ROW) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        np.savez_compressed(folder / "t.npz", r=content)
        (folder / "t.npz").write_bytes(change((folder / "t.npz").read_bytes()))
        return f"t.npz:{key}"

    return write


def encrypted(archive: bytes) -> bytes:
    """The same bytes with the flag of encryption on every member."""
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = archive.index(sign) + place
        archive = archive[:at] + bytes([archive[at] | 1]) + archive[at + 1 :]
    return archive


def broken(archive: bytes) -> bytes:
    """The same with a byte of the packed numbers turned over."""
    at = archive.index(b"r.npy") + 40
    return archive[:at] + bytes([archive[at] ^ 0xFF]) + archive[at + 1 :]


def huge(folder: Path) -> str:
    """2^28 + 1 zeros of one byte, packed a thousandfold."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|i1", "fortran_order": False, "shape": (2**28 + 1,)})
    with (
        zipfile.ZipFile(folder / "t.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("r.npy", "w") as member,
    ):
        member.write(head.getvalue())
        for _ in range(2**8):
            member.write(bytes(2**20))
        member.write(b"\0")
    return "t.npz:r"


def column(values: Any, kind: Any = None, *, name: str = "r", asked: str | None = None) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        parquet.write_table(pa.table({name: pa.array(values, kind)}), folder / "t.parquet")
        return f"t.parquet:{asked or name}"

    return write


def cut(write: Callable[[Path], str]) -> Callable[[Path], str]:
    def write_cut(folder: Path) -> str:
        named = write(folder)
        path = folder / named.partition(":")[0]
        path.write_bytes(path.read_bytes()[:-9])
        return named

    return write_cut


TABLES: list[tuple[str, Callable[[Path], str], str]] = [
    (".npy of float64", npy(ROW), READ),
    (".npy of float16 or float32", npy(ROW.astype(np.float16)), READ),
    (".npy of long doubles", npy(ROW.astype(np.longdouble)), READ),
    (".npy of another byte order", npy(ROW.astype(">f4")), READ),
    (".npy of integers", npy(np.array([0, 1], np.uint8)), READ),
    (".npy in Fortran's order", npy(np.asfortranarray([ROW])[0]), READ),
    (".npy of booleans", npy(np.array([True, False])), "must hold numbers, found bool values"),
    (".npy of complex numbers", npy(ROW + 0j), "must hold numbers, found complex128 values"),
    (".npy of texts", npy(np.array(["0", "1"])), "must hold numbers, found str"),
    (".npy of bytes", npy(np.array([b"0", b"1"])), "must hold numbers, found bytes"),
    (".npy of durations", npy(ROW.astype("m8[s]")), "must hold numbers, found timedelta64[s] values"),
    (".npy of records", npy(np.array([(0.5,)], [("a", float)])), "must hold numbers, found void64 values"),
    (".npy of objects (a pickle)", npy(np.array([1, None])), "must name a readable .npy file"),
    (".npy without axes", npy(np.array(1.0)), "must have one or two axes that are not empty, found shape []"),
    (".npy with three axes", npy(np.zeros((1, 1, 2))), "must have one or two axes that are not empty"),
    (".npy without numbers", npy(np.zeros((0,))), "must have one or two axes that are not empty, found shape [0]"),
    (".npy that is empty", npy(b""), "must name a readable .npy file"),
    (".npy that is cut", cut(npy(ROW)), "must name a readable .npy file"),
    (".npy with a header that is none", npy(header(b"{'descr': '<f8', 'shape': ")), "must name a readable .npy file"),
    (".npy with a header that is no mapping", npy(header(b"[1, 2]")), "must name a readable .npy file"),
    (
        ".npy with a header of 10^15 numbers",
        npy(header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }")),
        "must name a readable .npy file",
    ),
    (
        ".npy with a negative length",
        npy(header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-2,), }")),
        "must name a readable .npy file",
    ),
    (
        ".npy of an unknown type",
        npy(header(b"{'descr': '<q9', 'fortran_order': False, 'shape': (2,), }")),
        "must name a readable .npy file",
    ),
    (".npz, one key of it", npz(), READ),
    (".npz without the key", npz(key="s"), "must name a key that exists once ('s' was asked for), found 'r'"),
    (".npz with the wrong bytes in it", npz(broken), "must name a readable .npz file"),
    (".npz that is encrypted", npz(encrypted), "must name a readable .npz file"),
    (".npz that is cut", cut(npz()), "must name a readable .npz file"),
    (".npz that unpacks to more than 256 MiB and twenty times its size", huge, "must be at most 268435456 bytes"),
    (".npz that is no archive", npz(lambda archive: b"\x93NUMPY" + archive[9:99]), "must name a readable .npz file"),
    (".parquet column of floats or integers", column([0, 1], pa.int8()), READ),
    (".parquet column of lists", column([[0.25, 0.75]]), READ),
    (".parquet column of large lists", column([[0.25, 0.75]], pa.large_list(pa.float32())), READ),
    (".parquet column of lists of fixed size", column([[0.25, 0.75]], pa.list_(pa.float64(), 2)), READ),
    (".parquet column whose name has a dot", column([0.25, 0.75], name="a.b"), READ),
    (".parquet column without rows", column([], pa.float64()), "must hold at least one row, found none"),
    (".parquet lists without rows", column([], pa.list_(pa.float64())), "must hold at least one row, found none"),
    (".parquet lists that are empty", column([[], []], pa.list_(pa.float64())), "must have one or two axes"),
    (".parquet with a null", column([0.5, None]), "must hold no nulls, found one"),
    (".parquet with a null in a list", column([[0.5, None]]), "must hold no nulls, found one"),
    (".parquet lists of lists of lists", column([[[0.5]]]), "must hold numbers or lists of numbers"),
    (".parquet column of texts", column(["0", "1"]), "must hold numbers, found object values"),
    (".parquet column of decimals", column([Decimal("0.5")]), "must hold numbers, found object values"),
    (
        ".parquet column of durations",
        column([datetime.timedelta(1)]),
        "must hold numbers, found timedelta64[us] values",
    ),
    (
        ".parquet without the column",
        column([0.5], asked="s"),
        "must name a column that exists once ('s' was asked for)",
    ),
    (".parquet that is cut", cut(column([0.25, 0.75])), "must name a readable .parquet file"),
    ("a name of 300 letters", lambda folder: "a" * 300 + ".npy", "must name a readable .npy file"),
    ("a name with a null character", lambda folder: "a\0.npy", "must name a file that exists"),
    ("a folder", lambda folder: (folder / "t.npy").mkdir() or "t.npy", "must name a file, found a folder"),  # type: ignore[func-returns-value]
    ("nothing", lambda folder: "t.npy", "must name a file that exists"),
    ("another ending", lambda folder: "t.csv", "must be FILE.npy, FILE.npz:KEY or FILE.parquet:COLUMN"),
]
"""A file that a game names as a table: what it is, how it is written, and what happens."""

ARRAYS: list[tuple[str, Any, str]] = [
    ("lists and tuples of Python numbers", [1, 0.5], READ),
    ("numpy arrays of integers, floats, booleans (1 and 0)", np.array([True, False]), READ),
    ("numpy numbers in a list", [np.float32(0.5), np.int8(1)], READ),
    ("fractions and decimals", [Fraction(1, 2), Decimal("0.25")], READ),
    ("masked arrays without a masked entry", np.ma.array([1.0, 2.0]), READ),
    ("masked arrays", np.ma.array([1.0, 2.0], mask=[True, False]), "got a masked array: fill its masked entries first"),
    ("lists with a masked entry", [np.ma.masked, 1.0], "got a masked array: fill its masked entries first"),
    ("complex numbers, imaginary part 0 or not", np.array([1.0 + 0j, 2.0]), "got complex numbers"),
    ("a Python complex number", [1j, 1.0], "got complex numbers"),
    ("texts of digits", ["1", "2"], "got texts"),
    ("a text among numbers", [1.0, "2"], "got texts"),
    ("bytes", [b"1", b"2"], "got bytes"),
    ("bytes in a row", b"12", "got bytes"),
    ("bytearrays", [bytearray(b"12")], "got bytearray"),
    ("durations", np.array([1, 2], "m8[s]"), "got durations"),
    ("Python's durations", [datetime.timedelta(1), 2], "got datetime.timedelta(days=1) at [0]"),
    ("dates", np.array(["2020-01-01", "2020-01-02"], "M8[D]"), "got dates"),
    ("None", [1.0, None], "got None at [1]"),
    ("records", np.array([(1.0,), (2.0,)], [("a", float)]), "got values of type"),
    ("sets and mappings", {1.0, 2.0}, "got {1.0, 2.0}"),
    ("integers that float64 cannot hold", [10**400, 1], "must be numbers that float64 can hold"),
    ("NaN", [float("nan"), 1.0], "must be finite, got nan at [0]"),
    ("infinity", [1.0, float("inf")], "must be finite, got inf at [1]"),
    ("lists of several lengths where one is wanted", [[1.0], [1.0, 2.0]], "must be numbers in a rectangular list"),
]
"""An array that Python hands over as a reward of two outcomes: what it is, and what happens."""

GAME = json.dumps({"reference": [0.5, 0.5], "strength": 1, "groups": [{"name": "a", "reward": [1, 0]}]})
DOCUMENTS: list[tuple[str, str, bytes, str]] = [
    ("UTF-8 with a byte order mark", "g.json", b"\xef\xbb\xbf" + GAME.encode(), READ),
    ("the same in lines", "g.jsonl", b"\xef\xbb\xbf" + GAME.encode() + b"\n", READ),
    ("lines that end with a carriage return", "g.jsonl", GAME.encode() + b"\r\n" + GAME.encode() + b"\r\n", READ),
    ("an empty last line, or several", "g.jsonl", GAME.encode() + b"\n\n \n", READ),
    ("an empty line in between", "g.jsonl", GAME.encode() + b"\n\n" + GAME.encode(), "line 2: must be a JSON document"),
    ("UTF-16", "g.json", GAME.encode("utf-16"), "must be UTF-8 text, found byte 0xff"),
    ("half of a surrogate pair", "g.json", GAME.replace('"a"', r'"\ud800"').encode(), "groups[0].name: must be text"),
    ("half of one in a key", "g.json", GAME.replace("{", r'{"\udc00": 1, ', 1).encode(), "must be text, found half"),
    ("half of one in YAML", "g.yaml", GAME.replace('"a"', r'"\ud800"').encode(), "must be"),
    ("a whole surrogate pair", "g.json", GAME.replace('"a"', r'"\ud83d\ude00"').encode(), READ),
    ("an integer of 401 digits", "g.json", GAME.replace("0.5", "1" + "0" * 400, 1).encode(), "reference[0]: must be"),
    ("an integer of 351 digits", "g.yaml", GAME.replace("0.5", "1" + "0" * 350, 1).encode(), "reference[0]: must be"),
]
"""A game file: what it is, its name, its bytes, and what happens."""
