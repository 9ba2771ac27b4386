#!/usr/bin/env python3
"""How much the tests catch: breaks the code in one place, runs the tests, and puts it back.

    python3 scripts/mutants.py formulas --count 60
    python3 scripts/mutants.py loops --count 40
    python3 scripts/mutants.py composed --count 50

`formulas` are those that are compiled for GPU and CPU; they stand inside of a macro, where
cargo-mutants cannot look, so that this script finds the places itself. Those in `composed` (the
reference in tensor operations) and in `loops` (how the CPU walks and adds up) are listed by
cargo-mutants (`cargo install cargo-mutants --locked`). All are drawn by a fixed seed, so that a run
can be repeated.

Prints each mutant with what became of it: caught, survived, or does not build. The work is done in a
copy of the repository below `target`, which shares what is built of other packages.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIES = ROOT / "target" / "mutants"
KERNELS = "crates/policy-loss-kernels/src"
FORMULAS = f"{KERNELS}/formula"
KERNEL_TESTS = ["cargo", "test", "--quiet", "-p", "policy-loss-kernels", "--features", "cpu"]
# The quickest first: the first that fails has caught a mutant.
OF_KERNELS = [
    [*KERNEL_TESTS, "--test", "cpu", "--", "--skip", "shapes"],
    [*KERNEL_TESTS, "--test", "cpu", "shapes"],
    [*KERNEL_TESTS, "--lib"],
]
MATRIX = ["cargo", "test", "--quiet", "-p", "policy-loss-tests", "--test", "matrix"]
OF_LIBRARY = [[*MATRIX, "flex::autodiff::objectives"], [*MATRIX, "flex"]]
TESTS = {"formulas": OF_KERNELS, "loops": OF_KERNELS + OF_LIBRARY, "composed": OF_LIBRARY}
FILES = {
    "composed": [
        "crates/policy-loss/src/composed/*.rs",
        "crates/policy-loss/src/order.rs",
        "crates/policy-loss/src/valid.rs",
    ],
    "loops": [
        *(f"{KERNELS}/cpu/{name}.rs" for name in ("visit", "specialization", "drive", "stage", "exp")),
        *(f"{KERNELS}/{name}.rs" for name in ("sums", "blueprint")),
    ],
}

# Places in a formula, and what they become.
BREAKS = [
    (r"\bless::<E>", "greater::<E>"),
    (r"\bgreater::<E>", "less::<E>"),
    (r"\bat_least::<E>", "at_most::<E>"),
    (r"\bat_most::<E>", "at_least::<E>"),
    (r"\braised::<E>", "lowered::<E>"),
    (r"\blowered::<E>", "raised::<E>"),
    (r"\bboth::<E>", "either::<E>"),
    (r"\beither::<E>", "both::<E>"),
    (r"\bkeep::<E>", "drop_where::<E>"),
    (r"\bdrop_where::<E>", "keep::<E>"),
    (r"\bmean::<E>\((totals\.\w+), totals\.tokens\)", r"whole::<E>(\1)"),
    # A probe is only asked whether it is finite.
    (r"(?<=[\w)])(?<!probe) \+ (?=[\w(])", " - "),
    (r"(?<=[\w)]) - (?=[\w(])", " + "),
    (r"(?<=[\w)]) \* (?=[\w(])", " + "),
    (r"(?<=[\w)]) / (?=[\w(])", " * "),
    # Valid tokens are counted before on a CPU.
    (r"(?<!tokens) \+= ", " = "),
    (r"!(?=positive|inside)", ""),
    # `double` asks for another exponential on a device; on a CPU it has no effect.
    (r"comptime!\((?!E)(blueprint\.(?!double)[\w.()]+)\)", r"comptime!(!\1)"),
    (r", (0\.5|4\.0|80\.0|1\.0)\)", ", 2.0)"),
    (r"choose::<E>\((\w+), (\w+), (\w+)\)", r"choose::<E>(\1, \3, \2)"),
]


def formula_mutants():
    """Every place that can be broken: its file, a description, and the file when it is broken."""
    for path in sorted((ROOT / FORMULAS).glob("*.rs")):
        if path.name in ("mod.rs", "row_sums.rs"):
            continue
        name = str(path.relative_to(ROOT))
        lines = path.read_text().split("\n")
        for index, line in enumerate(lines):
            if line.lstrip().startswith("//") or "fn " in line:
                continue
            for pattern, replacement in BREAKS:
                for match in re.finditer(pattern, line):
                    broken = line[: match.start()] + match.expand(replacement) + line[match.end() :]
                    what = f"{path.name}:{index + 1}: {line.strip()} -> {broken.strip()}"
                    yield name, what, "\n".join([*lines[:index], broken, *lines[index + 1 :]])


def listed_mutants(files):
    """The same, as cargo-mutants lists them."""
    select = [argument for name in files for argument in ("--file", name)]
    listing = subprocess.run(
        ["cargo", "mutants", "--list", "--json", *select],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    for mutant in json.loads(listing):
        # Which loop is taken has no effect in a copy that has but one.
        if "Specialization" in mutant["name"]:
            continue
        text = (ROOT / mutant["file"]).read_text()
        starts = [0]
        for line in text.split("\n"):
            starts.append(starts[-1] + len(line) + 1)
        first, last = (
            starts[place["line"] - 1] + place["column"] - 1
            for place in (mutant["span"]["start"], mutant["span"]["end"])
        )
        yield mutant["file"], mutant["name"], text[:first] + mutant["replacement"] + text[last:]


def simplified(text):
    """The CPU's loops without those of certain surrogates: all take the one that looks everything up.

    It is compiled from the same formulas, and builds ten times faster than one for each.
    """
    return re.sub(r"(implement_arithmetic!\()[ \d]+", r"\1", text)


def copy_repository(what):
    copy = COPIES / what
    shutil.rmtree(copy, ignore_errors=True)
    ignored = shutil.ignore_patterns("target", ".git", "mutants.out*")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    path = copy / KERNELS / "cpu" / "specialization.rs"
    path.write_text(simplified(path.read_text()))
    return copy


def verdict(what, copy, timeout):
    environment = {"CARGO_TARGET_DIR": str(ROOT / "target"), **os.environ}
    run = {"cwd": copy, "capture_output": True, "env": environment}
    for tests in TESTS[what]:
        build = [*tests[:2], "--no-run", *(tests[2 : tests.index("--")] if "--" in tests else tests[2:])]
        if subprocess.run(build, **run).returncode != 0:
            return "does not build"
        # In a group of its own: what cargo started would run on without an end after it.
        with subprocess.Popen(tests, cwd=copy, env=environment, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            try:
                if running.wait(timeout) != 0:
                    return "caught"
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                return "caught"
    return "survived"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(TESTS))
    parser.add_argument("--count", type=int, default=50, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--timeout", type=int, default=900, help="seconds for the tests of a mutant")
    arguments = parser.parse_args()
    places = formula_mutants() if arguments.what == "formulas" else listed_mutants(FILES[arguments.what])
    places = list(places)
    chosen = random.Random(arguments.seed).sample(places, min(arguments.count, len(places)))
    print(f"{len(places)} places, {len(chosen)} drawn", flush=True)
    copy = copy_repository(arguments.what)
    if verdict(arguments.what, copy, arguments.timeout) != "survived":
        sys.exit("before anything is broken the tests fail, or take longer than --timeout")
    results = []
    for name, description, broken in sorted(chosen):
        path = copy / name
        whole = path.read_text()
        path.write_text(simplified(broken))
        results.append(verdict(arguments.what, copy, arguments.timeout))
        path.write_text(whole)
        print(f"{results[-1]:14} {description}", flush=True)
    built = [result for result in results if result != "does not build"]
    caught = built.count("caught")
    print(f"{caught} of {len(built)} caught, {len(results) - len(built)} do not build")
    sys.exit(0 if built and caught >= 0.95 * len(built) else 1)


if __name__ == "__main__":
    main()
