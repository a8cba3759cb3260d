"""What both runners share: scenarios, which are data, and how their steps are judged."""

import re
import sys
import time
import tomllib

PAUSE_S = 0.5  # between two tries


class Failure(Exception):
    """What did not hold, for people."""


def load(path, keys):
    """A scenario; a step may have the given keys."""
    scenario = tomllib.loads(path.read_text())
    for step in scenario["step"]:
        if unknown := step.keys() - keys:
            sys.exit(f"{path}: a step has the unknown key {unknown.pop()!r}; known are {', '.join(sorted(keys))}")
    return scenario


def judge(step, status, text):
    """What of a step's expectations does not hold."""
    wrong = []
    if status != step.get("status", 0):
        wrong.append(f"exit status {status}")
    wrong += [f"not printed: {e}" for e in step.get("expect", []) if not re.search(e, text, re.MULTILINE)]
    wrong += [f"printed: {e}" for e in step.get("refuse", []) if re.search(e, text, re.MULTILINE)]
    return wrong


def take(step, attempt, slowness):
    """Makes attempts, which give a status and a text, until the step holds or its time is up; what is wrong and the last text."""
    deadline = time.monotonic() + step.get("within-s", 0) * slowness
    while True:
        status, text = attempt()
        wrong = judge(step, status, text)
        if not wrong or time.monotonic() >= deadline:
            return wrong, text
        time.sleep(PAUSE_S)


def report(began, step, wrong, text, verbose):
    """Says how a step went."""
    print(f"  {'FAILED' if wrong else 'ok':6} {time.monotonic() - began:5.1f} s  {step['name']}", flush=True)
    if wrong or verbose or step.get("show"):
        head = [*wrong, "it printed:"] if wrong else []
        print("\n".join("      " + line for line in [*head, *text.splitlines()]), flush=True)
