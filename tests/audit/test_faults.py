"""Planted faults are found, where they are and nowhere else, with their cause."""

import pytest

from pipeline.audit.audit import audit
from pipeline.audit.causes import cause
from tests.audit.faults import FAULTS


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found_and_located(name: str) -> None:
    fault = FAULTS[name]
    found = audit(fault.build, (64, 128, 256), expect="mup", seeds=1)
    assert not found.ok
    labels = {finding.label for finding in found.findings}
    if fault.tensors:
        assert labels == set(fault.tensors)
    else:  # of eps: every tensor whose gradient falls
        hidden = {end.label for end in found.evidence.ends if end.role == "hidden"}
        assert hidden <= labels
        assert "head.weight" not in labels
    of = [f for f in found.findings if f.quantity == fault.quantity]
    assert {f.label for f in of} == labels
    assert all(fault.cause in cause(found.evidence, found.named, f) for f in of)
