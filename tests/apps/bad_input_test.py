"""What a user, a disk or a network can do wrong: each with its message and exit code."""

import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import unittest

import support
from support import ROOT, InTemporaryFolder, Ranks, checkpoints, environment, outstep

SHAKESPEARE = ROOT / "data" / "tinyshakespeare"


class WrongRecipes(InTemporaryFolder):
    def refused(self, pattern, *overrides, recipe=None):
        result = outstep("train", recipe or self.recipe, "--run-dir", "run", *overrides, folder=self.folder)
        self.assert_fails(result, 2, "config error: " + pattern)
        self.assertEqual(result.stdout, "")
        self.assertFalse((self.folder / "run").exists(), "nothing is made before all is known to fit")

    def changed(self, old, new):
        return self.write("changed.toml", support.TINY.replace(old, new))

    def test_unknown_key(self):
        recipe = self.changed("micro_batch = 2", "micro_bach = 2")
        self.refused(r'changed\.toml:13:1: unknown key "micro_bach" in \[engine\]; did you mean "micro_batch"\?',
                     recipe="changed.toml")
        self.assertTrue(recipe.exists())

    def test_unknown_section(self):
        self.changed("[sync]", "[snyc]")
        self.refused(r'changed\.toml:14:\d+: unknown section \[snyc\]; did you mean \[sync\]\?', recipe="changed.toml")

    def test_unknown_key_on_the_command_line(self):
        self.refused(r'--sync\.nmae: unknown key "nmae" in \[sync\]; did you mean "name"\?', "--sync.nmae=ddp")

    def test_wrong_type(self):
        self.changed("steps = 10", 'steps = "ten"')
        self.refused(r'changed\.toml:\d+:\d+: train\.steps .*"ten"', recipe="changed.toml")

    def test_out_of_range(self):
        self.refused(r'--optimizer\.lr.*-1', "--optimizer.lr=-1")
        self.refused(r'--train\.steps.*0', "--train.steps=0")

    def test_unknown_choice(self):
        self.refused(r'--sync\.name.*"dpd".*(did you mean "ddp"|none, ddp, zero1)', "--sync.name=dpd")

    def test_ill_formed(self):
        self.write("ill.toml", "[model\nname = 1\n")
        self.refused(r"ill\.toml:1:\d+: ", recipe="ill.toml")

    def test_missing_recipe(self):
        self.refused(r'there is no recipe "quikstart"; did you mean "quickstart"\?', recipe="quikstart")

    def test_impossible_mesh(self):
        self.refused(r"mesh\.stages = 2: engine \"backprop\" trains the whole model", "--mesh.stages=2")
        self.refused(r".*dynamic counts would let the 2 members make different numbers", "--mesh.members=2",
                     "--sync.name=acco")

    def test_a_combination_that_makes_no_sense(self):
        self.refused(r'.*"none".*replicas', "--sync.name=none")
        self.refused(r'.*"resnet18".*images', "--model.name=resnet18")

    def test_more_members_than_kinds_of_them(self):
        result = outstep("plan", "wash_cifar10", "--no-measure", "--data.name=fashion_mnist", "--mesh.members=82",
                         "--ensemble.regularization=heterogeneous", folder=self.folder)
        self.assert_fails(result, 2, r"config error: mesh\.members = 82 is more than the 81 combinations")

    def test_a_gpu_where_none_is(self):
        self.refused(r'train\.device = "cuda": LibTorch .* finds no GPU here; use "cpu"', "--train.device=cuda")


class WrongFlags(InTemporaryFolder):
    def refused(self, pattern, *arguments):
        self.assert_fails(outstep(*arguments, folder=self.folder), 2, "config error: " + pattern)

    def test_slips_of_the_finger(self):
        self.refused(r'outstep has no command "trian"; did you mean "train"\?', "trian", "x")
        self.refused(r'outstep train has no flag "--run-dri"; did you mean "--run-dir"\?', "train", "x", "--run-dri=y")
        self.refused(r'outstep data has no command "gte"; did you mean "get"\?', "data", "gte")
        self.refused(r"recipe is required; see: outstep train --help", "train")
        self.refused(r"--train\.steps needs its value behind an equals sign", "train", "x", "--train.steps")

    def test_no_such_set(self):
        self.refused(r'.*"cifar11".*cifar10', "data", "get", "cifar11")

    def test_odd_link(self):
        self.refused(r".*200mbits", "plan", self.recipe, "--link", "200mbits")


class WrongData(InTemporaryFolder):
    def refused(self, pattern, *overrides):
        result = outstep("train", self.recipe, *overrides, folder=self.folder)
        self.assert_fails(result, 3, "data error: " + pattern)

    def test_missing(self):
        self.refused(r".*no-such-folder", "--data.path=no-such-folder")
        self.refused(r"(.|\n)*outstep data get cifar100", "--data.name=cifar100", "--model.name=resnet18")

    def test_too_short(self):
        self.write("short/train.txt", "hello")
        self.refused(r".*short", "--data.path=short")

    def test_cut_off_records(self):
        (self.folder / "cifar").mkdir()
        record = bytes(3073)
        self.write("cifar/data_batch_1.bin", record * 10 + record[:-1])
        self.write("cifar/test_batch.bin", record * 10)
        self.refused(r".*data_batch_1\.bin: 33,802 bytes is not a whole number of 3,073-byte records \(one byte short\)",
                     "--data.name=cifar10", "--model.name=resnet18", "--data.path=cifar",
                     '--data.train_files=["data_batch_1.bin"]')

    def test_tokens_beyond_the_vocabulary(self):
        self.write("tokens/train.bin", struct.pack("<2000H", *([65535] * 2000)))
        self.write("tokens/val.bin", struct.pack("<2000H", *([1] * 2000)))
        self.refused(r".*65,?535.*50,?257", "--data.name=tokens", "--data.path=tokens")


def header_and(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin, end, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - begin) // 4], "data_offsets": [begin, end]}


class HostileSafetensors(InTemporaryFolder):
    def refused(self, data, pattern):
        path = self.write("hostile.safetensors", data)
        result = outstep("inspect", path.name, folder=self.folder)
        self.assert_fails(result, 3, r"data error: hostile\.safetensors: " + pattern)

    def test_every_lie(self):
        for name, data, pattern in [
            ("empty", b"", ".*"),
            ("cut off", header_and({"a": tensor(0, 8)}, bytes(4)), '.*'),
            ("header longer than the file", struct.pack("<Q", 1 << 40) + b"{}", ".*"),
            ("header length that overflows", struct.pack("<Q", (1 << 64) - 1) + b"{}", ".*"),
            ("no JSON", header_and(b"{nonsense"), ".*"),
            ("not UTF-8", header_and(b'{"\xff\xfe": 1}'), ".*"),
            ("overlap", header_and({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), '.*"?b"?'),
            ("hole", header_and({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), ".*"),
            ("shape that does not fit", header_and({"a": tensor(0, 8, shape=[3])}, bytes(8)), '.*"?a"?'),
            ("shape that overflows", header_and({"a": tensor(0, 8, shape=[1 << 62, 1 << 62])}, bytes(8)), '.*"?a"?'),
            ("negative shape", header_and({"a": tensor(0, 8, shape=[-2])}, bytes(8)), '.*"?a"?'),
            ("unknown type", header_and({"a": tensor(0, 8, dtype="F7")}, bytes(8)), '.*F7'),
            ("duplicate name", header_and(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                          b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)), '.*a'),
            ("data after the last tensor", header_and({"a": tensor(0, 4)}, bytes(8)), ".*"),
        ]:
            with self.subTest(name):
                self.refused(data, pattern)


class WrongCheckpoints(InTemporaryFolder):
    def setUp(self):
        super().setUp()
        self.run_ok("train", self.recipe, "--run-dir", "run")

    def test_altered(self):
        path = checkpoints(self.folder / "run")[-1] / "state-00001.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        result = outstep("resume", "run", "--train.steps=12", folder=self.folder)
        self.assert_fails(result, 3, r"data error: .*state-00001\.safetensors")
        self.assert_fails(outstep("inspect", path.parent, folder=self.folder), 3, r"data error: .*state-00001")

    def test_an_altered_model_is_not_used(self):
        newest = checkpoints(self.folder / "run")[-1]
        path = newest / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        for arguments in (["eval"], ["sample"], ["export", "--to", "model"]):
            result = outstep(arguments[0], "run", *arguments[1:], folder=self.folder)
            self.assert_fails(result, 3, r"data error: .*model\.safetensors: its SHA-256 is not the manifest's")
        self.assertFalse((self.folder / "model").exists())
        (newest / "DONE").unlink()
        self.assert_fails(outstep("eval", newest, folder=self.folder), 3,
                          r"data error: .*: not a complete checkpoint \(it has no DONE\)")

    def test_of_another_model(self):
        recipe = self.folder / "run" / "recipe.toml"
        recipe.write_text(recipe.read_text().replace("n_embd = 24", "n_embd = 32"))
        result = outstep("resume", "run", "--train.steps=12", folder=self.folder)
        self.assert_fails(result, 3, r"data error: .*transformer\.wte\.weight")

    def test_one_that_was_never_finished_does_not_exist(self):
        newest = checkpoints(self.folder / "run")[-1]
        (newest / "DONE").unlink()
        result = self.run_ok("inspect", "run", "--json")
        self.assertEqual([entry["step"] for entry in json.loads(result.stdout)["checkpoints"]], [5])

    def test_a_run_is_not_overwritten(self):
        result = outstep("train", self.recipe, "--run-dir", "run", folder=self.folder)
        self.assert_fails(result, 3, r"data error: run holds a run already; go on with it: outstep resume run")

    def test_what_is_no_run(self):
        self.assert_fails(outstep("resume", "nowhere", folder=self.folder), 3, "data error: nowhere: no such folder")
        self.assert_fails(outstep("resume", checkpoints(self.folder / "run")[-1], folder=self.folder), 3,
                          "data error: .* is not a run's folder")
        self.assert_fails(outstep("eval", self.folder, folder=self.folder), 3, "data error: .* is neither a run")

    def test_what_would_make_it_another_run(self):
        result = outstep("resume", "run", "--optimizer.lr=1", folder=self.folder)
        self.assert_fails(result, 2, r"config error: --optimizer\.lr=1: a run cannot go on with another optimizer\.lr")

    def test_export_does_not_overwrite(self):
        self.run_ok("export", "run", "--to", "model")
        result = outstep("export", "run", "--to", "model", folder=self.folder)
        self.assert_fails(result, 3, "data error: model holds a model.safetensors already")


class HostileFiles(InTemporaryFolder):
    """What inspect and soup are given may be anything."""

    def test_names_cannot_reach_the_terminal_raw(self):
        path = self.write("a.safetensors", header_and({"\x1b]0;owned\x07": tensor(0, 8)}, bytes(8)))
        shown = self.run_ok("inspect", path).stdout
        self.assertIn("]0;owned", shown)
        self.assertNotIn("\x1b", shown)

    def test_what_is_no_file(self):
        os.mkfifo(self.folder / "pipe.bin")
        result = outstep("inspect", "pipe.bin", folder=self.folder, timeout=20)
        self.assert_fails(result, 3, r"data error: pipe\.bin: neither a file nor a folder")

    def test_deep_json(self):
        self.write("lines.jsonl", '{"kind": "train", "step": 1, "loss": ' + "[" * 100_000 + "]" * 100_000 + "}\n{}\n")
        self.assert_fails(outstep("inspect", "lines.jsonl", folder=self.folder), 3, r"data error: lines\.jsonl:1: not a line")

    def test_records_of_impossible_worlds(self):
        record = {"format": "outstep flight record", "version": 1, "rank": 0, "world_size": 2_000_000_000, "written_at": 1,
                  "error": "", "num_operations": 0, "groups": [], "operations": []}
        self.write("flight-0.json", json.dumps(record))
        self.assert_fails(outstep("inspect", "flight-0.json", folder=self.folder), 3,
                          r"data error: flight-0\.json: rank 0 of 2000000000 is none")

    def test_a_soup_leaves_the_folders_of_others_alone(self):
        self.run_ok("train", self.recipe, "--run-dir", "run")
        kept = self.write("soup.partial/kept", "mine")
        self.run_ok("soup", "run", "run/checkpoints/step-00000005", "--to", "soup")
        self.assertEqual(kept.read_text(), "mine")
        self.assertEqual([path.name for path in self.folder.glob("soup.partial-*")], [])


class FullDisk(InTemporaryFolder):
    def test_a_save_that_fails_harms_no_earlier_checkpoint(self):
        """On a file system of 1 MB, whose second checkpoint does not fit."""
        script = f"""
            mount -t tmpfs -o size={self.size()} tmpfs small || exit 99
            "{support.PROGRAM}" train tiny.toml --run-dir small/run --log.tensorboard=false --checkpoint.keep=9 \
                --train.steps=40 --checkpoint.every=2 >/dev/null
            echo code $?
            "{support.PROGRAM}" inspect small/run --json
            ls -A small/run/checkpoints
        """
        (self.folder / "small").mkdir()
        result = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, cwd=self.folder,
                                timeout=120, env=environment())
        if result.returncode == 99 or "unshare failed" in result.stderr:
            self.skipTest("may not mount: " + result.stderr.strip())
        self.assertRegex(result.stderr, r"outstep(\[\d\])?: data error: .*No space left on device")
        code, _, rest = result.stdout.partition("\n")
        self.assertEqual(code, "code 3")
        found, end = json.JSONDecoder().raw_decode(rest)
        self.assertGreater(len(found["checkpoints"]), 0)
        names = rest[end:].split()
        self.assertEqual([name for name in names if name.startswith(".")], [], "no temporary folder is left")

    def size(self):
        self.run_ok("train", self.recipe, "--run-dir", "sized", "--train.steps=2", "--checkpoint.every=2")
        one = sum(file.stat().st_size for file in checkpoints(self.folder / "sized")[-1].iterdir())
        return 3 * one + 200_000


class Network(InTemporaryFolder):
    def command(self, *more):
        return [support.PROGRAM, "train", self.recipe, "--run-dir", self.folder / "run", *more]

    def test_a_busy_port(self):
        with socket.socket() as taken:
            taken.bind(("", 0))
            taken.listen()
            port = taken.getsockname()[1]
            command = self.command("--comm.deadline_seconds=3")
            with Ranks(command, world_size=2, environment={"MASTER_PORT": port}, folder=self.folder) as ranks:
                results = ranks.wait()
            self.assertEqual(results[0].exit_code, 4)
            self.assertRegex(results[0].stderr, rf"communication error: port {port} of 127\.0\.0\.1 is in use")
            result = outstep("launch", "-n", 2, "--master", f"127.0.0.1:{port}", self.recipe, folder=self.folder)
            self.assert_fails(result, 4, rf"communication error: cannot use port {port}: Address already in use")

    def test_a_missing_peer(self):
        variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": support.free_port()}
        with Ranks(self.command("--comm.deadline_seconds=1"), environment=variables, folder=self.folder) as ranks:
            result = ranks.wait()[0]
        self.assertEqual(result.exit_code, 4)
        self.assertRegex(result.stderr, r"communication error: rank 1 did not come .*within 1 s \(world of 2")

    def test_a_master_that_is_not_there(self):
        variables = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": support.free_port()}
        with Ranks(self.command("--comm.deadline_seconds=1"), environment=variables, folder=self.folder) as ranks:
            result = ranks.wait()[0]
        self.assertEqual(result.exit_code, 4)
        self.assertRegex(result.stderr, r"outstep\[1\]: communication error: rank 0 was not reached")

    def test_launchers_that_disagree(self):
        result = outstep("train", self.recipe, folder=self.folder, RANK="0", LOCAL_RANK="0", WORLD_SIZE="2",
                         MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", OMPI_COMM_WORLD_RANK="1",
                         OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_LOCAL_RANK="1")
        self.assert_fails(result, 2, r"config error: two launchers disagree about the rank: RANK is 0 \(torchrun\), but "
                                     r"OMPI_COMM_WORLD_RANK is 1 \(mpirun\)")

    def test_variables_that_are_missing(self):
        result = outstep("train", self.recipe, folder=self.folder, RANK="0", WORLD_SIZE="2")
        self.assert_fails(result, 2, r"config error: environment variables .*MASTER_ADDR")

    def test_ranks_that_differ(self):
        with Ranks(["sh", "-c", f'exec "{support.PROGRAM}" train "{self.recipe}" --run-dir run --train.seed=$RANK'],
                   world_size=2, folder=self.folder) as ranks:
            for result in ranks.wait():
                self.assertEqual(result.exit_code, 2, result)
                self.assertRegex(result.stderr, r"config error: .*rank 1.*\n?.*seed")

    def test_mpi_without_mpirun(self):
        result = outstep("train", self.recipe, "--comm.backend=mpi", folder=self.folder)
        self.assert_fails(result, 2, r'config error: comm\.backend is "mpi", whose ranks only mpirun can start: mpirun -n 2')

    def test_one_failure_is_shown_not_every_ranks_echo_of_it(self):
        """Rank 1 cannot read its data; rank 0 would tell of a lost connection."""
        script = f'[ "$RANK" = 1 ] && set -- --data.path=nowhere; exec "{support.PROGRAM}" train "{self.recipe}" "$@"'
        result = outstep("launch", "-n", 4, "--", "sh", "-c", script, "sh", folder=self.folder)
        self.assertEqual(result.stderr.count("error:"), 1, result.stderr)


if __name__ == "__main__":
    support.main(globals())
