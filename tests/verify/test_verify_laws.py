"""The identities that `textdiff verify` prints hold, and break with what they are about."""

from __future__ import annotations

import json

import pytest
import torch

from textdiff import cli
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import ode
from textdiff.shaping import analytic
from textdiff.verify import laws as verify_laws


@pytest.mark.parametrize("name", verify_laws.LAWS)
def test_every_identity_holds(name):
    found, limit, _ = verify_laws.LAWS[name]
    assert 0 <= found() <= limit


def test_each_is_printed_and_counts(capsys, monkeypatch):
    for name, (_, limit, package) in list(verify_laws.LAWS.items())[1:]:  # the first is computed, which is enough here
        monkeypatch.setitem(verify_laws.LAWS, name, (lambda limit=limit: limit / 2, limit, package))
    assert cli.main(["verify", "--process", "cold", "--json", "--quiet"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    laws = [record for record in records if "law" in record]
    assert {record["law"] for record in laws} == set(verify_laws.LAWS) and all(record["ok"] for record in laws)
    name = next(iter(verify_laws.LAWS))
    monkeypatch.setitem(verify_laws.LAWS, name, (lambda: 1.0, 1e-3, "torch"))
    assert cli.main(["verify", "--process", "cold", "--quiet"]) == 1
    assert "BROKEN" in next(line for line in capsys.readouterr().out.splitlines() if name in line)


def test_what_breaks_them_is_seen(monkeypatch):
    turn, widest, recover = ode._turn, analytic.posterior_deviation, Gaussian.recover

    def blind(*told):
        z, divergence = turn(*told)
        return z, 0.9 * divergence

    monkeypatch.setattr(ode, "_turn", blind)
    assert verify_laws.density() > 1e-3
    monkeypatch.setattr(verify_laws, "posterior_deviation", lambda *told: lambda t: 1.05 * widest(*told)(t))
    assert verify_laws.variance() > 0.03
    monkeypatch.setattr(Gaussian, "recover", lambda *told, **rest: 0.99 * recover(*told, **rest))
    assert verify_laws.diffusers() > 1e-4
    assert torch.isfinite(torch.tensor(verify_laws.inversion()))
