"""What outstep soup writes, and what it refuses before it writes anything."""

import json
import pathlib
import re
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import time

import support
from support import InTemporaryFolder, checkpoints, outstep

# Two members, running statistics, a second.
POPULATION = """
model = {name = "resnet18", width = 2}
data = {name = "fashion_mnist"}
mesh = {members = 2}
engine = {micro_batch = 8}
ensemble = {name = "wash", p = 0.1, batch_norm_batches = 3}
optimizer = {name = "sgd"}
train = {steps = 3, threads = 1}
evaluation = {max_batches = 2}
"""


def tensors(folder):
    """{name: floats} of a model folder."""
    data = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return {name: struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin:8 + size + end])
            for name, entry in header.items() if name != "__metadata__" for begin, end in [entry["data_offsets"]]}


class Soup(InTemporaryFolder):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        folder = pathlib.Path(holder.name)
        (folder / "population.toml").write_text(POPULATION)
        (folder / "tiny.toml").write_text(support.TINY)
        for recipe, run in (("population.toml", "images"), ("tiny.toml", "text")):
            trained = outstep("train", recipe, "--run-dir", run, folder=folder)
            assert trained.returncode == 0, trained.stderr
        cls.images, cls.text = folder / "images", folder / "text"
        cls.member = checkpoints(cls.images)[-1] / "member-00"

    def refused(self, code, pattern, *arguments):
        """And nothing is left of it."""
        before = self.entries()
        self.assert_fails(outstep("soup", *arguments, folder=self.folder), code, pattern)
        self.assertEqual(self.entries(), before)

    def entries(self):
        return sorted(path.relative_to(self.folder) for path in self.folder.rglob("*"))

    def copy(self, run, name):
        shutil.copytree(run, self.folder / name)
        return self.folder / name

    def test_never_into_a_run(self):
        run = self.copy(self.text, "run")
        (self.folder / "link").symlink_to("run")
        recipe = (run / "recipe.toml").read_bytes()
        self.refused(3, "data error: run is a run, which would take the model for its own; take another --to", self.images,
                     "--to", "run")
        for inside in ("run/average", "run/checkpoints/step-99999999/", "link/a/b", "run/../run/soup"):
            self.refused(3, rf"data error: {inside.rstrip('/')} lies in .*/run, a run, which would take the model for its own",
                         self.images, "--to", inside)
        newest = checkpoints(run)[-1].rename(self.folder / "checkpoint")
        self.refused(3, "data error: checkpoint is a checkpoint, which", self.images, "--to", newest.name)
        result = outstep("export", self.text, "--to", "run/average", folder=self.folder)
        self.assert_fails(result, 3, "data error: run/average lies in .*/run, a run, which")
        self.assertEqual((run / "recipe.toml").read_bytes(), recipe)

    def test_never_over_what_is_there(self):
        self.write("own/recipe.toml", "mine")
        self.refused(3, "data error: own holds a recipe.toml already; take another --to", self.text, "--to", "own")
        self.assertEqual((self.folder / "own/recipe.toml").read_text(), "mine")
        for name in ("model.safetensors", "config.json", "model.safetensors.index.json", "manifest.json"):
            self.write(f"of-{name}/{name}", "mine")
            self.refused(3, f"data error: of-{name} holds a {name} already; take another --to, or remove it first", self.text,
                         "--to", f"of-{name}")
        (self.folder / "new/checkpoints").mkdir(parents=True)
        self.refused(3, "data error: new holds checkpoints already", self.text, "--to", "new")
        self.write("file", "mine")
        self.refused(3, "data error: file is not a folder", self.text, "--to", "file")

    def test_folders_made_for_a_soup_that_fails_are_removed(self):
        self.refused(3, "data error: .* holds a ", self.text, self.images, "--to", "a/b/soup")
        self.write("c/mine", "mine")
        self.refused(3, "data error: .* holds a ", self.text, self.images, "--to", "c/d/soup")
        self.assertEqual([path.name for path in (self.folder / "c").iterdir()], ["mine"])

    def test_says_all_that_it_wrote(self):
        said = self.run_ok("soup", self.text, "--to", "with").stdout
        self.assertIn("written to with: recipe.toml, config.json, model.safetensors\n", said)
        self.assertEqual(sorted(path.name for path in (self.folder / "with").iterdir()),
                         ["config.json", "model.safetensors", "recipe.toml"])
        self.run_ok("export", self.text, "--to", "exported")
        said = self.run_ok("soup", "exported", "--to", "without").stdout
        self.assertIn("written to without: config.json, model.safetensors\n", said)

    def test_exported_models_need_their_data_named(self):
        self.run_ok("export", self.member, "--to", "e")
        self.refused(2, "config error: e has no recipe that says what data to recompute running statistics from; name them, "
                     "as --data.name=cifar10, or use --batch-norm=average", "e", "e", "--to", "y")
        self.refused(2, r'config error: e: model "resnet18" reads images, but data "text" gives tokens',
                     "e", "--to", "y", "--data.name=text")
        said = self.run_ok("soup", "e", "e", "--to", "y", "--data.name=fashion_mnist", "--ensemble.batch_norm_batches=1")
        self.evaluate_as_said(said.stdout)
        said = self.run_ok("soup", "e", "e", "--to", "z", "--batch-norm=average").stdout
        self.assertIn("eval z --data.name=NAME --data.path=PATH", said)
        own, mean = tensors(self.folder / "e"), tensors(self.folder / "z")
        self.assertEqual(own, mean)

    def evaluate_as_said(self, said):
        command = re.search(r"(?m)^next +(?:\./)?outstep (eval .*)$", said)[1]
        self.run_ok(*shlex.split(command), "--evaluation.max_batches=1")

    def test_statistics_are_those_of_the_end_of_the_run(self):
        """3 batches wanted, 2 of each member made: there and here."""
        said = self.run_ok("soup", self.images, "--to", "soup").stdout
        self.evaluate_as_said(said)
        of_run, of_soup = tensors(self.images / "average"), tensors(self.folder / "soup")
        self.assertEqual(list(of_run), list(of_soup))
        self.assertTrue(any("running_var" in name for name in of_run))
        self.assert_near(of_run, of_soup)
        self.run_ok("soup", self.images, "--to", "other", "--ensemble.batch_norm_batches=8")
        with self.assertRaises(AssertionError):
            self.assert_near(of_run, tensors(self.folder / "other"))

    def assert_near(self, expected, found):
        for name, values in expected.items():
            for ours, theirs in zip(values, found[name], strict=True):
                self.assertAlmostEqual(ours, theirs, delta=1e-5 + 1e-4 * abs(ours), msg=name)

    def test_takes_what_recomputing_takes(self):
        self.refused(2, r"config error: --evaluation\.batch=3: soup takes keys of \[data\] and \[engine\], and "
                     r"ensemble\.batch_norm_batches, only", self.images, "--to", "y", "--evaluation.batch=3")
        self.refused(2, "config error: --ensemble.batch_norm_batches: ensemble.batch_norm_batches is 0, it must be at least 1",
                     self.images, "--to", "y", "--ensemble.batch_norm_batches=0")
        self.refused(2, "config error: --data.name=text: only for running statistics that are recomputed, and here are none",
                     self.text, "--to", "y", "--data.name=text")
        self.refused(2, "config error: --data.name=text: .*, and here they are averaged", self.images, "--to", "y",
                     "--batch-norm=average", "--data.name=text")

    def test_of_two_families(self):
        self.refused(3, r"data error: .*/text/checkpoints/.* holds a gpt2, .*/member-00 a resnet; a soup is made of models "
                     "of one shape", self.images, self.text, "--to", "y")

    def test_a_signal_leaves_nothing_behind(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with subprocess.Popen(
                    [support.PROGRAM, "soup", self.images, "--to", "y", "--ensemble.batch_norm_batches=1000000"],
                    cwd=self.folder, env=support.environment(), stderr=subprocess.PIPE, text=True) as soup:
                while soup.poll() is None and not list(self.folder.glob("y.partial-*/recipe.toml")):
                    time.sleep(0.01)
                soup.send_signal(number)
                said = soup.communicate(timeout=60)[1]
            self.assertEqual(soup.returncode, 128 + number, said)
            self.assertIn("outstep: stopped: by signal", said)
            self.assertEqual(list(self.folder.glob("y*")), [])


if __name__ == "__main__":
    support.main(globals())
