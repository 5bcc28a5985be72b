"""The tables and sentences that `vqtk eval` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqtk.metrics import Metric

_COLUMNS = {
    "stage": ("stage", "d"),
    "bits": ("bits", ".5g"),
    "bound_nats": ("bound\n(nats per example)", ".6g"),
    "bound_bits_per_dim": ("bound\n(bits/dim)", ".5f"),
    "bound_bits_per_char": ("bound\n(bits/char)", ".5f"),
}
"""The heading and the format of the columns that are no metrics."""
_DISTORTION = {
    "mse": "MSE\n(training units)",
    "gaussian": "density\n(nats per value)",
    "bernoulli": "distortion\n(nats per value)",
    "categorical": "distortion\n(nats per token)",
}
FEW = 1000
"""Number of examples below which distances between feature sets are mostly noise."""
_WIDTH = 100
"""Width of tables, in columns, outside a terminal."""


def print_evaluation(found: dict[str, Any], metrics: dict[str, Metric]) -> None:
    """Print what was measured: a row for each stage, and what else was asked for."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(_stage_table(found, metrics))
    if "probe" in found:
        console.print()
        console.print(_probe_table(found["probe"]))
    if "references" in found:
        console.print()
        console.print(_reference_table(found["references"]))
    if "codec" in found:
        for table in _codec_tables(found["codec"]):
            console.print()
            console.print(table)
    for line in [*_lines(found), *_metric_lines(found, metrics)]:
        console.print(line, markup=False, soft_wrap=True)


def _stage_table(found: dict[str, Any], metrics: dict[str, Metric]) -> Any:
    table = _table(found["name"])
    rows = found["stages"]
    columns = [_column(key, found["loss"], metrics) for key in rows[0]]
    for title, _ in columns:
        table.add_column(title, justify="right", overflow="fold")
    for row in rows:
        shown = zip(row.values(), columns, strict=True)
        table.add_row(*("–" if value is None else format(value, digits) for value, (_, digits) in shown))
    return table


def _column(key: str, loss: str | None, metrics: dict[str, Metric]) -> tuple[str, str]:
    """Return the heading of a column, and the format of its values."""
    if key == "distortion":
        return _DISTORTION.get(str(loss), f"{loss} loss"), ".5f"
    return _COLUMNS.get(key) or _shown_as(key, metrics)


def _shown_as(name: str, metrics: dict[str, Metric]) -> tuple[str, str]:
    """Return the title of a metric, on two lines if it has two parts, and the format of its values."""
    from vqtk.metrics import metric_class

    metric = metrics.get(name) or metric_class(name)
    assert metric
    title = metric.title or name
    return title.replace(" (", "\n(", 1) if "(" in title else title.replace(" ", "\n", 1), metric.digits


def _metric_lines(found: dict[str, Any], metrics: dict[str, Metric]) -> list[str]:
    """Return a line for each metric that was asked for."""
    lines = []
    for name, metric in metrics.items():
        value = found["test"][name]
        shown = "–" if value is None else format(value, metric.digits)
        lines.append(f"{name}: {shown} ({metric.units}; {metric.better} is better).")
    return lines


def _probe_table(found: dict[str, Any]) -> Any:
    table = _table("accuracy of the probe")
    mlp = f"MLP of {found['hidden']}"
    for title in ("stages", "linear\n(test)", f"{mlp}\n(test)", "linear\n(training)", f"{mlp}\n(training)"):
        table.add_column(title, justify="right", overflow="fold")
    columns = (found[key] for key in ("linear", "mlp", "linear_train", "mlp_train"))
    for stage, row in enumerate(zip(*columns, strict=True)):
        table.add_row(str(stage + 1), *(f"{value:.4f}" for value in row))
    return table


def _reference_table(found: dict[str, Any]) -> Any:
    table = _table("references: MSE (pixels)")
    for title in ("bits", "K-means", "Gaussian R(D)"):
        table.add_column(title, justify="right", overflow="fold")
    for one, other in zip(found["kmeans"]["stages"], found["gaussian"]["stages"], strict=True):
        table.add_row(f"{one['bits']:.5g}", f"{one['mse_pixels']:.5f}", f"{other['mse_pixels']:.5f}")
    return table


def _codec_tables(found: dict[str, Any]) -> list[Any]:
    files = _table("files of codes: bits per example")
    for title in ("prior", "entropy", "codes", "whole file", "bits/dim", "prior's tables\n(bytes)"):
        files.add_column(title, justify="left" if title == "prior" else "right")
    for row in found["coders"]:
        bits = (row[f"{key}bits_per_example"] for key in ("entropy_", "payload_", ""))
        values = (*(f"{value:.3f}" for value in bits), f"{row['bits_per_dim']:.5f}", f"{row['prior_bytes']:,}")
        files.add_row(row["name"], *values)
    if not found["formats"]:
        return [files]
    beside = _table("image formats: bytes per image")
    for title in ("format", "quality", "file", "without header", "PSNR\n(dB)"):
        beside.add_column(title, justify="left" if title == "format" else "right")
    for one in found["formats"]:
        for point in one["points"]:
            psnr = "–" if point["psnr_db"] is None else f"{point['psnr_db']:.2f}"
            values = f"{point['bytes']:.1f}", f"{point['payload']:.1f}", psnr
            beside.add_row(one["name"], str(point["quality"]), *values)
    return [files, beside]


def _codec_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for one in found["formats"]:
        rates = [one.get(f"bd_rate_{key}") for key in ("bytes", "payload")]
        said = ["no common range of PSNR" if rate is None else f"{rate:+.1f} %" for rate in rates]
        lines.append(f"BD-rate against {one['name']}: {said[0]} for whole files, {said[1]} without headers.")
    return [*lines, *([found["note"]] if found["note"] else [])]


def _table(title: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )


def _lines(found: dict[str, Any]) -> list[str]:
    """Return the lines below the tables."""
    items, every = found["items"], found["test_items"]
    whole = f"a subset of {every:,} drawn with seed {found['seed']}" if found["is_subset"] else "the whole split"
    lines = [f"{items:,} test examples, {whole}; {found['bits_per_item']:g} bits per example."]
    if found["kind"] == "image":
        lines.append(
            "Pixels lie in [0, 1] and reconstructions are clamped to this range; PSNR is that of the mean MSE."
        )
    if found["search"]:
        lines.append(f"Encoded with the search {found['search']}.")
    lines += [found["likelihood"], _rates(found["rates"])]
    if "recall_at_1" in found["test"]:
        lines.append(_recall(found))
    if "probe" in found:
        probed = found["probe"]
        lines.append(
            f"Probe: {probed['epochs']} epochs on {probed['train_items']:,} training examples, Adam {probed['lr']:g}, "
            f"batches of {probed['batch']}; accuracy on {probed['test_items']:,} test examples after the last epoch."
        )
        lines += [_overfits(name, probed) for name in probed["overfits"]]
    if "quality" in found:
        lines += _quality(found["quality"])
    if "codec" in found:
        lines += _codec_lines(found["codec"])
    if "references" in found:
        compared = found["references"]
        fitted = (
            f"fitted on {compared['items']:,} training examples, measured on {compared['test_items']:,} test examples"
        )
        lines += [f"{compared['kmeans']['label']}: {fitted}.", f"{compared['gaussian']['label']}."]
    return lines


def _recall(found: dict[str, Any]) -> str:
    test = found["test"]
    recalls = ", ".join(f"@{most} {test[f'recall_at_{most}']:.4f}" for most in (1, 10, 100))
    return (
        f"Recall of the nearest of {found['items']:,} vectors for {found['data']['queries']:,} queries, searching "
        f"the decoded ones exactly: {recalls}. Mean squared error of a vector, in the files' units: "
        f"{test['squared_error']:.6g}."
    )


def _overfits(name: str, probed: dict[str, Any]) -> str:
    test, train = probed[name], probed[f"{name}_train"][-1]
    best = max(range(len(test)), key=test.__getitem__)
    return (
        f"warning: the {'linear classifier' if name == 'linear' else 'MLP'} overfits: its test accuracy falls from "
        f"{test[best]:.4f} after {best + 1} stages to {test[-1]:.4f}, while its training accuracy is {train:.4f}. "
        "Its last rows reflect the small training set more than the codes: train it on more examples."
    )


def _rates(found: dict[str, Any]) -> str:
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    counted = "1 batch" if found["batches"] == 1 else f"{found['batches']} batches"
    over = f"medians over {counted} of {found['batch']}, without the first one"
    if not found["warmed_up"]:
        over = f"one batch of {found['batch']}, without a warm-up"
    speeds = (
        f"Encodes {found['encode_items_per_s']:.4g} examples/s, decodes {found['decode_items_per_s']:.4g} examples/s"
    )
    return f"{speeds}: {over}; {threads}, {found['device']}."


def _quality(found: dict[str, Any]) -> list[str]:
    reference = found["reference"]
    standard = "fid" in found
    frechet, kernel = ("fid", "kid") if standard else ("frechet_classifier", "kid_classifier")
    names = ("FID", "KID") if standard else ("Fréchet distance", "Kernel distance")
    where = "" if standard else f" in {found['features']}"
    counts = f"{found['samples']:,} samples, {found['test_items']:,} test examples"
    lines = [
        f"{name}{where}: {found[key]:.4g}; {found['train_items']:,} training examples: {reference[key]:.4g}"
        for name, key in zip(names, (frechet, kernel), strict=True)
    ]
    lines.append(f"Distances between {counts}; lower is better.")
    if found["samples"] < FEW:
        lines.append(f"With fewer than {FEW:,} examples these distances are mostly noise.")
    if found["classifier_test_accuracy"] is not None:
        lines.append(f"The classifier's own test accuracy is {found['classifier_test_accuracy']:.4f}.")
    return [*lines, found["note"]] if found["note"] else lines
