#!/usr/bin/env python3
"""Makes the golden files of src/outstep/nn/golden_test.cc: small models in plain PyTorch, with their weights, an input,
logits, loss and gradients. Needs torch alone; the models are written out here, so that they share nothing with Outstep.

  .venv/bin/python tests/golden/make_golden.py          # writes tests/golden/*.safetensors

A file holds, beside the model's tensors under the names of transformers or torchvision, "input", "target", "logits",
"loss", "loss_smoothed" (label smoothing 0.1), "gradient.NAME" of every parameter for the plain loss and "after.NAME" of
every buffer that the forward pass moved.
"""
import functools
import json
import math
import pathlib
import struct

import torch
from torch.nn import functional as F

FOLDER = pathlib.Path(__file__).resolve().parent


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        raw = bytes(tensor.flatten().view(torch.uint8).tolist())
        dtype = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_golden(name, weights, buffers, forward, inputs, targets):
    """Runs forward(weights, inputs) and writes all there is to compare."""
    initial = {key: value.clone() for key, value in buffers.items()}
    for value in weights.values():
        value.requires_grad_(True)
    logits = forward(weights, inputs)
    rows, classes = logits.flatten(0, -2), targets.flatten()
    loss = F.cross_entropy(rows, classes)
    loss.backward()
    tensors = dict(weights) | initial
    tensors |= {"input": inputs, "target": targets, "logits": logits, "loss": loss,
                "loss_smoothed": F.cross_entropy(rows, classes, label_smoothing=0.1)}
    tensors |= {"gradient." + key: value.grad for key, value in weights.items()}
    tensors |= {"after." + key: value for key, value in buffers.items()}
    write_safetensors(FOLDER / f"{name}.safetensors", tensors)


# ---- GPT-2, as transformers computes it (GPT2LMHeadModel) -------------------------------------------------------------

WIDTH, VOCABULARY, POSITIONS = 16, 19, 12


def gpt2_weights(layers, tied):
    def normal(*shape):
        return 0.3 * torch.randn(shape)

    weights = {"transformer.wte.weight": normal(VOCABULARY, WIDTH), "transformer.wpe.weight": normal(POSITIONS, WIDTH)}
    for i in range(layers):
        prefix = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            weights[prefix + norm + ".weight"] = 1 + normal(WIDTH)
            weights[prefix + norm + ".bias"] = normal(WIDTH)
        for part, fan_in, fan_out in (("attn.c_attn", WIDTH, 3 * WIDTH), ("attn.c_proj", WIDTH, WIDTH),
                                      ("mlp.c_fc", WIDTH, 4 * WIDTH), ("mlp.c_proj", 4 * WIDTH, WIDTH)):
            weights[prefix + part + ".weight"] = normal(fan_in, fan_out)
            weights[prefix + part + ".bias"] = normal(fan_out)
    weights["transformer.ln_f.weight"] = 1 + normal(WIDTH)
    weights["transformer.ln_f.bias"] = normal(WIDTH)
    if not tied:
        weights["lm_head.weight"] = normal(VOCABULARY, WIDTH)
    return weights


def gelu_new(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gpt2(weights, tokens, heads):
    def norm(x, name):
        mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(var + 1e-5) * weights[name + ".weight"] + weights[name + ".bias"]

    def conv1d(x, name):
        return x @ weights[name + ".weight"] + weights[name + ".bias"]

    batch, length = tokens.shape
    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:length]
    for i in range(sum(name.endswith("ln_1.weight") for name in weights)):
        prefix = f"transformer.h.{i}."
        qkv = conv1d(norm(x, prefix + "ln_1"), prefix + "attn.c_attn")
        q, k, v = (part.view(batch, length, heads, -1).transpose(1, 2) for part in qkv.split(WIDTH, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(WIDTH // heads)
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + conv1d(mixed, prefix + "attn.c_proj")
        x = x + conv1d(gelu_new(conv1d(norm(x, prefix + "ln_2"), prefix + "mlp.c_fc")), prefix + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ weights.get("lm_head.weight", weights["transformer.wte.weight"]).T


# ---- ResNet, as torchvision computes it -------------------------------------------------------------------------------


class ResNet:
    """Holds the buffers; calling it runs a forward pass in training mode."""

    def __init__(self, depth, stem, width, channels, classes):
        self.depth, self.stem, self.width = depth, stem, width
        self.counts = [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]
        self.weights, self.buffers = {}, {}
        kernel = 7 if stem == "imagenet" else 3
        self.add("conv1", "bn1", channels, width, kernel)
        inputs = width
        for stage, count in enumerate(self.counts):
            for i in range(count):
                prefix, out = f"layer{stage + 1}.{i}.", (width << stage) * (4 if depth == 50 else 1)
                inner = width << stage
                sizes = [(inputs, inner, 1), (inner, inner, 3), (inner, out, 1)] if depth == 50 \
                    else [(inputs, out, 3), (out, out, 3)]
                for number, size in enumerate(sizes, 1):
                    self.add(f"{prefix}conv{number}", f"{prefix}bn{number}", *size)
                if i == 0 and (stage > 0 or inputs != out):
                    self.add(prefix + "downsample.0", prefix + "downsample.1", inputs, out, 1)
                inputs = out
        self.weights["fc.weight"] = 0.5 * torch.randn(classes, inputs)
        self.weights["fc.bias"] = 0.1 * torch.randn(classes)

    def add(self, conv, norm, inputs, outputs, kernel):
        self.weights[conv + ".weight"] = torch.randn(outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2)
        self.weights[norm + ".weight"] = 1 + 0.1 * torch.randn(outputs)
        self.weights[norm + ".bias"] = 0.1 * torch.randn(outputs)
        self.buffers[norm + ".running_mean"] = 0.1 * torch.randn(outputs)
        self.buffers[norm + ".running_var"] = 1 + 0.1 * torch.rand(outputs)

    def conv_norm(self, weights, x, conv, norm, stride=1):
        weight = weights[conv + ".weight"]
        y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return F.batch_norm(y, self.buffers[norm + ".running_mean"], self.buffers[norm + ".running_var"],
                            weights[norm + ".weight"], weights[norm + ".bias"], training=True, momentum=0.1, eps=1e-5)

    def __call__(self, weights, images):
        is_large = self.stem == "imagenet"
        x = F.relu(self.conv_norm(weights, images, "conv1", "bn1", 2 if is_large else 1))
        x = F.max_pool2d(x, 3, 2, 1) if is_large else x
        for stage, count in enumerate(self.counts):
            for i in range(count):
                prefix = f"layer{stage + 1}.{i}."
                stride = 2 if stage > 0 and i == 0 else 1
                strides = [1, stride, 1] if self.depth == 50 else [stride, 1]
                y = x
                for number, step in enumerate(strides, 1):
                    y = self.conv_norm(weights, y, f"{prefix}conv{number}", f"{prefix}bn{number}", step)
                    y = F.relu(y) if number < len(strides) else y
                if prefix + "downsample.0.weight" in weights:
                    x = self.conv_norm(weights, x, prefix + "downsample.0", prefix + "downsample.1", stride)
                x = F.relu(y + x)
        return F.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


# ---- MLP --------------------------------------------------------------------------------------------------------------


def mlp(weights, samples):
    x = F.gelu(F.linear(samples.flatten(1), weights["layers.0.weight"], weights["layers.0.bias"]))
    x = F.gelu(F.linear(x, weights["layers.1.weight"], weights["layers.1.bias"]))
    return F.linear(x, weights["head.weight"], weights["head.bias"])


def main():
    torch.set_num_threads(1)
    torch.manual_seed(20251122)
    tokens = torch.randint(VOCABULARY, (3, POSITIONS + 1))
    for tied in (True, False):
        name = "gpt2_tied" if tied else "gpt2_untied"
        # Heads of 8 and of 16 channels: Outstep computes the former with ATen's attention, the latter with its own.
        layers, heads = (1, 2) if tied else (1, 1)
        write_golden(name, gpt2_weights(layers, tied), {}, functools.partial(gpt2, heads=heads), tokens[:, :-1], tokens[:, 1:])
    for depth, stem, width, channels, size in ((18, "cifar", 2, 3, 8), (50, "imagenet", 1, 1, 32)):
        model = ResNet(depth, stem, width, channels, 5)
        images = torch.randn(6, channels, size, size)
        write_golden(f"resnet{depth}_{stem}", model.weights, model.buffers, model, images, torch.randint(5, (6,)))
    sizes = {"layers.0": (12, 7), "layers.1": (7, 9), "head": (9, 4)}
    weights = {f"{name}.weight": torch.randn(out, inputs) / math.sqrt(inputs) for name, (inputs, out) in sizes.items()}
    weights |= {f"{name}.bias": 0.1 * torch.randn(out) for name, (_, out) in sizes.items()}
    write_golden("mlp", weights, {}, mlp, torch.randn(5, 1, 3, 4), torch.randint(4, (5,)))


if __name__ == "__main__":
    main()
