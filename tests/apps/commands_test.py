"""Every subcommand as a new user types it: help, results, --json, and the commands of the README and the tutorial."""

import json
import os
import pathlib
import re
import shlex
import shutil
import struct
import subprocess
import sys
import unittest

import support
from support import ROOT, InTemporaryFolder, Ranks, checkpoints, environment, outstep

COMMANDS = ["train", "resume", "eval", "sample", "export", "soup", "plan", "launch", "data", "inspect", "bench"]
# What makes the documents' runs take a second here; all else is typed as it stands there.
SMALL = ["--train.steps=6", "--evaluation.max_batches=2", "--evaluation.every=3", "--checkpoint.every=3",
         "--model.n_layer=1", "--model.n_embd=16", "--engine.micro_batch=2", "--log.every=2",
         "--schedule.warmup_steps=1"]
SMALL_IMAGES = ["--model.width=2", "--engine.micro_batch=2", "--evaluation.max_batches=2", "--ensemble.batch_norm_batches=2"]


class Help(unittest.TestCase):
    def test_of_the_program(self):
        for arguments in ([], ["--help"], ["-h"]):
            result = outstep(*arguments)
            self.assertEqual(result.returncode, 0)
            for command in COMMANDS:
                self.assertRegex(result.stdout, rf"(?m)^  {command} ")

    def test_of_every_command(self):
        for command in COMMANDS:
            result = outstep(command, "--help")
            self.assertEqual(result.returncode, 0, command)
            self.assertIn(f"Examples:\n  outstep {command}", result.stdout)
            self.assertEqual(result.stderr, "")
        for command in ("list", "get"):
            self.assertIn(f"Examples:\n  outstep data {command}", outstep("data", command, "--help").stdout)

    def test_version(self):
        result = outstep("--version")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stdout, r"^outstep \d+\.\d+\.\d+ \(commit [0-9a-f]+\S*, torch \d+\.\d+\.\d+")


class Commands(InTemporaryFolder):
    @classmethod
    def setUpClass(cls):
        holder = support.tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.shared = pathlib.Path(holder.name)
        (cls.shared / "tiny.toml").write_text(support.TINY)
        cls.screen = outstep("train", "tiny.toml", "--run-dir", "run", "--trace", folder=cls.shared)
        assert cls.screen.returncode == 0, cls.screen.stderr
        cls.trained = cls.shared / "run"

    def json_of(self, *arguments, **more):
        result = self.run_ok(*arguments, "--json", **more)
        return json.loads(result.stdout)

    def test_the_screen(self):
        lines = self.screen.stdout.splitlines()
        self.assertRegex(lines[0], r"^gpt2  [\d,]+ parameters · fp32 · 2 replicas × 1 stage × 1 member · 1 thread each$")
        self.assertRegex(lines[1], r"^engine backprop \(micro-batch 2\) · sync zero1 · ensemble none · optimizer adamw "
                                   r"\(lr 0\.001, cosine\)$")
        self.assertRegex(lines[3], r"^per rank: .* parameters, gradients, optimizer and buffers · sends .* a step$")
        steps = [line for line in lines if line.startswith("step ")]
        self.assertEqual(len(steps), 10)
        self.assertRegex(steps[-1], r"^step 10/10  loss \d\.\d{4}  .*lr .*  grad .*step/s  .*tok/s")
        self.assertIn("── a sample ──", lines)
        self.assertRegex(lines[-4], r"^validation loss \d\.\d+ nats/byte \(\d\.\d+ bits\) after 10 steps, ")
        self.assertRegex(lines[-2], r"^run    run    tensorboard --logdir run$")
        self.assertRegex(lines[-1], r'^next   (\./)?outstep sample run --prompt ')
        self.assertNotIn("\x1b", self.screen.stdout + self.screen.stderr)
        self.assertNotIn("\r", self.screen.stdout)
        self.assertEqual(self.screen.stderr, "")

    def test_a_bar_on_a_terminal_without_escape_sequences(self):
        script = shutil.which("script")
        if script is None:
            self.skipTest("needs script(1)")
        command = shlex.join([support.PROGRAM, "train", str(self.recipe), "--run-dir", "seen"])
        result = subprocess.run([script, "-qec", command, "/dev/null"], capture_output=True, text=True, cwd=self.folder,
                                timeout=60, env=environment(TERM="xterm", COLUMNS="100"), stdin=subprocess.DEVNULL)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertRegex(result.stdout, r"100%\|████████████████████\| 10/10 \[\d\d:\d\d<00:00, ")
        self.assertNotIn("\x1b", result.stdout)
        self.assertNotIn("step 1/10 ", result.stdout)

    def test_quiet_and_dry(self):
        result = self.run_ok("train", self.recipe, "--quiet", "--run-dir", "quiet")
        self.assertEqual((result.stdout, result.stderr), ("", ""))
        result = self.run_ok("train", self.recipe, "--dry-run")
        self.assertRegex(result.stdout, "^gpt2 ")
        self.assertEqual(self.json_of("train", self.recipe, "--dry-run")["dry_run"], True)
        self.assertFalse((self.folder / "runs").exists())

    def test_a_run_gets_a_name_of_its_own(self):
        self.run_ok("train", self.recipe)
        self.run_ok("train", self.recipe)
        names = sorted(path.name for path in (self.folder / "runs").iterdir())
        self.assertEqual(len(names), 2)
        self.assertRegex(names[0], r"^tiny-\d{8}-\d{6}$")

    def test_eval(self):
        of_run = self.json_of("eval", self.trained)
        of_checkpoint = self.json_of("eval", checkpoints(self.trained)[-1])
        self.assertEqual(of_run["loss"], of_checkpoint["loss"])
        lines = map(json.loads, (self.trained / "metrics" / "rank-0.jsonl").read_text().splitlines())
        told = [line["validation_loss"] for line in lines if line["kind"] == "validation"]
        self.assertEqual(of_run["loss"], told[-1], "as training saw it, bit for bit")
        self.run_ok("export", self.trained, "--to", "model")
        of_folder = self.json_of("eval", "model", "--evaluation.max_batches=4", "--engine.micro_batch=2")
        self.assertEqual(of_folder["loss"], of_run["loss"])
        self.assertGreater(self.json_of("eval", self.trained, "--evaluation.max_batches=1")["loss"], 0)
        self.assertRegex(self.run_ok("eval", self.trained).stdout, r"loss \d\.\d{4} nats \(\d\.\d{4} bits\), accuracy")

    def test_eval_knows_its_keys(self):
        result = outstep("eval", self.trained, "--evaluation.max_batch=4")
        self.assert_fails(result, 2, r'config error: --evaluation\.max_batch: unknown key "max_batch" in \[evaluation\]; '
                                     r'did you mean "max_batches"\?')
        self.assert_fails(outstep("eval", self.trained, "--data.augmet=false"), 2, r"config error: --data\.augmet: unknown")

    def test_eval_needs_nothing_that_training_ran_on(self):
        """A model that was trained over NCCL is evaluated on a laptop."""
        shutil.copytree(checkpoints(self.trained)[-1], self.folder / "model")
        (self.folder / "model" / "manifest.json").unlink()
        recipe = self.folder / "model" / "recipe.toml"
        recipe.write_text(recipe.read_text().replace('backend = "gloo"', 'backend = "nccl"'))
        self.assertIn('backend = "nccl"', recipe.read_text())
        self.assertEqual(self.json_of("eval", "model")["loss"], self.json_of("eval", self.trained)["loss"])

    def test_sample(self):
        arguments = ["sample", self.trained, "--prompt", "ROMEO:", "--tokens", 40]
        result = self.run_ok(*arguments)
        self.assertTrue(result.stdout.startswith("ROMEO:"))
        self.assertEqual(self.run_ok(*arguments).stdout, result.stdout, "the same seed, the same text")
        self.assertNotEqual(self.run_ok(*arguments, "--seed", 2).stdout, result.stdout)
        self.assertEqual(self.json_of(*arguments)["prompt"], "ROMEO:")
        greedy = [self.json_of(*arguments, "--temperature", 0, "--seed", seed)["text"] for seed in (1, 2)]
        self.assertEqual(*greedy)
        self.assertEqual(greedy[0], self.json_of(*arguments, "--top-k", 1)["text"])

    def test_sample_of_tokens_from_a_file(self):
        self.write("tokens/train.bin", struct.pack("<400H", *range(400)))
        self.write("tokens/val.bin", struct.pack("<100H", *range(100)))
        train = ["train", self.recipe, "--data.name=tokens", "--data.path=tokens", "--train.steps=1", "--mesh.replicas=1"]
        self.run_ok(*train, "--run-dir", "gpt2")
        self.run_ok("sample", "gpt2", "--tokens", 4)  # 50,257 tokens are GPT-2's
        self.run_ok(*train, "--run-dir", "odd", "--data.vocab_size=500")
        result = outstep("sample", "odd", folder=self.folder)
        self.assert_fails(result, 2, "config error: .* has no vocabulary in it; name one with --tokenizer")

    def test_export(self):
        result = self.run_ok("export", self.trained, "--to", "model")
        self.assertIn('GPT2LMHeadModel.from_pretrained("model")', result.stdout)
        self.assertEqual((self.folder / "model" / "model.safetensors").read_bytes(),
                         (checkpoints(self.trained)[-1] / "model.safetensors").read_bytes())
        config = json.loads((self.folder / "model" / "config.json").read_text())
        self.assertEqual((config["model_type"], config["n_layer"]), ("gpt2", 2))

    def test_export_says_how_to_evaluate(self):
        self.write("images.toml", """
            model = {name = "mlp", hidden_sizes = [8]}
            data = {name = "fashion_mnist"}
            train = {steps = 1, threads = 1}
            evaluation = {max_batches = 1}""")
        self.run_ok("train", "images.toml", "--run-dir", "images")
        self.write("tokens/train.bin", struct.pack("<400H", *range(400)))
        self.write("tokens/val.bin", struct.pack("<100H", *range(100)))
        self.run_ok("train", self.recipe, "--run-dir", "tokens-run", "--data.name=tokens", "--data.path=tokens",
                    "--data.vocab_size=500", "--train.steps=1")
        for run in (self.trained, "images", "tokens-run"):
            to = f"model-{pathlib.Path(run).name}"
            said = self.run_ok("export", run, "--to", to).stdout
            command = re.search(r"(?m)^next +(?:\./)?outstep (eval .*)$", said)[1]
            self.run_ok(*shlex.split(command), "--evaluation.max_batches=1")

    def test_a_population_and_its_average(self):
        self.write("population.toml", """
            model = {name = "resnet18", width = 2}
            data = {name = "fashion_mnist"}
            mesh = {members = 2}
            ensemble = {name = "wash", p = 0.1}
            optimizer = {name = "sgd"}
            train = {steps = 3, threads = 1}
            evaluation = {max_batches = 2}""")
        said = self.run_ok("train", "population.toml", "--run-dir", "population").stdout
        for words in ("2 members, mean", "ensemble of their logits", "average of their weights", "greedy soup of"):
            self.assertIn(words, said)
        evaluated = self.json_of("eval", "population")
        self.assertEqual(pathlib.Path(evaluated["model"]).name, "average")
        checkpoint = checkpoints(self.folder / "population")[-1]
        self.run_ok("eval", checkpoint / "member-01")
        result = outstep("eval", checkpoint, folder=self.folder)
        self.assert_fails(result, 3, "data error: .* holds the models of 2 members; name one of them, as ")
        made = self.json_of("soup", "population", "--to", "soup")
        self.assertEqual((made["models"], made["recomputed_batch_norm"]), (2, True))
        self.run_ok("eval", "soup")
        result = outstep("soup", "population", self.trained, "--to", "mixed", folder=self.folder)
        self.assert_fails(result, 3, "data error: .*a soup is made of models of one shape")
        text = self.run_ok("plan", "population.toml", "--no-measure").stdout
        self.assertRegex(text, r"wash \(this recipe\)")
        self.assertIn("papa_2", text)

    def test_plan(self):
        plan = self.json_of("plan", self.recipe, "--link", "200mbit")
        self.assertGreater(plan["bytes_sent_per_step"], 0)
        lines = map(json.loads, (self.trained / "metrics" / "rank-0.jsonl").read_text().splitlines())
        sent = {line["bytes_sent"] for line in lines if line["kind"] == "train"}
        self.assertEqual(sent, {plan["bytes_sent_per_step"]}, "as training sends")
        text = self.run_ok("plan", self.recipe, "--link", "200mbit", "--mesh.replicas=4").stdout
        for words in ("4 replicas", "optimizer state", "activations (peak)", "sent by a rank", "together", "(this recipe)",
                      "zero1 with overlap", "acco with dynamic counts", "× computing: "):
            self.assertIn(words, text)
        absent = self.run_ok("plan", self.recipe, "--data.path=nowhere").stdout
        self.assertRegex(absent, r'(?m)^data not here \(data\.path is "nowhere", .*\): the model\'s own examples were used$')
        self.assertIn("OUTSTEP_DATA", self.json_of("plan", "cifar10_resnet18", "--no-measure")["missing_data"])
        self.assertNotIn("activations", self.run_ok("plan", "gpt2_124m", "--no-measure").stdout.split("together")[0])

    def test_plan_of_stages(self):
        arguments = ("plan", "petra_cifar10", "--no-measure", "--link", "1gbit")
        text = self.run_ok(*arguments).stdout
        for words in ("stage 1  .  F0", "2 ticks, 0.5 updates", "to previous", "memory by stage", "gpipe  ", "4 + 4",
                      "petra (this recipe)", "without the link"):
            self.assertIn(words, text)
        flushed = self.run_ok(*arguments, "--engine.flush_every=1").stdout
        self.assertIn("2 ticks, 0 updates", flushed)
        self.assertIn("as in ticks", self.run_ok(*arguments, "--engine.pace=free").stdout)
        many = self.run_ok(*arguments, "--mesh.stages=10").stdout
        self.assertRegex(many, r"(?m)^from \d+ units on, ")
        self.assertIn("the largest", many)
        stage = self.json_of(*arguments)["pipeline"]["stages"][0]
        self.assertEqual(stage["to_next_seconds"], stage["to_next_bytes"] * 8 / 1e9)

    def test_inspect(self):
        newest = checkpoints(self.trained)[-1]
        self.run_ok("export", self.trained, "--to", "model")
        self.write("nano.bin", struct.pack("<5H", 1, 2, 3, 50256, 5))
        for path, kind, words in [
            (self.trained, "run", ["step-00000010", "validation loss", "grad_norm"]),
            (newest, "checkpoint", ["checkpoint of step 10", "state-00001.safetensors", "every file as it was saved"]),
            (newest / "model.safetensors", "safetensors", ["transformer.wte.weight", "[256, 24]", "Float"]),
            (newest / "state-00000.safetensors", "safetensors", ["slice:sync/"]),
            (self.folder / "model", "model", ["n_layer", "GPT2LMHeadModel"]),
            (self.trained / "trace-0.json", "trace", ["compute", "communication", "ui.perfetto.dev"]),
            (self.trained / "metrics" / "rank-1.jsonl", "metrics", ["loss", "lr"]),
            (self.folder / "nano.bin", "tokens", ["5 tokens", "nanoGPT", "from 0 to 50256"]),
        ]:
            with self.subTest(kind=kind, path=path.name):
                text = self.run_ok("inspect", path).stdout
                for word in words:
                    self.assertIn(word, text)
                self.assertEqual(self.json_of("inspect", path)["kind"], kind)

    def test_inspect_refuses_with_a_reason(self):
        self.write("odd.bin", b"abc")
        self.write("letter.txt", "Dear reader")
        self.write("cut.jsonl", '{"no": "metrics"}\n{"kind": "train", "step": 1}\n')
        self.write("other.json", "{}")
        self.write("odd.json", '{"traceEvents": [{"ph": "X", "name": 7}]}')
        self.write("bare.json", '{"traceEvents": [{"name": "thread_name", "tid": 1}, "event"]}')
        for name, reason in [("nowhere", "no such file or folder"), ("odd.bin", "not a whole number of 2-byte tokens"),
                             ("letter.txt", "text of 11"), ("cut.jsonl", "cut.jsonl:1: not a line of metrics"),
                             ("other.json", "inspect knows"), ("odd.json", "odd.json: no trace: "),
                             ("bare.json", "bare.json: no trace: "), ("tiny.toml", "is a recipe; see what it would do with"),
                             (".", "is neither a run")]:
            result = outstep("inspect", name, folder=self.folder)
            self.assert_fails(result, 3, "data error: ")
            self.assertIn(reason, result.stderr)

    def test_bench(self):
        parts = {part["part"]: part for part in self.json_of("bench", self.recipe, "--repetitions", 3)["parts"]}
        for name in ("forward + backward", "optimizer adamw", "reduce-scatter", "all-gather", "a whole step, sync zero1"):
            self.assertGreater(parts[name]["median_seconds"], 0)
            self.assertEqual(parts[name]["repetitions"], 3)
        self.assertRegex(self.run_ok("bench", self.recipe, "--repetitions", 1).stdout, r"part +median +least +most +rate")

    def test_data(self):
        self.assertRegex(self.run_ok("data", "list").stdout, r"(?m)^cifar10 +170 MB ")
        self.assertIn("cifar10", [entry["name"] for entry in self.json_of("data", "list")["sets"]])
        shipped = ROOT / "data"
        arguments = ["data", "get", "gpt2-bpe", "--from", shipped, "--to", "sets"]
        self.assertEqual(self.json_of(*arguments)["fetched"], ["encoder.json", "vocab.bpe"])
        self.assertEqual(self.json_of(*arguments)["already_there"], ["encoder.json", "vocab.bpe"])
        shutil.copytree(shipped / "tinyshakespeare", self.folder / "sets" / "tinyshakespeare")
        text = self.run_ok("train", self.recipe, OUTSTEP_DATA=str(self.folder / "sets")).stdout
        self.assertIn(str(self.folder / "sets" / "tinyshakespeare"), text)

    def test_a_recipe_by_its_name(self):
        self.run_ok("train", "quickstart", "--run-dir", "named", "--train.threads=1", *SMALL)
        self.assertTrue(checkpoints(self.folder / "named"))


class Documents(InTemporaryFolder):
    """Runs the commands of a page from top to bottom in one shell, as a reader would."""

    def commands_of(self, page):
        blocks = re.findall(r"```(?:sh|console)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]

    def typed(self, line):
        """The line as a reader types it: RUN is the newest run, and a training run is made short."""
        runs = sorted(self.folder.glob("runs/*"), key=lambda folder: folder.stat().st_mtime)
        line = re.sub(r"\bRUN\b", str(runs[-1]) if runs else "RUN", line)
        line = re.sub(r"\bFOLDER\b", "a-folder", line)
        small = SMALL_IMAGES if "wash_cifar10" in line else SMALL
        return re.sub(r"(\./outstep train \S+)", rf"\1 {' '.join(small)} --train.threads=1", line)

    def follow(self, page):
        os.symlink(ROOT / "recipes", self.folder / "recipes")
        (self.folder / "outstep").symlink_to(support.PROGRAM)
        followed = 0
        for line in self.commands_of(page):
            if not re.match(r"(\./outstep|kill|ls|cat|head) ?", line):
                continue  # git clone, ./test, pip, tensorboard: tried elsewhere
            result = subprocess.run(["sh", "-c", self.typed(line)], capture_output=True, text=True, cwd=self.folder,
                                    timeout=120, env=environment())
            self.assertEqual(result.returncode, 0, f"{page}: {line}\n{result.stderr}{result.stdout}")
            followed += 1
        self.assertGreater(followed, 1)

    def test_readme(self):
        self.follow("README.md")

    def test_tutorial(self):
        self.follow("docs/tutorial.md")


if __name__ == "__main__":
    support.main(globals())
