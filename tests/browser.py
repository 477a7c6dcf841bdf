"""A page in a real Chromium: what it logs, what it asks the network for, what it looks like.

Driven through choreographer, which kaleido brings along. Tests that use it are marked ``browser``.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

READY = "document.documentElement?.dataset.ready === 'yes'"
SECONDS = 300.0
"""Pages are ready within seconds on an idle machine; a busy one may take a minute."""


class Page:
    """One open tab.

    Attributes:
        problems: uncaught errors, and warnings and errors of the console.
        requests: every address asked for, inline data left out.
    """

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.problems: list[str] = []
        self.requests: list[str] = []

    async def command(self, name: str, **params: Any) -> dict[str, Any]:
        answer = await self.tab.send_command(name, params=params)
        assert "error" not in answer, (name, answer)
        return answer["result"]

    async def listen(self) -> None:
        async def hear(message: dict[str, Any]) -> None:
            params = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                url = params["request"]["url"]
                self.requests += [] if url.startswith(("data:", "blob:")) else [url]
            elif message["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                self.problems.append(str(params["entry"]))
            elif message["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                self.problems.append(str(params["args"]))

        self.tab.subscribe("*", hear, repeating=True)
        for domain in ("Runtime", "Log", "Network", "Page"):
            await self.command(f"{domain}.enable")

    async def screen(self, width: int, height: int, *, dark: bool = False, media: str = "") -> None:
        """Size of the window, and what the reader prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.command("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", media=media, features=[scheme])

    async def go(self, path: Path, *, until: str = READY) -> None:
        """Open a file and wait until an expression holds."""
        await self.command("Page.navigate", url=path.resolve().as_uri())
        await self.wait(until)

    async def wait(self, until: str) -> None:
        """Wait until an expression holds in the page."""
        end = asyncio.get_running_loop().time() + SECONDS
        while not await self.value(f"Boolean({until})"):
            assert asyncio.get_running_loop().time() < end, f"never true: {until}; {self.problems}"
            await asyncio.sleep(0.1)

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        found = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def shot(self, path: Path, *, whole: bool = True) -> None:
        """A screenshot, of the whole page or of the window."""
        found = await self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


def browse(visit: Callable[[Page], Awaitable[Any]]) -> Any:
    """Run a visit in a browser of its own and return what it returns."""
    from choreographer import Browser

    async def all_of_it() -> Any:
        async with Browser(headless=True) as browser:
            page = Page(await browser.create_tab("about:blank"))
            await page.listen()
            return await asyncio.wait_for(visit(page), SECONDS)

    return asyncio.run(all_of_it())
