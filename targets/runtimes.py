"""Which runtimes there is a backend for: planish's own, those registered, those installed beside.

Only names are known here; what a backend does is the compiler's business. A backend of another
distribution is an object with the texts ``name``, ``runtime`` and ``provider`` behind an entry
point of the group ``planish.backends`` that has its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from ..ir.entrypoints import BACKENDS, Offer, offers
from ..ir.errors import UsageError

Served = tuple[str, str]
"""A runtime and its provider, as targets name them."""

OWN: Mapping[Served, str] = MappingProxyType(
    {
        ("onnxruntime", "CPUExecutionProvider"): "onnxruntime-cpu",
        ("onnxruntime", "CUDAExecutionProvider"): "onnxruntime-cuda",
        ("tensorrt", ""): "tensorrt",
    }
)
"""Planish's own backends by what they serve."""
_REGISTERED: dict[Served, tuple[str, str]] = {}


def register_runtime(name: str, served: Served, place: str) -> None:
    """Make known that a backend of that name, made at a place, serves a runtime.

    Raises UsageError where the name or the runtime has a backend from somewhere else.
    """
    for other, theirs, whose in _taken():
        if (other, theirs, whose) == (name, served, place):
            return
        if other == name or theirs == served:
            what = f"the name {name!r}" if other == name else f"the runtime {label(served)}"
            raise UsageError(
                f"two backends claim {what}",
                where=f"{whose} and {place}",
                hint="rename one of them, or have it serve another runtime or provider",
            )
    _REGISTERED[served] = name, place


def backend_name(served: Served) -> str | None:
    """The backend that serves a runtime; None where none does.

    Raises UsageError where an installed one cannot be imported, or claims what another one has.
    """
    if served in OWN:
        return OWN[served]
    if served in _REGISTERED:
        return _REGISTERED[served][0]
    return _installed().get(served)


def runtime_names() -> tuple[str, ...]:
    """Runtimes that a target may name, planish's own first."""
    known = (*OWN, *_REGISTERED, *_installed())
    return tuple(dict.fromkeys(runtime for runtime, _ in known))


def check_offers() -> None:
    """Raises UsageError where two distributions offer backends of one name. Imports nothing."""
    _offers()


def offered(name: str) -> Any:
    """The backend object that a distribution offers under a name. Raises UsageError."""
    return _loaded(_offers()[name])


def forget() -> None:
    """Look for installed backends anew when the next one is asked for."""
    _installed.cache_clear()
    _loaded.cache_clear()


def label(served: Served) -> str:
    """As messages name it: "onnxruntime (CPUExecutionProvider)"."""
    runtime, provider = served
    return f"{runtime} ({provider})" if provider else runtime


def _taken() -> list[tuple[str, Served, str]]:
    own = [(name, served, "planish itself") for served, name in OWN.items()]
    return own + [(name, served, place) for served, (name, place) in _REGISTERED.items()]


def _offers() -> dict[str, Offer]:
    return offers(BACKENDS, taken=OWN.values())


@cache
def _installed() -> dict[Served, str]:
    """What each installed backend serves; every one is imported for that, once."""
    found: dict[Served, str] = {}
    known = _offers()
    for name, offer in known.items():
        served = (found_object := _loaded(offer)).runtime, found_object.provider
        if served in OWN or served in found:
            other = "planish itself" if served in OWN else str(known[found[served]])
            raise UsageError(
                f"two backends serve {label(served)}: one of {other} and one of {offer}",
                where=f"entry point {offer.place} of the group {BACKENDS}",
                hint=f"uninstall {offer.distribution}, or the other one",
            )
        found[served] = name
    return found


@cache
def _loaded(offer: Offer) -> Any:
    backend = offer.load()
    texts = [getattr(backend, key, None) for key in ("name", "runtime", "provider")]
    wrong = next((k for k, t in zip(_TEXTS, texts, strict=True) if not isinstance(t, str)), "")
    if not wrong and texts[0] == offer.name and not isinstance(backend, type):
        return backend
    what = f"it has no text {wrong!r}" if wrong else f"its name is {texts[0]!r}"
    if isinstance(backend, type):
        what = "it is a class: give an instance of it"
    raise UsageError(
        f"{offer.name!r}, which {offer.distribution} offers, is no backend: {what}",
        where=f"entry point {offer.place} of the group {BACKENDS}",
        hint="docs/writing-a-backend.md says what a backend is",
    )


_TEXTS = ("name", "runtime", "provider")
