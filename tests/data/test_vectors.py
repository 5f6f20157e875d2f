"""Vectors: what runs read of them, label noise, and the generated task's real values."""

import numpy as np
import pytest
import torch

from pipeline.data.vectors import Examples, load_examples, multi_index, multi_index_published, multi_index_values
from pipeline.entries.vectors import VECTORS


def test_the_multi_index_task_has_the_teachers_value() -> None:
    x, value = multi_index_values("val")
    positive = np.maximum(x, 0)
    negative = np.maximum(-x, 0)
    expected = positive[:, 0] - positive[:, 1] + negative[:, 0] - negative[:, 1]
    np.testing.assert_allclose(value, expected, atol=1e-6)
    assert np.array_equal(multi_index("val")[1] == 1, value > 0)
    assert np.array_equal(multi_index("val")[0], x)


def test_the_published_sizes_are_the_other_way_round() -> None:
    (x, y), (x_val, _) = multi_index_published("train"), multi_index_published("val")
    assert (x.shape, x_val.shape) == ((10_000, 100), (1000, 100))
    assert np.array_equal(x[:1000], multi_index("train")[0])
    assert 0.45 < y.mean() < 0.55


def test_rows_are_shifted_and_scaled_when_they_are_read() -> None:
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    examples = Examples(x, np.arange(3), torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 2, 4, 8]))
    rows, y = examples[np.array([2, 0])]
    assert torch.equal(
        rows, (torch.from_numpy(x[[2, 0]]).float() - torch.tensor([1.0, 2, 3, 4])) / torch.tensor([1, 2, 4, 8])
    )
    assert y.tolist() == [2, 0]
    assert np.array_equal(examples.x.numpy(), x), "what is kept stays as it is"


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_label_noise_draws_a_share_of_the_training_classes_anew(share: float) -> None:
    vectors = VECTORS["multi_index_published"]
    clean, noisy, again = (load_examples(vectors, "train", label_noise=s) for s in (0.0, share, share))
    changed = (clean.y != noisy.y).double().mean().item()
    assert changed == pytest.approx(share / 2, abs=0.02), "half of what is drawn from two classes is as it was"
    assert torch.equal(noisy.y, again.y)
    assert torch.equal(clean.x, noisy.x)
    more = load_examples(vectors, "train", label_noise=1.0).y
    assert torch.equal(more[clean.y != noisy.y], noisy.y[clean.y != noisy.y]), "a larger share replaces the same ones"
    assert torch.equal(load_examples(vectors, "val", label_noise=share).y, load_examples(vectors, "val").y)
    assert clean.sha256 != noisy.sha256
    drawn = load_examples(VECTORS["digits"], "train", label_noise=1.0).y
    assert torch.bincount(drawn, minlength=10).min() > 100, "uniform over all classes"


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    train, val = (load_examples(VECTORS["digits"], split) for split in ("train", "val"))
    order = np.random.default_rng(0).permutation(1797)
    assert np.array_equal(np.concatenate([train.y, val.y]), labels[order])
    kept = torch.cat([train.x, val.x]).double().numpy()
    assert np.abs(kept * pixels[order[:1437]].std() + pixels[order[:1437]].mean() - pixels[order]).max() < 1e-5
