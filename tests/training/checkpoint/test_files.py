"""Checkpoints on disk: pieces cut anywhere, every kind of damage, writers that are cut short, file modes."""

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.training.checkpoint import files
from pipeline.training.checkpoint.files import LAST, MANIFEST, Checkpoint, Damaged, Piece, newest, newest_first, prune
from tests.conftest import rewrite_manifest

STATE = {"config": "abc", "seconds": 1.5, "data": {"state": [1, 2, 3]}}


def write(folder: Path, step: int, shards: list[dict[str, Piece]], state: dict[str, Any] = STATE) -> Path:
    scratch = files.begin(folder, step)
    return files.publish(scratch, step, state, [files.write_shard(scratch, i, s) for i, s in enumerate(shards) if s])


def plain(folder: Path, step: int, fill: float = 1.0) -> Path:
    """A checkpoint of two tensors in two shards."""
    weight = torch.full((6,), fill)
    return write(
        folder,
        step,
        [{"model.w": Piece((2, 3), 0, weight[:4]), "model.b": Piece((3,), 0, torch.full((3,), fill))},
         {"model.w": Piece((2, 3), 4, weight[4:])}],
    )  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def cut(draw: np.random.Generator, tensor: Tensor, shards: list[dict[str, Piece]], name: str) -> None:
    """Share a tensor's elements out over the shards: contiguous ranges, in any order, of any size but none."""
    flat, places = tensor.reshape(-1), draw.permutation(len(shards))
    parts = int(draw.integers(1, min(len(shards), flat.numel()) + 1))
    inner = draw.choice(np.arange(1, flat.numel()), parts - 1, replace=False) if parts > 1 else []
    ends = [0, *sorted(int(end) for end in inner), flat.numel()]
    for place, start, end in zip(places, ends, ends[1:], strict=False):
        shards[place][name] = Piece(tuple(tensor.shape), start, flat[start:end])


@pytest.mark.parametrize("seed", range(25))
def test_any_range_is_read_back_however_it_was_cut(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    dtypes = (torch.float32, torch.float32, torch.bfloat16, torch.int64)
    tensors = {}
    for i in range(int(draw.integers(1, 6))):
        shape = tuple(int(n) for n in draw.integers(1, 7, size=draw.integers(0, 4)))
        values = torch.from_numpy(np.asarray(draw.normal(size=shape) * 100))
        tensors[f"model.t{i}"] = values.to(dtypes[draw.integers(len(dtypes))])
    shards: list[dict[str, Piece]] = [{} for _ in range(draw.integers(1, 6))]
    for name, tensor in tensors.items():
        cut(draw, tensor, shards, name)
    path = write(tmp_path, 7, shards)
    checkpoint = Checkpoint(path)
    checkpoint.verify()
    assert (checkpoint.step, checkpoint.state) == (7, STATE)
    assert checkpoint.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.tensor(name).dtype == tensor.dtype
        flat = tensor.reshape(-1)
        for _ in range(10):
            start = int(draw.integers(0, flat.numel()))
            end = int(draw.integers(start + 1, flat.numel() + 1))
            assert torch.equal(checkpoint.read(name, start, end), flat[start:end]), (name, start, end)
        assert torch.equal(checkpoint.read(name, start), flat[start:])
    assert len(list(path.glob("*.safetensors"))) == sum(bool(shard) for shard in shards)


def test_ranges_of_one_buffer_are_written_alone(tmp_path: Path) -> None:
    """ZeRO keeps many tensors in one buffer: each file holds the ranges it says, not the buffer."""
    buffer = torch.arange(100_000.0)
    path = write(tmp_path, 1, [{"a": Piece((10,), 0, buffer[5:15]), "b": Piece((20,), 0, buffer[15:35])}])
    assert torch.equal(Checkpoint(path).tensor("b"), buffer[15:35])
    assert (path / "shard-00000.safetensors").stat().st_size < 1000


def test_scalars_and_unknown_names(tmp_path: Path) -> None:
    path = write(tmp_path, 1, [{"optimizer.step.w": Piece((), 0, torch.tensor([3.0]))}])
    step = Checkpoint(path).tensor("optimizer.step.w")
    assert (step.shape, step.item()) == ((), 3.0)
    with pytest.raises(KeyError):
        Checkpoint(path).tensor("optimizer.step.v")


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param([(0, 4)], id="no end"),
        pytest.param([(2, 6)], id="no start"),
        pytest.param([(0, 2), (4, 6)], id="a gap"),
        pytest.param([(0, 4), (3, 6)], id="an overlap"),
        pytest.param([(0, 6), (0, 6)], id="twice"),
        pytest.param([(0, 6), (6, 8)], id="past the end"),
    ],
)
def test_parts_that_do_not_make_up_the_tensor_are_refused(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    whole = torch.arange(8.0)
    path = write(tmp_path, 1, [{"model.w": Piece((2, 3), a, whole[a:b])} for a, b in ranges])
    with pytest.raises(Damaged, match=r"^parts of model\.w are missing$"):
        Checkpoint(path)


def test_another_version_is_named(tmp_path: Path) -> None:
    path = plain(tmp_path, 1)
    rewrite_manifest(path, version=2)
    with pytest.raises(Damaged, match=r"^it has format 2, this program reads 1$"):
        Checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"[1]", b"3", b"null", b'"x"', b"{}", b'{"version": 1}', b"\xff\xfe", b"{" * 9]
)
def test_a_manifest_that_is_none_is_damage(tmp_path: Path, content: bytes) -> None:
    path = plain(tmp_path, 1)
    (path / MANIFEST).write_bytes(content)
    with pytest.raises(Damaged, match=rf"^{MANIFEST}: .|^wrong checksum") as damage:
        Checkpoint(path)
    assert "\n" not in str(damage.value)


def test_one_flipped_bit_anywhere_in_the_manifest_is_damage(tmp_path: Path) -> None:
    path = plain(tmp_path, 1)
    good = (path / MANIFEST).read_bytes()
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        (path / MANIFEST).write_bytes(flipped)
        with pytest.raises(Damaged):
            Checkpoint(path)


def test_one_flipped_bit_anywhere_in_a_shard_is_damage(tmp_path: Path) -> None:
    path = plain(tmp_path, 1)
    for shard in sorted(path.glob("*.safetensors")):
        good = shard.read_bytes()
        for byte in range(len(good)):
            flipped = bytearray(good)
            flipped[byte] ^= 1 << byte % 8
            shard.write_bytes(flipped)
            with pytest.raises(Damaged, match=f"^wrong checksum of {shard.name}$"):
                Checkpoint(path).verify()
        shard.write_bytes(good)
    Checkpoint(path).verify()


def _truncate(path: Path) -> str:
    os.truncate(path / "shard-00001.safetensors", 50)
    return r"shard-00001\.safetensors has 50 bytes of \d+"


def _flip(path: Path) -> str:
    content = bytearray((path / "shard-00001.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "shard-00001.safetensors").write_bytes(content)
    return r"wrong checksum of shard-00001\.safetensors"


def _empty(path: Path) -> str:
    (path / "shard-00000.safetensors").write_bytes(b"")
    return r"shard-00000\.safetensors has 0 bytes of \d+"


def _lose(path: Path) -> str:
    (path / "shard-00001.safetensors").unlink()
    return r"shard-00001\.safetensors: No such file or directory"


def _lose_manifest(path: Path) -> str:
    (path / MANIFEST).unlink()
    return rf"{MANIFEST}: No such file or directory"


def _lose_everything(path: Path) -> str:
    shutil.rmtree(path)
    path.mkdir()
    return rf"{MANIFEST}: No such file or directory"


def _mix_up(path: Path) -> str:
    """The shard of another checkpoint, of the same size."""
    other = plain(path.parent / "other", 1, fill=2.0)
    shutil.copy(other / "shard-00001.safetensors", path / "shard-00001.safetensors")
    return r"wrong checksum of shard-00001\.safetensors"


def _pickled(path: Path) -> str:
    size = (path / "shard-00000.safetensors").stat().st_size
    (path / "shard-00000.safetensors").write_bytes(pickle.dumps(os.abort).ljust(size))
    return r"wrong checksum of shard-00000\.safetensors"


def _pickled_manifest(path: Path) -> str:
    (path / MANIFEST).write_bytes(pickle.dumps(os.abort))
    return rf"{MANIFEST}: .+"


@pytest.mark.parametrize(
    "damage",
    [_truncate, _flip, _empty, _lose, _lose_manifest, _lose_everything, _mix_up, _pickled, _pickled_manifest],
)
def test_the_newest_good_one_is_found_and_newer_damage_named(tmp_path: Path, damage: Any) -> None:
    plain(tmp_path, 8)
    good = plain(tmp_path, 9)
    bad = [plain(tmp_path, 10), plain(tmp_path, 11)]
    reason = damage(bad[1])
    _truncate(bad[0])
    found, complaints = newest(tmp_path)
    assert found is not None
    assert (found.path, found.step) == (good, 9)
    assert len(complaints) == 2
    assert re.fullmatch(rf"checkpoint {re.escape(str(bad[1]))} is damaged \({reason}\)", complaints[0])
    assert complaints[1].startswith(f"checkpoint {bad[0]} is damaged (shard-00001.safetensors has 50 bytes of ")


def test_none_and_all_damaged(tmp_path: Path) -> None:
    assert newest(tmp_path / "nowhere") == (None, [])
    assert newest(tmp_path) == (None, [])
    damaged = plain(tmp_path, 3)
    reason = "shard-00001.safetensors has 50 bytes of "
    _truncate(damaged)
    found, (complaint,) = newest(tmp_path)
    assert found is None
    assert reason in complaint
    shutil.rmtree(damaged)
    assert newest(tmp_path) == (None, []), "the link points nowhere"
    (tmp_path / LAST).unlink()
    (tmp_path / LAST).write_bytes(pickle.dumps({"global_step": 3}))
    assert newest(tmp_path) == (
        None, [f"checkpoint {tmp_path / LAST} is damaged (not a folder of this version of the pipeline)"],
    )  # fmt: skip


def test_order_is_that_of_steps(tmp_path: Path) -> None:
    for step in (9, 10, 100_000_000, 99_999_999):
        (tmp_path / f"step-{step:08d}.ckpt").mkdir()
    (tmp_path / "step-00000011.ckpt").write_text("a file is none")
    assert [int(path.stem[5:]) for path in newest_first(tmp_path)] == [100_000_000, 99_999_999, 10, 9]


@pytest.mark.parametrize("keep", [0, 1, 2, 5])
def test_prune_keeps_the_newest_and_clears_what_interrupted_writers_left(tmp_path: Path, keep: int) -> None:
    for step in (1, 2, 3):
        plain(tmp_path, step)
    scratch = files.begin(tmp_path, 4)
    files.write_shard(scratch, 0, {"w": Piece((1,), 0, torch.ones(1))})
    (tmp_path / ".step-00000000.ckpt").mkdir()  # half deleted
    (tmp_path / f".{LAST}-123").symlink_to("nowhere")
    prune(tmp_path, keep)
    kept = [f"step-0000000{step}.ckpt" for step in (1, 2, 3)[max(0, 3 - keep) :]]
    assert names(tmp_path) == ([LAST, *kept] if keep else [])
    if keep:
        assert (tmp_path / LAST).readlink() == Path("step-00000003.ckpt")
        assert Checkpoint(tmp_path / LAST).step == 3
    prune(tmp_path, keep)
    assert names(tmp_path) == ([LAST, *kept] if keep else [])


def test_a_scratch_folder_is_no_checkpoint(tmp_path: Path) -> None:
    plain(tmp_path, 1)
    scratch = files.begin(tmp_path, 2)
    shard = files.write_shard(scratch, 0, {"w": Piece((1,), 0, torch.ones(1))})
    (scratch / MANIFEST).write_text("{}")
    assert [path.name for path in newest_first(tmp_path)] == ["step-00000001.ckpt"]
    (scratch / MANIFEST).unlink()
    files.publish(scratch, 2, {}, [shard])
    assert [path.name for path in newest_first(tmp_path)] == ["step-00000002.ckpt", "step-00000001.ckpt"]


def test_a_damaged_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    _truncate(plain(tmp_path, 2))
    path = plain(tmp_path, 2, fill=5.0)
    found, complaints = newest(tmp_path)
    assert found is not None
    assert (found.path, complaints) == (path, [])
    assert found.tensor("model.b").tolist() == [5.0] * 3
    assert names(tmp_path) == [LAST, "step-00000002.ckpt"]


def test_damaged_ones_of_later_steps_make_way(tmp_path: Path) -> None:
    """Else they count among those to keep, and the good one just written is pruned for them."""
    plain(tmp_path, 4)
    _truncate(plain(tmp_path, 8))
    plain(tmp_path, 5)  # a run that went on from 4 was stopped here
    prune(tmp_path, keep=1)
    assert names(tmp_path) == [LAST, "step-00000005.ckpt"]
    assert (tmp_path / LAST).readlink() == Path("step-00000005.ckpt")


def test_file_modes_are_those_of_other_files(tmp_path: Path) -> None:
    path = plain(tmp_path / "folder", 1)
    assert path.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}
    before = os.umask(0o077)
    try:
        path = plain(tmp_path / "folder", 2)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}


def test_errors_of_the_system_keep_their_number_and_name_the_place(tmp_path: Path) -> None:
    scratch = files.begin(tmp_path, 1)
    scratch.rmdir()
    with pytest.raises(OSError, match="No such file") as error:
        files.write_shard(scratch, 0, {"w": Piece((1,), 0, torch.ones(1))})
    assert error.value.errno == errno.ENOENT
    assert error.value.filename == str(tmp_path), "not the scratch folder, which is gone when somebody reads this"
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="exists"):
        files.begin(tmp_path / "file", 1)


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from pipeline.training.checkpoint import files
from pipeline.training.checkpoint.files import Piece
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
scratch = files.begin(folder, 2)
shard = files.write_shard(scratch, 0, {"w": Piece((5000,), 0, torch.ones(5000))}) if limit < 20_000 else None
resource.setrlimit(resource.RLIMIT_FSIZE, (limit % 20_000, limit % 20_000))
try:
    if shard is None:
        files.write_shard(scratch, 0, {"w": Piece((5000,), 0, torch.ones(5000))})
    else:
        files.publish(scratch, 2, {}, [shard])
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize(("limit", "named"), [(20_100, ""), (100, MANIFEST)])
def test_a_full_disk_leaves_the_older_one(tmp_path: Path, limit: int, named: str) -> None:
    """A process may not write files past a limit, first in a shard, then in the manifest."""
    plain(tmp_path, 1)
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), str(limit)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    number, _, place = ended.stdout.strip().partition(" ")
    assert int(number) == errno.EFBIG
    assert Path(place).name == (named or tmp_path.name)
    assert [path.name for path in newest_first(tmp_path)] == ["step-00000001.ckpt"]
    prune(tmp_path, 2)
    assert names(tmp_path) == [LAST, "step-00000001.ckpt"]
    found, complaints = newest(tmp_path)
    assert found is not None
    assert (found.step, complaints) == (1, [])


@pytest.mark.parametrize("call", ["rename", "replace", "symlink_to", "chmod"])
def test_an_interruption_of_publishing_leaves_a_good_newest(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step of it is the last to happen, what is found is whole, and the next one clears up."""
    plain(tmp_path, 1)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, call, stop)
        with pytest.raises(KeyboardInterrupt):
            plain(tmp_path, 2)
    found, complaints = newest(tmp_path)
    assert found is not None
    assert complaints == []
    assert found.step == (2 if call in ("symlink_to",) else 1)
    Checkpoint(tmp_path / LAST).verify()
    plain(tmp_path, 3)
    prune(tmp_path, 1)
    assert names(tmp_path) == [LAST, "step-00000003.ckpt"]
    assert Checkpoint(tmp_path / LAST).step == 3


def test_the_state_is_handed_back_as_json_has_it(tmp_path: Path) -> None:
    state = {"config": None, "seconds": 0.1 + 0.2, "data": {"state": [2**62, -1], "manifest": "ü"}}
    path = write(tmp_path, 1, [{"w": Piece((1,), 0, torch.ones(1))}], state)
    assert Checkpoint(path).state == state
    assert json.loads((path / MANIFEST).read_text())["state"] == state
