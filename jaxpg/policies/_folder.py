"""A folder of files that is there as a whole or not at all."""

import os
import pathlib
import shutil
import uuid
from collections.abc import Mapping

__all__ = ["write_folder"]


def write_folder(path: pathlib.Path, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Writes the files beside `path` and renames the folder when they are on disk."""
    taken = path.is_symlink() or path.exists()
    if taken and not path.is_dir():
        raise ValueError(f"path must be a new folder, or one that holds a saved policy; {path} is a file")
    held = {entry.name for entry in path.iterdir()} if taken else set()
    if held - set(files):
        raise ValueError(f"path must be a new folder, or one that holds a saved policy; {path} holds {min(held)!r}")
    if held and not overwrite:
        raise ValueError(f"path: {path} holds a saved policy already; name another folder, or pass overwrite=True")
    target = path.resolve()  # A link keeps pointing where it did.
    target.parent.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex[:12]
    new, old = (target.with_name(f".{target.name}.{name}.{end}") for end in ("new", "old"))
    try:
        new.mkdir()
        for file, content in files.items():
            with (new / file).open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        if not taken:
            os.rename(new, target)
            return
        os.rename(target, old)
        try:
            os.rename(new, target)
        except BaseException:
            os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
