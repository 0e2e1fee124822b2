"""data.json: which images a run has seen, so that a later start notices that they changed."""

import dataclasses
import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from dino_jax.data.sources.base import Contents
from dino_jax.data.sources.contents import describe_change, keep, read_kept
from dino_jax.workdir.layout import DATA_JSON, DATA_NAMES
from dino_jax.workdir.paths import absolute_path, write_atomically
from dino_jax.workdir.side_files import DAMAGE, DamagedFileError, read_side_file, require_regular

OPTION = "config.runtime.accept_data"


class DataRecord:
    """The images of a run, by the name of their section; process 0 keeps it.

    lines = record.check(contents)   before anything is written
    record.write()                   once the start is sure
    """

    def __init__(self, workdir: epath.PathLike, accept: str):
        """Reads data.json.

        Args:
          workdir: workdir of the run, which need not exist.
          accept: digests of changed images with which the run may go on, joined by "+".
        """
        self._folder, self._accept = absolute_path(workdir), accept
        self._known = read_side_file(
            self._folder / DATA_JSON, _parse, {}, so="the images are noted again"
        )
        self._now: dict[str, Contents] = {}

    def check(self, contents: Mapping[str, Contents], resumes: bool) -> list[str]:
        """Compares the images of some sections with those of the last start.

        Args:
          contents: contents by name of the section.
          resumes: whether the workdir has a checkpoint.

        Returns:
          Lines for the screen.

        Raises:
          ValueError: if the run resumes, they have changed, and `accept` does not name them.
        """
        self._now |= contents
        lines, damage = [], []
        for where, now in contents.items():
            digest, known = now.digest, self._known.get(where)
            if known is None:
                if resumes:
                    lines.append(f"data        {where} is noted now for the first time ({digest})")
            elif known["digest"] != digest:
                change = self._describe(where, now)
                if not resumes:
                    lines.append(
                        f"data        {change}; there is no checkpoint yet, so the run begins with "
                        f"them ({digest})"
                    )
                elif digest in self._accept.split("+"):
                    lines.append(f"DATA CHANGED {change}; {OPTION} lets the run go on")
                else:
                    damage.append((digest, change))
        if damage:
            accept = "+".join([*filter(None, [self._accept]), *(digest for digest, _ in damage)])
            raise ValueError(
                f"the images of workdir {self._folder} have changed since its last start:\n"
                + "\n".join(f"  {change}" for _, change in damage)
                + "\nThe run would not be the one that began: the order of the images is another "
                "one, and so is its length if config.steps_per_epoch is 0. Restore the images, or "
                f"use a new --workdir, or go on with the changed ones: --{OPTION}={accept}"
            )
        return lines

    def write(self) -> None:
        """Keeps what `check` has seen."""
        plain = {
            where: {"images": now.images, "digest": now.digest} for where, now in self._now.items()
        }
        for where, now in self._now.items():
            if self._known.get(where, {}).get("digest") != plain[where]["digest"]:
                self._write_names(plain[where]["digest"], now)
        if plain != self._known:
            text = json.dumps(self._known | plain, indent=1, sort_keys=True) + "\n"
            write_atomically(self._folder / DATA_JSON, text)

    def _write_names(self, digest: str, contents: Contents) -> None:
        """A file that is named after its content is written once, whole or damaged."""
        path = _names_file(self._folder, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(keep(contents)))
        path.write_bytes(gzip.compress(text.encode(), compresslevel=3))

    def _describe(self, where: str, now: Contents) -> str:
        known = self._known[where]
        counts = f"{where}: {known['images']:,} images then, {now.images:,} now"
        names = _names_file(self._folder, known["digest"])
        try:
            require_regular(names)
            plain = json.loads(gzip.decompress(names.read_bytes()))
            return f"{counts}; {describe_change(read_kept(plain), now)}"
        except (EOFError, zlib.error, *DAMAGE):  # lost or damaged
            return counts


def _names_file(folder: epath.Path, digest: str) -> epath.Path:
    return folder / DATA_NAMES / f"{digest}.json.gz"


def _parse(text: str) -> dict[str, Any]:
    plain = json.loads(text)
    for known in plain.values():
        if not isinstance(known["images"], int) or not isinstance(known["digest"], str):
            raise DamagedFileError(f"{known} is no record of images")
    return plain
