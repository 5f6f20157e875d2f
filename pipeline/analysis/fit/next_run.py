"""The training run that a prediction recommends: the learning rate of every role, and the command."""

import shlex

from pipeline.analysis.fit.predict import LrPrediction
from pipeline.analysis.study.load import GROUP, Study
from pipeline.analysis.study.studies import AnyStudy
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization import rules
from pipeline.parameterization.rules import Width
from pipeline.run.directory import RunDir


def role_lrs(study: AnyStudy, one: LrPrediction) -> dict[str, float]:
    """The recommended learning rate of every role, after the factor m^-c of the parameterization; empty without one,
    and for runs from elsewhere."""
    lr, group = one.recommended.lr, one.group
    if lr is None or not isinstance(study, Study):
        return {}
    width = Width(int(one.width), study.config.base_width, study.config.d_out)
    parameterization, family = rules.get(group.param), OPTIMIZERS[group.optimizer].family
    return {role: lr * parameterization.lr_factor(role, family, width) for role in rules.ROLES}


def command(study: AnyStudy, one: LrPrediction) -> str | None:
    """Trains with the recommended learning rate, everything else as in a run of the group; None without one,
    and for runs from elsewhere."""
    if one.recommended.lr is None or not isinstance(study, Study):
        return None
    of_group = study.runs
    for key in GROUP:
        of_group = of_group[of_group[key] == getattr(one.group, key)]
    run = str(of_group["run"].iloc[0])
    folder = next(folder for folder in study.dirs if (folder / run).is_dir())
    config = shlex.quote(str(RunDir(folder / run).config_file))
    return f"pipeline train --config {config} --width {one.width:g} --lr {one.recommended.lr:.4g}"
