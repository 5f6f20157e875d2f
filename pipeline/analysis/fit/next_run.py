"""The training run that a prediction recommends: the learning rate of every role, and the command."""

import dataclasses
import shlex

import pandas as pd

from pipeline.analysis.fit.predict import LrPrediction
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.studies import AnyStudy
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.errors import RequestError
from pipeline.parameterization import rules
from pipeline.parameterization.rules import Width


def role_lrs(study: AnyStudy, one: LrPrediction) -> dict[str, float]:
    """The recommended learning rate of every role, after the factor m^-c of the parameterization; empty without one,
    and for runs from elsewhere."""
    lr, group = one.recommended.lr, one.group
    if lr is None or not isinstance(study, Study):
        return {}
    config = study.config_of(_runs(study, one))
    width = Width(int(one.width), config.base_width, config.d_out)
    parameterization, families = rules.get(group.param), OPTIMIZERS[group.optimizer].families(config.muon_scale)
    return {role: lr * parameterization.lr_factor(role, family, width) for role, family in families.items()}


def command(study: AnyStudy, one: LrPrediction) -> str | None:
    """Trains with the recommended learning rate, everything else as in a run of the group; None without one,
    for runs from elsewhere, and where runs of the group cannot have that width."""
    if one.recommended.lr is None or not isinstance(study, Study) or refusal(study, one):
        return None
    config = shlex.quote(str(study.directory(str(_runs(study, one)["run"].iloc[0])).config_file))
    return f"pipeline train --config {config} --width {one.width:g} --lr {one.recommended.lr:.4g}"


def refusal(study: AnyStudy, one: LrPrediction) -> str:
    """Why runs of the group cannot have that width, such as one that is no multiple of a head; empty where they can."""
    if isinstance(study, Study):
        try:
            dataclasses.replace(study.config_of(_runs(study, one)), width=int(one.width))
        except RequestError as error:
            return str(error)
    return ""


def _runs(study: Study, one: LrPrediction) -> pd.DataFrame:
    """Of the group."""
    runs = study.runs
    for key, value in one.group.key.items():
        runs = runs[runs[key] == value]
    return runs
