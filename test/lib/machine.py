# SPDX-License-Identifier: Apache-2.0
"""What a result has to say about the machine it came from."""

import os
import pathlib
import platform
import re


def first(path, pattern):
    """First match of a pattern in a file, or an empty string."""
    try:
        match = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return match.group(1).strip() if match else ""


def describe():
    """The object that doc/outputs.md calls machine."""
    return {
        # What follows the number is a builder's own name for it.
        "kernel": re.match(r"[\d.]*", platform.release()).group(),
        "cpu": first("/proc/cpuinfo", r"^model name\s*:\s*(.*)$") or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": int(first("/proc/meminfo", r"^MemTotal:\s*(\d+)") or 0) * 1024,
        "distribution": first("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
    }
