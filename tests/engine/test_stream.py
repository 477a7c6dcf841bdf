"""Capture to disk equals capture, survives a stop, and refuses a folder of another job."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from cast_lens.engine import capture
from cast_lens.engine.capture import capture_to_disk, shard_path
from tests.engine.cases import few_shot_prompts
from tests.tiny import tiny_model


def test_shards_equal_the_capture_in_memory(tmp_path: Path) -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    found = capture_to_disk(model, prompts, tmp_path, layers=(0, 2), shard_samples=3)
    parts = [capture(model, prompts[start : start + 3], layers=(0, 2)) for start in range(0, len(prompts), 3)]
    expected = torch.cat(parts)
    assert len(found) == len(prompts)
    assert torch.equal(found.to_tensor(), expected)
    for start, stop in ((0, 1), (2, 4), (5, 10), (9, 10)):
        assert torch.equal(found[start:stop], expected[start:stop])
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_a_stopped_capture_goes_on_without_repeating_a_shard(tmp_path: Path) -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()

    def stop_after_two(items: Iterable[Any], title: str, total: int) -> Iterable[Any]:
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        capture_to_disk(model, prompts, tmp_path, shard_samples=3, progress=stop_after_two)
    kept = [shard_path(tmp_path, number) for number in (0, 1)]
    times = [path.stat().st_mtime_ns for path in kept]
    assert not shard_path(tmp_path, 2).exists()
    half = tmp_path / ".residuals-00002.safetensors.99999999-0123abcd"
    half.write_bytes(b"half a shard")
    found = capture_to_disk(model, prompts, tmp_path, shard_samples=3)
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert not half.exists()
    whole = capture_to_disk(model, prompts, tmp_path.parent / "whole", shard_samples=3)
    assert torch.equal(found.to_tensor(), whole.to_tensor())


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()[:3]
    capture_to_disk(model, prompts, tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .* delete it"):
        capture_to_disk(model, prompts, tmp_path)


@pytest.mark.parametrize("change", ["prompts", "model", "layers"])
def test_a_folder_of_another_job_is_refused(tmp_path: Path, change: str) -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    capture_to_disk(model, prompts, tmp_path, shard_samples=4)
    other = {
        "prompts": (model, prompts[::-1], None),
        "model": (tiny_model("llama", seed=1), prompts, None),
        "layers": (model, prompts, (1,)),
    }[change]
    with pytest.raises(ValueError, match=f"differs in {change}"):
        capture_to_disk(other[0], other[1], tmp_path, layers=other[2], shard_samples=4)


def test_slices_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    found = capture_to_disk(tiny_model("llama"), few_shot_prompts()[:3], tmp_path)
    with pytest.raises(ValueError, match="non-empty slice with step 1"):
        _ = found[2:2]
    with pytest.raises(ValueError, match="step 1"):
        _ = found[::2]
