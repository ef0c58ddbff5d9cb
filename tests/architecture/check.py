#!/usr/bin/env python3
"""Holds src/outstep against the design's rules on who may include, read and print what.

    check.py [ROOT]     prints one line per broken rule, path:line: what; exit code 1 if there are any

The rules:
  rooms      Includes go down only, and rooms on one floor do not include one another. In engine/, sync/ and ensemble/
             nothing includes a method but the method's own files; a method is what train/tables.cc includes. (Tests and
             their testing.h may compare methods.)
  build      CMakeLists.txt gives no room a dependency that the floors forbid.
  style      Includes of our own are full paths; headers start with #pragma once; a source includes its header first.
  torch      LibTorch comes in by base/torch.h (base/*.cc and comm/ may take more of it), c10d in comm/*.cc alone.
  machine    Only comm/launch reads the environment; only apps/ and tests print or exit.
"""

import pathlib
import re
import sys

FLOORS = [  # from the top down
    ["apps"],
    ["train"],
    ["engine", "sync", "ensemble"],
    ["method"],
    ["nn", "optim", "data", "comm"],
    ["io"],
    ["base"],
]
FLOOR_OF = {room: len(FLOORS) - number for number, floor in enumerate(FLOORS) for room in floor}
METHOD_ROOMS = {"engine", "sync", "ensemble"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
C10D = re.compile(r"^torch/csrc/distributed/")
ENVIRONMENT = re.compile(r"\b(secure_)?getenv\s*\(")
PRINTING = re.compile(r"\bstd\s*::\s*(cout|cerr|clog|print(ln)?)\b|\bfmt\s*::\s*print(ln)?\b"
                      r"|(?<![\w.>])(v?f?printf|f?puts|putchar|perror)\s*\(")
EXITING = re.compile(r"(?<![\w.>])(_exit|exit|quick_exit)\s*\(|\bstd\s*::\s*(abort|terminate)\s*\(")


def without_comments(text):
    """The source with comments and the insides of literals blanked; lines stay where they are."""

    def blank(match):
        token = match.group(0)
        if token.startswith("/"):
            return re.sub(r"[^\n]", " ", token)
        return token[0] + re.sub(r"[^\n]", " ", token[1:-1]) + token[-1]

    token = r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\''
    return re.sub(token, blank, text, flags=re.S)


def methods_of(source):
    """The methods, {"sync/ddp", …}: the headers of method rooms that train/tables.cc includes, without suffix."""
    table = source / "train" / "tables.cc"
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    targets = [match.group(2).split("/") for line in lines if (match := INCLUDE.match(line))]
    return {unit_of(target[1:]) for target in targets if target[0] == "outstep" and target[1] in METHOD_ROOMS}


def unit_of(path):
    """What a file is part of, by its parts below src/outstep: its folder in the room, else its name."""
    return "/".join(path[:2]) if len(path) > 2 else "/".join(path).rpartition(".")[0]


def include_errors(path, is_test, target, methods):
    """What is wrong with a file (its parts below src/outstep) that includes outstep/TARGET."""
    room, other = path[0], target[0]
    if other not in FLOOR_OF:
        yield f'includes "outstep/{"/".join(target)}", which is in no room'
    elif room != other and FLOOR_OF[other] >= FLOOR_OF[room]:
        where = "on its own floor" if FLOOR_OF[other] == FLOOR_OF[room] else "above it"
        yield f"{room}/ may not include {other}/, which lies {where}"
    elif room == other and not is_test and unit_of(target) in methods and unit_of(path) != unit_of(target):
        yield f"{unit_of(path)} may not include the method {unit_of(target)}; move what they share out of it"


def torch_error(path, target):
    room, name = path[0], "/".join(path)
    if C10D.match(target):
        return None if room == "comm" and name.endswith(".cc") else f"<{target}>: c10d belongs in comm/*.cc"
    may_take_more = room == "comm" or name == "base/torch.h" or (room == "base" and name.endswith(".cc"))
    if TORCH.match(target) and not may_take_more:
        return f'<{target}>: take LibTorch from "outstep/base/torch.h"'
    return None


def check_file(source, path, methods):
    parts = path.relative_to(source).parts
    is_test = path.stem.endswith(("_test", "testing"))
    text = path.read_text(encoding="utf-8")
    errors = []
    includes = []
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, target = match.groups()
        includes.append(target)
        if target.startswith("outstep/"):
            errors += [(number, error) for error in include_errors(parts, is_test, target.split("/")[1:], methods)]
        elif quote == '"':
            errors.append((number, f'"{target}": write the full path, "outstep/…"'))
        elif error := torch_error(parts, target):
            errors.append((number, error))

    if path.suffix == ".h" and not text.lstrip().startswith("#pragma once"):
        errors.append((1, "a header starts with #pragma once"))
    own = "outstep/" + "/".join(parts)[: -len(path.suffix)].removesuffix("_test") + ".h"
    if path.suffix == ".cc" and (source.parent / own).exists() and includes[:1] != [own]:
        errors.append((1, f'"{own}" should be the first include'))

    for number, line in enumerate(without_comments(text).splitlines(), 1):
        if ENVIRONMENT.search(line) and not (parts[0] == "comm" and path.stem in ("launch", "launch_test")):
            errors.append((number, "only comm/launch reads the environment"))
        if parts[0] == "apps" or is_test:
            continue
        if PRINTING.search(line):
            errors.append((number, "only apps/ and tests print; use base/log.h"))
        if EXITING.search(line):
            errors.append((number, "only apps/ end the process; throw an error of base/errors.h"))
    return errors


def check_build(root):
    """Rooms of CMakeLists.txt: outstep_room(NAME DEPENDS room… LIBRARIES …)."""
    path = root / "CMakeLists.txt"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = re.match(r"\s*outstep_room\((\w+)(?:\s+DEPENDS((?:\s+[a-z]\w*)+))?", line)
        if not match:
            continue
        room, depends = match.group(1), (match.group(2) or "").split()
        for other in depends:
            if FLOOR_OF.get(other, 99) >= FLOOR_OF.get(room, 0):
                yield number, f"room {room} may not depend on {other}"


def check(root):
    """All broken rules below ROOT, as 'path:line: what'."""
    source = root / "src" / "outstep"
    lines = [f"CMakeLists.txt:{number}: {error}" for number, error in check_build(root)]
    methods = methods_of(source)
    for path in sorted(source.rglob("*")):
        if path.suffix not in (".h", ".cc"):
            continue
        where = path.relative_to(root)
        if path.relative_to(source).parts[0] not in FLOOR_OF:
            lines.append(f"{where}:1: is in no room of the design")
            continue
        lines += [f"{where}:{number}: {error}" for number, error in check_file(source, path, methods)]
    return lines


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    broken = check(root)
    print("\n".join(broken) if broken else "architecture: all rules hold")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
