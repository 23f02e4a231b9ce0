"""Compare a config with variants. Each is trained in a separate process, with the same data and seeds."""

import logging
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from tabulate import tabulate

from detlite.agreement import list_test_sets
from detlite.config import load_config, override
from detlite.config.load import config_path
from detlite.config.yaml import format_yaml, parse_yaml
from detlite.console import one_line
from detlite.distributed.launcher import python_arguments
from detlite.errors import UserError, prefix_errors, shortened
from detlite.evaluation.evaluator import format_cell
from detlite.files import TEXT_LIMIT, read_json, read_json_lines, read_text, user_path
from detlite.logs import start_log
from detlite.modeling import build_model
from detlite.writing import claim, explain_write_errors, write_json, write_text

logger = logging.getLogger("detlite")


def compare(cfg, variants, seeds=(), jobs=1, folds=0):
    """Train and test a config, the row "default", and its variants. Return the rows of their table.

    All files of a run are in ``OUTPUT_DIR/compare/<label>``. A run is skipped if it has already finished with the same
    config. The table is written after every run, to ``OUTPUT_DIR/compare/table.md`` and ``.json``. A row is a dict, and
    has "error" if one of its trainings failed.

    Args:
        variants: what :func:`read_variants` returned.
        seeds: values of SEED; each row is trained once per value. If empty, the config's SEED is used.
        jobs: number of trainings that run at the same time. They share torch's threads.
        folds: if not 0, each row is trained once per fold and seed: SPLIT tests on each of the folds in turn.

    Raises:
        UserError: a variant is not a valid config, or SPLIT does not divide the data. Nothing was trained.
    """
    repeats = list_repeats(cfg, seeds, folds)
    folder = user_path(cfg.OUTPUT_DIR) / "compare"
    start_log()

    # All configs are checked before the first training.
    runs = {}  # (label, name of the repeat) -> config
    for label, changes in {"default": {}, **variants}.items():
        for name, keys in repeats.items():
            with prefix_errors(f"variant {label}: "):
                own = override(cfg, changes, f"variant {label}")
            runs[label, name] = override(own, keys | {"OUTPUT_DIR": str(folder / label / name)})

    claim(folder / "table.json", folder / "table.md")

    # Rewrite the table after each run, so that an interrupted comparison keeps the rows it has.
    threads = max(1, torch.get_num_threads() // jobs)
    results = {}
    pool, running = ThreadPoolExecutor(jobs), []
    try:
        futures = {pool.submit(run, own, threads, running): key for key, own in runs.items()}
        for future in as_completed(futures):
            label, name = futures[future]
            result = results[label, name] = future.result()
            logger.info("%s, %s: %s", label, name, result.get("error") or f"AP {format_cell(result['AP'])}")
            rows = []
            for label in ("default", *variants):
                done = [results[label, name] for name in repeats if (label, name) in results]
                if done:
                    rows.append(row_of(label, done))
            write_json(rows, folder / "table.json")
            write_text(format_table(rows) + "\n", folder / "table.md")
    finally:  # if a signal ends this process, the trainings end, too
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()
        pool.shutdown()
    return rows


def list_repeats(cfg, seeds, folds):
    """Return {name: keys of the config} of the trainings of each row: one per seed and fold."""
    repeats = {f"seed{seed}": {"SEED": seed} for seed in seeds} or {f"seed{cfg.SEED}": {}}
    if not folds:
        return repeats
    splits = [(node, "train") for node in cfg.DATASETS.TRAIN]
    splits += [(test_set.node, "test") for test_set in list_test_sets(cfg)]
    splits = [(node.get("DATASET", node), needed) for node, needed in splits]  # a TiledDataset holds what is divided
    for node, needed in splits:
        if node.get("SPLIT") != needed:
            raise UserError(f"--folds needs images that SPLIT divides: set {node.path}.SPLIT {needed}")
    by_fold = {}
    for name, keys in repeats.items():
        for fold in range(folds):
            by_fold[f"{name}-fold{fold}"] = dict(keys)
            for node, _ in splits:
                by_fold[f"{name}-fold{fold}"] |= {f"{node.path}.FOLDS": folds, f"{node.path}.FOLD": fold}
    return by_fold


def read_variants(path):
    """Read a YAML file that maps each label to the keys it changes, dotted or nested. A label names a folder."""
    variants = parse_yaml(read_text(config_path(path), " (--variants)", TEXT_LIMIT), path)
    if not isinstance(variants, dict) or not variants:
        raise UserError(f"{path}: expected a mapping from labels to keys of a config, got {shortened(variants)}")
    for label, changes in variants.items():
        if not re.fullmatch(r"\w[\w.+-]*", str(label)) or label == "default":
            rule = 'use letters, digits and ._+-; "default" is reserved for the config itself'
            raise UserError(f"{path}: {shortened(label)} is not a valid label: {rule}")
        if not isinstance(changes, dict) or not changes:
            raise UserError(f"{path}: {label}: expected keys of a config, got {shortened(changes)}")
    return {str(label): changes for label, changes in variants.items()}


def run(cfg, threads, running):
    """Train and test a config in a separate process, which is added to ``running``, unless that was done before.

    Write three files next to OUTPUT_DIR: ``seedN.yaml``, the config; ``seedN.txt``, the output of the process; and
    ``seedN.json``, the results of a finished run. ``detlite train`` can repeat the run with the config.

    Returns:
        {"seed", "AP", "AP50", "AP75", "parameters", "seconds_per_step", "config"}, or {"seed", "error"}.
    """
    # Reuse the results of a finished run with the same config.
    folder = user_path(cfg.OUTPUT_DIR)
    config, output, results = Path(f"{folder}.yaml"), Path(f"{folder}.txt"), Path(f"{folder}.json")
    values = given(cfg)
    claim(config, output, results)
    if results.is_file():
        result = read_json(results)
        if isinstance(result, dict) and result.get("config") == values:
            return result

    # Run the process. If it fails, the last line of its output is the error.
    results.unlink(missing_ok=True)
    write_text(format_yaml(values), config)
    with explain_write_errors(output), open(output, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *python_arguments("train", "--config-file", str(config))],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
        running.append(process)
    if process.wait():
        lines = output.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
        error = lines[-1].removeprefix("error: ")
        if process.returncode < 0:
            error = f"ended by signal {-process.returncode}"
        return {"seed": cfg.SEED, "error": f"{error} ({output})"}

    scores = read_json(folder / "evaluation.json").get("bbox", {})
    metrics = read_json_lines(folder / "metrics.jsonl")
    times = [line["seconds_per_step"] for line in metrics if "seconds_per_step" in line]
    model = build_model(load_config(folder / "config.yaml", ["MODEL.DEVICE", "cpu"]), initialize=False)
    result = {
        "seed": cfg.SEED,
        **{name: scores.get(name) for name in ("AP", "AP50", "AP75")},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds_per_step": statistics.median(times) if times else None,
        "config": values,
    }
    write_json(result, results)
    return result


def given(cfg):
    """Return a config as plain values, without the keys of MODEL that no layer sets: data and weights may set them."""
    values = cfg.plain()
    for key in list(values["MODEL"]):
        if cfg.MODEL.sources.get(key) == "default":
            del values["MODEL"][key]
    return values


def row_of(label, results):
    """Return a label's row: means over its trainings, AP of each and its standard deviation, or the first error."""
    row = {"variant": label, "seeds": [result["seed"] for result in results]}
    errors = [result["error"] for result in results if "error" in result]
    if errors:
        return row | {"error": errors[0]}
    for name in ("AP", "AP50", "AP75", "seconds_per_step"):
        values = [result[name] for result in results]
        row[name] = statistics.mean(values) if None not in values else None
        if name == "AP" and len(values) > 1 and None not in values:
            row["AP deviation"] = statistics.stdev(values)
    return row | {"parameters": results[0]["parameters"], "AP of each": [result["AP"] for result in results]}


def format_table(rows):
    """Format the rows as a Markdown table. The column "difference" compares AP with the row "default"."""
    default_ap = next((row.get("AP") for row in rows if row["variant"] == "default"), None)
    lines = []
    for row in rows:
        if "error" in row:
            lines.append([row["variant"], one_line(f"failed: {row['error']}")])
            continue
        score, difference = format_cell(row["AP"]), ""
        if len(row["seeds"]) > 1:
            score += f" ± {format_cell(row.get('AP deviation'))} ({', '.join(map(format_cell, row['AP of each']))})"
        if None not in (default_ap, row["AP"]) and row["variant"] != "default":
            difference = f"{row['AP'] - default_ap:+.3f}"
        numbers = [format_cell(row["AP50"]), format_cell(row["AP75"]), f"{row['parameters']:,}"]
        lines.append([row["variant"], score, difference, *numbers, format_cell(row["seconds_per_step"])])
    headers = ["variant", "AP", "difference", "AP50", "AP75", "parameters", "s/step"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)
