"""The page of a compile: how large it is, and how soon a browser shows it."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Outcome, at_most
from benchmarks.minilm import artifact
from benchmarks.settings import Settings
from planish.compiler.reporting.html.writing import PAGE

MAX_MEGABYTES, MAX_SECONDS, TIMES = 3.0, 2.0, 5
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


def report(settings: Settings) -> Outcome:
    """MiniLM as policy compiles it: bytes of its page, and seconds until all of it is drawn."""
    page = artifact(0, settings).path / PAGE
    megabytes, taken = page.stat().st_size / 1e6, _opened(page)
    seconds = statistics.median(taken) if taken else float("nan")
    row = (page.name, f"{megabytes:.2f}", f"{seconds:.2f}" if taken else "no browser here")
    return Outcome(
        f"the page of a compile of MiniLM, median of {TIMES} openings in headless Chromium",
        ("page", "MB", "seconds"),
        (row,),
        (
            at_most("MiniLM report, size", megabytes, MAX_MEGABYTES, "MB"),
            at_most("MiniLM report, opens in", seconds, MAX_SECONDS, "s")
            if taken
            else Figure("MiniLM report, opens in", "–", f"≤ {MAX_SECONDS:g} s", None, "no browser"),
        ),
    )


def _opened(page: Path) -> list[float]:
    """Seconds from asking for the page until it has drawn itself; [] without a browser."""
    binary, server = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or server is None:
        return []
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(server))
    try:
        return [_once(driver, page) for _ in range(TIMES)]
    finally:
        driver.quit()


def _once(driver: Any, page: Path) -> float:
    start = time.perf_counter()
    driver.get(page.as_uri())
    while not driver.execute_script("return document.documentElement.dataset.ready === 'yes'"):
        time.sleep(0.01)
    return time.perf_counter() - start
