# SPDX-License-Identifier: Apache-2.0
"""Finds tests: what meson knows, scripts in test/integration, lints, and fuzz targets."""

import fnmatch
import json
import os
import pathlib
import subprocess
import sys

from driver.model import Test


def matches(name, pattern):
    """A plain word matches anywhere in a name, a glob pattern the whole name; of several with commas between one has to."""
    if "," in pattern:
        return any(matches(name, one) for one in pattern.split(","))
    if any(c in pattern for c in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def absolute(command, folder):
    """Meson gives its own targets among the arguments relative to the build directory; a test runs elsewhere."""
    return [str(folder / word) if "/" in word and not word.startswith("/") and (folder / word).exists() else word
            for word in command]


def meson_tests(build, top):
    """Tests declared with test() in a meson.build; the suite is part of the name."""
    folder = top / build.folder
    listing = subprocess.run(["meson", "introspect", "--tests", str(folder)], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    tests = []
    for entry in json.loads(listing):
        suite = entry["suite"][0].split(":", 1)[-1] if entry["suite"] else "unit"
        tests.append(Test(
            name=f"{build.prefix}{suite}/{entry['name']}",
            command=absolute(entry["cmd"], folder),
            timeout=max(entry["timeout"], 1) * (3 if build.environment else 1),
            environment={**dict(build.environment), **entry["env"]},
            exclusive=not entry["is_parallel"],
        ))
    return tests


def script_environment(source, top):
    """What every integration test finds in its environment."""
    environment = {
        "PYTHONPATH": str(source / "test" / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FERRY_SOURCE": str(source),
        "FERRY_BUILD": str(top),
        "FERRY_PROGRAMS": str(top / "test" / "programs"),
        "FERRY_PICTURES": str(top / "check" / "pictures"),
    }
    if (top / "ferry").exists():
        environment["FERRY"] = str(top / "ferry")
    return environment


def listed_tests(path, environment):
    """A Python test file lists its tests itself: one JSON object a line."""
    done = subprocess.run([sys.executable, str(path), "--list"], env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        # A file that cannot even be read is a failure of its own, not an absence; no file has a test of this name.
        print(f"{path} does not list its tests:\n{done.stdout}", file=sys.stderr)
        return [{"name": "list", "timeout": 10, "tier": "check", "exclusive": False, "argument": "--unlisted"}]
    return [json.loads(line) for line in done.stdout.splitlines()]


def integration_tests(source, top, tiers):
    """test/integration/FILE.py gives integration/FILE.NAME for each of its tests, FILE.sh integration/FILE."""
    environment = script_environment(source, top)
    environment["FERRY_TIER"] = "soak" if "soak" in tiers else "check"
    tests = []
    for path in sorted((source / "test" / "integration").glob("*.py")):
        for entry in listed_tests(path, environment):
            if entry["tier"] in tiers:
                tests.append(Test(
                    name=f"integration/{path.stem}.{entry['name']}",
                    command=[sys.executable, str(path), entry.get("argument", entry["name"])],
                    timeout=entry["timeout"], environment=environment, exclusive=entry["exclusive"],
                    needs=entry.get("needs", []),
                ))
    for path in sorted((source / "test" / "integration").glob("*.sh")):
        tests.append(Test(f"integration/{path.stem}", ["bash", str(path)], 120, environment))
    return tests


# Name, command after the interpreter, and whether make check runs it too.
LINTS = [
    ("format", ["test/lint/format.py"], True),
    ("include-direction", ["test/lint/include_direction.py"], True),
    ("headers-alone", ["test/lint/headers_alone.py"], True),
    ("text", ["test/lint/text.py"], True),
    ("man-pages", ["test/lint/man_pages.py"], True),
    ("public-functions", ["test/lint/public_functions.py"], True),
    ("options", ["test/lint/options.py"], True),
    ("help", ["test/lint/help.py"], True),
    ("generated", ["test/lint/generated.py"], True),
    ("packages", ["test/lint/packages.py"], True),
    ("mutations", ["test/lint/mutations.py"], True),
    ("refusals", ["test/lint/refusals.py"], True),
    ("tidy-changed", ["test/lint/tidy.py", "--changed"], True),
    ("tidy", ["test/lint/tidy.py"], False),
    ("cppcheck", ["test/lint/cppcheck.py"], False),
]


def lint_tests(source, top, everything):
    """Lints look at the tree, not at a running system, so they need no namespaces."""
    environment = script_environment(source, top)
    tests = []
    for name, command, in_check in LINTS:
        if everything and name == "tidy-changed" or not everything and not in_check:
            continue
        tests.append(Test(f"lint/{name}", [sys.executable, str(source / command[0]), *command[1:]], 1800, environment,
                          isolated=False))
    return tests


def driver_tests(source, top):
    """The driver and the lints are tested too. They make worlds of their own."""
    environment = script_environment(source, top)
    return [Test(f"driver/{path.stem}", [sys.executable, str(path)], 300, environment, isolated=False)
            for path in sorted((source / "test" / "driver").glob("*.py"))]


def fuzz_tests(source, top, seconds):
    """Each target runs over its corpus for some seconds; what it finds new stays out of the source tree."""
    tests = []
    for path in sorted((top / "fuzz" / "fuzz").glob("fuzz_*")):
        if not path.is_file() or not os.access(path, os.X_OK):
            continue
        name = path.name[len("fuzz_"):]
        found = top / "check" / "fuzz" / name
        found.mkdir(parents=True, exist_ok=True)
        seeds = source / "fuzz" / "corpus" / name
        command = [str(path), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048",
                   "-print_final_stats=0", f"-artifact_prefix={found}/crash-", str(found)]
        tests.append(Test(f"fuzz/{name}", command + ([str(seeds)] if seeds.is_dir() else []), seconds + 60,
                          isolated=False))
    return tests


def source_files(source, *suffixes):
    """Files of the tree that git knows or would know, relative to it."""
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=source,
                          check=True, stdout=subprocess.PIPE, text=True)
    names = sorted(set(done.stdout.split("\0")) - {""})
    return [pathlib.Path(n) for n in names if n.endswith(suffixes) and (source / n).is_file()]
