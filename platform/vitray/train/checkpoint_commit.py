"""The commit record: the last file of a checkpoint, with the checksums of the others and, at its end, of itself.

A record that was torn or changed is none. It may therefore be written in place; nothing is renamed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.train.checkpoint_files import Written, shown
from vitray.train.checkpoint_names import COMMIT, Name

_END = re.compile(r',"sha256":"([0-9a-f]{64})"\}\n$')


@dataclass(frozen=True)
class Commit:
    """``files`` by name; ``score``: of the validation that was made with these weights, the greater the better."""

    files: Mapping[str, Written] = field(default_factory=dict)
    score: float | None = None

    def encode(self) -> bytes:
        values = {"format": 2, "score": self.score, "files": {n: asdict(w) for n, w in sorted(self.files.items())}}
        text = json.dumps(values, separators=(",", ":"))[:-1]
        return f'{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()

    @classmethod
    def decode(cls, data: bytes) -> Commit | None:
        """None where it is not what was written."""
        try:
            text = data.decode()
            found = _END.search(text)
            if found is None:
                return _first_format(json.loads(text))
            text = text[: found.start()]
            if hashlib.sha256(text.encode()).hexdigest() != found[1]:
                return None
            values = json.loads(text + "}")
            return cls({name: Written(**facts) for name, facts in values["files"].items()}, values["score"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def _first_format(record: Any) -> Commit | None:
    """Of vitray 0.1: the digest of what is said of the files, which has no sizes."""
    files = record["files"]
    if record["sha256"] != hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest():
        return None
    return Commit({str(name): Written(str(digest), -1) for name, digest in files.items()})


def read_commit(folder: Folder, name: Name) -> Commit:
    """The commit record of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or is gone.
        STORAGE_ERRORS: it cannot be read.
    """
    data = folder.read(f"{name.text}/{COMMIT}")
    commit = None if data is None else Commit.decode(data)
    if commit is None:
        raise CheckpointError("the commit record is missing or damaged", where=f"{shown(folder)}/{name.text}")
    return commit
