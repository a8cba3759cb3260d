"""The scripts that make the image, with programs in their way that say what they were called with."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Scripts(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="microlambda-scripts-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.calls = self.folder / "calls"
        self.calls.touch()

    def put(self, path, script):
        """A program that notes its call, and then does as the script says."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/bash\necho "${{0##*/}} $*" >>{self.calls}\n{script}\n')
        path.chmod(0o755)

    def copy(self, *names):
        """Files of the project, with what they all read, into a tree in which the rest can be put."""
        for name in ["Cargo.toml", "scripts/common.sh", "image-build/common.sh", "image-build/recipe/settings", *names]:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)

    def run_script(self, script, *arguments):
        """Runs a script with the programs of the folder `bin` before the system's; its status, and what it printed."""
        environment = dict(os.environ, PATH=f"{self.folder}/bin:{os.environ['PATH']}", CARGO_TARGET_DIR=str(self.folder / "target"))
        for name in ["SCENARIO", "FRESH", "URL", "REVISION"]:
            environment.pop(name, None)
        environment |= {"XDG_CACHE_HOME": str(self.folder / "cache"), "CARGO_HOME": str(self.folder / "cargo")}
        ran = subprocess.run([script, *arguments], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
        return ran.returncode, ran.stdout + ran.stderr

    def test_on_an_arm64_computer_the_image_has_the_packages_of_its_own_tools(self):
        self.copy("scripts/package", "image-build/image")
        self.put("bin/dpkg", "echo arm64")
        self.put("bin/cargo", "")
        self.put("bin/cargo-deb", "")
        self.put("scripts/setup", "")
        self.put("image-build/cross-build", "")
        # Ends it where packages are to be written.
        self.put("image-build/tools-root", '[[ $* != *" deb "* ]]')
        status, text = self.run_script(self.folder / "image-build/image")
        self.assertEqual(status, 1, text)
        calls = self.calls.read_text()
        self.assertIn("\ncross-build \n", calls)
        self.assertRegex(calls, r"\ntools-root run env .*cargo-deb deb --target aarch64-unknown-linux-gnu .*--package camera-agent")
        self.assertNotIn("\ncargo build", calls)

    def test_packages_that_lintian_calls_wrong_are_a_failure(self):
        self.copy("scripts/package")
        for name in ["bin/cargo", "bin/cargo-deb", "scripts/setup", "image-build/cross-build"]:
            self.put(name, "")
        self.put("image-build/tools-root", f'[[ $* != *" deb "* ]] || touch {self.folder}/target/debian/microlambda-{{edge,node}}_0.1.0-1_arm64.deb')
        for code in [0, 2]:
            self.put("bin/lintian", f"exit {code}")
            status, text = self.run_script(self.folder / "scripts/package", "image")
            self.assertEqual(status, code, text)
            self.assertRegex(self.calls.read_text(), r"\nlintian .*--fail-on error .*microlambda-edge_0.1.0-1_arm64.deb \S*microlambda-node_0.1.0-1_arm64.deb\n$")

    def test_an_image_has_our_version_and_the_day_of_its_newest_package(self):
        root, release = self.folder / "root", self.folder / "root/usr/lib/os-release"
        for folder in ["usr/lib", "var/lib/dpkg"]:
            (root / folder).mkdir(parents=True)
        (root / "var/lib/dpkg/status").write_text("Package: bash\nVersion: 5.2-1\n\nPackage: microlambda-edge-agent\nVersion: 0.1.0-1\n")
        release.write_text("ID=debian\n")
        step = ROOT / "image-build/recipe/steps/15-release"
        status, text = self.run_script(step, root)
        self.assertEqual(status, 1, text)
        self.assertIn("does not say of when the packages are", text)
        (root / "newest-package-unix-s").write_text("1795542068\n")
        status, text = self.run_script(step, root)
        self.assertEqual(status, 0, text)
        self.assertEqual(release.read_text(), "ID=debian\nIMAGE_ID=microlambda\nIMAGE_VERSION=0.1.0-20261124\n")
        self.assertFalse((root / "newest-package-unix-s").exists())

    def test_where_users_cannot_have_namespaces_the_reason_and_the_remedy_are_named(self):
        said = "unshare: write failed /proc/self/uid_map: Operation not permitted"
        common = {
            "id": "case $1 in -u) echo 1000 ;; *) echo tester ;; esac",
            "unshare": f'if [ "$*" = --help ]; then echo " --map-auto"; else echo "{said}" >&2; exit 1; fi',
            "newuidmap": "",
            "grep": 'case $* in */etc/sub*) ;; *) exec /bin/grep "$@" ;; esac',
            "cat": 'case $1 in /proc/*) false ;; *) exec /bin/cat "$@" ;; esac',
        }
        for lacks, remedy in [
            ({"unshare": f'echo "{said}"; exit 1'}, "util-linux 2.38 or newer is needed"),
            ({"grep": 'case $* in */etc/sub*) false ;; *) exec /bin/grep "$@" ;; esac'}, "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 tester"),
            ({"cat": 'case $1 in *apparmor*) echo 1 ;; *) exec /bin/cat "$@" ;; esac'}, "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
            ({}, "In a container"),
        ]:
            with self.subTest(remedy):
                for name, script in (common | lacks).items():
                    self.put(f"bin/{name}", script)
                status, text = self.run_script(ROOT / "image-build/tools-root")
                self.assertEqual(status, 1, text)
                for part in [said, remedy, "Or run it as root"]:
                    self.assertIn(part, text)

    def test_a_check_fails_for_a_mistake_of_ours_and_for_nothing_else(self):
        self.copy("image-build/check")
        self.put("bin/dpkg", "echo amd64")
        self.put("scripts/setup", "")
        self.put("image-build/image-test", 'echo "boots $SCENARIO"')
        self.put("image-build/image", "echo 'unshare: Operation not permitted'; exit 1")
        status, text = self.run_script(self.folder / "image-build/check", "60")
        self.assertEqual(status, 0, text)
        self.assertIn("SKIPPED: the boot of the image: it could not be built here: unshare: Operation", text)
        # Where its base could be made, the computer is not to blame.
        self.put("cache/microlambda/image/root-trixie-0123.tar", "")
        apt = "E: Failed to fetch http://an.example/dists/trixie/InRelease  Could not resolve 'an.example'"
        cargo = "warning: spurious network error (1 try remaining): [7] Could not connect to server"
        for name, script, code, said in [
            ("image-build/image", "", 0, "boots ready"),
            ("image-build/image", "echo 'error[E0425]: cannot find value'; exit 1", 1, "E0425"),
            ("image-build/image", "echo 'E: Unable to locate package no-such-package'; exit 1", 1, "no-such-package"),
            ("image-build/image", f'echo "{apt}"; echo "image: the base could not be made"; exit 1', 0, "SKIPPED: the boot of the image: it could not be built here: E: Failed"),
            ("image-build/image", f'echo "{cargo}"; exit 1', 0, "SKIPPED"),
            ("image-build/image", "echo 'binfmt: line 3: /proc/sys/fs/binfmt_misc/register: Permission denied'; exit 1", 0, "SKIPPED"),
            ("image-build/image", "exit 124", 0, "SKIPPED: the boot of the image: it was not built in 52 minutes"),
            ("scripts/setup", "echo 'E: Unable to locate package zstd'; exit 1", 0, "SKIPPED: the boot of the image: what builds it cannot be installed here: E: Unable"),
        ]:
            with self.subTest(script):
                self.put(name, script)
                status, text = self.run_script(self.folder / "image-build/check", "60")
                self.assertEqual(status, code, text)
                self.assertIn(said, text)

    @unittest.skipUnless(shutil.which("git"), "git is not installed")
    def test_an_image_of_other_sources_is_built_anew_before_it_is_tested(self):
        self.copy("image-build/image", "image-build/image-test", "image-build/scenarios/ready.toml", "image-build/scenarios/boot.toml")
        self.put("bin/dpkg", "echo amd64")
        for name in ["scripts/setup", "scripts/package", "image-build/root"]:
            self.put(name, "")
        self.put("image-build/disk-image", 'mkdir -p "${2%/*}"; echo an image >"$2"')
        self.put("image-build/tools-root", 'if [ "$2" = zstd ]; then truncate -s 1M "${@: -1}"; fi')
        for arguments in [["init", "--quiet"], ["add", "Cargo.toml", "image-build", "scripts"]]:
            subprocess.run(["git", "-C", self.folder, *arguments], check=True)

        def is_built(expected_status=0):
            self.calls.write_text("\n")
            status, text = self.run_script(self.folder / "image-build/image-test")
            self.assertEqual(status, expected_status, text)
            self.assertRegex(text, r"testing .*/target/image/microlambda-[0-9.]+-arm64\.img, built 2")
            self.assertRegex(text, r"image, compressed: [0-9.]+ MB of 450 MB at most; packages:.* time: 0 min")
            self.assertRegex(self.calls.read_text(), r"(?m)\ntools-root run .*image-run --image .*/boot\.toml$")
            return "\ndisk-image " in self.calls.read_text()

        def change(name):
            with (self.folder / name).open("a") as file:
                file.write("\n# changed\n")

        self.assertTrue(is_built())
        self.assertFalse(is_built())
        change("image-build/scenarios/boot.toml")
        self.assertFalse(is_built(), "a scenario is in no image")
        change("image-build/recipe/settings")
        self.assertTrue(is_built())
        (image,) = (self.folder / "target/image").glob("*.zst")
        os.truncate(image, 450_000_001)
        self.assertFalse(is_built(expected_status=1), "too large")


if __name__ == "__main__":
    unittest.main()
