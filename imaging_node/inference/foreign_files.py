"""The files of a foreign bundle as they lie, what among them is code, and the hash to trust.

Nothing here evaluates, imports or unpickles anything.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imaging_node.domain.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_FILES: Final = 5_000
MOST_BYTES: Final = 8 * 2**30
MOST_CONFIG_BYTES: Final = 8 * 2**20

_CHUNK_BYTES: Final = 2**20
_CODE_SUFFIXES: Final = frozenset({".py", ".so", ".pyd", ".pyc", ".sh"})
_CONFIG_SUFFIXES: Final = frozenset({".json", ".yaml", ".yml"})
_EXPRESSION: Final = re.compile(r"""["']?\$[^"\n]+|["']?_target_["']?\s*:\s*["']?[\w.]+""")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class UntrustedCodeError(BundleError):
    """A foreign bundle is code that nobody on this site has taken responsibility for.

    Attributes:
        trust_hash: What an operator who read the bundle hands to `--trust-code`.
    """

    def __init__(self, sentence: str, *, trust_hash: str) -> None:
        super().__init__(sentence)
        self.trust_hash = trust_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFiles:
    """Every file of a bundle but hidden ones and `__pycache__`, which are never taken over.

    Attributes:
        directory: Where they lie.
        hashes: SHA-256 by POSIX path, 64 hex digits each.
    """

    directory: Path
    hashes: Mapping[str, str]

    @property
    def trust_hash(self) -> str:
        """SHA-256 over the sorted paths and hashes of all files, 64 hex digits."""
        return trust_hash_of(self.hashes)

    @property
    def code(self) -> tuple[str, ...]:
        """Files that Python or a shell could run."""
        return tuple(name for name in self.hashes if _suffix(name) in _CODE_SUFFIXES)

    @property
    def expressions(self) -> int:
        """How many `$` expressions and `_target_` names its configurations have."""
        return sum(
            len(_EXPRESSION.findall(self.text(name)))
            for name in self.hashes
            if _suffix(name) in _CONFIG_SUFFIXES and name.startswith("configs/")
        )

    def text(self, name: str) -> str:
        """One configuration file.

        Raises:
            BundleError: It is missing, too large, or no text.
        """
        if name not in self.hashes:
            raise refused(self.directory, name, "is missing")
        path = self.directory / name
        try:
            if path.stat().st_size > MOST_CONFIG_BYTES:
                raise refused(self.directory, name, f"is larger than {MOST_CONFIG_BYTES} bytes")
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise refused(self.directory, name, "cannot be read as text") from error

    def content(self, name: str) -> bytes:
        """Bytes of one file, the very ones that were hashed.

        Raises:
            BundleError: It was changed since, or cannot be read.
        """
        try:
            content = (self.directory / name).read_bytes()
        except OSError as error:
            raise refused(self.directory, name, "cannot be read") from error
        if hashlib.sha256(content).hexdigest() != self.hashes[name]:
            raise refused(self.directory, name, "changed while it was read")
        return content

    def require_trust(self, trust_code: str | None) -> None:
        """Refuse to go on unless exactly these bytes were trusted.

        Raises:
            UntrustedCodeError: No hash was given, or another one.
        """
        if trust_code == self.trust_hash:
            return
        scripts = ", ".join(_printable(name) for name in self.code[:10]) or "no scripts"
        more = f" and {len(self.code) - 10} more" if len(self.code) > 10 else ""  # noqa: PLR2004 - as listed
        found = "" if trust_code is None else " The hash that was given is that of other files."
        raise UntrustedCodeError(
            f"bundle {_printable(self.directory.name)} is code: {self.expressions} expressions and"
            f" targets in its configurations; {scripts}{more}.{found} It would run in a process"
            " of its own without network, with its results checked; read it, and if you answer"
            f" for it, repeat with --trust-code {self.trust_hash}",
            trust_hash=self.trust_hash,
        )


def read_foreign_files(directory: Path, *, is_installed: bool = False) -> ForeignFiles:
    """Hash every file of a bundle.

    Args:
        is_installed: Leave nothing out: a compiled file beside a script would be run for it.

    Raises:
        BundleError: It is no folder, holds links or devices, or is larger than allowed.
    """
    if directory.is_symlink() or not directory.is_dir():
        raise refused(directory, ".", "is not a folder; check the path")
    hashes: dict[str, str] = {}
    total_bytes = 0
    for path in _walk(directory, is_all=is_installed):
        name = path.relative_to(directory).as_posix()
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise refused(directory, name, "is a link or device; a bundle holds plain files")
        total_bytes += status.st_size
        if len(hashes) >= MOST_FILES or total_bytes > MOST_BYTES:
            raise refused(directory, name, f"is beyond {MOST_FILES} files or {MOST_BYTES} bytes")
        hashes[name] = sha256_of(path)
    return ForeignFiles(directory=directory, hashes=dict(sorted(hashes.items())))


def trust_hash_of(hashes: Mapping[str, str]) -> str:
    """SHA-256 over a canonical list of files, 64 hex digits."""
    listed = json.dumps(sorted(hashes.items()), separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(listed.encode("ascii")).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of one file, 64 hex digits.

    Raises:
        BundleError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"a file of bundle {path.parent.name} cannot be read") from error
    return digest.hexdigest()


def is_sha256(text: object) -> bool:
    """True for 64 hex digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def refused(directory: Path, file: str, fault: str) -> BundleError:
    """Why a bundle is not taken, in one line whatever its files are called."""
    return BundleError(
        f"bundle {_printable(directory.name)}: {_printable(file)}: {' '.join(fault.split())}"
    )


def _walk(directory: Path, *, is_all: bool) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if not is_all and (path.name.startswith(".") or path.name == "__pycache__"):
            continue
        if stat.S_ISDIR(path.lstat().st_mode):
            yield from _walk(path, is_all=is_all)
        else:
            yield path


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2].lower() if "." in name else ""


def _printable(name: str) -> str:
    return ascii(name)[1:-1]
