"""Kernels of a GPU: their values in Triton's interpreter, and what they compile to. No GPU is needed."""

import re
import subprocess
import sys

import pytest
import torch

from harness.optimizers import clip_in_step, make_adam
from harness.pixels import PixelConv2d
from mlr.augmentation import RandomCrop, intensity_factor
from tests.conftest import ROOT

pytest.importorskip("triton", reason="needs triton, which torch's CUDA build brings: pip install triton")

SIZE, CROP = 12, 8
KINDS = [("resample", 0, 9), ("resample", 4, 4), ("slice", 0, 9), ("slice", 4, 3)]  # mode, pad, channels


def drawn(crop, channels, count=2):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return images, crop.draw(count, generator, "cpu"), intensity_factor(count, 0.05, 2.0, generator, "cpu")


def compare():
    """Asserts for the next test, in a process whose Triton interprets."""
    compare_crops()
    compare_relu()
    compare_adam()
    print("equal")


def compare_adam():
    """Two weights, one of another age, three clipped steps; their shadows have float32 here."""
    from harness.adam_kernel import BLOCK, adam_pass

    generator = torch.Generator().manual_seed(0)
    settings = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-5}
    start = [torch.randn(size, generator=generator) for size in ((BLOCK + 8, 2), (3, 5))]
    plain = [torch.nn.Parameter(each.clone()) for each in start]
    adam, passed = make_adam(plain, **settings, clipped=True), make_adam(start, **settings)
    for optimizer, weights in ((adam, plain), (passed, start)):
        optimizer.state[weights[1]]["step"].fill_(900)
    log_betas = torch.tensor(settings["betas"], dtype=torch.float64).log().float()
    shadows = [torch.zeros_like(each) for each in start]
    for _ in range(3):
        for weight, shadow in zip(plain, shadows, strict=True):
            weight.grad = torch.randn(weight.shape, generator=generator)
            shadow.grad = weight.grad.clone()
        clip_in_step(adam, 2.0)
        adam.step()
        states = [passed.state[weight] for weight in start]
        adam_pass(list(zip(start, shadows, strict=True)), states, settings, adam.grad_scale, log_betas)
    for expected, weight, shadow in zip(plain, start, shadows, strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(weight, shadow)
        for name, value in adam.state[expected].items():
            torch.testing.assert_close(passed.state[weight][name], value, rtol=2e-6, atol=1e-9)


def compare_relu():
    from harness.relu_kernel import ROWS, relu_backward

    generator = torch.Generator().manual_seed(0)
    for channels in (5, 16):
        gradient, result = (torch.randn(2, channels, 7, 9, generator=generator) for _ in range(2))
        result = result.relu().contiguous(memory_format=torch.channels_last)
        assert 2 * 7 * 9 > ROWS  # several programs, the last with fewer rows
        expected = torch.ops.aten.threshold_backward(gradient, result, 0)
        masked, sums = relu_backward(gradient, result)
        assert torch.equal(masked, expected) and masked.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(sums, expected.sum((0, 2, 3)))


def compare_crops():
    for mode, pad, channels in KINDS:
        crop = RandomCrop(SIZE, CROP, pad, mode)
        images, offsets, factor = drawn(crop, channels)
        for scale in (factor, None):
            expected = crop(images, offsets, scale)
            actual = crop._by_kernel(images, offsets, scale, torch.float32)
            assert actual.shape[1] == (16 if channels > 8 else 8) and not actual[:, channels:].any()
            assert actual.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(actual[:, :channels], expected, rtol=0, atol=0 if mode == "slice" else 1e-3)
    assert crop.fuse(images, torch.float32, "fp32", lambda work: 1.0) == "takes 1.00 times as long"


def test_kernels_compute_what_torch_does(monkeypatch):
    """In float32: the interpreter cuts a bfloat16 where a GPU rounds it."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    done = run("from tests.test_kernels import compare; compare()")
    assert done.stdout == "equal\n", done.stderr


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_kernel_runs_where_it_is_faster_and_for_the_channels_that_it_was_compared_on(monkeypatch):
    """With torch's crop of twice the channels in the kernel's place."""
    crop = RandomCrop(SIZE, CROP, 0, "slice")
    images, offsets, _ = drawn(crop, 9)

    def twice(images, offsets, factor, dtype):
        return crop._by_torch(images.repeat(1, 2, 1, 1), offsets, factor)

    monkeypatch.setattr(crop, "_by_kernel", twice)
    for times, channels in (((2.0, 1.0), 9), ((1.0, 2.0), 18)):
        ticks = iter(times)
        reason = crop.fuse(images, torch.float32, "fp32", lambda work, ticks=ticks: next(ticks))
        assert bool(reason) == (channels == 9) and crop(images, offsets).shape[1] == channels
    assert crop(images[:, :4], offsets).shape[1] == 4 and crop(images.float(), offsets).shape[1] == 9


def test_further_channels_change_nothing_in_a_layer():
    torch.manual_seed(0)
    layer, pixels = PixelConv2d(9, 4, 3, 2), 255 * torch.rand(2, 9, 16, 16)
    layer.to(memory_format=torch.channels_last)
    found = []
    for extra in (0, 7):
        layer.zero_grad()
        result = layer(torch.cat((pixels, torch.zeros(2, extra, 16, 16)), 1))
        result.square().mean().backward()
        assert layer.weight.grad.stride() == layer.weight.stride()
        found.append((result.detach(), layer.weight.grad, layer.bias.grad))
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected)


COMPILE = """
import subprocess, tempfile, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from harness.adam_kernel import adam_kernel
from harness.relu_kernel import relu_backward_kernel
from mlr.crop_kernel import crop_kernel

def show(kernel, types, sizes):
    places = {(number,): [["tt.divisibility", 16]] for number in range(len(types))}  # as torch's allocator gives them
    source = ASTSource(kernel, types | dict.fromkeys(sizes, "constexpr"), sizes, places)
    text = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(text)
        file.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name", "sm_90a", file.name, "-o", "/dev/null"]
        print(text, subprocess.run(command, capture_output=True, text=True).stderr, "=====")

types = dict(images="*u8", lines="*fp32", offsets="*i64", factor="*fp32", out="*bf16")
for resample in (True, False):
    show(crop_kernel, types, dict(H=100, S=84, PAD=0, C=9, CP=16, BX=128, RESAMPLE=resample, SCALE=resample))
types = dict(gradient="*bf16", result="*bf16", masked="*bf16", sums="*fp32", count="i32")
show(relu_backward_kernel, types, dict(C=64, CP=64, ROWS=64))
types = dict(weight="*fp32", gradient="*bf16", first="*fp32", second="*fp32", shadow="*bf16", scale="*fp32",
             decayed="*fp32", count="i32")
show(adam_kernel, types, dict(LR=1e-4, BETA1=0.9, BETA2=0.999, EPS=1e-4, BLOCK=1024))
"""


def test_kernels_compile_for_an_h100_without_spills_and_with_wide_stores(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = run(COMPILE)
    assert done.returncode == 0, done.stderr
    compiled = done.stdout.split("=====")[:-1]
    assert len(compiled) == 4
    for text in compiled:
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in text, text[-1000:]
        assert int(re.search(r"Used (\d+) registers", text)[1]) <= 128
        assert "st.global.v4.b32" in text and not re.search(r"st\.global\.b(8|16) ", text)
