"""`pipeline theory`: what it prints, and what it refuses."""

import json
from fractions import Fraction

import pytest

from pipeline.cli.theory import main
from pipeline.errors import RequestError
from pipeline.parameterization.rules import TABLE, Factor
from pipeline.parameterization.table_text import factor_text, rules_markdown
from tests.support.ruled import pairs

H = Fraction(1, 2)


def lines(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert main(list(argv)) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    return text.splitlines()


def row(printed: list[str], name: str) -> list[str]:
    (found,) = [line.split() for line in printed if line.split()[:1] == [name] and line.endswith(" derived")]
    return found[1:]


def test_table_of_sp_under_sgd(capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines(capsys, "--param", "sp", "--optimizer", "sgd", "--loss", "cross_entropy", "--model", "mlp")
    assert printed[:2] == [
        "sp, sgd, cross-entropy, mlp of depth 8, n >> d_out",
        "lr = eta * n^-1/2, the edge that the scaling arguments give",
    ]
    #                                 init   |W0|   out  grad   1 step       many         out    learns
    assert row(printed, "input") == ["0", "0", "0", "-1/2", "-1", "-", "-1", "-", "0", "no", "derived"]
    assert row(printed, "hidden1") == ["-1/2", "0", "0", "-1/2", "0", "-1", "0", "-1", "0", "yes", "derived"]
    assert row(printed, "hidden2-6") == ["-1/2", "0", "0", "-1/2", "0", "0", "0", "0", "0", "yes", "derived"]
    assert row(printed, "output") == ["-1/2", "+1/2", "0", "0", *["+1/2"] * 5, "yes", "derived"]
    text = "\n".join(printed)
    for words in (
        "controlled divergence",
        "logits grow like n^1/2, activations do not",
        "stops learning as n grows (vanishing effective updates): input",
    ):
        assert words in text
    (max_stable,) = [line for line in printed if line.startswith("  max-stable lr")]
    assert "n^-1/2" in max_stable
    assert "[derived, Proposition 2]" in max_stable
    (optimal,) = [line for line in printed if line.startswith("  optimal lr")]
    assert "n^-1/2" in optimal
    assert "[conjectured, 5.1]" in optimal


def test_default_is_the_gpt_under_adamw_and_says_what_was_only_observed(capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines(capsys, "--param", "sp")
    assert printed[0] == "sp, adamw, cross-entropy, gpt of depth 8, d_out >> n, neox embedding"
    (max_stable,) = [line for line in printed if line.startswith("  max-stable lr")]
    assert "n^-1/2" in max_stable
    assert "[observed, 5.1, Figure 5]" in max_stable
    (derived,) = [line for line in printed if line.startswith("    derived")]
    assert "n^-1 " in derived


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--param sp --optimizer sgd --model mlp --alpha 0", "up"),
        ("--param sp --optimizer sgd --model mlp --alpha 0.5", "lr = eta * n^-1/2"),
        ("--param sp --optimizer sgd --model mlp --depth 2", "Remark C.14 says n^-1/2"),
        ("--param sp --optimizer sgd --model mlp --depth 3", "stabilize themselves"),
        ("--param sp --optimizer sgd --model mlp --depth 3 --alpha 0", "(input -1/2, hidden1 +1/2, output +1)"),
        (
            "--param sp --optimizer sgd --loss softmax_mse",
            "max-stable rate about n^-0.50 [observed, Figure F.8, Table F.1]",
        ),
        ("--param sp --optimizer sgd --loss softmax_mse --model mlp", "published MLPs on multi-index data"),
        ("--param sp --alpha -1/2", "lr = eta * n^1/2"),
        ("--param sp --alpha=-1/2", "lr = eta * n^1/2"),
        ("--param sp --optimizer sgd --model mlp --depth 1000", "hidden2-998"),
        ("--param sp --optimizer sgd --depth 1000 --alpha 0", "catastrophic"),
        ("--param sp --optimizer sgd --clipping", "clipping now and then moved no exponent"),
        ("--param sp --clipping", "clipping does nothing under Adam"),
        ("--param sp --model mlp", "about n^-1/2 [observed, F.6]"),
        ("--param sp --no_qk_norm", "inconclusive [observed, Figure F.1]"),
        ("--param sp --fixed_norms", "fixed norms"),
        ("--param sp --kv_heads fixed", "keys, values"),
        ("--param sp_transition", "its limit d_out >> n"),
        ("--param sp_transition --d_out finite", "its limit n >> d_out"),
        ("--param sp_full_align --optimizer sgd --model mlp", "no longer moves the softmax [derived, F.7]"),
        ("--param sp_full_align --optimizer sgd --model mlp", "optimum shrinks with width on images"),
        ("--param mup --optimizer sgd --model mlp", "no layer stops learning"),
        ("--param sp --optimizer sgd --loss softmax_mse --readout_init zero --model mlp", "no bound"),
        ("--param sp --model mlp --activation linear --optimizer sgd", "[observed, F.5.2]"),
        ("--param sp --model mlp --train readout --optimizer sgd", "random features: no activation moves"),
        ("--param sp --model mlp --train no_input", "input fixed"),
        ("--param sp --model mlp --norms --fixed_norms", "norms, fixed norms"),
        ("--param sp --model mlp --biases", "readout bias"),
        ("--param sp --model mlp --residual", "n >> d_out, residual"),
        ("--param sp --model mlp --logit_norm --loss mse --optimizer sgd", "diverging logits do not feed back"),
        (
            "--param sp --model mlp --activation linear --depth 2 --loss mse --optimizer sgd",
            "Proposition C.18, Remark C.19",
        ),
        ("--param sp --tied", "whose gradient is the sum of both [conjectured]"),
        ("--param sp_full_align --optimizer sgd --embedding_init neox_always", "which norms keep from the logits"),
        ("--param sp --qk_norm_role vector", "qk-norms as norms"),
    ],
)
def test_every_flag_says_what_it_changes(capsys: pytest.CaptureFixture[str], argv: str, words: str) -> None:
    assert words in "\n".join(lines(capsys, *argv.split()))


def test_all_shows_every_parameterization_with_rules_and_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines(capsys, "--all", "--model", "mlp")
    rows = {
        (cells[0], cells[1]): " ".join(cells[2:]) for cells in map(str.split, printed) if cells and cells[0] in TABLE
    }
    assert set(rows) == set(pairs("sgd", "adamw", "muon"))
    #                                   init std         lr factor            max-stable, optimal: CE    MSE
    assert rows["mup", "sgd"] == "1 m^-1/2 1/m m m 1 1/m n^0 (d) n^0 (d) n^0 (d) n^0 (d)"
    assert rows["ntp", "sgd"] == "1 m^-1/2 m^-1/2 1 1 1/m 1/m n^1/2 (d) n^1/2 (c) n^0 (d) n^0 (c)"
    assert rows["sp", "sgd"].endswith("1 1 1 1 n^-1/2 (d) n^-1/2 (c) n^-1 (d) n^-1 (c)")
    assert rows["sp", "adamw"].endswith("1 1 1 1 n^-1 (d) n^-1 (c) n^-1 (d) n^-1 (c)")
    assert rows["mup", "muon"] == "1 m^-1/2 1/m 1 1 1 1/m n^0 (d) n^0 (d) n^0 (d) n^0 (d)"
    gpt = "\n".join(lines(capsys, "--all"))
    assert "n^-1/2 (o)" in gpt


def test_markdown_table_has_one_row_per_parameterization_from_the_rules() -> None:
    header, rule, *rest = rules_markdown().splitlines()
    assert header.startswith("| parameterization | init input | init hidden | init output | SGD lr input |")
    assert set(rule) == set("| -")
    rows = [line for line in rest if line.startswith("|")]
    assert [line.split("`")[1] for line in rows] == list(TABLE)
    assert {line.count("|") for line in (header, rule, *rows)} == {14}
    assert rows[list(TABLE).index("musoli")] == (
        "| `musoli` | 1 | m^-1/2 | m^-1/2 | m^1/2 | m^1/2 | m^-1/2 | m^-1/2 | 1 | 1 | 1/m | m^-1/2 | 1 (match_rms: m^-1/2) |"
    )
    assert rows[list(TABLE).index("umup")].endswith("| 1 | m^-1/2 | 1/m | - | - | - | - | m^-1/2 | 1 | 1/m | 1/m | - |")
    assert "| `sp` | 1 (neox: m^-1/2) |" in rows[0]


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (Factor(Fraction(0)), "1"),
        (Factor(Fraction(1)), "1/m"),
        (Factor(Fraction(-1)), "m"),
        (Factor(Fraction(-2)), "m^2"),
        (Factor(Fraction(2)), "1/m^2"),
        (Factor(H), "m^-1/2"),
        (Factor(-H), "m^1/2"),
        (Factor(Fraction(1), 1), "r/m"),
        (Factor(Fraction(1), -1), "1/(r m)"),
        (Factor(Fraction(0), -1), "1/r"),
    ],
)
def test_factors_in_words(factor: Factor, text: str) -> None:
    assert factor_text(factor) == text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give either --param NAME or --all"),
        (["--param", "sp", "--all"], "give either"),
        (["--all", "--alpha", "1"], "--alpha goes with --param"),
        (["--param", "musolli"], "did you mean 'musoli'"),
        (["--param", "sp", "--alpha", "half"], "'half' is no number or fraction"),
        (["--param", "sp", "--alpha", "1/0"], "'1/0' is no number or fraction"),
        (["--param", "sp", "--optimizer", "lion"], "invalid choice: 'lion'"),
        (["--param", "sp", "--depht", "2"], "--depht: unknown key depht, did you mean depth?"),
        (["--param", "sp", "--depth", "2"], "depth 2 is for the mlp"),
        (["--param", "sp", "--biases"], "biases is for the mlp: a gpt has biases"),
        (["--all", "--tied"], "tied: under mup embedding and readout have no one rule"),
        (["--param", "sp", "--depth", "0"], "at least 2 weight matrices"),
    ],
)
def test_a_wrong_request_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        main(argv)
    assert "\n" not in str(error.value)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "--embedding_init" in capsys.readouterr().out


@pytest.mark.parametrize(("scale", "keys"), [("spectral", "0"), ("original", "+1/2"), ("match_rms", "+1/2")])
def test_muon_with_fixed_kv_heads(scale: str, keys: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--param", "mup", "--optimizer", "muon", "--muon_scale", scale, "--kv_heads", "fixed")
    printed = lines(capsys, *flags)
    assert printed[0].startswith(f"mup, muon ({scale}), cross-entropy, gpt of depth 8")
    (row,) = (line.split() for line in printed if line.startswith("  keys, values"))
    assert row[6] == keys, "effective update after a step"
    assert row[-1] == "conjectured"
    (hidden,) = (line.split() for line in printed if line.startswith("  hidden  "))
    assert hidden[5] == "0"
    assert "five steps of Newton-Schulz" in "\n".join(printed)


def test_muon_at_one_rate_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    """match_rms grows like n^1/2 (+.40 to +.51 measured), the readout like n under SP (+.76 to +1.1)."""
    printed = lines(capsys, "--param", "sp", "--optimizer", "muon", "--muon_scale", "match_rms", "--alpha", "0")
    rows = {line.split()[0]: line.split() for line in printed if line.endswith("derived")}
    assert rows["hidden"][5] == "+1/2"
    assert rows["readout"][5] == "+1"
    assert "one rate for the readout beside Muon" in "\n".join(printed)


@pytest.mark.parametrize(
    ("optimizer", "rule", "inside", "change", "lr"),
    [
        ("adamw", "none", "L^0 [derived]", "L^1 [derived]", "L^-1/2 [conjectured]"),
        ("adamw", "sqrt", "L^-1/2 [derived]", "L^0 [derived]", "L^0 [derived]"),
        ("muon", "completep", "L^0 [derived]", "L^0 [derived]", "L^0 [derived]"),
        ("sgd", "completep", "L^0 [derived]", "L^0 [derived]", "L^0 [derived]"),
    ],
)
def test_depth(
    optimizer: str, rule: str, inside: str, change: str, lr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--param", "mup", "--optimizer", optimizer, "--depth_scaling", rule)
    rows = dict(" ".join(line.split()).rsplit(" L^", 1) for line in lines(capsys, *flags) if " L^" in line)
    assert f"L^{rows['effective updates inside branches']}" == inside
    assert f"L^{rows['change of the stream']}" == change
    assert f"L^{rows['best and max-stable lr']}" == lr
    found = json.loads("\n".join(lines(capsys, *flags, "--json")))
    assert found["depth"]["change of the stream"] == {"exponent": change.split()[0], "status": "derived"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--param", "sp", "--muon_scale", "original"), "--muon_scale is Muon's, not of --optimizer adamw"),
        (("--param", "umup", "--optimizer", "sgd"), "umup has no rule for sgd"),
        (("--param", "nanochat", "--optimizer", "muon"), "the initialization itself diverges with width"),
        (("--all", "--depth_scaling", "sqrt"), "--depth_scaling goes with --param, not with --all"),
        (
            ("--param", "sp", "--optimizer", "sgd", "--depth_scaling", "none"),
            "depth is not predicted for sgd without a rule",
        ),
    ],
)
def test_what_has_no_rule_is_refused(flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(RequestError) as refused:
        main(list(flags))
    assert words in str(refused.value)
