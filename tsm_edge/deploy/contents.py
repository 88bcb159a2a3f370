"""What is in a folder on a device, and whether it is tsm-edge's to replace.

The manifest there lists what tsm-edge put there; while files are being renamed, :data:`RECORD` does, too.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from tsm_edge.artifact.folder import GOLDEN, LIBRARY, MANIFEST
from tsm_edge.deploy.files import NAMES, DeployFile

# The hashes of files that are getting their names; removed when all have them.
RECORD = ".tsm-edge-files"
# Nobody writes these by hand: where they are not what the manifest lists, they are damaged.
_NEVER_EDITED = (LIBRARY, GOLDEN)


@dataclass(frozen=True)
class Contents:
    """What is in the folder.

    Attributes
    ----------
    hashes : dict of str to str
        SHA-256 of the files with names that tsm-edge uses, by name.
    known : frozenset of str
        SHA-256 of what tsm-edge put there.
    has_manifest : bool
        There is a manifest of tsm-edge's.
    has_record : bool
        tsm-edge was cut off while it renamed files there.
    has_others : bool
        There are files with other names.
    """

    hashes: dict[str, str]
    known: frozenset[str]
    has_manifest: bool
    has_record: bool
    has_others: bool

    def not_ours(self, files: Sequence[DeployFile]) -> str:
        """Why ``files`` must not go there, in words; empty: they may."""
        ours = self.has_manifest or self.has_record
        if self.has_others and not ours:
            return "has files in it and is not a deployed model"
        known = self.known.union(file.sha256 for file in files)
        for name, sha256 in self.hashes.items():
            mendable = (name in _NEVER_EDITED and ours) or (name == MANIFEST and self.has_manifest)
            if name in NAMES and sha256 not in known and not mendable:
                return f"has a file {name} in it that tsm-edge did not put there"
        return ""


def look_script(files: Sequence[DeployFile]) -> str:
    """POSIX shell that tells of the folder it is run in what :func:`read_contents` reads; it changes nothing."""
    names = [*NAMES, *(file.part for file in files)]
    ours = " | ".join(map(shlex.quote, NAMES))
    return (
        f"grep -q '\"tsm_edge\"' {MANIFEST} 2>/dev/null && echo tsm-manifest=yes; "
        f"[ -e {RECORD} ] && echo tsm-record=yes; "
        f"echo \"tsm-known=$(grep -ohE '[0-9a-f]{{64}}' {MANIFEST} {RECORD} 2>/dev/null | tr '\\n' ' ')\"; "
        f'for f in *; do case "$f" in {ours} | "*") ;; *) echo tsm-others=yes ;; esac; done; '
        f'for f in {" ".join(map(shlex.quote, names))}; do [ -f "$f" ] && sha256sum "$f"; done; true'
    )


def read_contents(output: str, answers: dict[str, str]) -> Contents:
    """Read what :func:`look_script` printed; ``answers`` are its ``tsm-NAME=VALUE`` lines."""
    pairs = (line.strip().partition("  ") for line in output.splitlines())
    return Contents(
        hashes={name: digest for digest, _, name in pairs if len(digest) == 64 and name},
        known=frozenset(answers.get("known", "").split()),
        has_manifest=answers.get("manifest") == "yes",
        has_record=answers.get("record") == "yes",
        has_others=answers.get("others") == "yes",
    )
