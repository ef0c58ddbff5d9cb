"""The peers of data_bench: tiktoken's encoder, and crop, flip and normalise in PyTorch, on one thread.

    pip install tiktoken        # beside torch
    python bench/peers/torch_data.py --text data/tinyshakespeare/train.txt --tokenizer data/gpt2-bpe

Prints one JSON line a measurement, in data_bench's form. Both must state the same num_tokens.
"""

import argparse
import json
import pathlib
import time

import torch


def measure(what, unit, amount, seconds, work, **facts):
    work()
    rates, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(rates) < 5:
        start = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - start))
    rates.sort()
    line = dict(program="peer", what=what, unit=unit, median=rates[len(rates) // 2], min=rates[0],
                max=rates[-1], n=len(rates), **facts)
    print(json.dumps(line), flush=True)


def byte_of_code():
    """GPT-2's printable stand-in for each byte, the other way round."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def measure_tokenizer(flags):
    import tiktoken

    table = byte_of_code()
    vocabulary = json.loads((pathlib.Path(flags.tokenizer) / "encoder.json").read_text("utf8"))
    end = vocabulary.pop("<|endoftext|>")
    ranks = {bytes(table[c] for c in token): rank for token, rank in vocabulary.items()}
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks,
                                 special_tokens={"<|endoftext|>": end})
    text = pathlib.Path(flags.text).read_text("utf8")
    measure("encode", "MB/s", len(text.encode()) / 1e6, flags.seconds, lambda: encoding.encode_ordinary(text),
            text=flags.text, num_tokens=len(encoding.encode_ordinary(text)))


def measure_images(flags):
    batch, batches = 64, 20
    images = torch.randint(0, 10, (10_000, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.2470, 0.2435, 0.2616]).view(1, 3, 1, 1)

    def load(augment):
        for index in torch.randint(0, 10_000, (batches, batch)):
            chosen = images[index]
            if augment:
                padded = torch.nn.functional.pad(chosen, (4, 4, 4, 4))
                places = torch.randint(0, 9, (batch, 2)).tolist()
                chosen = torch.stack([padded[i, :, y:y + 32, x:x + 32] for i, (y, x) in enumerate(places)])
                flipped = torch.rand(batch) < 0.5
                chosen[flipped] = chosen[flipped].flip(-1)
            chosen.float().div_(255).sub_(mean).div_(deviation)

    for augment, what in ((False, "images, normalised"), (True, "images, crop and flip")):
        measure(what, "images/s", batch * batches, flags.seconds, lambda: load(augment), micro_batch=batch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="data/tinyshakespeare/train.txt")
    parser.add_argument("--tokenizer", default="data/gpt2-bpe")
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        measure_tokenizer(options)
    except ImportError:
        print(json.dumps(dict(program="tiktoken", what="encode", missing="pip install tiktoken")), flush=True)
    measure_images(options)
