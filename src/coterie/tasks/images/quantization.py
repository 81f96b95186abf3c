"""Quantises an ONNX file to int8 with ONNX Runtime's tool, calibrated on training images, and compares it with the float file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.data.batch import Loaders
from coterie.errors import CoterieError, RunError
from coterie.files import write_atomically
from coterie.tasks.exporting import require_onnx
from coterie.tasks.images.data.batch import DataBundle

CALIBRATION_IMAGES = 200
CALIBRATION_BATCH = 50


def quantize(folder: Path, data: Loaders) -> dict[str, Any]:
    """Replace a folder's ``model.onnx`` with an int8 file, and compare both on the evaluation split.

    Weights are int8 with a scale per channel, activations are uint8 with a scale per tensor. Both are stored with QuantizeLinear and
    DequantizeLinear nodes (QDQ). Calibration ranges are the minimum and maximum. These settings lost least on a CPU with
    AVX2 and without VNNI. Top-1 and changed predictions on the 359 test images of digits, on which the settings were also chosen,
    for a tiny_cifar of 20 thousand parameters (73.26% in float32) and a mobilenetv3_small_050 at 64 pixels (74.09%):

    - these settings: 73.26%, 3 changed; 72.70%, 25 changed;
    - without ``reduce_range``, which limits weights to 7 bits so that the 16-bit sums of that CPU cannot overflow: 72.98%, 13; 69.92%, 78;
    - one scale for all channels of a weight: 72.42%, 5; 69.36%, 39;
    - ranges by entropy: the same as by minimum and maximum; by percentile: 73.26%, 0; 72.42%, 26;
    - int8 activations: 73.26%, 3; 72.70%, 23, within chance of uint8, which is recommended for CPUs without VNNI;
    - without ``quant_pre_process``: 73.26%, 3; 72.14%, 26, and a file larger by a sixth for the second network.

    Args:
        folder: folder with ``model.onnx`` in float32, whose input is ``images``, float32 [B, C, H, W].
        data: the data that the network was trained on; up to 200 training images, evenly spaced over the split, are used for calibration.

    Returns:
        The content of ``int8.json``: ``float_top1`` and ``int8_top1`` (shares), ``images``, ``split``, ``changed_predictions``,
        ``standard_error`` (of the difference of the two, a share), ``calibration_images``, ``float_bytes``, ``int8_bytes`` and ``line``, a summary in words.
        The file's metadata also contain them, except the sizes and ``line``, under ``int8``.

    Raises:
        CoterieError: the graph does not fit into one file.
        RunError: ONNX Runtime's tool fails on this graph.
    """
    import onnx

    assert isinstance(data, DataBundle)
    path, plain = folder / "model.onnx", folder / "float.onnx"
    prepared, quantized = folder / "prepared.onnx", folder / "quantized.onnx"
    if (folder / "model.onnx.data").exists():
        raise CoterieError("--int8 takes networks of up to 2 GiB, whose graph and weights are one file")
    batches = _calibration_batches(data)
    path.rename(plain)
    try:
        _write_quantized(plain, prepared, quantized, batches)
        measures = {**_compare(plain, quantized, data), "calibration_images": sum(map(len, batches))}
        model = onnx.load(quantized)
        stored = {each.key: each.value for each in onnx.load(plain).metadata_props}
        del model.metadata_props[:]  # the tool's own entry is not JSON, unlike all other values
        onnx.helper.set_model_props(model, {**stored, "int8": json.dumps(measures)})
        write_atomically(path, lambda temporary: onnx.save(model, temporary))
        measures |= {"float_bytes": plain.stat().st_size, "int8_bytes": path.stat().st_size}
    finally:
        for temporary in (plain, prepared, quantized):
            temporary.unlink(missing_ok=True)
    return {**measures, "line": _in_a_line(measures)}


def _in_a_line(measures: dict[str, Any]) -> str:
    """Describes the comparison of int8 and float32 in a line."""
    return (
        f"int8: top-1 {measures['int8_top1']:.2%}, {measures['float_top1']:.2%} in float32, on {measures['images']:,} {measures['split']} images"
        f" (difference {100 * (measures['int8_top1'] - measures['float_top1']):+.2f} points, standard error"
        f" {100 * measures['standard_error']:.2f}; {measures['changed_predictions']:,} predictions changed);"
        f" {measures['int8_bytes']:,} bytes, {measures['float_bytes']:,} in float32;"
        f" calibrated on {measures['calibration_images']:,} training images"
    )


def _calibration_batches(data: DataBundle) -> list[NDArray[np.float32]]:
    """Returns batches of training images, preprocessed as in evaluation, float32 [b, C, H, W] each."""
    total = data.train_evaluation.num_samples
    # Evenly spaced, because folders are read by class and the first images would be of one class.
    numbers = np.linspace(0, total - 1, min(CALIBRATION_IMAGES, total)).round().astype(int).tolist()
    return [
        data.train_evaluation.prepared(numbers[start : start + CALIBRATION_BATCH]).numpy()
        for start in range(0, len(numbers), CALIBRATION_BATCH)
    ]


def _write_quantized(plain: Path, prepared: Path, target: Path, batches: list[NDArray[np.float32]]) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            images = next(self.batches, None)
            return None if images is None else {"images": images}

    with _quantizing():
        source = plain
        with contextlib.suppress(Exception):  # it fuses layers, and is optional
            quant_pre_process(str(plain), str(prepared))
            source = prepared
        quantization.quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )


@contextlib.contextmanager
def _quantizing() -> Iterator[None]:
    """Context that silences the tool's messages, and reports the reason of a failure in one line."""
    root = logging.getLogger()
    level = root.level
    try:
        root.setLevel(logging.CRITICAL)  # the tool uses the root logger, and calibration by histograms prints
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"this network cannot be quantised to int8: {type(error).__name__}: {reason}") from error
    finally:
        root.setLevel(level)


def _compare(plain: Path, quantized: Path, data: DataBundle) -> dict[str, Any]:
    """Evaluates both files in one pass over the run's evaluation split."""
    onnxruntime = require_onnx()
    named = {"test": data.test, "validation": data.validation, "training": data.train_evaluation}
    split, loader = next((name, loader) for name, loader in named.items() if loader is not None)
    sessions = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (plain, quantized)
    ]
    images = changed = float_only = int8_only = float_right = 0
    for batch in loader:
        assert not isinstance(batch.inputs, list)
        inputs, targets = batch.inputs.numpy(), batch.targets.numpy()
        expected, actual = (session.run(None, {"images": inputs})[0].argmax(1) for session in sessions)
        images += len(targets)
        changed += int((expected != actual).sum())
        float_right += int((expected == targets).sum())
        float_only += int(((expected == targets) & (actual != targets)).sum())
        int8_only += int(((expected != targets) & (actual == targets)).sum())
    difference = (int8_only - float_only) / images
    return {
        "float_top1": float_right / images,
        "int8_top1": (float_right - float_only + int8_only) / images,
        "split": split,
        "images": images,
        "changed_predictions": changed,
        # Standard error of the mean of paired differences, each -1, 0 or 1.
        "standard_error": math.sqrt(max(0.0, (int8_only + float_only) / images - difference**2) / images),
    }
