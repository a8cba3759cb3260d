"""What both runners share: scenarios, which are data, and how their steps are judged."""

import multiprocessing
import re
import sys
import time
import tomllib
from multiprocessing import connection

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


def report(began, step, wrong, text, verbose, prefix=""):
    """Says how a step went, in lines that begin with a prefix."""
    lines = [f"  {'FAILED' if wrong else 'ok':6} {time.monotonic() - began:5.1f} s  {step['name']}"]
    if wrong or verbose or step.get("show"):
        head = [*wrong, "it printed:"] if wrong else []
        lines += ["      " + line for line in [*head, *text.splitlines()]]
    # At once, as others may be printing, too.
    print("\n".join(prefix + line for line in lines), flush=True)


def at_once(most, tasks):
    """Runs functions, named, each in a process of its own, at most so many at a time, begun in their order; the names of those that failed. If this
    process is ended, so are they, and it waits for them."""
    waiting, running, failed = list(tasks), {}, []
    fork = multiprocessing.get_context("fork")
    try:
        while waiting or running:
            while waiting and len(running) < most:
                function, arguments = tasks[waiting[0]]
                process = fork.Process(target=function, args=arguments)
                process.start()
                running[waiting.pop(0)] = process
            connection.wait([process.sentinel for process in running.values()])
            for name in [name for name, process in running.items() if not process.is_alive()]:
                if running.pop(name).exitcode:
                    failed.append(name)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()
    return failed
