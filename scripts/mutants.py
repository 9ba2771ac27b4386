#!/usr/bin/env python3
"""How much the tests catch: breaks the code in one place, runs the tests, and puts it back.

    python3 scripts/mutants.py formulas --count 60
    python3 scripts/mutants.py composed --count 50
    python3 scripts/mutants.py loops --count 40

`formulas` are those that are compiled for GPU and CPU; they stand inside of a macro, where
cargo-mutants cannot look, so that this script breaks them itself. `composed` (the reference in
tensor operations) and `loops` (how the CPU walks and adds up) are broken by cargo-mutants
(`cargo install cargo-mutants`). Both draw by a fixed seed, so that a run can be repeated.

Prints each mutant with what became of it: caught, survived, or does not build. The work is done in a
copy of the repository.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = "crates/policy-loss-kernels/src"
FORMULAS = f"{KERNELS}/formula"
KERNEL_TESTS = ["cargo", "test", "--quiet", "-p", "policy-loss-kernels", "--features", "cpu"]
MATRIX_TESTS = ["cargo", "test", "--quiet", "-p", "policy-loss-tests", "--test", "matrix", "flex"]

# Places in a formula, and what they become.
BREAKS = [
    (r"\bless::<E>", "greater::<E>"),
    (r"\bgreater::<E>", "less::<E>"),
    (r"\bat_least::<E>", "at_most::<E>"),
    (r"\bat_most::<E>", "at_least::<E>"),
    (r"\bboth::<E>", "either::<E>"),
    (r"\beither::<E>", "both::<E>"),
    (r"\bkeep::<E>", "drop_where::<E>"),
    (r"\bdrop_where::<E>", "keep::<E>"),
    (r"\bmean::<E>\((totals\.\w+), totals\.tokens\)", r"whole::<E>(\1)"),
    (r"(?<=[\w)]) \+ (?=[\w(])", " - "),
    (r"(?<=[\w)]) - (?=[\w(])", " + "),
    (r"(?<=[\w)]) \* (?=[\w(])", " + "),
    (r"(?<=[\w)]) / (?=[\w(])", " * "),
    (r" \+= ", " = "),
    (r"!(?=positive|inside)", ""),
    (r"comptime!\((?!E)(blueprint\.[\w()]+)\)", r"comptime!(!\1)"),
    (r", (0\.5|4\.0|80\.0|1\.0)\)", ", 2.0)"),
    (r"choose::<E>\((\w+), (\w+), (\w+)\)", r"choose::<E>(\1, \3, \2)"),
]


def formula_mutants():
    """Every place that can be broken: file, line, column, what stands there, what it becomes."""
    for path in sorted((ROOT / FORMULAS).glob("*.rs")):
        if path.name in ("mod.rs", "row_sums.rs"):
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if line.lstrip().startswith("//") or "fn " in line:
                continue
            for pattern, replacement in BREAKS:
                for match in re.finditer(pattern, line):
                    broken = line[: match.start()] + match.expand(replacement) + line[match.end() :]
                    yield str(path.relative_to(ROOT)), number, line, broken


def verdict(tests, copy, timeout):
    build = [*tests[:2], "--no-run", *tests[2:]]
    if subprocess.run(build, cwd=copy, capture_output=True).returncode != 0:
        return "does not build"
    try:
        passed = subprocess.run(tests, cwd=copy, capture_output=True, timeout=timeout).returncode == 0
    except subprocess.TimeoutExpired:
        return "caught"
    return "survived" if passed else "caught"


def break_formulas(arguments):
    mutants = list(formula_mutants())
    chosen = random.Random(arguments.seed).sample(mutants, min(arguments.count, len(mutants)))
    print(f"{len(mutants)} places, {len(chosen)} drawn", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns("target", ".git", "mutants.out*")
        shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
        for name, number, line, broken in sorted(chosen):
            path = copy / name
            whole = path.read_text()
            lines = whole.split("\n")
            lines[number - 1] = broken
            path.write_text("\n".join(lines))
            result = verdict(KERNEL_TESTS, copy, arguments.timeout)
            path.write_text(whole)
            results.append(result)
            print(f"{result:14} {Path(name).name}:{number}: {line.strip()} -> {broken.strip()}", flush=True)
    return results


def break_by_cargo_mutants(arguments):
    if arguments.what == "composed":
        files = ["crates/policy-loss/src/composed/*.rs", "crates/policy-loss/src/valid.rs"]
        tests = ["--test-package", "policy-loss-tests", "--cargo-test-arg=--test=matrix"]
    else:
        files = [f"{KERNELS}/cpu/{name}.rs" for name in ("visit", "drive", "stage", "exp")]
        files += [f"{KERNELS}/{name}.rs" for name in ("sums", "metrics", "blueprint")]
        tests = ["--package", "policy-loss-kernels", "--features", "cpu"]
    select = [argument for name in files for argument in ("--file", name)]
    listing = subprocess.run(
        ["cargo", "mutants", "--list", "--json", *select],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    names = [mutant["name"] for mutant in json.loads(listing)]
    chosen = random.Random(arguments.seed).sample(names, min(arguments.count, len(names)))
    print(f"{len(names)} mutants, {len(chosen)} drawn", flush=True)
    pattern = "|".join(f"^{re.escape(name)}$" for name in chosen)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["cargo", "mutants", *select, *tests, "--re", pattern, "--output", folder,
             "--baseline=skip", "--timeout", str(arguments.timeout)],
            cwd=ROOT,
        )
        outcomes = json.loads((Path(folder) / "mutants.out" / "outcomes.json").read_text())
    words = {"CaughtMutant": "caught", "Timeout": "caught", "MissedMutant": "survived"}
    return [words.get(outcome["summary"], "does not build") for outcome in outcomes["outcomes"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["formulas", "composed", "loops"])
    parser.add_argument("--count", type=int, default=50, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--timeout", type=int, default=300, help="seconds for the tests of a mutant")
    arguments = parser.parse_args()
    what = break_formulas if arguments.what == "formulas" else break_by_cargo_mutants
    results = what(arguments)
    built = [result for result in results if result != "does not build"]
    caught = built.count("caught")
    print(f"{caught} of {len(built)} caught, {len(results) - len(built)} do not build")
    sys.exit(0 if built and caught >= 0.95 * len(built) else 1)


if __name__ == "__main__":
    main()
