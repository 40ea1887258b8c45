"""Many places in few words: ``encoder.layer.{0-5}.output``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def folded(places: Iterable[str]) -> list[str]:
    """Dotted paths that differ in one number alone as one; each once, in order of the first."""
    found: dict[tuple[str, ...], list[int]] = {}
    for place in dict.fromkeys(places):
        parts = place.split(".")
        spots = [i for i, part in enumerate(parts) if part.isdecimal()]
        spot = spots[0] if spots else -1
        key = (*parts[:spot], "", *parts[spot + 1 :]) if spots else (place,)
        found.setdefault(key, []).append(int(parts[spot]) if spots else -1)
    return [_shown(key, numbers) for key, numbers in found.items()]


def _shown(key: Sequence[str], numbers: Sequence[int]) -> str:
    if numbers == [-1]:
        return key[0]
    return ".".join(part or _runs(sorted(set(numbers))) for part in key)


def _runs(numbers: Sequence[int]) -> str:
    """``{0-3,5}``; one number as it is."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return texts[0] if len(numbers) == 1 else f"{{{','.join(texts)}}}"
