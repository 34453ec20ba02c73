from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from metric_samples import CONDITIONS, SIZES
from PIL import Image

from percept.cli import main
from percept.errors import InputError, InputErrors
from percept.files import sha256_file, write_parquet_atomic
from percept.inference.run import Condition, Run, open_run, write_conditions
from percept.manifest import load_rgb
from percept.metrics import evaluate, fidelity, vintage
from percept.metrics.color import Images
from percept.metrics.evaluate import evaluate_run, import_metrics, select_metrics
from percept.metrics.registry import METRICS

MakeRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def no_weights(cache: Path) -> None:
    """An empty cache, unless the test brings weights."""


def values(run: Run, metric: str) -> dict[tuple[str, str], float]:
    frame = run.metrics
    frame = frame[frame["metric"] == metric]
    return {(row.content_id, row.condition): row.value for row in frame.itertuples()}


def damage(run: Run, path: str) -> None:
    """Replace an image by another of the same size."""
    file = run.root / path
    Image.fromarray(255 - load_rgb(file)).save(file)


def touch_outputs(run: Run) -> Run:
    """Make the run's outputs other ones, as a repeated inference would."""
    row = run.outputs.index[run.outputs["condition"] == "vivid"][0]
    path = run.outputs.loc[row, "path"]
    damage(run, path)
    outputs = run.outputs.copy()
    outputs.loc[row, "sha256"] = sha256_file(run.root / path)
    write_parquet_atomic(run.root / "outputs.parquet", outputs)
    return open_run(run.root)


def test_every_image_and_metric_that_can_be_has_a_row(
    make_run: MakeRun, random_backbone: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)  # it may be installed here
    done = evaluate_run(run)
    assert done.computed == tuple(
        name
        for name, metric in METRICS.items()
        if metric.weights != "vgg16" and not (metric.group or metric.package)
    )
    assert done.failed == ()
    failed = "failed in inference: 1 output"
    without = f"{failed}; no reference: 1 photograph"
    small = "smaller than 176×176 pixels"
    assert done.skipped == {
        "psnr": without,
        "psnr_ab": without,
        "ssim": f"{without}; smaller than 11×11 pixels: 3 outputs",
        "ms_ssim": f"{without}; {small}: 8 outputs",
        "ms_ssim_ab": f"{without}; {small}: 8 outputs",
        "ciede2000": without,
        "ciede2000_p95": without,
        "lpips_alex": f"{without}; smaller than 31×31 pixels: 3 outputs",
        "lpips_vgg": "no vgg16 weights: run `percept weights fetch`",
        "lpips_alex_deep": f"{without}; smaller than 31×31 pixels: 3 outputs",
        "lpips_vgg_deep": "no vgg16 weights: run `percept weights fetch`",
        "semantic_distance": "no vgg16 weights: run `percept weights fetch`",
        "lost_contrast": "no vgg16 weights: run `percept weights fetch`",
        "cvvdp": "no cvvdp package: run `pip install 'percept[cvvdp]'`",
        "colorfulness": failed,
        "colorfulness_abs": failed,
        "luminance_fidelity": failed,
        "luminance_ssim": f"{failed}; smaller than 11×11 pixels: 3 outputs",
        "grain_retention": failed,
        "chroma_bleeding": f"{failed}; grey: 4 outputs",
        "chroma_lag": f"{failed}; grey: 4 outputs",
        "patchiness": f"{failed}; grey: 4 outputs",
        "artifact_chroma": f"{failed}; no mask: 4 photographs",
        "palette_distance": f"{failed}; no palette: 4 photographs",
    }
    assert open_run(run.root).metrics["value"].notna().all()
    everything = {(content, condition) for content in SIZES for condition in CONDITIONS}
    ok = everything - {("mill", "vivid")}
    referenced = {key for key in ok if key[0] != "portrait"}
    assert values(run, "colorfulness").keys() == values(run, "luminance_fidelity").keys() == ok
    assert values(run, "psnr").keys() == values(run, "ciede2000_p95").keys() == referenced
    large = {key for key in referenced if key[0] != "sliver"}
    assert values(run, "ssim").keys() == values(run, "lpips_alex").keys() == large

    reopened = open_run(run.root)
    assert reopened.info["metrics_skipped"] == done.skipped
    described = reopened.info["metrics"]["lpips_alex"]
    assert described["higher_is_better"] is False
    assert described["range"] == [0.0, None]
    assert len(described["weights"]) == 64
    frame = reopened.metrics
    assert list(frame.columns) == ["content_id", "condition", "metric", "value"]
    assert not frame.duplicated(["content_id", "condition", "metric"]).any()
    order = frame["content_id"].map(list(SIZES).index) * 10
    order += frame["condition"].map(CONDITIONS.index)
    assert order.is_monotonic_increasing


def test_values_are_those_of_the_metric_functions(make_run: MakeRun) -> None:
    run = make_run()
    evaluate_run(run)
    output, source, true = (
        load_rgb(run.root / path)
        for path in ("images/vivid/harbour.png", "photos/harbour.png", "photos/harbour-true.png")
    )
    images = Images(output, source=source, reference=true)
    for name, function in {
        "psnr": fidelity.psnr,
        "ciede2000": fidelity.ciede2000,
        "colorfulness": vintage.colorfulness,
        "luminance_fidelity": vintage.luminance_fidelity,
    }.items():
        assert values(run, name)["harbour", "vivid"] == function(images), name


def test_a_perfect_reference_scores_perfectly(make_run: MakeRun) -> None:
    """Infinite PSNR is stored as it is, and survives the file."""
    run = make_run()
    evaluate_run(run)
    for content in ("harbour", "mill"):
        key = (content, "reference")
        assert values(run, "psnr")[key] == values(run, "psnr_ab")[key] == math.inf
        assert values(run, "ssim")[key] == 1.0
        assert values(run, "ciede2000")[key] == values(run, "ciede2000_p95")[key] == 0.0
        assert values(run, "luminance_fidelity")[content, "gray"] == 0.0
        assert values(run, "colorfulness")[content, "gray"] == 0.0


def test_any_number_of_processes_writes_the_same_bytes(
    make_run: MakeRun, random_backbone: object, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = make_run("one"), make_run("two")
    damage(one, "images/gray/portrait.png")
    damage(two, "images/gray/portrait.png")
    assert main(["metrics", str(one.root)]) == 1
    alone = capfd.readouterr()
    assert main(["metrics", str(two.root), "--nproc", "2"]) == 1
    shared = capfd.readouterr()
    for name in ("metrics.parquet", "run.json"):
        first, second = (run.root.joinpath(name).read_bytes() for run in (one, two))
        assert first.replace(b"/one", b"/two") == second, name
    assert alone.out.replace("/one", "/two") == shared.out
    assert "portrait, gray: " in shared.err
    assert shared.err == alone.err.replace("/one", "/two")
    counts = two.metrics["metric"].value_counts()
    assert counts["psnr"] == 8
    assert counts["lpips_alex"] == 5
    assert counts["colorfulness"] == 10


@pytest.mark.parametrize("nproc", ["1", "2"])
def test_a_command_that_was_stopped_goes_on(
    make_run: MakeRun, nproc: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And what it writes then is what it would have written."""
    whole, run = make_run("whole"), make_run("cut")
    words = ["--metric", "psnr", "chroma_bleeding"]  # infinite for references, NaN for grey ones

    def stop(drawn: int, total: int) -> None:
        assert total == 4
        if drawn == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, words[1:], progress=stop)
    assert not (run.root / "metrics.parquet").exists()
    (part,) = (run.root / "journal").iterdir()
    lines = part.read_text().splitlines()
    assert len(lines) == 3
    part.write_text("\n".join([*lines[:2], lines[2][:-9]]))  # torn
    assert main(["metrics", str(whole.root), *words]) == 0
    assert "earlier start" not in capfd.readouterr().err
    assert main(["metrics", str(run.root), *words, "--nproc", nproc]) == 0
    assert "photographs measured by an earlier start: 2" in capfd.readouterr().err
    for name in ("metrics.parquet", "run.json"):
        first, second = (one.root.joinpath(name).read_bytes() for one in (whole, run))
        assert first.replace(b"/whole", b"/cut") == second, name
    assert not list((run.root / "journal").iterdir())


def test_what_was_measured_before_the_outputs_changed_is_no_use(make_run: MakeRun) -> None:
    run = make_run()

    def stop(drawn: int, total: int) -> None:
        if drawn == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, ["psnr"], progress=stop)
    assert evaluate_run(touch_outputs(run), ["psnr"]).resumed == 0


def test_arms_are_told_over_their_seeds(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    words = ["metrics", str(run.root), "--metric", "colorfulness", "--by", "arm"]
    assert main(words) == 2
    assert "no condition of this run was trained as an arm" in capsys.readouterr().err
    arms = {"gray": ("dull", 1), "reference": ("bright", 1), "vivid": ("bright", 2)}
    write_conditions(
        run.root / "conditions.json",
        tuple(Condition(n, n, arm=arm, seed=seed) for n, (arm, seed) in arms.items()),
    )
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Means over 3 photographs ± standard deviation over 1–2 seeds" in said  # not mill
    found = values(run, "colorfulness")
    means = [
        np.mean([v for (content, name), v in found.items() if name == n and content != "mill"])
        for n in ("reference", "vivid")
    ]
    assert f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}" in said
    assert main([*words, "--json"]) == 0
    (difference,) = json.loads(capsys.readouterr().out)["arms"]["colorfulness"]["differences"]
    assert (difference["first"], difference["second"]) == ("dull", "bright")
    assert difference["value"] == pytest.approx(-np.mean(means))


def test_what_is_there_is_kept_until_the_outputs_change(make_run: MakeRun) -> None:
    run = make_run()
    first = evaluate_run(run, ["psnr", "ssim"])
    assert (first.computed, first.kept) == (("psnr", "ssim"), ())
    stamp = (run.root / "metrics.parquet").stat().st_mtime_ns
    again = evaluate_run(open_run(run.root), ["ssim"])
    assert (again.computed, again.kept) == ((), ("psnr", "ssim"))
    assert (run.root / "metrics.parquet").stat().st_mtime_ns == stamp
    more = evaluate_run(open_run(run.root), ["colorfulness"])
    assert (more.computed, more.kept) == (("colorfulness",), ("psnr", "ssim"))
    forced = evaluate_run(open_run(run.root), ["ssim"], fresh=True)
    assert (forced.computed, forced.kept) == (("ssim",), ("psnr", "colorfulness"))

    before = values(run, "psnr")
    changed = evaluate_run(touch_outputs(run), ["colorfulness"])
    assert changed.computed == ("psnr", "ssim", "colorfulness"), "nothing stale is left behind"
    after = values(run, "psnr")
    assert [key for key in before if before[key] != after[key]] == [("harbour", "vivid")]


def test_values_that_are_gone_are_computed_again(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not those that no image can have, and with a damaged table on request alone."""
    run = make_run()
    names = ["--metric", "psnr", "artifact_chroma"]  # no photograph has a mask
    mine = write_csv(tmp_path, [("mill", "gray", "hdrvdp", 9.5)])
    assert main(["metrics", str(run.root), *names]) == 0
    file = run.root / "metrics.parquet"
    whole = file.read_bytes()
    assert main(["metrics", str(run.root), "--import", str(mine)]) == 0
    file.unlink()
    again = evaluate_run(open_run(run.root), ["psnr"])
    assert (again.computed, again.kept) == (("psnr",), ("artifact_chroma",))
    assert again.skipped["hdrvdp"].startswith("no longer in metrics.parquet: import it")
    assert file.read_bytes() == whole

    file.write_bytes(whole[:-9])
    capsys.readouterr()
    assert main(["metrics", str(run.root), *names]) == 2
    assert f"percept metrics {run.root} --fresh" in capsys.readouterr().err
    assert main(["gallery", str(run.root)]) == 2
    assert main(["metrics", str(run.root), *names, "--fresh"]) == 0
    assert file.read_bytes() == whole

    outputs = pd.read_parquet(run.root / "outputs.parquet").drop(columns="sha256")
    write_parquet_atomic(run.root / "outputs.parquet", outputs)
    capsys.readouterr()
    assert main(["metrics", str(run.root)]) == 2
    err = capsys.readouterr().err
    assert "outputs.parquet, column 'sha256': damaged: column missing" in err
    assert "infer command again" in err


def test_values_of_another_definition_are_computed_again(make_run: MakeRun) -> None:
    """As after an update: of an older version, or an import whose name percept has taken since."""
    run = make_run()
    evaluate_run(run, ["psnr", "patchiness"])
    before = values(run, "patchiness")
    for entry in ({"version": 1}, None):
        run = open_run(run.root)
        old = run.metrics[run.metrics["metric"] == "patchiness"].assign(value=7.0)
        own = run.info["metrics"]["patchiness"]
        imported = {"kind": "imported", "inputs_sha256": own["inputs_sha256"]}
        run.write_metrics(old, {}, {"patchiness": imported if entry is None else own | entry})
        again = evaluate_run(open_run(run.root), ["psnr"])
        assert (again.computed, again.kept) == (("patchiness",), ("psnr",))
        assert values(run, "patchiness") == before


def test_a_failed_image_costs_its_rows_and_is_measured_again(make_run: MakeRun) -> None:
    run = make_run()
    file = run.root / "images/vivid/harbour.png"
    good = file.read_bytes()
    damage(run, "images/vivid/harbour.png")
    (run.root / "photos/sliver-true.png").write_bytes(b"no image")
    true = load_rgb(run.root / "photos/mill-true.png")
    Image.fromarray(true[:-1]).save(run.root / "photos/mill-true.png")
    done = evaluate_run(run, ["psnr", "colorfulness"])
    assert [text.split(":")[0] for text in done.failed] == [
        "harbour, vivid",
        *("mill, gray", "mill, reference"),
        *("sliver, gray", "sliver, reference", "sliver, vivid"),
    ]
    assert "not the image that inference wrote" in done.failed[0]
    assert "differ in size" in done.failed[1]
    assert "cannot be measured: 6 outputs" in done.skipped["psnr"]
    assert values(run, "psnr").keys() == {("harbour", "gray"), ("harbour", "reference")}
    assert ("harbour", "vivid") not in values(run, "colorfulness")
    assert len(values(run, "colorfulness")) == 10
    assert main(["metrics", str(run.root), "--metric", "psnr"]) == 1
    assert main(["metrics", str(run.root), "--metric", "psnr", "--allow-failures"]) == 0

    file.write_bytes(good)
    Image.fromarray(true).save(run.root / "photos/mill-true.png")
    Image.fromarray(load_rgb(run.root / "photos/sliver.png")).save(
        run.root / "photos/sliver-true.png"
    )
    repaired = evaluate_run(open_run(run.root), ["psnr"])
    assert repaired.computed == ("psnr", "colorfulness")
    assert not repaired.failed
    assert len(values(run, "psnr")) == 8
    assert "cannot be measured" not in open_run(run.root).info["metrics_skipped"]["psnr"]


def test_without_weights_lpips_is_left_out_or_an_error(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """And never computed with a backbone made by chance."""
    run = make_run()
    done = evaluate_run(run)
    assert done.skipped["lpips_alex"] == "no alexnet weights: run `percept weights fetch`"
    assert "lpips_alex" not in set(run.metrics["metric"])
    with pytest.raises(InputError, match="percept weights fetch"):
        evaluate_run(open_run(run.root), ["lpips_alex"])
    before = (run.root / "run.json").read_bytes()
    assert main(["metrics", str(run.root), "--metric", "lpips_alex"]) == 2
    assert "percept weights fetch" in capsys.readouterr().err
    assert (run.root / "run.json").read_bytes() == before


def test_lpips_stays_when_its_weights_leave_but_not_when_the_outputs_change(
    make_run: MakeRun, random_backbone: object, cache: Path
) -> None:
    run = make_run()
    evaluate_run(run, ["lpips_alex"])
    next(cache.rglob("*.safetensors")).unlink()
    assert evaluate_run(open_run(run.root)).kept == ("lpips_alex",)
    done = evaluate_run(touch_outputs(run))
    assert "lpips_alex" in done.skipped
    assert "lpips_alex" not in done.kept
    assert not values(run, "lpips_alex")
    assert "lpips_alex" not in open_run(run.root).info["metrics"]


def test_a_run_without_any_reference(make_run: MakeRun) -> None:
    run = make_run()
    write_parquet_atomic(run.root / "manifest.parquet", run.manifest.drop(columns="reference_path"))
    done = evaluate_run(open_run(run.root), ["psnr", "colorfulness"])
    assert done.skipped["psnr"].endswith("no reference: 4 photographs")
    assert set(run.metrics["metric"]) == {"colorfulness"}


def test_masks_and_palettes_let_two_more_be_measured(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mask of the manifest, and palettes by era; new palettes make the old values stale."""
    run = make_run()
    mask = np.zeros(SIZES["harbour"], np.uint8)
    mask[10:20, 15:25] = 255
    Image.fromarray(mask).save(run.root / "photos/harbour-mask.png")
    manifest = run.manifest.assign(mask_path=None, era=None)
    manifest.loc[manifest["content_id"] == "harbour", "mask_path"] = "photos/harbour-mask.png"
    manifest.loc[manifest["content_id"] != "mill", "era"] = "1930s"
    write_parquet_atomic(run.root / "manifest.parquet", manifest)
    true = [run.root / f"photos/{content}-true.png" for content in SIZES]
    table = "content_id,path,sha256,width,height,era\n" + "".join(
        f"p{i},{file},{sha256_file(file)},{image.shape[1]},{image.shape[0]},{era}\n"
        for i, (file, era) in enumerate(
            zip(true, ("1930s", "1930s", "1900s", "1930s"), strict=True)
        )
        for image in [load_rgb(file)]
    )
    (tmp_path / "reference.csv").write_text(table)
    palettes = tmp_path / "palettes.json"
    make = ["palette", str(tmp_path / "reference.csv"), "--out", str(palettes)]
    assert main([*make, "--by", "era"]) == 0
    assert "1930s: 3 photographs" in capsys.readouterr().out
    both = ["--metric", "artifact_chroma", "palette_distance"]
    assert main(["metrics", str(run.root), "--palette", str(palettes), *both]) == 0
    run = open_run(run.root)
    assert run.info["metrics_skipped"]["palette_distance"].endswith("no palette: 1 photograph")
    assert {content for content, _ in values(run, "palette_distance")} == SIZES.keys() - {"mill"}
    assert run.info["metrics_skipped"]["artifact_chroma"].endswith(
        "no mask: 3 photographs; grey, or no damage with sound surroundings: 1 output"
    )
    coloured = {("harbour", name) for name in CONDITIONS if name != "gray"}
    assert values(run, "artifact_chroma").keys() == coloured
    assert evaluate_run(run, ["artifact_chroma"]).computed == ()

    assert main(make) == 0
    assert main(["metrics", str(run.root), "--palette", str(palettes)]) == 0
    assert len(values(open_run(run.root), "palette_distance")) == 11
    assert main([*make, "--by", "colour"]) == 2
    (tmp_path / "no.json").write_text("{}")
    assert main(["metrics", str(run.root), "--palette", str(tmp_path / "no.json")]) == 2
    assert "no.json: not a file of palettes" in capsys.readouterr().err


def test_grey_photographs_make_no_palette(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["content_id,path,sha256,width,height"]
    for name, pixel in {"grey": (90, 90, 90), "red": (150, 90, 90)}.items():
        Image.fromarray(np.full((8, 9, 3), pixel, np.uint8)).save(tmp_path / f"{name}.png")
        lines.append(f"{name},{name}.png,{sha256_file(tmp_path / f'{name}.png')},9,8")
    manifest, out = tmp_path / "m.csv", tmp_path / "p.json"
    manifest.write_text("\n".join(lines[:2]))
    assert main(["palette", str(manifest), "--out", str(out)]) == 2
    assert "none of 1 photographs has colour" in capsys.readouterr().err
    assert not out.exists()
    manifest.write_text("\n".join(lines))
    assert main(["palette", str(manifest), "--out", str(out)]) == 0
    assert "warning: 1 of 2 photographs are grey" in capsys.readouterr().err
    manifest.write_text("\n".join([lines[0], lines[2]]))
    assert main(["palette", str(manifest), "--out", str(out)]) == 0
    assert "grey" not in capsys.readouterr().err


def test_an_unknown_metric_is_named(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    assert main(["metrics", str(run.root), "--metric", "psnr", "pnsr"]) == 2
    assert "'pnsr'). There are psnr, psnr_ab" in capsys.readouterr().err
    assert not (run.root / "metrics.parquet").exists()


def test_the_command_prints_a_table_and_the_reasons(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    assert main(["metrics", str(run.root), "--metric", "psnr", "--metric", "ciede2000"]) == 0
    out = capsys.readouterr().out
    assert "psnr ↑" in out
    assert "ciede2000 ↓" in out
    assert [line.split()[0] for line in out.splitlines()[2:5]] == list(CONDITIONS)
    # mill, which vivid lacks, is left out for the others, too.
    assert out.startswith("Medians over 2 photographs that all conditions with a value have (↑")
    found = [values(run, "psnr")[content, "gray"] for content in ("harbour", "sliver")]
    assert out.splitlines()[2].split()[1] == f"{np.median(found):.3f}"
    reason = "failed in inference: 1 output; no reference: 1 photograph"
    assert f"left out: psnr, ciede2000: {reason}\n" in out
    assert main(["metrics", str(run.root), "--metric", "psnr"]) == 0
    assert reason in capsys.readouterr().out, "told again where nothing is computed again"
    assert main(["metrics", str(run.root), "--metric", "psnr", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["computed"] == []
    assert told["kept"] == ["psnr", "ciede2000"]

    write_csv(tmp_path, [("mill", "gray", "mine", 1), ("sliver", "vivid", "mine", 2)])
    assert main(["metrics", str(run.root), "--import", str(tmp_path / "mine.csv")]) == 0
    capsys.readouterr()
    assert main(["metrics", str(run.root), "--metric", "psnr"]) == 0
    assert "no photograph of which all conditions with a value have mine" in capsys.readouterr().out


def test_registry_tells_all_about_each_metric() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.citation
        assert metric.range[0] < metric.range[1]
        text = metric.compute.__doc__ or ""
        for word in ("Source", "better"):
            assert word.lower() in text.lower(), f"{name}: its docstring lacks {word!r}"
    assert [metric.name for metric in select_metrics(["ssim", "psnr"])] == ["psnr", "ssim"]
    assert [metric.name for metric in select_metrics(["traits", "psnr"])][:2] == ["psnr", "pale"]


# -- metrics made elsewhere ----------------------------------------------------------------------


def write_csv(folder: Path, rows: list[tuple[object, ...]], header: str = "") -> Path:
    file = folder / "mine.csv"
    lines = [header or "content_id,condition,metric,value"]
    lines += [",".join(map(str, row)) for row in rows]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_metric_made_elsewhere_joins_and_is_replaced(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    evaluate_run(run, ["psnr"])
    file = write_csv(
        tmp_path, [("mill", "gray", "hdrvdp", 9.5), ("harbour", "vivid", "hdrvdp", "inf")]
    )
    assert main(["metrics", str(run.root), "--import", str(file)]) == 0
    assert "2 values of hdrvdp" in capsys.readouterr().out
    run = open_run(run.root)
    assert values(run, "hdrvdp") == {("harbour", "vivid"): math.inf, ("mill", "gray"): 9.5}
    assert len(values(run, "psnr")) == 8
    assert run.info["metrics"]["hdrvdp"]["imported_from"] == "mine.csv"
    assert run.info["metrics"]["hdrvdp"]["higher_is_better"] is True
    write_csv(tmp_path, [("mill", "gray", "hdrvdp", 1.0)])
    assert main(["metrics", str(run.root), "--import", str(file), "--lower-is-better"]) == 0
    run = open_run(run.root)
    assert values(run, "hdrvdp") == {("mill", "gray"): 1.0}
    assert run.info["metrics"]["hdrvdp"]["higher_is_better"] is False
    assert main(["metrics", str(run.root), "--lower-is-better"]) == 2
    assert evaluate_run(run, ["psnr"]).kept == ("psnr", "hdrvdp")
    capsys.readouterr()
    assert main(["metrics", str(run.root), "--metric", "psnr"]) == 0
    assert "psnr ↑  hdrvdp ↓" in capsys.readouterr().out

    stale = evaluate_run(touch_outputs(run), ["psnr"])
    assert stale.skipped["hdrvdp"] == "imported before the run changed: import it again"
    assert not values(run, "hdrvdp")
    assert len(values(run, "psnr")) == 8


def test_every_wrong_row_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    file = write_csv(
        tmp_path,
        [
            ("mill", "gray", "hdrvdp", 9.5),
            ("mil", "gray", "hdrvdp", 9.5),
            ("mill", "grey", "hdrvdp", 9.5),
            ("mill", "reference", "psnr", 9.5),
            ("mill", "vivid", "hdrvdp", ""),
            ("mill", "vivid", "a b", "good"),
            ("mill", "gray", "hdrvdp", 9.6),
            ("mill", "gray", "calibrated-mine", 1.0),
        ],
    )
    with pytest.raises(InputErrors) as caught:
        import_metrics(run, file)
    found = [(error.row, error.column, error.value) for error in caught.value.errors]
    assert found == [
        (2, "content_id", "mil"),
        (3, "condition", "grey"),
        (4, "metric", "psnr"),
        (5, "value", ""),
        (6, "metric", "a b"),
        (6, "value", "good"),
        (7, "metric", "hdrvdp"),
        (8, "metric", "calibrated-mine"),
    ]
    assert "begin the names of models of percept calibrate" in str(caught.value)
    assert "It has gray, reference, vivid" in str(caught.value)
    assert run.metrics.empty


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("content_id,condition,metric", "column 'value': column missing"),
        ("content_id;condition;metric;value", "column 'content_id': column missing"),
        ("content_id,condition,metric,value", "no rows"),
    ],
)
def test_a_table_that_is_none(make_run: MakeRun, tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_metrics(make_run(), write_csv(tmp_path, [], header))


def test_an_unreadable_table(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "mine.csv").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "mine.csv", tmp_path / "none.csv"):
        with pytest.raises(InputError, match="cannot be read as CSV"):
            import_metrics(run, file)


def test_identifiers_that_look_like_numbers_stay_as_they_are(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    for name in ("manifest", "outputs"):
        frame = pd.read_parquet(run.root / f"{name}.parquet")
        frame["content_id"] = frame["content_id"].replace({"mill": "007", "harbour": "NA"})
        write_parquet_atomic(run.root / f"{name}.parquet", frame)
    run = open_run(run.root)
    import_metrics(
        run, write_csv(tmp_path, [("007", "gray", "mine", 1), ("NA", "gray", "mine", 2)])
    )
    assert values(run, "mine") == {("NA", "gray"): 2.0, ("007", "gray"): 1.0}
    assert np.isfinite(run.metrics["value"]).all()


def test_help_names_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["metrics", "--help"])
    told = re.findall(r"[a-z_0-9]+", capsys.readouterr().out.partition("metrics to compute:")[2])
    named = [name for name, metric in METRICS.items() if not metric.group]
    assert told[: len(named)] == named
