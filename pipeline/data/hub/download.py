"""Dataset repositories of the hub: resolved once, every file verified, trouble waited out, downloads shared."""

import functools
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from huggingface_hub import HfApi
from huggingface_hub import try_to_load_from_cache as hf_cached
from huggingface_hub.hf_api import RepoFile

from pipeline.cache import cache_folder
from pipeline.config import DataConfig
from pipeline.data.hub.http import ATTEMPTS, Refused, WrongContent, download, endpoint, persist
from pipeline.data.order import permute
from pipeline.data.sources import SourceFile
from pipeline.entries.texts import kind_of, require_readable, suffixes
from pipeline.errors import RequestError
from pipeline.files import locked
from pipeline.sealed import read_sealed, write_sealed

# ---------------------------------------------------------------------------------------------------------------------
# Which files


def hub_source(config: DataConfig) -> "HubSource":
    """The files of `config.repo` at `config.revision` that match `config.files`, in the order of `config.file_seed`.

    The first call on a machine resolves the revision to a commit and lists its files; the listing stays in the cache,
    and later calls use it without network, so that all runs of a study read one commit. Raises `RequestError` where the
    repository, the revision or matching files do not exist or may not be read, `OSError` where the hub is in trouble.
    """
    listing = _listing(config.repo, config.revision)
    entries = sorted(tuple(entry) for entry in listing["files"])
    try:
        chosen = [entry for entry in entries if _matches(entry[0], config.files)]
    except re.error as error:
        raise RequestError(f"--data.files {config.files!r} is not a glob: {error.msg}") from None
    if not chosen:
        example = f"it has, for example, {entries[0][0]}" if entries else "it is empty"
        raise RequestError(f"no file of {config.repo} matches --data.files {config.files!r}: {example}")
    require_readable([entry[0] for entry in chosen], config.kind, config.text_field)
    order = permute(np.arange(len(chosen)), len(chosen), key=config.file_seed)
    files = tuple(SourceFile(name, size, sha256) for name, size, sha256, _ in (chosen[i] for i in order))
    blobs = {name: blob for name, _, sha256, blob in chosen if sha256 is None}
    return HubSource(files, {key: listing[key] for key in ("repo", "revision", "commit")}, blobs)


def _matches(name: str, glob: str) -> bool:
    if glob == "**":  # all that we read, which README.md is not; .json seldom holds text
        return suffixes(name)[0] not in ("", ".json") and kind_of(name) is not None
    return re.fullmatch(_regex(glob), name) is not None


@functools.cache
def _regex(glob: str) -> str:
    """``**`` is any depth, ``*``, ``?`` and ``[...]`` stay within one component."""
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = ""
    for i, part in enumerate(re.split(r"((?<![^/])\*\*/|\*\*|\*|\?|\[!?[^]/]+\])", glob)):
        if i % 2 == 0:
            regex += re.escape(part)
        elif part.startswith("["):
            negated, members = part[1] == "!", part.strip("[]").removeprefix("!")
            regex += f"[{'^/' * negated}{re.escape(members)}]".replace(r"\-", "-")
        else:
            regex += meanings[part]
    return regex


def _listing(repo: str, revision: str) -> dict[str, Any]:
    """What the repository holds: repo, revision, commit, and of each file name, size, sha256 or null, git's blob id."""
    folder = cache_folder("hub")
    path = folder / f"{repo.replace('/', '--')}@{quote(revision, safe='')}.json"
    with locked(path.with_name(f"{path.name}.lock")):
        if (kept := _read_listing(path, repo, revision)) is not None:
            return kept
        if path.exists():
            print(f"hub: the listing {path} is damaged, fetching it again", file=sys.stderr)
        what = f"cannot list the dataset repository {repo}"
        remedy = (
            f"list it where there is network (pipeline data prepare, PIPELINE_CACHE={folder.parent}), once for all runs"
        )
        try:
            listing = persist(lambda: _list(repo, revision), what, repo, revision, remedy)
        except OSError as error:
            if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
                raise RequestError(f"{error}; without network, {remedy}") from None
            raise
        write_sealed(path, listing)
        return listing


def _list(repo: str, revision: str) -> dict[str, Any]:
    api = HfApi(endpoint=endpoint())
    # Only the hash: the default answer names every file a first time.
    commit = api.dataset_info(repo, revision=revision, expand=["sha"], timeout=30).sha
    tree = api.list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")
    files = []
    for entry in tree:
        if isinstance(entry, RepoFile):
            if not {"", ".", ".."}.isdisjoint(entry.path.split("/")):  # it becomes a path in our cache
                raise RequestError(f"the repository {repo} has a file with the impossible name {entry.path!r}")
            files.append((entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id))
    return {"repo": repo, "revision": revision, "commit": commit, "files": files}


def _read_listing(path: Path, repo: str, revision: str) -> dict[str, Any] | None:
    try:
        listing = read_sealed(path)
    except (FileNotFoundError, ValueError):
        return None
    return listing if (listing.get("repo"), listing.get("revision")) == (repo, revision) else None


# ---------------------------------------------------------------------------------------------------------------------
# Their content


@dataclass(frozen=True)
class HubSource:
    """Files of one commit of a dataset repository, fetched into the cache when they are opened."""

    files: tuple[SourceFile, ...]
    origin: dict[str, str]
    """repo, revision (as asked) and commit."""
    blobs: dict[str, str]
    """Git's blob ids of the files without a sha256: those that the repository does not keep in LFS."""

    @contextmanager
    def open(self, file: SourceFile) -> Iterator[Path]:
        """The verified content of `file`, which no process releases before the context ends.

        Raises `RequestError` where the hub refuses it, `OSError` where it could not be had in many attempts.
        """
        path, partial, in_use, fetching = self._places(file)
        for _ in range(ATTEMPTS):
            with locked(in_use, shared=True):
                if self._flaw(file, path) is None:
                    yield path
                    return
            # A lock of its own: who waits to fetch must not wait for those who already read what another has fetched.
            with locked(fetching):
                if flaw := self._flaw(file, path):
                    if path.exists():
                        print(f"hub: the download {path} is damaged ({flaw}), fetching it again", file=sys.stderr)
                    self._fetch(file, path, partial)
        raise OSError(f"{path} does not stay as it was fetched: check the disk")

    def release(self, file: SourceFile) -> None:
        """Delete what was fetched of `file`, unless a process has it open or is fetching it."""
        path, partial, *locks = self._places(file)
        with ExitStack() as held:
            try:
                for lock in locks:
                    held.enter_context(locked(lock, busy=f"{path} is in use"))
            except RequestError:
                return
            path.unlink(missing_ok=True)
            shutil.rmtree(partial, ignore_errors=True)

    def _places(self, file: SourceFile) -> tuple[Path, Path, Path, Path]:
        """The finished file, the folder of its unfinished download, and the locks of those who read and fetch it."""
        commit = f"{self.origin['repo'].replace('/', '--')}@{self.origin['commit'][:12]}"
        path = cache_folder("downloads", commit, *file.name.split("/")[:-1]) / file.name.split("/")[-1]
        # A folder for each file: it can be deleted whole, whatever huggingface_hub keeps in it.
        digest = hashlib.sha256(file.name.encode()).hexdigest()[:16]
        partial = cache_folder("downloads", f"{commit}.partial") / digest
        return path, partial, path.with_name(f".{path.name}.lock"), partial.with_name(f"{digest}.lock")

    def _flaw(self, file: SourceFile, path: Path) -> str | None:
        """What is wrong with the content of `path`."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return "missing"
        if size != file.size:
            return f"it has {size} bytes instead of {file.size}"
        return _wrong_content(path, file.sha256 or self.blobs[file.name])

    def _fetch(self, file: SourceFile, path: Path, partial: Path) -> None:
        repo, commit = self.origin["repo"], self.origin["commit"]

        def attempt() -> None:
            try:
                # HF's own cache is left out: a damaged copy there would be taken again and again.
                fetched = download(
                    repo, file.name, commit, repo_type="dataset", local_dir=partial, cache_dir=partial / "no-cache"
                )
                if flaw := self._flaw(file, fetched):
                    raise WrongContent(f"{file.name} of {repo} is damaged on arrival: {flaw}")
                fetched.replace(path)
            except (httpx.TransportError, Refused):
                raise  # what has come so far may be good: the next attempt resumes it
            except Exception:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            shutil.rmtree(partial, ignore_errors=True)

        persist(attempt, f"cannot fetch {file.name} of the dataset repository {repo}", repo, commit)


def hub_file(repo: str, name: str, revision: str = "main") -> Path:
    """A small file of a model repository, in HF's own cache; what is there is used without looking at the network.

    Raises `RequestError` where there is no such file or it may not be read, `OSError` where the hub is in trouble.
    """

    def verified(path: Path) -> Path:
        blob = path.resolve()  # HF names it by the sha256 or git blob id
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) and (flaw := _wrong_content(blob, blob.name)):
            blob.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise WrongContent(f"{name} of {repo} is damaged: {flaw}")
        return path

    def attempt() -> Path:
        cached = hf_cached(repo, name, revision=revision)
        return verified(Path(cached) if isinstance(cached, str) else download(repo, name, revision, repo_type="model"))

    remedy = "fetch it once where there is network"
    return persist(attempt, f"cannot fetch {name} of the model repository {repo}", repo, revision, remedy)


def _wrong_content(path: Path, expected: str) -> str | None:
    if len(expected) == 64:
        name, begun = "sha256", hashlib.sha256()
    else:
        name, begun = "git blob id", hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        got = hashlib.file_digest(stream, lambda: begun).hexdigest()
    return None if got == expected else f"expected {name} {expected}, got {got}"
