"""Pages to look at, and a browser to look at them with. Without one the tests are skipped."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import planish

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--force-prefers-reduced-motion", "--window-size=1440,1000",
)  # fmt: skip
PIPELINE = "canonicalize,prune-neurons{ratio=0.25},low-rank{ratio=0.6},quantize{scheme=static}"
WIDTH, BLOCKS = 96, 3


@dataclass
class Page:
    """A page in the browser. element and elements take CSS selectors."""

    driver: Any

    def open(self, path: Path) -> None:
        """Open a file and wait until it has drawn itself."""
        self.driver.get(path.as_uri())
        self.until("return document.documentElement.dataset.ready === 'yes'")

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, seconds: float = 20.0) -> None:
        """Wait until a script returns something true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}\n{self.errors()}"
            time.sleep(0.03)

    def element(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def elements(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )]  # fmt: skip

    def button(self, text: str) -> Any:
        return self.driver.find_element("xpath", f"//button[normalize-space(.)='{text}']")

    def press(self, element: Any) -> None:
        """Click where it is, scrolled into view."""
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def labelled(self, side: str, start: str) -> Any:
        """The box of a side (left or right) whose label starts like this, None where none does."""
        return self.run(
            "return [...document.querySelectorAll(`.side.${arguments[0]} .box`)]"
            ".find(b => b.getAttribute('aria-label').startsWith(arguments[1])) ?? null",
            side, start,
        )  # fmt: skip

    def poke(self, side: str, start: str) -> None:
        """Click a box of a graph, wherever it stands."""
        box = self.labelled(side, start)
        assert box is not None, self.run(
            "return [...document.querySelectorAll(`.side.${arguments[0]} .box`)]"
            ".map(b => b.getAttribute('aria-label')).join('\\n')", side,
        )  # fmt: skip
        self.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", box)

    def errors(self) -> list[str]:
        """What the console complained of since last asked."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    server = shutil.which("chromedriver")
    if binary is None or server is None:
        pytest.skip("no browser here: chromium and chromedriver are not on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(server)
    found = webdriver.Chrome(options=options, service=service)
    yield found
    found.quit()


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    """A browser whose console must stay silent."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    opened = Page(driver)
    opened.errors()
    yield opened
    assert opened.errors() == []


def network(path: Path) -> Path:
    """Blocks of four linear layers with an activation and a residual, named as PyTorch would."""
    random, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for block in range(BLOCKS):
        stem = f"encoder.layer.{block}"
        sizes = {"attention.query": (WIDTH, WIDTH), "attention.output": (WIDTH, WIDTH),
                 "mlp.up": (WIDTH, 2 * WIDTH), "mlp.down": (2 * WIDTH, WIDTH)}  # fmt: skip
        value = last
        for name, shape in sizes.items():
            weight, made = f"{stem}.{name}.weight", f"{stem}.{name}"
            weights.append(weight_of(random, weight, shape))
            operator = f"/{stem.replace('.', '/')}/{name.replace('.', '/')}/MatMul"
            nodes.append(helper.make_node("MatMul", [value, weight], [made], name=operator))
            value = made
            if name in ("attention.query", "mlp.up"):
                act = f"{stem}.{name}.act"
                nodes.append(helper.make_node("Relu", [value], [act], name=f"{operator[:-7]}/Relu"))
                value = act
        last = "y" if block == BLOCKS - 1 else f"{stem}.out"
        nodes.append(helper.make_node("Add", [value, f"{stem}.attention.output"], [last]))
    return save(path, nodes, weights, WIDTH)


def weight_of(random: np.random.Generator, name: str, shape: tuple[int, int]) -> onnx.TensorProto:
    """Weights of falling spectrum, so that few directions hold most of them."""
    left, right = random.normal(size=(shape[0], 24)), random.normal(size=(24, shape[1]))
    full = (left @ right) / shape[0] + 0.01 * random.normal(size=shape)
    return numpy_helper.from_array(full.astype(np.float32), name)


def save(path: Path, nodes: list[Any], weights: list[Any], width: int) -> Path:
    face = [helper.make_tensor_value_info(name, 1, ["batch", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", face[:1], face[1:], weights)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def evaluate(run: Callable[..., Any]) -> planish.Scores:
    """How near answers are to themselves in float, by halves of the samples."""
    x = np.random.default_rng(7).normal(size=(64, WIDTH)).astype(np.float32)
    score = 100.0 - 10.0 * np.abs(run({"x": x})[0]).mean(axis=1)
    halves = {"first half": np.arange(32), "second half": np.arange(32, 64)}
    return planish.Scores(score, slices=halves)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real compile of a real model with every technique, its page within."""
    folder = tmp_path_factory.mktemp("html")
    x = np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    planish.compile(
        network(folder / "model.onnx"), "x86-avx2", pipeline=PIPELINE,
        calibration=folder / "data.npz", evaluate=evaluate, max_drop=1000, goal="size",
        output=folder / "out", threads=1, progress=False,
    )  # fmt: skip
    return folder / "out"


@pytest.fixture(scope="session")
def pages() -> Any:
    """This module, for models and helpers."""
    return sys.modules[__name__]
