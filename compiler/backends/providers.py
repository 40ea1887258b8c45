"""Run a model with the provider that it is for, where ONNX Runtime has that here.

The artifact's own script does it. Nobody ran this with a GPU yet: its tests have a package in ONNX
Runtime's place that claims the provider and computes on the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...targets.runtime import available_providers
from ..reporting.provider import RUN
from .scripts import ScriptError, answered, compared

if TYPE_CHECKING:
    from ..result import CompileResult

NOT_THERE = 2
"""The script's status where this machine cannot run the model with the provider."""


def tried(result: CompileResult, folder: Path) -> CompileResult:
    """The result after model.onnx was run with its provider, if that is installed.

    What it answers is held to the recorded answers; a difference is said first.
    """
    provider = result.provider
    if provider is None or provider.name not in available_providers():
        return result
    what = f"model.onnx, with {provider.name}"
    try:
        answers = answered(folder / RUN, [], result.samples)
    except ScriptError as error:
        said = f"{what}, was not run here: {error}"
        found = replace(provider, checks=(*provider.checks, said))
        again = replace(result, provider=found)
        return again if error.status == NOT_THERE else _failing(again, said)
    outcome = compared(provider.tolerance, result.samples, answers.samples)
    said = f"{outcome.sentence(what)}; {answers.time} (median)"
    found = replace(provider, checks=(*provider.checks, said), ran=True)
    again = replace(result, provider=found)
    return _failing(again, f"{what}: {'; '.join(outcome.failures)}") if outcome.failures else again


def _failing(result: CompileResult, sentence: str) -> CompileResult:
    shortfall = "; ".join(filter(None, (result.shortfall, "model.onnx failed with its provider")))
    return replace(result, notes=(sentence, *result.notes), shortfall=shortfall)
