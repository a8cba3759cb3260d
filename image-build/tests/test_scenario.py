"""What both runners of scenarios share."""

import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vm"))
from scenario import at_once  # noqa: E402

SECONDS_MOST = 30  # for what happens at once


def await_files(folder, names):
    """Ends as soon as there are all of them; an error if that takes too long."""
    deadline = time.monotonic() + SECONDS_MOST
    while not all((folder / name).exists() for name in names):
        if time.monotonic() > deadline:
            sys.exit(1)
        time.sleep(0.01)


def meet(folder, own, others):
    (folder / own).touch()
    await_files(folder, others)


def note(folder, own):
    """Notes a run from its beginning to its end, and fails if there is another at that time."""
    with (folder / "running").open("x"):
        pass
    (folder / "running").unlink()
    with (folder / "order").open("a") as order:
        order.write(own)


class AtOnce(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="microlambda-scenarios-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_two_run_at_the_same_time(self):
        tasks = {own: (meet, (self.folder, own, ["a", "b"])) for own in ["a", "b"]}
        self.assertEqual(at_once(2, tasks), [])

    def test_no_more_run_at_once_than_may_and_they_begin_in_their_order(self):
        self.assertEqual(at_once(1, {own: (note, (self.folder, own)) for own in "abcd"}), [])
        self.assertEqual((self.folder / "order").read_text(), "abcd")

    def test_one_that_fails_is_named_and_the_others_run(self):
        tasks = {"bad": (sys.exit, (1,)), "good": (meet, (self.folder, "good", []))}
        self.assertEqual(at_once(1, tasks), ["bad"])
        self.assertTrue((self.folder / "good").exists())


if __name__ == "__main__":
    unittest.main()
