"""Frames as a camera's bytes on a GPU: the normalisation is in the stem's weights, or a kernel of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cuda_steps import Lowered, Step, compiled, lowered
from onnx_graphs import GraphBuilder, Reference, assert_close

from tsm_edge.cards import Preprocess, load_target
from tsm_edge.cards.precision import FP32, PRECISIONS, Precision
from tsm_edge.errors import CompileError

HEIGHT, WIDTH = 13, 32
PREPROCESS = Preprocess(32, 32)
TOLERANCES = {"float32": 1e-5, "float16": 5e-3}


def rounded(graph: GraphBuilder) -> str:
    """As MobileNet's: zeros around the normalised frame, saturated; its first channels are the next cache."""
    x = graph.clip(graph.conv(graph.frame, 10, 3, 2), 0, 6)
    graph.feed_back(graph.cache((1, 2, *graph.shapes[x][2:])), graph.channels(x, 0, 2))
    return graph.conv(x, 8)


def two_readers(graph: GraphBuilder) -> str:
    """The frame is read a second time, as floats."""
    return graph.add(graph.conv(graph.frame, 4), graph.conv(graph.frame, 4))


# Network → its layers up to the head, and the kernel that a frame of bytes begins with.
NETWORKS: dict[str, tuple[Callable[[GraphBuilder], str], str]] = {
    "3×3": (rounded, "stem_bytes"),
    "7×7": (lambda graph: graph.relu(graph.conv(graph.frame, 12, 7, 2)), "stem_bytes"),
    "7×7 of whole vectors": (lambda graph: graph.relu(graph.conv(graph.frame, 16, 7, 2)), "stem_bytes"),
    "two readers": (two_readers, "frame_bytes"),
    "no stem": (lambda graph: graph.max_pool(graph.frame, 2, 2), "frame_bytes"),
}


@pytest.mark.parametrize(
    "precision", [FP32, pytest.param(PRECISIONS["fp16"], marks=pytest.mark.slow)], ids=["fp32", "fp16"]
)
def test_bytes_are_the_normalised_frame(precision: Precision, tmp_path: Path) -> None:
    """Against ONNX Runtime on floats, and against the way of floats on the GPU."""
    made: dict[str, Lowered] = {}
    references = {}
    for name, (build, _) in NETWORKS.items():
        graph = GraphBuilder(HEIGHT, WIDTH)
        model = graph.model(graph.head(build(graph), 3))
        references[name] = Reference(model)
        made[f"n{len(made)}"] = lowered(model, tmp_path, precision=precision, preprocess=PREPROCESS)
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    ptx = compiled(made, gpu)
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    mean, std = (np.array(values) for values in (PREPROCESS.mean, PREPROCESS.std))
    frame = ((picture / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    tolerance = TOLERANCES[precision.storage]
    for (prefix, network), (name, reference) in zip(made.items(), references.items(), strict=True):
        assert [call.spec.rule for call in network.program.byte_calls] == [NETWORKS[name][1]], name
        assert network.program.replaced_calls == (NETWORKS[name][1] == "stem_bytes")
        step = Step(network, ptx, prefix)
        logits, caches = step.from_bytes(picture, reference.zeros())
        expected, expected_caches = reference.step(frame, reference.zeros())
        of_floats, _ = step(frame, reference.zeros())
        assert_close(logits, expected, tolerance)
        assert_close(logits, of_floats, tolerance)
        for found, wanted in zip(caches, expected_caches, strict=True):
            assert_close(found, wanted, tolerance)


def test_a_network_that_computes_nothing_is_refused_in_a_line(tmp_path: Path) -> None:
    graph = GraphBuilder(4, 4)
    flat = graph.node("Flatten", [graph.frame], (1, 48), axis=1)
    with pytest.raises(CompileError, match="the logits are a graph input: there is nothing to compile"):
        lowered(graph.model(flat), tmp_path, preprocess=PREPROCESS)
