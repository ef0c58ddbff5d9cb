"""Proves that check.py finds each kind of broken rule, and lets a good tree pass."""

import pathlib
import tempfile
import unittest

import check

GOOD_TREE = {
    "CMakeLists.txt": "outstep_room(base LIBRARIES fmt::fmt)\noutstep_room(io DEPENDS base)\n"
                      "outstep_room(train DEPENDS engine sync ensemble)\n",
    "src/outstep/base/torch.h": "#pragma once\n#include <ATen/ATen.h>\n",
    "src/outstep/base/memory.cc": "#include <c10/core/Allocator.h>\n",
    "src/outstep/comm/gloo_group.h": "#pragma once\n#include <c10/util/intrusive_ptr.h>\n",
    "src/outstep/comm/gloo_group.cc": '#include "outstep/comm/gloo_group.h"\n'
                                      "#include <torch/csrc/distributed/c10d/Store.hpp>\n",
    "src/outstep/comm/launch.cc": 'const char* rank = std::getenv("RANK");\n',
    "src/outstep/sync/ddp.h": '#pragma once\n#include "outstep/method/engine.h"\n',
    "src/outstep/sync/ddp.cc": '#include "outstep/sync/ddp.h"\n#include <vector>\n#include "outstep/base/torch.h"\n'
                               "// never calls getenv(), printf() or exit()\n"
                               'auto help = "printf(x) std::cout getenv( exit(1)";\nvoid f() { group.exit(); '
                               "snprintf(buffer, 3, format); }\n",
    "src/outstep/sync/limits_test.cc": '#include "outstep/sync/ddp.h"\n#include "outstep/sync/zero1.h"\n'
                                       "void f() { std::cout << 1; }\n",
    "src/outstep/sync/zero1.h": "#pragma once\n",
    "src/outstep/sync/testing.h": '#pragma once\n#include "outstep/sync/ddp.h"\n',
    "src/outstep/sync/parts.h": "#pragma once\n",
    "src/outstep/sync/zero1.cc": '#include "outstep/sync/zero1.h"\n#include "outstep/sync/parts.h"\n',
    "src/outstep/train/tables.cc": '#include "outstep/sync/acco/acco.h"\n#include "outstep/sync/ddp.h"\n'
                                   '#include "outstep/sync/zero1.h"\n',
    "src/outstep/sync/acco/round.cc": '#include "outstep/sync/acco/buffers.h"\n',
    "src/outstep/apps/main.cc": '#include "outstep/train/trainer.h"\nint main() { std::cout << 1; exit(0); }\n',
}


class Architecture(unittest.TestCase):
    def broken(self, changes):
        """What check says of the good tree with these files put over it."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in (GOOD_TREE | changes).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
            return check.check(root)

    def assert_broken(self, name, text, expected):
        self.assertEqual(self.broken({"src/outstep/" + name: text}), [f"src/outstep/{name}:{expected}"])

    def test_a_good_tree_passes(self):
        self.assertEqual(self.broken({}), [])

    def test_an_include_upwards(self):
        self.assert_broken("io/files.cc", '\n#include "outstep/train/trainer.h"\n',
                           "2: io/ may not include train/, which lies above it")

    def test_an_include_on_the_same_floor(self):
        self.assert_broken("nn/gpt2.cc", '#include "outstep/data/batch.h"\n',
                           "1: nn/ may not include data/, which lies on its own floor")
        self.assert_broken("engine/petra.cc", '#  include "outstep/sync/ddp.h"\n',
                           "1: engine/ may not include sync/, which lies on its own floor")

    def test_tests_keep_to_the_floors_too(self):
        self.assert_broken("base/rng_test.cc", '#include "outstep/io/files.h"\n',
                           "1: base/ may not include io/, which lies above it")

    def test_a_method_that_includes_another(self):
        self.assert_broken("sync/zero1.cc", '#include "outstep/sync/zero1.h"\n#include "outstep/sync/ddp.h"\n',
                           "2: sync/zero1 may not include the method sync/ddp; move what they share out of it")
        self.assert_broken("sync/acco/x.cc", '#include "outstep/sync/ddp.h"\n',
                           "1: sync/acco may not include the method sync/ddp; move what they share out of it")
        self.assert_broken("sync/parts.h", '#pragma once\n#include "outstep/sync/acco/acco.h"\n',
                           "2: sync/parts may not include the method sync/acco; move what they share out of it")

    def test_a_room_that_is_not_in_the_design(self):
        self.assert_broken("utils/utils.h", "#pragma once\n", "1: is in no room of the design")
        self.assert_broken("train/x.cc", '#include "outstep/utils/utils.h"\n',
                           '1: includes "outstep/utils/utils.h", which is in no room')

    def test_torch_beside_the_one_door(self):
        self.assert_broken("nn/block.h", "#pragma once\n#include <torch/torch.h>\n",
                           '2: <torch/torch.h>: take LibTorch from "outstep/base/torch.h"')
        self.assert_broken("base/rng.h", "#pragma once\n#include <ATen/Generator.h>\n",
                           '2: <ATen/Generator.h>: take LibTorch from "outstep/base/torch.h"')

    def test_c10d_outside_the_sources_of_comm(self):
        header = "torch/csrc/distributed/c10d/Store.hpp"
        self.assert_broken("sync/ddp.cc", f'#include "outstep/sync/ddp.h"\n#include <{header}>\n',
                           f"2: <{header}>: c10d belongs in comm/*.cc")
        self.assert_broken("comm/group.h", f"#pragma once\n#include <{header}>\n",
                           f"2: <{header}>: c10d belongs in comm/*.cc")

    def test_reading_the_environment(self):
        self.assert_broken("data/places.cc", '\nauto x = getenv("HOME");\n', "2: only comm/launch reads the environment")
        self.assert_broken("apps/main.cc", 'auto x = std::getenv("HOME");\n',
                           "1: only comm/launch reads the environment")

    def test_printing(self):
        for statement in ("std::cout << 1;", "std::cerr << 1;", 'printf("x");', 'std::fprintf(stderr, "x");',
                          'fmt::print("x");', 'puts("x");'):
            self.assert_broken("train/trainer.cc", f"void f() {{ {statement} }}\n",
                               "1: only apps/ and tests print; use base/log.h")

    def test_ending_the_process(self):
        for statement in ("exit(1);", "std::exit(1);", "_exit(1);", "std::abort();"):
            self.assert_broken("train/trainer.cc", f"void f() {{ {statement} }}\n",
                               "1: only apps/ end the process; throw an error of base/errors.h")

    def test_style_of_includes(self):
        self.assert_broken("sync/x.h", "#include <vector>\n", "1: a header starts with #pragma once")
        self.assert_broken("sync/ddp.cc", '#include <vector>\n#include "outstep/sync/ddp.h"\n',
                           '1: "outstep/sync/ddp.h" should be the first include')
        self.assert_broken("sync/x.cc", '#include "ddp.h"\n', '1: "ddp.h": write the full path, "outstep/…"')

    def test_a_dependency_in_the_build(self):
        self.assertEqual(self.broken({"CMakeLists.txt": "outstep_room(base LIBRARIES x)\noutstep_room(nn DEPENDS io data)\n"}),
                         ["CMakeLists.txt:2: room nn may not depend on data"])


if __name__ == "__main__":
    unittest.main()
