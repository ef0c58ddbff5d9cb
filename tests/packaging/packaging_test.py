"""Installs a finished build into a folder of its own, then builds and runs a program that finds it there.

    packaging_test.py CMAKE BUILD_FOLDER COMPILER TORCH_FOLDER
"""

import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def run(*command, **options):
    """What a command says; fails with that if the command does."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode} of {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


class Packaging(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Always the same folder: the compiler cache knows the consumer's one file again.
        cls.folder = build / "packaging"
        cls.lock = open(build / "packaging.lock", "w")
        fcntl.flock(cls.lock, fcntl.LOCK_EX)  # another run may be at it
        cls.prefix = cls.folder / "prefix with a space"
        shutil.rmtree(cls.folder, ignore_errors=True)
        run(cmake, "--install", build, "--prefix", cls.prefix)

    @classmethod
    def tearDownClass(cls):
        cls.lock.close()

    def test_headers_come_without_tests_and_without_the_program_s_own(self):
        include = self.prefix / "include"
        headers = {str(path.relative_to(include)) for path in include.rglob("*") if path.is_file()}
        self.assertIn("outstep/base/errors.h", headers)
        self.assertIn("outstep/method/synchronizer.h", headers)
        self.assertEqual([name for name in headers if not name.endswith(".h") or name.endswith("testing.h")], [])
        self.assertEqual([name for name in headers if name.startswith(("outstep/apps/", "outstep/comm/gloo_headers"))], [])

    def test_the_program_finds_its_torch_and_its_recipes(self):
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        self.assertIn("torch", run(self.prefix / "bin" / "outstep", "--version", cwd=elsewhere))
        self.assertTrue((self.prefix / "share" / "outstep" / "recipes" / "quickstart.toml").is_file())
        plan = run(self.prefix / "bin" / "outstep", "plan", "quickstart", cwd=elsewhere)
        self.assertIn("parameters", plan)

    def test_a_consumer_finds_the_package(self):
        consumer = self.folder / "consumer"
        run(cmake, "-S", HERE / "consumer", "-B", consumer, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_PREFIX_PATH={self.prefix}", f"-DCMAKE_CXX_COMPILER={compiler}",
            *(["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []))
        run(cmake, "--build", consumer)
        recipe = self.prefix / "share" / "outstep" / "recipes" / "quickstart.toml"
        settings = ("train.steps=3", "schedule.warmup_steps=1", "model.n_layer=1", "model.n_embd=32")
        program = (consumer / "consumer", recipe)
        own = run(*program, self.folder / "alone", "mesh.replicas=1", *settings)
        two = run(self.prefix / "bin" / "outstep", "launch", "-n", 2, "--", *program, self.folder / "two", *settings)
        for said in (own, two):
            self.assertRegex(said, r"^\d+ parameters, 3 steps\n$")
        self.assertTrue((self.folder / "two" / "checkpoints" / "step-00000003" / "model.safetensors").is_file())

    def test_a_consumer_with_another_torch_is_told(self):
        said = run(cmake, "-S", HERE / "consumer", "-B", self.folder / "other", "-G", "Ninja",
                   f"-DCMAKE_PREFIX_PATH={self.prefix}", f"-DCMAKE_CXX_COMPILER={compiler}",
                   f"-DOUTSTEP_TORCH={self.other_torch()}")
        self.assertRegex(" ".join(said.split()), r"built with torch \S+, but .*/other torch is 0\.1\.0;")

    def other_torch(self):
        """The real one, but for its version."""
        other = self.folder / "other torch"
        other.mkdir()
        for part in ("include", "lib"):
            os.symlink(torch / part, other / part)
        (other / "version.py").write_text("__version__ = '0.1.0'\n")
        return other


if __name__ == "__main__":
    cmake, compiler = pathlib.Path(sys.argv[1]), sys.argv[3]
    build, torch = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[4])
    unittest.main(argv=sys.argv[:1])
