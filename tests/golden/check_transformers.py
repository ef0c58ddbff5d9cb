#!/usr/bin/env python3
"""Checks against the real transformers that GPT-2 folders go there and back. Run by hand or where transformers is there:

  python3 -m venv /tmp/hf && /tmp/hf/bin/pip install transformers torch==2.13.0
  /tmp/hf/bin/python tests/golden/check_transformers.py build/default/bin/outstep

For a tied head, an untied one and a model saved without its head: transformers saves a random model, outstep reads and
exports it, transformers loads the export with no missing or unexpected key, and both report the same loss to 1e-4.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

LENGTH, TOLERANCE = 48, 1e-4


def random_model(tied):
    torch.manual_seed(1 if tied else 2)
    config = GPT2Config(vocab_size=256, n_positions=LENGTH, n_embd=64, n_layer=3, n_head=2, initializer_range=0.2,
                        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases and norms away from 0 and 1
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def loss_of(model, text):
    """The mean over windows [i · T, (i + 1) · T] of the text, as outstep evaluates."""
    tokens = torch.tensor(list(text))
    count = (len(tokens) - 1) // LENGTH
    windows = torch.stack([tokens[i * LENGTH:(i + 1) * LENGTH + 1] for i in range(count)])
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stderr}")
    return result.stdout


def check(name, folder, model, program, data, text):
    """Whether the folder that transformers saved for the model means the same to outstep and comes back whole."""
    exported = folder.with_name(folder.name + "-exported")
    run(program, "export", folder, "--to", exported)
    again, report = GPT2LMHeadModel.from_pretrained(exported, output_loading_info=True)
    wrong = {key: found for key, found in report.items() if found}
    expected, back = loss_of(model, text), loss_of(again.eval(), text)
    result = json.loads(run(program, "eval", exported, "--json", f"--data.path={data}",
                            '--data.train_files=["train.txt"]', '--data.valid_files=["valid.txt"]'))
    is_same = not wrong and max(abs(back - expected), abs(result["loss"] - expected)) < TOLERANCE
    print(f"{'ok   ' if is_same else 'WRONG'} {name}: loss {expected:.6f} in transformers, {back:.6f} after export, "
          f"{result['loss']:.6f} in outstep; loading {wrong or 'complete'}")
    return is_same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the outstep program")
    logging.disable_progress_bar()
    program = pathlib.Path(parser.parse_args().program).resolve()
    text = (b"It was the best of times, it was the worst of times, " * 40)[:1600]
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        data = root / "data"
        data.mkdir()
        for file in ("train.txt", "valid.txt"):
            (data / file).write_bytes(text)
        results = []
        for name, tied, saves_head in (("tied head", True, True), ("untied head", False, True),
                                       ("saved without its head", True, False)):
            model, folder = random_model(tied), root / name.replace(" ", "-")
            (model if saves_head else model.transformer).save_pretrained(folder)
            results.append(check(name, folder, model, program, data, text))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
