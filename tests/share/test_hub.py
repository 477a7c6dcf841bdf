"""A vector goes to the Hub and comes back, through a stand-in that answers as the Hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pandas as pd
import pytest
import torch

from cast_lens.share.hub import from_hub, model_card, push_to_hub
from cast_lens.vectors import Provenance, SteeringVector

ORIGIN = Provenance("acme/tiny", "0123456789abcdef", "antonym", shots=5, sample_ids=("a", "b"), versions={"torch": "2"})
COMMIT = "a" * 40


def _vector() -> SteeringVector:
    return SteeringVector(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), (1, 3), ORIGIN)


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as one commit and one download need."""

    files: dict[str, bytes]
    asked: list[str]

    def log_message(self, *given: Any) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        type(self).asked.append(self.path)
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._json({"files": [{"path": one["path"], **how} for one in files]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    type(self).files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            address = f"http://{self.headers['Host']}/acme/antonym/commit/{COMMIT}"
            self._json({"commitUrl": address, "commitOid": COMMIT, "pullRequestUrl": None})
        elif self.path.endswith("/repos/create"):
            self._json({"url": f"http://{self.headers['Host']}/acme/antonym"})
        else:
            self._json({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        data = type(self).files.get(self.path.split("/resolve/main/")[-1]) if "/resolve/main/" in self.path else None
        if data is None:
            self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            self._send(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    _Hub.files, _Hub.asked = {}, []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_pushed_comes_back(hub: str) -> None:
    vector = _vector()
    steering = vector.intervention(3, strength=2.0, position="prompt_last")
    address = push_to_hub(vector, "acme/antonym", intervention=steering, endpoint=hub, token="x", license="mit")
    assert address.endswith(COMMIT)
    assert set(_Hub.files) == {"vector.safetensors", "provenance.json", "README.md"}
    assert json.loads(_Hub.files["provenance.json"])["fingerprint"] == ORIGIN.fingerprint
    back = from_hub("acme/antonym", endpoint=hub)
    assert torch.equal(back.directions, vector.directions)
    assert (back.layers, back.provenance) == (vector.layers, vector.provenance)


def test_what_is_not_there_is_one_error(hub: str) -> None:
    with pytest.raises(ValueError, match="'acme/antonym' on the Hub"):
        from_hub("acme/antonym", endpoint=hub)
    with pytest.raises(ValueError, match="on the Hub"):
        from_hub("no name at all", endpoint=hub)
    _Hub.files["vector.safetensors"] = b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00x\x85R."
    with pytest.raises(ValueError, match=r"asks to run posix\.system"):
        from_hub("acme/antonym", endpoint=hub)
    whole = _vector().to_bytes()
    for damaged in (whole[:-20], whole[:50], whole.replace(b"antonym", b"synonym"), b"", b"<html>sign in</html>"):
        _Hub.files["vector.safetensors"] = damaged
        with pytest.raises(ValueError, match=r"vector\.safetensors"):
            from_hub("acme/antonym", endpoint=hub)


def test_the_card_says_what_was_measured_beside_which_placebo() -> None:
    vector = _vector()
    frame = pd.DataFrame(
        {"condition": ["cast", "placebo: random direction"], "n": [50, 50], "gain": [0.12, 0.01], "low": [0.02, -0.05]}
    )
    steering = vector.intervention(3, strength=2.0, operator="replace", position="all")
    card = model_card(vector, "acme/antonym", intervention=steering, measured=frame, data="WordNet, own licence")
    for told in (
        'base_model: "acme/tiny"',
        "0123456789abcdef",
        "Chosen: replace at layers [3], strength 2, at all.",
        "| placebo: random direction | 50 | 0.01 | -0.05 |",
        "WordNet, own licence",
        "SteeringVector.from_hub('acme/antonym')",
    ):
        assert told in card
    assert "No placebo" not in card
    assert "No placebo was measured" in model_card(vector, "acme/antonym", measured=frame[:1])
    bare = model_card(vector, "acme/antonym")
    assert "Nothing was measured" in bare
    assert "No layer or strength was chosen" in bare
    assert "licence:** not given" in bare
