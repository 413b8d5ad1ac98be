"""Files that a crash leaves either as they were or as they should be."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

__all__ = [
    "MANIFEST",
    "check_manifest",
    "check_writable",
    "locked",
    "remove_folder",
    "replace_file",
    "sync_folder",
    "write_file",
    "write_manifest",
]

MANIFEST = "manifest.json"


def _sync(path: pathlib.Path) -> None:
    """What was written to the file or folder survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: pathlib.Path) -> None:
    """Entries that were made, renamed or removed in the folder survive a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        _sync(path)


def write_file(path: pathlib.Path, content: bytes) -> None:
    """Writes the file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: pathlib.Path, content: bytes) -> None:
    """Writes the file; whoever opens it finds the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.part")
    try:
        write_file(part, content)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def check_writable(path: pathlib.Path, argument: str = "directory") -> None:
    """Makes the folder and tries a file in it: OSError, of the kind that the system gave, if that fails."""
    probe = path / f".probe-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            write_file(probe, b"x" * 4096)  # An empty file fits on a full disk.
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{argument}: nothing can be written there: {reason}", str(path)) from error


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: pathlib.Path) -> None:
    """Brings all files of the folder to the disk, then writes the SHA-256 of each as the last file."""
    digests = {}
    for path in _files(folder):
        _sync(path)
        digests[path.relative_to(folder).as_posix()] = _sha256(path)
    for path in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(path)
    replace_file(folder / MANIFEST, json.dumps({"sha256": digests}, indent=1).encode())


def check_manifest(folder: pathlib.Path) -> str | None:
    """None if every file of the folder is as it was written, else what is wrong."""
    try:
        digests = json.loads((folder / MANIFEST).read_bytes())["sha256"]
        items = sorted(digests.items())
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, digest in items:
        try:
            if _sha256(folder / name) != digest:
                return f"{name} is not as it was written (its SHA-256 differs)"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:
            return f"{name} cannot be read: {error}"
    return None


def remove_folder(path: pathlib.Path) -> None:
    """Removes a checkpoint: first its name, at once, then its files, so that none is left that looks damaged."""
    doomed = path.with_name(f".removed-{path.name}")
    with contextlib.suppress(OSError):
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """One run at a time: RuntimeError if another process, or another run of this one, holds the directory.

    The lock goes with the process, however it ends. Where the file system knows no locks, nothing is checked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (directory / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise RuntimeError(
                f"directory: another run is writing to {directory}"
                f"{f' (process {holder})' if holder else ''}; wait for it, or name another directory"
            ) from None
        except OSError:
            pass
        with contextlib.suppress(OSError):  # The name is for messages only: a full disk is reported elsewhere.
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield
