from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from percept.color import srgb_to_lab
from percept.errors import InputError
from percept.inference.networks import (
    Block,
    build_network,
    chroma_bins,
    guided_filter,
    load_checkpoint,
    noise_level,
    save_checkpoint,
)

SMALL = {"width": 8, "depth": 2}
CONFIG = {"network": {"name": "unet", "arguments": SMALL}, "input": {"max_side": 64}, "seed": 3}


def test_unet_gives_chroma_for_every_padded_shape():
    network = build_network("unet", SMALL).eval()
    assert network.divisor == 4
    for shape in [(4, 4), (8, 20), (64, 4)]:
        with torch.inference_mode():
            chroma = network(torch.rand(2, 1, *shape))
        assert chroma.shape == (2, 2, *shape)
        assert chroma.abs().max() <= 110


def test_default_unet_is_small():
    parameters = sum(p.numel() for p in build_network("unet").parameters())
    assert 1_000_000 < parameters < 2_000_000


@pytest.mark.parametrize(("name", "arguments"), [("unet", SMALL), ("hypercolumn", {"width": 8})])
def test_a_photograph_is_not_coloured_by_its_batch(name, arguments):
    torch.manual_seed(0)
    network = build_network(name, arguments).eval()
    batch = torch.rand(3, 1, 16, 32)
    with torch.inference_mode():
        together = network(batch)
        alone = torch.cat([network(one[None]) for one in batch])
    torch.testing.assert_close(together, alone, atol=1e-2, rtol=0)  # of ±110


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("vnet", {}, "key 'network.name': unknown network.*Known networks: class-unet, deep"),
        ("unet", {"widht": 8}, "arguments.widht': the network unet has no such.*: width, depth"),
        ("unet", {"width": 12}, r"key 'network.arguments.width': .*multiple of 8 \(got 12\)"),
        ("unet", {"width": "seven"}, r"arguments.width': must be a whole.*'seven'\).* default, 32"),
        ("unet", {"width": 16.0}, "arguments.width': must be a whole number"),
        ("unet", {"depth": True}, "arguments.depth': must be a whole number"),
        ("unet", {"depth": 0}, "arguments.depth': depth must be from 1 to 6"),
        ("class-unet", {"depth": 2}, "arguments.depth': depth must be from 3 to 6"),
        ("deep", {"blocks": 0}, "arguments.blocks'"),
        ("gated-unet", {"threshold": float("nan")}, "threshold': must be a finite.*default, 0.02"),
        ("hypercolumn", {"temperature": 0}, "arguments.temperature'"),
        ("hypercolumn", {"radius": -1}, "arguments.radius'"),
    ],
)
def test_bad_networks_are_named(name, arguments, problem):
    with pytest.raises(InputError, match=problem):
        build_network(name, arguments)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_checkpoint_comes_back(tmp_path, as_file):
    network = build_network("unet", SMALL).eval()
    save_checkpoint(tmp_path / "ckpt", network, CONFIG)
    source = tmp_path / "ckpt"
    if as_file:  # the weights alone, elsewhere
        source = Path(shutil.copy(source / "model.safetensors", tmp_path / "mine.safetensors"))
    again, config = load_checkpoint(source)
    assert config == {"format": 1, **CONFIG}
    assert not again.training
    luminance = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again(luminance), network(luminance))


def test_a_checkpoint_is_read_by_its_header_then_by_the_file_beside_it(tmp_path):
    save_checkpoint(tmp_path, build_network("unet", SMALL), CONFIG)
    assert json.loads((tmp_path / "config.json").read_text()) == {"format": 1, **CONFIG}
    (tmp_path / "config.json").write_text('{"format": 1}')
    assert load_checkpoint(tmp_path)[1]["seed"] == 3

    weights = tmp_path / "model.safetensors"
    save_file(load_file(weights), weights)  # without the header
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, **CONFIG, "seed": 4}))
    assert load_checkpoint(tmp_path)[1]["seed"] == 4
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="neither a percept header nor"):
        load_checkpoint(tmp_path)


def test_the_same_network_is_the_same_file(tmp_path):
    network = build_network("unet", SMALL)
    for name in "ab":
        save_checkpoint(tmp_path / name, network, CONFIG)
    a, b = (tmp_path / name / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_bad_checkpoints_are_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_checkpoint(tmp_path)
    other = {"name": "unet", "arguments": {"width": 16, "depth": 2}}
    save_checkpoint(tmp_path, build_network("unet", SMALL), {**CONFIG, "network": other})
    with pytest.raises(InputError, match="do not fit the network"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"format": 2}, "format"),
        ({"network": {}}, "network.name"),
        ({"input": {"max_side": 0}}, "input.max_side"),
        ({"input": None}, "input.max_side"),
    ],
)
def test_bad_configs_are_not_written(tmp_path, change, key):
    with pytest.raises(InputError) as caught:
        save_checkpoint(tmp_path / "x", build_network("unet", SMALL), {**CONFIG, **change})
    assert caught.value.key == key
    assert not (tmp_path / "x").exists()


SMALL_ONES = {
    "gated-unet": {"width": 8, "depth": 2},
    "class-unet": {"width": 8, "depth": 3},
    "hypercolumn": {"width": 8},
    "deep": {"width": 8, "blocks": 3},
}


@pytest.mark.parametrize("name", SMALL_ONES)
def test_every_network_gives_chroma_and_comes_back(tmp_path, name):
    torch.manual_seed(0)
    network = build_network(name, SMALL_ONES[name]).eval()
    light = torch.rand(2, 1, 3 * network.divisor, 2 * network.divisor)
    with torch.inference_mode():
        chroma = network(light)
    assert chroma.shape == (2, 2, *light.shape[2:])
    assert chroma.abs().max() <= 110
    config = {**CONFIG, "network": {"name": name, "arguments": SMALL_ONES[name]}}
    save_checkpoint(tmp_path, network, config)
    again, _ = load_checkpoint(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(light), chroma)


@pytest.mark.parametrize("name", ["class-unet", "hypercolumn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_colours_are_decoded_in_full_precision(name, dtype):
    torch.manual_seed(0)
    network = build_network(name, SMALL_ONES[name]).eval()
    light, logits = torch.rand(1, 1, 32, 48), 3 * torch.randn(1, len(network.centers), 8, 12)
    expected = network.decode(logits, light)
    with torch.autocast("cpu", dtype):
        assert torch.equal(network.decode(logits, light), expected)


def test_a_decoder_can_be_exported_and_compiled():
    network = build_network("hypercolumn", {"width": 8}).eval()
    example, other = torch.rand(2, 1, 32, 48), torch.rand(1, 1, 64, 32)
    n, h, w = (torch.export.Dim.AUTO for _ in range(3))
    shapes = ({0: n, 2: h, 3: w},)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes).module()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        expected = network(other)
        torch.testing.assert_close(program(other), expected)
        torch.testing.assert_close(compiled(other), expected, atol=1e-3, rtol=0)


def test_hypercolumns_see_what_torchvision_sees():
    torch.manual_seed(0)
    network = build_network("hypercolumn", {"width": 8})
    vgg = torchvision.models.vgg16(weights=None).features
    network.features.load_state_dict(vgg.state_dict())  # the same names, none missing
    light = torch.rand(1, 1, 32, 32)
    seen = []
    for projection in network.projections:
        projection.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    grey = torchvision.transforms.functional.normalize(
        light.expand(1, 3, 32, 32), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        network(light)
        deepest = vgg[:-1](grey)
    assert [tuple(x.shape[1:]) for x in seen] == [(n, 8, 8) for n in (64, 128, 256, 512, 512)]
    unit = deepest / deepest.square().mean(dim=1, keepdim=True).sqrt()
    expected = torch.nn.functional.interpolate(unit, (8, 8), mode="bilinear")
    torch.testing.assert_close(seen[-1], expected)
    assert not any(p.requires_grad for p in network.features.parameters())


def test_the_guided_filter_moves_colour_to_the_edge_of_the_light():
    light = torch.full((1, 1, 32, 64), 0.2)
    light[..., 30:] = 0.8  # within the eighth of sixteen pixels of chroma
    chroma = torch.full((1, 2, 8, 16), -20.0)
    chroma[..., 8:] = 40.0
    chroma[..., 7:9] = 10.0  # a coarse, blurred edge
    sharp = guided_filter(chroma, light, radius=3)
    assert sharp.shape == (1, 2, 32, 64)
    assert (sharp[..., 26:30] < -8).all()
    assert (sharp[..., 30:34] > 28).all()
    flat = guided_filter(chroma, torch.full_like(light, 0.5), radius=3)
    assert (flat[..., 1:] - flat[..., :-1]).abs().max() < 4  # no edge to follow: smooth
    same = guided_filter(torch.full_like(chroma, 7.0), torch.rand(1, 1, 32, 64), radius=3)
    torch.testing.assert_close(same, torch.full_like(same, 7.0), atol=1e-3, rtol=0)


def test_noise_level_measures_noise():
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(64, 64)
    clean = torch.stack([ramp, ramp.T]).reshape(2, 1, 64, 64)
    noisy = clean + 0.03 * torch.randn(2, 1, 64, 64, generator=generator)
    torch.testing.assert_close(noise_level(clean), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(noise_level(noisy), torch.full((2,), 0.03), atol=0.002, rtol=0)


def test_the_gate_opens_for_degraded_photographs_alone():
    torch.manual_seed(0)
    network = build_network("gated-unet", {"width": 8, "depth": 1}).eval()
    plain = build_network("unet", {"width": 8, "depth": 1}).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    clean = torch.full((1, 1, 16, 16), 0.5)
    batch = torch.cat([clean, clean + 0.1 * torch.randn(1, 1, 16, 16)])
    with torch.inference_mode():
        gated, ungated = network(batch), plain(batch)
    assert torch.equal(gated[0], ungated[0])
    assert not torch.allclose(gated[1], ungated[1])


def test_checkpointed_blocks_give_the_same_gradients():
    torch.manual_seed(0)
    network = build_network("unet", SMALL)
    light = torch.rand(1, 1, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        for module in network.modules():
            if isinstance(module, Block):
                module.checkpointing = checkpointing
        network.zero_grad()
        network(light).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_stages_one_after_another_are_the_whole_network():
    torch.manual_seed(0)
    network = build_network("deep", SMALL_ONES["deep"]).eval()
    light = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        expected = network(light)
        x, names = light, []
        for stage in range(3):
            part = copy.deepcopy(network)
            part.cut(stage, 3)
            names += part.state_dict()
            x = part(x)
    assert torch.equal(x, expected)
    assert sorted(names) == sorted(network.state_dict())  # every layer in one stage


def test_chroma_bins_cover_what_srgb_can_show():
    bins = chroma_bins()
    assert 240 < len(bins) < 320
    rgb = np.random.default_rng(0).integers(0, 256, (2000, 3), dtype=np.uint8)
    lab = srgb_to_lab(rgb[None])[0]
    nearest = np.abs(lab[:, None, 1:] - bins[None]).max(axis=2).min(axis=1)
    assert nearest.max() <= 6
