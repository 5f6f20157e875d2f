"""Tables of other people's runs: what their columns are taken for, what is said of it, and what is refused."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.fit.study_fit import fit_study
from pipeline.analysis.study.tables.table import load_tables
from pipeline.errors import RequestError
from tests.support.foreign_table import ask, runs


def save(folder, frame, name="runs.csv"):
    path = folder / name
    {".csv": lambda: frame.to_csv(path, index=False), ".parquet": lambda: frame.to_parquet(path)}.get(
        path.suffix, lambda: frame.to_json(path, orient="records", lines=True, double_precision=15)
    )()
    return str(path)


def load(folder, frame, **said):
    return load_tables([save(folder, frame)], ask(**said))


def refused(folder, frame, **said):
    with pytest.raises(RequestError) as caught:
        load(folder, frame, **said)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said(table):
    return " ".join(table.notes)


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet", "runs.jsonl"])
def test_every_format_holds_the_same_runs(tmp_path, name):
    frame = runs(seeds=2, width="d_model", lr="peak_lr", loss="val/loss")
    table = load_tables([save(tmp_path, frame, name)], ask())
    want = frame.sort_values(["d_model", "peak_lr", "seed"])
    np.testing.assert_array_equal(table.runs["width"], want["d_model"])
    np.testing.assert_allclose(table.runs["lr"], want["peak_lr"])
    np.testing.assert_allclose(table.runs["final_loss"], want["val/loss"])
    assert (table.runs["status"] == np.where(want["val/loss"].isna(), "diverged", "completed")).all()
    assert table.folder == tmp_path / "runs-fit"
    assert "width is d_model, lr is peak_lr, loss is val/loss" in said(table)


def test_a_fit_finds_the_exponent_of_a_table(tmp_path):
    table = load(tmp_path, runs(exponent=-0.5))
    (group,) = fit_study(table, table.measure).groups
    assert abs(group.optimal.exponent + 0.5) < 0.1
    assert group.predicted == {}
    assert all(type(w.width) is int for w in group.widths)


def test_what_is_named_by_hand_is_taken_and_not_said(tmp_path):
    frame = runs(width="n", lr="rate", loss="final")
    table = load(tmp_path, frame, columns="width=n,lr=rate,loss=final")
    assert len(table.runs) == len(frame)
    assert "taken by their names" not in said(table)


def test_repeated_points_without_seeds_are_seeds(tmp_path):
    table = load(tmp_path, runs(seeds=3).drop(columns="seed"))
    assert sorted(table.runs["seed"].unique()) == [0, 1, 2]
    assert "No column of seeds" in said(table)
    assert "up to 3 of them" in said(table)


def test_a_blank_loss_is_a_diverged_run_only_where_nothing_else_says_so(tmp_path):
    frame = runs()
    n = int(frame["loss"].isna().sum())
    bare = load(tmp_path, frame)
    assert f"No column of diverged: a run counts as unstable where it has no finite loss ({n} of 36)" in said(bare)
    frame["diverged"] = frame["loss"].isna()
    frame.loc[0, ["loss", "diverged"]] = [math.nan, False]
    marked = load(tmp_path, frame)
    assert "runs.csv without a loss and no mark of divergence: left out" in said(marked)
    assert len(marked.runs) == 35


def test_a_run_marked_as_diverged_is_lost_whatever_its_loss(tmp_path):
    frame = runs(edge_octaves=99).assign(diverged=0)
    frame.loc[5, "diverged"] = 1
    table = load(tmp_path, frame)
    assert (table.runs["status"] == "diverged").sum() == 1
    assert math.isnan(table.runs["final_loss"][table.runs["status"] == "diverged"].iloc[0])


def test_states_of_runs(tmp_path):
    frame = runs(edge_octaves=99).assign(state="finished")
    frame.loc[[0, 1, 2], "state"] = ["running", "crashed", "crashed"]
    frame["loss"] = frame["loss"].astype(object)
    frame.loc[2, "loss"] = "nan"
    table = load(tmp_path, frame)
    assert (table.n_unfinished, table.n_failed) == (1, 1)
    assert (table.runs["status"] == "diverged").sum() == 1  # it ended in an error because of its nan
    assert len(table.runs) == 34


def test_families_are_those_of_param_and_optimizer_where_they_are_named(tmp_path):
    both = pd.concat([runs().assign(parametrization=name, opt="Adam") for name in ("sp", "mup")])
    assert load(tmp_path, both).group == ("param", "optimizer")
    assert load(tmp_path, runs()).group == ()
    assert load(tmp_path, both, group="opt").group == ("optimizer",)


def test_a_group_by_any_column(tmp_path):
    both = pd.concat([runs().assign(data=name) for name in ("c4", "pile")])
    table = load(tmp_path, both, group="data")
    assert [group.head["data"] for group in fit_study(table, table.measure).groups] == ["c4", "pile"]
    assert "Warning" not in said(table)
    assert "no column 'dta' (--group dta): did you mean data?" in refused(tmp_path, both, group="dta")


def test_a_group_by_a_column_that_has_a_name_of_ours(tmp_path):
    both = pd.concat([runs(levels=(1e9, 2e9), width="tokens").assign(width=n) for n in (64, 128)])
    table = load(tmp_path, both, axis="tokens", group="width")
    assert table.group == ("group_width",)
    assert sorted(table.runs["width"].unique()) == [1e9, 2e9]


def test_what_differs_and_is_not_used_is_named(tmp_path):
    both = pd.concat([runs().assign(weight_decay=wd, n_layer=2) for wd in (0, 0.1)])
    both["accuracy"] = np.random.default_rng(0).random(len(both))
    both["name"] = [f"run-{k}" for k in range(len(both))]
    both["final_lr"] = both["lr"] / 10
    warned = said(load(tmp_path, both))
    assert "runs of the same width differ in weight_decay:" in warned
    assert "--group weight_decay" in warned
    assert "Warning" not in said(load(tmp_path, both, group="weight_decay"))


def test_what_changes_with_the_axis_is_named(tmp_path):
    frame = runs()
    assert "With the width changes batch_size" in said(load(tmp_path, frame.assign(batch_size=frame["width"] // 4)))


def test_repeated_points_with_the_same_seed_are_said(tmp_path):
    both = pd.concat([runs().assign(epoch=epoch) for epoch in (1, 2)], ignore_index=True)
    table = load(tmp_path, both)
    assert "36 runs with the width, lr and seed of another" in said(table)
    assert "differ in epoch" in said(table)
    assert sorted(table.runs["seed"].unique()) == [0, 1]


def test_rows_that_say_the_same_count_once(tmp_path):
    frame = runs()
    table = load(tmp_path, pd.concat([frame, frame]))
    assert "36 rows repeating another one in every column" in said(table)
    assert len(table.runs) == 36


def test_several_tables_are_one(tmp_path):
    first = save(tmp_path, runs(levels=(64, 128)), "a.csv")
    second = save(tmp_path, runs(levels=(256, 512), width="d_model"), "b.parquet")
    table = load_tables([first, second, first], ask())
    assert table.name == "a.csv + b.parquet"
    assert sorted(table.runs["width"].unique()) == [64, 128, 256, 512]
    assert table.folder == tmp_path / "a-fit"


def test_tables_that_cannot_be_taken_as_one(tmp_path):
    first = save(tmp_path, runs(), "a.csv")
    for other, says in (
        (runs().drop(columns="seed"), "a.csv has a column of seed and .*b.csv has none"),
        (runs().assign(diverged=0), "b.csv has a column of diverged and .*a.csv has none"),
        (runs().assign(optimizer="Adam"), "do not have the same columns of param, optimizer and loss_kind"),
    ):
        with pytest.raises(RequestError, match=says):
            load_tables([first, save(tmp_path, other, "b.csv")], ask())
    another = load_tables([first, save(tmp_path, runs(levels=(1024,), loss="val_loss"), "b.csv")], ask())
    assert "the losses are those of columns loss and val_loss" in said(another)


def test_a_column_that_differs_from_run_to_run_is_no_axis(tmp_path):
    frame = pd.concat([runs()] * 40, ignore_index=True)
    frame["seconds"] = np.arange(1, len(frame) + 1)
    assert "seconds has 1440 different values: an axis has few" in refused(tmp_path, frame, axis="seconds")


@pytest.mark.parametrize(
    ("axis", "column", "noun"),
    [("tokens", "n_tokens", "token budget"), ("batch", "bs", "batch size"), ("depth", "n_layer", "depth"),
     ("parameters", "num_params", "model size")],
)  # fmt: skip
def test_axes_by_their_names(tmp_path, axis, column, noun):
    table = load(tmp_path, runs(levels=(1e11, 3e11), width=column), axis=axis)
    assert (table.axis.name, table.axis.noun) == (axis, noun)
    assert sorted(table.runs["width"].unique()) == [1e11, 3e11]


def test_an_axis_is_any_column_and_its_levels_any_numbers(tmp_path):
    table = load(tmp_path, runs(levels=(0.25, 0.5, 1.5), width="sparsity"), axis="sparsity")
    assert table.axis.noun == "sparsity"
    (group,) = fit_study(table, table.measure).groups
    assert [w.width for w in group.widths] == [0.25, 0.5, 1.5]
    # a column that is known as a width is spoken of as one
    assert load(tmp_path, runs(width="n_embd"), axis="n_embd").axis.noun == "width"
    # what --columns names is the axis where none is given
    assert load(tmp_path, runs(width="D"), columns="tokens=D").axis.name == "tokens"
    assert load(tmp_path, runs(width="D"), columns="level=D").axis.name == "D"


def test_a_second_axis_is_read(tmp_path):
    both = pd.concat([runs().assign(tokens=1e9 * k) for k in (1, 2)])
    table = load(tmp_path, both, axis="width,tokens")
    assert table.second.name == "tokens"
    assert sorted(table.runs["second"].unique()) == [1e9, 2e9]
    assert "Warning" not in said(table)


def test_columns_that_could_be_several_are_refused(tmp_path):
    frame = runs(loss="val_loss")
    frame["train_loss"] = frame["val_loss"] + 1
    assert "the loss could be val_loss or train_loss: say which by --columns loss=val_loss" in refused(tmp_path, frame)
    assert load(tmp_path, frame, columns="loss=train_loss").measure.name == "train_loss"
    twice = runs(width="d_model")
    twice["hidden_size"] = twice["d_model"]
    assert load(tmp_path, twice).axis.name == "width"  # they say the same


def test_a_column_of_kinds_of_loss_is_no_loss(tmp_path):
    frame = runs(loss="final_val_loss").assign(loss="mse")
    table = load(tmp_path, frame)
    assert table.measure.name == "final_val_loss"
    assert table.group == ("loss",)


def test_names_that_are_wrong(tmp_path):
    frame = runs(width="wdith")
    assert "no column is called width: did you mean --columns width=wdith?" in refused(tmp_path, frame)
    assert "no column 'los' (--columns loss=los): did you mean loss?" in refused(tmp_path, runs(), columns="loss=los")
    assert "no column 'tokns' (--axis tokns): did you mean tokens?" in refused(tmp_path, runs(), axis="tokns")
    assert "--columns tokens=width is of no use along --axis width" in refused(
        tmp_path, runs(), axis="width", columns="tokens=width"
    )
    for wrong in ("widht=n", "width", "width=", "width=a,width=b"):
        with pytest.raises(RequestError, match="--columns"):
            ask(columns=wrong)


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("loss", "abc", "row 4: loss is 'abc', which is no number"),
        ("lr", "3e-3x", "row 4: lr is '3e-3x', which is no number"),
        ("lr", "0", "row 4: lr is 0; it must be above 0"),
        ("lr", "-0.1", "row 4: lr is -0.1; it must be above 0"),
        ("lr", "inf", "row 4: lr is inf; it must be above 0"),
        ("lr", "", "row 4: lr is blank; it must be above 0"),
        ("width", "wide", "row 4: width is 'wide', which is no number"),
        ("width", "0", "row 4: width is 0; it must be above 0"),
        ("seed", "0.5", "row 4: seed is '0.5', which is no whole number"),
        ("seed", "", "row 4: seed is blank, which is no whole number"),
        ("diverged", "maybe", "row 4: diverged is 'maybe'; expected 0 or 1"),
    ],
)
def test_cells_that_are_wrong_are_named_by_their_row(tmp_path, column, cell, says):
    frame = runs().assign(diverged=0).astype(object)
    frame.loc[3, column] = cell
    assert says in refused(tmp_path, frame)


def test_damaged_files(tmp_path):
    for name, content, says in (
        ("empty.csv", b"", "empty.csv cannot be read as csv: the file is empty"),
        ("head.csv", b"width,lr,loss\n", "head.csv holds no runs"),
        ("ragged.csv", b"width,lr,loss\n1,2,3\n1,2,3,4\n", "ragged.csv cannot be read as csv"),
        ("binary.csv", b"\xff\xfe\x00width\x81", "binary.csv cannot be read as csv"),
        ("twice.csv", b"lr,lr,loss\n1,2,3\n", "two columns are called 'lr'"),
        ("torn.jsonl", b'{"lr": 1}\n{"lr": ', "torn.jsonl cannot be read as jsonl: line 2 is no JSON"),
        ("list.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("none.parquet", b"PAR1 and no more", "none.parquet cannot be read as parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError) as caught:
            load_tables([str(tmp_path / name)], ask())
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_jsonl_of_nested_objects_with_nan(tmp_path):
    rows = [
        {"config": {"model": {"d_model": row["width"]}, "lr": row["lr"]}, "val_loss": row["loss"]}
        for row in runs().to_dict("records")
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))  # NaN as Python writes it; no last line end
    table = load_tables([str(tmp_path / "r.jsonl")], ask())
    assert "width is config.model.d_model, lr is config.lr" in said(table)
    assert (table.runs["status"] == "diverged").sum() == runs()["loss"].isna().sum()


def test_semicolons_and_a_byte_order_mark(tmp_path):
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbf" + runs().to_csv(index=False, sep=";").encode())
    assert len(load_tables([str(tmp_path / "s.csv")], ask()).runs) == 36
