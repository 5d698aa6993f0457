"""Zips as nobody should make them."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from collections.abc import Callable


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these members."""
    return listed(list(members.items()), compression)


def listed(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these members, in which a name may stand twice."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as zipped, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is, whatever the system's separator
            info.compress_type = compression
            zipped.writestr(info, data)
    return made.getvalue()


def special(name: str, kind: int, data: bytes = b"/etc/passwd") -> bytes:
    """A zip whose one member is of a kind that no file is: `stat.S_IFLNK`, `stat.S_IFIFO`."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as zipped:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = (kind | 0o777) << 16
        zipped.writestr(info, data)
    return made.getvalue()


def patched(made: bytes, local: int, central: int, value: bytes) -> bytes:
    """`made` with `value` at an offset into its first local header, and at one into its first entry of the directory."""
    changed = bytearray(made)
    changed[local : local + len(value)] = value
    at = made.index(b"PK\x01\x02") + central
    changed[at : at + len(value)] = value
    return bytes(changed)


def encrypted(made: bytes) -> bytes:
    """`made`, whose first member says that it is encrypted."""
    return patched(made, 6, 8, b"\x01\x00")


def lying(made: bytes, size: int) -> bytes:
    """`made`, whose first member says that it unpacks to `size` bytes."""
    return patched(made, 22, 24, size.to_bytes(4, "little"))


ONE = archive({"a.txt": b"hello"})
#: What is refused, and with which word.
HOSTILE: list[tuple[str, Callable[[], bytes], str]] = [
    ("no zip", lambda: b"PK\x03\x04 but no more", "cannot be read"),
    ("cut short", lambda: ONE[:-10], "cannot be read"),
    ("cut in its directory", lambda: ONE[:60] + ONE[-22:], "cannot be read"),
    ("damaged", lambda: patched(ONE, 14, 16, bytes(4)), "cannot be read"),
    ("up", lambda: archive({"../a.txt": b"x"}), "lead out"),
    ("up from within", lambda: archive({"a/../../b.txt": b"x"}), "lead out"),
    ("absolute", lambda: archive({"/etc/cron.d/x": b"x"}), "lead out"),
    ("a drive", lambda: archive({"C:/a.txt": b"x"}), "lead out"),
    ("a backslash", lambda: archive({"..\\a.txt": b"x"}), "lead out"),
    ("a folder that leads out", lambda: archive({"../": b"", "a.txt": b"x"}), "lead out"),
    ("control characters", lambda: archive({"a\x1b[2J.txt": b"x"}), "no path"),
    ("a long path", lambda: archive({"x" * 501: b"x"}), "no path"),
    ("a link", lambda: special("a.txt", stat.S_IFLNK), "a link"),
    ("a pipe", lambda: special("a.txt", stat.S_IFIFO), "a link"),
    ("encrypted", lambda: encrypted(ONE), "which is encrypted"),
    ("another compression", lambda: archive({"a.txt": b"x"}, zipfile.ZIP_BZIP2), "neither stored nor deflated"),
    ("twice", lambda: listed([("a.txt", b"1"), ("a.txt", b"2")]), "twice"),
    ("many members", lambda: archive({f"{i}.txt": b"" for i in range(10_001)}, zipfile.ZIP_STORED), "members"),
    (
        "a large directory",
        lambda: archive({f"{i:0450}": b"" for i in range(9_000)}, zipfile.ZIP_STORED),
        "directory is over",
    ),
    ("a bomb", lambda: archive({"a.txt": bytes(51_000_000)}), "unpacks to over"),
    ("a bomb of many", lambda: archive({f"{i}.txt": bytes(1_000_000) for i in range(51)}), "unpacks to over"),
    ("a bomb that says it is small", lambda: lying(archive({"a.txt": bytes(51_000_000)}), 10), "cannot be read"),
]
